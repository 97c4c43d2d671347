"""The hinge loss of adversarial training (Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17). Scores are [N]."""

from torch import Tensor
from torch.nn.functional import relu


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z))): nothing more to gain once real is above 1 and fake below -1."""
    return relu(1 - real_scores).mean() + relu(1 + fake_scores).mean()


def generator_loss(fake_scores: Tensor) -> Tensor:
    """-mean D(G(z)): the generator wants its pictures scored high."""
    return -fake_scores.mean()

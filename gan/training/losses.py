"""The losses: hinge for the adversarial epochs, reconstruction for the start epochs.

Hinge: Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17; scores are [N]. Reconstruction: the variational autoencoder of
Kingma & Welling 2014, with a weight on its divergence (Higgins et al. 2017).
"""

from torch import Tensor
from torch.nn.functional import relu


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z))): zero once real scores exceed 1 and fake ones are below -1."""
    return relu(1 - real_scores).mean() + relu(1 + fake_scores).mean()


def generator_loss(fake_scores: Tensor) -> Tensor:
    """-mean D(G(z)): lower as the discriminator scores generated pictures higher."""
    return -fake_scores.mean()


def reconstruction_loss(made: Tensor, real: Tensor, mean: Tensor, log_variance: Tensor, kl_weight: float) -> Tensor:
    """Mean squared error of pictures [N, 3, R, R] plus weight x KL(N(mean, variance) || N(0, 1)), summed over Z, mean over N."""
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
    return (made - real).square().mean() + kl_weight * divergence

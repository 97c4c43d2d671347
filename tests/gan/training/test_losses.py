import pytest
import torch

from gan.training.losses import discriminator_loss, generator_loss, reconstruction_loss


def test_the_hinge_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert discriminator_loss(real, fake).item() == pytest.approx((0 + 0.5) / 2 + (0 + 1) / 2)
    assert generator_loss(fake).item() == pytest.approx(1.5)


def test_the_reconstruction_loss_by_hand() -> None:
    real, made = torch.zeros(2, 3, 1, 1), torch.full((2, 3, 1, 1), 2.0)
    nothing = torch.zeros(2, 1)
    assert reconstruction_loss(made, real, nothing, nothing, kl_weight=1.0).item() == pytest.approx(4)
    # KL(N(1, 1) || N(0, 1)) = 1/2 in each of the two numbers
    mean = torch.ones(2, 2)
    assert reconstruction_loss(real, real, mean, torch.zeros(2, 2), kl_weight=0.1).item() == pytest.approx(0.1)

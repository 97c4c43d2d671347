import pytest
import torch
from torch import nn

from gan.training.networks import Discriminator, Encoder, Generator, channels_by_side, num_parameters


@pytest.mark.parametrize(("resolution", "expected"), [(32, {4: 32, 8: 16, 16: 8}), (64, {4: 64, 8: 32, 16: 16, 32: 8})])
def test_channels_double_as_the_side_halves(resolution: int, expected: dict[int, int]) -> None:
    assert channels_by_side(resolution, 8) == expected


def test_a_resolution_that_the_networks_do_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match=r"resolution is 48; allowed are \(32, 64\)"):
        channels_by_side(48, 8)


@pytest.mark.parametrize("resolution", [32, 64])
def test_pictures_and_scores_have_their_shapes_and_bounds(resolution: int) -> None:
    generator = Generator(resolution=resolution, num_classes=3, latent_dim=5, base_channels=4)
    pictures = generator(torch.randn(7, 5), torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    assert pictures.shape == (7, 3, resolution, resolution)
    assert pictures.abs().max() <= 1
    scores = Discriminator(resolution=resolution, num_classes=3, base_channels=4)(pictures, torch.zeros(7).long())
    assert scores.shape == (7,)
    encoder = Encoder(resolution=resolution, num_classes=3, latent_dim=5, base_channels=4)
    mean, log_variance = encoder(pictures, torch.zeros(7).long())
    assert mean.shape == log_variance.shape == (7, 5)


def test_the_class_changes_both_the_picture_and_its_score() -> None:
    torch.manual_seed(0)
    generator = Generator(resolution=32, num_classes=2, latent_dim=5, base_channels=4).eval()
    z = torch.randn(1, 5)
    one, other = generator(z, torch.tensor([0])), generator(z, torch.tensor([1]))
    assert (one - other).abs().max() > 1e-4
    discriminator = Discriminator(resolution=32, num_classes=2, base_channels=4).eval()
    assert discriminator(one, torch.tensor([0])) != discriminator(one, torch.tensor([1]))


def test_every_layer_of_the_discriminator_has_a_largest_singular_value_of_one() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(resolution=32, num_classes=6, base_channels=8).train()
    with torch.no_grad():
        for _ in range(60):  # each pass in training is a step of the power iteration
            discriminator(torch.randn(1, 3, 32, 32), torch.zeros(1).long())
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    assert len(layers) == 5
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        assert largest == pytest.approx(1, abs=0.05)


def test_parameters_are_counted_by_hand() -> None:
    assert num_parameters(nn.Linear(3, 2)) == 3 * 2 + 2
    frozen = nn.Linear(3, 2).requires_grad_(False)
    assert num_parameters(frozen) == 0

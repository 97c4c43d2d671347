import pytest
import torch

from gan.training.augment import AUGMENTATIONS, augment


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def some_pictures() -> torch.Tensor:
    return torch.rand(6, 3, 32, 32, generator=source(1)) * 2 - 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_seed_gives_the_same_result_and_another_seed_another(name: str, some_pictures: torch.Tensor) -> None:
    once, again, other = (augment(some_pictures, [name], source(seed)) for seed in (3, 3, 4))
    assert once.shape == some_pictures.shape
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_gradients_pass_through_to_the_pictures(name: str, some_pictures: torch.Tensor) -> None:
    some_pictures.requires_grad_()
    augment(some_pictures, [name], source(3)).square().sum().backward()
    assert some_pictures.grad is not None
    assert (some_pictures.grad.flatten(1) != 0).any(dim=1).all()


def test_translation_moves_a_point_by_an_eighth_of_the_side_at_most() -> None:
    points = torch.zeros(200, 3, 32, 32)
    points[:, :, 16, 16] = 1
    moved = augment(points, ["translation"], source(0))
    assert (moved.sum(dim=(1, 2, 3)) == 3).all()
    rows, columns = moved[:, 0].flatten(1).argmax(dim=1) // 32, moved[:, 0].flatten(1).argmax(dim=1) % 32
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 20, 12, 20)


def test_cutout_blanks_a_square_of_half_the_side() -> None:
    blanked = (augment(torch.ones(300, 3, 32, 32), ["cutout"], source(0)) == 0).sum(dim=(1, 2, 3))
    assert blanked.max() == 3 * 16 * 16
    assert blanked.min() >= 3 * 8 * 8  # its centre may stand in a corner


def test_colour_leaves_a_grey_picture_grey() -> None:
    tinted = augment(torch.full((4, 3, 8, 8), 0.2), ["colour"], source(0))
    assert torch.allclose(tinted[:, 0], tinted[:, 1])
    assert torch.allclose(tinted[:, 0], tinted[:, 2])
    assert ((tinted - 0.2).abs() <= 0.5 + 1e-6).all()


def test_no_names_leave_the_pictures_as_they_are_and_an_unknown_one_is_refused(some_pictures: torch.Tensor) -> None:
    assert torch.equal(augment(some_pictures, [], source(0)), some_pictures)
    with pytest.raises(ValueError, match=r"'mirror'; known are colour, translation, cutout"):
        augment(some_pictures, ["mirror"], source(0))

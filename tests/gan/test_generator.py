from pathlib import Path

import numpy as np
import pytest
import torch

from gan.generator import MAX_SEED, KeptGenerator, sample_grid, seeds_of
from gan.training.networks import Generator


@pytest.fixture(scope="module")
def generator() -> KeptGenerator:
    torch.manual_seed(0)
    network = Generator(resolution=32, num_classes=3, latent_dim=6, base_channels=4)
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(20)  # as strong as after a training
    return KeptGenerator(network, ("a", "b / c", "all"))


def test_a_picture_depends_on_its_class_and_seed_alone(generator: KeptGenerator) -> None:
    together, alone = generator.pictures(1, [5, 6, 7]), generator.pictures(1, [6])
    assert together.shape == (3, 3, 32, 32)
    assert together.dtype == np.uint8
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1  # a batch may be summed in another order
    assert (together[0] != together[1]).any()
    assert (generator.pictures(2, [6]) != alone).any()


def test_a_kept_generator_makes_the_same_pictures_again(generator: KeptGenerator, tmp_path: Path) -> None:
    generator.save(tmp_path / "generator.safetensors", base_channels=4, tables={})
    loaded = KeptGenerator.load(tmp_path / "generator.safetensors")
    assert loaded.classes == generator.classes
    assert (loaded.sample(0, 4) == generator.sample(0, 4)).all()
    assert list(tmp_path.glob("*.part")) == []


def test_seeds_are_distinct_and_decided_by_name_seed_and_place() -> None:
    seeds = seeds_of("item", 100)
    assert seeds_of("item", 3) == seeds[:3]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < MAX_SEED for seed in seeds)
    assert not set(seeds) & set(seeds_of("item", 100, seed=1))


def test_the_grid_shows_every_class_once_in_two_columns(generator: KeptGenerator) -> None:
    grid = sample_grid(generator, [0, 1, 2], num_pictures=4)
    shown = np.asarray(grid)
    assert (shown != 255).any(axis=2).mean() > 0.3
    one_row = sample_grid(generator, [0], num_pictures=4)
    assert grid.width > 1.9 * one_row.width
    assert grid.height > one_row.height

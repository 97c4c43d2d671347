"""Simple products, drawn: what the tests of this folder take for a shop's pictures."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from gan.training.dataset import PreparedPictures

SIDE = 32


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # many threads wait for each other over such small pictures


def product(rng: np.random.Generator, shape: str) -> np.ndarray:
    """A disc or a bar of some colour, place and size on a pale ground: uint8 [3, 32, 32]."""
    image = Image.new("RGB", (4 * SIDE, 4 * SIDE), (245, 245, 240))
    colour = tuple(int(c) for c in rng.integers(30, 200, size=3))
    x, y = rng.integers(50, 78, size=2)
    half = int(rng.integers(22, 40))
    box = (x - half, y - half, x + half, y + half) if shape == "disc" else (x - half, y - 10, x + half, y + 10)
    draw = ImageDraw.Draw(image)
    draw.ellipse(box, fill=colour) if shape == "disc" else draw.rectangle(box, fill=colour)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)).transpose(2, 0, 1)


@pytest.fixture(scope="session")
def products() -> Callable[[str, int, int], np.ndarray]:
    """`products(shape, number, seed)`: uint8 [number, 3, 32, 32]."""

    def make(shape: str, number: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng([seed, len(shape)])
        return np.stack([product(rng, shape) for _ in range(number)])

    return make


@pytest.fixture(scope="session")
def prepared(products: Callable[[str, int, int], np.ndarray]) -> PreparedPictures:
    """60 discs and 60 bars, a third of each held out."""
    pixels = np.concatenate([products("disc", 60, 0), products("bar", 60, 0)])
    return PreparedPictures(
        item_ids=[f"i{n:03d}" for n in range(120)],
        labels=np.repeat([0, 1], 60),
        is_held_out=np.arange(120) % 3 == 0,
        pixels=pixels,
        classes=("disc", "bar"),
    )

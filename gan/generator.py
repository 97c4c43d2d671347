"""A trained generator, its file, the pictures it makes, and a labelled grid of them.

A picture depends on its class and its seed alone. The file holds only weights and plain values, and loading it runs no code.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from gan.adverts.typesetting import Box, drawable, fit, font
from gan.arrays import Pictures
from gan.provenance import MARK
from gan.training.networks import Generator
from lib.runs.weights import load_weights, save_weights

GENERATOR_FILE = "generator.safetensors"
PREPARED_FILE = "pictures.parquet"
MAX_SEED = 2**31

CELL, GAP, LABEL_WIDTH = 56, 4, 120  # of the grid, in pixels
GRID_COLUMNS = 2
INK, PAPER = (40, 40, 46), (255, 255, 255)


@dataclass(frozen=True)
class KeptGenerator:
    """A generator with the names of its classes."""

    network: Generator
    classes: tuple[str, ...]

    def pictures(self, label: int, seeds: Sequence[int]) -> Pictures:
        """One picture of a class for each seed: [N, 3, R, R]."""
        noise = [torch.randn(self.network.latent_dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        with torch.no_grad():
            made = self.network.eval()(torch.stack(noise), torch.full((len(seeds),), label))
        pictures: Pictures = ((made.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
        return pictures

    def sample(self, label: int, number: int) -> Pictures:
        """So many pictures of a class, always the same ones: [number, 3, R, R]."""
        return self.pictures(label, seeds_of(self.classes[label], number))

    def save(self, path: Path, *, base_channels: int, tables: Mapping[str, int]) -> None:
        """Write weights, shape, classes and the table versions trained on to one file, atomically."""
        shape = {
            "resolution": self.network.resolution,
            "num_classes": self.network.num_classes,
            "latent_dim": self.network.latent_dim,
            "base_channels": base_channels,
        }
        save_weights(path, self.network.state_dict(), shape=shape, classes=self.classes, tables=tables)

    @classmethod
    def load(cls, path: Path) -> "KeptGenerator":
        """Read a file that `save` wrote."""
        weights, known = load_weights(path)
        network = Generator(**known["shape"])
        network.load_state_dict(weights)
        return cls(network.eval(), tuple(known["classes"]))


def seeds_of(name: str, number: int, seed: int = 0) -> list[int]:
    """As many seeds, which depend on the name and `seed` alone; a longer list begins with the shorter one."""
    digests = (hashlib.sha256(f"{seed}/{name}/{place}".encode()).digest() for place in range(number))
    return [int.from_bytes(digest[:8]) % MAX_SEED for digest in digests]


def sample_grid(generator: KeptGenerator, labels: Sequence[int], *, num_pictures: int) -> Image.Image:
    """A row of pictures for each class, beside its name, under a heading that says AI-generated."""
    rows = -(-len(labels) // GRID_COLUMNS)
    width = LABEL_WIDTH + num_pictures * (CELL + GAP)
    head = 24
    grid = Image.new("RGB", (min(GRID_COLUMNS, len(labels)) * (width + GAP) + GAP, head + rows * (CELL + GAP)), PAPER)
    draw = ImageDraw.Draw(grid)
    draw.text((2 * GAP, head // 2), f"{MARK} samples", font=font("Bold", 13), fill=INK, anchor="lm")
    for place, label in enumerate(labels):
        left, top = GAP + place // rows * (width + GAP), head + place % rows * (CELL + GAP)
        _draw_name(draw, generator.classes[label], Box(left + GAP, top, left + LABEL_WIDTH - GAP, top + CELL))
        for number, pixels in enumerate(generator.sample(label, num_pictures)):
            picture = Image.fromarray(pixels.transpose(1, 2, 0)).resize((CELL, CELL), Image.Resampling.LANCZOS)
            grid.paste(picture, (left + LABEL_WIDTH + number * (CELL + GAP), top))
    return grid


def _draw_name(draw: ImageDraw.ImageDraw, name: str, box: Box) -> None:
    text = fit(drawable(name), box, sizes=range(12, 8, -1), weight="Regular", max_lines=3)
    top = box.top + (box.height - text.height) // 2
    for number, line in enumerate(text.lines):
        middle = top + round((number + 0.5) * text.line_height)
        draw.text((box.left, middle), line, font=text.font, fill=INK, anchor="lm")

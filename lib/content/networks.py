"""The networks of content vectors, plain torch: one that sees pictures, and one that weighs the modalities of an item."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_SCALE = 100.0  # of cosines before a softmax, as in CLIP
INITIAL_SCALE = 10.0
GROUPS = 8
PLACES = 4  # on each side of the picture


class PictureEncoder(nn.Module):
    """Pictures (B, 3, R, R) in 0..1 -> (B, D): convolutions of stride 2, then a linear layer over what they see in each place.

    Where in the picture something is seen is kept: shops show one thing, in the middle of a plain ground.
    """

    def __init__(self, num_dimensions: int, width: int = 16) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(GROUPS, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels[-1] * PLACES**2, num_dimensions)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, R, R) -> (B, D), not normalised."""
        vectors: Tensor = self.head(F.adaptive_avg_pool2d(self.layers(pictures * 2 - 1), PLACES).flatten(1))
        return vectors


class PictureAgreement(nn.Module):
    """What a PictureEncoder is trained by: vectors of pictures, and of the words that are said of the same items."""

    def __init__(self, num_dimensions: int, num_said: int) -> None:
        super().__init__()
        self.encoder = PictureEncoder(num_dimensions)
        self.own = nn.Linear(num_dimensions, num_dimensions)  # is left out when pictures are encoded (Chen et al. 2020)
        self.said = nn.Linear(max(1, num_said), num_dimensions)
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_SCALE).log())

    def forward(self, pictures: Tensor, said: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, R, R), (B, S) -> each of length 1: pictures among pictures, pictures among words, words, all (B, D); the scale."""
        vectors = self.encoder(pictures)
        parts = (self.own(F.relu(vectors)), vectors, self.said(said))
        own, seen, words = (F.normalize(part, dim=1) for part in parts)
        return own, seen, words, self.log_scale.exp().clamp(max=MAX_SCALE)


class Fusion(nn.Module):
    """Content vectors: the weighted mean of each modality's projection, over the modalities that an item has.

    The weights are learnt, one a modality. An item that lacks a modality has a vector of the same kind from the others.
    """

    def __init__(self, widths: Sequence[int], num_dimensions: int) -> None:
        super().__init__()
        self.widths, self.num_dimensions = tuple(widths), num_dimensions
        self.project = nn.ModuleList(nn.Linear(width, num_dimensions, bias=False) for width in widths)
        for layer in self.project:
            assert isinstance(layer, nn.Linear)
            nn.init.orthogonal_(layer.weight)  # so that at first items are as near as in the modality itself
        self.log_weight = nn.Parameter(torch.zeros(len(self.widths)))
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_SCALE).log())

    def forward(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """(B, total width), (B, M) -> vectors (B, D) of length 1, 0 for an item of which nothing is known; the scale."""
        parts = [
            F.normalize(layer(own), dim=1)
            for layer, own in zip(self.project, values.split(list(self.widths), dim=1), strict=True)
        ]
        weights = self.log_weight.exp() * known.to(values.dtype)
        fused = (torch.stack(parts, dim=1) * weights[:, :, None]).sum(dim=1)
        return F.normalize(fused, dim=1), self.log_scale.exp().clamp(max=MAX_SCALE)

    def shares(self) -> list[float]:
        """Each modality's share of the weights."""
        return [round(float(share), 3) for share in self.log_weight.detach().softmax(dim=0)]


def info_nce(one: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """The mean cross-entropy of finding each row's partner among the batch's, in both directions.

    InfoNCE (van den Oord et al. 2018) as CLIP uses it (Radford et al. 2021): logits are cosines times a learnt scale.

    Args:
        one: (B, D), rows of length 1.
        other: (B, D), row b the partner of row b.
        scale: ().
    """
    logits = scale * one @ other.T
    target = torch.arange(len(one), device=one.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def augmented(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Another view of each picture (B, 3, R, R) in 0..1: cut and moved a little, mirrored, brighter or darker, its hue kept.

    What a product's colour is says what it is, so it stays (Chen et al. 2020 take it away to learn of shapes alone), and a product is
    shown whole: stronger cuts, as of scenes, made vectors that agree less with the kinds of products (benchmarks/content.py).
    """
    size = len(pictures)
    drawn = torch.rand(size, 5, generator=generator)
    zoom, moved = 0.85 + 0.15 * drawn[:, 0], 0.1 * (drawn[:, 1:3] - 0.5)
    mirrored = torch.where(drawn[:, 3] < 0.5, -1.0, 1.0)
    turn = torch.zeros(size, 2, 3)
    turn[:, 0, 0], turn[:, 1, 1], turn[:, :, 2] = zoom * mirrored, zoom, moved
    grid = F.affine_grid(turn, list(pictures.shape), align_corners=False).to(pictures.device)
    seen = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    light = (0.9 + 0.2 * drawn[:, 4]).to(pictures.device)
    return (seen * light[:, None, None, None]).clamp(0, 1)

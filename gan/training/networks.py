"""The networks: a class-conditional DCGAN generator, a projection discriminator with spectral normalisation, and an encoder.

Plain torch modules, independent of Ray, files and devices. Legend of shapes: N pictures, R resolution (32 or 64), Z dimensions of
the noise, K classes, C channels. Pictures are float, RGB, in -1..1.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu
from torch.nn.utils.parametrizations import spectral_norm

RESOLUTIONS = (32, 64)
SMALLEST = 4  # side of the coarsest feature map


def channels_by_side(resolution: int, base_channels: int) -> dict[int, int]:
    """Channels of the feature maps by side, from 4 to R / 2: doubled as the side halves, at most 8 x `base_channels`."""
    if resolution not in RESOLUTIONS:
        raise ValueError(f"resolution is {resolution}; allowed are {RESOLUTIONS}")
    sides = [SMALLEST]
    while sides[-1] < resolution // 2:
        sides.append(sides[-1] * 2)
    return {side: min(base_channels * resolution // 2 // side, base_channels * 8) for side in sides}


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation with a gain and a bias for each class (Dumoulin et al. 2017, "A learned representation...")."""

    def __init__(self, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_channels, affine=False)
        self.gain = nn.Embedding(num_classes, num_channels)
        self.bias = nn.Embedding(num_classes, num_channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # [N, C, H, W], [N] -> [N, C, H, W]
        scaled: Tensor = self.norm(x) * self.gain(labels)[:, :, None, None] + self.bias(labels)[:, :, None, None]
        return scaled


class GeneratorBlock(nn.Module):
    """Doubles the side: transposed convolution, conditional batch norm, ReLU (Radford et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=False)
        self.norm = ConditionalBatchNorm(out_channels, num_classes)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # [N, Cin, H, W], [N] -> [N, Cout, 2H, 2W]
        return relu(self.norm(self.conv(x), labels))


class Generator(nn.Module):
    """Makes a picture from noise and a class.

    The class enters as a learned vector beside the noise, of the same length, and in every batch normalisation. With the batch
    normalisations alone, whose gains and biases start out equal, it takes thousands of steps to tell classes apart.
    `forward(z, labels)`: z [N, Z] standard normal, labels [N] of 0..K-1 -> pictures [N, 3, R, R] in -1..1.
    """

    def __init__(self, *, resolution: int, num_classes: int, latent_dim: int, base_channels: int) -> None:
        super().__init__()
        channels = channels_by_side(resolution, base_channels)
        self.resolution, self.num_classes, self.latent_dim = resolution, num_classes, latent_dim
        self.classes = nn.Embedding(num_classes, latent_dim)
        self.project = nn.Linear(2 * latent_dim, channels[SMALLEST] * SMALLEST**2, bias=False)
        self.norm = ConditionalBatchNorm(channels[SMALLEST], num_classes)
        widths = list(channels.values())
        self.blocks = nn.ModuleList(
            GeneratorBlock(narrow, wide, num_classes) for narrow, wide in itertools.pairwise(widths)
        )
        self.to_rgb = nn.ConvTranspose2d(widths[-1], 3, kernel_size=4, stride=2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        assert z.shape == (len(labels), self.latent_dim), f"z is {tuple(z.shape)}, labels {tuple(labels.shape)}"
        x = self.project(torch.cat([z, self.classes(labels)], dim=1))  # [N, C x 16]
        x = x.unflatten(1, (-1, SMALLEST, SMALLEST))  # [N, C, 4, 4]
        x = relu(self.norm(x, labels))
        for block in self.blocks:
            x = block(x, labels)
        pictures = torch.tanh(self.to_rgb(x))  # [N, 3, R, R]
        assert pictures.shape[1:] == (3, self.resolution, self.resolution)
        return pictures


class Discriminator(nn.Module):
    """Scores a picture of a class: high for real pictures.

    Every layer is spectrally normalised, so that the network is Lipschitz (Miyato et al. 2018). The class enters by projection:
    score = w . phi(x) + v[label] . phi(x) (Miyato & Koyama 2018, equation 3).
    `forward(pictures, labels)`: pictures [N, 3, R, R] in -1..1, labels [N] -> scores [N].
    """

    def __init__(self, *, resolution: int, num_classes: int, base_channels: int) -> None:
        super().__init__()
        widths = list(reversed(channels_by_side(resolution, base_channels).values()))
        self.resolution = resolution
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(narrow, wide, kernel_size=4, stride=2, padding=1))
            for narrow, wide in zip([3, *widths], widths, strict=False)
        )
        self.score = spectral_norm(nn.Linear(widths[-1], 1))
        self.classes = spectral_norm(nn.Embedding(num_classes, widths[-1]))

    def forward(self, pictures: Tensor, labels: Tensor) -> Tensor:
        assert pictures.shape[1:] == (3, self.resolution, self.resolution), f"pictures are {tuple(pictures.shape)}"
        x = pictures
        for conv in self.convs:
            x = leaky_relu(conv(x), 0.2)
        phi = x.sum(dim=(2, 3))  # [N, C] from [N, C, 4, 4]
        scores: Tensor = self.score(phi).squeeze(1) + (self.classes(labels) * phi).sum(dim=1)
        assert scores.shape == labels.shape
        return scores


class Encoder(nn.Module):
    """Estimates the noise behind a picture of a class, as a normal distribution; used in training only.

    `forward(pictures, labels)`: pictures [N, 3, R, R], labels [N] -> mean and log variance, each [N, Z].
    """

    def __init__(self, *, resolution: int, num_classes: int, latent_dim: int, base_channels: int) -> None:
        super().__init__()
        widths = list(reversed(channels_by_side(resolution, base_channels).values()))
        self.convs = nn.ModuleList(
            nn.Conv2d(narrow, wide, kernel_size=4, stride=2, padding=1)
            for narrow, wide in zip([3, *widths], widths, strict=False)
        )
        self.classes = nn.Embedding(num_classes, latent_dim)
        self.noise = nn.Linear(widths[-1] * SMALLEST**2 + latent_dim, 2 * latent_dim)

    def forward(self, pictures: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        x = pictures
        for conv in self.convs:
            x = leaky_relu(conv(x), 0.2)
        mean, log_variance = self.noise(torch.cat([x.flatten(1), self.classes(labels)], dim=1)).chunk(2, dim=1)
        return mean, log_variance


def num_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

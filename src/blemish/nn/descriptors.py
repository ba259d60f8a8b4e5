"""Patch descriptors of several receptive fields from one pass, and an autoencoder that sees the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

Unit = tuple[int, int]  # kernels of a residual unit's two convolutions


@dataclass(frozen=True)
class Trunk:
    """The shape of a descriptor network: a convolution, a mean over 2 x 2, then blocks of residual units.

    A descriptor map is read after each block; `fields` are their receptive fields.
    """

    stem: int  # kernel of the first convolution
    stride: int  # of the first convolution
    blocks: tuple[tuple[Unit, ...], ...]

    @property
    def step(self) -> int:
        """Pixels between two cells of the grid."""
        return 2 * self.stride

    @property
    def fields(self) -> tuple[int, ...]:
        """Receptive field of each block's output, in pixels."""
        field, found = self.stem + self.stride, []
        for block in self.blocks:
            field += self.step * sum(kernel - 1 for unit in block for kernel in unit)
            found.append(field)
        return tuple(found)

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """(h, w) of the maps for an input of `size`."""
        h, w = (((n - 1) // self.stride + 1) // 2 for n in size)
        return h, w


class PlainUnit(nn.Module):
    """relu(x + conv-norm-relu-conv-norm), at one width: (B, C, H, W) -> the same."""

    def __init__(self, width: int, kernels: Unit) -> None:
        super().__init__()
        first, second = (nn.Conv2d(width, width, k, padding=k // 2, bias=False) for k in kernels)
        last = nn.BatchNorm2d(width)
        self.body = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), second, last)
        for conv in (first, second):
            nn.init.kaiming_normal_(conv.weight)
        nn.init.zeros_(last.weight)  # starts as the identity (Goyal et al. 2017): it learns several times faster

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class DescriptorNet(nn.Module):
    """Aligned descriptor maps of growing receptive fields, read at several depths of one trunk in one pass.

    Args:
        trunk: its shape.
        width: channels inside.
        channels: of each descriptor.
        levels: the blocks after which a map is read, ascending; deeper blocks are not built.

    (B, 3, H, W) -> for each level (B, channels, *trunk.grid). The heads are bare 1 x 1 convolutions, and the next block
    goes on from the block before, not from its head.
    """

    def __init__(self, trunk: Trunk, width: int, channels: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, trunk.stem, trunk.stride, trunk.stem // 2), nn.ReLU(), nn.AvgPool2d(2)
        )
        nn.init.kaiming_normal_(self.stem[0].weight)  # type: ignore[arg-type]
        depth = max(levels) + 1
        self.blocks = nn.ModuleList(
            nn.Sequential(*(PlainUnit(width, unit) for unit in block)) for block in trunk.blocks[:depth]
        )
        self.heads = nn.ModuleDict({str(level): nn.Conv2d(width, channels, 1) for level in levels})
        for head in self.heads.values():
            nn.init.normal_(head.weight, 0, 0.1 * width**-0.5)  # type: ignore[arg-type]  # starts near zero

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        out: list[Tensor] = []
        for level, block in enumerate(self.blocks):
            x = block(x)
            if str(level) in self.heads:
                out.append(self.heads[str(level)](x))
        return out


class GlobalAutoencoder(nn.Module):
    """The image through one short vector, and maps of it: there is no way round the vector.

    Args:
        size: (H, W) of the input.
        grid: (h, w) of the maps.
        widths: of the encoder's convolutions, each of which halves the grid.
        latent: length of the vector.
        channels: of the maps, and of the decoders inside.
        count: number of maps, each by a decoder of its own.
        norm: batch normalisation before every ReLU.

    (B, 3, H, W) -> `count` maps (B, channels, *grid), unbounded: no activation follows the last convolution.
    """

    def __init__(
        self,
        size: tuple[int, int],
        grid: tuple[int, int],
        *,
        widths: Sequence[int],
        latent: int,
        channels: int,
        count: int,
        norm: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside, (h, w) = 3, size
        for width in widths:
            layers += [nn.Conv2d(inside, width, 3, 2, 1), *_norm(norm, width), nn.ReLU()]
            inside, h, w = width, (h + 1) // 2, (w + 1) // 2
        self.encoder = nn.Sequential(*layers, nn.Conv2d(inside, latent, (h, w)))
        self.decoders = nn.ModuleList(_decoder(grid, latent, channels, norm) for _ in range(count))

    def latent(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, latent, 1, 1)."""
        return self.encoder(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> list[Tensor]:
        latent = self.latent(x)
        return [decoder(latent) for decoder in self.decoders]


def _norm(wanted: bool, channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels)] if wanted else []


def _decoder(grid: tuple[int, int], latent: int, channels: int, norm: bool) -> nn.Sequential:
    """(B, latent, 1, 1) -> (B, channels, *grid), doubling the grid from a shorter side of at most 4."""
    grids = [grid]
    while min(grids[-1]) > 4:
        h, w = grids[-1]
        grids.append(((h + 1) // 2, (w + 1) // 2))
    layers: list[nn.Module] = [nn.ConvTranspose2d(latent, channels, grids[-1])]
    for (h, w), (high, wide) in zip(grids[:0:-1], grids[-2::-1], strict=True):
        odd = (high - 2 * h + 1, wide - 2 * w + 1)
        layers += [*_norm(norm, channels), nn.ReLU(), nn.ConvTranspose2d(channels, channels, 3, 2, 1, odd)]
    return nn.Sequential(*layers)

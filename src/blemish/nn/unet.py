"""A U-Net that repaints images. Ronneberger et al., MICCAI 2015; for inpainting, Zavrtanik et al. 2021 (RIAD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from blemish.nn.blocks import conv3

WIDEST = 8  # times the width of the finest level


def inner_size(size: Sequence[int], side: int, step: int) -> tuple[int, int]:
    """(H, W) whose shorter side is about `side`, never larger than `size`, both multiples of `step`."""
    factor = max(1.0, min(size) / side)
    height, width = (max(step, round(n / factor / step) * step) for n in size)
    return height, width


def _convolved(inside: int, outside: int) -> list[nn.Module]:
    return [conv3(inside, outside), nn.BatchNorm2d(outside), nn.ReLU()]


class UNet(nn.Module):
    """(B, 3, H, W) in [0, 1] to the same; H and W are multiples of 2^depth. Encoder and decoder can be asked apart.

    Args:
        width: channels of the finest level; they double with each halving, up to 8 times as many.
        depth: halvings.
    """

    def __init__(self, width: int, depth: int = 4) -> None:
        super().__init__()
        self.widths = tuple(width * min(2**i, WIDEST) for i in range(depth + 1))
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        self.down = nn.ModuleList([nn.Sequential(*_convolved(3, width), *_convolved(width, width))])
        for fine, coarse in pairs:
            halved = [nn.Conv2d(fine, coarse, 4, 2, 1, bias=False), nn.BatchNorm2d(coarse), nn.ReLU()]
            self.down.append(nn.Sequential(*halved, *_convolved(coarse, coarse)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 4, 2, 1) for fine, coarse in pairs)
        self.join = nn.ModuleList(
            nn.Sequential(*_convolved(2 * fine, fine), *_convolved(fine, fine)) for fine, _ in pairs
        )
        self.head = nn.Conv2d(width, 3, 3, 1, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, widths[l], H / 2^l, W / 2^l), finest first; the last one is the bottleneck."""
        maps: list[Tensor] = []
        for part in self.down:
            x = part(x)
            maps.append(x)
        return tuple(maps)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Those maps, or weakened ones, to an image (B, 3, H, W)."""
        x = maps[-1]
        for level in range(len(self.up) - 1, -1, -1):
            x = self.join[level](torch.cat([maps[level], self.up[level](x)], 1))
        return self.head(x).sigmoid()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

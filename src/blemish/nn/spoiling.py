"""Defects made on tensors, where a training step has no time to make them on images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spoilt(
    x: Tensor,
    generator: torch.Generator,
    *,
    area: tuple[float, float] = (0.02, 0.15),
    blend: tuple[float, float] = (0.3, 1.0),
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) in about [0, 1] with foreign colour in blobs, and where it is, (B, 1, H, W) in {0, 1}.

    Smooth noise above a level, so that it covers a share of the image drawn from `area`; inside, a share drawn from
    `blend` of the image gives way to a colour moved off, with as much of the texture as is drawn. Half of the colours
    are moved alike in all channels: what is foreign on a grey part is not told by its being coloured.
    """
    count, _, height, width = x.shape
    cells = torch.randint(2, 7, (2,), generator=generator).tolist()
    noise = torch.randn(count, 1, *cells, generator=generator)
    smooth = F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False).flatten(1)

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, generator=generator)

    wanted = (draw(*area).flatten(1) * smooth.shape[1]).long().clamp_min(1)
    level = smooth.sort(1, descending=True).values.gather(1, wanted - 1)
    where = (smooth >= level).to(x.dtype).view(count, 1, height, width)
    grey = (draw(0, 1) < 0.5).to(x.dtype)
    offset = grey * draw(-0.6, 0.6) + (1 - grey) * draw(-0.6, 0.6, 3)
    texture = draw(0, 1)
    colour = texture * x + (1 - texture) * x.mean((2, 3), keepdim=True) + offset
    return x + where * draw(*blend) * (colour.clamp(0, 1) - x), where

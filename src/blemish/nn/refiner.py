"""From errors on a coarse grid to a finer mask."""

from __future__ import annotations

from torch import Tensor, nn

from blemish.nn.blocks import Norm, conv3, norm_of

FINER = 4  # times as fine as the errors' grid is what comes out


class Refiner(nn.Module):
    """(B, C, h, w) of absolute errors in each channel -> (B, 1, 4 h, 4 w): logits of a defect.

    Gao, ECCV 2024 (OneNIP): twice a 3 x 3 convolution and a transposed one that doubles the grid, then 1 x 1.
    """

    def __init__(self, channels: int, width: int, norm: Norm = "batch") -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inside in (channels, width):
            parts += [conv3(inside, width), norm_of(norm, width), nn.ReLU(), nn.ConvTranspose2d(width, width, 2, 2)]
        self.body = nn.Sequential(*parts, nn.Conv2d(width, 1, 1))

    def forward(self, errors: Tensor) -> Tensor:
        return self.body(errors)  # type: ignore[no-any-return]

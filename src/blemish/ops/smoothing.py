"""From patch scores on a coarse grid to a smooth map of the input's size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def upsampling_matrix(n_in: int, n_out: int, sigma: float, *, aligned: bool = False) -> Tensor:
    """(n_out, n_in): bilinear interpolation followed by a Gaussian blur with reflected borders, as one product.

    Both steps are linear and separable, so a map is `rows @ grid @ columns.T`: for a 16 x 16 grid and a 256 x 256
    map that is 1.1 M multiplications instead of the 4.3 M of a separable 33-tap blur after the interpolation.
    `sigma` is in output pixels; 0 leaves the blur out. `aligned` puts the first and last cell onto the first and last
    pixel.
    """
    eye = torch.eye(n_in, dtype=torch.float64)[:, None, :]
    up = F.interpolate(eye, size=n_out, mode="linear", align_corners=aligned)
    if sigma > 0:
        radius = min(math.ceil(4 * sigma), n_out - 1)
        at = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (at / sigma) ** 2)
        kernel = kernel / kernel.sum()
        up = F.conv1d(F.pad(up, (radius, radius), mode="reflect"), kernel[None, None])
    return up[:, 0].T.contiguous().float()


def smooth_map(grid: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, h, w) patch scores -> (B, H, W), with the matrices of `upsampling_matrix`."""
    return rows @ grid @ columns.T


class LevelMaps(nn.Module):
    """Sums maps of several grids into one of the input's size: bilinear, then a Gaussian blur, as one product.

    Args:
        grids: (h, w) of each level.
        size: (H, W) of the network's input.
        sigma: of the blur, in pixels of the input.
        aligned: corner cells lie on corner pixels.
    """

    def __init__(
        self, grids: Sequence[tuple[int, ...]], size: tuple[int, int], sigma: float, *, aligned: bool = False
    ) -> None:
        super().__init__()
        self.matrices = [
            tuple(upsampling_matrix(grid[axis], size[axis], sigma, aligned=aligned) for axis in (0, 1))
            for grid in grids
        ]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, h_l, w_l) of each level -> (B, H, W)."""
        pairs = zip(maps, self.matrices, strict=True)
        return torch.stack([smooth_map(grid, rows, columns) for grid, (rows, columns) in pairs]).sum(0)


def smooth_curve(curve: Tensor, sigma: float) -> Tensor:
    """(B, L) blurred by a Gaussian of `sigma` samples, borders reflected; 0 leaves it as it is."""
    radius = min(math.ceil(4 * sigma), curve.shape[1] - 1)
    if radius < 1:
        return curve
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = (kernel / kernel.sum()).float()[None, None]
    return F.conv1d(F.pad(curve[:, None], (radius, radius), mode="reflect"), kernel)[:, 0]

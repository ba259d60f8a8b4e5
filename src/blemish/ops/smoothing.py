"""From patch scores on a coarse grid to a smooth map of the input's size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


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


def smooth_curve(curve: Tensor, sigma: float) -> Tensor:
    """(B, L) blurred by a Gaussian of `sigma` samples, borders reflected; 0 leaves it as it is."""
    radius = min(math.ceil(4 * sigma), curve.shape[1] - 1)
    if radius < 1:
        return curve
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = (kernel / kernel.sum()).float()[None, None]
    return F.conv1d(F.pad(curve[:, None], (radius, radius), mode="reflect"), kernel)[:, 0]

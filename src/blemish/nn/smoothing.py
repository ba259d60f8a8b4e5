"""Blurred curves, in PyTorch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.ops.smoothing import gaussian_kernel


def smooth_curve(curve: Tensor, sigma: float) -> Tensor:
    """(B, L) blurred by a Gaussian of `sigma` samples, borders reflected; 0 leaves it as it is."""
    radius = min(math.ceil(4 * sigma), curve.shape[1] - 1)
    if radius < 1:
        return curve
    kernel = torch.from_numpy(gaussian_kernel(sigma, radius)).to(curve.device, torch.float32)[None, None]
    return F.conv1d(F.pad(curve[:, None], (radius, radius), mode="reflect"), kernel)[:, 0]

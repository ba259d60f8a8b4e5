"""What the tests of methods that reconstruct features by attention share: options and small helpers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PAPER: dict[str, Any] = {
    "width": 256,
    "hidden": 1024,
    "norm": "post",
    "positions": "uniform",
    "resize": "bilinear",
    "standardise": False,
    "rate": 1e-4,
}
TOY: dict[str, Any] = {
    "steps": 120,
    "rate": 3e-3,
    "clip": 1.0,
    "width": 32,
    "hidden": 64,
    "encoders": 1,
    "decoders": 2,
    "heads": 4,
    "dropout": 0.0,
    "stride": 8,
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trainable(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())

"""Distances between feature maps, in float32 whatever the maps were computed in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_map(a: Tensor, b: Tensor) -> Tensor:
    """(B, C, h, w) twice -> (B, h, w): 1 - cosine of the two vectors at each position, in [0, 2]."""
    a, b = a.float(), b.float()
    dot = (a * b).sum(1)
    return 1 - dot * torch.rsqrt(a.square().sum(1) * b.square().sum(1) + 1e-12)


def cosine_places(a: Tensor, b: Tensor) -> Tensor:
    """As `cosine_map`, of (B, C, h, w) with the same or (1, C, h, w), to the bit whatever stands before it in a graph.

    Sums are matrix products: an engine adds up in the order in which it stores the channels, which differs between
    a backbone and cached features.
    """
    ones = a.new_ones(1, a.shape[1])
    x, y = a.flatten(2), b.flatten(2)
    lengths = (ones @ x.square()) * (ones @ y.square())
    return (1 - (ones @ (x * y)) * torch.rsqrt(lengths + 1e-12)).view(-1, *a.shape[2:])


def cosine_whole(a: Tensor, b: Tensor) -> Tensor:
    """(B, C, h, w) twice -> (B,): 1 - cosine of each whole map as one vector, as RD4AD's code has it."""
    return 1 - F.cosine_similarity(a.float().flatten(1), b.float().flatten(1), dim=1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask is set; 0 where it is nowhere."""
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(1)


def dice_loss(said: Tensor, truth: Tensor) -> Tensor:
    """Mean over images of 1 - (sum(r y) + 1) / (sum(r^2 + y^2) + 1), r and y (B, …) in [0, 1].

    As OneNIP's code has it (Gao 2024): without a factor of 2, so that a perfect mask gives about 0.5, not 0.
    """
    r, y = said.flatten(1), truth.flatten(1)
    return (1 - ((r * y).sum(1) + 1) / ((r.square() + y.square()).sum(1) + 1)).mean()

"""From scores of places to one image score."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from blemish.ops.scoring import counted


def top_mean(patch_scores: Tensor, k: int) -> Tensor:
    """(B, P) -> (B,): the mean of the k largest patch scores; k = 1 is the maximum."""
    if k == 1:
        return patch_scores.amax(1)
    return patch_scores.topk(min(k, int(patch_scores.shape[1])), dim=1).values.mean(1)


def highest_share(patch_scores: Tensor, share: float) -> Tensor:
    """(B, P) -> (B,): the mean of the highest share of the places; 0 is the maximum."""
    return top_mean(patch_scores, counted(share, int(patch_scores.shape[1])))


def peak_step(share: float) -> int:
    """Each so-many-th row and column of a blurred map decides about `peak`: all for the maximum, a share needs less."""
    return 4 if share else 1


def peak(anomaly_map: Tensor, share: float) -> Tensor:
    """(B, H, W) -> (B,): mean of the highest `share` of a blurred map's `peak_step`s, its highest place for 0."""
    step = peak_step(share)
    return highest_share(anomaly_map[:, ::step, ::step].flatten(1), share)


def window_peak(anomaly_map: Tensor, side: int) -> Tensor:
    """(B, H, W) -> (B,): the highest mean of a square of `side` pixels that lies within the map; 1 is the maximum."""
    high, wide = (min(side, int(n)) for n in anomaly_map.shape[1:])
    means = F.avg_pool2d(F.avg_pool2d(anomaly_map[:, None], (high, 1), 1), (1, wide), 1)  # a row, then a column: cheap
    return means.flatten(1).amax(1)

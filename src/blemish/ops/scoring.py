"""From patch scores to one image score."""

from __future__ import annotations

from torch import Tensor


def top_mean(patch_scores: Tensor, k: int) -> Tensor:
    """(B, P) -> (B,): the mean of the k largest patch scores; k = 1 is the maximum."""
    if k == 1:
        return patch_scores.amax(1)
    return patch_scores.topk(min(k, int(patch_scores.shape[1])), dim=1).values.mean(1)

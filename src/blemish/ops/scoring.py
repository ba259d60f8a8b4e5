"""From scores of patches to one image score."""

from __future__ import annotations

from typing import Any

from blemish.ops.arrays import largest, mean, top


def top_mean(patch_scores: Any, k: int) -> Any:
    """(B, P) -> (B,): the mean of the k largest patch scores; k = 1 is the maximum."""
    return largest(patch_scores, 1) if k == 1 else mean(top(patch_scores, k)[0], 1)

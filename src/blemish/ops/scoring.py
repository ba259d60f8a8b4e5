"""From scores of places to one image score: the mean of the highest share of them, one share for all methods."""

from __future__ import annotations

from typing import Any

from blemish.errors import ConfigError
from blemish.ops.arrays import largest, mean, top

SHARE = 0.01
"""Of the places of a map; chosen on good images and synthetic defects (docs/strength.md)."""


def check_share(share: float) -> None:
    """ConfigError unless 0 <= share < 1."""
    if not 0 <= share < 1:
        raise ConfigError(f"top is a share of the map, in [0, 1), not {share:g}", hint="0 takes the highest place")


def counted(share: float, places: int) -> int:
    """How many of so many places a share is; one at least, which is the maximum."""
    return max(round(share * places), 1)


def top_mean(patch_scores: Any, k: int) -> Any:
    """(B, P) -> (B,): the mean of the k largest patch scores; k = 1 is the maximum."""
    return largest(patch_scores, 1) if k == 1 else mean(top(patch_scores, k)[0], 1)


def highest_share(patch_scores: Any, share: float, places: int) -> Any:
    """(B, places) -> (B,): the mean of the highest share of the places; 0 is the maximum."""
    return top_mean(patch_scores, counted(share, places))

"""A lower bound on the memory that learning needs: a size that cannot fit is refused before any

work. An estimate that is too small leads to an error later; one that is too large would refuse sizes that work. So it
counts only what is certainly in memory at the same time: a batch of features, and what a method keeps for each
position of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from blemish.errors import ExportError, ResourceError
from blemish.learning.onnx_parts import MOST
from blemish.ops.patches import grid_of
from blemish.system import free_memory, size_text
from blemish.types import FeatureSpec

_STEP = 32  # pixels between the sizes that are proposed


def _gaussians(config: Any, spec: FeatureSpec) -> int:
    """At each position, in doubles: sums, covariance, the same with its ridge, and its factor."""
    channels = len(config.windows) * sum(spec.channels)
    used = min(config.channels or channels, channels)
    return 4 * 8 * math.prod(grid_of(spec, config.level)) * used**2


def _pool(config: Any, spec: FeatureSpec, count: int) -> int:
    """The pool of patches, and its copy while the bank is chosen from it."""
    patches = min(count * math.prod(grid_of(spec, config.level)), int(config.pool))
    return 2 * 4 * patches * len(config.windows) * sum(spec.channels)


def of_a_head(kept: Collection[str], config: Any, spec: FeatureSpec) -> int:
    """Bytes of what the graph holds of the Gaussians: a factor at each position, in float32."""
    return _gaussians(config, spec) // 8 if "whiten" in kept and hasattr(config, "channels") else 0


def needed(kept: Collection[str], config: Any, spec: FeatureSpec, count: int, batch: int) -> tuple[int, str]:
    """The least bytes for learning from `count` images, `batch` at a time, and which option besides smaller images
    reduces them. The method is recognised by what it keeps: fitted buffers of the names `kept`, and a `pool` in its
    options.
    """
    features = 2 * 4 * spec.values * min(batch, count)
    if "whiten" in kept and hasattr(config, "channels"):
        return features + _gaussians(config, spec), "channels=100 (--set channels=100)"
    if "memory" in kept and hasattr(config, "pool"):
        return features + _pool(config, spec, count), "fewer images, or a smaller pool (--set pool)"
    return features, "fewer levels of the backbone"


def check(
    kept: Collection[str],
    config: Any,
    spec: FeatureSpec,
    size: tuple[int, int],
    count: int,
    batch: int,
    heads: int = 0,  # of tiles
) -> None:
    """ResourceError, with a size that may fit, where learning at this (H, W) cannot; ExportError where the graph could
    not hold what is learned.
    """
    held = of_a_head(kept, config, spec)
    if held > MOST:
        raise ExportError(
            f"what is kept for each position at {size[1]}x{size[0]} comes to {size_text(held)}, and a graph holds "
            f"{size_text(MOST)} at most",
            hint="channels=100 (--set channels=100), a smaller image_size (--image-size), or fewer levels (--layer)",
        )
    free = free_memory()
    least, other = needed(kept, config, spec, count, batch)
    if heads > 1:  # each as its arrays and as its graph
        least, other = least + 2 * (heads - 1) * held, "larger tiles (--tiles), or --tile-places off"
    if free is None or least <= free.bytes:
        return
    fitting = int(math.sqrt(size[0] * size[1] * 0.5 * free.bytes / least)) // _STEP * _STEP
    smaller = (
        f"image_size={fitting} (--image-size) may fit"
        if fitting >= 2 * _STEP
        else "a smaller image_size (--image-size)"
    )
    raise ResourceError(
        f"learning from {count} images at {size[1]}x{size[0]} needs at least {size_text(least)}, "
        f"and {size_text(free.bytes)} {free.limit} is free",
        hint=f"{smaller}, or {other}",
    )

"""What learning needs of memory, from below: a size that cannot fit is refused before any work.

An estimate that is too small costs an error later; one that is too large would refuse what works. So it counts what is
certainly there at once: a batch of features, and what a method keeps for every place of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from blemish.errors import ResourceError
from blemish.ops.patches import grid_of
from blemish.system import free_memory, size_text
from blemish.types import FeatureSpec

_STEP = 32  # pixels between the sizes that are proposed


def _places(config: Any, spec: FeatureSpec) -> tuple[int, int]:
    """Positions of the grid that a method looks at, and channels of its descriptors."""
    return math.prod(grid_of(spec, config.level)), sum(spec.channels)


def _padim(config: Any, spec: FeatureSpec, count: int) -> int:  # noqa: ARG001  (the same for any number of images)
    """Sums, covariance, the same with its ridge, and its factor at each position, in doubles."""
    places, channels = _places(config, spec)
    used = min(config.channels or channels, channels)
    return 4 * 8 * places * used**2


def _patchcore(config: Any, spec: FeatureSpec, count: int) -> int:
    """The pool of patches, and its copy while the bank is chosen."""
    places, channels = _places(config, spec)
    return 2 * 4 * min(count * places, int(config.pool)) * channels


_KEPT: dict[str, tuple[Callable[[Any, FeatureSpec, int], int], str]] = {
    "padim": (_padim, "--set channels=100"),
    "patchcore": (_patchcore, "fewer images or a smaller --set pool"),
}
"""By the method: bytes that it keeps, and what else than smaller images makes them less."""


def needed(method: str, config: Any, spec: FeatureSpec, count: int, batch: int) -> int:
    """Bytes that learning from `count` images takes at least, `batch` at a time."""
    features = 4 * spec.values * min(batch, count)
    return 2 * features + (_KEPT[method][0](config, spec, count) if method in _KEPT else 0)


def check(method: str, config: Any, spec: FeatureSpec, size: tuple[int, int], count: int, batch: int) -> None:
    """ResourceError, with the size that would fit, where learning at this (H, W) cannot."""
    least, free = needed(method, config, spec, count, batch), free_memory()
    if free is None or least <= free.bytes:
        return
    fitting = int(math.sqrt(size[0] * size[1] * 0.8 * free.bytes / least)) // _STEP * _STEP
    smaller = f"--image-size {fitting} would fit" if fitting >= 2 * _STEP else "a smaller --image-size needs less"
    other = f", or {_KEPT[method][1]}" if method in _KEPT else ""
    raise ResourceError(
        f"{method} at {size[1]}x{size[0]} needs at least {size_text(least)} for {count} images, "
        f"and {size_text(free.bytes)} {free.limit} is free",
        hint=smaller + other,
    )

"""The region of interest of images: a mask, kept as text for the size of the network input, or of the picture."""

from __future__ import annotations

import base64
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.errors import DataError


def pack_roi(mask: NDArray[np.bool_], size: tuple[int, int], what: str = "the region of interest") -> str:
    """A mask (H, W) of any size, True where it is inspected, as text for a network input of `size`.

    DataError where nothing is left to inspect.
    """
    small = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0
    if not small.any():
        message = f"{what} is empty" if not mask.any() else f"{what} is smaller than a pixel of the network's input"
        raise DataError(message, hint="mask > 0 is inspected; a larger image_size sees smaller places")
    return base64.b64encode(np.packbits(small).tobytes()).decode("ascii")


@lru_cache(maxsize=8)
def roi_at(roi: str, size: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask that was packed for `size`, for a map or a picture of another shape (H, W)."""
    inside = unpack_roi(roi, size)
    return (
        inside
        if shape == size
        else cv2.resize(inside.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    )


@lru_cache(maxsize=64)
def unpack_roi(roi: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) of the network input: True where it is inspected."""
    bits = np.frombuffer(base64.b64decode(roi, validate=True), np.uint8)
    return np.unpackbits(bits, count=size[0] * size[1]).astype(bool).reshape(size)

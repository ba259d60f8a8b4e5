"""Which samples are the same, by their values and not by the bytes of their files.

A picture that was saved again in another lossless format, with another compression, other metadata or another time
stamp shows the same pixels and is the same image. One that was saved with loss is not: pictures of parts in one fixture
are so alike that a lossy copy cannot be told from the next part, and an image taken for a copy is not learned from.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = "v1:"  # before each id, since models of earlier versions know their samples by their files' bytes
_KNOWN = 1_000_000  # ids that are remembered: 100 bytes each
_ids: dict[bytes, str] = {}
_lock = threading.Lock()


def values_id(*parts: NDArray[Any] | str) -> str:
    """An id of arrays and words: the version, and 16 hex digits over shapes, types and values."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"{len(part)} {part}".encode())
            continue
        values = np.ascontiguousarray(part)
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), values.dtype.type(np.nan), values) + values.dtype.type(0)  # no -0.0
        digest.update(f"{values.shape} {values.dtype.newbyteorder('=').str}".encode())
        digest.update(values.data)
    return VERSION + digest.hexdigest()[:16]


def pixels_id(image: NDArray[Any] | tuple[NDArray[Any], ...]) -> str:
    """The id of a canonical image (see `image.decode`), or of one for each lighting, whatever type holds its values,
    and whether grey is stored once or in three equal channels. 8 bits spread over 16 (each value times 257) are the
    same as 8 bits."""
    return values_id(*(_smallest(_grey(one)) for one in (image if isinstance(image, tuple) else (image,))))


def image_id(data: bytes, decode: Callable[[], NDArray[Any] | tuple[NDArray[Any], ...]]) -> str:
    """`pixels_id` of what `decode` makes of a file's bytes; it is called once for the same bytes in one process."""
    key = hashlib.sha256(data).digest()
    with _lock:
        found = _ids.get(key)
    if found is None:
        found = pixels_id(decode())
        with _lock:
            if len(_ids) >= _KNOWN:
                _ids.clear()
            _ids[key] = found
    return found


def _grey(image: NDArray[Any]) -> NDArray[Any]:
    """(H, W) where the channels are equal."""
    if image.ndim == 2:
        return image
    first = image[..., 0]
    for part in (slice(None, None, 31), slice(None)):  # a few rows are enough for most colour pictures
        if any(not np.array_equal(first[part], image[part][..., k]) for k in range(1, image.shape[2])):
            return image
    return first


def _smallest(image: NDArray[Any]) -> NDArray[Any]:
    """The same values as the smallest of uint8, uint16 and float32 that holds them."""
    if image.dtype.kind == "f":
        image = _unscaled(image)
        low, high = float(image.min()), float(image.max())
        if (
            not 0 <= low <= high <= 65535
            or (whole := image.astype(np.uint16)).astype(image.dtype).tobytes()
            != (image + image.dtype.type(0)).tobytes()
        ):
            return image.astype(np.float32)
        image = whole
    if image.dtype != np.uint16:
        return image
    if image.max() <= 255:
        return image.astype(np.uint8)
    for step in (257, 256):  # white stays white, or bits are shifted
        if not (image % step).any():
            return (image // step).astype(np.uint8)
    return image


def _unscaled(image: NDArray[Any]) -> NDArray[Any]:
    """Real values from 0 to 1 that are 8 or 16 bits over their white, as those whole numbers."""
    if 0 <= float(image.min()) and float(image.max()) <= 1:
        for white in (255, 65535):
            whole = np.rint(image * np.float64(white))
            if np.abs(whole / white - image).max() <= 2**-23:
                return whole.astype(image.dtype)
    return image

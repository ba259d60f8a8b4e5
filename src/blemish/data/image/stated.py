"""How large a source pixel is, as its file states it."""

from __future__ import annotations

import math
import os
from io import BytesIO
from typing import Any

from blemish.data.image.decode import is_encoded, take_encoded
from blemish.data.image.header import open_header
from blemish.errors import DataError
from blemish.files import read_file

SAME = 0.01  # share by which both axes of a file may differ
DEFAULTS = (72.0, 96.0)  # dots per inch that programs write where they know nothing
_STATE = "give the size of a pixel (--scale 0.05mm)"


def scale_in(source: Any) -> float:
    """Millimetres for each pixel, as the file or the encoded bytes `source` state it.

    DataError where they state none, two different ones, or one that is a program's default.
    """
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "image"
    if isinstance(source, str | os.PathLike):
        data = read_file(source)
    elif is_encoded(source):
        data, name = take_encoded(source)
    else:
        raise DataError("an array states no resolution", path=name, hint=_STATE)
    _, image = open_header(BytesIO(data), name)
    stated = None if image is None else image.info.get("dpi")
    try:
        x, y = (float(value) for value in stated)  # type: ignore[union-attr]
    except (TypeError, ValueError, ZeroDivisionError):
        raise DataError("states no resolution", path=name, hint=_STATE) from None
    if not (1 < x < math.inf and 1 < y < math.inf):  # 1 is what is read of a file that has no unit
        raise DataError(f"states no resolution ({x:g} x {y:g} dpi)", path=name, hint=_STATE)
    if abs(x / y - 1) > SAME:
        raise DataError(f"has pixels that are not square: {x:g} x {y:g} dpi", path=name, hint=_STATE)
    if any(abs(x / default - 1) < 1e-3 for default in DEFAULTS):
        message = f"states {x:.4g} dpi, which programs write where they know nothing"
        raise DataError(message, path=name, hint=_STATE)
    return 25.4 / x

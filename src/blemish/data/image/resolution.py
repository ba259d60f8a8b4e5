"""How large a source pixel is, from what a user states."""

from __future__ import annotations

import math
import re

from blemish.errors import ConfigError

FILE = "file"
"""Stands for the resolution that each file states."""
UNITS = {"mm": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "cm": 10.0}
"""Lengths in millimetres; micro has two signs that look the same."""
_NUMBER = r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)"
_UNIT = "|".join(UNITS)
_HINT = "0.05mm, 50um, 20px/mm, or file: what each file states"


def parse_scale(text: str) -> float | None:
    """Millimetres for each source pixel of `0.05mm`, `0.05mm/px`, `50um`, `20px/mm`; None of `file`.

    ConfigError for anything else, and for a size that no camera or microscope has.
    """
    plain = str(text).strip().lower()
    if plain == FILE:
        return None
    if found := re.fullmatch(rf"{_NUMBER}\s*({_UNIT})(?:\s*/\s*(?:px|pixel))?", plain):
        size = float(found[1]) * UNITS[found[2]]
    elif found := re.fullmatch(rf"{_NUMBER}\s*(?:px|pixels?)\s*/\s*({_UNIT})", plain):
        size = UNITS[found[2]] / float(found[1]) if float(found[1]) else math.inf
    elif re.fullmatch(_NUMBER, plain):
        raise ConfigError(f"scale '{text}' has no unit", hint=_HINT)
    else:
        raise ConfigError(f"scale '{text}' is not understood", hint=_HINT)
    if not 1e-6 <= size <= 1e4:
        raise ConfigError(f"scale '{text}' is {size:g} mm for each pixel", hint=_HINT)
    return size

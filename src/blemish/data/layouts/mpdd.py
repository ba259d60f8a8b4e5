"""MPDD, metal parts: laid out exactly as MVTec AD, whose module does the work (and is found by detection).

Jezek et al., Deep learning-based defect detection of metal parts: evaluating current methods in complex conditions,
ICUMT 2021.
"""

from __future__ import annotations

from pathlib import Path

from blemish.data.layouts.mvtec import index

__all__ = ["PRIORITY", "detect", "index"]

PRIORITY = 90
MODALITY = "image"


def detect(root: Path) -> bool:
    """Never: it cannot be told from `mvtec`, which is asked first."""
    return False

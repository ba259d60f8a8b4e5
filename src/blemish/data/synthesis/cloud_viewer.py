"""A page on which clouds are turned, before and after a synthetic defect."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.data.cloud.render import BULGE, PLAIN, SINK, Shape
from blemish.errors import DataError
from blemish.types import Cloud


def tinted(displacement: NDArray[Any], most: float) -> NDArray[np.float64]:
    """RGB (N, 3) of displacements (N,): grey where there is none, red out and blue in, full at `most`."""
    share = np.clip(np.abs(displacement) / max(most, 1e-30), 0, 1)[:, None]
    strong = np.where((displacement > 0)[:, None], BULGE, SINK)
    return PLAIN + (strong - PLAIN) * np.where(share > 0, 0.25 + 0.75 * share, 0)


class Exhibit(NamedTuple):
    """One cloud on the page; points and normals as (right, up, toward the viewer)."""

    title: str
    before: Shape
    after: Shape
    displacement: NDArray[Any]  # (N,)


def write_page(exhibits: Sequence[Exhibit]) -> bytes:
    """A page that holds all it needs: turn, zoom, before and after, the defect in colour. Nothing is loaded for it."""
    if not exhibits:
        raise DataError("there is no cloud to show")
    data = json.dumps([_packed(e) for e in exhibits], separators=(",", ":")).replace("</", "<\\/")
    page = files(__package__).joinpath("cloud_viewer.html").read_text(encoding="utf-8")
    return page.replace("/*CLOUDS*/[]", data).encode()


def _packed(exhibit: Exhibit) -> dict[str, Any]:
    """Points as 16-bit steps of the box around them, normals and displacement as 8-bit steps."""
    shapes = exhibit.before, exhibit.after
    both = np.concatenate([shape.points for shape in shapes])
    low, side = both.min(0), max(float(np.ptp(both, axis=0).max()), 1e-30)
    most = float(np.abs(exhibit.displacement).max(initial=0))

    def text(values: NDArray[Any], kind: str) -> str:
        return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()

    levels = np.rint(exhibit.displacement / max(most, 1e-30) * 127)
    levels = np.where((levels == 0) & (exhibit.displacement != 0), np.sign(exhibit.displacement), levels)
    return {
        "title": exhibit.title,
        "points": len(both) // 2,
        "moved": int((exhibit.displacement != 0).sum()),
        "depth": most,
        "apart": exhibit.before.spacing / side,
        "places": [text(np.rint((shape.points - low) / side * 65535), "<u2") for shape in shapes],
        "normals": [text(np.rint(shape.normals * 127), "i1") for shape in shapes],
        "levels": text(levels, "i1"),
    }


def shown_rows(cloud: Cloud, displacement: NDArray[Any], most: int) -> NDArray[np.int64]:
    """Rows of points that are drawn: all that moved, and others up to `most` in all."""
    rows = np.flatnonzero(cloud.valid)
    if len(rows) <= most:
        return rows
    moved = rows[displacement[rows] != 0]
    generator = np.random.default_rng(0)
    # as dense inside as outside, but never fewer than a third of all
    share = min(1.0, max(most / len(rows), most / 3 / max(len(moved), 1)))
    moved = moved[generator.random(len(moved)) < share]
    others = rows[displacement[rows] == 0]
    others = others[generator.random(len(others)) < (most - len(moved)) / max(len(others), 1)]
    return np.sort(np.concatenate([moved, others]))

"""Length, width and the size of a pixel, against shapes and files whose measures are known."""

from __future__ import annotations

import itertools
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish.data.image.measures import measure
from blemish.data.image.resolution import parse_scale
from blemish.data.image.stated import scale_in
from blemish.errors import ConfigError, DataError


def drawn(points: Any, thick: int, side: int = 240) -> np.ndarray:
    """All places within half of `thick` of a line."""
    y, x = np.mgrid[:side, :side] + 0.0
    out = np.zeros((side, side), bool)
    for a, b in itertools.pairwise(np.asarray(points, float)):
        t = np.clip(((x - a[0]) * (b - a)[0] + (y - a[1]) * (b - a)[1]) / ((b - a) ** 2).sum(), 0, 1)
        out |= np.hypot(x - a[0] - t * (b - a)[0], y - a[1] - t * (b - a)[1]) <= thick / 2
    return out


@pytest.mark.parametrize("angle", [0, 12, 22.5, 45, 71, 90])
@pytest.mark.parametrize("thick", [3, 9])
def test_a_straight_scratch_is_as_long_at_every_angle(angle: float, thick: int) -> None:
    away = 80 * np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    found = measure(drawn([120 - away, 120 + away], thick))
    assert found.length == pytest.approx(160 + thick, rel=0.04)
    assert found.width == pytest.approx(thick, abs=2)
    assert found.centre == pytest.approx((120.5, 120.5), abs=1)


def test_a_curved_scratch_is_measured_along_itself() -> None:
    turn = np.linspace(0, math.pi, 60)
    found = measure(drawn(np.stack([120 + 70 * np.cos(turn), 120 + 70 * np.sin(turn)], 1), 5))
    assert found.length == pytest.approx(70 * math.pi + 5, rel=0.05)
    assert found.width == pytest.approx(5, abs=1.5)
    hook = measure(drawn([(40, 40), (40, 160), (160, 160)], 5))
    assert hook.length == pytest.approx(240, rel=0.05)


@pytest.mark.parametrize(("w", "h"), [(1, 1), (1, 7), (8, 1), (20, 20), (31, 12), (2, 2)])
def test_a_rectangle_has_its_sides(w: int, h: int) -> None:
    found = measure(np.ones((h, w), bool))
    assert (found.length, found.width) == pytest.approx((max(w, h), min(w, h)))
    assert found.centre == (w / 2, h / 2)


def test_a_disc_is_as_long_as_wide() -> None:
    y, x = np.ogrid[-30:31, -30:31]
    found = measure(x**2 + y**2 <= 30**2)
    assert found.length == pytest.approx(61, rel=0.03)
    assert found.width == pytest.approx(61, rel=0.03)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0.05mm", 0.05), ("0.05mm/px", 0.05), ("50um", 0.05), ("50 µm / px", 0.05), ("20px/mm", 0.05),
        ("1cm", 10.0), ("2 pixels/um", 0.0005), (".5mm", 0.5), ("5e-2mm", 0.05), ("0.05MM", 0.05), ("file", None),
    ],
)  # fmt: skip
def test_a_scale_is_understood(text: str, size: float | None) -> None:
    assert parse_scale(text) == (size if size is None else pytest.approx(size))


@pytest.mark.parametrize(
    "text",
    ["", "mm", "0.05", "0.05 inch", "-1mm", "0mm", "0px/mm", "nanmm", "1e9mm", "px/mm", "1mm2", "a file"],
)
def test_what_is_no_scale(text: str) -> None:
    with pytest.raises(ConfigError, match="scale") as caught:
        parse_scale(text)
    assert "20px/mm" in str(caught.value.hint)


def saved(folder: Path, form: str, **known: Any) -> Path:
    path = folder / f"a.{form}"
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(path, **known)
    return path


@pytest.mark.parametrize("form", ["png", "jpg", "tif"])
def test_a_file_states_its_resolution(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path, form, dpi=(508, 508))
    assert scale_in(path) == pytest.approx(0.05, rel=0.01)
    assert scale_in(path.read_bytes()) == scale_in(BytesIO(path.read_bytes())) == scale_in(path)


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({}, "states no resolution"),
        ({"dpi": (72, 72)}, "states 7[12].* dpi, which"),
        ({"dpi": (96, 96)}, "states 96.* dpi, which"),
        ({"dpi": (300, 600)}, "not square"),
    ],
)
@pytest.mark.parametrize("form", ["png", "jpg", "tif"])
def test_resolutions_that_mean_nothing_are_refused(tmp_path: Path, form: str, known: Any, says: str) -> None:
    path = saved(tmp_path, form, **known)
    with pytest.raises(DataError, match=says) as caught:
        scale_in(path)
    assert str(path) in str(caught.value)
    assert "--scale" in str(caught.value.hint)


def test_an_array_has_no_file() -> None:
    with pytest.raises(DataError, match="an array"):
        scale_in(np.zeros((4, 4), np.uint8))

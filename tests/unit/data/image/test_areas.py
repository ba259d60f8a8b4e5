"""Regions of interest with names, as people draw them; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish.data.image.areas import area_names, read_drawn
from blemish.errors import DataError

SIZES = [(64, 48)]
RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def painted(path: Path, right: Any = GREEN, **options: Any) -> Path:
    image = np.zeros((48, 64, 3), np.uint8)
    image[10:40, 5:25] = RED
    image[5:40, 40:60] = right
    Image.fromarray(image).save(path, **options)
    return path


def polygons(path: Path, regions: Any, **more: Any) -> Path:
    path.write_text(json.dumps({"regions": regions, **more}), encoding="utf-8")
    return path


def square(x: float, y: float, side: float, **more: Any) -> dict[str, Any]:
    return {"polygon": [[x, y], [x + side, y], [x + side, y + side], [x, y + side]], **more}


def test_each_colour_is_an_area_named_from_above_or_by_a_file_beside_it(tmp_path: Path) -> None:
    path = painted(tmp_path / "roi.png")
    drawn = read_drawn(path, SIZES)
    assert list(drawn.areas) == ["region-1", "region-2"] == list(area_names(path))
    assert drawn.areas["region-1"][5, 40]  # the higher one
    assert drawn.inside.sum() == 30 * 20 + 35 * 20
    (tmp_path / "roi.json").write_text('{"#FF0000": "seal"}')
    assert set(area_names(path)) == {"seal", "region-1"}
    assert read_drawn(path, SIZES).areas["seal"][10, 5]
    assert list(area_names(painted(tmp_path / "white.png", WHITE))) == ["region-1", "region-2"]


def test_one_colour_and_grey_are_a_plain_mask(tmp_path: Path) -> None:
    for name, image in (("one", painted(tmp_path / "one.png", RED)), ("jpeg", painted(tmp_path / "a.jpg"))):
        assert area_names(image) == (), name
    grey = tmp_path / "grey.png"
    Image.fromarray(np.repeat(np.arange(64, dtype=np.uint8)[None], 48, 0)).save(grey)
    drawn = read_drawn(grey, SIZES)
    assert (drawn.areas, drawn.inside.sum()) == ({}, 63 * 48)


def test_polygons_in_pixels_and_in_shares(tmp_path: Path) -> None:
    regions = [square(0, 0, 20, name="seal"), square(30, 10, 20, name="rim"), square(35, 15, 5, kind="ignore")]
    drawn = read_drawn(polygons(tmp_path / "a.json", regions), SIZES)
    assert {name: int(mask.sum()) for name, mask in drawn.areas.items()} == pytest.approx(
        {"seal": 400, "rim": 375}, rel=0.12
    )
    assert not drawn.areas["rim"][17, 37]
    shares = polygons(tmp_path / "b.json", [square(0.25, 0.25, 0.5, name="seal")])
    found = read_drawn(shares, [(64, 48), (640, 100)])
    assert found.relative
    assert found.inside.mean() == pytest.approx(0.25, abs=0.03)


def test_only_ignored_leaves_the_rest(tmp_path: Path) -> None:
    drawn = read_drawn(polygons(tmp_path / "a.json", [square(0, 0, 20, name="label", kind="ignore")]), SIZES)
    assert drawn.areas == {}
    assert not drawn.inside[5, 5]
    assert drawn.inside[30, 40]


def test_areas_of_one_name_are_one_and_later_ones_lie_above(tmp_path: Path) -> None:
    regions = [square(0, 0, 10, name="a"), square(30, 0, 10, name="a"), square(5, 0, 10, name="b")]
    drawn = read_drawn(polygons(tmp_path / "a.json", regions), SIZES)
    assert drawn.areas["a"][5, 35]
    assert drawn.areas["b"][5, 8]
    assert not drawn.areas["a"][5, 8]


@pytest.mark.parametrize(
    ("regions", "says"),
    [
        ([square(50, 40, 20, name="seal")], r"region 'seal' has a point \(70, 40\) outside of a picture of 64 x 48"),
        ([square(-1, 0, 20, name="seal")], "outside of"),
        ([{"name": "seal", "polygon": [[0, 0], [20, 20], [20, 0], [0, 20]]}], "region 'seal' crosses itself"),
        ([{"name": "seal", "polygon": [[0, 0], [20, 20]]}], "three points"),
        ([{"name": "seal", "polygon": [[0, 0], [20, 20], [30, 30]]}], "crosses itself|is empty"),
        ([square(0, 0, 10, name="a"), square(0, 0, 30, name="b")], "region 'a' is empty"),
        ([square(0, 0, 10, name="a"), square(0, 0, 30, kind="ignore")], "region 'a' is empty"),
        ([square(0, 0, 10, name=3)], "no name"),
        ([square(0, 0, 10, kind="skip")], "of kind 'skip'"),
        ([square(0, 0, 10, nmae="seal")], "unknown 'nmae'"),
        ([{"polygon": [[0, 0], [1, "x"], [2, 2]]}], "point"),
        ([{"polygon": [[0, 0], [1, float("nan")], [2, 2]]}], "point"),
        ([3], "no object"),
        ([], "no list 'regions'"),
        ({}, "no list 'regions'"),
    ],
)
def test_polygons_that_cannot_be_used_are_named(tmp_path: Path, regions: Any, says: str) -> None:
    path = polygons(tmp_path / "a.json", regions)
    with pytest.raises(DataError, match=says) as caught:
        read_drawn(path, SIZES)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "a.json"
    broken.write_text('{"regions": [')
    with pytest.raises(DataError, match="is no JSON"):
        read_drawn(broken, SIZES)
    pixels = polygons(tmp_path / "b.json", [square(0, 0, 20)])
    with pytest.raises(DataError, match="pictures have 2 sizes"):
        read_drawn(pixels, [(64, 48), (128, 96)])
    stated = polygons(tmp_path / "c.json", [square(0, 0, 20)], size=[64, 48])
    assert read_drawn(stated, [(64, 48), (128, 96)]).inside.shape == (48, 64)
    with pytest.raises(DataError, match="'size'"):
        read_drawn(polygons(tmp_path / "d.json", [square(0, 0, 20)], size=[64]), SIZES)
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with pytest.raises(DataError, match="colours, and an area is one") as caught:
        area_names(tmp_path / "noise.png")
    assert "smoothing" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ('{"#0000ff": "x"}', "nothing in #0000ff"),
        ('{"red": "x"}', "'red' is no colour"),
        ('{"#000000": "x"}', "no colour other than black"),
        ('{"#ff0000": ""}', "does not name colours"),
        ('{"#ff0000": "x", "#00ff00": "x"}', "one name to two"),
        ('{"#ff0000"', "is no JSON"),
    ],
)
def test_names_of_colours_that_cannot_be_used(tmp_path: Path, names: str, says: str) -> None:
    path = painted(tmp_path / "roi.png")
    (tmp_path / "roi.json").write_text(names)
    with pytest.raises(DataError, match=says):
        read_drawn(path, SIZES)

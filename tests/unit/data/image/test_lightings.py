"""Which lightings there are, which files show them, and that what is missing is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blemish.data.image.lightings import Lightings
from blemish.data.image.modality import Images
from blemish.data.image.preprocess import Preprocess
from blemish.data.modality import Cut
from blemish.errors import ConfigError, DataError
from blemish.learning.options import FitOptions
from blemish.types import Record

NAMES = ("left", "right", "far-left")
CUT = Cut(lightings=NAMES[:2])


def of(*texts: str) -> Lightings:
    found = Lightings.parse(texts)
    assert found is not None
    return found


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (("left", "left"), "'left' is named twice"),
        (("left", "nir=3"), "'left' names no channels, and others do"),
        (("a=0,1",), "'a=0,1' .* has 2 channels"),
        (("a=x",), "'a=x' .* is not understood"),
        (("",), "'' .* is not understood"),
        (("a/b",), "'a/b' .* is not understood"),
        (("_a",), "'_a' .* is not understood"),
        (tuple(f"k{i}" for i in range(17)), "17 channels"),
        (tuple(f"k{i}=0,1,2" for i in range(6)), "18 channels"),
    ],
)
def test_what_is_no_lighting_is_said(texts: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        FitOptions(lightings=texts)
    assert "--lighting" in str(error.value)


def test_sixteen_channels_are_taken() -> None:
    assert len(of(*(f"k{i}" for i in range(16))).each) == 16
    assert of("colour=0,1,2", "nir=3").texts == ("colour=0,1,2", "nir=3")
    assert Lightings.parse(()) is None


def test_method_auto_is_refused() -> None:
    with pytest.raises(ConfigError, match="named method"):
        FitOptions(method="auto", lightings=("left", "right"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("good/07_left.png", "good/07_right.png"),
        ("good/07-left.png", "good/07-right.png"),
        ("good/07.left.png", "good/07.right.png"),
        ("good/07/left.png", "good/07/right.png"),
        ("good/left/07.png", "good/right/07.png"),
        ("left/good/07.png", "right/good/07.png"),
        ("left/a/07_left.png", "left/a/07_right.png"),
        ("good/07_left.png", "good/07_right.tiff"),
    ],
)
def test_a_file_is_found_by_the_name_of_its_lighting(tmp_path: Path, first: str, second: str) -> None:
    touched(tmp_path / first, tmp_path / second)
    files = of("left", "right").at(tmp_path / first)
    assert [(file.name, file.path) for file in files] == [("left", tmp_path / first), ("right", tmp_path / second)]


def test_the_longest_name_counts(tmp_path: Path) -> None:
    assert of(*NAMES).shown_by(tmp_path / "07_far-left.png") == "far-left"
    assert of(*NAMES).shown_by(tmp_path / "07_left.png") == "left"
    with pytest.raises(DataError, match="says none of the lightings"):
        of(*NAMES).shown_by(tmp_path / "07_upleft.png")


def test_a_missing_lighting_is_named_with_its_path(tmp_path: Path) -> None:
    touched(tmp_path / "07_left.png")
    with pytest.raises(DataError, match="lighting 'right' is missing") as error:
        of("left", "right").at(tmp_path / "07_left.png")
    assert str(tmp_path / "07_right.png") in str(error.value)


def test_two_files_of_one_lighting_are_an_error(tmp_path: Path) -> None:
    touched(tmp_path / "07_left.png", tmp_path / "07_right.tif", tmp_path / "07_right.bmp")
    with pytest.raises(DataError, match="2 files may be it"):
        of("left", "right").at(tmp_path / "07_left.png")


def test_another_lighting_does_not_stand_for_a_sample(tmp_path: Path) -> None:
    touched(tmp_path / "07_left.png", tmp_path / "07_right.png")
    with pytest.raises(DataError, match="shows the lighting 'right', not 'left'") as error:
        of("left", "right").at(tmp_path / "07_right.png")
    assert "07_left.png" in str(error.value.hint)


def test_a_folder_lists_samples_and_what_belongs_to_none(tmp_path: Path) -> None:
    touched(*(tmp_path / f"{part}_{name}.png" for part in ("a", "b") for name in NAMES[:2]))
    touched(tmp_path / "c_right.png", tmp_path / "plain.png")
    found = Images.listing(tmp_path, CUT)
    assert [path.name for path in found.files] == ["a_left.png", "b_left.png"]
    assert [error.path and error.path.name for error in found.unread] == ["c_right.png", "plain.png"]
    assert "lighting 'left' is missing" in str(found.unread[0])
    assert len(Images.listing(tmp_path).files) == 6  # without lightings each is a picture


def test_records_get_their_files_and_nothing_is_left_out_in_silence(tmp_path: Path) -> None:
    paths = [tmp_path / f"{part}_{name}.png" for part in ("a", "b") for name in ("left", "right")]
    touched(*paths)
    records = [Record(path.name, path) for path in paths]
    done = Images.completed(records, CUT)
    assert [(r.id, [f.name for f in r.lightings]) for r in done] == [
        ("a_left.png", ["left", "right"]),
        ("b_left.png", ["left", "right"]),
    ]
    assert Images.completed(done, CUT) == done
    with pytest.raises(DataError, match="of a sample that is not listed"):
        Images.completed(records[1:], CUT)
    paths[2].unlink()
    with pytest.raises(DataError, match="lighting 'left' is missing"):
        Images.completed([records[0], records[1], records[3]], CUT)
    with pytest.raises(DataError, match="has the lightings left, right, and left, top are learned"):
        Images.completed(done, Cut(lightings=("left", "top")))


def test_arrays_are_listed_where_a_file_shows_all(tmp_path: Path) -> None:
    touched(tmp_path / "a.npy")
    assert [path.name for path in Images.listing(tmp_path, Cut(lightings=("nir=3",))).files] == ["a.npy"]
    assert Images.listing(tmp_path, CUT).files == []
    assert Images.listing(tmp_path, CUT).other == {".npy": 1}


@pytest.mark.parametrize("texts", [("left", "right"), ("colour=0,1,2", "nir=3")])
def test_a_plan_is_restored_from_json(texts: tuple[str, ...]) -> None:
    plan = Preprocess((48, 64), lightings=of(*texts))
    kept: dict[str, Any] = json.loads(json.dumps(plan.to_json()))
    assert Preprocess.from_json(kept) == plan
    assert Preprocess.from_json(kept).to_json() == kept
    del kept["lightings"]["each"][0]["name"]
    with pytest.raises(ConfigError, match="not understood"):
        Preprocess.from_json(kept)


def test_a_plan_without_lightings_is_written_as_before() -> None:
    plan = Preprocess((48, 64))
    assert "lightings" not in plan.to_json()
    assert plan.rendering() == {"size": [48, 64], "white_uint16": 65535.0, "white_float": 1.0, "roi": None}

"""Lightings by the command line: a file for each, and channels of one file."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish import Detector
from blemish.errors import DataError
from tests.fakes import FakeBackbone
from tests.lit import pages, part, write

FIT = ["--method", "padim", "--image-size", "64x48", "--false-alarm-rate", "0.2", "--no-cache"]
CHANNELS = ["--lighting", "colour=0,1,2", "--lighting", "nir=3"]
Run = Callable[..., Any]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Run:
    from blemish.cli import main

    def run(*arguments: Any, code: int = 0) -> tuple[list[dict[str, Any]], str]:
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        out = capsys.readouterr()
        assert (ended.value.code or 0) == code, out.err
        return [json.loads(line) for line in out.out.splitlines()], out.err

    return run


def four(seed: int, defect: int | None = None) -> np.ndarray[Any, Any]:
    """(H, W, 4): colour, and near infrared, in which a defect may show."""
    visible = part(seed, None if defect != 0 else 0)[..., :1]
    return np.concatenate([np.repeat(visible, 3, axis=2), part(seed + 1, 1 if defect == 3 else None)[..., 1:]], axis=2)


def test_a_file_for_each_lighting(cli: Run, tmp_path: Path) -> None:
    for seed in range(16):
        write(tmp_path / "good", f"{seed:02}", part(seed))
    new = [write(tmp_path / "new", f"{seed}", part(seed, defect)) for seed, defect in ((100, None), (101, 1))]
    (fitted,), said = cli(
        "fit", tmp_path / "good", "--out", tmp_path / "m", *FIT, "--lighting", "left", "--lighting", "right"
    )
    assert "learning from 16 images" in said
    assert fitted["lightings"] == ["left", "right"]
    rows, _ = cli("inspect", tmp_path / "m", tmp_path / "new", "--maps", tmp_path / "maps")
    assert [(row["pred_label"], row["lightings"]) for row in rows] == [
        ("good", ["left", "right"]),
        ("anomalous", ["left", "right"]),
    ]
    assert sorted(path.name for path in (tmp_path / "maps").glob("*.png")) == ["100_left.png", "101_left.png"]
    named = [path for first in new for path in (first, first.with_name(first.name.replace("left", "right")))]
    again, _ = cli("inspect", tmp_path / "m", *named)  # as a shell's pattern names them
    assert [row["pred_score"] for row in again] == [row["pred_score"] for row in rows]
    named[1].unlink()
    rows, said = cli("inspect", tmp_path / "m", tmp_path / "new", code=1)
    assert "its lighting 'right' is missing" in rows[0]["error"]
    assert str(named[1]) in rows[0]["error"]
    assert rows[0]["hint"]
    assert rows[1]["pred_label"] == "anomalous"
    rows, _ = cli("inspect", tmp_path / "m", named[3], code=1)
    assert "shows the lighting 'right'" in rows[0]["error"]


def saved_npy(path: Path, sample: np.ndarray[Any, Any]) -> Path:
    np.save(path.with_suffix(".npy"), sample)
    return path.with_suffix(".npy")


def saved_pages(path: Path, sample: np.ndarray[Any, Any]) -> Path:
    path.with_suffix(".tif").write_bytes(pages(sample))
    return path.with_suffix(".tif")


def saved_deep(path: Path, sample: np.ndarray[Any, Any]) -> Path:
    path.with_suffix(".tif").write_bytes(pages(sample.astype(np.uint16) * 16))
    return path.with_suffix(".tif")


@pytest.mark.parametrize("save", [saved_npy, saved_pages, saved_deep])
def test_channels_of_one_file(cli: Run, tmp_path: Path, save: Callable[[Path, Any], Path]) -> None:
    for name in ("good", "new"):
        (tmp_path / name).mkdir()
    for seed in range(16):
        save(tmp_path / "good" / f"{seed:02}", four(seed))
    for seed, defect in ((100, None), (101, 0), (102, 3)):
        last = save(tmp_path / "new" / f"{seed}", four(seed, defect))
    (fitted,), _ = cli("fit", tmp_path / "good", "--out", tmp_path / "m", *FIT, *CHANNELS)
    assert fitted["lightings"] == ["colour", "nir"]
    rows, _ = cli("inspect", tmp_path / "m", tmp_path / "new")
    assert [row["pred_label"] for row in rows] == ["good", "anomalous", "anomalous"]
    detector = Detector.load(tmp_path / "m")
    assert detector.inspect(last.read_bytes()).score == rows[2]["pred_score"]
    assert detector.inspect(BytesIO(last.read_bytes())).score == rows[2]["pred_score"]
    save(tmp_path / "new" / "103", four(103)[..., :3])
    rows, _ = cli("inspect", tmp_path / "m", tmp_path / "new", code=1)
    assert "has 3 channels" in rows[3]["error"]
    save(tmp_path / "new" / "103", np.concatenate([four(103), four(103)], axis=2))
    rows, _ = cli("inspect", tmp_path / "m", tmp_path / "new", code=1)
    assert "has 8 channels, and the good images have 4" in rows[3]["error"]


def test_an_array_of_all_channels_is_one_sample(tmp_path: Path) -> None:
    for seed in range(16):
        saved_npy(tmp_path / f"{seed}", four(seed))
    texts = ("colour=0,1,2", "nir=3")
    options: dict[str, Any] = {"image_size": "64x48", "false_alarm_rate": 0.2, "cache": False, "lightings": texts}
    detector = Detector("padim", backbone=FakeBackbone(), **options).fit(tmp_path)
    sample = four(102, 3)
    result = detector.inspect(sample)
    assert result.verdict == "anomalous"
    assert detector.inspect({"nir": sample[..., 3], "colour": sample[..., :3]}).score == result.score
    assert [r.score for r in detector.inspect_many([sample])] == [result.score]
    with pytest.raises(DataError, match="one image, not several"):
        detector.inspect_many(sample)
    with pytest.raises(DataError, match="has 5 channels, and the good images have 4"):
        detector.inspect(np.zeros((48, 64, 5), np.uint8))
    saved_npy(tmp_path / "20", four(20)[..., :3])
    with pytest.raises(DataError, match="no channel 3"):
        Detector("padim", backbone=FakeBackbone(), **options).fit(tmp_path)
    saved_npy(tmp_path / "20", np.concatenate([four(20), four(20)], axis=2))
    with pytest.raises(DataError, match="has 8 channels, and the good images have 4"):
        Detector("padim", backbone=FakeBackbone(), **options).fit(tmp_path)


def test_what_is_wrong_with_the_option_is_said_before_work(cli: Run, tmp_path: Path) -> None:
    write(tmp_path / "good", "1", part(1))
    out = tmp_path / "m"
    _, said = cli("fit", tmp_path / "good", "--out", out, *FIT, "--lighting", "left", "--lighting", "nir=3", code=2)
    assert "lighting 'left' names no channels, and others do" in said
    _, said = cli("fit", tmp_path / "good", "--out", out, *FIT, "--lighting", "left", "--lighting", "top", code=1)
    assert "lighting 'top' is missing" in said
    assert not out.exists()


def test_a_file_of_many_channels_names_the_option(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    saved_pages(tmp_path / "good" / "1", four(1))
    _, said = cli("fit", tmp_path / "good", "--out", tmp_path / "m", *FIT, code=1)
    assert "--lighting" in said

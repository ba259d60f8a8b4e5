"""What `fit` and `evaluate` say of what they take for what: folders, groups, masks, a region of interest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.fakes import SIZE, write_images, write_mvtec
from tests.unit.cli.test_cli_commands import FIT, failed, lines, real

pytestmark = real


def test_fit_says_which_folders_it_learns_from(run: Any, tmp_path: Path) -> None:
    for name, count in (("cam1", 2), ("cam2", 3)):
        write_images(tmp_path / "line" / name, count, first=10 * count)
    write_images(tmp_path / "line" / ".Trash-1000" / "files", 2, first=90)
    done = run("fit", tmp_path / "line", "--out", tmp_path / "m", *FIT, "--calibration", "none")
    assert done.code == 0
    first, second = done.err.splitlines()
    assert first.startswith("warning: ")
    assert "2 images in hidden or system folders are left out: '.Trash-1000'" in first
    assert second == "learning from 5 images: 2 folders: cam1 2, cam2 3"


def test_a_group_that_is_no_plain_name_is_refused_before_any_work(run: Any, tmp_path: Path) -> None:
    write_images(tmp_path / "good", 4)
    rows = ["path,group", *(f"good/{i:03d}.png,{'a' if i < 2 else '../../escaped'}" for i in range(4))]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    failed(run("fit", tmp_path / "m.csv", "--out", tmp_path / "x" / "models", *FIT), 1, "line 4: group '../../escaped'")
    assert {path.name for path in tmp_path.iterdir()} == {"good", "m.csv"}


def test_the_share_of_a_region_of_interest_is_said(run: Any, tmp_path: Path) -> None:
    write_images(tmp_path / "good", 4)
    mask = np.zeros(SIZE, np.uint8)
    mask[:, : SIZE[1] // 2] = 1
    Image.fromarray(mask).save(tmp_path / "roi.png")
    options = (*FIT, "--calibration", "none", "--roi", tmp_path / "roi.png")
    done = run("fit", tmp_path / "good", "--out", tmp_path / "m", *options)
    assert "region of interest: 50% of the picture is inspected" in done.err.splitlines()
    assert lines(done)[0]["inspected"] == 0.5


def test_a_mask_that_cannot_be_used_is_a_line_and_exit_code_1(run: Any, tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "thing", train=12, test=3)
    run("fit", root, "--out", tmp_path / "m", *FIT, "--calibration", "none")
    (root / "ground_truth" / "spot" / "001_mask.png").write_bytes(b"no picture")
    figures = tmp_path / "f.json"
    done = run("evaluate", tmp_path / "m", root, "--json", figures, "--report", tmp_path / "r.html")
    assert done.code == 1
    assert "warning: not measured in pixels: test/spot/001.png: " in done.err
    assert "001_mask.png" in done.err
    written = json.loads(figures.read_text())
    assert written["overall"]["anomalous"] == 3
    assert written["setting"]["masks"] == {"marked": 2, "missing": 0, "unusable": 1, "empty": 0, "whole": 0}
    assert [image["id"] for image in written["unusable_masks"]] == ["test/spot/001.png"]


@pytest.mark.parametrize("name", ["OK", "Normal"])
def test_good_test_images_by_another_name_are_good(run: Any, tmp_path: Path, name: str) -> None:
    root = write_mvtec(tmp_path / "thing", train=12, test=3)
    run("fit", root, "--out", tmp_path / "m", *FIT, "--calibration", "none")
    shutil.move(root / "test" / "good", root / "test" / name)
    done = run("evaluate", tmp_path / "m", root)
    assert done.code == 0
    assert "3 good and 3 anomalous images" in done.out

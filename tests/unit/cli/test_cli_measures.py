"""What commands print of measured regions."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish.inspection import modelfile
from tests.fakes import FakeBackbone, good_image, write_mvtec
from tests.tiny import fit_tiny


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measures")
    modelfile.save(fit_tiny(folder / "fit", scale="0.1mm"), folder / "m")
    (folder / "parts").mkdir()
    spotted = good_image(900)
    spotted[20:26, 10:50] = 255
    for name, image in (("good", good_image(901)), ("spotted", spotted)):
        Image.fromarray(np.asarray(image)).save(folder / "parts" / f"{name}.png")
    return folder


def test_csv_has_the_longest_region_of_each_image(work: Path, run: Any) -> None:
    lines = run("inspect", work / "m", work / "parts").rows
    table = list(csv.DictReader(io.StringIO(run("inspect", work / "m", work / "parts", "--format", "csv").out)))
    for line, row in zip(lines, table, strict=True):
        assert row["count"] == str(len(line["regions"]))
        longest = max(line["regions"], key=lambda r: r["length_mm"], default=None)
        for name in ("length_mm", "width_mm", "area_mm2"):
            assert row[name] == ("" if longest is None else str(longest[name]))
        assert len(row["position_mm"].split()) == (0 if longest is None else 2)
    assert table[1]["count"] != "0"


def test_the_scale_may_be_given_at_inspection(work: Path, run: Any) -> None:
    (_, wide), (_, fine) = (run("inspect", work / "m", work / "parts", "--scale", s).rows for s in ("1mm", "0.5mm"))
    assert wide["regions"][0]["length_mm"] == pytest.approx(2 * fine["regions"][0]["length_mm"])
    done = run("inspect", work / "m", work / "parts", "--scale", "1")
    assert (done.code, done.out) == (2, "")
    assert "has no unit" in done.err


@pytest.fixture(scope="module")
def judged(work: Path) -> Path:
    rules = ["long: length > 2.5mm", "count > 40"]
    modelfile.save(fit_tiny(work / "ruled", scale="0.1mm", rules=rules), work / "r")
    return work / "r"


def test_rules_that_fire_are_printed_and_decide_the_exit_code(work: Path, judged: Path, run: Any) -> None:
    done = run("inspect", judged, work / "parts" / "spotted.png", "--fail-on-anomaly")
    assert done.code == 3
    assert [rule["fired"] for rule in done.rows[0]["rules"]] == [True, False]
    table = list(csv.DictReader(io.StringIO(run("inspect", judged, work / "parts", "--format", "csv").out)))
    assert [row["rules"] for row in table] == ["", "long: length > 2.5mm"]
    assert {row["decided_by"] for row in table} == {"rules"}


def test_the_report_says_what_was_promised_and_shows_millimetres(work: Path, judged: Path, run: Any) -> None:
    write_mvtec(work / "set", train=3, test=4)
    done = run("evaluate", judged, work / "set", "--report", work / "report.html")
    assert done.code == 0, done.err
    text = (work / "report.html").read_text(encoding="utf-8")
    assert "long: length &gt; 2.5mm; count &gt; 40" in text
    assert "of good images fire a rule" in text
    assert "areas or rules decide" in text
    assert re.search(r"longest region [\d.]+ × [\d.]+ mm at", text)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rule", "length > 3"), "unit of length 3 is missing"),
        (("--rule", "length > 3mm"), "size of a pixel is not known"),
        (("--scale", "3"), "has no unit"),
        (("--region-rate", "2"), "between 0 and 1"),
        (("--roi", "broken.json"), "is no JSON"),
        (("--decide", "both"), "there is no rule"),
    ],
)
def test_what_cannot_be_kept_is_one_error_with_a_hint(
    work: Path, run: Any, options: tuple[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    (work / "broken.json").write_text("{")
    monkeypatch.setattr("blemish.learning.fit.load_backbone", lambda _: FakeBackbone())
    done = run(
        "fit", work / "parts", "--method", "padim", "--calibration", "none", "--no-cache", "--out", "x", *options
    )
    assert (done.code in (1, 2), done.out) == (True, "")
    assert says in done.err
    assert "hint: " in done.err
    assert not (work / "x").exists()

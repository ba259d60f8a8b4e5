"""What the light core does by itself, on every system: it inspects, evaluates and calibrates a stored model."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blemish
from blemish import Detector
from blemish.cli import main
from tests.light.parts import MODEL, RATE, defective, good, write, write_data_set, write_good

LEARNING = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "safetensors", "pydantic", "scipy")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    with pytest.raises(SystemExit) as end:
        main([os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments])
    printed = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, printed.out, printed.err


def results(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the stored model."""
    return Path(shutil.copytree(MODEL, tmp_path / "Stück 1.blemish"))


def process(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False)


def script() -> Path:
    """The installed command."""
    return Path(sysconfig.get_path("scripts")) / ("blemish.exe" if sys.platform == "win32" else "blemish")


@pytest.mark.parametrize("command", [[str(script())], [sys.executable, "-m", "blemish"]], ids=["script", "module"])
def test_the_installed_command_runs(command: list[str], tmp_path: Path, model: Path) -> None:
    done = process(*command, "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, version("blemish"), "")
    assert version("blemish") == blemish.__version__
    write(tmp_path / "new parts" / "a.png", defective(7)[0])
    done = process(*command, "inspect", model, "new parts", "--fail-on-anomaly", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "")
    assert [r["pred_label"] for r in results(done.stdout)] == ["anomalous"]


def test_inspecting_loads_nothing_of_the_learning_side(tmp_path: Path) -> None:
    part = write(tmp_path / "part.png", good(5))
    code = (
        "import sys, blemish\n"
        f"assert blemish.Detector.load({str(MODEL)!r}).inspect({str(part)!r}).verdict\n"
        f"print([m for m in {LEARNING!r} if m in sys.modules])"
    )
    done = process(sys.executable, "-c", code, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    "command", ["fit", "inspect", "evaluate", "calibrate", "adapt", "power", "synthesize", "bench", "doctor"]
)
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, err = run(capsys, command, "--help")
    assert (code, err) == (0, "")
    assert "Usage:" in out
    assert f" {command} " in out


def test_doctor_says_that_it_can_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 0
    state = json.loads(out)
    assert state["can_inspect"]
    assert state["cores"] >= 1
    assert state["blemish"] == blemish.__version__


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
def test_formats(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path, suffix: str) -> None:
    fine = write(tmp_path / "grün" / f"a.{suffix}", good(1000))
    flawed = write(tmp_path / "grün" / f"b.{suffix}", defective(1001)[0])
    code, out, err = run(capsys, "inspect", model, tmp_path / "grün")
    assert (code, err) == (0, "")
    first, second = results(out)
    assert [first["image_path"], second["image_path"]] == [str(fine), str(flawed)]
    assert (first["pred_score"] < second["pred_score"], second["pred_label"]) == (True, "anomalous")
    x0, y0, x1, y1 = second["regions"][0]["bbox"]
    assert x0 < 42
    assert x1 > 32
    assert y0 < 21
    assert y1 > 12


def test_good_parts_pass_at_the_promised_rate(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    write_good(tmp_path / "new", 40, first=2000)
    _, out, _ = run(capsys, "inspect", model, tmp_path / "new")
    assert 0 < sum(r["pred_label"] == "good" for r in results(out)) / 40 <= 1


def test_maps_land_where_the_line_says(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    part = write(tmp_path / "new" / "a.png", defective(1001)[0])
    folders = ("--maps", tmp_path / "maps", "--raw-maps", tmp_path / "raw")
    code, out, _ = run(capsys, "inspect", model, part, *folders)
    assert code == 0
    assert Path(results(out)[0]["map"]).is_file()
    (raw,) = (tmp_path / "raw").rglob("*.npy")
    assert np.load(raw).shape == defective(1001)[1].shape


@pytest.mark.parametrize("form", ["csv", "table"])
def test_other_forms(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path, form: str) -> None:
    write_good(tmp_path / "new", 2, first=0)
    code, out, _ = run(capsys, "inspect", model, tmp_path / "new", "--format", form)
    assert code == 0
    assert "0001.png" in out
    if form == "csv":
        assert len(list(csv.DictReader(out.splitlines()))) == 2


def test_threads_change_no_bit(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    write_good(tmp_path / "new", 6, first=0)
    scores = []
    for threads in (1, 2):
        _, out, _ = run(capsys, "inspect", model, tmp_path / "new", "--threads", threads)
        scores.append([r["pred_score"] for r in results(out)])
    assert scores[0] == scores[1]


def test_a_bad_file_is_a_line_and_the_others_are_judged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    write_good(tmp_path / "new", 2, first=0)
    (tmp_path / "new" / "0000.png").write_bytes(b"no picture")
    code, out, _ = run(capsys, "inspect", model, tmp_path / "new")
    bad, fine = results(out)
    assert code == 1
    assert "0000.png" in bad["error"]
    assert (fine["error"], fine["pred_label"] is None) == (None, False)


def test_evaluate_writes_a_report(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    page, figures = tmp_path / "report.html", tmp_path / "figures.json"
    words = ("evaluate", model, write_data_set(tmp_path / "set"), "--report", page, "--json", figures)
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert out
    assert json.loads(figures.read_text(encoding="utf-8"))["overall"]["image"]["auroc"]["value"] == 1
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_calibrate_saves_over_the_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    write_good(tmp_path / "more", 12, first=3000)
    code, out, err = run(capsys, "calibrate", model, tmp_path / "more", "--false-alarm-rate", RATE / 2)
    assert (code, err) == (0, "")
    assert "at most 0.1 of good parts rejected" in out + Detector.load(model).model.promise  # type: ignore[operator]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_library_does_the_same(tmp_path: Path) -> None:
    detector = Detector.load(MODEL)
    image, mask = defective(1001)
    result = detector.inspect(image)
    assert result.verdict == "anomalous"
    assert result.anomaly_map.shape == mask.shape
    assert detector.inspect(write(tmp_path / "a.png", image)).score == result.score
    detector.save(tmp_path / "again.blemish")
    assert Detector.load(tmp_path / "again.blemish").inspect(image).score == result.score


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["inspect", "nowhere.blemish", "."], 1, "nowhere.blemish"),
        (["inspect", MODEL], 2, "argument"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_errors_have_two_lines(
    capsys: pytest.CaptureFixture[str], arguments: list[object], code: int, error: str
) -> None:
    got, _, err = run(capsys, *arguments)
    first, second = err.splitlines()
    assert (got, first[:7], second[:6]) == (code, "error: ", "hint: ")
    assert error in first

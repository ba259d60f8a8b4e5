"""`blemish synthesize` as a user types it: lines on stdout, files, errors, exit codes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import write_images
from tests.tiny import Done, python


@pytest.fixture
def run(run: Any) -> Any:
    """`run`, for this command."""
    return partial(run, "synthesize")


def failed(done: Done, code: int, error: str, hint: str = "") -> None:
    """One `error:` line, one `hint:` line, nothing on stdout."""
    first, second = done.err.splitlines()
    assert (done.code, done.out) == (code, "")
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second


def write_cloud(path: Path, count: int = 2000) -> Path:
    points = np.random.default_rng(0).random((count, 3)) * [1, 0.7, 0] + [0, 0, 1]
    points[:, 2] += 0.1 * points[:, 0] ** 2
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, points, fmt="%.9g")
    return path


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("perlin", ["--area", "0.01", "0.1", "--opacity", "0.5", "1", "--threshold", "0.4", "--finest", "4"]),
        ("texture", ["--shape", "blob", "--shape", "thread", "--textures", "textures"]),
        ("cutpaste", ["--variant", "scar", "--variant", "shift"]),
        ("graded", ["--variant", "crack", "--variant", "uneven", "--area", "0.01", "0.05"]),
    ],
)
def test_images_get_defects(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch, kind: str, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("good"), 3)
    write_images(Path("textures"), 2, first=50)
    done = run(kind, "good", "--out", "made", "--count", 2, "--images", 2, "--seed", 5, *options)
    assert (done.code, done.err) == (0, "")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert len(rows) == 4
    assert all(Path(row["path"]).is_file() and Path(row["mask"]).is_file() for row in rows)
    assert {row["seed"] for row in rows} == {5}
    assert all(0 < row["share"] < 1 for row in rows)
    assert Path("made/sheet.png").is_file()


def test_a_broken_image_is_a_line_with_an_error(tmp_path: Path, run: Any) -> None:
    write_images(tmp_path / "good", 2)
    (tmp_path / "good" / "000.png").write_bytes(b"broken")
    done = run("perlin", tmp_path / "good", "--out", tmp_path / "made", "--no-sheet")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 1
    assert [row["error"] is None for row in rows] == [False, True]
    failed(run("perlin", tmp_path / "good" / "000.png", "--out", tmp_path / "single"), 1, "000.png: ")


def test_wrong_arguments_are_named(tmp_path: Path, run: Any) -> None:
    write_images(tmp_path / "good", 1)
    out = ("--out", tmp_path / "made")
    good = tmp_path / "good"
    failed(run("perlim", good, *out), 2, "No such command 'perlim'")
    failed(run(), 2, "Missing command")
    failed(run("perlin", tmp_path / "none", *out), 1, "no such file or folder")
    failed(run("perlin", good), 2, "--out")
    failed(run("cutpaste", good, *out, "--opacity", 0.1, 0.2), 2, "No such option")
    failed(run("cutpaste", good, *out, "--variant", "scra"), 2, "'scra'", "scar")
    failed(run("graded", good, *out, "--variant", "crak"), 2, "'crak'", "crack")
    failed(run("perlin", good, *out, "--area", 0.5, 0.1), 2, "a mask of 0.5 to 0.1")
    failed(run("texture", good, *out, "--textures", tmp_path / "none"), 1, "holds no images")
    assert not (tmp_path / "made").exists()


def test_help_loads_nothing_heavy() -> None:
    code = "from blemish.cli import main\ntry: main(['synthesize', 'surface3d', '--help'])\nexcept SystemExit: pass"
    heavy = ("numpy", "cv2", "scipy", "torch", "plyfile", "pypcd4", "tifffile", "pydantic")
    done = python("-c", f"{code}\nimport sys\nprint('\\n' + ' '.join(m for m in {heavy!r} if m in sys.modules))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_clouds_get_defects(tmp_path: Path, run: Any) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed: pip install 'blemish[3d]'")
    write_cloud(tmp_path / "in" / "a.xyz")
    write_cloud(tmp_path / "in" / "b.xyz", 10)
    options = ("--preset", "bump", "--strength", 0.03, "--sign", "sink", "--at", 0.5, 0.3, 1, "--no-guard")
    done = run("surface3d", tmp_path / "in", "--out", tmp_path / "made", *options)
    good, bad = (json.loads(line) for line in done.out.splitlines())
    assert done.code == 1
    assert "b.xyz: holds 10 points" in bad["error"]
    record = json.loads(Path(good["path"]).with_suffix(".json").read_text(encoding="utf-8"))
    chosen = record["options"]
    assert (chosen["strength"], chosen["sign"], chosen["guard"], chosen["at"]) == (0.03, "sink", False, [0.5, 0.3, 1.0])
    assert chosen["scale"] == 3.0
    assert np.load(good["labels"]).sum() == good["moved"] > 0
    assert (tmp_path / "made" / "viewer.html").is_file()


def test_wrong_arguments_for_clouds_are_named(tmp_path: Path, run: Any) -> None:
    part, out = write_cloud(tmp_path / "a.xyz"), ("--out", tmp_path / "made")
    (tmp_path / "part.dwg").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    failed(run("surface3d", part, *out, "--preset", "dnet"), 2, "no preset 'dnet'", "dent")
    failed(run("surface3d", part, *out, "--strength", 3), 2, "option 'strength': 3")
    failed(run("surface3d", part, *out, "--format", "dwg"), 2, "'.dwg' is not written")
    failed(run("surface3d", part, *out, "--sign", "up"), 2, "--sign")
    failed(run("surface3d", part, *out, "--format", "stl"), 1, "an STL holds faces", ".ply")
    failed(run("surface3d", tmp_path / "part.dwg", *out), 1, "part.dwg: '.dwg' is no kind")
    failed(run("surface3d", tmp_path / "none.ply", *out), 1, "none.ply: no such file")
    failed(run("surface3d", tmp_path / "empty", *out), 1, "no point clouds in this folder")

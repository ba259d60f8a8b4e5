"""A process that dies at any moment leaves a model that is whole or absent, and a cache that is sound.

`BLEMISH_KILLS=50` makes the long run; the default keeps the suite short.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from blemish.errors import ModelFileError
from blemish.inspection import modelfile
from blemish.inspection.inspector import Inspector
from blemish.learning.backbones.cache import FeatureCache
from tests.fakes import good_image, write_images
from tests.tiny import ROOT, fit_tiny

KILLS = int(os.environ.get("BLEMISH_KILLS", "8"))
STATION = Path(__file__).with_name("_station.py")


@pytest.fixture
def stations(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The process that forks a station for each line it reads."""
    paths = [p for p in (os.environ.get("PYTHONPATH"), str(ROOT)) if p]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "BLEMISH_CACHE": str(tmp_path / "cache")}
    arguments = [sys.executable, str(STATION), str(tmp_path / "good"), str(tmp_path / "part.blemish")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(arguments, env=environment, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        yield process


def run_and_kill(stations: subprocess.Popen[str], seconds: float, *, saving: bool) -> None:
    """Start a station, and kill it some time after its start, or after its first save may have begun."""
    assert stations.stdin is not None
    assert stations.stdout is not None
    stations.stdin.write("\n")
    stations.stdin.flush()
    pid = int(stations.stdout.readline())
    if saving:
        assert stations.stdout.readline() == "ready\n"
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    while stations.stdout.readline() != "gone\n":
        assert stations.poll() is None


def state_of(out: Path) -> str:
    """`absent` or `whole`; anything else fails."""
    if not out.exists():
        return "absent"
    model = modelfile.load(out)
    result = Inspector(model, threads=1).inspect(good_image(3))
    assert result.verdict in ("good", "anomalous")
    return "whole"


def check_cache(root: Path) -> None:
    """Every entry is whole: its checksum is that of its values."""
    for path in (root / "features").rglob("*.feat"):
        data = path.read_bytes()
        assert data[:8] == b"BLEMFEA1"
        assert int.from_bytes(data[8:12], "little") == zlib.crc32(data[16:])


def check_left_overs(folder: Path) -> None:
    """What a killed writer leaves beside the model is hidden, and no half of a model loads as one."""
    for path in folder.iterdir():
        if path.suffix == ".partial" and not (path / "model.json").exists():
            with pytest.raises(ModelFileError):
                modelfile.load(path)
        assert path.name in ("part.blemish", "cache", "good") or path.name.startswith(".part.blemish.")


def test_killed_at_random_moments(tmp_path: Path, stations: subprocess.Popen[str]) -> None:
    generator = random.Random(0)
    good, out = tmp_path / "good", tmp_path / "part.blemish"
    records = write_images(good, 6)
    seen: Counter[str] = Counter()
    for i in range(KILLS):
        saving = i % 4 != 3
        run_and_kill(stations, generator.uniform(0, 0.4 if saving else 1.5), saving=saving)
        seen[state_of(out)] += 1
        check_cache(tmp_path / "cache")
        check_left_overs(tmp_path)
    print(f"\n{KILLS} kills: {dict(seen)}; left over: {sum(1 for p in tmp_path.iterdir() if p.name.startswith('.'))}")
    assert seen["whole"] > 0
    model = fit_tiny(tmp_path, records, calibration="none", cache=FeatureCache(tmp_path / "cache"))
    modelfile.save(model, out)
    assert modelfile.load(out) == model
    assert FeatureCache(tmp_path / "cache").clear() >= len(records)
    assert [p for p in (tmp_path / "cache" / "features").rglob("*") if p.is_file()] == []

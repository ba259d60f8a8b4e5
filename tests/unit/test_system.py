"""What a process may have: memory, as far as it is known, and forks that cut nothing in half."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from google.protobuf.message import EncodeError

from blemish import system
from blemish.errors import BlemishError, ConfigError, ExportError, ResourceError
from blemish.learning import footprint
from blemish.learning.onnx_parts import written
from blemish.learning.sources.features import FeatureSource
from blemish.methods import padim, patchcore
from blemish.system import Free, Gate, check_memory, free_memory, is_out_of_memory, memory_for
from blemish.types import FeatureSpec
from tests.tiny import fit_tiny

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is free")
SPEC = FeatureSpec((0,), (100,), ((50, 50),))


@linux
def test_the_tightest_limit_counts() -> None:
    free = free_memory()
    assert free is not None
    assert free.bytes > 0
    code = "from blemish.system import free_memory; print(*free_memory())"
    printed = subprocess.run(
        ["bash", "-c", f"ulimit -v 600000; {sys.executable} -c '{code}'"], capture_output=True, text=True, check=True
    ).stdout
    assert "ulimit -v" in printed
    assert int(printed.split()[0]) < 600_000 * 1024


def group(folder: Path, **values: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / f"memory.{name}").write_text(f"{value}\n")


def test_limits_of_control_groups(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/user/job\n")
    group(tmp_path / "fs", max="max", current=1)
    group(tmp_path / "fs" / "user", max=1000, current=700, stat="anon 5\ninactive_file 100")
    group(tmp_path / "fs" / "user" / "job", max="max", current=600)
    assert [f.bytes for f in system._group_limits(tmp_path / "fs", str(membership))] == [400]
    membership.write_text("7:cpu:/x\n4:memory:/box\n")
    group(tmp_path / "fs" / "memory" / "box", limit_in_bytes=900, usage_in_bytes=850, stat="total_inactive_file 30")
    assert [f.bytes for f in system._group_limits(tmp_path / "fs", str(membership))] == [80]
    assert not list(system._group_limits(tmp_path / "fs", str(tmp_path / "absent")))


def test_nothing_is_refused_where_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "free_memory", lambda: None)
    check_memory(10**18, "it", "less")
    monkeypatch.setattr(system, "free_memory", lambda: Free(2**30, "of a test"))
    check_memory(2**30, "it", "less")
    with pytest.raises(ResourceError, match=r"it needs at least 2 GiB, and 1 GiB of a test is free") as caught:
        check_memory(2**31, "it", "less")
    assert caught.value.hint == "less"


class cv2Error(Exception):
    __module__ = "cv2"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
        cv2Error("(-4:Insufficient memory) Failed to allocate 1 bytes"),
    ],
)
def test_what_libraries_say_when_memory_runs_out(error: Exception) -> None:
    assert is_out_of_memory(error)
    with pytest.raises(ResourceError, match="out of memory in learning") as caught, memory_for("learning", "less"):
        raise error
    assert caught.value.hint == "less"
    assert isinstance(caught.value, BlemishError)
    assert isinstance(caught.value, MemoryError)


def test_other_errors_stay_what_they_are() -> None:
    for error in (RuntimeError("shapes differ"), ConfigError("out of memory"), OSError(11, "unavailable"), KeyError(1)):
        with pytest.raises(type(error)) as caught, memory_for("learning", "less"):
            raise error
        assert caught.value is error


def test_a_size_that_cannot_fit_is_refused_with_one_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, config = padim.PaDiM.fitted_buffers, padim.Config(level=0)
    least, _ = footprint.needed(kept, config, SPEC, 5, 16)
    assert least >= 4 * 8 * 2500 * 100**2
    monkeypatch.setattr(footprint, "free_memory", lambda: Free(least, "of a test"))
    footprint.check(kept, config, SPEC, (640, 640), 5, 16)
    monkeypatch.setattr(footprint, "free_memory", lambda: Free(least // 4, "of a test"))
    with pytest.raises(ResourceError, match="from 5 images at 640x640 needs at least") as caught:
        footprint.check(kept, config, SPEC, (640, 640), 5, 16)
    assert caught.value.hint == "image_size=224 (--image-size) may fit, or channels=100 (--set channels=100)"
    fewer = padim.Config(level=0, channels=10)
    footprint.check(kept, fewer, SPEC, (640, 640), 5, 16)
    monkeypatch.setattr(footprint, "free_memory", lambda: None)
    footprint.check(kept, config, SPEC, (640, 640), 5, 16)


def test_what_a_graph_cannot_hold_is_refused_however_much_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WideResNet-50-2 at 256 x 256, all channels."""
    monkeypatch.setattr(footprint, "free_memory", lambda: None)
    kept, wide = padim.PaDiM.fitted_buffers, FeatureSpec((2, 3), (512, 1024), ((32, 32), (16, 16)))
    with pytest.raises(ExportError, match="256x256 comes to 2.25 GiB, and a graph holds 2 GiB at most") as caught:
        footprint.check(kept, padim.Config(), wide, (256, 256), 5, 16)
    assert "channels=100" in str(caught.value.hint)
    footprint.check(kept, padim.Config(channels=550), wide, (256, 256), 5, 16)
    footprint.check(patchcore.PatchCore.fitted_buffers, patchcore.Config(), wide, (256, 256), 5, 16)


def test_a_graph_that_is_too_large_says_so() -> None:
    """As protobuf refuses to write it."""

    class Large:
        def SerializeToString(self) -> bytes:  # noqa: N802  (protobuf's name)
            raise EncodeError("Failed to serialize proto")

    with pytest.raises(ExportError, match="larger than 2 GiB"):
        written(Large())


def test_a_bank_is_bounded_by_its_pool() -> None:
    kept, config = patchcore.PatchCore.fitted_buffers, patchcore.Config(level=0)
    many = footprint.needed(kept, config, SPEC, 10**6, 16)
    assert many == footprint.needed(kept, config, SPEC, 10**7, 16)
    assert footprint.needed(kept, config, SPEC, 10, 16)[0] < many[0]
    assert "pool" in many[1]


def test_learning_asks_before_it_computes_a_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "free_memory", lambda: Free(1000, "of a test"))
    monkeypatch.setattr(FeatureSource, "maps", lambda *_: pytest.fail("it has begun"))
    for method in ("padim", "patchcore"):
        with pytest.raises(ResourceError, match="of a test is free"):
            fit_tiny(tmp_path, method=method, calibration="none")


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_who_is_inside() -> None:
    gate, inside, left = Gate(), threading.Event(), []

    def work() -> None:
        with gate, gate:  # again from inside
            inside.set()
            time.sleep(0.3)
            left.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    pid = os.fork()
    if pid == 0:
        with gate:  # open, and nobody is inside
            os._exit(7 if left else 8)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    with gate:  # and open again here
        pid = os.fork()  # by who is inside
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0

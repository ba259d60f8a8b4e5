"""Engines: one graph, the same figures from each of them, from any thread, in batches or alone."""

from __future__ import annotations

import copy
import os
import pickle
import re
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from blemish import methods
from blemish.errors import EngineError, ModelFileError, ResourceError
from blemish.inspection import engines
from blemish.inspection.engines import OpenVino, best_precision, open_engine
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model
from blemish.learning import export
from blemish.learning.fitted import restore
from blemish.system import Free
from tests.fakes import SIZE, FakeBackbone, defective_image, good_image, trunk_graph
from tests.tiny import SAMPLE, fit_tiny, python

pytestmark = [pytest.mark.numeric, pytest.mark.slow]
NAMES = [name for name in SAMPLE if methods.get(name).needs.graph]
IMAGES = np.stack([good_image(70), defective_image(71)[0], good_image(72)])


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return fit_tiny(tmp_path_factory.mktemp(request.param), method=request.param, calibration="none")


def reference(model: Model) -> engines.ReferenceEngine:
    return export.reference_engine(*restore(model, FakeBackbone()))


def close(got: tuple[Any, ...], expected: tuple[Any, ...], tolerance: float) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("name", ["openvino", "local", "onnxruntime"])
def test_engines_agree_with_pytorch(model: Model, name: str) -> None:
    engine = open_engine(model.graph, name)
    assert engine.name == ("openvino" if name == "local" else name)
    assert engine.precision == "f32"
    for image in IMAGES:
        close(engine(image[None]), reference(model)(image[None]), 1e-4)


def test_shapes(model: Model) -> None:
    score, anomaly_map = open_engine(model.graph, batch=3)(IMAGES)
    assert score.shape == (3,)
    assert anomaly_map.shape == (3, *SIZE)
    assert score[1] > max(score[0], score[2])


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_alone_or_in_a_batch(model: Model, name: str) -> None:
    alone = [
        np.concatenate(parts) for parts in zip(*(open_engine(model.graph, name)(i[None]) for i in IMAGES), strict=True)
    ]
    close(open_engine(model.graph, name, batch=3)(IMAGES), tuple(alone), 1e-5)


def test_a_smaller_batch_is_padded(model: Model) -> None:
    engine = open_engine(model.graph, batch=4)
    whole = engine(np.concatenate([IMAGES, IMAGES[:1]]))
    for n in (1, 2, 3):
        part = engine(IMAGES[:n])
        assert [len(values) for values in part] == [n, n]
        close(part, tuple(values[:n] for values in whole), 1e-6)


def test_threads_give_the_same_bits(model: Model) -> None:
    images = [good_image(i)[None] for i in range(24)]
    single = [OpenVino(model.graph, precision="f32", threads=1, batch=1)(i) for i in images[:8]]
    engine = open_engine(model.graph, threads=3)
    with ThreadPoolExecutor(3) as pool:
        first, second = list(pool.map(engine, images)), list(pool.map(engine, images))
    for one, two in zip(first, second, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    for one, two in zip(first, single, strict=False):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_results_are_the_callers_own(model: Model) -> None:
    engine = open_engine(model.graph)
    first = engine(IMAGES[:1])
    kept = [values.copy() for values in first]
    engine(IMAGES[1:2])
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


# Without preparation, most runs of this end in a deadlock inside OpenVINO, at the call that `infer` begins with.
_FIRST_USE = """
import faulthandler, sys, threading, openvino
faulthandler.dump_traceback_later(30, exit=True)
from tests.fakes import FakeBackbone, good_image
from blemish.learning import export
from blemish.inspection.engines import open_engine
engine = open_engine(FakeBackbone().graph((48, 64)), threads=2)
image = good_image(0)[None]
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)
use = lambda: (barrier.wait(), openvino.Type.u8.to_dtype(), engine(image))
threads = [threading.Thread(target=use) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
"""


def test_first_use_from_many_threads() -> None:
    done = python("-c", _FIRST_USE)
    assert done.returncode == 0, done.stderr


def executed(compiled: Any, *kinds: str) -> dict[str, str]:
    """Number format of the executed nodes of some kinds, by the names of what they were made from."""
    info = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    rows = [[i[key].astype(str) for key in ("layerType", "originalLayersNames", "runtimePrecision")] for i in info]
    return {name: precision for kind, name, precision in rows if kind in kinds}


needs_bf16 = pytest.mark.skipif(best_precision() != "bf16", reason="this processor does not compute in bf16")


@needs_bf16
def test_bf16_stops_at_the_features(model: Model) -> None:
    engine = OpenVino(model.graph, precision="bf16", threads=1, batch=1)
    trunk, *networks, head = engine._compiled
    assert set(executed(trunk, "Convolution").values()) == {"bf16"}
    assert all(set(executed(part, "Convolution").values()) == {"bf16"} for part in networks)
    assert not executed(head, "Convolution"), "networks that the border should have kept out"
    products = executed(head, "MatMul", "FullyConnected")
    coarse = {name: precision for name, precision in products.items() if "coarse" in name}
    exact = {name: precision for name, precision in products.items() if name not in coarse}
    assert set(exact.values()) == {"f32"}  # the blur of the map, at least
    assert set(coarse.values()) == ({"bf16"} if model.meta.method in ("padim", "patchcore") else set())
    assert set(executed(head, "Pooling", "Reduce", "TopK").values()) <= {"f32"}


def modules_of(model: Model) -> list[tuple[str, nn.Module]]:
    return list(restore(model, FakeBackbone())[1].named_modules())


@needs_bf16
def test_bf16_is_close(model: Model) -> None:
    engine = open_engine(model.graph, precision="bf16")
    for image in IMAGES:
        got, expected = engine(image[None]), reference(model)(image[None])
        close(got, expected, 0.03)
        assert not np.array_equal(got[0], expected[0])  # it did run in another format


@needs_bf16
def test_a_backbones_own_graph_is_not_cut() -> None:
    graph = FakeBackbone().graph(SIZE)
    engine = OpenVino(graph, precision="bf16", threads=1, batch=1)
    assert len(engine._compiled) == 1
    expected = FakeBackbone().maps(IMAGES[:1])
    close(engine(IMAGES[:1]), tuple(expected), 0.03)


def test_no_bf16_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "best_precision", lambda: "f32")
    with pytest.raises(EngineError, match="bf16") as caught:
        open_engine(b"", precision="bf16")
    assert caught.value.hint


_LIMITED = """
import sys
from pathlib import Path
from blemish.inspection.engines import best_precision, open_engine
open_engine(Path(sys.argv[1]).read_bytes(), precision=best_precision())
print(best_precision())
"""


@pytest.mark.parametrize("level", ["AVX2", "AVX512_CORE"])
def test_the_best_format_is_one_that_compiles_below_what_the_processor_has(level: str, tmp_path: Path) -> None:
    """OpenVINO names bf16 wherever the processor has it, also where the environment keeps its kernels from it."""
    (tmp_path / "graph.onnx").write_bytes(trunk_graph(False))
    done = python("-c", _LIMITED, str(tmp_path / "graph.onnx"), env={"ONEDNN_MAX_CPU_ISA": level})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("f32", "bf16")


@pytest.mark.parametrize("name", ["openvinoo", "tensorrt", ""])
def test_an_unknown_engine_names_the_known_ones(name: str) -> None:
    with pytest.raises(EngineError, match=f"no engine '{name}'") as caught:
        open_engine(b"", name)
    assert "openvino" in str(caught.value.hint)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("graph", [b"", b"no graph at all", b"\x08\x07", "half"])
def test_broken_graphs(engine: str, graph: Any, tmp_path: Path) -> None:
    if graph == "half":
        whole = FakeBackbone().graph(SIZE)
        graph = whole[: len(whole) // 2]
    with pytest.raises(ModelFileError, match="graph"):
        open_engine(graph, engine)


def test_an_inspector_gives_the_same_on_all_cores_and_on_one(model: Model) -> None:
    images = [good_image(i) for i in range(9)]
    one = [r.score for r in Inspector(model, threads=1).inspect_many(images)]
    many = [r.score for r in Inspector(model, threads=4).inspect_many(images)]
    assert one == many


def test_an_inspector_stopped_half_way_stops(model: Model) -> None:
    taken: list[int] = []

    def endless() -> Any:
        while True:
            taken.append(1)
            yield good_image(0)

    results = Inspector(model, threads=2).inspect_many(endless())
    next(results)
    results.close()
    assert len(taken) < 10
    assert threading.active_count() < 20


def test_a_graph_without_features_inside_has_no_head() -> None:
    trunk = FakeBackbone().graph((48, 64))
    with pytest.raises(ModelFileError, match="no features inside"):
        engines.Head(trunk, precision="f32")


def in_a_child(work: Callable[[], None], seconds: int = 60) -> None:
    """Fork and run; AssertionError where the child fails, or hangs."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(seconds)  # it must not outlive the test
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """What a process may do to an engine is the same for every method."""
    return fit_tiny(tmp_path_factory.mktemp("one"), calibration="none")


needs_fork = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


class TestForks:
    pytestmark = needs_fork

    @pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
    def test_an_engine_works_in_a_forked_child_and_still_in_the_parent(self, one: Model, name: str) -> None:
        engine = open_engine(one.graph, name, threads=2)
        before = engine(IMAGES[:1])

        def again() -> None:
            assert all(np.array_equal(a, b) for a, b in zip(engine(IMAGES[:1]), before, strict=True))

        in_a_child(again)
        in_a_child(lambda: in_a_child(again))  # a child's child
        again()

    def test_an_inspector_works_in_a_child_forked_while_its_threads_work(self, one: Model) -> None:
        line = Inspector(one, threads=2)
        images = [good_image(i) for i in range(6)]
        expected = [r.score for r in line.inspect_many(images)]
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                list(line.inspect_many(images))

        def again() -> None:
            assert [r.score for r in line.inspect_many(images)] == expected

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            for _ in range(3):
                in_a_child(again)
        finally:
            stop.set()
            thread.join()

    def test_a_run_that_was_begun_before_the_fork_is_refused_in_the_child(self, one: Model) -> None:
        results = Inspector(one, threads=2).inspect_many([good_image(i) for i in range(20)])
        next(results)

        def go_on() -> None:
            with pytest.raises(EngineError, match="another process"):
                list(results)

        in_a_child(go_on)
        assert len(list(results)) == 19

    def test_the_reference_and_learning_work_in_a_child(self, one: Model, tmp_path: Path) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(2)  # whose pool has worked before the fork
        try:
            engine = reference(one)
            before = engine(IMAGES)[0]
            torch.randn(900, 900) @ torch.randn(900, 900)

            def again() -> None:
                np.testing.assert_allclose(engine(IMAGES)[0], before, rtol=1e-3)
                fit_tiny(tmp_path, calibration="none")

            in_a_child(again)
        finally:
            torch.set_num_threads(threads)

    def test_a_child_that_ends_in_the_usual_way_ends(self, one: Model, tmp_path: Path) -> None:
        (tmp_path / "graph.onnx").write_bytes(one.graph)
        code = """
import os, signal, sys
import numpy as np
from blemish.inspection.engines import open_engine
engine = open_engine(open(sys.argv[1], "rb").read())
image = np.zeros((1, 48, 64, 3), np.uint8)
engine(image)
for used in (True, False):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        if used:
            engine(image)
        sys.exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
        done = python("-W", "ignore", "-c", code, str(tmp_path / "graph.onnx"))
        assert done.stdout.split() == ["7", "7"], done.stderr


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_engines_and_inspectors_are_copied_and_pickled_after_use(one: Model, name: str) -> None:
    line = Inspector(one, name, threads=2)
    images = [good_image(i) for i in range(4)]
    expected = [r.score for r in line.inspect_many(images)]
    for other in (pickle.loads(pickle.dumps(line)), copy.deepcopy(line)):
        assert [r.score for r in other.inspect_many(images)] == expected
    assert [r.score for r in line.inspect_many(images)] == expected


def test_the_reference_says_that_it_cannot_be_pickled(one: Model) -> None:
    with pytest.raises(EngineError, match="cannot be pickled") as caught:
        pickle.dumps(reference(one))
    assert caught.value.hint


def test_a_graph_that_does_not_fit_into_memory_is_refused(one: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "free_memory", lambda: Free(1000, "of a test"))
    with pytest.raises(ResourceError, match="in 50 threads needs at least .* of a test is free") as caught:
        open_engine(one.graph, threads=50)
    assert "--image-size" in str(caught.value.hint)
    graph = FakeBackbone().graph((256, 256))
    monkeypatch.setattr(engines, "free_memory", lambda: Free(30 << 20, "of a test"))
    with pytest.raises(ResourceError) as caught:
        open_engine(graph, threads=1000)
    assert re.fullmatch(r"threads=(\d+) \(--threads \1\) may fit", str(caught.value.hint))


def test_memory_that_runs_out_inside_is_an_error_with_a_hint(one: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(one.graph)

    def full(*_: Any) -> None:
        raise RuntimeError("Exception from core.cpp: std::bad_alloc")

    monkeypatch.setattr(engines, "_chained", full)
    with pytest.raises(ResourceError, match="out of memory in running the graph") as caught:
        engine(IMAGES[:1])
    assert "--threads" in str(caught.value.hint)
    monkeypatch.setattr(engines, "_compile", full)
    with pytest.raises(ResourceError, match="out of memory in compiling the graph"):
        open_engine(one.graph)

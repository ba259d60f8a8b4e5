"""Engines: one graph, the same figures from each of them, from any thread, in batches or alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from blemish import export, fitting, methods
from blemish.errors import EngineError, ModelFileError
from blemish.modelfile import Model
from blemish.runtime import engines
from blemish.runtime.engines import OpenVino, best_precision, open_engine
from blemish.runtime.inspector import Inspector
from tests.fakes import SIZE, FakeBackbone, defective_image, good_image
from tests.tiny import SAMPLE, fit_tiny, python

NAMES = [name for name in SAMPLE if methods.get(name).needs.graph]
IMAGES = np.stack([good_image(70), defective_image(71)[0], good_image(72)])


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return fit_tiny(tmp_path_factory.mktemp(request.param), method=request.param, calibration="none")


def reference(model: Model) -> engines.TorchEngine:
    return export.torch_engine(*fitting.restore(model, FakeBackbone()))


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
from blemish import export
from blemish.runtime.engines import open_engine
engine = open_engine(export.export_backbone(FakeBackbone(), (48, 64)), threads=2)
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
    assert set(coarse.values()) == ({"bf16"} if any("coarse" in name for name, _ in modules_of(model)) else set())
    assert set(executed(head, "Pooling", "Reduce", "TopK").values()) <= {"f32"}


def modules_of(model: Model) -> list[tuple[str, nn.Module]]:
    return list(fitting.restore(model, FakeBackbone())[1].named_modules())


@needs_bf16
def test_bf16_is_close(model: Model) -> None:
    engine = open_engine(model.graph, precision="bf16")
    for image in IMAGES:
        got, expected = engine(image[None]), reference(model)(image[None])
        close(got, expected, 0.03)
        assert not np.array_equal(got[0], expected[0])  # it did run in another format


@needs_bf16
def test_a_backbones_own_graph_is_not_cut() -> None:
    graph = export.export_backbone(FakeBackbone(), SIZE)
    engine = OpenVino(graph, precision="bf16", threads=1, batch=1)
    assert len(engine._compiled) == 1
    expected = [m.numpy() for m in FakeBackbone().pyramid(torch.from_numpy(IMAGES[:1])).maps]
    close(engine(IMAGES[:1]), tuple(expected), 0.03)


def test_no_bf16_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "best_precision", lambda: "f32")
    with pytest.raises(EngineError, match="bf16") as caught:
        open_engine(b"", precision="bf16")
    assert caught.value.hint


@pytest.mark.parametrize("name", ["openvinoo", "tensorrt", ""])
def test_an_unknown_engine_names_the_known_ones(name: str) -> None:
    with pytest.raises(EngineError, match=f"no engine '{name}'") as caught:
        open_engine(b"", name)
    assert "openvino" in str(caught.value.hint)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("graph", [b"", b"no graph at all", b"\x08\x07", "half"])
def test_broken_graphs(engine: str, graph: Any, tmp_path: Path) -> None:
    if graph == "half":
        whole = export.export_backbone(FakeBackbone(), SIZE)
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
    trunk = export.export_backbone(FakeBackbone(), (48, 64))
    with pytest.raises(ModelFileError, match="no features inside"):
        engines.Head(trunk, precision="f32")

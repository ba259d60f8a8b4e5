"""The frozen network runs once more on an image that a method makes: in training, in the reference, in one graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish import Detector
from blemish.data.image.preprocess import Preprocess
from blemish.inspection.engines import Head, best_precision, open_engine
from blemish.inspection.routed import VOTE
from blemish.learning import export
from blemish.learning.again import behind_image
from blemish.learning.backbones.base import Backbone
from blemish.learning.backbones.pair import PairBackbone
from blemish.learning.heads import Scaled
from blemish.learning.observing import seen_again
from blemish.learning.onnx_parts import written
from blemish.learning.sources.features import FeatureSource
from blemish.methods.torch_base import TorchMethod
from blemish.nn.level_maps import LevelMaps
from blemish.nn.losses import cosine_places
from blemish.nn.place_scores import PlaceScores
from blemish.nn.precision import Exact
from blemish.nn.scoring import peak
from blemish.types import Batch, FeatureSpec, Needs, Prediction, Record
from tests.fake_torch import FakeTorchBackbone
from tests.fakes import SIZE, FakeBackbone, batch_of, defective_image, good_image, learn, write_images
from tests.tiny import fit_tiny, in_formats


@dataclass(frozen=True)
class Config:
    same: bool = False  # makes the image as it is


class Blurred(TorchMethod[Config]):
    """How much of what the network sees is left when the image is filtered; the filter is not learned."""

    needs = Needs(image=True, again=True)
    fitted_modules = ("filter", "place_scores")

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        with self.seeded():
            self.filter = nn.Conv2d(3, 3, 5, padding=2, bias=False)
        if config.same:
            with torch.no_grad():
                nn.init.dirac_(self.filter.weight)
        self.exact = Exact()
        self.place_scores = PlaceScores(spec.grids, "sum" if config.same else "z")
        self.level_maps = LevelMaps(spec.grids, size, 2.0)
        self.asked = 0

    def observe(self, batch: Batch) -> None:
        assert batch.again is None

    def remade(self, batch: Batch) -> Tensor:
        self.asked += 1
        return self.filter(batch.x)  # type: ignore[no-any-return]

    def places(self, batch: Batch) -> list[Tensor]:
        assert batch.pyramid is not None
        assert batch.again is not None
        seen, again = ([self.exact(x) for x in each.maps] for each in (batch.pyramid, batch.again))
        return [cosine_places(x, y) for x, y in zip(seen, again, strict=True)]

    def measure(self, batches: Iterable[Batch]) -> None:
        self.place_scores.measure(map(self.places, batches))

    def predict(self, batch: Batch) -> Prediction:
        anomaly_map = self.level_maps(self.place_scores(self.places(batch)))
        return Prediction(peak(anomaly_map, 0.01), anomaly_map)


def fitted(backbone: Backbone, **options: Any) -> Blurred:
    method = Blurred(Config(**options), backbone.spec(SIZE), SIZE)
    learn(method, backbone, [good_image(i) for i in range(6)])
    return method


def whole(backbone: Backbone, of: Any) -> bytes:
    trunk = backbone.graph(SIZE, image=True)
    return export.merge(trunk, export.export_head(of, trunk=trunk))


def images() -> list[NDArray[np.uint8]]:
    return [good_image(50), defective_image(51)[0]]


def pair() -> PairBackbone:
    return PairBackbone(FakeTorchBackbone(), FakeTorchBackbone())


BACKBONES = {"file": FakeBackbone, "torch": FakeTorchBackbone, "pair": pair}


@pytest.fixture(scope="module", params=BACKBONES)
def frozen(request: pytest.FixtureRequest) -> tuple[Any, Blurred, bytes]:
    backbone: Any = BACKBONES[request.param]()
    method = fitted(backbone)
    return backbone, method, whole(backbone, method)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_one_graph_gives_what_the_network_called_twice_gives(frozen: Any, engine: str) -> None:
    backbone, method, graph = frozen
    onnx.checker.check_model(onnx.load_from_string(graph))
    run, reference = open_engine(graph, engine), export.reference_engine(backbone, method)
    for image in images():
        batch = batch_of(backbone, [image])
        assert batch.x is not None
        with torch.no_grad():
            made = method.filter(batch.x)
            again = backbone.maps_of(made.numpy())
            pairs = zip(batch.pyramid.maps, again, strict=True)
            places = [1 - torch.cosine_similarity(a, torch.from_numpy(b)) for a, b in pairs]
            expected = method.level_maps(method.place_scores(places)).numpy()
        for found in (run(image[None]), reference(image[None])):
            np.testing.assert_allclose(found[1], expected, atol=1e-4 * np.ptp(expected))
            np.testing.assert_allclose(found[0], peak(torch.from_numpy(expected), 0.01), rtol=1e-3)


def test_features_that_were_kept_give_the_bits_of_the_whole_graph(frozen: Any) -> None:
    backbone, _, graph = frozen
    for precision in dict.fromkeys(("f32", best_precision())):
        run, head = open_engine(graph, precision=precision), Head(graph, precision=precision)
        trunk = open_engine(backbone.graph(SIZE, image=True), precision=precision)
        for image in images():
            kept = [level[0] for level in trunk(image[None])]
            for got, expected in zip(head(kept), run(image[None]), strict=True):
                assert np.array_equal(got, expected)


def test_both_runs_share_one_copy_of_the_weights(frozen: Any) -> None:
    backbone, _, graph = frozen
    trunk = onnx.load_from_string(backbone.graph(SIZE, image=True)).graph
    model = onnx.load_from_string(graph).graph
    convolutions = [node for node in model.node if node.op_type == "Conv"]
    assert len(convolutions) == 1 + 2 * sum(node.op_type == "Conv" for node in trunk.node)
    names = [each.name for each in model.initializer]
    assert len(names) == len(set(names))
    assert not [name for name in names if "again" in name]
    assert sum(len(each.raw_data) for each in trunk.initializer) > 10_000
    for constant in trunk.initializer:
        assert sum(constant.raw_data == each.raw_data for each in model.initializer) == sum(
            constant.raw_data == each.raw_data for each in trunk.initializer
        )


def test_a_made_image_that_is_the_image_has_its_features() -> None:
    method = fitted(FakeBackbone(), same=True)
    run = open_engine(whole(FakeBackbone(), method))
    for image in images():
        maps = [torch.from_numpy(x) for x in FakeBackbone().maps(image[None])]
        expected = method.level_maps([cosine_places(x, x) for x in maps])  # not 0 where a network gives nothing at all
        assert expected.median() < 1e-6
        np.testing.assert_allclose(run(image[None])[1], expected, atol=1e-5)


def test_what_is_rescaled_is_made_once(frozen: Any) -> None:
    backbone, method, graph = frozen
    rescaled = open_engine(whole(backbone, Scaled(method, 1.0, 2.0, 3.0, 4.0)))
    plain = open_engine(graph)
    for image in images():
        got, expected = rescaled(image[None]), plain(image[None])
        np.testing.assert_allclose(got[0], (expected[0] - 1) / 2, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(got[1], (expected[1] - 3) / 4, rtol=1e-4, atol=1e-4)


def test_the_network_behind_the_image_is_the_network(frozen: Any) -> None:
    backbone, _, _ = frozen
    stack = np.stack(images())
    x = backbone.normalised(stack)
    run = open_engine(written(behind_image(backbone.graph(SIZE, image=True))))
    for at in range(2):
        part = slice(at, at + 1)
        for found in (run(x[part]), backbone.maps_of(x[part])):
            for got, expected in zip(found, backbone.maps(stack[part]), strict=True):
                np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_source_runs_it_in_its_own_format() -> None:
    source = FeatureSource(FakeBackbone(), Preprocess(SIZE), None, image=True)
    stack = np.stack(images())
    for got, expected in zip(source.maps_of(FakeBackbone().normalised(stack)), FakeBackbone().maps(stack), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_batch_is_seen_again_where_the_method_asks() -> None:
    method = fitted(FakeBackbone())
    batch = batch_of(FakeBackbone(), images())
    asked = method.asked
    seen = seen_again(method, batch, FakeBackbone().maps_of)
    assert method.asked == asked + 1
    assert seen.again is not None
    assert isinstance(seen.again.maps[0], Tensor)
    assert [tuple(a.shape) for a in seen.again.maps] == [tuple(a.shape) for a in batch.pyramid.maps]
    method.wants = lambda _: Needs(image=True)  # type: ignore[method-assign]
    assert seen_again(method, batch, FakeBackbone().maps_of) is batch


def test_other_methods_have_the_graph_that_they_had() -> None:
    """Of a method that makes no image the trunk is of no use, and nothing of its graph is renamed."""
    from blemish.methods.rd import Config as Other
    from blemish.methods.rd import ReverseDistillation

    backbone = FakeBackbone()
    brief = {**ReverseDistillation.brief, "steps": 2}
    method = ReverseDistillation(Other(**brief), backbone.spec(SIZE), SIZE)
    learn(method, backbone, [good_image(i) for i in range(4)])
    trunk = backbone.graph(SIZE)
    head = export.export_head(method)
    assert export.export_head(method, trunk=trunk) == head
    model = onnx.load_from_string(export.merge(trunk, head)).graph
    inner = onnx.load_from_string(head).graph
    assert [each.name for each in model.initializer][: len(inner.initializer)] == [
        f"head/{each.name}" for each in inner.initializer
    ]


FADER = {"side": 32, "width": 2, "hidden": 4, "steps": 2, "gate_steps": 2, "until": "steps"}


def test_heads_of_their_own_hold_the_network_too(tmp_path: Path) -> None:
    """Behind the router a head stands alone, with the weights of its second run; certified as a whole."""
    records = [r for k in range(2) for r in products(tmp_path, k)]
    options = {"method": "dfc", "options": {"head": "fader", "head_options": FADER, "shots": 4, "anchors": 4}}
    model = fit_tiny(tmp_path, records, calibration="none", **options)
    heads = [onnx.load_from_string(graph).graph for name, graph in model.heads.items() if name != VOTE]
    assert len(heads) == 2
    for head in heads:
        assert any("again/" in each.name for each in head.initializer)
    assert model.parity["engines"]["openvino-f32"]["map"] <= model.parity["limit"]["map"]
    result = Detector.from_model(model, backbone=FakeBackbone()).inspect(records[0].path)
    assert np.isfinite(result.score)


def test_one_head_for_all_products_holds_it_behind_the_router(tmp_path: Path) -> None:
    records = [r for k in range(2) for r in products(tmp_path, k)]
    model = fit_tiny(tmp_path, records, calibration="none", method="fader", options=FADER, multi_class=True)
    names = [each.name for each in onnx.load_from_string(model.graph).graph.output]
    assert names == ["score", "anomaly_map", "votes", "strangeness"]
    assert model.parity["engines"]["openvino-f32"]["map"] <= model.parity["limit"]["map"]
    for precision, run in in_formats(model.graph).items():
        head = Head(model.graph, precision=precision)
        kept = open_engine(FakeBackbone().graph(SIZE, image=True), precision=precision)(good_image(3)[None])
        for got, expected in zip(head([level[0] for level in kept]), run(good_image(3)[None]), strict=True):
            assert np.isfinite(expected).all()
            assert np.array_equal(got, expected)


def products(folder: Path, number: int) -> list[Record]:
    found = write_images(folder / str(number), 12, first=100 * number)
    return [replace(r, id=f"{number}/{r.id}", group=str(number)) for r in found]


def test_a_new_station_is_learned_with_it(tmp_path: Path) -> None:
    model = fit_tiny(tmp_path, method="fader", calibration="none", options=FADER)
    detector = Detector.from_model(model, backbone=FakeBackbone())
    detector.adapt([r.path for r in write_images(tmp_path / "new", 8, first=500)], share=1.0)
    assert detector.model.tensors != model.tensors
    assert detector.model.parity["engines"]["openvino-f32"]["map"] <= model.parity["limit"]["map"]

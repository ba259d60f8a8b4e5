"""What every method promises, tried on each: no name stands here, a new file in methods/ is picked up."""

from __future__ import annotations

import copy
import inspect
import json
from collections import Counter
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from torch.overrides import TorchFunctionMode

from blemish import config, methods
from blemish.errors import ConfigError, NotFittedError
from blemish.evaluation.bench.macs import macs
from blemish.inspection import engines, graph_parts
from blemish.inspection.engines import best_precision, open_engine
from blemish.inspection.modelfile import arrays
from blemish.learning import export, observing, training
from blemish.learning.observing import seen_again
from blemish.learning.run import tensors
from blemish.learning.training import Plan
from blemish.methods.base import Method, Phase
from blemish.nn.precision import Exact
from blemish.types import Batch, Prediction
from tests.fakes import WORLDS, FakeBackbone
from tests.tiny import FEW, in_formats, shortened

TRAIN = 12

every_method = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in methods.names()]
)


def settings(name: str, most: int | None = None) -> Any:
    """The defaults, but a short training where there is one: `brief` says how short a method can be tried.

    With `most`, no phase has more steps than that: enough where it does not matter what was learned.
    """
    cls = methods.get(name)
    return config.build(cls.Config, cls.brief if most is None else shortened(cls.brief, most))


def world_of(name: str) -> Any:
    """The samples that a method is tried on, good and defective: images, signals."""
    return _world(methods.get(name).needs.source)


@lru_cache
def _world(source: str) -> Any:
    return WORLDS[source]()


def make(name: str, size: tuple[int, ...] | None = None, most: int | None = None) -> Method:
    world = world_of(name)
    size = size or world.size
    return methods.get(name)(settings(name, most), world.spec(size), size, 0)


def fitted(name: str, *, order: list[int] | None = None, count: int = TRAIN, most: int | None = None) -> Method:
    method, world = make(name, most=most), world_of(name)
    world.learn(method, [world.good(i) for i in (order or range(count))])
    return method


class Fitted(dict[str, Method]):
    """Each method by name, fitted when it is first asked for; and its graph, exported when it is first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs: dict[str, bytes] = {}

    def __missing__(self, name: str) -> Method:
        self[name] = fitted(name)
        return self[name]

    def graph(self, name: str) -> bytes:
        if name not in self.graphs:
            self.graphs[name] = world_of(name).graph(self[name])
        return self.graphs[name]


@pytest.fixture(scope="module")
def models() -> Fitted:
    return Fitted()


def probe(name: str) -> Batch:
    world = world_of(name)
    return world.batch([world.good(100), world.defective(101)[0], world.good(102)])


def run(method: Method, batch: Batch) -> Prediction:
    """What a method predicts, in numpy."""
    with method.computing():
        found = method(seen_again(method, batch, FakeBackbone().maps_of))
    return Prediction(np.asarray(found.score), np.asarray(found.anomaly_map))


def same(a: Prediction, b: Prediction) -> bool:
    return np.array_equal(a.score, b.score) and np.array_equal(a.anomaly_map, b.anomaly_map)


def close(a: Prediction, b: Prediction, rtol: float = 1e-4) -> None:
    for got, expected in ((a.score, b.score), (a.anomaly_map, b.anomaly_map)):
        expected = np.asarray(expected)
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * float(np.abs(expected).max()))


@every_method
def test_file_says_what_it_is(name: str) -> None:
    about = methods.describe(name)
    assert about["title"]
    assert about["paper"]
    cls = methods.get(name)
    assert inspect.getmodule(cls).__name__ == f"blemish.methods.{name}"
    assert cls.needs.graph or cls.needs.reason


@every_method
def test_config_is_frozen_commented_and_round_trips(name: str) -> None:
    cls = methods.get(name).Config
    default = cls()
    assert is_dataclass(default)
    assert config.build(cls, json.loads(json.dumps(config.to_json(default)))) == default
    with pytest.raises(FrozenInstanceError):
        setattr(default, fields(cls)[0].name, None)
    source = inspect.getsource(cls)
    for entry in fields(cls):
        line = next(x for x in source.splitlines() if x.strip().startswith(f"{entry.name}:"))
        assert "#" in line, f"option {entry.name} is not explained"


@every_method
def test_unknown_option_names_the_nearest(name: str) -> None:
    cls = methods.get(name).Config
    known = fields(cls)[0].name
    with pytest.raises(ConfigError, match="unknown option") as caught:
        config.build(cls, {known + "x": 1})
    assert known in (caught.value.hint or "")


@every_method
def test_unfitted_refuses(name: str) -> None:
    with pytest.raises(NotFittedError):
        make(name)(probe(name))


@every_method
def test_fit_leaves_config_and_backbone_untouched(name: str, models: dict[str, Method]) -> None:
    assert models[name].config == settings(name)
    if hasattr(world := world_of(name), "backbone"):
        assert world.backbone.network == FakeBackbone().network


@every_method
def test_shapes_types_and_finite_values(name: str, models: dict[str, Method]) -> None:
    out = run(models[name], probe(name))
    assert out.score.shape == (3,)
    assert out.anomaly_map.shape == (3, *world_of(name).size)
    assert np.asarray(out.score).dtype == np.asarray(out.anomaly_map).dtype == np.float32
    assert np.isfinite(out.score).all()
    assert np.isfinite(out.anomaly_map).all()


@every_method
def test_a_planted_defect_scores_higher_and_lights_up(name: str, models: dict[str, Method]) -> None:
    world = world_of(name)
    good = run(models[name], world.batch([world.good(200 + i) for i in range(8)]))
    samples, masks = zip(*(world.defective(300 + i) for i in range(4)), strict=True)
    bad = run(models[name], world.batch(list(samples)))
    assert bad.score.min() > good.score.max()
    for sample, anomaly_map, mask in zip(samples, bad.anomaly_map, masks, strict=True):
        assert anomaly_map[mask].mean() > 1.5 * anomaly_map[~mask].mean()
        peak = tuple(int(at) for at in np.unravel_index(anomaly_map.argmax(), mask.shape))
        assert world.beside(sample, mask, peak), "the peak of the map is not at the defect"


@every_method
def test_alone_equals_in_a_batch(name: str, models: dict[str, Method]) -> None:
    world = world_of(name)
    samples = [world.good(100), world.defective(101)[0], world.good(102)]
    together = run(models[name], world.batch(samples))
    for i, sample in enumerate(samples):
        alone = run(models[name], world.batch([sample]))
        close(alone, Prediction(together.score[i : i + 1], together.anomaly_map[i : i + 1]))


@every_method
@pytest.mark.learns
def test_order_of_training_images_does_not_matter_much(name: str, models: Fitted) -> None:
    """Equal up to what a greedy or stochastic choice may turn on; ranking of good and bad must hold."""
    a, b = models[name], fitted(name, order=list(range(TRAIN))[::-1])
    x, y = run(a, probe(name)), run(b, probe(name))
    assert x.score.argmax() == y.score.argmax() == 1
    np.testing.assert_allclose(x.score, y.score, rtol=0.5)  # steps see images in another order


@every_method
def test_same_seed_same_scores_and_global_random_state_is_left_alone(name: str) -> None:
    first = run(fitted(name, most=FEW), probe(name))  # before the state is inspected: making a backbone draws
    torch.manual_seed(2)
    np.random.seed(2)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert same(run(fitted(name, most=FEW), probe(name)), first)
    assert torch.equal(before, torch.get_rng_state())
    assert (before_numpy == np.random.get_state()[1]).all()


@every_method
def test_predict_changes_no_state(name: str, models: dict[str, Method]) -> None:
    method = models[name]
    before = {k: np.asarray(v).copy() for k, v in method.fitted_state().items()}
    first = run(method, probe(name))
    run(method, world_of(name).batch([world_of(name).defective(9)[0]]))
    assert same(first, run(method, probe(name)))
    assert all(np.array_equal(before[k], v) for k, v in method.fitted_state().items())


@every_method
def test_fitted_state_is_the_whole_model(name: str, models: dict[str, Method]) -> None:
    other = make(name)
    other.load_fitted(arrays(tensors(models[name].fitted_state(), models[name].config)))
    assert same(run(other, probe(name)), run(models[name], probe(name)))


@every_method
@pytest.mark.parametrize("case", ["one image", "constant images", "square", "tall"])
def test_awkward_training_sets(name: str, case: str) -> None:
    world = world_of(name)
    size = world.sizes.get(case, world.size)
    samples = [world.good(i, size) for i in range(1 if case == "one image" else 6)]
    if case == "constant images":
        samples = [world.constant(size)] * 6
    method = make(name, size, most=3 * FEW)
    world.learn(method, samples)
    out = run(method, world.batch([samples[0], world.defective(5, size)[0]]))
    assert np.isfinite(out.score).all()
    assert np.isfinite(out.anomaly_map).all()
    assert out.score[1] > out.score[0]


@every_method
@pytest.mark.numeric
def test_graph_agrees_with_its_reference(name: str, models: Fitted) -> None:
    method, world = models[name], world_of(name)
    if not method.needs.graph:
        pytest.skip(f"declared impossible: {method.needs.reason}")
    graph = models.graph(name)
    golden = np.stack([world.good(100), world.defective(101)[0]])
    certificate = export.certify(in_formats(graph), world.reference(method), golden)
    assert certificate["engines"]["openvino-f32"]["score"] < export.SCORE_LIMIT
    reference = world.reference(method)(golden)
    for engine in (open_engine(graph, "onnxruntime"), open_engine(graph, batch=2)):
        for got, expected in zip(engine(golden), reference, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    if best_precision() == "bf16":
        short = open_engine(graph, precision="bf16", batch=2)(golden)
        np.testing.assert_allclose(short[0], reference[0], rtol=0.2)


class Watched(TorchFunctionMode):
    """What a loss computes outside of networks: the names of functions under autocast, or that get numbers in bf16."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.depth = 0
        self.short: set[str] = set()  # outside of networks
        self.inside = False  # whether a network has computed in bf16
        self.hooks = []
        for module in training.learning_modules(method):
            self.hooks.append(module.register_forward_pre_hook(lambda *_: self._step(1)))
            self.hooks.append(module.register_forward_hook(lambda *_: self._step(-1), always_call=True))

    def _step(self, by: int) -> None:
        self.depth += by

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, torch.Tensor)]
        if torch.is_autocast_enabled("cpu") or any(x.dtype == torch.bfloat16 for x in given):
            if self.depth:
                self.inside = True
            else:
                self.short.add(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


def watched(name: str, *, bf16: bool) -> tuple[dict[str, set[str]], dict[str, bool], Method]:
    """Of each phase: what a loss computes in bf16 outside of networks, and whether they do; and the method, fitted."""
    method, world = make(name, most=FEW), world_of(name)
    inner, outside, inside = method.loss, {}, {}

    def loss(phase: Phase, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        if phase.name in outside:
            return inner(phase, batch, progress)
        with Watched(method) as watch:
            terms = inner(phase, batch, progress)
        for hook in watch.hooks:
            hook.remove()
        outside[phase.name], inside[phase.name] = watch.short, watch.inside
        assert {term.dtype for term in terms.values()} == {torch.float32}
        return terms

    method.loss = loss  # type: ignore[method-assign]
    plan = Plan(bf16=bf16)
    world.learn(method, [world.good(i) for i in range(TRAIN)], plan)
    assert [phase.precision for phase in plan.report] == ["bf16" if bf16 else "f32"] * len(plan.report)
    return outside, inside, method


@every_method
def test_it_learns_in_bf16_and_computes_losses_in_float32(name: str) -> None:
    """Where it is asked for, and here it may be emulated. Losses are the same functions as in float32, of float32."""
    if not make(name).phases():
        pytest.skip("it takes no steps")
    plainly, nowhere, _ = watched(name, bf16=False)
    outside, inside, method = watched(name, bf16=True)
    assert not any(nowhere.values())
    assert all(inside.values())
    assert outside == plainly  # what a method keeps in bf16 by itself, if anything
    assert not any(p.dtype != torch.float32 for p in method.parameters())
    out = run(method, probe(name))
    assert np.isfinite(out.score).all()
    assert np.isfinite(out.anomaly_map).all()


@every_method
def test_losses_hardly_depend_on_the_format(name: str) -> None:
    """At the same weights and the same draws, for the first steps of each phase."""
    method, world = make(name, most=FEW), world_of(name)
    if not method.phases():
        pytest.skip("it takes no steps")
    inner, seen = method.loss, Counter[str]()

    def loss(phase: Phase, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        seen[phase.name] += 1
        if seen[phase.name] > 3:
            return inner(phase, batch, progress)
        state, drawn = copy.deepcopy(method.state_dict()), method.generator.get_state()
        with torch.no_grad(), training.networks_in_bf16(training.learning_modules(method)):
            short = inner(phase, batch, progress)
        method.load_state_dict(state)
        method.generator.set_state(drawn)
        exact = inner(phase, batch, progress)
        total = float(torch.stack(list(exact.values())).detach().abs().sum())
        for term, value in exact.items():
            assert float(short[term]) == pytest.approx(float(value.detach()), rel=0.05, abs=1e-3 * total), term
        return exact

    method.loss = loss  # type: ignore[method-assign]
    world.learn(method, [world.good(i) for i in range(TRAIN)])
    assert set(seen) == {phase.name for phase in method.phases()}


@every_method
def test_an_engine_without_a_graph_agrees_with_pytorch(name: str, models: dict[str, Method]) -> None:
    """It runs behind the same call, from the model's tensors alone, and is no more free to differ than a graph is."""
    method, world = models[name], world_of(name)
    if method.needs.graph:
        pytest.skip("it has a graph")
    assert method.needs.reason
    golden = np.stack([world.good(100), world.defective(101)[0]])
    golden = np.concatenate([golden, np.full_like(golden[:, :5], np.nan)], 1)  # rows that are no points
    reference = world.reference(method)(golden)
    for got, expected in zip(world.engine(method)(golden), reference, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert not reference[1][:, -5:].any()
    other = world.engine(fitted(name, count=3, most=FEW))(golden)
    assert np.abs(other[0] - reference[0]).max() > 1e-3 * np.abs(reference[0]).max()


@every_method
@pytest.mark.numeric
@pytest.mark.parametrize("precision", dict.fromkeys(("f32", best_precision())))
def test_features_that_were_kept_give_the_bits_of_the_whole_graph(name: str, precision: Any, models: Fitted) -> None:
    """What is evaluated from the cache is what is deployed."""
    method, world = models[name], world_of(name)
    if not hasattr(world, "backbone"):
        pytest.skip("nothing stands before the method")
    graph = models.graph(name)
    whole, features = (open_engine(g, precision=precision) for g in (graph, world.trunk(method)))
    head = engines.Head(graph, precision=precision)
    for seed in range(3):
        image = world.good(500 + seed)[None]
        for got, expected in zip(head([m[0] for m in features(image)]), whole(image), strict=True):
            assert np.array_equal(got, expected)


@every_method
def test_what_an_image_costs_can_be_counted(name: str, models: dict[str, Method]) -> None:
    if not models[name].needs.graph:
        pytest.skip(f"declared impossible: {models[name].needs.reason}")
    trunk, head = macs(models.graph(name))
    assert 0 <= trunk < 1
    assert 0 < head < 1


@every_method
def test_the_engine_finds_the_border_that_a_method_draws(name: str, models: Fitted) -> None:
    """Networks in front of it run in bf16: a border that is not found would leave them slow, and nobody the wiser."""
    if not models[name].needs.graph:
        pytest.skip(f"declared impossible: {models[name].needs.reason}")
    drawn = models[name].arrays == "torch" and any(isinstance(module, Exact) for module in models[name].modules())
    model = openvino.Core().read_model(models.graph(name))
    _, *head = graph_parts.cut_at_features(model)
    parts = graph_parts.short_and_exact(*head or [model])
    assert [format_ for _, format_ in parts] == (["bf16", "f32"] if drawn else ["f32"])


@every_method
def test_a_changed_head_is_refused(name: str, models: Fitted) -> None:
    """The certificate can fail: the graph of one model does not pass for another."""
    from blemish.errors import ExportError

    world = world_of(name)
    if not models[name].needs.graph:
        pytest.skip(f"declared impossible: {models[name].needs.reason}")
    golden = np.stack([world.good(100), world.defective(101)[0]])
    with pytest.raises(ExportError, match="disagree"):
        export.certify(in_formats(models.graph(name)), world.reference(fitted(name, count=3, most=FEW)), golden)


@every_method
def test_learning_goes_on_from_a_finished_model(name: str, models: Fitted) -> None:
    """What was put back from a file learns further images, and still finds a planted defect."""
    cls = methods.get(name)
    if not cls.adaptable() or cls.routing(settings(name)) is not None:
        pytest.skip("learns all at once")
    method, world = make(name), world_of(name)
    method.load_fitted(models[name].fitted_state())
    good = [world.good(i) for i in range(100, 112)]
    if cls.fitted_modules:
        plan = Plan()
        training.go_on(method, world.samples(method, good), None, plan, 0.2, 0.3)
        assert [p.steps for p in plan.report] == [max(round(0.2 * p.steps), 1) for p in method.phases() if not p.shared]
    else:
        method.recall(TRAIN)
        observing.train(method, [world.batch(good)])
    changed = [k for k, v in method.fitted_state().items() if not np.array_equal(v, models[name].fitted_state()[k])]
    assert changed
    scores = [float(run(method, world.batch([x])).score[0]) for x in (world.good(77), world.defective(78)[0])]
    assert np.isfinite(scores).all()
    assert scores[1] > scores[0]


@every_method
def test_what_is_left_out_was_never_learned(name: str) -> None:
    """Its scores are those of a method that has learned the others alone: exactly, or where what is learned depends on
    draws, as nearly as those of two such methods that draw differently."""
    if not methods.get(name).leaves_out():
        pytest.skip("it cannot leave out what it has learned")
    world = world_of(name)

    def batch(images: list[int]) -> Batch:
        return replace(world.batch([world.good(i) for i in images]), ids=tuple(map(str, images)))

    def learned(images: list[int], seed: int = 0) -> Method:
        method = methods.get(name)(settings(name), world.spec(world.size), world.size, seed)
        method.keeps = True
        observing.train(method, [batch([i]) for i in images])
        assert method.keeps
        return method

    whole = learned(list(range(TRAIN)))
    known, apart = copy.deepcopy(whole.fitted_state()), []
    for unit in ([0], [2], [5], [1, 7, 8]):
        found, right, other = (
            whole.left_out(batch(unit), batch(unit)),
            *(learned([i for i in range(TRAIN) if i not in unit], seed)(batch(unit)) for seed in (0, 1)),
        )
        assert found.score.shape == right.score.shape
        assert found.anomaly_map.shape == right.anomaly_map.shape
        apart += [
            [np.abs(a - right.score).mean() for a in (found.score, other.score, 0)],
            [np.abs(a - right.anomaly_map).mean() for a in (found.anomaly_map, other.anomaly_map, 0)],
        ]
    for differences in (np.mean(apart[::2], 0), np.mean(apart[1::2], 0)):
        assert differences[0] <= 1.5 * differences[1] + 1e-3 * differences[2]
    assert all(np.array_equal(known[k], v) for k, v in whole.fitted_state().items())

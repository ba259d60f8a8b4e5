"""The training loop: phases, what learns and what does not, snapshots, budgets, what is shared, loud failures."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from blemish.errors import NotFittedError, TrainingDiverged
from blemish.learning import training
from blemish.learning.sampler import drawn_order
from blemish.learning.training import Plan
from blemish.methods.base import Pace, Phase
from blemish.methods.torch_base import TorchMethod
from blemish.types import Batch, Needs, Prediction
from tests.fakes import SIZE, FakeBackbone, FakeSamples, batch_of, good_image, learn

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Config:
    steps: int = 12
    poison: int = -1  # step at which the loss becomes no number
    stop: int = -1  # step at which the process dies


class Killed(Exception):
    pass


class Toy(TorchMethod[Config]):
    """Two networks in two phases; the second looks at what the first gives, with noise."""

    needs = Needs(twin="texture")
    fitted_modules = ("first", "second")
    fitted_buffers = ("mean", "level")

    def __init__(self, config: Config, spec: Any, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        with self.seeded(0):
            self.first = nn.Sequential(nn.Conv2d(spec.channels[0], 6, 1), nn.BatchNorm2d(6))
        with self.seeded():
            self.second = nn.Conv2d(6, spec.channels[0], 1)
        self.register_buffer("calls", torch.zeros(()))
        self.log: list[str] = []
        self.settled = 0

    def observe(self, batch: Batch) -> None:
        self.mean = batch.pyramid.maps[0].mean((0, 2, 3))

    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("one", self.config.steps, ("first",), batch=4, data="scenes", shared=True),
            Phase("two", self.config.steps, ("second",), batch=4),
        )

    def begin(self, phase: Phase, batches: Any) -> None:
        self.log.append(f"begin {phase.name} {sum(len(b.ids) for b in batches)}")

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        assert batch.twin is not None
        assert self.first.training == (phase.name == "one")
        step = round(progress * phase.steps)
        if phase.name == "two" and step == self.config.stop:
            raise Killed
        x = batch.pyramid.maps[0]
        if phase.name == "two":  # what is shared must not depend on the data
            x = x - self.mean[:, None, None]
        noise = 0.1 * torch.randn(x.shape, generator=self.generator)
        y = self.first(x + noise)
        if phase.name == "one":
            return {"size": (y.square().mean() - 1).square()}
        poison = torch.tensor(float("nan") if step == self.config.poison else 0.0)
        return {"fit": (self.second(y) - x).square().mean() + poison, "twin": 0 * batch.twin.maps[0].mean()}

    def after(self, phase: Phase, progress: float) -> None:
        self.calls += 1

    def settle(self, batches: Any) -> None:
        self.settled = sum(len(b.ids) for b in batches)
        self.level = torch.tensor(1.0)

    def predict(self, batch: Batch) -> Prediction:
        x = batch.pyramid.maps[0] - self.mean[:, None, None]
        error = (self.second(self.first(x)) - x).square().mean(1)
        up = nn.functional.interpolate(error[:, None], size=self.size, mode="bilinear")[:, 0]
        return Prediction(error.flatten(1).amax(1), up)


class Memory:
    """A store that remembers."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def put(self, name: str, data: bytes) -> None:
        self.kept[name] = data

    def drop(self, name: str) -> None:
        self.kept.pop(name, None)


IMAGES = [good_image(i) for i in range(10)]


def toy(backbone: FakeBackbone, seed: int = 0, **options: int) -> Toy:
    return Toy(Config(**options), backbone.spec(SIZE), SIZE, seed)


def state(method: Toy) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in method.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_phases_learn_what_they_name_and_nothing_else(backbone: FakeBackbone) -> None:
    method = toy(backbone)
    untrained = state(method)
    with pytest.raises(NotFittedError):
        method(batch_of(backbone, IMAGES[:1]))
    plan = learn(method, backbone, IMAGES)
    assert [(p.phase, p.steps, p.planned) for p in plan.report] == [("one", 12, 12), ("two", 12, 12)]
    assert plan.report[1].last["fit"] < plan.report[1].first["fit"]
    assert method.log == ["begin one 8", "begin two 10"]
    assert method.settled == 10
    assert not any(p.requires_grad for p in method.parameters())
    assert not method.training
    assert torch.isfinite(method(batch_of(backbone, IMAGES[:2])).score).all()
    frozen = toy(backbone, steps=0)
    learn(frozen, backbone, IMAGES)
    assert same({k: v for k, v in untrained.items() if "." in k}, {k: v for k, v in state(frozen).items() if "." in k})


def test_a_frozen_network_keeps_every_bit_its_statistics_too(backbone: FakeBackbone) -> None:
    method = toy(backbone)
    seen: list[dict[str, Tensor]] = []
    inner = method.loss

    def spy(phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        if phase.name == "two":
            seen.append({k: v.clone() for k, v in method.first.state_dict().items()})
        return inner(phase, batch, progress)

    method.loss = spy  # type: ignore[method-assign]
    learn(method, backbone, IMAGES)
    assert all(same(seen[0], later) for later in [*seen, method.first.state_dict()])


@pytest.mark.parametrize("at", [0, 5])
def test_killed_and_started_again_it_comes_to_the_same_weights(backbone: FakeBackbone, at: int) -> None:
    whole = toy(backbone)
    learn(whole, backbone, IMAGES)
    store = Memory()
    broken = toy(backbone, stop=at)
    with pytest.raises(Killed):
        learn(broken, backbone, IMAGES, Plan(store=store, name="run", snapshot_every=0))
    assert store.kept
    again = toy(backbone)
    plan = learn(again, backbone, IMAGES, Plan(store=store, name="run", snapshot_every=0))
    assert same(state(whole), state(again))
    if at:
        assert plan.report[0].resumed
        assert again.log == []  # nothing is begun anew
    assert "run" not in store.kept  # what is finished needs no snapshot


def test_a_snapshot_of_something_else_is_not_taken(backbone: FakeBackbone) -> None:
    store = Memory()
    with pytest.raises(Killed):
        learn(toy(backbone, stop=5), backbone, IMAGES, Plan(store=store, name="run", snapshot_every=0))
    other = toy(backbone)
    plan = learn(other, backbone, IMAGES, Plan(store=store, name="another run"))
    assert not plan.report[0].resumed


class Paced(Toy):
    """Both networks in one phase, the second at a pace of its own where there is one."""

    paces: tuple[Pace, ...] = ()

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("both", self.config.steps, ("first", "second"), batch=4, paces=self.paces),)

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        if round(progress * phase.steps) == self.config.stop:
            raise Killed
        x = batch.pyramid.maps[0]
        return {"fit": (self.second(self.first(x)) - x).square().mean()}


def paced(backbone: FakeBackbone, *paces: Pace, plan: Plan | None = None, **options: int) -> dict[str, Tensor]:
    method = Paced(Config(**options), backbone.spec(SIZE), SIZE)
    method.paces = paces
    learn(method, backbone, IMAGES, plan)
    return {k: v.clone() for k, v in method.state_dict().items() if "." in k}


def test_a_part_may_learn_at_a_pace_of_its_own(backbone: FakeBackbone) -> None:
    usual, start = paced(backbone), state(toy(backbone))
    assert same(paced(backbone, Pace("second", 1e-3, 1e-4)), usual)  # the phase's own, said again
    slow = paced(backbone, Pace("second", 1e-3 / 8, 1e-4), steps=1)
    once = paced(backbone, steps=1)
    for k in ("second.weight", "second.bias"):  # Adam's first step is the rate itself
        torch.testing.assert_close(8 * (slow[k] - start[k]), once[k] - start[k], rtol=1e-2, atol=1e-5)
    assert torch.equal(slow["first.0.weight"], once["first.0.weight"])
    assert not torch.equal(paced(backbone, Pace("second", 1e-3, 10.0))["second.weight"], usual["second.weight"])
    with pytest.raises(ValueError, match="third"):
        paced(backbone, Pace("third", 1e-3, 0.0))


def test_paces_outlive_a_kill(backbone: FakeBackbone) -> None:
    pace, store = Pace("first", 5e-3, 0.0), Memory()
    with pytest.raises(Killed):
        paced(backbone, pace, plan=Plan(store=store, name="run", snapshot_every=0), stop=5)
    again = paced(backbone, pace, plan=Plan(store=store, name="run", snapshot_every=0))
    assert same(again, paced(backbone, pace))


def test_what_is_shared_is_learned_once_for_all_seeds(backbone: FakeBackbone) -> None:
    store = Memory()
    first, second = toy(backbone, seed=1), toy(backbone, seed=2)
    one = learn(first, backbone, IMAGES, Plan(store=store, name="a", shared=lambda p: f"shared {p.name}"))
    two = learn(second, backbone, IMAGES[:3], Plan(store=store, name="b", shared=lambda p: f"shared {p.name}"))
    assert [p.kept for p in one.report] == [False, False]
    assert [p.kept for p in two.report] == [True, False]
    assert same(dict(first.first.state_dict()), dict(second.first.state_dict()))
    assert not torch.equal(first.second.weight, second.second.weight)
    alone = toy(backbone, seed=2)  # without a store, the same comes out
    learn(alone, backbone, IMAGES[:3])
    del alone.calls, second.calls  # a phase from the store has no steps to count
    assert same(state(alone), state(second))


def test_a_budget_cuts_and_says_so(backbone: FakeBackbone) -> None:
    method = toy(backbone, steps=100_000)
    plan = learn(method, backbone, IMAGES, Plan(budget=0.5))
    assert all(training.FEWEST <= p.steps < p.planned for p in plan.report)
    assert method.fitted


def test_a_loss_that_is_no_number_stops_and_names_step_and_terms(backbone: FakeBackbone) -> None:
    with pytest.raises(TrainingDiverged, match=r"phase two, step 7.*fit.*nan.*twin") as caught:
        learn(toy(backbone, poison=7), backbone, IMAGES)
    assert caught.value.hint
    # the traceback, held here, keeps the frame of the steps alive, and yet nothing loads any more
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_every_sample_comes_once_an_epoch_in_another_order(backbone: FakeBackbone) -> None:
    drawn: list[int] = []

    class Asked(FakeSamples):
        def batch(self, indices: Any, generator: torch.Generator | None = None) -> Batch:
            if generator is not None:
                drawn.extend(indices)
            return super().batch(indices, generator)

    method = toy(backbone, steps=10)
    training.learn(
        method, Asked(backbone, IMAGES, method.needs), plan=Plan(scenes=FakeSamples(backbone, IMAGES, method.needs))
    )
    epochs = [drawn[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


class Shelf:
    """Samples of products, by how many each has."""

    def __init__(self, *counts: int) -> None:
        self.categories = [k for k, count in enumerate(counts) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.categories)


def test_products_are_drawn_as_often_and_their_samples_evenly() -> None:
    shelf = Shelf(50, 7, 3)
    order = drawn_order(shelf, True, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert len(order) == 60
    owners = [shelf.categories[i] for i in order]
    assert all(sorted(owners[i : i + 3]) == [0, 1, 2] for i in range(0, 60, 3))
    times = [order.count(i) for i in range(60)]
    assert set(times[:50]) == {0, 1}
    assert set(times[50:57]) == {2, 3}
    assert sorted(times[57:]) == [6, 7, 7]
    assert order != drawn_order(shelf, True, torch.Generator().manual_seed(1))  # type: ignore[arg-type]


@pytest.mark.parametrize(("counts", "balanced"), [((50, 7, 3), False), ((9,), True)])
def test_else_each_sample_is_drawn_once(counts: tuple[int, ...], balanced: bool) -> None:
    order = drawn_order(Shelf(*counts), balanced, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert sorted(order) == list(range(sum(counts)))
    assert order != sorted(order)


def test_held_samples_settle_and_no_step_sees_them(backbone: FakeBackbone) -> None:
    method = toy(backbone)
    held = FakeSamples(backbone, IMAGES[:3], replace(method.needs, twin=None))
    scenes = FakeSamples(backbone, IMAGES, method.needs)
    training.learn(method, FakeSamples(backbone, IMAGES[3:], method.needs), held, Plan(scenes=scenes))
    assert method.settled == 3


def test_bf16_leaves_weights_in_float32(backbone: FakeBackbone) -> None:
    method = toy(backbone)
    plan = learn(method, backbone, IMAGES, Plan(bf16=True))
    assert {p.dtype for p in method.parameters()} == {torch.float32}
    assert torch.isfinite(method(batch_of(backbone, IMAGES[:1])).score).all()
    assert [phase.precision for phase in plan.report] == ["bf16", "bf16"]
    assert [phase.precision for phase in learn(toy(backbone), backbone, IMAGES).report] == ["f32", "f32"]


class Out(NamedTuple):
    found: Tensor
    kept: dict[str, list[Tensor]]
    count: int


class Seen(nn.Module):
    """A network with a part inside that computes exactly; notes what it is computed in."""

    def __init__(self, channels: int, log: list[tuple[str, bool, torch.dtype]], name: str) -> None:
        super().__init__()
        self.inner, self.exact = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.log, self.name = log, name

    def forward(self, x: Tensor) -> Out:
        y = self.inner(x)
        self.log.append((self.name, torch.is_autocast_enabled("cpu"), y.dtype))
        with torch.autocast("cpu", enabled=False):
            z = self.exact(y.float())
            self.log.append((f"{self.name}, exact part", torch.is_autocast_enabled("cpu"), z.dtype))
        return Out(z, {"mean": [y.mean(1, keepdim=True)]}, 3)


class Probed(Toy):
    """A loss that calls a network that learns, its parts, and one that is frozen, and multiplies by itself."""

    def __init__(self, config: Config, spec: Any, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self.seen: list[tuple[str, bool, torch.dtype]] = []
        self.states: list[float] = []
        with self.seeded():
            self.first = Seen(spec.channels[0], self.seen, "learns")  # type: ignore[assignment]
            self.second = Seen(spec.channels[0], self.seen, "frozen")  # type: ignore[assignment]

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("one", self.config.steps, ("first",), batch=4, rate=0.1),)

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        x = batch.pyramid.maps[0]
        self.states.append(float(self.first.inner.weight.detach().sum()))  # type: ignore[union-attr, operator]
        whole, part, frozen = self.first(x), self.first.inner(x), self.second(x)
        assert whole.count == 3
        for name, y in (("out", whole.found), ("inside a tuple", whole.kept["mean"][0]), ("part", part)):
            self.seen.append((name, torch.is_autocast_enabled("cpu"), y.dtype))
        products = x.flatten(2) @ x.flatten(2).transpose(1, 2)
        self.seen.append(("products", torch.is_autocast_enabled("cpu"), products.dtype))
        if len(self.states) == self.config.stop:
            self.first(x[:, :1])  # of no such shape
        mean = whole.kept["mean"][0].mean() + part.mean()
        return {"fit": (whole.found - x).square().mean() + 0 * frozen.found.mean(), "mean": (mean - 1).square()}


def test_networks_that_learn_compute_in_bf16_and_nothing_else_does(backbone: FakeBackbone) -> None:
    method = Probed(Config(steps=3), backbone.spec(SIZE), SIZE)
    learn(method, backbone, IMAGES, Plan(bf16=True))
    exact = {"learns, exact part", "frozen", "frozen, exact part", "out", "inside a tuple", "part", "products"}
    wanted = {(name, False, torch.float32) for name in exact} | {("learns", True, torch.bfloat16)}
    assert set(method.seen) == wanted
    plain = Probed(Config(steps=3), backbone.spec(SIZE), SIZE)
    learn(plain, backbone, IMAGES)
    assert {(on, dtype) for _, on, dtype in plain.seen} == {(False, torch.float32)}
    assert len(set(method.states)) == 3


def test_every_step_in_bf16_computes_with_the_weights_that_it_has(backbone: FakeBackbone) -> None:
    """Autocast keeps what it has rounded: a step must not compute with what the weights were before."""
    losses = []
    for bf16 in (False, True):
        method, found = Probed(Config(steps=8), backbone.spec(SIZE), SIZE), []
        inner = method.loss

        def spy(*given: Any, inner: Any = inner, found: list[float] = found) -> dict[str, Tensor]:
            terms = inner(*given)
            found.append(float(terms["mean"].detach()))
            return terms

        method.loss = spy  # type: ignore[method-assign]
        with torch.autocast("cpu", torch.bfloat16):  # around it one may be on that outlives all steps
            learn(method, backbone, IMAGES, Plan(bf16=bf16))
        losses.append(torch.tensor(found))
    assert (losses[0] - losses[0][0]).abs().max() > 0.1
    torch.testing.assert_close(losses[1], losses[0], rtol=0.1, atol=0.02)


def test_autocast_around_a_training_reaches_nothing_in_it(backbone: FakeBackbone) -> None:
    usual, inside = toy(backbone), toy(backbone)
    learn(usual, backbone, IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        learn(inside, backbone, IMAGES)
        assert torch.is_autocast_enabled("cpu")
    assert same(state(usual), state(inside))


@pytest.mark.parametrize("replaced", [False, True])
def test_what_fails_in_a_network_leaves_nothing_behind(backbone: FakeBackbone, replaced: bool) -> None:
    method = Probed(Config(steps=3, stop=2), backbone.spec(SIZE), SIZE)
    calls: list[int] = []
    if replaced:  # a module whose forward somebody has replaced keeps theirs
        usual = method.first.forward
        method.first.forward = lambda x: (calls.append(1), usual(x))[1]  # type: ignore[method-assign, func-returns-value]
    before = {name: dict(module.__dict__) for name, module in method.named_modules()}
    with pytest.raises(RuntimeError, match="channels"):
        learn(method, backbone, IMAGES, Plan(bf16=True))
    assert not torch.is_autocast_enabled("cpu")
    for name, module in method.named_modules():
        assert ("forward" in module.__dict__) == ("forward" in before[name])
    assert bool(calls) == replaced
    assert method.first(batch_of(backbone, IMAGES[:1]).pyramid.maps[0]).found.dtype == torch.float32


def test_killed_in_bf16_it_comes_to_the_same_weights(backbone: FakeBackbone) -> None:
    whole, again, store = toy(backbone), toy(backbone), Memory()
    learn(whole, backbone, IMAGES, Plan(bf16=True))
    kept = {"bf16": True, "store": store, "name": "run", "snapshot_every": 0.0}
    with pytest.raises(Killed):
        learn(toy(backbone, stop=5), backbone, IMAGES, Plan(**kept))
    learn(again, backbone, IMAGES, Plan(**kept))
    assert same(state(whole), state(again))
    plain = toy(backbone)
    learn(plain, backbone, IMAGES)
    assert not same(state(whole), state(plain))

"""A phase that ends when the loss on held-out samples has stopped falling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blemish.data.image.preprocess import Preprocess
from blemish.learning import training
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.sources.features import FeatureSource
from blemish.learning.sources.image import ImageSamples, files
from blemish.learning.training import EVERY, PATIENCE, TAIL, Plan
from blemish.methods.base import Phase
from blemish.methods.torch_base import TorchMethod
from blemish.types import Batch, Needs, PhaseReport, Prediction
from tests.fakes import SIZE, FakeBackbone, FakeSamples, good_image, write_images
from tests.unit.learning.test_training import Killed, Memory

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Config:
    steps: int = 2000
    falls: int = 300  # steps over which the loss falls
    stop: int = -1  # step at which the process dies


class Falling(TorchMethod[Config]):
    """A loss that falls for a while and is then what it is."""

    needs = Needs()
    fitted_modules = ("part",)

    def __init__(self, config: Config, spec: Any, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        with self.seeded():
            self.part = nn.Linear(1, 1)
        self.register_buffer("taken", torch.zeros(()))
        self.rates: list[float] = []
        self.measured = 0

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("fall", self.config.steps, ("part",), batch=4, rate=1e-3, flat=True),)

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        taken = int(self.taken)
        if taken == self.config.stop and self.part.training:
            raise Killed
        left = max(1 - taken / self.config.falls, 0.0)
        return {"fall": 1 + left + 0 * self.part(torch.ones(1, 1)).sum()}

    def after(self, phase: Phase, progress: float) -> None:
        self.taken += 1

    def measure(self, batches: Any) -> None:
        self.measured = sum(len(b.ids) for b in batches)

    def predict(self, batch: Batch) -> Prediction:
        raise NotImplementedError


def run(backbone: FakeBackbone, held: int = 3, plan: Plan | None = None, **options: int) -> tuple[Falling, PhaseReport]:
    method = Falling(Config(**options), backbone.spec(SIZE), SIZE)
    images = [good_image(i) for i in range(8)]
    parts = [FakeSamples(backbone, part, method.needs) for part in (images[held:], images[:held])]
    plan = plan or Plan()
    training.learn(method, parts[0], parts[1], plan)
    return method, plan.report[-1]


def test_it_ends_a_tail_after_the_loss_is_flat(backbone: FakeBackbone) -> None:
    method, report = run(backbone)
    at = math.ceil(300 / EVERY) * EVERY + PATIENCE * EVERY  # the first look that is no better, and those after it
    assert report.flat
    assert report.planned == 2000
    assert abs(report.steps - at / (1 - TAIL)) <= EVERY / (1 - TAIL)
    assert int(method.taken) == report.steps, "a look takes no step"
    assert method.measured == 8


def test_a_loss_that_falls_takes_all_steps(backbone: FakeBackbone) -> None:
    _, report = run(backbone, steps=200, falls=5000)
    assert (report.steps, report.flat) == (200, False)


def test_without_held_samples_it_takes_all_steps(backbone: FakeBackbone) -> None:
    _, report = run(backbone, held=0, steps=500)
    assert (report.steps, report.flat) == (500, False)


def test_the_rate_falls_in_the_tail_alone(backbone: FakeBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = training._PhaseRun._step

    def noted(self: Any, batch: Batch) -> dict[str, float]:
        terms = step(self, batch)
        rates.append(self.optimiser.param_groups[0]["lr"])
        return terms

    monkeypatch.setattr(training._PhaseRun, "_step", noted)
    _, report = run(backbone)
    falling = [i for i, (a, b) in enumerate(zip(rates, rates[1:], strict=False)) if b < a]
    assert falling == list(range(falling[0], report.steps - 1))
    assert falling[0] == pytest.approx((1 - TAIL) * report.steps, abs=2)
    assert rates[-1] < 0.1 * rates[0]


def test_a_killed_run_looks_on(backbone: FakeBackbone) -> None:
    store = Memory()
    with pytest.raises(Killed):
        run(backbone, plan=Plan(store=store, name="run", snapshot_every=0), stop=411)
    _, again = run(backbone, plan=Plan(store=store, name="run"), stop=-1)
    _, whole = run(backbone)
    assert (again.steps, again.flat) == (whole.steps, whole.flat)


class Twinned(Falling):
    """Learns from damaged copies too."""

    needs = Needs(twin="texture", fresh=True)
    watched: list[Tensor]
    settled: list[bool]

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        assert batch.twin is not None
        if not self.part.training:
            self.watched.append(batch.twin.maps[0].clone())
        return super().loss(phase, batch, progress)

    def settle(self, batches: Any) -> None:
        self.settled = [batch.twin is not None for batch in batches]


def test_what_learns_from_damaged_copies_is_watched_on_the_same_ones(backbone: FakeBackbone, tmp_path: Path) -> None:
    source = FeatureSource(backbone, Preprocess(SIZE), FeatureCache(tmp_path / "cache"), precision="f32")
    items = files(write_images(tmp_path / "good", 8), source.preprocess)
    parts = [ImageSamples(source, part, Twinned.needs) for part in (items[3:], items[:3])]
    method = Twinned(Config(steps=3 * EVERY), backbone.spec(SIZE), SIZE)
    method.watched = []
    training.learn(method, parts[0], parts[1])
    assert len(method.watched) == 2  # before the last quarter
    assert torch.equal(*method.watched)
    assert method.settled == [True]

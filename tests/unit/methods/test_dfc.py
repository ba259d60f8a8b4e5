"""DFC's own head: what it starts from, what it learns to tell, what its options switch. Routing: test_several."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from blemish.errors import ConfigError
from blemish.evaluation.metrics import auroc
from blemish.learning.training import Plan
from blemish.methods.dfc import DFC, Config, folded, rank
from blemish.types import Batch, FeatureSpec, Pyramid
from tests.fakes import SIZE, FakeBackbone, batch_of, defective_image, good_image, learn
from tests.unit.learning.test_training import Memory

SMALL: dict[str, Any] = {
    "steps": 80,
    "rate": 5e-3,
    "width": 16,
    "hidden": 24,
    "positions": 64,
    "discriminator_rate": 5e-3,
    "top": 0.05,
    "neighbourhood": 1,
}


def fitted(seed: int = 0, **options: Any) -> DFC:
    backbone = FakeBackbone()
    method = DFC(Config(**{**SMALL, **options}), backbone.spec(SIZE), SIZE, seed)
    learn(method, backbone, [good_image(i) for i in range(12)])
    return method


@pytest.fixture(scope="module")
def method() -> DFC:
    return fitted()


def test_levels_come_to_the_middle_grid() -> None:
    spec = FeatureSpec((0, 1, 2), (3, 4, 5), ((16, 20), (8, 10), (4, 5)))
    method = DFC(Config(**SMALL), spec, (64, 80))
    maps = tuple(torch.randn(2, c, *g) for c, g in zip(spec.channels, spec.grids, strict=True))
    local = method.local(Batch(size=(64, 80), pyramid=Pyramid(maps)))
    assert local.shape == (2, 12, 8, 10)
    constant = tuple(torch.full_like(m, float(i)) for i, m in enumerate(maps))
    local = method.local(Batch(size=(64, 80), pyramid=Pyramid(constant)))
    assert torch.allclose(local[:, :3], torch.zeros(()))
    ones = torch.ones(2, 4, 8, 10)
    assert torch.allclose(local[:, 3:7], ones)  # neighbourhood of 1
    wide = Config(**{**SMALL, "neighbourhood": 3})
    found = {
        b: DFC(replace(wide, border=b), spec, (64, 80)).local(Batch((64, 80), Pyramid(constant)))[:, 3:7]
        for b in ("zeros", "inside")
    }
    assert torch.allclose(found["inside"], ones)  # the mean counts what is there
    torch.testing.assert_close(found["zeros"][:, :, 1:-1, 1:-1], ones[:, :, 1:-1, 1:-1])
    torch.testing.assert_close(found["zeros"][:, :, 0, 0], torch.full((2, 4), 4 / 9))


def test_the_adaptor_starts_at_standardised_features() -> None:
    backbone = FakeBackbone()
    method = DFC(Config(**SMALL), backbone.spec(SIZE), SIZE)
    before = method.adaptor.weight.clone()
    batch = batch_of(backbone, [good_image(i) for i in range(8)])
    with torch.no_grad():
        method.observe(batch)
        method.conclude()
        x = method.local(batch).permute(0, 2, 3, 1).flatten(0, 2)
        ours = method.adaptor(x)
        wanted = ((x - x.mean(0)) / x.std(0, correction=0).clamp_min(1e-6)) @ before.T
    assert torch.allclose(ours, wanted, atol=1e-2)


def test_good_features_are_told_from_noisy_ones(method: DFC) -> None:
    backbone = FakeBackbone()
    batch = batch_of(backbone, [good_image(i) for i in range(100, 106)])
    with torch.no_grad():
        good = method.adaptor(method.local(batch).permute(0, 2, 3, 1).flatten(0, 2))
        noise = good.std(0) * torch.randn(good.shape, generator=torch.Generator().manual_seed(3))
        scores = torch.cat([method.discriminator(good), method.discriminator(good + noise)])
    assert auroc([1] * len(good) + [0] * len(good), scores.tolist()) > 0.9


def test_defects_are_found(method: DFC) -> None:
    backbone = FakeBackbone()
    images = [good_image(i) for i in range(200, 212)] + [defective_image(i)[0] for i in range(12)]
    mask = defective_image(0)[1]
    with torch.no_grad():
        out = method(batch_of(backbone, images))
    assert auroc([0] * 12 + [1] * 12, out.score.tolist()) > 0.95
    maps = out.anomaly_map[12:].numpy()
    assert auroc(np.broadcast_to(mask, maps.shape).ravel().astype(int), maps.ravel()) > 0.75  # cells of 8 pixels


def test_noise_follows_the_spread_and_cannot_be_outgrown() -> None:
    """Features that are ten times as large get ten times the noise: the loss stays what it was."""
    backbone = FakeBackbone()
    method = DFC(Config(**SMALL), backbone.spec(SIZE), SIZE)
    batch = batch_of(backbone, [good_image(i) for i in range(6)])
    with torch.no_grad():
        method.observe(batch)
        method.conclude()
    terms = []
    for scale in (1.0, 10.0):
        with torch.no_grad():
            method.adaptor.weight.mul_(scale)
            method.adaptor.bias.mul_(scale)
        method.train()
        method.generator.manual_seed(5)
        with torch.no_grad():
            terms.append(float(method.loss(method.phases()[0], batch, 0.0)["spoilt"]))
    assert terms[0] == pytest.approx(terms[1], rel=1e-2)  # the discriminator's batch norm sees the same


def test_folding_changes_nothing(method: DFC) -> None:
    for changed in (method, fitted(capacity="rank", hidden=24)):
        x = changed.local(batch_of(FakeBackbone(), [good_image(7), defective_image(8)[0]])).permute(0, 2, 3, 1)
        weight, bias, last = folded(changed.adaptor, changed.discriminator)
        with torch.no_grad():
            expected = changed.discriminator(changed.adaptor(x).flatten(0, 2)).view(x.shape[:3])
        found = torch.nn.functional.leaky_relu(x @ weight.T + bias, 0.2) @ last
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        assert float(expected.std()) > 0.1


def test_a_model_that_is_loaded_over_another_scores_as_it_did(method: DFC) -> None:
    other, seen = fitted(seed=1, steps=3), batch_of(FakeBackbone(), [good_image(7), defective_image(8)[0]])
    with torch.no_grad():
        assert not torch.equal(other(seen).score, method(seen).score)
        other.load_fitted(method.fitted_state())
        assert torch.equal(other(seen).score, method(seen).score)


def test_an_adaptor_of_no_width_is_as_wide_as_the_features() -> None:
    method = DFC(Config(), FakeBackbone().spec(SIZE), SIZE)
    total = sum(FakeBackbone().spec(SIZE).channels)
    assert method.adaptor.weight.shape == (total, total)


def test_adaptor_and_discriminator_learn_at_their_own_pace() -> None:
    phase = DFC(Config(), FakeBackbone().spec(SIZE), SIZE).phases()[0]
    assert phase.rate == Config.rate
    assert [(p.part, p.rate) for p in phase.paces] == [("discriminator", Config.discriminator_rate)]


def test_averages_resume_to_the_same_bits_and_are_no_part_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed where half of what is averaged has passed; without the average other weights come out."""
    backbone, images = FakeBackbone(), [good_image(i) for i in range(12)]

    def learned(**given: Any) -> dict[str, Any]:
        average = given.pop("average", 0.5)
        method = DFC(Config(**{**SMALL, "steps": 20, "average": average}), backbone.spec(SIZE), SIZE)
        learn(method, backbone, images, **given)
        return method.fitted_state()

    store, inner = Memory(), DFC.loss

    def dies(self: DFC, phase: Any, batch: Batch, progress: float) -> Any:
        if round(progress * phase.steps) == 16:
            raise KeyboardInterrupt
        return inner(self, phase, batch, progress)

    with monkeypatch.context() as patched:
        patched.setattr(DFC, "loss", dies)
        with pytest.raises(KeyboardInterrupt):
            learned(plan=Plan(store=store, name="run", snapshot_every=0))
    assert store.kept
    again, whole = learned(plan=Plan(store=store, name="run", snapshot_every=0)), learned()
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert not [name for name in whole if "averages" in name]
    assert not torch.equal(learned(average=0.0)["adaptor.weight"], whole["adaptor.weight"])


def test_scores_are_counted_from_what_good_images_have_at_each_place() -> None:
    images = batch_of(FakeBackbone(), [good_image(i) for i in range(12)])
    for way, most in (("z", 1e-2), ("sum", 10.0)):
        method = fitted(levels=way, steps=10)
        with torch.no_grad():
            shown = method(images).anomaly_map
        share = float(shown.mean(0).abs().max() / shown.abs().max())
        assert share < most
        assert way == "z" or share > 0.1


@pytest.mark.parametrize("top", [0.0, 0.05])
def test_score_is_that_of_the_highest_positions_before_the_blur(top: float) -> None:
    method = fitted(top=top, steps=5)
    seen = batch_of(FakeBackbone(), [good_image(i) for i in range(100, 104)])
    with torch.no_grad():
        out, places = method.predict(seen), method.place_scores([method.positions(seen)])[0]
    every = places.flatten(1).sort(1, descending=True).values
    torch.testing.assert_close(out.score, every[:, : max(round(top * every.shape[1]), 1)].mean(1))


def test_capacity_follows_the_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(400, 3, generator=generator).double() @ torch.randn(3, 30, generator=generator).double()
    assert rank(low.T @ low / 400) == 3
    assert rank(torch.eye(30).double()) == 30
    method = fitted(capacity="rank", hidden=24)  # 24 channels of the fake backbone: rank below 32
    assert int(method.discriminator.active.sum()) == 8
    assert int(fitted(hidden=24, steps=1).discriminator.active.sum()) == 24
    assert "discriminator.active" in method.fitted_state()


def test_another_head_takes_its_own_options() -> None:
    routing = DFC.routing(Config(head="padim", head_options={"level": 0}, labels="none", vote="plain"))
    assert (routing.head, routing.head_options, routing.labels, routing.reliable) == (
        "padim",
        {"level": 0},
        "none",
        False,
    )
    assert DFC.routing(Config()).head is None
    with pytest.raises(ConfigError, match="head_options belong to another method"):
        Config(head_options={"level": 0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"top": 1},
        {"average": 1},
        {"discriminator_rate": 0.0},
        {"width": -1},
        {"noise": 0.0},
        {"sigma": -1.0},
        {"shots": 0},
    ],
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DFC.routing(Config(**wrong))

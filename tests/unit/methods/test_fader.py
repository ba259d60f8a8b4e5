"""FADeR: one deterministic mask, a frozen repaint, and a soft mask that is learned of its errors alone."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.worlds.weave import FLAWS, weave
from blemish import config
from blemish.errors import ConfigError
from blemish.evaluation.metrics import auroc
from blemish.learning import training
from blemish.learning.observing import seen_again
from blemish.learning.training import Plan
from blemish.methods.base import HELD
from blemish.methods.fader import Config, FADeR, Look
from blemish.nn.attenuation import PatchGate, attenuated
from blemish.nn.grids import joined
from blemish.nn.similarity import msgms_map, ssim
from blemish.nn.unet import UNet, inner_size
from blemish.types import Batch, Pyramid
from tests.fakes import SIZE, FakeBackbone, FakeSamples, batch_of, beside, defective_image, good_image, learn

SIDE = (48, 48)
GRID = FakeBackbone().spec(SIZE).grids[0]
TOY: dict[str, Any] = {
    **{"side": 48, "patch": 4, "width": 6, "share": 0.1, "hidden": 32, "sigma": 1.5, "batch": 8},
    **{
        "steps": 100,
        "rate": 1e-2,
        "gate_steps": 260,
        "gate_rate": 2e-2,
        "recovery": 0,
        "until": "steps",
        "map": "msgms",
    },
}
SMALL: dict[str, Any] = {"steps": 2, "gate_steps": 2, "width": 4, "hidden": 8, "batch": 2, "map": "msgms"}


def made(size: tuple[int, int] = SIZE, seed: int = 0, **options: Any) -> FADeR:
    return FADeR(Config(**{**SMALL, **options}), FakeBackbone().spec(size), size, seed)


def fitted(**options: Any) -> FADeR:
    method = made(**options)
    learn(method, FakeBackbone(), [good_image(i) for i in range(4)])
    return method


def probe(count: int = 3) -> Batch:
    return batch_of(FakeBackbone(), [good_image(100 + i) for i in range(count)])


@dataclass
class World:
    """A method that has learned the cloth, and cloths with flaws whose clean twins are known."""

    method: FADeR
    base: dict[str, Tensor]  # the U-Net as it was before the gate learned
    bad: Batch
    clean: Batch
    wrong: Tensor  # (B, 1, H, W) 1 inside a flaw

    def look(self, gate: Any = "learned", method: FADeR | None = None) -> Look:
        """As with another gate: "off", a number, or a tensor of its own."""
        method = method or self.method
        with torch.no_grad():
            look = method.look(self.bad)
            if isinstance(gate, str) and gate == "learned":
                return look
            maps = method.encoded(look.image, look.mask)
            if not isinstance(gate, Tensor):
                gate = None if gate == "off" else torch.full((1, 1, *method.grid), float(gate))
            return look._replace(gate=gate, repaint=method.painted(maps, gate))

    def auroc(self, look: Look) -> float:
        found = self.method.scores.level_maps([msgms_map(look.image, look.repaint)])
        return auroc(self.wrong.flatten().numpy().astype(int), found.flatten().numpy())

    def errors(self, look: Look) -> tuple[float, float]:
        """Mean squared error to the clean twin, inside the flaws that the mask left uncovered, and outside."""
        off = (look.repaint - self.method.image(self.clean)).square().mean(1, keepdim=True)
        seen = 1 - F.interpolate(look.mask, scale_factor=float(self.method.config.patch), mode="nearest")
        inside, outside = self.wrong * seen, 1 - self.wrong
        return float((off * inside).sum() / inside.sum()), float((off * outside).sum() / outside.sum())

    def gates(self, look: Look) -> tuple[float, float]:
        """Mean of the gate on patches with a flaw in at least half of them, and on those without any."""
        assert look.gate is not None
        share = F.avg_pool2d(self.wrong, self.method.config.patch)
        gate = look.gate.expand_as(share)
        return float(gate[share > 0.5].mean()), float(gate[share == 0].mean())

    @property
    def oracle(self) -> Tensor:
        return 1 - F.adaptive_max_pool2d(self.wrong, self.method.grid)


class Kept(FADeR):
    """Remembers the U-Net as it was when the gate's phase began."""

    def begin(self, phase: Any, batches: Any) -> None:
        if phase.name == "gate":
            self.before = {k: v.clone() for k, v in self.unet.state_dict().items()}
        super().begin(phase, batches)


def cloth(**options: Any) -> World:
    backbone = FakeBackbone()
    method = Kept(Config(**{**TOY, **options}), backbone.spec(SIDE), SIDE)
    learn(method, backbone, [weave(np.random.default_rng(i), SIDE)[0] for i in range(24)])
    seeds = [(1000 + i, FLAWS[i % len(FLAWS)]) for i in range(24)]
    flawed = [weave(np.random.default_rng(s), SIDE, kind) for s, kind in seeds]
    twins = [weave(np.random.default_rng(s), SIDE)[0] for s, _ in seeds]
    wrong = torch.from_numpy(np.stack([m for _, m in flawed]))[:, None].float()
    bad, clean = batch_of(backbone, [x for x, _ in flawed]), batch_of(backbone, twins)
    return World(method, method.before, bad, clean, wrong)


@pytest.fixture(scope="module")
def world() -> World:
    return cloth()


# --------------------------------------------------------------------------------------------- what holds exactly
@pytest.mark.parametrize("options", [{}, {"per_skip": True}, {"skip_only": True}])
def test_an_open_gate_is_the_base_bit_for_bit(options: dict[str, Any]) -> None:
    method, batch = fitted(**options), probe()
    with torch.no_grad():
        for layer in method.door.layers:  # type: ignore[union-attr]
            layer[2].weight.zero_()
            layer[2].bias.fill_(1e4)
        opened = method(batch)
    assert torch.equal(method.look(batch).gate, torch.ones_like(method.look(batch).gate))
    for gate in ("off", 1.0):
        method.config = replace(method.config, gate=gate)
        same = method(batch)
        assert torch.equal(same.anomaly_map, opened.anomaly_map)
        assert torch.equal(same.score, opened.score)
    method.config = replace(method.config, gate=0.5)
    assert not torch.equal(method(batch).anomaly_map, opened.anomaly_map)


def test_one_pass_without_chance_and_blind_to_the_rest_of_the_batch() -> None:
    method, batch = fitted(), probe(5)
    state = torch.get_rng_state()
    first, second = method(batch), method(batch)
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    assert torch.equal(torch.get_rng_state(), state)
    whole = method.look(batch)
    for i in (0, 4):
        alone = method.look(batch_of(FakeBackbone(), [good_image(100 + i)]))
        torch.testing.assert_close(alone.mask, whole.mask[i : i + 1], atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.repaint, whole.repaint[i : i + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["A", "B"])
def test_the_base_is_untouched_by_the_gate(variant: str) -> None:
    backbone = FakeBackbone()
    method = Kept(Config(**{**SMALL, "variant": variant}), backbone.spec(SIZE), SIZE)
    learn(method, backbone, [good_image(i) for i in range(4)])
    after = method.unet.state_dict()
    assert any("running_mean" in name for name in after)
    assert all(torch.equal(after[name], value) for name, value in method.before.items())


def test_two_small_layers_are_all_that_the_gate_learns() -> None:
    method = made(hidden=64, width=16)
    inside = sum(method.unet.widths)
    assert inside == 16 + 32 + 64 + 128 + 128
    (phase,) = [p for p in method.phases() if p.name == "gate"]
    learned = sum(p.numel() for group in training._groups(method, phase) for p in group["params"])
    assert learned == inside * 64 + 2 * 64 + 1 == 23_681
    assert learned < 0.014 * sum(p.numel() for p in method.unet.parameters())
    per_skip = made(hidden=64, width=16, per_skip=True)
    assert sum(p.numel() for p in per_skip.door.parameters()) == inside * 64 + 5 * (2 * 64 + 1)
    assert [p.name for p in made(gate="off").phases()] == ["repaint"]
    assert not list(made(gate=0.3).door.parameters())


def test_gate_starts_open_and_sees_features_alone() -> None:
    method = made()
    maps = method.unet.eval().encode(torch.rand(2, 3, *method.inner))
    gate = method.door(maps).sigmoid()
    assert gate.shape == (2, 1, *method.grid)
    assert 0.8 < gate.min() < gate.max() < 0.99
    weak = attenuated(maps, torch.full((2, 1, *method.grid), 0.25), skips_only=True)
    assert all(torch.allclose(a, 0.25 * b) for a, b in zip(weak[:-1], maps[:-1], strict=True))
    assert weak[-1] is maps[-1]


def test_each_level_has_a_gate_of_its_own_where_asked() -> None:
    door = PatchGate((4, 6, 8), (4, 4), 8, apart=True)
    maps = [torch.rand(1, c, n, n) for c, n in ((4, 16), (6, 8), (8, 2))]
    before = door(maps)
    assert before.shape == (1, 3, 4, 4)
    other = door([maps[0], maps[1] + 1, maps[2]])
    assert [torch.equal(a, b) for a, b in zip(before[0], other[0], strict=True)] == [True, False, True]


def test_targets_fall_from_the_median_to_the_extreme_of_good_errors() -> None:
    door = PatchGate((4,), (1, 4), 2)
    door.low.fill_(0.1)
    door.span.fill_(0.4)
    got = door.targets(torch.tensor([[[[0.0, 0.1, 0.3, 2.0]]]]))
    torch.testing.assert_close(got, torch.tensor([[[[1.0, 1.0, 0.5, 0.0]]]]))


def test_begin_measures_good_errors_and_tokens() -> None:
    method = fitted()
    batch = batch_of(FakeBackbone(), [good_image(i) for i in range(4)])
    with torch.no_grad():
        x, mask = method.image(batch), method.mask(batch)
        maps = method.encoded(x, mask)
        error = (method.unet.decode(maps) - x).square().mean(1)
        patches = F.avg_pool2d(error[:, None], 8).flatten()
        tokens = (method.door.tokens(maps) - method.door.mean) / method.door.deviation
    assert method.door.low.item() == pytest.approx(patches.quantile(0.5).item(), rel=0.1)
    assert (method.door.low + method.door.span).item() == pytest.approx(patches.max().item(), rel=1e-3)
    assert tokens.mean((0, 2, 3)).abs().max() < 0.05
    assert 0.5 < tokens.std((0, 2, 3)).median() < 1.1


def test_the_mask_hides_what_is_strange_to_the_frozen_network() -> None:
    """Features as they usually are at each place, but for four patches whose finest ones are turned round."""
    method, backbone = fitted(share=4 / 48), FakeBackbone()
    seen = batch_of(backbone, [good_image(i) for i in range(4)])  # what it has learned from
    assert seen.pyramid is not None
    maps = [level.mean(0, keepdim=True) for level in seen.pyramid.maps]
    maps[0][:, :, 4:8, 10:14] *= -1  # two cells of stride 4 a patch of 8 pixels
    mask = method.mask(replace(seen, pyramid=Pyramid(tuple(maps))))
    wanted = torch.zeros(1, 1, 6, 8)
    wanted[..., 2:4, 5:7] = 1
    assert torch.equal(mask, wanted)


def test_random_is_one_draw_at_inspection_and_many_in_training() -> None:
    method = fitted(mask="random")
    batch = probe()
    assert torch.equal(method.mask(batch), fitted(mask="random").mask(batch))
    assert not torch.equal(method.mask(batch), made_mask("random", seed=1))
    method.generator.manual_seed(0)
    lots = method._training_mask(batch)
    assert lots.shape == (3, 1, *method.grid)
    assert not torch.equal(lots[0], lots[1])


def made_mask(kind: str, seed: int) -> Tensor:
    method = made(mask=kind, seed=seed)
    learn(method, FakeBackbone(), [good_image(i) for i in range(2)])
    return method.fixed


def test_literal_variant_learns_from_good_images_alone_and_has_no_repaint_term(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "blemish.methods.fader.spoilt"
    calls: list[int] = []

    def counted(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return x, x

    monkeypatch.setattr(module, counted)
    for variant, recovery, terms in (("A", 1.0, 1), ("B", 1.0, 3), ("B", 0.0, 1)):
        calls.clear()
        method = made(variant=variant, recovery=recovery)
        report = learn(method, FakeBackbone(), [good_image(i) for i in range(2)]).report
        assert len(report[1].last) == terms
        assert bool(calls) == (variant == "B")


def test_inner_sizes() -> None:
    assert inner_size((256, 256), 128, 16) == (128, 128)
    assert inner_size((256, 384), 128, 16) == (128, 192)
    assert inner_size((48, 64), 128, 16) == (48, 64)  # never larger than the image
    assert inner_size((100, 40), 128, 16) == (96, 32)
    assert inner_size((20, 20), 16, 16) == (16, 16)


def test_unet_shapes() -> None:
    net = UNet(4, 4).eval()
    maps = net.encode(torch.rand(2, 3, 32, 48))
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 32, 48), (8, 16, 24), (16, 8, 12), (32, 4, 6), (32, 2, 3)]
    assert net(torch.rand(2, 3, 32, 48)).shape == (2, 3, 32, 48)
    assert sum(p.numel() for p in UNet(16).parameters()) == pytest.approx(1.8e6, rel=0.01)


def test_the_map_is_the_blurred_difference_of_image_and_repaint() -> None:
    method, batch = fitted(), probe()
    look = method.look(batch)
    torch.testing.assert_close(
        method(batch).anomaly_map, method.scores.level_maps([msgms_map(look.image, look.repaint)]), atol=1e-6, rtol=1e-5
    )
    method.config = replace(method.config, map="l2+msgms")
    more = method.scores.level_maps([(look.image - look.repaint).square().mean(1)])
    torch.testing.assert_close(
        method(batch).anomaly_map,
        method.scores.level_maps([msgms_map(look.image, look.repaint)]) + more,
        atol=1e-6,
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"batch": 1},
        {"patch": 3},
        {"side": 8},
        {"rate": 0},
        {"gate_rate": 0},
        {"recovery": -1},
        {"sigma": -1},
        {"soft": -0.1},
        {"share": 0},
        {"share": 1},
        {"wander": 1.5},
        {"top": 2},
        {"gate": 1.5},
    ],
)
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)


@pytest.mark.parametrize(("text", "gate"), [("0.3", 0.3), ("off", "off"), ("learned", "learned"), (0, 0.0)])
def test_a_gate_is_a_word_or_a_number(text: Any, gate: Any) -> None:
    assert config.build(Config, {"gate": text}).gate == gate


# -------------------------------------------------------------------------------------------- what has to come out
@pytest.mark.learns
def test_gate_tells_flaws_of_kinds_that_it_has_not_learned_from(world: World) -> None:
    look = world.look()
    inside, outside = world.gates(look)
    assert inside < outside - 0.2
    good = world.method.look(world.clean).gate
    assert good is not None
    assert good.mean() > 0.85


@pytest.mark.learns
def test_uncovered_flaws_are_repainted_cleaner_and_the_rest_hardly_worse(world: World) -> None:
    inside, outside = world.errors(world.look("off"))
    weaker_inside, weaker_outside = world.errors(world.look())
    assert weaker_inside < 0.9 * inside
    assert weaker_outside < 1.2 * outside


@pytest.mark.learns
def test_order_of_gates(world: World) -> None:
    """The true one above the learned one, above none and above the same weakening everywhere."""
    oracle, learned, base = (world.auroc(world.look(g)) for g in (world.oracle, "learned", "off"))
    constant = world.auroc(world.look(0.3))
    assert oracle > learned > base
    assert learned > constant


@pytest.mark.parametrize("mask", ["checker", "centre", "random"])
@pytest.mark.learns
def test_the_same_gate_plugs_into_other_masks(world: World, mask: str) -> None:
    """The base has learned under another mask, the gate learns behind it anew: flaws are weakened there too."""
    other = deepcopy(world.method)
    other.config = replace(other.config, mask=mask, gate_steps=160)
    batches = FakeSamples(FakeBackbone(), [weave(np.random.default_rng(i), SIDE)[0] for i in range(24)], other.needs)
    plugged = Plugged.of(other)
    training.learn(plugged, batches)
    there = replace(world, method=plugged)
    inside, outside = there.gates(there.look())
    assert inside < outside - 0.03
    assert there.errors(there.look())[0] < 0.97 * there.errors(there.look("off"))[0]


class Plugged(FADeR):
    """A method whose U-Net is there already: only the gate learns."""

    @classmethod
    def of(cls, other: FADeR) -> Plugged:
        method = cls(other.config, other.spec, other.size)
        method.unet.load_state_dict(other.unet.state_dict())
        return method

    def phases(self) -> tuple[Any, ...]:
        return super().phases()[1:]


def shaded(case: str, seed: int) -> NDArray[np.uint8]:
    """An image with a large plain area, or with nothing else."""
    image = good_image(seed)
    shade = 255 if "white" in case else 0
    height, width = image.shape[0] * 3 // 4, image.shape[1]
    if case in ("white", "black"):
        return np.full_like(image, shade)
    image[:height] = shade
    if "both" in case:
        image[:height, : width // 2] = 255 - shade
    return image


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("case", ["white area", "black area", "white area, both", "white", "black"])
def test_plain_areas_are_learned_in_either_format(case: str, bf16: bool) -> None:
    method = made(SIDE, steps=8, gate_steps=4, batch=4, rate=1e-2, side=48)
    plan = learn(method, FakeBackbone(), [shaded(case, i) for i in range(6)], Plan(bf16=bf16))
    for phase in plan.report:
        assert np.isfinite(list({**phase.first, **phase.last}.values())).all()
        for terms in (phase.first, phase.last):
            assert 0 <= terms.get("ssim", 0) <= 2
    assert torch.isfinite(method(batch_of(FakeBackbone(), [shaded(case, 9)])).anomaly_map).all()


@pytest.mark.parametrize("case", ["white area", "good"])
def test_the_slope_of_a_loss_is_the_same_in_either_format(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the similarity, behind a network that computes in bf16: its direction is the true one, in float64."""
    found: list[float] = []

    def spy(painted: Tensor, x: Tensor) -> Tensor:
        assert painted.dtype == x.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        value = ssim(painted, x)
        (slope,) = torch.autograd.grad(value, painted, retain_graph=True)
        exact = painted.detach().double().requires_grad_()
        (true,) = torch.autograd.grad(plain_ssim(exact, x.double()), exact)
        found.append(F.cosine_similarity(slope.double().flatten(), true.flatten(), dim=0).item())
        return value

    monkeypatch.setattr("blemish.methods.fader.ssim", spy)
    make = good_image if case == "good" else lambda i, size: shaded(case, i)
    method = made(steps=4, gate="off", batch=4)
    learn(method, FakeBackbone(), [make(i, SIZE) for i in range(4)], Plan(bf16=True))
    assert len(found) == 4
    assert min(found) > 0.999


def plain_ssim(a: Tensor, b: Tensor) -> Tensor:
    """By convolution with the whole window, in the images' own format."""
    at = torch.arange(11, dtype=a.dtype) - 5
    line = torch.exp(-0.5 * (at / 1.5) ** 2)
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def local(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], window)

    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    both = local(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + 0.01**2) * (2 * both + 0.03**2)
    return (alike / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))).mean()


# ------------------------------------------------------------------------------------ image and repaint in features
def seen(method: FADeR, images: list[NDArray[np.uint8]]) -> Batch:
    backbone = FakeBackbone()
    return seen_again(method, batch_of(backbone, images), backbone.maps_of)


def test_repaint_and_image_are_compared_as_the_frozen_network_sees_them() -> None:
    method, backbone = fitted(map="features"), FakeBackbone()
    batch = seen(method, [good_image(100), defective_image(101)[0]])
    with torch.no_grad():
        made = method.remade(batch)
        again = backbone.maps_of(made.numpy())
    look = method.look(batch)
    assert made.shape == batch.x.shape
    torch.testing.assert_close(method.image(replace(batch, x=made)), look.repaint, atol=1e-5, rtol=0)
    assert batch.pyramid is not None
    pairs = zip(batch.pyramid.maps, again, strict=True)
    places = [1 - F.cosine_similarity(a, torch.from_numpy(b)) for a, b in pairs]
    wanted = method.scores(places).anomaly_map
    torch.testing.assert_close(method(batch).anomaly_map, wanted, atol=1e-3, rtol=1e-3)


def test_levels_are_z_scores_of_what_was_learned_and_of_what_was_held_out() -> None:
    method, backbone = made(map="features", until="flat"), FakeBackbone()
    images = [good_image(i) for i in range(12)]
    samples = [FakeSamples(backbone, part, method.needs) for part in (images[:10], images[10:])]
    training.learn(method, samples[0], samples[1])
    levels = method.scores.place_scores(method.places(seen(method, images)))
    assert len(levels) == 3
    for level in levels:
        assert level.mean(0).abs().max() < 1e-3
        assert 0.2 < level.std() < 1.5


class Blunt(FADeR):
    """Repaints every image as it is, a little blurred, or as another one."""

    other: Tensor | None = None

    def look(self, batch: Batch) -> Look:
        look = super().look(batch)
        blurred = F.avg_pool2d(F.pad(look.image, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return look._replace(repaint=blurred if self.other is None else self.other)


def test_an_image_that_is_its_own_repaint_scores_like_good() -> None:
    """Even with a defect, since nothing is left that differs; repainted as without it, it stands out there."""
    backbone = FakeBackbone()
    method = Blunt(Config(**{**SMALL, "map": "features", "sigma": 2.0}), backbone.spec(SIZE), SIZE)
    learn(method, backbone, [good_image(i) for i in range(12)])
    usual = method(seen(method, [good_image(i) for i in range(100, 108)])).score
    bad, mask = defective_image(101)
    method.other = method.image(batch_of(backbone, [bad]))
    assert method(seen(method, [bad])).score < usual.max()
    method.other = method.image(batch_of(backbone, [good_image(101)]))
    found = method(seen(method, [bad]))
    assert found.score > usual.max()
    anomaly_map = found.anomaly_map[0].numpy()
    assert beside(mask, np.unravel_index(int(anomaly_map.argmax()), mask.shape), 12)


def test_killed_while_features_are_measured_it_comes_to_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    class Store(dict[str, bytes]):
        def put(self, name: str, data: bytes) -> None:
            self[name] = data

        def drop(self, name: str) -> None:
            self.pop(name, None)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    images, store = [good_image(i) for i in range(4)], Store()
    whole = made(map="features")
    learn(whole, FakeBackbone(), images)
    broken = made(map="features")
    monkeypatch.setattr(broken, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        learn(broken, FakeBackbone(), images, Plan(store=store, name="run", snapshot_every=0))
    assert store
    resumed = made(map="features")
    plan = learn(resumed, FakeBackbone(), images, Plan(store=store, name="run", snapshot_every=0))
    assert plan.report[0].resumed
    assert not store
    state = resumed.fitted_state()
    assert all(torch.equal(value, state[name]) for name, value in whole.fitted_state().items())
    assert float(state["scores.place_scores.mean_0"].abs().sum()) > 0


def test_saliency_alone_learns_nothing_and_takes_no_image() -> None:
    method = made(map="saliency", until="flat")
    needs = method.wants(method.config)
    assert (needs.image, needs.again, needs.held) == (False, False, 0.0)
    assert method.phases() == ()
    images = [good_image(i) for i in range(4)]
    learn(method, FakeBackbone(), images)
    assert not list(method.parameters())
    batch = batch_of(FakeBackbone(), [good_image(9), defective_image(9)[0]], image=False)
    maps = [level.mean(0, keepdim=True) for level in batch_of(FakeBackbone(), images).pyramid.maps]
    usual = joined(maps, GRID)
    places = 1 - F.cosine_similarity(joined(list(batch.pyramid.maps), GRID), usual)
    found = method(batch)
    torch.testing.assert_close(found.anomaly_map, method.scores.level_maps([places]), atol=1e-5, rtol=1e-4)
    assert found.score[1] > found.score[0]


def test_what_is_compared_decides_what_is_needed() -> None:
    for way, again in (("features", True), ("msgms", False), ("l2+msgms", False)):
        needs = FADeR.wants(Config(map=way))
        assert (needs.image, needs.again, needs.held) == (True, again, HELD)
        assert FADeR.wants(Config(map=way, until="steps")).held == 0
    assert [phase.flat for phase in made(until="flat").phases()] == [True, False]
    assert [phase.flat for phase in made(until="steps").phases()] == [False, False]

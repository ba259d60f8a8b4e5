"""HetNet: what is frozen, what the noise is, what the denoiser learns, what the second teacher is there for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.worlds import disc_and_square, stripes
from blemish import config
from blemish.errors import ConfigError
from blemish.evaluation.metrics.ranking import auroc
from blemish.learning.training import Plan
from blemish.methods.base import Phase
from blemish.methods.hetnet import Config, HetNet
from blemish.nn.lmgn import LocalGaussians, draw_boxes, on_grid, standard_noise
from blemish.nn.transformer import MaskedGuess, SmallTransformer, hidden_cells
from blemish.types import Batch, FeatureSpec, Pyramid
from tests.fakes import SIZE, FakeBackbone, batch_of, good_image, learn

SHORT = {**HetNet.brief, "steps": 3, "teacher_steps": 2}
CNN = {"teachers": "cnn", "csa": "off"}
GLOBAL = {"teachers": "global", "csa": "off", "noise": "none"}
SQUARE = (64, 64)
Image = NDArray[np.uint8]


def made(backbone: FakeBackbone, size: tuple[int, int] = SIZE, seed: int = 0, **options: Any) -> HetNet:
    return HetNet(config.build(Config, {**SHORT, **options}), backbone.spec(size), size, seed)


def goods(count: int, first: int = 0) -> list[Image]:
    return [stripes(np.random.default_rng(first + i), SQUARE)[0] for i in range(count)]


def observed(method: HetNet, batch: Batch) -> HetNet:
    with torch.no_grad():
        method.observe(batch)
        method.conclude()
    return method


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def state(*modules: torch.nn.Module) -> list[Tensor]:
    return [v.clone() for module in modules for v in module.state_dict().values()]


def same(a: Iterable[Tensor], b: Iterable[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Watched(HetNet):
    """Remembers what stood before the students' phase, and the terms of every step."""

    before: list[Tensor]

    def begin(self, phase: Phase, batches: Iterable[Batch]) -> None:
        if phase.name == "students":
            self.before = state(self.teacher)
            self.terms: list[dict[str, float]] = []

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        terms = super().loss(phase, batch, progress)
        if phase.name == "students":
            self.terms.append({name: float(term.detach()) for name, term in terms.items()})
        return terms


@pytest.fixture(scope="module")
def trained(backbone: FakeBackbone) -> Watched:
    options = {**HetNet.brief, "steps": 80, "teacher_steps": 40, "teacher_rate": 5e-3}
    method = Watched(config.build(Config, options), backbone.spec(SQUARE), SQUARE)
    learn(method, backbone, goods(16))
    return method


# shapes, and what learns


def test_students_rebuild_the_cnns_levels(backbone: FakeBackbone) -> None:
    method, batch = made(backbone), batch_of(backbone, [good_image(i) for i in range(2)])
    local, others = method.features(batch)
    for student in method.students.values():
        rebuilt = student(method.fusion(local, others))
        assert [x.shape for x in rebuilt] == [x.shape for x in batch.pyramid.maps]
    weights = [state(student) for student in method.students.values()]
    assert not same(*weights), "the students are one network twice"


def test_gradients_reach_everything_but_the_teacher(backbone: FakeBackbone) -> None:
    batch = batch_of(backbone, [good_image(i) for i in range(4)])
    method = observed(made(backbone), batch)
    method.train()
    terms = method.loss(method.phases()[-1], batch, 0.0)
    assert set(terms) == {"reconstruction", "denoising"}
    sum(terms.values()).backward()
    for part in (method.fusion, method.students):
        silent = [n for n, p in part.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        # adding one number to all keys of an attention changes none of its shares
        assert [n for n in silent if not n.endswith("key.bias")] == []
    assert all(p.grad is None for p in method.teacher.parameters())


@pytest.mark.learns
def test_the_teacher_is_frozen_once_it_has_learned(trained: Watched, backbone: FakeBackbone) -> None:
    assert same(trained.before, state(trained.teacher))
    untrained = state(made(backbone, SQUARE).teacher)
    assert not same(trained.before, untrained)


def test_denoising_does_not_move_the_first_student(backbone: FakeBackbone) -> None:
    """SD follows SR, and SR does not come to meet it."""
    batch = batch_of(backbone, [good_image(i) for i in range(4)])
    method = observed(made(backbone), batch)
    method.train()
    method.loss(method.phases()[-1], batch, 0.0)["denoising"].backward()
    assert all(p.grad is None for p in method.students["R"].parameters())
    assert any(p.grad is not None for p in method.students["D"].parameters())
    assert any(p.grad is not None for p in method.fusion.parameters())


@pytest.mark.parametrize("options", [{}, {"csa": "channel"}, {"csa": "off"}, CNN, GLOBAL, {"teachers": "random"}])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_any_number_of_levels(backbone: FakeBackbone, levels: int, options: dict[str, Any]) -> None:
    spec = backbone.spec(SIZE)
    fewer = FeatureSpec(spec.layers[:levels], spec.channels[:levels], spec.grids[:levels])
    batch = batch_of(backbone, [good_image(i) for i in range(3)])
    batch = replace(batch, pyramid=Pyramid(batch.pyramid.maps[:levels]))
    method = observed(HetNet(config.build(Config, {**SHORT, **options}), fewer, SIZE), batch)
    for phase in method.phases():
        assert all(torch.isfinite(term) for term in method.loss(phase, batch, 0.0).values())
    assert method.predict(batch).anomaly_map.shape == (3, *SIZE)


def test_a_second_network_takes_the_place_of_the_in_house_teacher(backbone: FakeBackbone) -> None:
    spec = backbone.spec(SIZE)
    pair = FeatureSpec((*spec.layers, 0), (*spec.channels, 6), (*spec.grids, spec.grids[0]), second=1)
    batch = batch_of(backbone, [good_image(i) for i in range(3)])
    batch = replace(batch, pyramid=Pyramid((*batch.pyramid.maps, batch.pyramid.maps[0])))
    for teachers in ("both", "global"):
        options = GLOBAL if teachers == "global" else {}
        method = observed(HetNet(config.build(Config, {**SHORT, **options}), pair, SIZE), batch).eval()
        assert [phase.name for phase in method.phases()] == ["students"]
        assert not list(method.teacher.parameters())
        changed = replace(batch, pyramid=Pyramid((*batch.pyramid.maps[:-1], batch.pyramid.maps[-1].flip(3))))
        assert not torch.equal(method.predict(batch).score, method.predict(changed).score)


# noise


def gaussians(n: int, channels: int = 3, ridge: float = 0.01, neighbourhood: int = 1) -> tuple[Any, Tensor]:
    """Fitted on n samples whose cells differ in mean and covariance; the samples."""
    g = generator(1)
    mix = torch.randn(2, 2, channels, channels, generator=g)
    x = torch.einsum("nabc,abcd->nabd", torch.randn(n, 2, 2, channels, generator=g), mix)
    x = (x + 5 * torch.randn(2, 2, channels, generator=g)).permute(0, 3, 1, 2)
    fitted = LocalGaussians(n, neighbourhood, ridge)
    fitted.add([x], g)
    fitted.conclude(g)
    return fitted, x


def draws(fitted: Any, shape: tuple[int, ...], count: int = 20_000) -> Tensor:
    out: Tensor = fitted.replace([torch.zeros(count, *shape)], torch.ones(count, 2, 2).long(), generator(2))[0]
    return out


def test_draws_have_the_moments_of_their_cell() -> None:
    fitted, x = gaussians(40)
    y = draws(fitted, (3, 2, 2))
    ridge = 0.01 * float(x.var(0).mean())
    for i, j in ((0, 0), (1, 0), (1, 1)):
        mean, covariance = x[..., i, j].mean(0), torch.cov(x[..., i, j].T) + ridge * torch.eye(3)
        assert (y[..., i, j].mean(0) - mean).norm() < 0.03 * mean.norm()
        assert (torch.cov(y[..., i, j].T) - covariance).norm() < 0.05 * covariance.norm()
    one, other = (torch.cov(y[..., i, i].T) for i in (0, 1))
    assert (one - other).norm() > 0.5 * one.norm(), "one covariance for the whole map"


def test_cells_of_a_box_are_drawn_together() -> None:
    """One w a box: their covariance across cells is that of the samples, not zero."""
    fitted, x = gaussians(40, ridge=0.0)
    x = x.flatten(1)
    y = draws(fitted, (3, 2, 2)).flatten(1)
    assert (torch.cov(y.T) - torch.cov(x.T)).norm() < 0.06 * torch.cov(x.T).norm()


@pytest.mark.parametrize(("ridge", "rank"), [(0.0, 3), (0.01, 8)])
def test_rank_with_fewer_samples_than_channels(ridge: float, rank: int) -> None:
    fitted, _ = gaussians(4, channels=8, ridge=ridge)
    spread = torch.linalg.eigvalsh(torch.cov(draws(fitted, (8, 2, 2), 4000)[..., 0, 0].T))
    assert int((spread > 1e-3 * spread.max()).sum()) == rank


def test_neighbours_count_as_samples_of_a_cell() -> None:
    wide, x = gaussians(60, neighbourhood=3)
    assert wide.rows == 60
    y = draws(wide, (3, 2, 2))[..., 0, 0]
    pooled = x.flatten(2).mean((0, 2))  # on 2 x 2 cells, a window holds all four
    alone = x[..., 0, 0].mean(0)
    assert (y.mean(0) - pooled).norm() < (y.mean(0) - alone).norm()
    merged = LocalGaussians(20, 3)
    merged.add([x[:4]], generator())
    merged.conclude(generator())
    assert merged.rows == 20


def test_the_reservoir_is_bounded_and_fair() -> None:
    hits = torch.zeros(50)
    for seed in range(200):
        fitted = LocalGaussians(10)
        for i in range(50):
            fitted.add([torch.full((1, 1, 1, 1), float(i))], generator(seed * 50 + i))
        assert len(fitted._kept) == 10
        hits[[int(sample[0]) for sample in fitted._kept]] += 1
    assert hits[:10].mean() == pytest.approx(40, abs=10)
    assert hits[-10:].mean() == pytest.approx(40, abs=10)


def test_boxes_cover_what_they_should_and_lie_on_each_other() -> None:
    boxes = draw_boxes(400, (16, 16), generator())
    share = (boxes > 0).float().mean((1, 2))
    assert share.min() > 0
    assert 0.05 < share.mean() < 0.17
    assert share.max() < 0.15 + 9 / 256 + 1e-6
    assert len(boxes.unique()) > 4
    fine, coarse = (on_grid(boxes, grid).view(400, *grid) for grid in ((32, 32), (8, 8)))
    assert torch.equal(fine[:, ::2, 1::2], boxes), "another place on a finer level"
    touched = torch.nn.functional.max_pool2d(boxes.float(), 2) > 0
    assert torch.equal(coarse > 0, touched)
    assert ((draw_boxes(50, (1, 1), generator()) > 0).sum((1, 2)) == 1).all()


@pytest.mark.parametrize("noise", ["local", "standard"])
def test_noise_stays_in_its_boxes(backbone: FakeBackbone, noise: str) -> None:
    batch = batch_of(backbone, [good_image(i) for i in range(6)])
    method = observed(made(backbone, noise=noise), batch)
    before = [x.clone() for x in batch.pyramid.maps]
    method.generator.manual_seed(3)
    noisy = method.noised(batch.pyramid.maps)
    boxes = draw_boxes(6, method.box_grid, generator(3))
    for clean, x, old in zip(batch.pyramid.maps, noisy, before, strict=True):
        assert torch.equal(clean, old)
        inside = on_grid(boxes, x.shape[2:]).view(6, *x.shape[2:]) > 0
        changed = (x != clean).any(1)
        assert torch.equal(changed, inside), "aligned boxes and nothing else"


def test_standard_noise_knows_no_place() -> None:
    y = standard_noise([torch.zeros(4000, 3, 2, 2)], torch.ones(4000, 2, 2).long(), generator())[0]
    assert y[..., 0, 0].mean().abs() < 0.05
    assert float(y.var()) == pytest.approx(1, abs=0.05)


def test_targets_and_the_global_teacher_see_no_noise(backbone: FakeBackbone) -> None:
    batch = batch_of(backbone, [good_image(i) for i in range(6)])
    terms = {}
    for noise in ("local", "none"):
        method = observed(made(backbone, noise=noise), batch).eval()
        assert same(method.features(batch)[1], method.teacher(batch.x))
        terms[noise] = method.loss(method.phases()[-1], batch, 0.0)
    assert torch.equal(terms["local"]["reconstruction"], terms["none"]["reconstruction"])
    assert not torch.equal(terms["local"]["denoising"], terms["none"]["denoising"])


@pytest.mark.learns
def test_inspection_draws_nothing(trained: Watched, backbone: FakeBackbone) -> None:
    before = trained.generator.get_state()
    trained(batch_of(backbone, goods(2, 500)))
    assert torch.equal(before, trained.generator.get_state())


# what is learned


def moved_by_noise(noise: str, backbone: FakeBackbone) -> float:
    """How far fresh noise moves student D's features of unseen good images, as a share of how far it moves R's."""
    options = {**HetNet.brief, "csa": "off", "steps": 60, "teacher_steps": 5}
    worlds = [[disc_and_square(np.random.default_rng(i), SQUARE)[0] for i in range(*r)] for r in ((64,), (700, 716))]
    learned = HetNet(config.build(Config, {**options, "noise": noise}), backbone.spec(SQUARE), SQUARE)
    learn(learned, backbone, worlds[0])
    method = observed(
        HetNet(config.build(Config, options), backbone.spec(SQUARE), SQUARE), batch_of(backbone, worlds[0])
    )
    method.load_fitted(learned.fitted_state())
    method.generator.manual_seed(123)
    with torch.no_grad():
        local, others = method.features(batch_of(backbone, worlds[1]))
        clean, noisy = method.fusion(local, others), method.fusion(method.noised(local), others)
        moved = {s: method.distance(student(clean), student(noisy)) for s, student in method.students.items()}
    return float(moved["D"] / moved["R"])


@pytest.mark.learns
def test_the_denoiser_undoes_what_the_other_student_passes_on(backbone: FakeBackbone) -> None:
    """The key of the collaboration; a student D that has never seen noise is the control."""
    local, none = (moved_by_noise(noise, backbone) for noise in ("local", "none"))
    assert local < 0.35
    assert local < 0.7 * none


@pytest.mark.learns
def test_denoising_is_learned(trained: Watched) -> None:
    first, last = (np.mean([t["denoising"] for t in part]) for part in (trained.terms[:10], trained.terms[-10:]))
    assert last < 0.3 * first


@pytest.mark.learns
def test_fusion_has_moved(trained: Watched) -> None:
    for level in trained.fusion.levels:
        assert (level.gamma - 0.1).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.learns
def test_the_global_teacher_is_used(trained: Watched, backbone: FakeBackbone) -> None:
    batch = batch_of(backbone, goods(4, 600))
    blind = replace(batch, x=torch.zeros_like(batch.x))
    assert (trained(batch).score - trained(blind).score).abs().min() > 1e-3
    alone = observed(made(backbone, SQUARE, **CNN), batch).eval()
    assert torch.equal(alone.predict(batch).score, alone.predict(blind).score)


@torch.no_grad()
@pytest.mark.learns
def test_each_student_scores_and_the_mean_is_of_both(trained: Watched, backbone: FakeBackbone) -> None:
    batch, maps = batch_of(backbone, goods(2, 650)), {}
    for scoring in ("both", "R", "D"):
        method = made(backbone, SQUARE, scoring=scoring, teacher_steps=40)
        method.load_fitted(trained.fitted_state())
        maps[scoring] = method(batch).anomaly_map
    assert not torch.equal(maps["R"], maps["D"])
    torch.testing.assert_close(maps["both"], (maps["R"] + maps["D"]) / 2)


def defects(method: HetNet, backbone: FakeBackbone) -> float:
    """Pixel AUROC on stripes with a blotch."""
    images, masks = zip(
        *(stripes(np.random.default_rng(900 + i), SQUARE, "blotch", 12) for i in range(12)), strict=True
    )
    return float(auroc(np.stack(masks).ravel(), method(batch_of(backbone, list(images))).anomaly_map.numpy().ravel()))


@pytest.mark.learns
def test_a_blotch_is_found(trained: Watched, backbone: FakeBackbone) -> None:
    assert defects(trained, backbone) > 0.9


class Misled(HetNet):
    """Rebuilds constants."""

    def distance(self, targets: Any, rebuilt: Any) -> Tensor:
        return super().distance([torch.ones_like(x) for x in targets], rebuilt)


@pytest.mark.slow
def test_students_of_a_constant_find_nothing(backbone: FakeBackbone) -> None:
    method = Misled(
        config.build(Config, {**HetNet.brief, "csa": "off", "steps": 30, "teacher_steps": 2}),
        backbone.spec(SQUARE),
        SQUARE,
    )
    learn(method, backbone, goods(12))
    assert defects(method, backbone) < 0.9


# the in-house global teacher


@torch.no_grad()
@pytest.mark.learns
def test_the_in_house_teacher_guesses_better_than_the_mean(trained: Watched, backbone: FakeBackbone) -> None:
    batch, losses = batch_of(backbone, goods(16, 800)), []
    for seed in range(4):
        trained.generator.manual_seed(seed)
        losses.append(float(trained.guessing(batch)))
    moved = trained.guess.standard(batch.pyramid.maps[-1])
    assert np.mean(losses) < 0.9 * float(moved.square().mean())


def test_hidden_patches_are_not_seen() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallTransformer((48, 64), (1, 2), width=8, depth=2)
        odd = SmallTransformer((40, 50), (1,), width=8, depth=1)
    x = torch.randn(2, 3, 48, 64, generator=generator())
    hidden = hidden_cells(2, net.grid, 0.5, generator())
    assert (hidden.sum((1, 2)) == 6).all()
    pixels = hidden.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    other = torch.where(pixels, torch.zeros(()), x)
    assert same(net(x, hidden), net(other, hidden))
    assert not same(net(x), net(other))
    assert [m.shape for m in net(x)] == [(2, 8, 3, 4)] * 2
    assert odd(x[:, :, :40, :50])[0].shape == (2, 8, 3, 4)


def test_what_is_guessed_is_standardised() -> None:
    guess = MaskedGuess(4, 3)
    x = torch.randn(50, 3, 2, 2, generator=generator()) * torch.tensor([1.0, 5, 0])[:, None, None] + 7
    guess.settle(x.mean((0, 2, 3)), x.var((0, 2, 3)))
    y = guess.standard(x)
    assert y.mean((0, 2, 3)).abs().max() < 1e-3
    torch.testing.assert_close(y.var((0, 2, 3))[:2], torch.ones(2), rtol=1e-2, atol=0)
    assert torch.isfinite(y).all()


class Memory:
    """A store; dies at the end of a given number of snapshots."""

    def __init__(self, dies_after: int = -1) -> None:
        self.kept: dict[str, bytes] = {}
        self.left = dies_after

    def get(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def put(self, name: str, data: bytes) -> None:
        self.kept[name] = data
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def drop(self, name: str) -> None:
        self.kept.pop(name, None)


def test_seeds_share_the_in_house_teacher_and_nothing_else(backbone: FakeBackbone) -> None:
    images, store = goods(4), Memory()
    first, second = (made(backbone, SQUARE, seed) for seed in (0, 1))
    for method in (first, second):
        plan = learn(method, backbone, images, Plan(store=store, shared=lambda phase: phase.name))
    assert [entry.kept for entry in plan.report] == [True, False]
    assert same(state(first.teacher), state(second.teacher))
    assert not same(state(first.fusion), state(second.fusion))
    fresh = made(backbone, SQUARE, 1)
    learn(fresh, backbone, images)
    assert same(
        state(fresh.teacher, fresh.fusion, fresh.students), state(second.teacher, second.fusion, second.students)
    )


@pytest.mark.parametrize("dies_after", [1, 4])
def test_a_killed_run_goes_on_with_the_same_noise(backbone: FakeBackbone, dies_after: int) -> None:
    images, store = goods(5), Memory(dies_after)
    whole = made(backbone, SQUARE, samples=3)
    learn(whole, backbone, images)
    with pytest.raises(KeyboardInterrupt):
        learn(made(backbone, SQUARE, samples=3), backbone, images, Plan(store=store, name="run", snapshot_every=0))
    resumed = made(backbone, SQUARE, samples=3)
    learn(resumed, backbone, images, Plan(store=store, name="run", snapshot_every=0))
    expected, got = whole.fitted_state(), resumed.fitted_state()
    assert same(expected.values(), got.values())


@pytest.mark.learns
def test_the_model_holds_no_training_features(trained: Watched) -> None:
    values = sum(v.numel() for v in trained.fitted_state().values())
    parts = (trained.teacher, trained.fusion, trained.students, trained.scores)
    assert values == sum(v.numel() for v in state(*parts))


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"teacher_steps": 0},
        {"samples": 0},
        {"widths": ()},
        {"widths": (2, 8)},
        {"neighbourhood": 2},
        {"ridge": -1},
        {"hidden": 1.0},
        {"teacher_width": 100},
        {"teacher_depth": 0},
        {"teachers": "cnn"},
        {"teachers": "global", "csa": "off"},
    ],
)
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)

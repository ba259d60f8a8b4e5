"""RBD: what is hidden stays hidden, the two modes agree, and copying is unlearned."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.worlds import stripes
from blemish import config
from blemish.data.synthesis.perlin import perlin
from blemish.errors import ConfigError
from blemish.evaluation.metrics.ranking import auroc
from blemish.learning import export
from blemish.methods import rbd
from blemish.methods.rbd import RBD, Config
from blemish.nn.inpaint import Restorer, block_masks, complementary_masks, damaged_cells, on_grid
from blemish.types import Batch, FeatureSpec, Pyramid
from tests.fakes import SIZE, FakeBackbone, FakeSamples, batch_of, defective_image, good_image, learn
from tests.tiny import in_formats

SIDE = (64, 64)
BACKBONE = FakeBackbone()


def make(size: tuple[int, int] = SIZE, seed: int = 0, **options: Any) -> RBD:
    return RBD(config.build(Config, {**RBD.brief, **options}), BACKBONE.spec(size), size, seed)


def observed(size: tuple[int, int] = SIZE, **options: Any) -> RBD:
    """Statistics, but no step yet."""
    method = make(size, **options)
    method.observe(batch_of(BACKBONE, [good_image(i, size) for i in range(6)]))
    method.conclude()
    return method


def stepped(method: RBD, count: int = 6) -> Batch:
    """A batch of a step, with twins."""
    samples = FakeSamples(BACKBONE, [good_image(i, method.size) for i in range(count)], method.wants(method.config))
    return samples.batch(range(count), torch.Generator().manual_seed(3))


def cloud(seed: int) -> np.ndarray:
    """A smooth image, another one for each seed: a cell says more about itself than its neighbours do."""
    generator = np.random.default_rng(seed)
    waves = np.stack([perlin(SIDE, 3.0, generator) for _ in range(3)], 2)
    return (128 + 110 * waves + generator.normal(0, 3, (*SIDE, 3))).clip(0, 255).astype(np.uint8)


@cache
def on_stripes(seed: int = 0, **options: Any) -> RBD:
    method = make(SIDE, seed, **{"steps": 70, **options})
    learn(method, BACKBONE, [stripes(np.random.default_rng(i), SIDE)[0] for i in range(24)])
    return method


@cache
def on_clouds(**options: Any) -> RBD:
    method = make(SIDE, **{"steps": 100, "space": "raw", "pc_share": 1.0, "units": 1, **options})
    learn(method, BACKBONE, [cloud(i) for i in range(32)])
    return method


def clouds() -> Batch:
    """Held-out good ones."""
    return batch_of(BACKBONE, [cloud(500 + i) for i in range(12)])


def tokens_of(method: RBD, batch: Batch) -> Tensor:
    assert batch.pyramid is not None
    return method.tokens(batch, batch.pyramid.maps)


# ------------------------------------------------------------------------------------------------ training = inference
def gap(method: RBD) -> float:
    """Distance between both modes on hidden cells of held-out good samples."""
    with torch.no_grad():
        tokens = tokens_of(method, clouds())
        masks = block_masks(len(tokens), method.grid, (0.3, 0.6), (1, 2, 4), torch.Generator().manual_seed(1))
        seen = [on_grid(masks, grid) for grid in method.spec.grids]
        return float(method.between(method.student(tokens), method.student(tokens, masks), seen))


def own_influence(method: RBD) -> float:
    """|d F^f(p) / d U(p)| as a share of the sum over all cells of U; mean over held-out good samples."""
    tokens = tokens_of(method, clouds()).detach().requires_grad_()
    y, x = method.grid[0] // 2, method.grid[1] // 2
    squares = torch.zeros(len(tokens), *method.grid)
    for channel in method.student(tokens)[1][:, :, y, x].T:
        squares += torch.autograd.grad(channel.sum(), tokens, retain_graph=True)[0].square().sum(1)
    norms = squares.sqrt()
    return float((norms[:, y, x] / norms.flatten(1).sum(1)).mean())


@pytest.mark.learns
def test_consistency_at_least_halves_the_gap_between_training_and_inspection() -> None:
    assert gap(on_clouds()) < 0.5 * gap(on_clouds(consistency=0.0))


@pytest.mark.slow
def test_consistency_weans_the_student_from_the_token_that_it_rebuilds() -> None:
    assert own_influence(on_clouds()) < 0.97 * own_influence(on_clouds(consistency=0.0))


WINDOW, HALF = 13, 6


def smooth_rows(count: int, generator: torch.Generator) -> Tensor:
    """(count, 64): smooth random rows of variance 1, and noise."""
    at = torch.arange(-20, 21, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (at / 2) ** 2)
    white = torch.randn(count, 1, 104, generator=generator, dtype=torch.float64)
    rows = nn.functional.conv1d(white, (kernel / kernel.square().sum().sqrt())[None, None])[:, 0]
    return rows + 0.3 * torch.randn(rows.shape, generator=generator, dtype=torch.float64)


def linear_student(consistency: float, visible: float = 0.25, *, imitation: bool = False) -> Tensor:
    """(13,) weights of a window: ridge regression of its middle, one vector for both modes, the loss's fixed point."""
    generator = torch.Generator().manual_seed(0)
    x = smooth_rows(200, generator)
    masks = block_masks(200, (4, 64), (0.3, 0.6), (1, 2, 4), generator)[:, 0]
    full, partly = (v.unfold(1, WINDOW, 1).reshape(-1, WINDOW) for v in (x, torch.where(masks, 0.0, x)))
    wanted, hidden = x[:, HALF:-HALF].reshape(-1), masks[:, HALF:-HALF].reshape(-1)
    ridge = 1e-3 * torch.eye(WINDOW, dtype=torch.float64)
    if imitation:
        return torch.linalg.solve(full.T @ full / len(full) + ridge, full.T @ wanted / len(full))
    h, v, f = partly[hidden], partly[~hidden], full[hidden]
    left = h.T @ h / len(h) + visible * v.T @ v / len(v)
    right = h.T @ wanted[hidden] / len(h) + visible * v.T @ wanted[~hidden] / len(v)
    return torch.linalg.solve(left + consistency * f.T @ (f - h) / len(f) + ridge, right)  # the target has no gradient


def finds(weights: Tensor) -> float:
    """Pixel AUROC of the unmasked pass's residual on rows with a step of two pixels."""
    generator = torch.Generator().manual_seed(9)
    x = smooth_rows(100, generator)
    labels = torch.zeros_like(x)
    for row, start in enumerate(torch.randint(8, 50, (100,), generator=generator).tolist()):
        labels[row, start : start + 2] = 1
    x = x + 2 * labels
    residual = (x.unfold(1, WINDOW, 1) @ weights - x[:, HALF:-HALF]).abs()
    return auroc(labels[:, HALF:-HALF].flatten().int().numpy(), residual.flatten().numpy())


def test_a_linear_student_needs_the_consistency() -> None:
    """In closed form: without it the unmasked pass leans on the pixel itself, with it on the neighbours."""
    copies, without, with_it = linear_student(0, imitation=True), linear_student(0), linear_student(1)
    assert copies[HALF] > 0.95
    assert (copies @ copies).item() == pytest.approx(1, abs=0.1)
    assert 0.15 < without[HALF] < 0.5
    assert with_it[HALF] < 0
    assert finds(without) < 0.75
    assert finds(with_it) > 0.95
    assert finds(linear_student(4)) < finds(with_it)  # too much of it
    assert finds(linear_student(0, visible=0)) < 0.9 < finds(linear_student(1, visible=0))


# --------------------------------------------------------------------------------------------------------- detection
def pixels(method: RBD) -> float:
    drawn = [stripes(np.random.default_rng(900 + i), SIDE, "blotch", 12) for i in range(12)]
    maps = method(batch_of(BACKBONE, [image for image, _ in drawn])).anomaly_map
    return auroc(np.stack([mask for _, mask in drawn]).ravel().astype(int), maps.numpy().ravel())


@pytest.mark.learns
def test_a_blotch_is_found_and_gone_when_it_is_taken_away() -> None:
    method = on_stripes()
    assert pixels(method) > 0.95
    (bad, mask), (good, _) = (stripes(np.random.default_rng(77), SIDE, kind, 12) for kind in ("blotch", "good"))
    assert (bad[~mask] == good[~mask]).all()
    spoilt, clean = method(batch_of(BACKBONE, [bad, good])).anomaly_map.numpy()
    assert spoilt[mask].mean() > 3 * clean[mask].mean()
    assert clean[mask].mean() < 2 * clean[~mask].mean()


@pytest.mark.learns
def test_without_made_defects_it_still_beats_the_copying_student() -> None:
    assert pixels(on_stripes(seed=1, steps=110, damage_p=0.0)) > pixels(on_stripes(seed=1, steps=110, imitation=True))
    assert RBD.wants(Config(damage_p=0)).twin is None
    assert RBD.wants(Config()).twin == "texture"


# ------------------------------------------------------------------------------------------------------ masks, tokens
def test_masks_hide_a_drawn_share_in_blocks_of_drawn_sides() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = block_masks(400, (16, 12), (0.3, 0.6), (1, 2, 4), generator)
    shares = masks.float().mean((1, 2))
    assert 0.4 < shares.mean() < 0.5
    assert shares.std() > 0.05
    assert len({m.numpy().tobytes() for m in masks}) == 400
    four = block_masks(50, (16, 12), (0.3, 0.6), (4,), generator)[:, None].float()
    whole = -nn.functional.max_pool2d(-four, 4, 1)  # 1 where a window of 4 x 4 is hidden throughout
    opened = nn.functional.max_pool2d(nn.functional.pad(whole, (3, 3, 3, 3)), 4, 1)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))  # blocks are cut at the rim
    assert torch.equal(opened[inner], four[inner]), "every hidden cell lies in a whole hidden block"
    for grid in ((1, 1), (2, 3), (3, 4)):
        tiny = block_masks(20, grid, (0.3, 0.6), (4,), generator)
        assert tiny.any()
        assert grid == (1, 1) or not tiny.all()


def test_damaged_cells_are_those_with_a_damaged_pixel_and_their_neighbours() -> None:
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, 17, 30] = True  # row 2 and column 3 of 6 x 8
    cells = damaged_cells(mask, (6, 8))
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(cells[0], expected)
    assert not damaged_cells(torch.zeros_like(mask), (6, 8)).any()


def test_damaged_cells_are_always_hidden_and_only_those_samples_show_the_twin() -> None:
    method = observed(damage_p=0.5)
    batch = stepped(method, 12)
    assert batch.twin is not None
    assert batch.pyramid is not None
    assert batch.mask is not None
    evidence, damaged, hidden = method.draw(batch)
    assert evidence.pyramid is not None
    assert not (damaged & ~hidden).any()
    shown = damaged.flatten(1).any(1)
    assert 0 < shown.sum() < 12
    for i, twin in enumerate(shown.tolist()):
        source = batch.twin if twin else batch.pyramid
        assert all(torch.equal(a[i], b[i]) for a, b in zip(evidence.pyramid.maps, source.maps, strict=True))
    assert torch.equal(damaged[shown], damaged_cells(batch.mask, method.grid)[shown])
    assert not torch.equal(hidden, method.draw(batch)[2]), "the next step hides others"
    method.config = replace(method.config, damage_p=1.0)
    assert method.draw(batch)[1].flatten(1).any(1).all()


@torch.no_grad()
def test_hidden_tokens_have_no_influence_at_all() -> None:
    method = observed()
    tokens = tokens_of(method, batch_of(BACKBONE, [good_image(i) for i in range(4)]))
    masks = block_masks(4, method.grid, (0.3, 0.6), (1, 2), torch.Generator().manual_seed(0))
    other = torch.where(masks[:, None], 1e3 * torch.randn_like(tokens), tokens)
    for a, b in zip(method.student(tokens, masks), method.student(other, masks), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(method.student(tokens)[1], method.student(other)[1])


@pytest.mark.slow
def test_inspection_knows_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    method = on_stripes()
    probe = batch_of(BACKBONE, [stripes(np.random.default_rng(5), SIDE)[0]])
    expected = method(probe)

    def refuse(*_: object) -> None:
        raise AssertionError("a mask at inspection")

    for name in ("block_masks", "complementary_masks", "damaged_cells"):
        monkeypatch.setattr(rbd, name, refuse)
    monkeypatch.setattr(method.student, "hide", refuse)
    method.generator.manual_seed(5)
    assert torch.equal(method(probe).anomaly_map, expected.anomaly_map)


def test_both_modes_are_one_set_of_weights_that_sees_no_batch_statistics() -> None:
    method = observed()
    assert not [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm | nn.Dropout)]
    tokens = tokens_of(method, batch_of(BACKBONE, [good_image(i) for i in range(4)]))
    masks = block_masks(4, method.grid, (0.3, 0.6), (1, 2), torch.Generator().manual_seed(0))
    both = method.student(torch.cat([method.student.hide(tokens, masks), tokens]))
    for joined, a, b in zip(both, method.student(tokens, masks), method.student(tokens), strict=True):
        torch.testing.assert_close(joined, torch.cat([a, b]), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- losses
def terms_of(method: RBD, batch: Batch, progress: float = 0.5) -> dict[str, Tensor]:
    method.generator.manual_seed(11)
    return method.loss(method.phases()[0], batch, progress)


def test_the_terms_and_what_turns_them_off() -> None:
    batch = stepped(observed())
    terms = terms_of(observed(), batch)
    assert list(terms) == ["rec_hidden", "rec_visible", "mag", "pc"]
    assert all(v > 0 for v in terms.values())
    assert "pc" not in terms_of(observed(consistency=0.0), batch)
    off = terms_of(observed(visible=0.0, magnitude=0.0), batch)
    assert off["rec_visible"] == off["mag"] == 0
    assert torch.equal(off["rec_hidden"], terms["rec_hidden"])
    assert list(terms_of(observed(imitation=True), batch)) == ["imitation", "mag"]


def test_the_consistency_ramps_up_over_the_first_fifth() -> None:
    method = observed()
    batch = stepped(method)
    start, half, full, end = (float(terms_of(method, batch, at)["pc"].detach()) for at in (0, 0.1, 0.2, 0.9))
    assert start == 0
    assert half == pytest.approx(full / 2, rel=1e-5)
    assert full == pytest.approx(end, rel=1e-6)


def test_reconstruction_is_of_clean_features_and_consistency_of_the_student_alone() -> None:
    """Other clean targets change every term but the consistency: it is no distance to the teacher."""
    method = observed(damage_p=1.0, pc_share=1.0)
    batch = stepped(method)
    assert batch.pyramid is not None
    moved = replace(batch, pyramid=Pyramid(tuple(m.flip(0) + 1 for m in batch.pyramid.maps)))
    a, b = terms_of(method, batch), terms_of(method, moved)
    assert torch.equal(a["pc"], b["pc"])
    assert not torch.isclose(a["rec_hidden"], b["rec_hidden"])
    assert not torch.isclose(a["rec_visible"], b["rec_visible"])


def test_the_masked_branch_gets_no_gradient_from_the_consistency() -> None:
    method = observed(pc_share=1.0)
    batch = stepped(method)
    terms_of(method, batch)["pc"].backward()
    grad = method.student.hidden.grad  # what stands in for hidden tokens occurs in the masked branch alone
    assert grad is None or not grad.any()
    assert any(p.grad is not None and p.grad.any() for p in method.tokeniser.parameters())
    terms = terms_of(method, batch)
    (terms["rec_hidden"] + terms["rec_visible"]).backward()
    assert method.student.hidden.grad is not None
    assert method.student.hidden.grad.any()


@pytest.mark.slow
def test_training_does_not_move_the_statistics() -> None:
    method = on_stripes()
    again = make(SIDE)
    again.observe(batch_of(BACKBONE, [stripes(np.random.default_rng(i), SIDE)[0] for i in range(24)]))
    again.conclude()
    torch.testing.assert_close(again.mean, method.mean)
    torch.testing.assert_close(again.std, method.std)


def test_what_has_to_be_consistent_can_be_chosen() -> None:
    batch = stepped(observed())
    found = {
        on: terms_of(observed(pc_on=on, pc_share=1.0, damage_p=1.0), batch)["pc"]
        for on in ("features", "maps", "clean_vs_damaged")
    }
    assert len({round(float(v.detach()), 6) for v in found.values()}) == 3
    assert all(v > 0 for v in found.values())
    calm = observed(pc_on="clean_vs_damaged", pc_share=1.0)
    undamaged = replace(batch, twin=batch.pyramid, mask=torch.zeros_like(batch.mask))
    assert terms_of(calm, undamaged)["pc"] == 0


def test_cosine_of_whole_maps_is_that_of_one_long_vector() -> None:
    method = observed(cos="image", space="standard")
    torch.manual_seed(0)
    a, b = ([torch.randn(2, c, *g) for c, g in zip(method.spec.channels, method.spec.grids, strict=True)] for _ in "ab")
    a = [
        x * (3 * torch.randn(2, 1, *g)).exp() for x, g in zip(a, method.spec.grids, strict=True)
    ]  # one place outweighs
    masks = [torch.rand(2, *g) < 0.5 for g in method.spec.grids]
    expected = 0.0
    for x, y, m in zip(a, b, masks, strict=True):
        for i in range(2):
            p, q = (t[i][:, m[i]].flatten().double() for t in (x, y))
            expected += float(1 - p @ q / (p.norm() * q.norm())) / 2
    assert float(method.between(a, b, masks)) == pytest.approx(expected, rel=1e-4)
    method.config = replace(method.config, cos="position")
    assert float(method.between(a, b, masks)) != pytest.approx(expected, rel=1e-3)


def test_statistics_are_those_of_all_positions_whatever_the_batches() -> None:
    images = [good_image(i) for i in range(7)]
    whole, parts = make(), make()
    batch = batch_of(BACKBONE, images)
    whole.observe(batch)
    for image in images:
        parts.observe(batch_of(BACKBONE, [image]))
    whole.conclude()
    parts.conclude()
    assert batch.pyramid is not None
    level = batch.pyramid.maps[0].double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(whole.mean[: len(level)].double(), level.mean(1), rtol=1e-5, atol=1e-6)
    std = level.std(1, correction=0)
    torch.testing.assert_close(
        whole.std[: len(level)].double(), std.clamp_min(0.05 * float(std.mean())), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(whole.std, parts.std, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------- ensembles, evidence
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_complementary_masks_hide_every_cell_once(count: int) -> None:
    masks = complementary_masks((16, 12), count)
    assert (masks.sum(0) == 1).all()
    assert masks.flatten(1).any(1).all()
    for grid in ((32, 24), (8, 6), (5, 7)):
        assert (on_grid(masks, grid).sum(0) == 1).all()


@torch.no_grad()
def test_an_ensemble_takes_each_cell_where_it_was_hidden() -> None:
    method = observed(ensemble=3)
    batch = batch_of(BACKBONE, [good_image(i) for i in range(2)])
    tokens = tokens_of(method, batch)
    got = method.restored(batch)
    for mask in complementary_masks(method.grid, 3):
        alone = method.student(tokens, mask.expand(2, -1, -1))
        for level, grid in enumerate(method.spec.grids):
            where = on_grid(mask[None], grid)[0]
            torch.testing.assert_close(got[level][..., where], alone[level][..., where], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"ensemble": 3}, {"evidence": "image"}], ids=["ensemble", "pixels"])
def test_alternatives_learn_and_become_the_same_graph(options: dict[str, Any]) -> None:
    method = make(**{"steps": 12, **options})
    learn(method, BACKBONE, [good_image(i) for i in range(6)])
    pixels_too = method.wants(method.config).image
    assert pixels_too == ("evidence" in options)
    graph = export.merge(BACKBONE.graph(SIZE, image=pixels_too), export.export_head(method))
    golden = np.stack([good_image(100), defective_image(101)[0], good_image(102)])
    certificate = export.certify(in_formats(graph), export.reference_engine(BACKBONE, method), golden)
    assert certificate["engines"]["openvino-f32"]["score"] < export.SCORE_LIMIT


def test_a_student_that_sees_pixels_sees_no_features() -> None:
    method = observed(evidence="image")
    batch = batch_of(BACKBONE, [good_image(i) for i in range(2)])
    assert batch.pyramid is not None
    tokens = tokens_of(method, batch)
    assert torch.equal(tokens, method.tokens(batch, [m + 1 for m in batch.pyramid.maps]))
    assert tokens.shape[2:] == method.grid
    damaged = stepped(method)
    evidence, cells, _ = method.draw(damaged)
    assert evidence.x is not None
    assert damaged.x is not None
    changed = (evidence.x != damaged.x).any(1)
    assert changed.any()
    assert damaged.mask is not None
    assert not (changed & ~damaged.mask).any()
    assert changed.flatten(1).any(1).tolist() == cells.flatten(1).any(1).tolist()


@pytest.mark.parametrize(("start", "grids"), [(0, [(4, 6)]), (0, [(6, 8), (3, 4)]), (2, [(9, 8), (6, 5), (3, 4)])])
def test_the_decoder_starts_anywhere(start: int, grids: list[tuple[int, int]]) -> None:
    n = len(grids)
    net = Restorer(16, 8, range(3, 3 + n), grids, [8] * n, start)
    out = net(torch.randn(2, 16, *grids[start]))
    assert [tuple(x.shape) for x in out] == [(2, 3 + i, *g) for i, g in enumerate(grids)]


def test_one_level_and_another_start() -> None:
    one = RBD(Config(**{**RBD.brief, "steps": 2}), FeatureSpec((0,), (5,), ((6, 8),)), SIZE)
    assert one.grid == (6, 8)
    fine = make(level=0)
    assert fine.grid == (12, 16)
    learn(fine, BACKBONE, [good_image(i) for i in range(2)])
    assert torch.isfinite(fine(batch_of(BACKBONE, [good_image(9)])).score).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"rate": 0},
        {"ratio": (0.0, 0.5)},
        {"ratio": (0.6, 0.3)},
        {"blocks": ()},
        {"damage_p": 1.5},
        {"pc_share": 0},
        {"consistency": -1},
        {"top": 2},
        {"ensemble": 1},
        {"ensemble": 4, "imitation": True},
        {"pc_on": "clean_vs_damaged", "damage_p": 0.0},
        {"pc_on": "maps", "evidence": "image"},
        {"decoder": ()},
    ],
)
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)

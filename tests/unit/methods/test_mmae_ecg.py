"""MMAE-ECG: what is hidden stays hidden, both scales are there, every place is inspected, at the stated cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from blemish import config
from blemish.errors import ConfigError
from blemish.learning import export, training
from blemish.methods.base import Phase
from blemish.methods.mmae_ecg import METHOD, Config
from blemish.nn.multiscale import (
    Indices,
    MultiScaleAutoencoder,
    Pass,
    drawn,
    guarded,
    indices,
    interleaved,
    share,
    tiles,
)
from blemish.types import Batch, FeatureSpec
from tests.fakes import WindowsInMemory, signals_of
from tests.tiny import in_formats

LEADS, SEGMENT, TOTAL, LOCAL = 2, 8, 12, 4
SIZE = (SEGMENT * TOTAL,)
SMALL = {
    "segment": SEGMENT, "local": LOCAL, "width": 16, "depth": 1, "heads": 2, "batch": 16, "sigma": 2.0, "shift": 4,
    "rate": 5e-3, "steps": 20,
}  # fmt: skip
CLINICAL = {"segment": 48, "local": 10, "theta": 0.3, "depth": 5}  # 12 leads, 9.6 s at 500 Hz
# Counted from MCF's public code: parameters, and FLOPs of one record: 3 maskings of about 10 beats, each 1.82 GFLOP.
MCF_PARAMETERS, MCF_FLOPS = 7.086e6, 3 * 10 * 1.82e9


def make(size: tuple[int, ...] = SIZE, leads: int = LEADS, seed: int = 0, **options: Any) -> METHOD:
    settings = config.build(Config, {**SMALL, **options})
    method = METHOD(settings, FeatureSpec((), (), (), inputs=leads), size, seed)
    return method.eval()


def ready(**options: Any) -> METHOD:
    """Untrained, but fitted as far as predicting goes."""
    method = make(**options)
    method.middle, method.spread, method.trained = torch.zeros(method.total), torch.ones(method.total), True
    return method


def beats(seed: int, length: int = SIZE[0]) -> np.ndarray:
    """(2, L): a beat of two waves every 24 samples, from a phase of its own."""
    rng = np.random.default_rng(seed)
    at = np.arange(length) + rng.integers(24)
    phase = at % 24
    sharp, slow = np.exp(-((phase - 8) ** 2) / 6), np.exp(-((phase - 16) ** 2) / 18)
    clean = np.stack([3 * sharp + 0.8 * slow, -2 * sharp + 1.2 * slow])
    return (clean - clean.mean(1, keepdims=True) + rng.normal(0, 0.05, clean.shape)).astype(np.float32)


def segments_of(count: int, seed: int = 0, values: int = LEADS * SEGMENT, total: int = TOTAL) -> Tensor:
    return torch.randn(count, total, values, generator=torch.Generator().manual_seed(seed))


def network(total: int = TOTAL, local: int = LOCAL) -> MultiScaleAutoencoder:
    torch.manual_seed(0)
    return MultiScaleAutoencoder(LEADS * SEGMENT, total, local, width=16, depth=2, heads=2, ratio=2).eval()


def at_of(*passes: Pass, scales: Any = "both", own: bool = True) -> Indices:
    return indices(passes, TOTAL, LOCAL, scales=scales, own=own)


ONE = Pass((0, 2, 5, 8, 9, 11), 4, (1, 2))


# -- what is hidden ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [0.25, 0.3, 0.5, 0.75])
def test_so_many_tokens_are_visible_as_the_share_says(theta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        one = drawn(100, 10, theta, generator)
        at = indices([one], 100, 10, scales="both", own=True)
        assert len(at.segments) == 100 - share(100, theta) + 10 - share(10, theta)
        assert len(at.hidden) == round(100 * theta) + round(10 * theta)
        assert 0 <= one.start <= 90


@torch.no_grad()
def test_hidden_samples_never_reach_the_encoder() -> None:
    """Noise in place of what is hidden at both scales changes no bit of what is repainted."""
    one = guarded(ONE, LOCAL)
    assert (one.hidden, one.inside) == ((0, 2, 5, 6, 8, 9, 11), (1, 2))
    net, x = network(), segments_of(3)
    noisy = x.clone()
    noisy[:, list(one.hidden)] = 1e3 * segments_of(3, 1)[:, list(one.hidden)]
    assert torch.equal(net(x, at_of(one)), net(noisy, at_of(one)))
    noisy[:, 1] += 1  # visible
    assert not torch.equal(net(x, at_of(one)), net(noisy, at_of(one)))


@torch.no_grad()
def test_masked_apart_means_that_one_scale_may_see_what_the_other_repaints() -> None:
    net, x = network(), segments_of(1)
    other = x.clone()
    other[:, 5] += 1  # hidden at both scales
    assert torch.equal(net(x, at_of(ONE)), net(other, at_of(ONE)))
    other[:, 6] += 1  # hidden in the run alone
    assert not torch.equal(net(x, at_of(ONE)), net(other, at_of(ONE)))


def test_the_guard_hides_at_both_scales() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        one = guarded(drawn(TOTAL, LOCAL, 0.5, generator), LOCAL)
        run = range(one.start, one.start + LOCAL)
        assert {t for t in one.hidden if t in run} == {one.start + j for j in one.inside}


# -- both scales -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_places_of_the_run_have_positions_of_their_own() -> None:
    net, x = network(), segments_of(2)
    with_own, shared = net(x, at_of(ONE)), net(x, at_of(ONE, own=False))
    assert not torch.allclose(with_own, shared, atol=1e-4)
    swapped = at_of(ONE)._replace(positions=at_of(ONE).positions.flip(0))
    assert not torch.allclose(with_own, net(x, swapped), atol=1e-4)


@torch.no_grad()
def test_tokens_and_their_positions_may_change_places_together() -> None:
    net, x, at = network(), segments_of(2), at_of(ONE)
    order = torch.randperm(len(at.segments), generator=torch.Generator().manual_seed(3))
    where = torch.empty(len(order) + 1, dtype=torch.long)
    where[order], where[-1] = torch.arange(len(order)), len(order)
    moved = at._replace(segments=at.segments[order], positions=at.positions[order], slots=where[at.slots])
    torch.testing.assert_close(net(x, moved), net(x, at), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_scales_attend_to_each_other() -> None:
    """What the run shows changes what is repainted outside of it, and the other way round."""
    net, x, at = network(), segments_of(1), at_of(ONE)
    for change in (4, 1):  # visible in the run and outside; outside alone
        other = x.clone()
        other[:, change] += 2
        before, after = net(x, at), net(other, at)
        assert not torch.allclose(before[:, at.inner], after[:, at.inner], atol=1e-5)
        assert not torch.allclose(before[:, ~at.inner], after[:, ~at.inner], atol=1e-5)


@pytest.mark.parametrize(
    ("scales", "terms"), [("both", {"global", "local"}), ("global", {"global"}), ("local", {"local"})]
)
def test_each_scale_can_be_left_out(scales: str, terms: set[str]) -> None:
    method = make(scales=scales)
    method.generator.manual_seed(0)
    loss = method.loss(method.phases()[0], signals_of([beats(k) for k in range(4)]), 0.0)
    assert set(loss) == terms
    inner = torch.cat([group.inner for group in method.groups])
    assert {"local" if flag else "global" for flag in inner.tolist()} == terms


@torch.no_grad()
def test_passes_together_are_passes_one_by_one() -> None:
    net, x = network(), segments_of(3)
    passes = [ONE, Pass((1, 2, 3, 4, 6, 7), 8, (0, 3))]
    both = net(x, at_of(*passes))
    torch.testing.assert_close(both, torch.cat([net(x, at_of(one)) for one in passes], 1), rtol=1e-4, atol=1e-5)


# -- coverage ----------------------------------------------------------------------------------------------------------


def counted(method: METHOD) -> tuple[Tensor, Tensor]:
    """How often each segment is hidden: of the whole signal, of the run."""
    whole, run = torch.zeros(method.total), torch.zeros(method.total)
    for group in method.groups:
        for target, inner in zip(group.targets.tolist(), group.inner.tolist(), strict=True):
            (run if inner else whole)[target] += 1
    return whole, run


@pytest.mark.parametrize("theta", [0.25, 0.3, 0.5, 0.75])
def test_full_hides_every_segment_at_either_scale(theta: float) -> None:
    whole, run = counted(make((100 * 8,), local=10, theta=theta, aggregation="full"))
    assert whole.min() >= 1
    assert run.min() >= 1


def test_paired_hides_every_segment_of_the_whole_within_the_budget() -> None:
    method = make((100 * 8,), local=10, theta=0.3)
    whole, run = counted(method)
    assert sum(group.passes for group in method.groups) == 10
    assert whole.min() >= 3
    assert 0.25 < (run > 0).float().mean() < 0.45
    full = make((100 * 8,), local=10, theta=0.3, aggregation="full")
    assert sum(group.passes for group in full.groups) == 30


@pytest.mark.parametrize(("theta", "count"), [(0.3, 10), (0.5, 4), (0.25, 5)])
def test_random_covers_as_probability_says(theta: float, count: int) -> None:
    seen = []
    for seed in range(60):
        whole, _ = counted(make((100 * 8,), local=10, theta=theta, aggregation="random", passes=count, seed=seed))
        seen.append((whole > 0).float().mean())
    assert float(torch.stack(seen).mean()) == pytest.approx(1 - (1 - theta) ** count, abs=0.01)


@pytest.mark.parametrize(
    "options",
    [{}, {"aggregation": "full"}, {"aggregation": "random", "passes": 1}, {"scales": "local"}, {"leak_guard": "union"}],
)
def test_shares_are_means(options: dict[str, Any]) -> None:
    method = make(**options)
    torch.testing.assert_close(method.shares.sum(1), torch.ones(method.total))
    targets = torch.cat([group.targets for group in method.groups])
    for place in range(method.total):
        if (targets == place).any():
            assert set(targets[method.shares[place] > 0].tolist()) == {place}


@pytest.mark.parametrize(("total", "local"), [(50, 8), (100, 10), (12, 4), (13, 12)])
def test_runs_cover_the_signal(total: int, local: int) -> None:
    starts = tiles(total, local)
    assert {start + j for start in starts for j in range(local)} == set(range(total))
    assert len(starts) == -(-total // local)


def test_interleaved_masks_beyond_a_half_keep_every_segment_visible_once() -> None:
    masks = interleaved(12, 0.75)
    assert len(masks) == 4
    assert sorted(t for mask in masks for t in set(range(12)) - set(mask)) == list(range(12))


# -- targets and scores ------------------------------------------------------------------------------------------------


def test_targets_of_a_segment_do_not_know_its_height() -> None:
    method = make()
    x = torch.from_numpy(np.stack([beats(1)]))
    segments = method.segments(x)
    assert segments.shape == (1, TOTAL, LEADS, SEGMENT)
    assert torch.equal(segments[0, 3, 1], x[0, 1, 3 * SEGMENT : 4 * SEGMENT])
    wanted = method.targets(segments)
    torch.testing.assert_close(wanted.mean(3), torch.zeros(1, TOTAL, LEADS), atol=1e-5, rtol=0)
    tall = segments.var(3, correction=0) > 0.5
    torch.testing.assert_close(wanted[tall], method.targets(5 * segments + 3)[tall], atol=0.02, rtol=0.02)
    flat = torch.full_like(segments, 0.3) + 1e-4 * segments_of(1).reshape_as(segments)
    assert method.targets(flat).abs().max() < 0.01, "a flat segment is no noise"
    assert torch.equal(make(targets="raw").targets(segments), segments)


def test_flat_segments_weigh_little() -> None:
    """v / (v + flat), of a segment and lead: by hand."""
    x = torch.zeros(1, LEADS, SIZE[0])
    x[0, 0, :SEGMENT] = torch.tensor([1.0, -1.0] * (SEGMENT // 2))  # variance 1
    x[0, 1, :SEGMENT] = 7 + 0.1 * torch.tensor([1.0, -1.0] * (SEGMENT // 2))  # variance 0.01, far from 0
    x[0, 0, SEGMENT : 2 * SEGMENT] = torch.tensor([3.0] + [0.0] * (SEGMENT - 1))  # variance 9/8 - 9/64
    method = make()
    weights = method.weights(method.segments(x))[0, :, :, 0]
    assert weights[0].tolist() == pytest.approx([1 / 1.1, 0.01 / 0.11], rel=1e-4)
    assert float(weights[1, 0]) == pytest.approx(0.984375 / 1.084375, rel=1e-5)
    assert not weights[2:].any(), "where nothing moves there is nothing to repaint"
    assert make(flat=1.0).weights(method.segments(x))[0, 0, 0, 0] == 0.5


@pytest.mark.parametrize("targets", ["segment", "raw"])
@pytest.mark.parametrize("scale", ["weighted", "normalised", "raw"])
@torch.no_grad()
def test_errors_count_by_their_segment(scale: str, targets: str) -> None:
    """Against numpy: as in the loss, that by v / (v + flat), or by v; whatever the targets are."""
    batch = signals_of([beats(1), beats(2)])
    method = ready(aggregation="full", sigma=0.0, scale=scale, targets=targets)
    segments = method.segments(batch.x)
    at = torch.cat([group.targets for group in method.groups]).numpy()
    errors = torch.cat([method.errors(segments, group) for group in method.groups], 1).double().numpy()
    variance = segments.double().numpy().var(3, keepdims=True)[:, at]
    normalised = errors if targets == "segment" else errors / (variance + 0.01)
    factor = {"weighted": variance / (variance + 0.1), "normalised": 1.0, "raw": variance + 0.01}[scale]
    expected = method.shares.double().numpy() @ (normalised * factor).mean(2)
    np.testing.assert_allclose(method(batch).anomaly_map.numpy(), expected.reshape(2, -1), rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_what_hardly_moves_does_not_decide() -> None:
    """Noise in a stretch without waves changes the score of normalised errors, and hardly that of weighted ones."""
    quiet = beats(1)
    quiet[:, 40:64] = 0.0
    noisy = quiet.copy()
    noisy[:, 40:64] += np.random.default_rng(0).normal(0, 0.05, (LEADS, 24)).astype(np.float32)
    changes = {}
    for scale in ("weighted", "normalised"):
        method = ready(aggregation="full", sigma=0.0, scale=scale)
        a, b = (method(signals_of([x])).anomaly_map[0, 40:64].mean() for x in (quiet, noisy))
        changes[scale] = abs(float(b - a))
    assert changes["weighted"] < 0.1 * changes["normalised"]


@torch.no_grad()
def test_scores_are_mean_top_and_highest() -> None:
    batch = signals_of([beats(1), beats(2)])
    places = ready(sigma=0.0)(batch).anomaly_map.reshape(2, TOTAL, SEGMENT).mean(2)
    torch.testing.assert_close(ready()(batch).score, places.mean(1))
    torch.testing.assert_close(ready(score="max")(batch).score, places.amax(1))
    torch.testing.assert_close(ready(score="top")(batch).score, places.topk(2, 1).values.mean(1))


@torch.no_grad()
def test_standard_errors_of_normal_windows_have_median_0_and_deviation_1() -> None:
    fresh = signals_of([beats(k) for k in range(500, 561)])
    method = ready(sigma=0.0)
    plain = method(fresh).anomaly_map.reshape(61, TOTAL, SEGMENT).mean(2)
    method.settle([fresh])
    places = method(fresh).anomaly_map.reshape(61, TOTAL, SEGMENT).mean(2)
    torch.testing.assert_close(places.median(0).values, torch.zeros(TOTAL), atol=1e-4, rtol=0)
    wide = 1.4826 * (plain - plain.median(0).values).abs().median(0).values > 0.1 * plain.median(0).values.mean()
    assert wide.any()
    deviation = places.abs().median(0).values
    torch.testing.assert_close(deviation[wide], torch.full_like(deviation[wide], 1 / 1.4826), atol=1e-3, rtol=0)
    assert (deviation[~wide] < 1 / 1.4826).all(), "a place that hardly varies is not blown up"
    bare = ready(sigma=0.0, standard=False)
    bare.settle([fresh])
    assert torch.equal(bare(fresh).anomaly_map, ready(sigma=0.0)(fresh).anomaly_map)


def test_windows_are_shifted_apart_and_scaled_together() -> None:
    x = torch.arange(SIZE[0]).float().expand(3, LEADS, -1).contiguous() + 10
    method = make(shift=4, gain=0.2)
    method.generator.manual_seed(1)
    varied = method._varied(x)
    assert torch.equal(varied[:, 0], varied[:, 1])
    steps = (varied[:, 0, 10] / (varied[:, 0, 11] - varied[:, 0, 10])).round()
    assert len(set(steps.tolist())) > 1
    gains = varied[:, 0, 11] - varied[:, 0, 10]
    assert ((gains >= 0.8) & (gains <= 1.2)).all()
    assert torch.equal(make(shift=0, gain=0.0)._varied(x), x)


@torch.no_grad()
def test_drawn_passes_are_the_seed_s_and_the_same_for_every_window() -> None:
    a, b, c = (ready(aggregation="random", passes=3, seed=s) for s in (1, 1, 2))
    assert a.passes() == b.passes() != c.passes()
    batch = signals_of([beats(1), beats(2)])
    torch.testing.assert_close(a(batch).score[1:], a(signals_of([beats(2)])).score)


@pytest.mark.parametrize(
    "options",
    [
        {"theta": 1.0},
        {"heads": 3},
        {"local": 1},
        {"floor": 0.0},
        {"steps": 0},
        {"gain": 1.0},
        {"aggregation": "all"},
        {"flat": 0.0},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        config.build(Config, options)


@pytest.mark.parametrize(("size", "options"), [((100,), {}), ((32,), {}), ((96,), {"segment": 96})])
def test_windows_that_are_no_whole_segments(size: tuple[int, ...], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="segments"):
        make(size, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"aggregation": "full", "theta": 0.3},
        {"aggregation": "random"},
        {"scales": "global"},
        {"scales": "local"},
        {"positions": "shared", "leak_guard": "union"},
        {"targets": "raw"},
        {"scale": "raw", "score": "top", "standard": True},
        {"scale": "normalised"},
        {"targets": "raw", "scale": "normalised"},
    ],
)
def test_every_way_of_inspecting_is_one_graph(options: dict[str, Any]) -> None:
    method = make(**options)
    method.middle, method.spread, method.trained = torch.rand(TOTAL), torch.rand(TOTAL) + 1, True
    golden = np.stack([beats(1), beats(2)])
    certificate = export.certify(in_formats(export.export_plain(method)), export.plain_engine(method), golden)
    assert certificate["engines"]["openvino-f32"]["map"] < export.MAP_LIMIT


# -- what it learns ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> METHOD:
    method = make(steps=500, gain=0.0)
    training.learn(method, WindowsInMemory([beats(k) for k in range(64)]))
    return method


def masked_error(method: METHOD, batch: Batch) -> float:
    """Mean squared error on hidden segments, of the whole signal."""
    segments = method.segments(batch.x)
    with torch.no_grad():
        return float(torch.cat([method.errors(segments, at)[:, ~at.inner] for at in method.groups], 1).mean())


@pytest.mark.learns
def test_it_repaints_better_than_what_copies_or_knows_nothing(trained: METHOD) -> None:
    """Against the mean of both neighbours, and the mean normal segment."""
    batch = signals_of([beats(k) for k in range(900, 930)])
    segments = trained.segments(batch.x)
    wanted = trained.targets(segments)[:, 1:-1]
    near = trained.targets((segments[:, :-2] + segments[:, 2:]) / 2)
    learned = trained.targets(trained.segments(signals_of([beats(k) for k in range(64)]).x)).mean((0, 1))
    error = masked_error(trained, batch)
    assert error < 0.6 * float((near - wanted).square().mean())
    assert error < 0.6 * float((learned - wanted).square().mean())


@pytest.mark.learns
def test_an_ectopic_beat_is_found_where_it_is(trained: METHOD) -> None:
    """One beat early and wide: the map's maximum lies within a third of a beat of it in more than 80 %."""
    found = 0
    for seed in range(40):
        x = beats(1000 + seed)
        at = 24 + seed % 48
        k = np.arange(SIZE[0])
        wide = np.exp(-((k - at) ** 2) / 40)
        quiet = 1 - np.exp(-((k - at) ** 2) / 200)
        x = (x * quiet + np.stack([-2.5 * wide, 2.5 * wide])).astype(np.float32)
        with torch.no_grad():
            peak = int(trained(signals_of([x])).anomaly_map.argmax())
        found += abs(peak - at) <= 12
    assert found > 32


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_budget_of_the_clinical_setting() -> None:
    """Under 0.45 M parameters, and paired passes under a fiftieth of MCF's FLOPs, as the paper's abstract has it."""
    settings = replace(config.build(Config, CLINICAL), steps=1)
    method = METHOD(settings, FeatureSpec((), (), (), inputs=12), (4800,)).eval()
    parameters = sum(p.numel() for p in method.network.parameters())
    assert 0.37e6 < parameters < 0.45e6
    assert parameters < MCF_PARAMETERS / 15
    paired = flops(method)
    assert paired < MCF_FLOPS / 50
    assert flops(METHOD(replace(settings, aggregation="full"), method.spec, (4800,)).eval()) > 2.5 * paired


def flops(method: METHOD) -> int:
    """Of one record: two for each multiply-add."""
    segments = torch.zeros(1, method.total, method.leads * method.config.segment)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for at in method.groups:
            method.network(segments, at)
    return int(counter.get_total_flops())


def test_one_phase_of_adamw_along_a_cosine_to_0() -> None:
    (phase,) = make().phases()
    assert isinstance(phase, Phase)
    assert (phase.betas, phase.decay, phase.floor) == ((0.9, 0.95), 0.05, 0.0)

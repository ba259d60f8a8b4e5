"""UniAD: counts, what the mask hides, whose queries they are, the noise, and what keeps it from copying."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.errors import ConfigError
from blemish.learning import observing, training
from blemish.learning.sampler import in_order
from blemish.methods.uniad import Config, Reconstructor, UniAD
from blemish.nn.grids import joined
from blemish.nn.masked import (
    EncoderLayer,
    GridPosition,
    MaskedAttention,
    MaskedEncoder,
    QueryLayer,
    drop_attention,
    jittered,
    neighbour_mask,
    window_of,
)
from blemish.nn.moments import ChannelMoments
from blemish.nn.scoring import window_peak
from blemish.types import Batch, FeatureSpec
from tests.fakes import FakeBackbone, batch_of
from tests.products import COUNT, PIECE, SIZE, Products, product
from tests.reconstructors import PAPER, TOY, randn, trainable


def spec_of(*channels: int, size: int) -> FeatureSpec:
    grids = tuple((size // 2 ** (i + 1),) * 2 for i in range(len(channels)))
    return FeatureSpec(tuple(range(len(channels))), channels, grids)


def test_the_papers_size_counts_what_the_paper_has() -> None:
    method = UniAD(Config(**PAPER), spec_of(24, 32, 56, 160, size=224), (224, 224))
    assert method.grid == (14, 14)
    assert trainable(method) == trainable(method.network) == 7_717_392
    assert trainable(method.network.encoder.position) == 3_584
    assert [layer.query.numel() for layer in method.network.decoder] == [50_176] * 4


@pytest.mark.parametrize(("side", "window"), [(14, 7), (16, 9), (20, 11), (8, 5), (2, 1)])
def test_window_by_the_grid(side: int, window: int) -> None:
    assert window_of((side, side)) == (window, window)


def test_the_mask_hides_a_token_and_its_neighbours() -> None:
    mask = neighbour_mask((14, 14), (7, 7))
    hidden = mask.isneginf()
    assert int(hidden.sum()) == 7_396
    assert (mask[~hidden] == 0).all()
    assert hidden.diagonal().all()
    assert torch.equal(hidden, hidden.T)
    assert (int(hidden[0].sum()), int(hidden[7 * 14 + 7].sum())) == (16, 49)
    assert hidden[7 * 14 + 7].view(14, 14)[4:11, 4:11].all()


@pytest.mark.parametrize("grid", [(1, 2), (2, 2), (3, 4), (4, 4), (6, 2), (16, 16), (5, 7)])
def test_every_token_has_something_to_look_at(grid: tuple[int, int]) -> None:
    assert (neighbour_mask(grid, window_of(grid)) == 0).any(1).all()


def test_a_grid_that_the_window_covers_is_refused(backbone: FakeBackbone) -> None:
    with pytest.raises(ConfigError, match="nothing to look at"):
        UniAD(Config(neighbours=9), backbone.spec(SIZE), SIZE)


def test_attention_gives_nothing_to_what_is_masked() -> None:
    mask, x = neighbour_mask((8, 8), (5, 5)), randn(2, 64, 16)
    shares = MaskedAttention(16, 4).shares(x, x, mask)
    assert (shares[..., mask.isneginf()] == 0).all()
    assert (shares[..., mask == 0] > 0).all()
    torch.testing.assert_close(shares.sum(3), torch.ones(2, 4, 64))


def test_a_layers_output_depends_on_no_memory_within_the_window() -> None:
    mask, position = neighbour_mask((6, 6), (3, 3)), GridPosition((6, 6), 8)()
    layer = QueryLayer(36, 8, 16, 2, 0.0).eval()
    place = 2 * 6 + 3
    slope = torch.autograd.functional.jacobian(
        lambda memory: layer(memory, memory, position, mask)[0, place], randn(1, 36, 8)
    )
    influence = slope[:, 0].abs().sum((0, 2))  # (N,), of each place of the memory
    near = mask[place].isneginf()
    assert (influence[near] == 0).all()
    assert (influence[~near] > 0).all()


@pytest.mark.parametrize(
    ("where", "seen"), [("all", (True, True)), ("encoder", (True, False)), ("decoder", (False, True))]
)
def test_the_mask_can_be_left_out_of_either_part(where: Any, seen: tuple[bool, bool]) -> None:
    config = Config(**{**TOY, "mask": where})
    torch.manual_seed(0)
    net, free = Reconstructor(config, 5, (4, 4)).eval(), Reconstructor(Config(**{**TOY, "mask": "none"}), 5, (4, 4))
    free.eval().load_state_dict(net.state_dict())
    x, memory = randn(1, 16, 5), randn(1, 16, 32)
    assert torch.equal(net.encoder(x), free.encoder(x)) is not seen[0]
    assert torch.equal(net.decode(memory), free.decode(memory)) is not seen[1]


def test_positions_tell_tokens_apart_more_than_the_papers_do() -> None:
    """Means of the cosine between two rows' halves, 0 where they have nothing in common."""
    alike = []
    for normal in (True, False):
        rows = F.normalize(GridPosition((16, 16), 128, normal=normal).rows.detach(), dim=1)
        alike.append(float((rows @ rows.T)[~torch.eye(16, dtype=torch.bool)].mean()))
    assert abs(alike[0]) < 0.1
    assert alike[1] > 0.6


@pytest.mark.parametrize("balanced", [True, False])
def test_products_are_drawn_as_the_configuration_says(balanced: bool, backbone: FakeBackbone) -> None:
    method = UniAD(Config(**{**TOY, "balanced": balanced}), backbone.spec(SIZE), SIZE)
    assert [phase.balanced for phase in method.phases()] == [balanced]


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_layers_norm_what_they_get_or_what_they_give(norm: Any) -> None:
    torch.manual_seed(0)
    layer, x = EncoderLayer(8, 16, 2, 0.0, norm).eval(), 100 * randn(1, 16, 8)
    position, given = torch.zeros(16, 8), []
    layer.attention.register_forward_pre_hook(lambda _, inputs: given.append(inputs[2]))
    out = layer(x, position, None)
    normed = F.layer_norm(x, (8,))
    torch.testing.assert_close(given[0], normed if norm == "pre" else x)
    assert (out - x).abs().max() < 10 if norm == "pre" else (out - x).abs().max() > 50  # x itself passes, or LN of it
    memory = MaskedEncoder(5, (4, 4), 2, 8, 16, 2, 0.0, norm)(randn(1, 16, 5))
    torch.testing.assert_close(memory, F.layer_norm(memory, (8,)), rtol=1e-3, atol=1e-3)  # either way it is read normed


def test_each_decoder_layer_has_queries_of_its_own() -> None:
    net = Reconstructor(Config(**{**TOY, "decoders": 4}), 5, (4, 4)).eval()
    x = randn(2, 16, 5)
    tables = [layer.query for layer in net.decoder]
    out = net(x)
    out.square().sum().backward()
    for i, table in enumerate(tables):
        assert table.shape == (16, 32)
        assert table.grad is not None
        assert table.grad.abs().max() > 0
        assert not any(torch.equal(table, other) for other in tables[:i])
    with torch.no_grad():
        for layer, table in zip(net.decoder, tables, strict=True):
            layer.query = torch.nn.Parameter(torch.zeros_like(table))
            assert (net(x) - out).abs().max() > 1e-3
            layer.query = table
        net.decoder[1].query, net.decoder[2].query = tables[2], tables[1]
        assert (net(x) - out).abs().max() > 1e-3


def test_without_queries_decoding_starts_from_the_memory() -> None:
    layer = QueryLayer(16, 8, 16, 2, 0.0, queries=False).eval()
    assert layer.query is None
    position, (a, b) = torch.zeros(16, 8), (randn(1, 16, 8, seed=i) for i in (1, 2))
    assert not torch.equal(layer(a, a, position, None), layer(a, b, position, None))


def test_jitter_is_as_strong_as_the_token_is_long() -> None:
    token = randn(1, 1, 272) * 3
    noise = jittered(token.expand(10_000, 1, -1), 20 / 272**0.5, torch.Generator().manual_seed(0)) - token
    expected = 20 * float(token.norm()) / 272
    assert float(noise.std()) == pytest.approx(expected, rel=0.03)
    assert noise.std(0).flatten().tolist() == pytest.approx([expected] * 272, rel=0.05)
    assert 20 / 272**0.5 == pytest.approx(Config().jitter, rel=0.01)


def test_the_target_is_clean_and_inspection_draws_nothing(backbone: FakeBackbone) -> None:
    method = UniAD(Config(**{**TOY, "dropout": 0.5}), backbone.spec(SIZE), SIZE)
    samples = Products(backbone, 2)
    observing.train(method, in_order(samples))
    batch = samples.all
    clean = method.tokens(batch.pyramid.maps)
    seen: list[Tensor] = []
    method.network.forward = lambda tokens: (seen.append(tokens), clean)[1]  # type: ignore[method-assign]
    assert method.loss(method.phases()[0], batch, 0.0)["restore"].item() == 0  # by what is clean it is judged
    assert (seen[0] - clean).norm() > clean.norm()  # and by what is not it is fed
    del method.network.forward
    method.eval()
    with torch.no_grad():
        assert torch.equal(method.predict(batch).score, method.predict(batch).score)
    before = torch.get_rng_state()
    method.train()
    method.generator.manual_seed(1)
    first = method.loss(method.phases()[0], batch, 0.0)["restore"]
    method.generator.manual_seed(1)
    assert torch.equal(first, method.loss(method.phases()[0], batch, 0.0)["restore"])
    assert torch.equal(before, torch.get_rng_state())


def test_tokens_are_standardised_and_merged_moments_are_those_of_all(backbone: FakeBackbone) -> None:
    samples = Products(backbone, 4)
    whole, one, two = (UniAD(Config(**TOY), backbone.spec(SIZE), SIZE) for _ in range(3))
    observing.train(whole, in_order(samples))
    one.observe(samples.batch(range(5)))
    two.observe(samples.batch(range(5, len(samples))))
    one.merge(two)
    one.conclude()
    torch.testing.assert_close(one.mean, whole.mean)
    torch.testing.assert_close(one.scale, whole.scale)
    tokens = whole.tokens(samples.all.pyramid.maps).flatten(0, 1)
    assert float(tokens.mean(0).abs().max()) < 1e-4
    assert float(tokens.std(0).max()) == pytest.approx(1, abs=0.01)
    raw = UniAD(Config(**{**TOY, "standardise": False}), backbone.spec(SIZE), SIZE)
    observing.train(raw, in_order(samples))
    plain = joined(samples.all.pyramid.maps, raw.grid).flatten(2).transpose(1, 2)
    assert torch.equal(raw.tokens(samples.all.pyramid.maps), plain)


def test_moments_of_what_never_varies_do_no_harm() -> None:
    moments = ChannelMoments(2)
    moments.add(torch.ones(3, 2, 4, 4))
    assert moments.mean.tolist() == [1, 1]
    assert moments.spread().tolist() == [1, 1]


def test_levels_are_joined_by_areas_or_by_aligned_corners() -> None:
    fine, coarse = torch.arange(16.0).view(1, 1, 4, 4), torch.arange(4.0).view(1, 1, 2, 2)
    assert joined([fine, coarse], (2, 2))[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert joined([fine, coarse], (2, 2), "bilinear")[0, 0].tolist() == [[0, 3], [12, 15]]
    assert joined([fine, coarse], (2, 2))[0, 1].tolist() == coarse[0, 0].tolist()


def test_score_is_the_highest_mean_of_a_square() -> None:
    anomaly_map = torch.zeros(2, 12, 10)
    anomaly_map[0, 3, 4] = 16.0
    anomaly_map[1, 2:6, 3:7] = 1.0
    assert window_peak(anomaly_map, 4).tolist() == pytest.approx([1.0, 1.0])
    assert window_peak(anomaly_map, 1).tolist() == [16.0, 1.0]
    assert window_peak(anomaly_map, 99).tolist() == pytest.approx([16 / 120, 16 / 120])


# ---------------------------------------------------------------------------------------------------- a drawn world
@cache
def learned(**options: Any) -> tuple[UniAD, float]:
    """A model of all three products, and its last loss."""
    backbone = FakeBackbone()
    method = UniAD(Config(**{**TOY, **options}), backbone.spec(SIZE), SIZE)
    plan = training.learn(method, Products(backbone))
    return method, plan.report[0].last["restore"]


@cache
def unseen() -> Batch:
    return Products(FakeBackbone(), 4, first=100, twins=True).all


def leak(method: UniAD) -> float:
    """How much of a defect comes through: 0 = it is rebuilt as if it were not there, 1 = it is copied."""
    batch = unseen()
    damaged, good = (method.tokens(p.maps) for p in (batch.twin, batch.pyramid))
    with torch.no_grad():
        through = method.network(damaged) - method.network(good)
    inside = F.avg_pool2d(batch.mask.float()[:, None], TOY["stride"]).flatten(1) == 1
    defect, through = (damaged - good)[inside], through[inside]
    return float((through * defect).sum() / defect.square().sum())


@pytest.mark.parametrize(
    ("with_it", "without"),
    [({}, {"queries": False}), ({"queries": False}, {"queries": False, "jitter": 0.0})],
    ids=["queries", "jitter where there are no queries"],
)
@pytest.mark.learns
def test_without_a_part_it_fits_better_and_copies_more(with_it: dict[str, Any], without: dict[str, Any]) -> None:
    """As the paper has it: the shortcut is easier to learn, and defects pass through it."""
    (whole, loss), (less, lower) = learned(**with_it), learned(**without)
    assert lower < loss
    assert leak(less) > 1.5 * leak(whole)


@pytest.mark.learns
def test_without_any_of_the_three_it_is_a_copier() -> None:
    copier, loss = learned(queries=False, jitter=0.0, mask="none")
    assert loss < 0.5 * learned()[1]
    assert leak(copier) > 0.4
    assert leak(learned()[0]) < 0.1


@pytest.mark.slow
def test_what_is_no_product_is_not_rebuilt(backbone: FakeBackbone) -> None:
    method, _ = learned()
    images = [np.random.default_rng(i).integers(0, 256, (*SIZE, 3), dtype=np.uint8) for i in range(6)]
    errors = []
    for maps in (unseen().pyramid.maps, batch_of(backbone, images, image=False).pyramid.maps):
        tokens = method.tokens(maps)
        with torch.no_grad():
            errors.append(float((method.network(tokens) - tokens).norm() / tokens.norm()))
    assert errors[1] > 0.9
    assert errors[0] < 0.85


@pytest.mark.slow
def test_one_network_for_all_products_and_it_is_told_none_of_them() -> None:
    method, _ = learned()
    batch = unseen()
    mixed = method(batch)
    for kind in range(COUNT):
        of_kind = batch.category == kind
        alone = method(Batch(size=SIZE, pyramid=type(batch.pyramid)(tuple(x[of_kind] for x in batch.pyramid.maps))))
        torch.testing.assert_close(alone.anomaly_map, mixed.anomaly_map[of_kind], rtol=1e-4, atol=1e-4)
    assert UniAD.routing(method.config) is None
    assert not UniAD.wants(method.config).category


@pytest.mark.slow
def test_the_peak_of_the_map_lies_at_a_pasted_texture(backbone: FakeBackbone) -> None:
    method, _ = learned()
    found = 0
    for kind in range(COUNT):
        for seed in range(4):
            generator = np.random.default_rng([kind, seed])
            image = product(kind, 300 + seed)
            top, left = generator.integers(0, SIZE[0] - PIECE + 1, 2)
            blocks = generator.integers(0, 2, (4, 4, 3)) * 255
            image[top : top + PIECE, left : left + PIECE] = blocks.repeat(PIECE // 4, 0).repeat(PIECE // 4, 1)
            with torch.no_grad():
                peak = int(method.predict(batch_of(backbone, [image], image=False)).anomaly_map.argmax())
            reach = TOY["stride"]  # one token
            y, x = peak // SIZE[1] - top, peak % SIZE[1] - left
            found += -reach <= y < PIECE + reach and -reach <= x < PIECE + reach
    assert found >= 9


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"batch": 1},
        {"rate": 0},
        {"width": 20, "heads": 8},
        {"jitter": -1},
        {"dropout": 1.0},
        {"jitter_share": 2.0},
        {"sigma": -1},
        {"stride": 0},
    ],
)
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)


def test_the_fused_kernel_is_the_product() -> None:
    """Training without dropout of attention and the exported form give the same; a share of it needs the products."""
    attention = MaskedAttention(16, 4)
    x = torch.randn(2, 36, 16, generator=torch.Generator().manual_seed(0))
    mask = neighbour_mask((6, 6), (3, 3))
    with torch.no_grad():
        fused = attention.train()(x, x, mask=mask)
        plain = attention.eval()(x, x, mask=mask)
        assert torch.allclose(fused, plain, atol=1e-5)
        drop_attention(attention, 0.5)
        assert not torch.allclose(attention.train()(x, x, mask=mask), plain, atol=1e-2)

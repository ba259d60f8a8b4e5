"""EMMF-RD: fusion, attention and memory each do what they are there for, and nothing gets past the embedding."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from blemish.errors import ConfigError
from blemish.evaluation.metrics import auroc
from blemish.methods import emmf, rd
from blemish.nn.attention import CoordinateAttention
from blemish.nn.mapping import MutualMappingFusion
from blemish.nn.memory import EmbeddingMemory, clusters_of
from blemish.nn.scoring import peak
from blemish.types import Batch, FeatureSpec, Pyramid
from tests.fakes import SIZE, FakeBackbone, batch_of, good_image, learn

SMALL: dict[str, Any] = {"embedding": 16, "widths": (8, 12, 16), "joined": 16, "slots": 8, "nearest": 4, "rate": 1e-2}
OFF: dict[str, Any] = {"fusion": "off", "attention": "off", "memory": "off"}
GRIDS = ((16, 16), (8, 8), (4, 4))
TOY = (128, 128)


def pyramid(channels: tuple[int, ...] = (6, 8, 10), grids: tuple[tuple[int, int], ...] = GRIDS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, *g, generator=generator) for c, g in zip(channels, grids, strict=True)]


def fusion(**options: Any) -> MutualMappingFusion:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MutualMappingFusion((6, 8, 10), GRIDS, (5, 6, 7), **options).eval()


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def texture(seed: int) -> NDArray[np.uint8]:
    """A periodic pattern with one landmark, always at one place."""
    generator = np.random.default_rng(seed)
    y, x = np.ogrid[: TOY[0], : TOY[1]]
    image = 110 + 40 * np.sin(x * np.pi / 8) * np.sin(y * np.pi / 8) + np.zeros(TOY)
    image[np.hypot(y - 36, x - 90) < 11] = 210
    return np.clip(image[..., None] + generator.normal(0, 5, (*TOY, 3)), 0, 255).astype(np.uint8)


def spoilt(seed: int, side: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """8: a light blotch. 60: a block whose pattern is missing."""
    generator, image, mask = np.random.default_rng(1000 + seed), texture(seed), np.zeros(TOY, bool)
    y, x = generator.integers(4, TOY[0] - 4 - side, 2)
    mask[y : y + side, x : x + side] = True
    image[mask] = np.clip(generator.normal(110 if side > 8 else 225, 5, (side * side, 3)), 0, 255).astype(np.uint8)
    return image, mask


def pixel_auroc(method: Any, backbone: FakeBackbone, side: int) -> float:
    drawn = [spoilt(i, side) for i in range(500, 508)]
    maps = method(batch_of(backbone, [image for image, _ in drawn])).anomaly_map.numpy()
    return auroc(np.stack([mask for _, mask in drawn]).ravel(), maps.ravel())


@pytest.fixture(scope="module")
def toy(backbone: FakeBackbone) -> emmf.EMMFRD:
    method = emmf.EMMFRD(emmf.Config(steps=120, **SMALL | {"slots": 16}), backbone.spec(TOY), TOY)
    learn(method, backbone, [texture(i) for i in range(40)])
    return method


# ----------------------------------------------------------------------------------------------------------- structure
@pytest.mark.parametrize(
    ("size", "channels", "grids", "inner"),
    [
        ((256, 256), (24, 40, 112), ((64, 64), (32, 32), (16, 16)), (8, 8)),
        ((224, 224), (24, 40, 112), ((56, 56), (28, 28), (14, 14)), (7, 7)),
        ((256, 256), (40, 112, 320), ((32, 32), (16, 16), (8, 8)), (8, 8)),
        ((160, 96), (5, 7), ((20, 12), (10, 6)), (5, 3)),
        ((64, 64), (6,), ((4, 4),), (2, 2)),
    ],
)
def test_shapes_follow_the_pyramid(
    size: tuple[int, int], channels: tuple[int, ...], grids: tuple[tuple[int, int], ...], inner: tuple[int, int]
) -> None:
    spec = FeatureSpec(tuple(range(len(channels))), channels, grids)
    method = emmf.EMMFRD(emmf.Config(**SMALL), spec, size).eval()
    maps = pyramid(channels, grids)
    fused = method.fusion(maps)
    assert [g.shape for g in fused] == [h(x).shape for h, x in zip(method.fusion.own, maps, strict=True)]
    phi = method.embedding(fused)
    assert phi.shape == (2, 16, *inner)
    assert method.memory(phi).shape == phi.shape
    assert [r.shape for r in method.decoder(phi)] == [m.shape for m in maps]
    out = method.predict(Batch(size=size, pyramid=Pyramid(tuple(maps))))
    assert out.anomaly_map.shape == (2, *size)
    assert torch.equal(out.score, peak(out.anomaly_map, method.config.top))


def test_without_its_parts_it_is_plain_reverse_distillation(backbone: FakeBackbone) -> None:
    shared = {k: v for k, v in SMALL.items() if k not in ("slots", "nearest")} | {"steps": 8}
    images, probe = [good_image(i) for i in range(6)], batch_of(backbone, [good_image(i) for i in (90, 91)])
    ours = emmf.EMMFRD(emmf.Config(**shared, **OFF), backbone.spec(SIZE), SIZE, 3)
    plain = rd.ReverseDistillation(rd.Config(**shared), backbone.spec(SIZE), SIZE, 3)
    for method in (ours, plain):
        learn(method, backbone, images)
    assert torch.equal(ours(probe).anomaly_map, plain(probe).anomaly_map)
    assert ours.fitted_state().keys() == plain.fitted_state().keys()
    full = emmf.EMMFRD(emmf.Config(**SMALL | {"steps": 8}), backbone.spec(SIZE), SIZE, 3)
    learn(full, backbone, images)
    assert not torch.equal(full(probe).anomaly_map, plain(probe).anomaly_map)


def test_both_have_the_same_defaults() -> None:
    ours, plain = vars(emmf.Config()), vars(rd.Config())
    assert {name: ours[name] for name in plain} == plain


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, {"fusion", "memory", "embedding.attention", "decoder"}),
        ({"fusion": "off"}, {"memory", "embedding.attention", "decoder"}),
        ({"attention": "off"}, {"fusion", "memory"}),
        ({"attention": "decoder"}, {"fusion", "memory", "decoder"}),
        ({"attention": "embedding"}, {"fusion", "memory", "embedding.attention"}),
        ({"memory": "off"}, {"fusion", "embedding.attention", "decoder"}),
    ],
)
def test_each_part_has_a_switch(options: dict[str, Any], parts: set[str], backbone: FakeBackbone) -> None:
    method = emmf.EMMFRD(emmf.Config(**SMALL | options), backbone.spec(SIZE), SIZE)
    places = {
        "fusion": list(method.fusion.parameters()),
        "memory": list(method.memory.parameters()),
        "embedding.attention": list(method.embedding.attention.parameters()),
        "decoder": [m for m in method.decoder.modules() if isinstance(m, CoordinateAttention)],
    }
    assert {name for name, found in places.items() if found} == parts
    learning = {name for phase in method.phases() for name in phase.learns}
    assert learning == {name for name in method.fitted_modules if list(getattr(method, name).parameters())}


# -------------------------------------------------------------------------------------------------------------- fusion
def test_every_level_reaches_every_other() -> None:
    block, maps = fusion(), pyramid()
    before = block(maps)
    for changed in range(3):
        other = [m + 1 if i == changed else m for i, m in enumerate(maps)]
        for a, b in zip(before, block(other), strict=True):
            assert (a - b).abs().max() > 1e-4


@pytest.mark.parametrize(("ways", "reached"), [("down", {0: {0, 1, 2}, 2: {2}}), ("up", {0: {0}, 2: {0, 1, 2}})])
def test_one_way_maps_go_one_way(ways: Any, reached: dict[int, set[int]]) -> None:
    block, maps = fusion(ways=ways), pyramid()
    before = block(maps)
    for changed, expected in reached.items():
        after = block([m + 1 if i == changed else m for i, m in enumerate(maps)])
        assert {j for j in range(3) if not torch.equal(before[j], after[j])} == expected


def test_without_weights_for_others_each_level_stands_alone() -> None:
    block, maps = fusion(), pyramid()
    with torch.no_grad():
        block.theta.masked_fill_(~torch.eye(3, dtype=torch.bool), -torch.inf)
    assert torch.equal(block.alpha, torch.eye(3))
    for g, convolve, out, x in zip(block(maps), block.own, block.out, maps, strict=True):
        torch.testing.assert_close(g, out(convolve(x)) + convolve(x), rtol=0, atol=0)


def test_disagreement_of_scales_comes_in_with_its_gain() -> None:
    block, maps = fusion(), pyramid()
    plain = block(maps)
    with torch.no_grad():
        block.gamma.fill_(1)
    h = [convolve(x) for convolve, x in zip(block.own, maps, strict=True)]
    m = [block.maps[f"{i}_2"](h[i]) for i in (0, 1)]
    disagreement = block.differ[2]((h[2] - m[0]).abs() + (h[2] - m[1]).abs())
    fused = block.alpha[2, 2] * h[2] + block.alpha[2, 0] * m[0] + block.alpha[2, 1] * m[1]
    torch.testing.assert_close(block(maps)[2], block.out[2](fused + disagreement) + h[2])
    assert not torch.equal(block(maps)[2], plain[2])


@pytest.mark.learns
def test_weights_start_unequal_and_learn(toy: emmf.EMMFRD) -> None:
    start = fusion().alpha
    assert (start.diagonal() > 0.5).all()
    alpha, gamma = toy.fusion.alpha, toy.fusion.gamma
    torch.testing.assert_close(alpha.sum(1), torch.ones(3))
    assert (alpha - start).abs().max() > 0.01
    assert all((alpha[i].sort().values - alpha[j].sort().values).abs().max() > 0.005 for i, j in ((0, 1), (1, 2)))
    assert (alpha - 1 / 3).abs().amax(1).min() > 0.03
    assert gamma.abs().min() > 1e-3


def test_equal_weights_stay_equal(backbone: FakeBackbone) -> None:
    options = SMALL | {"weights": "equal", "steps": 6, "memory": "off"}
    method = emmf.EMMFRD(emmf.Config(**options), backbone.spec(SIZE), SIZE)
    learn(method, backbone, [good_image(i) for i in range(4)])
    torch.testing.assert_close(method.fusion.alpha, torch.full((3, 3), 1 / 3))


# ----------------------------------------------------------------------------------------------------------- attention
def test_coordinate_attention_keeps_positions_along_each_axis() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = CoordinateAttention(8).eval()
    x = torch.zeros(1, 8, 6, 10)
    x[..., 1, 2] = 5
    high, wide = block.profiles(x)
    assert high.shape == (1, 8, 6, 1)
    assert wide.shape == (1, 8, 1, 10)
    assert torch.equal(block(x), x * high * wide)
    moved = torch.zeros_like(x)
    moved[..., 1, 7] = 5
    high_after, wide_after = block.profiles(moved)
    assert torch.equal(high, high_after)
    torch.testing.assert_close(wide.roll(5, 3), wide_after)
    assert wide.std(3).max() > 1e-3  # attention over channels alone would be the same at every place
    assert high.std(2).max() > 1e-3


# -------------------------------------------------------------------------------------------------------------- memory
def memory(rows: int = 12, **options: Any) -> EmbeddingMemory:
    block = EmbeddingMemory(8, rows, **options)
    block.start(unit(200, 8), 32, torch.Generator().manual_seed(0))
    return block


def test_kmeans_finds_the_directions_of_normal_cells() -> None:
    true = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1))).Q[:4]
    noise = 0.05 * torch.randn(400, 6, generator=torch.Generator().manual_seed(2))
    cells = F.normalize(true.repeat(100, 1) + noise, dim=1)
    centres, sizes = clusters_of(cells, 4, torch.Generator().manual_seed(0))
    assert (true @ centres.T).amax(1).min() > 0.99
    assert sizes.tolist() == [100] * 4
    centres, _ = clusters_of(unit(3, 6), 8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(8))


def test_a_cell_is_read_from_its_nearest_rows() -> None:
    block, cells = memory(nearest=3), unit(50, 8, seed=3)
    weights = block.weights(cells)
    assert ((weights > 1e-4).sum(1) <= 3).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(50))
    assert torch.equal(weights.argmax(1), (cells @ block.bank.T).argmax(1))
    phi = block.bank[4].reshape(1, 8, 1, 1) * 7  # what is stored comes back, with its length
    read = EmbeddingMemory.read(block, phi)
    assert F.cosine_similarity(read, phi).min() > 0.9
    assert not torch.equal(block.weights(cells), memory(nearest=3, temperature=1.0).weights(cells))


def test_what_is_read_never_jumps() -> None:
    """Or the short number format of an engine would read other rows than PyTorch did."""
    block = memory(nearest=3)
    ends = unit(2, 8, seed=6)
    along = torch.linspace(0, 1, 2001)[:, None]
    path = F.normalize(along * ends[0] + (1 - along) * ends[1], dim=1)
    weights = block.weights(path)
    assert ((weights > 1e-4) != (weights > 1e-4)[0]).any()  # rows come and go on the way
    assert (weights[1:] - weights[:-1]).abs().max() < 0.01


def test_order_of_rows_means_nothing() -> None:
    block, phi = memory(), torch.randn(2, 8, 3, 4, generator=torch.Generator().manual_seed(4))
    before = block(phi)
    block.bank.copy_(block.bank[torch.randperm(12, generator=torch.Generator().manual_seed(0))])
    torch.testing.assert_close(block(phi), before)


@pytest.mark.parametrize("gate", [-50.0, 0.0, 50.0])
def test_the_gate_never_lets_past_the_memory(gate: float) -> None:
    block, phi = memory(), torch.randn(2, 8, 3, 4, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        block.gate.fill_(gate)
    assert (block.eta >= 0.5).all()
    share = (block(phi) - phi).norm() / (block.read(phi) - phi).norm()
    assert share.item() == pytest.approx({-50.0: 0.5, 0.0: 0.75, 50.0: 1.0}[gate], abs=1e-4)
    torch.testing.assert_close(block(phi, 0.0), phi)  # before the ramp


def test_rows_follow_their_cells_and_the_unused_are_forgotten() -> None:
    block, cells = memory().train(), unit(64, 8, seed=5)
    before, (best, at) = block.bank.clone(), (cells @ block.bank.T).max(1)
    row = int(at.mode().values)
    unused = (row + 1) % 12
    cells, best, at = cells[at != unused], best[at != unused], at[at != unused]
    block.usage[unused] = 0
    block.write(cells)
    mean = cells[at == row].mean(0)
    torch.testing.assert_close(block.bank[row], F.normalize(0.99 * before[row] + 0.01 * mean, dim=0))
    assert torch.equal(block.bank[unused], cells[best.argmin()])  # the cell that was represented worst
    torch.testing.assert_close(block.bank.norm(dim=1), torch.ones(12))
    assert block.usage[unused] > 0


def test_nothing_is_written_in_eval_mode_or_where_rows_are_parameters() -> None:
    for block in (memory().eval(), memory(learned=True).train()):
        before, usage = block.bank.detach().clone(), block.usage.clone()
        block.write(unit(64, 8, seed=5))
        assert torch.equal(block.bank, before)
        assert torch.equal(block.usage, usage)
    phi = torch.randn(1, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    block.read(phi).sum().backward()
    assert block.bank.grad is not None
    assert block.bank.grad.abs().max() > 0


def test_terms_pull_to_the_first_row_and_away_from_the_second() -> None:
    block = memory(2)
    block.bank.copy_(torch.eye(8)[:2])
    cells = torch.eye(8)[:1].clone().requires_grad_()
    compact, separate = block.terms(cells)
    assert compact.item() == pytest.approx(0)
    assert separate.item() == pytest.approx(0, abs=2e-3)  # 0 - sqrt(2) + 1 < 0
    between = F.normalize(torch.tensor([[1.0, 1, 0, 0, 0, 0, 0, 0]]), dim=1)
    compact, separate = block.terms(between)
    assert compact.item() == pytest.approx(2 - 2**0.5)
    assert separate.item() == pytest.approx(1, abs=1e-3)


def test_memory_comes_after_the_warm_up_and_grows(backbone: FakeBackbone) -> None:
    method = emmf.EMMFRD(emmf.Config(**SMALL | {"steps": 20}), backbone.spec(SIZE), SIZE)
    warm, main = method.phases()
    assert (warm.steps, main.steps) == (2, 18)
    assert "memory" not in warm.learns
    batch = batch_of(backbone, [good_image(i) for i in range(4)])
    assert "compact" not in method.loss(warm, batch, 0.5)
    with torch.no_grad():
        method.begin(warm, [batch])
        assert not method.memory.bank.any()
        method.begin(main, [batch])
    torch.testing.assert_close(method.memory.bank.norm(dim=1), torch.ones(8))
    weights: list[float] = []
    method.memory.forward = lambda phi, strength: weights.append(strength) or phi  # type: ignore[method-assign,func-returns-value]
    for progress in (0.0, 1 / 18, 1 / 9, 0.9):
        assert {"compact", "separate"} < set(method.loss(main, batch, progress))
    assert weights == pytest.approx([0.0, 0.5, 1.0, 1.0])


@pytest.mark.learns
def test_memory_is_used(toy: emmf.EMMFRD, backbone: FakeBackbone) -> None:
    """Cells of what was never seen are pulled further, against their length, than normal ones at the same places."""
    assert (toy.memory.eta >= 0.5).all()
    assert (toy.memory.usage > 0.1 * toy.memory.usage.mean()).float().mean() > 0.5
    generator, pulled = np.random.default_rng(0), []
    good = [texture(i) for i in range(600, 608)]
    noise = [image.copy() for image in good]
    for image in noise:
        image[32:96, 16:80] = generator.integers(0, 256, (64, 64, 3))
    for images in (good, noise):
        phi = toy._embedded(batch_of(backbone, images))
        pulled.append(((toy.memory(phi) - phi).norm(dim=1) / phi.norm(dim=1))[:, 1:3, :2].mean())
    assert pulled[1] > 1.3 * pulled[0]


@pytest.mark.learns
def test_reconstruction_hangs_on_the_bank(toy: emmf.EMMFRD, backbone: FakeBackbone) -> None:
    batch = batch_of(backbone, [texture(i) for i in range(8)])

    def restored(method: emmf.EMMFRD) -> float:
        return float(method(batch).anomaly_map.mean())

    other = copy.deepcopy(toy)
    other.memory.bank.copy_(unit(16, 16, seed=9))
    assert restored(other) > 1.4 * restored(toy)


@pytest.mark.learns
def test_inspecting_leaves_the_bank_alone(toy: emmf.EMMFRD, backbone: FakeBackbone) -> None:
    before, usage = toy.memory.bank.clone(), toy.memory.usage.clone()
    toy(batch_of(backbone, [spoilt(0, 60)[0], texture(0)]))
    assert torch.equal(before, toy.memory.bank)
    assert torch.equal(usage, toy.memory.usage)


def test_learned_rows_learn(backbone: FakeBackbone) -> None:
    banks = []
    for steps in (3, 9):
        method = emmf.EMMFRD(emmf.Config(**SMALL | {"rows": "grad", "steps": steps}), backbone.spec(SIZE), SIZE)
        learn(method, backbone, [good_image(i) for i in range(4)])
        banks.append(F.normalize(method.memory.bank, dim=1))
    assert not torch.allclose(*banks, atol=1e-3)


# ----------------------------------------------------------------------------------------------------------------- toy
@pytest.mark.parametrize("side", [8, 60])
@pytest.mark.learns
def test_finds_small_and_large_defects(side: int, toy: emmf.EMMFRD, backbone: FakeBackbone) -> None:
    assert pixel_auroc(toy, backbone, side) > 0.95


@pytest.mark.learns
def test_maps_of_normal_images_are_low(toy: emmf.EMMFRD, backbone: FakeBackbone) -> None:
    good = toy(batch_of(backbone, [texture(i) for i in range(8)])).anomaly_map
    bad = toy(batch_of(backbone, [spoilt(i, 60)[0] for i in range(8)]))
    assert good.mean() < 0.3  # of 2 a level
    assert bad.score.min() > 1.5 * good.max()


@pytest.mark.learns
def test_a_way_around_the_embedding_finds_nothing(toy: emmf.EMMFRD, backbone: FakeBackbone) -> None:
    """What a skip connection would do: features restored from themselves differ nowhere."""
    leaking = copy.deepcopy(toy)
    leaking._embedded = lambda batch: batch.pyramid.maps  # type: ignore[assignment,method-assign,union-attr]
    leaking.memory = torch.nn.Identity()
    leaking.decoder = torch.nn.Identity()  # type: ignore[assignment]
    assert pixel_auroc(leaking, backbone, 60) < 0.7


@pytest.mark.parametrize(
    "bad",
    [
        {"floor": 0.1},
        {"warm_up": 0.0},
        {"warm_up": 0.5, "ramp": 0.5},
        {"temperature": 0},
        {"slots": 0},
        {"widths": ()},
        {"batch": 1},
        {"compact": -1},
    ],
)
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        emmf.Config(**bad)

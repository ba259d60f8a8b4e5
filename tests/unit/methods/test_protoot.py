"""ProtoOT: its metric and scores against the definition, and what local and global prototypes can and cannot see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.errors import ConfigError
from blemish.evaluation.metrics import auroc
from blemish.inspection.engines import open_engine
from blemish.learning import export
from blemish.methods.protoot import Config, ProtoOT, shuffled
from blemish.nn.prototypes import positions
from blemish.nn.transport import sinkhorn
from blemish.types import Batch, FeatureSpec, Pyramid
from tests.fakes import SIZE, FakeBackbone, batch_of, defective_image, good_image, learn
from tests.tiny import in_formats

SIDE, WIDTH = 8, 16  # of the drawn world: an 8 x 8 grid of 16 channels, each quadrant with a feature of its own
GRID = (SIDE, SIDE)
TOY: dict[str, Any] = {
    "layers_coarse": 2,
    "batch_coarse": 8,
    "steps": 60,
    "init": "uniform",
    "same": 1.0,
    "variety": 0.0,
}


def quadrants() -> Tensor:
    """(5, WIDTH): features of the four quadrants, and one that is never seen."""
    return 2 * torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))


def quadrant_of(grid: Tensor) -> Tensor:
    """(P,) number of the quadrant of each place."""
    return 2 * (grid[:, 0] > 0.5).long() + (grid[:, 1] > 0.5).long()


def world(count: int, seed: int, spot: int | None = None) -> tuple[Tensor, Tensor]:
    """(count, WIDTH, 8, 8) and where (8, 8) a 2 x 2 patch of the first quadrant shows feature `spot`."""
    owner, mask = quadrant_of(positions(GRID)).view(GRID).clone(), torch.zeros(GRID, dtype=torch.bool)
    if spot is not None:
        mask[1:3, 1:3] = True
        owner[mask] = spot
    noise = torch.randn(count, WIDTH, *GRID, generator=torch.Generator().manual_seed(seed))
    return quadrants()[owner].permute(2, 0, 1) + 0.7 * noise, mask


def batch(*maps: Tensor) -> Batch:
    side = 16 * maps[-1].shape[2]
    return Batch(size=(side, side), pyramid=Pyramid(maps), ids=tuple(map(str, range(len(maps[0])))))


def toy(maps: Tensor, seed: int = 0, **options: Any) -> ProtoOT:
    """One set on one level of stride 16, learned from maps (N, WIDTH, 8, 8)."""
    spec = FeatureSpec((0,), (WIDTH,), (GRID,))
    method = ProtoOT(Config(**{**TOY, **options}), spec, (16 * SIDE, 16 * SIDE), seed)
    with torch.no_grad():
        method.observe(batch(maps))
        method.conclude()
    return method


def of_alpha(alpha: float, **options: Any) -> ProtoOT:
    maps, _ = world(40, seed=2)
    kind: dict[str, Any] = {"sets": "local", "alpha": alpha} if alpha else {"sets": "global"}
    return toy(maps, **kind, **options)


def coherence(method: ProtoOT) -> float:
    """Share of prototypes whose feature is that of their own quadrant."""
    seen = (method.sets[0].features @ F.normalize(quadrants()[:4], dim=1).T).argmax(1)
    return float((seen == quadrant_of(positions(GRID)).repeat(2)).double().mean())


def found(method: ProtoOT, spot: int) -> float:
    """Pixel AUROC of a patch that shows feature `spot`."""
    maps, mask = world(12, seed=3, spot=spot)
    costs = method.costs(batch(maps), method.sets[0])
    return float(auroc(mask.flatten().repeat(12).numpy(), costs.flatten().numpy()))


@pytest.fixture(scope="module")
def by_alpha() -> dict[float, ProtoOT]:
    return {alpha: of_alpha(alpha) for alpha in (0.0, 0.3, 0.7)}


def test_local_prototypes_see_what_is_misplaced_and_global_ones_do_not(by_alpha: dict[float, ProtoOT]) -> None:
    coherences = [coherence(method) for method in by_alpha.values()]
    misplaced = [found(method, spot=3) for method in by_alpha.values()]
    novel = [found(method, spot=4) for method in by_alpha.values()]
    assert coherences[0] < coherences[1] < coherences[2]
    assert coherences[0] < 0.45  # chance is a quarter
    assert coherences[2] > 0.9
    assert misplaced[0] < 0.6, "without places a part of another place has to look normal"
    assert misplaced[0] < misplaced[1] <= misplaced[2]
    assert misplaced[1] > 0.8
    assert misplaced[2] > 0.95
    assert min(novel) > 0.97


def test_global_prototypes_know_no_place(by_alpha: dict[float, ProtoOT]) -> None:
    maps, _ = world(4, seed=5)
    order = torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(6))
    shuffle = lambda x: x.flatten(2)[:, :, order].view(x.shape)  # noqa: E731
    for alpha, same in ((0.0, True), (0.3, False)):
        method = by_alpha[alpha]
        plain, moved = (method.costs(batch(x), method.sets[0]) for x in (maps, shuffle(maps)))
        assert torch.allclose(plain[:, order], moved, atol=1e-5) is same
    again = toy(shuffle(world(40, seed=2)[0]), sets="global")  # learned from moved images too
    plain, moved = by_alpha[0.0], again
    expected = plain.costs(batch(maps), plain.sets[0])[:, order]
    torch.testing.assert_close(moved.costs(batch(shuffle(maps)), moved.sets[0]), expected, rtol=0.01, atol=1e-3)


def several(kinds: int, count: int = 48) -> Tensor:
    """(count, WIDTH, 8, 8) of that many products in turn, whose cells show one feature each."""
    features = 2 * torch.randn(kinds, WIDTH, generator=torch.Generator().manual_seed(8))
    noise = torch.randn(count, WIDTH, *GRID, generator=torch.Generator().manual_seed(9))
    return features[torch.arange(count) % kinds][:, :, None, None] + 0.3 * noise


def test_what_varies_gets_more_prototypes() -> None:
    def layers(kinds: int, **options: Any) -> int:
        method = toy(several(kinds), sets="global", steps=2, layers_coarse=2, **{"variety": 0.2, **options})
        return len(method.places) // SIDE**2

    assert layers(1) == 2
    assert layers(3) > 2
    assert layers(8) == 16
    assert layers(8, most=4) == 4
    assert layers(8, variety=0.0) == 2


def test_a_few_images_are_not_counted_twice() -> None:
    method = toy(several(2, count=3), sets="global", steps=2, layers_coarse=2, variety=0.2)
    assert len(method.places) == 2 * SIDE**2, "one image to compare with tells nothing"


def test_alpha_of_one_sees_no_feature() -> None:
    method = of_alpha(1.0, steps=3)
    maps, _ = world(2, seed=5, spot=4)
    assert method.predict(batch(maps)).anomaly_map.abs().max() < 1e-6


def transport_loss(method: ProtoOT, maps: Tensor) -> float:
    """<G, M> of held-out images under what was learned."""
    only = method.sets[0]
    x = F.normalize(maps.flatten(2).transpose(1, 2), dim=2)
    cost = 1 - x @ only.features.T
    cost = (1 - only.kind.alpha) * cost / cost.max() + only.kind.alpha * only.spatial
    plan = sinkhorn(cost.flatten(0, 1), epsilon=0.01, iterations=300, tolerance=1e-3).plan
    return float((plan * cost.flatten(0, 1)).sum())


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_loss_on_held_out_images_falls_and_flattens(alpha: float, by_alpha: dict[float, ProtoOT]) -> None:
    held, _ = world(8, seed=7)
    losses = [transport_loss(of_alpha(alpha, steps=steps), held) for steps in (1, 8, 30)]
    losses.append(transport_loss(by_alpha[alpha], held))
    assert losses[0] > losses[1] > losses[2]
    assert abs(losses[2] - losses[3]) < 0.15 * (losses[0] - losses[2])


def unmoved(solver: str) -> int:
    """Prototypes that are still where chance has put them."""
    method = of_alpha(0.0, solver=solver)
    start = torch.rand(2 * SIDE * SIDE, WIDTH, generator=method._generator(method.kinds[0]))
    return int(((F.normalize(start, dim=1) * method.sets[0].features).sum(1) > 1 - 1e-5).sum())


def test_equal_mass_leaves_no_prototype_unused_and_the_nearest_alone_forget_many() -> None:
    assert unmoved("kernel") == 0
    assert unmoved("nearest") > 0.5 * 2 * SIDE * SIDE


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_solvers_learn_the_same(alpha: float) -> None:
    ours, theirs = (of_alpha(alpha, steps=6, tolerance=0.0, solver=name) for name in ("kernel", "pot"))
    similar = (ours.sets[0].features * theirs.sets[0].features).sum(1)
    assert similar.min() > 1 - 1e-4


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("norm", ["image", "frozen"])
def test_a_cell_costs_what_its_cheapest_prototype_costs(metric: str, norm: str) -> None:
    method = of_alpha(0.3, steps=5, metric=metric, norm=norm)
    only = method.sets[0]
    maps, _ = world(2, seed=8)
    costs = method.costs(batch(maps), only)
    for image, got in zip(maps, costs, strict=True):
        x = image.flatten(1).T
        if metric == "cosine":
            feature = 1 - F.cosine_similarity(x[:, None], only.features[None], dim=2)
        else:
            feature = (x[:, None] - only.features[None]).square().sum(2)
        feature = feature / (feature.max() if norm == "image" else only.largest)
        grid = positions(GRID)
        spatial = (grid[:, None] - grid.repeat(2, 1)[None]).norm(dim=2) / 2**0.5
        torch.testing.assert_close(got, (0.7 * feature + 0.3 * spatial).amin(1), rtol=1e-4, atol=1e-5)


SMALL: dict[str, Any] = {"steps": 10, "layers_coarse": 3}


def on_images(images: int = 12, **options: Any) -> ProtoOT:
    backbone = FakeBackbone()
    method = ProtoOT(Config(**{**SMALL, **options}), backbone.spec(SIZE), SIZE)
    learn(method, backbone, [good_image(i) for i in range(images)])
    return method


def test_maps_of_all_sets_are_averaged_and_the_score_is_the_peak_of_that(backbone: FakeBackbone) -> None:
    both = on_images(top=0.0)
    probe = batch_of(backbone, [good_image(50), defective_image(51)[0]])
    out = both(probe)
    assert [(k.level, k.alpha) for k in both.kinds] == [(i, a) for i in range(3) for a in (0.3, 0.0)]
    maps = []
    for only in both.sets:
        places = both.costs(probe, only).view(2, 1, *backbone.spec(SIZE).grids[only.kind.level])
        maps.append(F.interpolate(places, size=SIZE, mode="bilinear", align_corners=True)[:, 0])
    torch.testing.assert_close(out.anomaly_map, torch.stack(maps).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.score, out.anomaly_map.flatten(1).amax(1))
    assert (out.score < torch.stack([m.flatten(1).amax(1) for m in maps]).mean(0)).all()
    halves = [on_images(sets=kind)(probe).anomaly_map for kind in ("local", "global")]
    torch.testing.assert_close(sum(halves) / 2, out.anomaly_map)  # a set does not depend on which others there are


def test_levels_can_be_left_out() -> None:
    fine, coarse = on_images(layers_coarse=0), on_images(layers_fine=0)
    assert {k.level for k in fine.kinds} == {0, 1}
    assert {k.level for k in coarse.kinds} == {2}
    with pytest.raises(ConfigError, match="no level"):
        ProtoOT(Config(layers_coarse=0), FeatureSpec((0,), (WIDTH,), (GRID,)), (128, 128))


@pytest.mark.parametrize("options", [{}, {"norm": "frozen", "sets": "local", "top": 0.02, "sigma": 2.0}])
def test_the_graph_of_the_paper_s_metric_agrees(options: dict[str, Any], backbone: FakeBackbone) -> None:
    method = on_images(**options)
    graph = export.merge(backbone.graph(SIZE), export.export_head(method))
    golden = np.stack([good_image(100), defective_image(101)[0], good_image(102)])
    reference = export.reference_engine(backbone, method)
    certificate = export.certify(in_formats(graph), reference, golden)
    assert certificate["engines"]["openvino-f32"]["map"] < export.MAP_LIMIT
    for got, expected in zip(open_engine(graph, "onnxruntime")(golden), reference(golden), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_dropping_copies_changes_no_map(backbone: FakeBackbone) -> None:
    """Two images and eight layers: layers that start alike stay alike."""
    probe = batch_of(backbone, [good_image(60), defective_image(61)[0]])
    all_, without_copies = (on_images(images=2, layers_coarse=8, layers_fine=8, same=same) for same in (1.0, 0.999))
    assert all_.counts.sum() > 2.5 * without_copies.counts.sum()
    expected = all_(probe).anomaly_map
    torch.testing.assert_close(without_copies(probe).anomaly_map, expected, rtol=0, atol=0.02 * float(expected.max()))
    for only in without_copies.sets:
        if only.kind.alpha:  # no cell is left without a prototype, so the largest distance is that of the full grid
            assert len(torch.unique(only.spatial.argmin(0))) == only.spatial.shape[0]


def test_places_move_where_they_are_learned_and_alike_in_all_layers() -> None:
    maps, _ = world(12, seed=2)
    fixed = toy(maps, sets="local", steps=10)
    moved = toy(maps, sets="local", steps=10, structure="learned")
    grid = positions(GRID).repeat(2, 1)
    assert torch.equal(fixed.places, grid)
    assert not torch.allclose(moved.places, grid, atol=1e-3)
    assert torch.equal(moved.places[: SIDE * SIDE], moved.places[SIDE * SIDE :])
    assert moved.places.min() >= 0
    assert moved.places.max() <= 1


def test_data_start_is_made_of_training_embeddings() -> None:
    maps, _ = world(5, seed=2)
    for alpha in (0.0, 0.3):
        method = toy(maps, sets="local" if alpha else "global", steps=1, momentum=0.9999, init="data")
        near = (method.sets[0].features @ F.normalize(maps.half().float().transpose(1, 3).flatten(0, 2), dim=1).T).amax(
            1
        )
        assert near.min() > 1 - 1e-4


def test_batches_are_shuffled_epochs() -> None:
    batches = shuffled(10, 4, torch.Generator().manual_seed(0))
    drawn = [next(batches) for _ in range(6)]
    for first, second in zip(drawn[::2], drawn[1::2], strict=True):
        assert len(set(first + second)) == 8
    assert drawn[0] != drawn[2]
    assert sorted(next(shuffled(3, 16, torch.Generator()))) == [0, 1, 2]  # the only batch is never dropped


def test_a_reservoir_bounds_what_is_kept_and_favours_nobody() -> None:
    times = torch.zeros(30)
    maps = torch.arange(30.0)[:, None, None, None].expand(30, WIDTH, *GRID)
    for seed in range(300):
        spec = FeatureSpec((0,), (WIDTH,), (GRID,))
        method = ProtoOT(Config(**{**TOY, "keep": 6}), spec, (128, 128), seed)
        for part in maps.split(7):
            method.observe(batch(part))
        assert len(method._kept) == 6
        assert method._kept[0][0].dtype == torch.float16
        for image in method._kept:
            times[int(image[0][0, 0])] += 1
    assert times.sum() == 1800
    assert times.min() > 30  # 60 expected, with a deviation of 7
    assert times.max() < 90


def test_a_large_grid_gets_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, _ = world(8, seed=2)
    seen: list[int] = []
    monkeypatch.setattr("blemish.methods.protoot.LARGEST", 2 * 64 * 128)
    monkeypatch.setattr(
        "blemish.methods.protoot.sinkhorn", lambda cost, **o: seen.append(len(cost)) or sinkhorn(cost, **o)
    )
    toy(maps, sets="local", steps=2)
    assert seen == [128, 128]


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"layers_fine": 0, "layers_coarse": 0},
        {"layers_fine": -1},
        {"alpha": 0},
        {"momentum": 1},
        {"epsilon": 1e-3},
        {"neighbourhood": 2},
        {"top": 1.5},
        {"same": 0},
    ],
)
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)

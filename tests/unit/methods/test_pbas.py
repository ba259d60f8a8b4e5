"""PBAS: fakes along rays, gradients, centres, what folding changes (nothing), and which part is worth what in a toy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.errors import ConfigError
from blemish.evaluation.metrics import auroc
from blemish.learning import training
from blemish.methods.pbas import PBAS, Config
from blemish.nn.boundary import BoundaryDiscriminator, FoldedBoundary, PatchEmbedding
from blemish.types import Batch, FeatureSpec, Pyramid
from tests.fakes import SIZE, FakeBackbone, batch_of, defective_image, good_image, learn
from tests.unit.learning.test_training import Memory

GRID, WIDTH = (8, 8), 24


def spec_of(channels: tuple[int, ...], grids: tuple[tuple[int, int], ...]) -> FeatureSpec:
    return FeatureSpec(tuple(range(len(channels))), channels, grids)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def levels(spec: FeatureSpec, count: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    return tuple(
        drawn(count, c, *g, seed=seed + i) for i, (c, g) in enumerate(zip(spec.channels, spec.grids, strict=True))
    )


def batch(*maps: Tensor, size: tuple[int, int] = (64, 64)) -> Batch:
    return Batch(size=size, pyramid=Pyramid(maps), ids=tuple(map(str, range(len(maps[0])))))


class Kept:
    """Maps in memory as training samples."""

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps

    def __len__(self) -> int:
        return len(self.maps)

    def batch(self, indices: Any, generator: torch.Generator | None = None) -> Batch:
        return batch(self.maps[list(indices)])


def toy(maps: Tensor, seed: int = 0, plan: training.Plan | None = None, **options: Any) -> PBAS:
    """Learned from one level (N, WIDTH, 8, 8)."""
    usual: dict[str, Any] = {
        "neighbourhood": 1,
        "hidden": 32,
        "steps": 120,
        "share": 0.5,
        "rate": 5e-3,
        "boundary_rate": 1e-2,
        "standardise": True,
    }
    method = PBAS(Config(**{**usual, **options}), spec_of((WIDTH,), (GRID,)), (64, 64), seed)
    training.learn(method, Kept(maps), plan=plan)
    return method


def started(maps: Tensor, **options: Any) -> PBAS:
    """Centres are there, and nothing is learned yet."""
    method = PBAS(Config(**{"neighbourhood": 1, **options}), spec_of((WIDTH,), (GRID,)), (64, 64))
    with torch.no_grad():
        method.observe(batch(maps))
        method.conclude()
        method.begin(method.phases()[0], batches(maps))
    return method


def batches(maps: Tensor) -> Iterator[Batch]:
    return (batch(part) for part in torch.split(maps, 16))


def world(count: int, seed: int, spot: bool = False) -> tuple[Tensor, Tensor]:
    """(count, WIDTH, 8, 8) features that vary most in 6 dimensions, as the place says; a patch leaves these."""
    basis = torch.linalg.qr(drawn(WIDTH, WIDTH, seed=50)).Q
    place = 2 * F.interpolate(drawn(1, 6, 4, 4, seed=51), size=GRID, mode="bilinear")
    inside = place + 0.4 * drawn(count, 6, *GRID, seed=seed)
    maps = torch.einsum("cd,ndhw->nchw", basis[:, :6], inside) + 0.3 * drawn(count, WIDTH, *GRID, seed=seed + 1)
    mask = torch.zeros(count, *GRID, dtype=torch.bool)
    if spot:
        for i in range(count):
            y, x = (7 * i) % 6, (5 * i) % 6
            mask[i, y : y + 2, x : x + 2] = True
        off = torch.einsum("cd,nd->nc", basis[:, 6:], drawn(count, WIDTH - 6, seed=seed + 2))
        maps = maps + 1.5 * F.normalize(off, dim=1)[:, :, None, None] * mask[:, None]
    return maps, mask


def found(method: PBAS) -> float:
    """Image AUROC of good maps and such with a patch."""
    good, bad = world(40, 300)[0], world(40, 400, spot=True)[0]
    with torch.no_grad():
        scores = torch.cat([method(batch(good)).score, method(batch(bad)).score])
    return float(auroc(np.repeat([0, 1], 40), scores.numpy()))


def as_published(maps: tuple[Tensor, ...], grid: tuple[int, int], width: int) -> Tensor:
    """The paper's pooling step by step: windows, resizing, adaptive means over values, then over levels."""
    found = []
    for x in maps:
        windows = F.unfold(x, 3, padding=1).view(len(x), -1, *x.shape[2:])  # channel by channel, row by row inside
        windows = F.interpolate(windows, size=grid, mode="bilinear", align_corners=False)
        found.append(F.adaptive_avg_pool1d(windows.flatten(2).transpose(1, 2), width))
    return F.adaptive_avg_pool1d(torch.cat(found, 2), width).transpose(1, 2).unflatten(2, grid)


def test_faithful_pooling_is_that_of_the_paper() -> None:
    spec = spec_of((6, 10), ((8, 12), (4, 6)))
    maps = levels(spec)
    embedding = PatchEmbedding(spec.channels, spec.grids, 14, faithful=True)
    torch.testing.assert_close(embedding(maps), as_published(maps, (8, 12), 14), rtol=1e-4, atol=1e-5)


def test_plain_pooling_is_the_mean_of_the_neighbourhood() -> None:
    spec = spec_of((6, 10), ((8, 12), (4, 6)))
    maps = levels(spec)
    means = torch.cat([F.interpolate(F.avg_pool2d(x, 3, 1, 1), size=(8, 12), mode="bilinear") for x in maps], 1)
    torch.testing.assert_close(PatchEmbedding(spec.channels, spec.grids)(maps), means)
    narrow = F.adaptive_avg_pool1d(means.flatten(2).transpose(1, 2), 9).transpose(1, 2).unflatten(2, (8, 12))
    torch.testing.assert_close(PatchEmbedding(spec.channels, spec.grids, 9)(maps), narrow)


@pytest.mark.parametrize("centres", [1, 96])
@pytest.mark.parametrize("inside", [{}, {"placed": True}])
@pytest.mark.parametrize(
    "options", [{}, {"width": 9}, {"faithful": True}, {"faithful": True, "width": 20}, {"side": 1}]
)
def test_folding_changes_nothing(options: dict[str, Any], inside: dict[str, Any], centres: int) -> None:
    spec = spec_of((6, 10), ((8, 12), (4, 6)))
    embedding = PatchEmbedding(spec.channels, spec.grids, **options)
    width = embedding.width
    mean, spread = drawn(width, seed=3), drawn(width, seed=4).abs() + 0.3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        projection, discriminator = torch.nn.Linear(width, width), BoundaryDiscriminator(width, 12, **inside)
    bank = 2 * drawn(centres, width, seed=15)
    with torch.no_grad():
        for i, value in enumerate(
            (discriminator.norm.weight, discriminator.norm.bias, discriminator.norm.running_mean)
        ):
            value.copy_(drawn(12, seed=10 + i))
        discriminator.norm.running_var.copy_(drawn(12, seed=13).square() + 0.2)
        discriminator.last.weight.copy_(drawn(1, 12, seed=14))
        discriminator.eval()
        maps = levels(spec, 3)
        x = (embedding(maps).permute(0, 2, 3, 1) - mean) / spread
        t = projection(x)
        offset = t - bank.view(8, 12, -1) if centres > 1 else t - bank
        expected = discriminator(t.flatten(0, 2), offset.flatten(0, 2)).view(3, 8, 12)
        folded = FoldedBoundary(embedding, mean, spread, projection, discriminator, bank)
        torch.testing.assert_close(folded(maps), expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std()) > 0.1


def test_a_fake_lies_on_the_ray_a_share_of_the_radius_further_out() -> None:
    """f - c is parallel to t - c, and |f - t| = k r for each feature."""
    method = started(world(20, 1)[0], k=0.4)
    t = drawn(200, WIDTH, seed=5)
    centre = method.centres[torch.arange(200) % 64]
    offset = t - centre
    radius = offset.norm(dim=1).mean()
    fakes = method.fakes(t, offset, radius)
    assert (F.cosine_similarity(fakes - centre, offset) > 0.9999).all()
    torch.testing.assert_close((fakes - t).norm(dim=1), (0.4 * radius).expand(200), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((fakes - centre).norm(dim=1), offset.norm(dim=1) + 0.4 * radius, rtol=1e-4, atol=1e-5)


def test_other_directions_are_what_they_say() -> None:
    t, offset = drawn(4000, WIDTH, seed=5), drawn(4000, WIDTH, seed=6)
    maps = world(20, 1)[0]
    steps = started(maps, direction="random").fakes(t, offset, torch.tensor(3.0)) - t
    torch.testing.assert_close(steps.norm(dim=1), torch.full((4000,), 0.75), rtol=1e-4, atol=1e-5)
    assert abs(float(F.cosine_similarity(steps, offset).mean())) < 0.02
    noise = started(maps, direction="gaussian", noise=0.1).fakes(t, offset, torch.tensor(3.0)) - t
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)  # whatever the radius


def test_the_step_is_no_part_of_the_gradient() -> None:
    """A linear probe pulls the projection alike by features and by fakes: the step between them is a constant."""
    maps = world(20, 1)[0]
    method = started(maps)
    weights, probe = [*method.projection.parameters()], drawn(WIDTH, seed=7)
    seen: list[tuple[Tensor, ...]] = []
    inner = method.fakes

    def spy(t: Tensor, offset: Tensor, radius: Tensor) -> Tensor:
        fakes = inner(t, offset, radius)
        for points in (t, fakes):
            seen.append(torch.autograd.grad((points @ probe).sum(), weights, retain_graph=True))
        return fakes

    method.fakes = spy  # type: ignore[method-assign]
    method.generator.manual_seed(0)
    terms = method.loss(method.phases()[0], batch(maps[:4]), 0.0)
    for by_features, by_fakes in zip(*seen, strict=True):
        torch.testing.assert_close(by_fakes, by_features)
    assert not method.centres.requires_grad
    pulled = torch.autograd.grad(terms["centre"], weights, retain_graph=True)
    assert all(float(g.abs().sum()) > 0 for g in pulled)
    boundary = torch.autograd.grad(terms["fake"], weights)
    assert all(float(g.abs().sum()) > 0 for g in boundary)  # of fakes too: P learns of them


def test_losses_are_mean_distance_and_binary_cross_entropy() -> None:
    maps = world(20, 1)[0]
    method = started(maps, share=1.0, exact_assign=True)
    method.eval()
    with torch.no_grad():
        terms = method.loss(method.phases()[0], batch(maps[:4]), 0.0)
        x = (maps[:4].permute(2, 0, 3, 1).flatten(0, 2) - method.mean) / method.spread
        t = method.projection(x)
        centre = method.centres[F.cosine_similarity(t[:, None], method.centres[None], dim=2).argmax(1)]
        radius = (t - centre).norm(dim=1).mean()
        fakes = t + 0.25 * radius * F.normalize(t - centre, dim=1)
        place = method.centres.view(8, 1, 8, -1).expand(-1, 4, -1, -1).flatten(0, 2)
        good = torch.sigmoid(method.discriminator(t, t - place))
        fake = torch.sigmoid(method.discriminator(fakes, fakes - place))
    assert float(terms["centre"]) == pytest.approx(float(radius), rel=1e-4)
    assert float(terms["good"]) == pytest.approx(float(F.binary_cross_entropy(good, torch.zeros_like(good))), rel=1e-3)
    assert float(terms["fake"]) == pytest.approx(float(F.binary_cross_entropy(fake, torch.ones_like(fake))), rel=1e-3)


def shifted(count: int, seed: int) -> Tensor:
    """Maps of one pattern, each moved round by up to a few cells, with noise."""
    pattern = 2 * drawn(WIDTH, *GRID, seed=60)
    moves = np.random.default_rng(seed).integers(0, 8, (count, 2))
    maps = torch.stack([pattern.roll((int(y), int(x)), (1, 2)) for y, x in moves])
    return maps + 0.4 * drawn(count, WIDTH, *GRID, seed=seed)


def distance_to(method: PBAS, maps: Tensor) -> float:
    """Mean distance of fresh features to their centres."""
    with torch.no_grad():
        return float(method.distances(batch(maps)).mean())


def test_alignment_keeps_centres_near_where_positions_vary() -> None:
    """Nearer than means of each position, which blur, and than one image alone, whose noise they keep."""

    def apart(count: int, centres: str) -> float:
        return distance_to(started(shifted(count, 1), centres=centres, exact_assign=True, batch=1), shifted(8, 2))

    aligned = apart(32, "aligned")
    assert aligned < 0.5 * apart(32, "mean")
    assert aligned < 0.5 * apart(32, "single")
    assert aligned < 0.85 * apart(1, "aligned")


def test_a_mean_is_as_good_where_positions_do_not_vary() -> None:
    a, b = (distance_to(started(world(32, 1)[0], centres=c), world(8, 2)[0]) for c in ("aligned", "mean"))
    assert a == pytest.approx(b, rel=0.2)


def test_the_radius_falls_to_a_plateau_and_the_boundary_tells_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = world(64, 1)[0]
    radii: list[float] = []
    inner = PBAS.loss

    def spy(self: PBAS, phase: Any, batch: Batch, progress: float) -> dict[str, Tensor]:
        terms = inner(self, phase, batch, progress)
        radii.append(float(terms["centre"].detach()))
        return terms

    monkeypatch.setattr(PBAS, "loss", spy)
    method = toy(maps, k=0.5)
    late, later = np.mean(radii[80:100]), np.mean(radii[100:])
    assert late < 0.8 * np.mean(radii[:5])
    assert later > 0.8 * late
    assert later > 0.2  # no collapse
    with torch.no_grad():
        x = (maps.permute(2, 0, 3, 1) - method.mean) / method.spread
        t = method.projection(x)
        offset = (t - method.assigned(t, torch.arange(8))).flatten(0, 2)
        place = (t - method.centres.view(8, 1, 8, -1)).flatten(0, 2)
        t = t.flatten(0, 2)
        fakes = method.fakes(t, offset, offset.norm(dim=1).mean())
        assert float((method.discriminator(t, place) < 0).double().mean()) > 0.7
        assert float((method.discriminator(fakes, place + fakes - t) > 0).double().mean()) > 0.7


def test_each_part_is_worth_something_in_a_toy() -> None:
    """Of the method as it was published: the discriminator sees features alone, and its highest last logit scores."""
    maps, plain = world(64, 1)[0], {"place": False, "average": 0.0, "levels": "sum", "top": 0.0}

    def auroc_of(**options: Any) -> float:
        return found(toy(maps, **plain, **options))

    full = auroc_of()
    assert full > 0.85
    assert auroc_of(score="distance") < full - 0.1  # no RBO
    assert auroc_of(direction="random") < full - 0.1
    assert auroc_of(direction="gaussian") < full - 0.1
    assert auroc_of(constraint=False) < full - 0.05
    assert auroc_of(k=0.05) < full - 0.05


def test_the_discriminator_knows_the_centre_of_the_place() -> None:
    """One feature everywhere: only with the centres does it look different at different places."""
    maps = world(20, 1)[0]
    same = batch(maps[:2, :, :1, :1].expand(-1, -1, *GRID))
    with torch.no_grad():
        found = {place: started(maps, place=place).eval().logits(same) for place in (True, False)}
    assert float(found[True].std(dim=(1, 2)).min()) > 1e-2
    assert float(found[False].std(dim=(1, 2)).max()) < 1e-5


def test_what_lies_at_the_wrong_place_is_found_by_the_centre_of_the_place() -> None:
    """Each cell's features are good ones, of another row of the same image: nothing but the place is wrong."""
    maps, fresh = world(64, 1)[0], world(40, 300)[0]

    def apart(place: bool) -> float:
        method = toy(maps, place=place, levels="sum")
        with torch.no_grad():
            scores = [method.logits(batch(x)).mean((1, 2)) for x in (fresh, fresh.roll(3, 2))]
        return float(auroc(np.repeat([0, 1], 40), torch.cat(scores).numpy()))

    assert apart(True) > apart(False) + 0.1


def test_scores_are_counted_from_what_good_images_have_at_each_place() -> None:
    maps = world(64, 1)[0]
    means = {}
    for way in ("z", "sum"):
        method = toy(maps, levels=way, steps=10)
        with torch.no_grad():
            shown = method(batch(maps)).anomaly_map
        means[way] = float(shown.mean(0).abs().max() / shown.abs().max())
    assert means["z"] < 1e-2
    assert means["sum"] > 0.1


def test_weights_are_means_over_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, seen = world(20, 1)[0], []
    inner = PBAS.after

    def spy(self: PBAS, phase: Any, progress: float) -> None:
        seen.append([p.double().clone() for m in (self.projection, self.discriminator) for p in m.parameters()])
        inner(self, phase, progress)

    monkeypatch.setattr(PBAS, "after", spy)
    last: dict[float, int] = {0.0: 1, 0.25: 5, 0.9: 18}
    for average, count in last.items():
        seen.clear()
        method = toy(maps, steps=20, average=average)
        weights = [p for m in (method.projection, method.discriminator) for p in m.parameters()]
        for weight, steps in zip(weights, zip(*seen[-count:], strict=True), strict=True):
            torch.testing.assert_close(weight.double(), torch.stack(steps).mean(0), rtol=1e-4, atol=1e-6)


def test_the_batch_norm_is_measured_with_the_averaged_weights() -> None:
    """What it takes for the mean of the hidden units is theirs, of features and fakes alike."""
    maps = world(20, 1)[0]
    method = toy(maps, steps=20, share=1.0, rate=5e-2, boundary_rate=5e-2)
    with torch.no_grad():
        t, centre, place = method._drawn(batch(maps))
        fakes = method.fakes(t, t - centre, (t - centre).norm(dim=1).mean())
        both = torch.cat([t, fakes])
        d = method.discriminator
        hidden = d.first(both) + d.beside(both - torch.cat([place, place]))
    torch.testing.assert_close(d.norm.running_mean, hidden.mean(0), rtol=0.05, atol=0.05)
    torch.testing.assert_close(d.norm.running_var, hidden.var(0), rtol=0.1, atol=0.05)


def test_averages_resume_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = world(20, 1)[0]
    whole = toy(maps, steps=20)
    store = Memory()
    inner = PBAS.loss

    def dies(self: PBAS, phase: Any, batch: Batch, progress: float) -> dict[str, Tensor]:
        if round(progress * phase.steps) == 16:
            raise KeyboardInterrupt
        return inner(self, phase, batch, progress)

    with monkeypatch.context() as patched:
        patched.setattr(PBAS, "loss", dies)
        with pytest.raises(KeyboardInterrupt):
            toy(maps, plan=training.Plan(store=store, name="run", snapshot_every=0), steps=20)
    assert store.kept
    again = toy(maps, plan=training.Plan(store=store, name="run", snapshot_every=0), steps=20)
    found, expected = again.fitted_state(), whole.fitted_state()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_means_are_no_part_of_the_model() -> None:
    assert not [name for name in toy(world(20, 1)[0], steps=2).fitted_state() if "averages" in name]


@pytest.mark.parametrize("place", [True, False])
@pytest.mark.parametrize("score", ["discriminator", "distance"])
@pytest.mark.parametrize("centres", ["aligned", "single"])
def test_a_model_that_is_saved_scores_the_same(score: str, centres: str, place: bool, backbone: FakeBackbone) -> None:
    options: dict[str, Any] = {"steps": 20, "hidden": 16, "score": score, "centres": centres, "place": place}
    method = PBAS(Config(**options), backbone.spec(SIZE), SIZE)
    learn(method, backbone, [good_image(i) for i in range(6)])
    other = PBAS(Config(**options), backbone.spec(SIZE), SIZE, seed=1)
    other.load_fitted(method.fitted_state())
    seen = batch_of(backbone, [good_image(50), defective_image(51)[0]])
    assert torch.equal(method(seen).score, other(seen).score)
    assert torch.equal(method(seen).anomaly_map, other(seen).anomaly_map)
    assert ("centres" in method.fitted_state()) == (place or score == "distance")


def test_the_projection_and_the_discriminator_learn_at_their_own_pace(backbone: FakeBackbone) -> None:
    phase = PBAS(Config(), backbone.spec(SIZE), SIZE).phases()[0]
    assert phase.rate == Config.rate
    assert [(p.part, p.rate) for p in phase.paces] == [("discriminator", Config.boundary_rate)]
    alone = PBAS(Config(score="distance"), backbone.spec(SIZE), SIZE).phases()[0]
    assert alone.learns == ("projection",)


@pytest.mark.parametrize(
    ("size", "channels", "grids"),
    [
        ((224, 224), (40, 112), ((28, 28), (14, 14))),
        ((256, 256), (128, 256), ((32, 32), (16, 16))),
        ((288, 288), (40, 112, 320), ((36, 36), (18, 18), (9, 9))),
        ((96, 64), (6,), ((12, 8),)),
    ],
)
def test_shapes_follow_the_pyramid(
    size: tuple[int, int], channels: tuple[int, ...], grids: tuple[tuple[int, int], ...]
) -> None:
    spec = spec_of(channels, grids)
    method = PBAS(Config(steps=1, hidden=16), spec, size)
    maps = levels(spec)
    method.observe(batch(*maps, size=size))
    method.conclude()
    with torch.no_grad():
        out = method.eval().predict(batch(*maps, size=size))
    assert out.score.shape == (2,)
    assert out.anomaly_map.shape == (2, *size)


@pytest.mark.parametrize("top", [0.0, 0.1])
def test_score_is_that_of_the_highest_cells_before_the_blur(top: float) -> None:
    method = toy(world(20, 1)[0], steps=5, top=top)
    seen = batch(world(5, 2)[0])
    with torch.no_grad():
        out, cells = method.predict(seen), method.place_scores([method.logits(seen)])[0]
    every = cells.flatten(1).sort(1, descending=True).values
    torch.testing.assert_close(out.score, every[:, : 6 if top else 1].mean(1))


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"k": 0},
        {"rate": 0},
        {"momentum": 1},
        {"share": 0},
        {"neighbourhood": 2},
        {"top": 1},
        {"average": 1},
        {"window": -1},
        {"score": "distance", "constraint": False},
    ],
)
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)

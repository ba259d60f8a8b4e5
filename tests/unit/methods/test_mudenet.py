"""MuDeNet: receptive fields, who learns from whom, how maps are added, and two drawn worlds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.worlds import SWAPS, disc_and_square, stripes
from blemish import config
from blemish.data.synthesis.scenes import procedural_scene
from blemish.errors import ConfigError
from blemish.evaluation.metrics.ranking import auroc
from blemish.learning import export
from blemish.learning.training import Plan
from blemish.methods.base import HELD
from blemish.methods.mudenet import (
    GOOD,
    SCENES,
    TRUNK,
    TRUNKS,
    Config,
    MuDeNet,
    Target,
    _weights,
    distance_loss,
    draw_channels,
)
from blemish.nn.descriptors import DescriptorNet, GlobalAutoencoder
from blemish.nn.scoring import peak
from blemish.types import Batch
from tests.fakes import SIZE, FakeBackbone, FakeSamples, batch_of, defective_image, good_image, learn
from tests.tiny import in_formats

BRIEF = {**MuDeNet.brief, "distil_steps": 4, "steps": 4, "logical_steps": 4}
TOY = Config(
    teacher=SCENES,
    until="steps",
    scores="range",
    modules="equal",
    width=16,
    channels=12,
    latent=12,
    distil_steps=100,
    distil_batch=16,
    distil_rate=5e-3,
    rate=5e-3,
    steps=600,
    batch=16,
    logical_steps=600,
    logical_batch=16,
    crop=0,
    znorm="instance",
    standard=False,  # a random network's channels tell the same whatever their scale
)


def made(backbone: FakeBackbone, size: tuple[int, int] = SIZE, seed: int = 0, **options: Any) -> MuDeNet:
    return MuDeNet(config.build(Config, {**BRIEF, **options}), backbone.spec(size), size, seed)


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    return [good_image(i) for i in range(8)]


@pytest.fixture(scope="module")
def fitted(backbone: FakeBackbone, images: list[NDArray[np.uint8]]) -> MuDeNet:
    method = made(backbone)
    learn(method, backbone, images)
    return method


def drawn(net: nn.Module) -> nn.Module:
    """No weight is zero, none dead: whatever can be reached is."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.uniform_(module.weight, 0.01, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 1.0)
            nn.init.constant_(module.weight, 1.0)
    return net.eval()


@pytest.mark.parametrize(("name", "fields"), [("small", (15, 31, 63)), ("paper", (16, 32, 64))])
def test_receptive_fields(name: str, fields: tuple[int, ...]) -> None:
    """The gradient of one cell reaches a box of exactly that many pixels, from each map of one pass."""
    trunk = TRUNKS[name]
    assert trunk.fields == fields
    net = drawn(DescriptorNet(trunk, 2, 2, (0, 1, 2)))
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for level, field in zip(net(x), fields, strict=True):
        middle = level.shape[2] // 2
        (gradient,) = torch.autograd.grad(level[0, :, middle, middle].sum(), x, retain_graph=True)
        reached = gradient[0].abs().sum(0) > 0
        rows, columns = reached.any(1).nonzero(), reached.any(0).nonzero()
        assert int(rows.max() - rows.min()) + 1 == int(columns.max() - columns.min()) + 1 == field
        assert int(reached.sum()) == field**2


@pytest.mark.parametrize("size", [(256, 256), (240, 272), (48, 64), (96, 32)])
@pytest.mark.parametrize("name", ["small", "paper"])
def test_maps_are_aligned_and_the_autoencoder_has_a_bottleneck(name: str, size: tuple[int, int]) -> None:
    trunk = TRUNKS[name]
    grid = trunk.grid(size)
    assert grid == (size[0] // trunk.step, size[1] // trunk.step)
    x = torch.zeros(2, 3, *size)
    if size != (256, 256) or name == "small":  # the paper's own takes a second
        assert [m.shape for m in DescriptorNet(trunk, 4, 6, (0, 1, 2))(x)] == [(2, 6, *grid)] * 3
    whole = GlobalAutoencoder(size, grid, widths=(4, 4, 4, 4, 4), latent=5, channels=6, count=3)
    assert whole.latent(x).shape == (2, 5, 1, 1)
    assert [m.shape for m in whole(x)] == [(2, 6, *grid)] * 3


def test_the_papers_network_has_its_size() -> None:
    net = DescriptorNet(TRUNKS["paper"], 64, 128, (0, 1, 2))
    assert sum(p.numel() for p in net.parameters()) == 666_496


def test_a_corner_changes_the_autoencoder_everywhere_and_its_student_in_its_field(backbone: FakeBackbone) -> None:
    size = (256, 256)
    method = made(backbone, size)
    drawn(method.logical_student)
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    y = x.clone()
    y[:, :, :8, :8] += 3
    with torch.no_grad():
        for a, b in zip(method.autoencoder(x), method.autoencoder(y), strict=True):
            assert ((a - b).abs().amax(1) > 0).all()
        pairs = zip(method.logical_student(x), method.logical_student(y), TRUNKS["small"].fields, strict=True)
        for a, b, field in pairs:
            changed = (a - b).abs().amax((0, 1)) > 0
            reach = -(-(8 + field // 2) // 4)
            assert changed[:2, :2].all()
            assert not changed[reach:].any()
            assert not changed[:, reach:].any()


def test_shifted_by_a_cell_the_descriptors_shift(backbone: FakeBackbone) -> None:
    size = (160, 160)
    net = made(backbone, size).teacher.eval()
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for original, shifted, field in zip(net(x), net(x.roll((4, 4), (2, 3))), TRUNKS["small"].fields, strict=True):
            edge = field // 8 + 2
            inner = slice(edge, size[0] // 4 - edge)
            torch.testing.assert_close(
                shifted[..., inner, inner], original.roll((1, 1), (2, 3))[..., inner, inner], rtol=0, atol=1e-4
            )


def moved(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


@pytest.mark.parametrize("detach", [True, False])
def test_the_logical_students_loss_leaves_autoencoder_and_teacher_alone(backbone: FakeBackbone, detach: bool) -> None:
    method = made(backbone, detach=detach)
    terms = method.loss(method.phases()[2], batch_of(backbone, [good_image(0), good_image(1)]), 0.0)
    assert list(terms) == ["autoencoder", "logical"]
    terms["logical"].backward()
    assert moved(method.logical_student)
    assert moved(method.autoencoder) is not detach
    assert not moved(method.teacher)
    assert not moved(method.student)


def test_each_term_moves_its_own_network_and_their_sum_all(backbone: FakeBackbone) -> None:
    method = made(backbone)
    batch = batch_of(backbone, [good_image(0), good_image(1)])
    for phase, term, name in (
        (1, "structural", "student"),
        (2, "autoencoder", "autoencoder"),
        (2, "logical", "logical_student"),
    ):
        method.zero_grad()
        method.loss(method.phases()[phase], batch, 0.0)[term].backward()
        assert [n for n in MuDeNet.fitted_modules if moved(getattr(method, n))] == [name]


def test_the_teacher_does_not_change_after_its_phase(backbone: FakeBackbone, images: list[NDArray[np.uint8]]) -> None:
    """Nor its running statistics: with more steps of the second phase it is the same bit for bit, of any seed."""
    short, long = made(backbone, steps=0, logical_steps=0), made(backbone, steps=3, seed=5)
    before = {k: v.clone() for k, v in short.teacher.state_dict().items()}
    for method in (short, long):
        learn(method, backbone, images)
    after = short.teacher.state_dict()
    assert not torch.equal(before["stem.0.weight"], after["stem.0.weight"])
    for key, value in long.teacher.state_dict().items():
        assert torch.equal(value, after[key]), key
    assert not torch.equal(long.student.state_dict()["stem.0.weight"], short.student.state_dict()["stem.0.weight"])


def test_the_local_networks_learn_from_squares_at_the_same_place(backbone: FakeBackbone) -> None:
    """Of image and target, on the trunk's grid; a network sees in the square what it sees there in the image."""
    size = (96, 160)
    method = made(backbone, size, crop=64)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(40.0), indexing="ij")
    places = torch.stack([rows, columns]).expand(2, 2, 24, 40)
    seen = set()
    for seed in range(12):
        method.generator.manual_seed(seed)
        square, at = method.cut(x, places)
        row, column = (int(v) for v in at[0, :, 0, 0])
        assert square.shape == (2, 3, 64, 64)
        assert at.shape == (2, 2, 16, 16)
        assert torch.equal(square, x[:, :, 4 * row : 4 * row + 64, 4 * column : 4 * column + 64])
        seen.add((row, column))
        with torch.no_grad():
            inside, whole = method.teacher.eval()(square)[0], method.teacher(x)[0]
        expected = whole[:, :, row + 3 : row + 13, column + 3 : column + 13]
        torch.testing.assert_close(inside[:, :, 3:13, 3:13], expected, rtol=0, atol=1e-4)
    assert len(seen) > 6
    for crop in (0, 512):
        assert made(backbone, size, crop=crop).cut(x)[0].shape == x.shape


def test_losses_are_squared_distances_of_descriptors() -> None:
    a, b = [torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)], [torch.zeros(2, 5, 3, 4)] * 2
    expected = torch.stack([x.square().sum(1).mean() for x in a]).mean()
    torch.testing.assert_close(distance_loss(a, b), expected)
    hardest = torch.stack([x.square().flatten().sort().values[-12:].mean() * 5 for x in a]).mean()
    torch.testing.assert_close(distance_loss(a, b, 0.1), hardest)


def test_channels_are_drawn_equally_from_each_level_and_kept(backbone: FakeBackbone, fitted: MuDeNet) -> None:
    counts = (40, 112, 320)
    chosen = draw_channels(counts, 180, stratified=True)
    ends = torch.tensor([40, 152, 472])
    shares = [int(((chosen < e) & (chosen >= e - c)).sum()) for c, e in zip(counts, ends, strict=True)]
    assert shares == [40, 70, 70]  # the narrow level gives all it has
    assert torch.equal(chosen, chosen.unique())
    assert torch.equal(chosen, draw_channels(counts, 180, stratified=True))
    assert len(draw_channels(counts, 900, stratified=True)) == 472
    assert len(draw_channels(counts, 100, stratified=False)) == 100
    assert torch.equal(made(backbone, seed=7).target.drawn, fitted.target.drawn)
    assert torch.equal(fitted.fitted_state()["target.drawn"], fitted.target.drawn)


def test_the_target_is_standardised_per_image_or_over_the_pool(backbone: FakeBackbone) -> None:
    batch = batch_of(backbone, [good_image(i) for i in range(6)])
    assert batch.pyramid is not None
    trunk = TRUNKS["small"]
    every = Target(torch.arange(24), trunk, True).raw(batch)
    indices = (every.std((2, 3)).amin(0) > 0.1).nonzero()[:4, 0]  # some channels of the fake are dead
    each, pooled = (Target(indices, trunk, per_image) for per_image in (True, False))
    pooled.measure([batch])
    for values, axes in ((each(batch), (2, 3)), (pooled(batch), (0, 2, 3))):
        assert values.shape == (6, 4, 12, 16)
        torch.testing.assert_close(values.mean(axes), torch.zeros_like(values.mean(axes)), rtol=0, atol=1e-3)
        torch.testing.assert_close(values.std(axes), torch.ones_like(values.std(axes)), rtol=0.05, atol=0)
    levels = [nn.functional.interpolate(m, (12, 16), mode="bilinear") for m in batch.pyramid.maps]
    torch.testing.assert_close(each.raw(batch), torch.cat(levels, 1)[:, indices])
    assert torch.isfinite(each(batch_of(backbone, [np.zeros((*SIZE, 3), np.uint8)]))).all()


def test_distillation_brings_every_map_nearer_to_the_same_target(backbone: FakeBackbone) -> None:
    scenes = [good_image(1000 + i) for i in range(8)]
    errors: list[list[float]] = []  # of no steps and of some, by level
    for steps in (0, 60):
        method = made(backbone, distil_steps=steps, steps=0, logical_steps=0, distil_rate=6e-3)
        learn(method, backbone, scenes)
        batch = batch_of(backbone, scenes)
        assert batch.pyramid is not None
        assert batch.x is not None
        with torch.no_grad():
            target = method.target(batch)
            errors.append([float(distance_loss([target], [m])) for m in method.teacher(batch.x)])
    assert all(after < 0.8 * before for before, after in zip(*errors, strict=True))
    assert errors[1][0] > errors[1][2], "a wider field knows more of the target"


def test_the_pool_can_be_the_good_images(backbone: FakeBackbone) -> None:
    for pool in (SCENES, GOOD):
        phase = made(backbone, teacher=pool).phases()[0]
        assert (phase.data, phase.shared, phase.learns) == (pool, True, ("target", "teacher"))


class Fixed(nn.Module):
    """A network that gives the same maps whatever it sees."""

    def __init__(self, *maps: Tensor) -> None:
        super().__init__()
        self.maps = list(maps)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [m.expand(x.shape[0], *m.shape) for m in self.maps]


def scaled(method: MuDeNet, batch: Batch) -> Tensor:
    with torch.no_grad():
        return torch.stack(method.parts(batch))


def test_the_teachers_channels_are_standardised_over_the_good_images(
    backbone: FakeBackbone, images: list[NDArray[np.uint8]]
) -> None:
    """Before its student and the autoencoder learn them; the student's distance is that to the standardised maps."""
    method, plain = made(backbone), made(backbone, standard=False)
    for each in (method, plain):
        learn(each, backbone, images[:7])
    batch = batch_of(backbone, images[:7])
    with torch.no_grad():
        raw, maps = method._raw(batch), method.descriptors(batch)
        for level, (before, after) in enumerate(zip(raw, maps, strict=True)):
            mean, deviation = before.mean((0, 2, 3)), before.std((0, 2, 3), correction=0)
            torch.testing.assert_close(method.scaled.mean[level].flatten(), mean, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(method.scaled.deviation[level].flatten(), deviation, rtol=1e-2, atol=2e-4)
            expected = (before - method.scaled.mean[level]) / method.scaled.deviation[level]
            torch.testing.assert_close(after, expected)
        for before, after in zip(plain._raw(batch), plain.descriptors(batch), strict=True):
            torch.testing.assert_close(before, after)


def test_how_maps_are_added(backbone: FakeBackbone) -> None:
    """Equal maps give S = 2 n; and a module whose raw scores are all larger counts no more, once settled."""
    method = made(backbone, scores="range", modules="equal", distance="squared")
    method.scaled = nn.Identity()
    batch = batch_of(backbone, [good_image(0)])
    field, zero = torch.rand(1, 12, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 12, 16)
    method.teacher = method.autoencoder = Fixed(field, field, field)
    method.student = method.logical_student = Fixed(zero, zero, zero)
    method.place_scores.fix([(0.2, 0.5)] * 6)
    method.weights = torch.ones(2)
    n = (field.square() - 0.2) / 0.5
    structural, logical = scaled(method, batch)
    torch.testing.assert_close(structural + logical, 2 * n)
    method.settle([batch])
    before = scaled(method, batch)
    method.autoencoder = Fixed(*[5 * field] * 3)
    assert not torch.allclose(scaled(method, batch), before)
    method.settle([batch])
    torch.testing.assert_close(scaled(method, batch), before)
    method.config = replace(method.config, clamp=True)
    assert float(scaled(method, batch).max()) == 1
    torch.testing.assert_close(scaled(method, batch), before.clamp(0, 1))


def test_ranges_are_extremes_of_many_and_quantiles_of_few(backbone: FakeBackbone) -> None:
    method = made(backbone, scores="range")
    method.eval()
    for count in (24, 8):
        images = [good_image(i) for i in range(count)]
        batches = [batch_of(backbone, images[i : i + 6]) for i in range(0, count, 6)]
        with torch.no_grad():
            method.settle(iter(batches))
            maps = torch.stack(sum(method.differences(batch_of(backbone, images)), [])).flatten(1).double()
        low = torch.stack([method.place_scores.get_buffer(f"mean_{i}")[0, 0] for i in range(6)])
        high = low + torch.stack([method.place_scores.get_buffer(f"spread_{i}")[0, 0] for i in range(6)])
        ends = (maps.amin(1), maps.amax(1)) if count >= 20 else (maps.quantile(0.005, 1), maps.quantile(0.995, 1))
        torch.testing.assert_close(low, ends[0].float(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(high, ends[1].float(), rtol=1e-3, atol=1e-4)


def test_places_of_good_images_have_mean_zero_and_spread_one(
    backbone: FakeBackbone, images: list[NDArray[np.uint8]]
) -> None:
    """Of all good images, learned from or held out; a level whose differences are larger counts no more."""
    method = made(backbone, modules="equal")
    learn(method, backbone, images)
    batch = batch_of(backbone, images)
    with torch.no_grad():
        for m in method.place_scores(sum(method.differences(batch), [])):
            torch.testing.assert_close(m.mean(0), torch.zeros(12, 16), rtol=0, atol=2e-2)
            assert 0.8 < float(m.square().mean().sqrt()) < 1.2


def test_a_module_counts_by_what_its_scores_of_good_images_vary() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 4000, generator=generator).double() * torch.tensor([[1.0], [4.0]]).double() + 7
    weights = _weights(scores)
    assert float(weights[0] / weights[1]) == pytest.approx(4, rel=0.1)
    assert float(weights.mean()) == pytest.approx(1)
    few = _weights(scores[:, :3])
    assert 1 < float(few[0] / few[1]) < 2, "three images hardly tell a spread"
    assert torch.equal(_weights(scores[:1]), torch.ones(1))
    assert torch.equal(_weights(torch.zeros(2, 5)), torch.ones(2))


@pytest.mark.parametrize("modules", ["spread", "equal"])
def test_modules_are_weighted_once_settled_and_stay_switchable(
    backbone: FakeBackbone, images: list[NDArray[np.uint8]], modules: str
) -> None:
    method = made(backbone, modules=modules)
    learn(method, backbone, images)
    assert method.weights.shape == (2,)
    assert bool((method.weights == 1).all()) is (modules == "equal")
    batch = batch_of(backbone, [good_image(50)])
    with torch.no_grad():
        plain = method._scaled(method.differences(batch))
        for part, m, weight in zip(method.parts(batch), plain, method.weights, strict=True):
            torch.testing.assert_close(part, weight * m)


def test_students_learn_until_flat_and_the_teacher_does_not(backbone: FakeBackbone) -> None:
    flat = {phase.name: phase.flat for phase in made(backbone, until="flat").phases()}
    assert flat == {"distil": False, "structural": True, "logical": True}
    assert not any(phase.flat for phase in made(backbone, until="steps").phases())
    assert Config().until == "flat"
    assert MuDeNet.wants(Config()).held == HELD


def test_the_frozen_network_can_be_the_teacher(backbone: FakeBackbone, images: list[NDArray[np.uint8]]) -> None:
    """Then nothing is distilled, students learn its drawn channels, standardised, and inspection runs it."""
    size = (96, 160)
    method = made(backbone, size, teacher=TRUNK, crop=64)
    assert [phase.name for phase in method.phases()] == ["structural", "logical"]
    assert not list(method.teacher.parameters())
    learn(method, backbone, [good_image(i, size) for i in range(6)])
    batch = batch_of(backbone, [good_image(i, size) for i in range(6)])
    with torch.no_grad():
        maps = method.descriptors(batch)
        raw = method.target(batch)
    assert all(torch.equal(m, maps[0]) for m in maps)
    alive = raw.std((0, 2, 3)) > 1e-3
    expected = ((raw - raw.mean((0, 2, 3), keepdim=True)) / raw.std((0, 2, 3), keepdim=True))[:, alive]
    torch.testing.assert_close(maps[0][:, alive], expected, rtol=1e-2, atol=1e-2)
    method.generator.manual_seed(3)
    x, square = method._square(batch)
    method.generator.manual_seed(3)
    same_x, same = method.cut(batch.x, maps[0])  # type: ignore[arg-type]
    assert torch.equal(x, same_x)
    assert all(torch.equal(m, same) for m in square), "what it saw of the whole image"
    head = onnx.load_from_string(export.export_head(method))
    assert {port.name for port in head.graph.input} == {f"features_{i}" for i in range(4)}
    graph = export.merge(backbone.graph(size, image=True), export.export_head(method))
    golden = np.stack([good_image(50, size), defective_image(51, size)[0]])
    export.certify(in_formats(graph), export.reference_engine(backbone, method), golden)


def test_a_teacher_that_is_no_word_is_a_file() -> None:
    words = {SCENES: "", GOOD: "", TRUNK: "", "somewhere/teacher.safetensors": "somewhere/teacher.safetensors"}
    assert {word: MuDeNet.wants(Config(teacher=word)).artefact for word in words} == words
    with pytest.raises(ConfigError, match="teacher"):
        Config(teacher="")


def test_a_module_that_never_errs_does_not_blow_up(backbone: FakeBackbone) -> None:
    method = made(backbone)
    batch = batch_of(backbone, [good_image(0)])
    flat = torch.ones(1, 12, 16)
    method.teacher = method.student = Fixed(flat, flat, flat)
    method.autoencoder, method.logical_student = Fixed(*[2 * flat] * 3), Fixed(*[flat] * 3)
    for scores in ("range", "place"):
        method.config = replace(method.config, scores=scores)  # type: ignore[arg-type]
        method.measure([batch])
        method.settle([batch])
        assert torch.isfinite(scaled(method, batch)).all()
        assert all((method.place_scores.get_buffer(f"spread_{i}") > 0).all() for i in range(6))


@pytest.mark.parametrize(
    ("options", "empty"),
    [({"logical": False}, ["autoencoder", "logical_student"]), ({"structural": False}, ["student"])],
)
def test_a_module_can_be_left_out(backbone: FakeBackbone, options: dict[str, Any], empty: list[str]) -> None:
    method = made(backbone, **options, levels=(1,))
    learn(method, backbone, [good_image(i) for i in range(3)])
    assert [n for n in MuDeNet.fitted_modules if not getattr(method, n).state_dict()] == empty
    assert torch.isfinite(method(batch_of(backbone, [good_image(9)])).score).all()
    (part,) = scaled(method, batch_of(backbone, [good_image(9)]))
    assert part.any()
    assert torch.equal(method.weights, torch.ones(1))


def test_a_single_field_is_built_no_deeper_than_it_is(backbone: FakeBackbone) -> None:
    assert len(made(backbone, levels=(0,)).student.blocks) == 1
    assert list(made(backbone, levels=(1, 2)).student.heads) == ["1", "2"]


def test_the_frozen_network_is_not_run_at_inspection(backbone: FakeBackbone, fitted: MuDeNet) -> None:
    batch = batch_of(backbone, [good_image(50)])
    alone = fitted(replace(batch, pyramid=None))
    assert torch.equal(alone.anomaly_map, fitted(batch).anomaly_map)
    assert torch.equal(alone.score, peak(alone.anomaly_map, fitted.config.top))
    graph = export.merge(backbone.graph(SIZE, image=True), export.export_head(fitted))
    nodes = onnx.load_from_string(graph).graph.node
    assert not [n.name for n in nodes if n.op_type == "Conv" and not n.name.startswith("head/")]
    assert [n.name for n in nodes if n.op_type == "Conv"]


Draw = Callable[..., tuple[NDArray[np.uint8], NDArray[np.bool_]]]


def world(
    draw: Draw, size: tuple[int, int], kinds: tuple[str, ...], settings: Config, *, train: int = 48, each: int = 12
) -> tuple[MuDeNet, dict[str, Batch], dict[str, NDArray[np.bool_]]]:
    """A method that has learned a drawn world; test batches and masks by kind."""
    backbone, generator = FakeBackbone(), np.random.default_rng(0)
    method = MuDeNet(settings, backbone.spec(size), size, 0)
    good = [draw(generator, size)[0] for _ in range(train)]
    scenes = [procedural_scene(size, np.random.default_rng(i)) for i in range(64)]
    learn(method, backbone, good, Plan(scenes=FakeSamples(backbone, scenes, method.needs)))
    shown = {kind: [draw(generator, size, kind) for _ in range(each)] for kind in ("good", *kinds)}
    batches = {kind: batch_of(backbone, [x for x, _ in rows]) for kind, rows in shown.items()}
    return method, batches, {kind: np.stack([mask for _, mask in rows]) for kind, rows in shown.items()}


@pytest.mark.learns
def test_stripes_the_student_finds_a_blotch_and_the_smallest_field_shows_it_best() -> None:
    settings = replace(TOY, steps=150, batch=8, logical_steps=60, logical_batch=8, distance="squared")
    method, batches, masks = world(partial(stripes, blotch=6), (64, 64), ("blotch",), settings, train=32, each=8)
    with torch.no_grad():
        structural, _ = method.differences(batches["blotch"])
        spans = torch.stack([method.place_scores.get_buffer(f"spread_{i}") for i in range(3)])
        full = nn.functional.interpolate(torch.stack(structural, 1) / spans, (64, 64), mode="bilinear")
    both = full.mean(1).numpy()
    assert auroc(masks["blotch"].ravel(), both.ravel()) > 0.95
    sizes = []
    for first, last, mask in zip(full[:, 0], full[:, 2], masks["blotch"], strict=True):
        row, column = np.unravel_index(int(first.argmax()), (64, 64))
        assert mask[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].any()
        sizes.append([int((m > m.max() / 10).sum()) for m in (first, last)])
    narrow, wide = np.mean(sizes, 0)
    assert narrow < 0.85 * wide


@pytest.fixture(scope="module")
def objects() -> tuple[MuDeNet, dict[str, Batch]]:
    settings = replace(TOY, levels=(0, 1))  # fields of 15 and 31 pixels; the things are 17 wide and 32 apart
    method, batches, _ = world(disc_and_square, (32, 64), SWAPS, settings, train=160, each=12)
    return method, batches


@pytest.mark.learns
def test_disc_and_square_the_logical_module_knows_the_whole(objects: tuple[MuDeNet, dict[str, Batch]]) -> None:
    """Locally all is normal: the structural module hardly sees it, the logical one does, and adding keeps that."""
    method, batches = objects
    scores = {}
    for kind, batch in batches.items():
        structural, logical = scaled(method, batch)
        scores[kind] = [m.flatten(1).amax(1).numpy() for m in (structural, logical, structural + logical)]
    found = []
    for i in range(3):
        bad = np.concatenate([scores[kind][i] for kind in SWAPS])
        values, labels = np.concatenate([scores["good"][i], bad]), np.arange(12 + len(bad)) >= 12
        found.append(auroc(labels, values))
    structural, logical, fused = found
    assert logical > 0.9
    assert structural < logical - 0.1
    assert fused >= max(structural, logical) - 0.02


@pytest.mark.parametrize(
    "bad",
    [
        {"structural": False, "logical": False},
        {"levels": ()},
        {"levels": (2, 1)},
        {"levels": (3,)},
        {"hard": 1.0},
        {"latent": 0},
        {"steps": -1},
        {"rate": 0.0},
        {"crop": -1},
        {"top": 1.5},
    ],
)
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)

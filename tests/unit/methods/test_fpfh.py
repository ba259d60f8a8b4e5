"""Method fpfh: what the papers say of it, and what synthetic defects on drawn plates come to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.config import build
from blemish.data.synthesis.surface3d import SurfaceDefect, damage
from blemish.errors import ConfigError
from blemish.evaluation.metrics.ranking import auroc
from blemish.methods.fpfh import Config, Fpfh
from blemish.types import Batch, Cloud, FeatureSpec
from tests.fakes import CloudWorld, good_cloud

SPACING = 0.008
WORLD = CloudWorld()


def plate(seed: int, count: int = 3600) -> Cloud:
    """A ribbed plate, 1 across, scanned with noise from above."""
    generator = np.random.default_rng(seed)
    side = round(count**0.5)
    u, v = (np.stack(np.divmod(np.arange(side**2), side)) + generator.uniform(0, 1, (2, side**2))) * 0.7 / side
    z = 0.02 * np.cos(5 * u) + 0.01 * np.tanh(40 * (np.abs(v - 0.35) - 0.12)) + generator.normal(0, 0.0008, len(u))
    points = np.stack([u, v, z], 1)
    return Cloud(points, np.tile([0.0, 0.0, 1.0], (len(points), 1)))


def sample(cloud: Cloud) -> NDArray[np.float32]:
    assert cloud.normals is not None
    return np.concatenate([cloud.points, cloud.normals], 1).astype(np.float32)


def batch(*clouds: Cloud) -> Batch:
    x = np.stack([sample(cloud) for cloud in clouds])
    return Batch(size=(x.shape[1],), x=x, ids=tuple(map(str, range(len(clouds)))))


def method(**options: Any) -> Fpfh:
    return Fpfh(build(Config, options), FeatureSpec((), (), (), inputs=6, spacing=SPACING), (0,))  # type: ignore[arg-type]


def fitted(*clouds: Cloud, **options: Any) -> Fpfh:
    made = method(**options)
    made.observe(batch(*clouds))
    made.conclude()
    return made


@pytest.fixture(scope="module")
def bank() -> Fpfh:
    return fitted(*(plate(i) for i in range(3)), voxel=0.016)


def with_defect(seed: int, **options: Any) -> tuple[Cloud, NDArray[np.bool_]]:
    """The whole plate under the noise's blobs: no window, as the bare idea has it."""
    made = damage(
        plate(1000 + seed),
        SurfaceDefect(**{"radius": 0.0, "sign": "bulge", "noise": 0.0008, **options}),
        np.random.default_rng(3),
    )
    return made.cloud, made.labels > 0


def found(bank: Fpfh, **options: Any) -> float:
    """Point AUROC of one kind of defect."""
    clouds, labels = zip(*(with_defect(k, **options) for k in range(2)), strict=True)
    maps = bank(batch(*clouds)).anomaly_map
    return float(auroc(np.concatenate(labels).astype(int), maps.reshape(-1)))


def test_stronger_and_finer_defects_are_found_better_and_both_ways_alike(bank: Fpfh) -> None:
    by_strength = [found(bank, strength=a, scale=2.0, octaves=4) for a in (0.003, 0.01, 0.03)]
    assert by_strength[0] < by_strength[1] < by_strength[2]
    assert by_strength[1] > 0.8
    assert by_strength[2] > 0.95
    assert found(bank, strength=0.01, scale=2.0, octaves=1) < by_strength[1] - 0.1
    sunk = found(bank, strength=0.01, scale=2.0, octaves=4, sign="sink")
    assert sunk == pytest.approx(by_strength[1], abs=0.03)


def test_a_defect_of_strength_0_is_none(bank: Fpfh) -> None:
    clouds = [plate(2000 + k) for k in range(3)]
    made = [damage(cloud, SurfaceDefect(strength=0.0), np.random.default_rng(k)) for k, cloud in enumerate(clouds)]
    assert not any(m.labels.any() for m in made)
    before, after = bank(batch(*clouds)), bank(batch(*(m.cloud for m in made)))
    assert np.array_equal(before.score, after.score)
    scores = np.concatenate([before.score, after.score])
    assert auroc(np.repeat([0, 1], 3), scores) == 0.5


def test_a_motion_changes_no_score(bank: Fpfh) -> None:
    cloud, _ = with_defect(0, strength=0.02)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    assert cloud.normals is not None
    other = Cloud(cloud.points @ turn.T, cloud.normals @ turn.T)
    a, b = bank(batch(cloud)), bank(batch(other))
    assert float(b.score[0]) == pytest.approx(float(a.score[0]), rel=0.02)
    assert float(np.abs(a.anomaly_map - b.anomaly_map).mean()) < 0.02 * float(a.anomaly_map.mean())


def test_the_voxel_follows_part_and_scan() -> None:
    assert method()._voxel == pytest.approx(1.5 * SPACING)  # 0.012 and not the 0.01 of the part
    assert method(voxel=0.05)._voxel == 0.05
    assert method(spacings=0)._voxel == 0.01
    made = fitted(plate(0, 900), voxel=0.04)
    assert float(made.voxel) == 0.04
    assert made.fitted_state()["voxel"].dtype == np.float64


def test_switches_change_what_they_say() -> None:
    clouds = [plate(i, 900) for i in range(2)]
    cloud, _ = with_defect(0, strength=0.02)
    probe = batch(Cloud(cloud.points[::4], cloud.normals[::4]))  # type: ignore[index]
    base = {"voxel": 0.035}
    plain = fitted(*clouds, **base)
    out = plain(probe)
    assert not np.array_equal(fitted(*clouds, **base, fast=False)(probe).score, out.score)
    assert not np.array_equal(fitted(*clouds, **base, radius=4.0)(probe).score, out.score)
    point = fitted(*clouds, **base, score="point")(probe)
    assert np.array_equal(point.anomaly_map, out.anomaly_map)
    assert point.score > out.score  # the farthest point is farther than any mean of neighbours
    assert fitted(*clouds, **base, top=20)(probe).score < out.score
    weighed = fitted(*clouds, **base, neighbours=3)(probe)
    assert weighed.score < out.score  # its weight is below 1
    sharp = fitted(*clouds, **base, sigma=0.0)(probe)
    assert sharp.anomaly_map.std() > out.anomaly_map.std()
    assert len(fitted(*clouds, **base, bank=20).memory) == 20


def test_chunks_that_are_merged_and_a_bank_that_is_recalled() -> None:
    clouds = [good_cloud(i) for i in range(4)]
    spec, size = WORLD.spec(WORLD.size), (900,)
    parts = []
    for half in (clouds[:2], clouds[2:]):
        parts.append(Fpfh(Config(), spec, size))  # type: ignore[arg-type]
        parts[-1].observe(WORLD.batch(half))
    parts[0].merge(parts[1])
    parts[0].conclude()
    whole = Fpfh(Config(), spec, size)  # type: ignore[arg-type]
    whole.observe(WORLD.batch(clouds))
    whole.conclude()
    assert np.array_equal(whole.memory, parts[0].memory)
    probe = WORLD.batch([WORLD.defective(9)[0]])
    before = whole(probe)
    again = Fpfh(Config(), spec, size)  # type: ignore[arg-type]
    again.load_fitted(whole.fitted_state())
    again.recall(4)
    again.observe(WORLD.batch([WORLD.defective(9)[0]] * 2))  # from now on it is normal
    again.conclude()
    assert len(again.memory) > len(whole.memory)
    assert again(probe).score < 0.7 * before.score
    every = Fpfh(Config(coreset_ratio=1.0), spec, size)  # type: ignore[arg-type]
    every.observe(WORLD.batch(clouds[:2]))
    every.conclude()
    known = {tuple(row) for row in (every.memory + every.centre).round().tolist()}
    every.recall(2)
    every.observe(WORLD.batch(clouds[2:]))
    every.conclude()
    assert known <= {tuple(row) for row in (every.memory + every.centre).round().tolist()}  # nothing is forgotten


@pytest.mark.parametrize(
    "options",
    [{"voxel": 0}, {"voxel": 0.5}, {"radius": 0}, {"normal_points": 2}, {"coreset_ratio": 0}, {"bank": 0}, {"top": 0}],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(Config, options)

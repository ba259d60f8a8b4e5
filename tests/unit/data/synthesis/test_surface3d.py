"""Defects of surfaces: what moves, where to, who is labelled, and what stays to the bit."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from blemish.data.synthesis.surface3d import PRESETS, Made, SurfaceDefect, damage, options_of
from blemish.errors import ConfigError, DataError
from blemish.types import Cloud

pytestmark = pytest.mark.slow

pytest.importorskip("scipy", reason="scipy is not installed: pip install 'blemish[3d]'")
BIG = {"radius": 0.3, "strength": 0.03}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def plate(count: int = 6000, kind: Any = np.float64, normals: bool = False) -> Cloud:
    """A bent plate of 1 by 0.7, with exact normals where asked."""
    x, y = rng(1).uniform((0, 0), (1, 0.7), (count, 2)).T
    points = np.stack([x, y, 0.06 * np.sin(5 * x) + 0.03 * y**2], 1).astype(kind)
    slope = np.stack([-0.3 * np.cos(5 * x), -0.06 * y, np.ones(count)], 1)
    return Cloud(points, slope / np.linalg.norm(slope, axis=1, keepdims=True) if normals else None)


def ball(count: int = 8000) -> Cloud:
    """An egg, so that it has a longest side and no symmetry between its ends."""
    points = rng(2).standard_normal((count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return Cloud(points * [1.5 + 0.2, 1, 0.8] + np.stack([0.3 * points[:, 0] ** 2, *np.zeros((2, count))], 1))


def made(cloud: Cloud, seed: int = 0, **options: Any) -> Made:
    return damage(cloud, SurfaceDefect(**options), rng(seed))


def moves(before: Cloud, after: Made) -> np.ndarray:
    return after.cloud.points.astype(np.float64) - before.points.astype(np.float64)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("sign", ["bulge", "sink"])
def test_points_move_along_their_normals_and_no_farther_than_the_strength(kind: Any, sign: str) -> None:
    cloud = plate(kind=kind, normals=True)
    result = made(cloud, sign=sign, clamp=False, **BIG)
    step, moved = moves(cloud, result), result.labels == 1
    assert moved.sum() > 50
    length = np.linalg.norm(step[moved], axis=1)
    cosine = (step[moved] * cloud.normals[moved]).sum(1) / length
    assert (cosine * (1 if sign == "bulge" else -1)).min() > 0.999
    assert not step[~moved].any()
    most = 0.03 * result.record["diagonal"]
    assert 0.95 * most < length.max() < most * (1 + 1e-5)


def test_without_a_window_the_strength_is_reached_too() -> None:
    cloud = plate(normals=True)
    for options in ({"radius": 0}, {"mode": "global"}):
        result = made(cloud, strength=0.02, clamp=False, **options)
        most = 0.02 * result.record["diagonal"]
        assert np.linalg.norm(moves(cloud, result), axis=1).max() <= most * (1 + 1e-9)
    assert np.linalg.norm(moves(cloud, made(cloud, strength=0.02, clamp=False, radius=0)), axis=1).max() > 0.95 * most


def test_labels_are_what_moved_farther_than_a_quarter_of_the_spacing() -> None:
    cloud = plate(kind=np.float32)
    result = made(cloud, **BIG)
    length = np.linalg.norm(moves(cloud, result), axis=1)
    assert np.array_equal(result.labels == 1, length > result.record["limit"])
    assert result.record["limit"] == pytest.approx(result.record["spacing"] / 4)
    assert np.abs(result.displacement) == pytest.approx(length, rel=1e-4, abs=1e-9)
    assert np.array_equal(result.component > 0, result.labels == 1)
    assert result.cloud.points[result.labels == 0].tobytes() == cloud.points[result.labels == 0].tobytes()
    coarse = made(cloud, noise=0.01, **BIG)
    assert 0 < coarse.labels.sum() < result.labels.sum()
    assert np.linalg.norm(moves(cloud, coarse), axis=1)[coarse.labels == 1].min() > 0.01


@pytest.mark.parametrize("options", [{}, {"mode": "global"}, {"radius": 0.0}])
def test_no_strength_is_no_defect(options: dict[str, Any]) -> None:
    cloud = plate(kind=np.float32, normals=True)
    result = made(cloud, strength=0.0, **options)
    assert result.cloud.points.tobytes() == cloud.points.tobytes()
    assert result.cloud.normals.tobytes() == cloud.normals.tobytes()
    assert not result.labels.any()
    assert not result.displacement.any()
    assert result.record["moved"] == 0


def turned(cloud: Cloud, factor: float = 1.0) -> Cloud:
    matrix, _ = np.linalg.qr(rng(7).standard_normal((3, 3)))
    matrix *= np.sign(np.linalg.det(matrix))
    return replace(cloud, points=factor * cloud.points @ matrix.T + [3.0, -1.0, 0.5])


@pytest.mark.parametrize("make", [plate, ball])
@pytest.mark.parametrize("plane", ["pca", "local", "cylinder"])
def test_a_part_that_is_turned_and_moved_gets_the_same_defect(make: Any, plane: str) -> None:
    cloud = make()
    first, second = (made(c, plane=plane, sign="bulge", **BIG) for c in (cloud, turned(cloud)))
    assert first.labels.sum() > 50
    assert np.array_equal(first.labels, second.labels)
    assert np.abs(second.displacement) == pytest.approx(np.abs(first.displacement), abs=1e-6)


def test_the_unit_of_the_file_changes_nothing() -> None:
    cloud = ball()
    first, second = (made(c, sign="sink", **BIG) for c in (cloud, replace(cloud, points=cloud.points * 1000)))
    assert np.array_equal(first.labels, second.labels)
    assert second.displacement == pytest.approx(1000 * first.displacement, rel=1e-4)
    raw = [made(c, scale_units="raw", **BIG) for c in (cloud, replace(cloud, points=cloud.points * 2))]
    assert not np.array_equal(raw[0].labels, raw[1].labels)


def test_the_same_generator_gives_the_same_bits_and_another_another_defect() -> None:
    cloud = plate()
    first, second, other = (made(cloud, seed) for seed in (0, 0, 1))
    assert first.cloud.points.tobytes() == second.cloud.points.tobytes()
    assert first.record == second.record
    assert not np.array_equal(first.labels, other.labels)


@pytest.mark.slow
def test_strength_is_depth_scale_is_fineness_and_octaves_are_roughness() -> None:
    cloud = plate(20_000, normals=True)

    @cache
    def records(**options: Any) -> list[dict[str, Any]]:
        return [made(cloud, seed, **options).record for seed in range(3)]

    def mean(what: str, **options: Any) -> float:
        values = {"radius": 0.25, "strength": 0.02, "sign": "bulge", "octaves": 1, **options}
        return float(np.mean([record[what] for record in records(**values)]))

    depths = [mean("depth", strength=s) for s in (0.005, 0.01, 0.02)]
    assert depths[1] / depths[0] == pytest.approx(2, rel=0.02)
    assert depths[2] / depths[1] == pytest.approx(2, rel=0.02)
    shares = [mean("share", scale=s) for s in (2, 4, 8)]
    assert shares[0] > shares[1] > shares[2] > 0
    assert mean("roughness", scale=2) < mean("roughness", scale=4) < mean("roughness", scale=8)
    assert mean("roughness", octaves=1) < mean("roughness", octaves=3) < mean("roughness", octaves=5)
    assert mean("share", tau=0.3) > mean("share", tau=0.6) > mean("share", tau=0.85)


def test_the_place_depends_on_neither_scale_nor_strength_and_can_be_named() -> None:
    cloud = plate()
    centres = [made(cloud, **options).record["centre"] for options in ({}, {"scale": 9.0}, {"strength": 0.001})]
    assert centres[0] == centres[1] == centres[2]
    result = made(cloud, at=(0.5, 0.35, 0.06 * np.sin(2.5) + 0.03 * 0.35**2), radius=0.1)
    middle = cloud.points[result.labels == 1].mean(0)
    assert np.linalg.norm(middle[:2] - [0.5, 0.35]) < 0.05


def test_the_window_holds_the_defect_and_the_guard_keeps_the_far_side_whole() -> None:
    cloud = ball()
    result = made(cloud, radius=0.1, strength=0.02)
    centre, side = np.array(result.record["centre"]), np.ptp(cloud.points, axis=0).max()
    flat = cloud.points[result.labels == 1] - centre
    assert np.sort(np.linalg.norm(flat, axis=1))[-1] < 2.5 * 0.1 * side
    folded = made(cloud, radius=0, guard=False, strength=0.02)
    one_side = made(cloud, radius=0, strength=0.02)

    def both(result: Made) -> float:
        """The smaller share of the two sides of the plane, the third direction of the egg."""
        above = (cloud.points[result.labels == 1][:, 2] > 0).mean()
        return float(min(above, 1 - above))

    assert both(folded) > 0.3
    assert both(one_side) == 0


def test_an_estimated_outside_is_outside() -> None:
    cloud = ball()
    for plane in ("pca", "local", "cylinder"):
        result = made(cloud, sign="bulge", plane=plane, **BIG)
        moved = result.labels == 1
        outward = (moves(cloud, result)[moved] * (cloud.points[moved] / [1.7, 1, 0.8] ** np.int64(2))).sum(1)
        assert moved.sum() > 50
        assert (outward > 0).all()
        assert result.record["normals"] == "estimated"


def test_a_camera_decides_where_the_outside_is() -> None:
    cloud = replace(plate(), viewpoint=(0.5, 0.3, -5.0))
    result = made(cloud, sign="bulge", **BIG)
    assert result.record["normals"] == "camera"
    assert moves(cloud, result)[result.labels == 1][:, 2].max() < 0


def test_rows_that_are_no_points_stay_as_they_are() -> None:
    x, y = np.meshgrid(np.linspace(0, 1, 60), np.linspace(0, 1, 50))
    points = np.stack([x, y, 1 + 0.1 * np.sin(4 * x)], 2).astype(np.float32).reshape(-1, 3)
    points[::7] = 0
    points[5] = np.nan
    cloud = Cloud(points, shape=(50, 60), viewpoint=(0.0, 0.0, 0.0), fields={"grey": np.arange(3000)})
    result = made(cloud, **BIG)
    assert result.labels.any()
    assert not result.labels[~cloud.valid].any()
    assert result.cloud.points[~cloud.valid].tobytes() == points[~cloud.valid].tobytes()
    assert result.cloud.shape == (50, 60)
    assert np.array_equal(result.cloud.fields["grey"], np.arange(3000))
    assert result.record["points"] == cloud.valid.sum()


def test_normals_of_moved_points_are_made_anew_and_others_kept() -> None:
    cloud = plate(20_000, normals=True)
    result = made(cloud, strength=0.04, radius=0.2, octaves=1)
    moved = result.labels == 1
    assert result.cloud.normals[~moved].tobytes() == cloud.normals[~moved].tobytes()
    assert np.linalg.norm(result.cloud.normals, axis=1) == pytest.approx(1, abs=1e-6)
    turn = np.degrees(np.arccos(np.clip((result.cloud.normals[moved] * cloud.normals[moved]).sum(1), -1, 1)))
    assert 5 < turn.mean() < 60
    assert made(plate()).cloud.normals is None


def test_a_sheet_is_not_pushed_through_itself() -> None:
    x, y = rng(3).uniform(0, 1, (2, 4000))
    top, bottom = np.stack([x, y, 0 * x + 0.02], 1), np.stack([x, y, 0 * x], 1)
    up = np.tile([0.0, 0, 1], (4000, 1))
    cloud = Cloud(np.concatenate([top, bottom]), np.concatenate([up, -up]))
    free, held = (made(cloud, sign="sink", strength=0.05, clamp=c, at=(0.5, 0.5, 0.02)) for c in (False, True))
    assert free.cloud.points[:4000, 2].min() < 0
    assert held.labels[:4000].any()
    assert held.cloud.points[:4000, 2].min() > 0
    assert not held.labels[4000:].any()


def test_a_hollow_is_not_filled_until_it_folds() -> None:
    angle, z = rng(4).uniform(0, 2 * np.pi, 9000), rng(5).uniform(0, 6, 9000)
    inward = -np.stack([np.cos(angle), np.sin(angle), 0 * z], 1)
    cloud = Cloud(np.stack([np.cos(angle), np.sin(angle), z], 1), inward)
    free, held = (made(cloud, sign="bulge", strength=0.12, clamp=c, octaves=1) for c in (False, True))
    assert np.abs(free.displacement).max() > 0.7
    assert np.abs(held.displacement).max() == pytest.approx(0.5, rel=0.1)  # half of the pipe's radius


def test_a_stretched_noise_is_long_and_thin() -> None:
    from scipy.spatial import cKDTree

    cloud = plate(20_000, normals=True)
    near = cKDTree(cloud.points).query(cloud.points[:2000], k=12)[1]

    def slim(**options: Any) -> float:
        """How much steeper the displacement is across than along."""
        height = made(cloud, mode="global", scale=10.0, octaves=1, clamp=False, noise=1e-9, **options).displacement
        steps = cloud.points[near][:, 1:, :2] - cloud.points[near][:, :1, :2]
        rises = height[near][:, 1:] - height[near][:, :1]
        slopes = np.stack([np.linalg.lstsq(s, r, rcond=None)[0] for s, r in zip(steps, rises, strict=True)])
        low, high = np.linalg.eigvalsh(slopes.T @ slopes)
        return float(np.sqrt(high / low))

    assert slim() < 1.5
    assert slim(stretch=8.0) > 4


def test_noise_on_a_grid_and_at_the_points_agree_where_the_grid_is_fine() -> None:
    cloud = plate()
    grid, exact = (made(cloud, sign="bulge", sample=s, resolution=1024, **BIG) for s in ("grid", "points"))
    assert np.abs(grid.displacement - exact.displacement).max() < 0.03 * grid.record["depth"]


def test_signs_by_lot_are_one_for_each_blob() -> None:
    cloud = plate(20_000)
    result = made(cloud, scale=8.0, octaves=1, radius=0, tau=0.7, strength=0.02)
    signs = [set(np.sign(result.displacement[result.component == c]).tolist()) for c in range(1, 8)]
    assert all(len(one) == 1 for one in signs)
    assert set().union(*signs) == {-1.0, 1.0}


@pytest.mark.parametrize("preset", [*PRESETS, "random"])
def test_every_preset_makes_a_defect(preset: str) -> None:
    result = damage(plate(20_000), options_of(preset, {}, rng(0)), rng(0))
    assert result.labels.any()
    assert preset == "warp" or 0.001 < result.record["share"] < 0.2
    if preset in ("dent", "scratch"):
        assert result.displacement.max() == 0
    if preset == "bump":
        assert result.displacement.min() == 0


def test_given_options_win_over_presets_and_random_ones_stay_in_their_ranges() -> None:
    assert options_of("dent", {"scale": 7.0}, rng()).scale == 7
    drawn = [options_of("random", {}, rng(seed)) for seed in range(40)]
    assert all(2 <= o.scale <= 16 and 0.003 <= o.strength <= 0.03 and 1 <= o.octaves <= 5 for o in drawn)
    assert len({o.octaves for o in drawn}) == 5
    with pytest.raises(ConfigError, match="no preset 'dnt'") as error:
        options_of("dnt", {}, rng())
    assert error.value.hint == "did you mean 'dent'?"


@pytest.mark.parametrize(
    "bad",
    [{"scale": 0.0}, {"strength": -0.1}, {"octaves": 0}, {"tau": 1.0}, {"radius": float("nan")}, {"stretch": 0.5}],
)
def test_options_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"option '{next(iter(bad))}'"):
        SurfaceDefect(**bad)


def test_a_grid_that_would_be_too_large_is_refused() -> None:
    for sample, scale in (("grid", 300.0), ("points", 1200.0)):
        with pytest.raises(ConfigError, match="finer than a grid of 2048 nodes"):
            made(plate(), scale=scale, octaves=2, sample=sample)
    assert made(plate(), scale=300.0, octaves=2, sample="points").record["points"] == 6000


def test_too_few_points_and_points_without_extent_are_refused() -> None:
    with pytest.raises(DataError, match="holds 10 points"):
        made(plate(10))
    with pytest.raises(DataError, match="in one place"):
        made(Cloud(np.ones((200, 3))))
    with pytest.raises(DataError, match="holds 0 points"):
        made(Cloud(np.full((200, 3), np.nan)))

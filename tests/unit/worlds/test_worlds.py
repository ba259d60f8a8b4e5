"""Drawn worlds: their rules hold in good images, one is broken in anomalous ones, and the masks say where."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.worlds import NESTS, SWAPS, PartsWorld, disc_and_square, stripes, write_dataset
from benchmarks.worlds.parts import BOXES, BREACHES, DAMAGES, KINDS, LOOSE, PLAY, Part, breached, layout, nested
from blemish.data.image.decode import read_image
from blemish.data.layouts import Query, mvtec
from blemish.errors import ConfigError

COUNTS = {name: kind.count for name, kind in KINDS.items()}
HOME = {name: box for box, name in enumerate(KINDS)}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def world() -> PartsWorld:
    return PartsWorld(size=96)


def test_stripes_differ_from_good_ones_in_the_blotch_alone() -> None:
    for seed in range(20):
        good, nothing = stripes(rng(seed), (40, 50))
        bad, mask = stripes(rng(seed), (40, 50), "blotch", blotch=7)
        assert not nothing.any()
        assert mask.sum() == 49
        assert np.array_equal((good != bad).any(2) | mask, mask)
        assert np.abs(bad[mask].astype(int) - good[mask]).mean() > 15


def test_a_blotch_larger_than_the_image_covers_it() -> None:
    assert stripes(rng(), (4, 5), "blotch", blotch=9)[1].all()


@pytest.mark.parametrize("kind", SWAPS)
def test_disc_and_square_differ_inside_the_mask(kind: str) -> None:
    for seed in range(20):
        good, nothing = disc_and_square(rng(seed), (48, 80))
        bad, mask = disc_and_square(rng(seed), (48, 80), kind)
        assert not nothing.any()
        assert np.array_equal((good != bad).any(2) | mask, mask)
        right, left = mask[:, 40:].any(), mask[:, :40].any()
        assert (left, right) == (kind == "swapped", True)


def fill(half: np.ndarray) -> float:
    """How much of its bounding box the object of a half takes: pi / 4 for a disc, 1 for a square, 0 for none."""
    rows, columns = np.nonzero(half.mean(2) > 130)
    return rows.size / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)) if rows.size else 0.0


@pytest.mark.parametrize(
    ("kind", "fills"),
    [("good", (0.785, 1)), ("swapped", (1, 0.785)), ("both_discs", (0.785, 0.785)), ("missing_square", (0.785, 0))],
)
def test_each_half_holds_what_it_should_or_what_the_other_one_holds(kind: str, fills: tuple[float, float]) -> None:
    for seed in range(20):
        image, _ = disc_and_square(rng(seed), (64, 64), kind)
        assert [fill(half) for half in np.split(image, 2, 1)] == pytest.approx(fills, abs=0.08)


def assert_clear(parts: tuple[Part, ...]) -> None:
    """No part lies on another or on a wall."""
    y, x = np.mgrid[:256:2, :256:2].astype(np.float32)
    taken = np.ones(x.shape, int)
    for left, top, w, h in BOXES:
        taken[(x > left) & (x < left + w) & (y > top) & (y < top + h)] = 0
    for part in parts:
        u, v, c, s = x - part.x, y - part.y, np.cos(part.angle), np.sin(part.angle)
        taken += KINDS[part.kind].draw(c * u + s * v, c * v - s * u)[0] > 0
    assert taken.max() == 1


def test_a_good_tray_keeps_all_rules() -> None:
    for seed in range(15):
        parts = layout(rng(seed))
        assert Counter(p.kind for p in parts) == COUNTS
        assert all(p.box == HOME[p.kind] for p in parts)
        assert len({p.colour for p in parts if p.kind in ("cable", "label")}) == 1
        assert_clear(parts)
    assert len({layout(rng(seed))[-1].colour for seed in range(40)}) == 4


def test_parts_in_nests_lie_where_they_always_lie_and_keep_all_rules() -> None:
    trays = [nested(NESTS, rng(seed)) for seed in range(15)]
    places = np.array([[(p.x, p.y, p.angle) for p in parts] for parts in trays])
    assert places.std(0).min() > 0
    assert np.ptp(places, 0)[:, :2].max() <= 2 * PLAY[0]
    assert np.ptp(places, 0)[:, 2].max() <= 2 * PLAY[1]
    assert len({parts[-1].colour for parts in trays}) == 4
    for parts in trays:
        assert differences(parts) == (0, 0, 1)
        assert_clear(parts)
        assert differences(breached(parts, "swapped", rng(1))) == (0, 2, 1)


def test_images_of_nests_differ_less_than_those_of_loose_parts() -> None:
    spread = [
        np.std([PartsWorld(size=64, nests=nests).good(rng(seed)) for seed in range(6)], 0).mean()
        for nests in (True, False)
    ]
    assert spread[0] < 0.8 * spread[1]


def differences(parts: tuple[Part, ...]) -> tuple[int, int, int]:
    """How far the numbers are off, how many parts are in another's compartment, how many colours the pair has."""
    counts = Counter(p.kind for p in parts)
    return (
        sum(abs(counts[k] - n) for k, n in COUNTS.items()),
        sum(p.box != HOME[p.kind] for p in parts),
        len({p.colour for p in parts if p.kind not in LOOSE}),
    )


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("extra", (1, 0, 1)),
        ("missing", (1, 0, 1)),
        ("wrong_kind", (2, 1, 1)),
        ("swapped", (0, 2, 1)),
        ("wrong_colour", (0, 0, 2)),
    ],
)
def test_each_breach_breaks_its_rule_and_no_other(name: str, off: tuple[int, int, int]) -> None:
    for seed in range(15):
        generator = rng(seed)
        good = layout(generator)
        parts = breached(good, name, generator)
        assert differences(parts) == off
        assert_clear(parts)


@pytest.mark.parametrize("kind", [*DAMAGES, *BREACHES])
def test_an_anomalous_tray_differs_from_its_good_one_inside_the_mask(world: PartsWorld, kind: str) -> None:
    for seed in range(4):
        good = world.good(rng(seed))
        image, mask, name = (world.structural if kind in DAMAGES else world.logical)(rng(seed), kind)
        assert (image.dtype, image.shape, mask.shape, name) == (np.uint8, (96, 96, 3), (96, 96), kind)
        assert np.array_equal((good != image).any(2) | mask, mask)
        assert 4 <= mask.sum() < 0.2 * mask.size
        assert np.mean(np.abs(image[mask].astype(int) - good[mask]).max(1) > 5) > 0.2


def test_kinds_come_by_lot_and_good_images_vary(world: PartsWorld) -> None:
    assert {world.structural(rng(seed))[2] for seed in range(15)} == set(DAMAGES)
    assert {world.logical(rng(seed))[2] for seed in range(25)} == set(BREACHES)
    assert not np.array_equal(world.good(rng(1)), world.good(rng(2)))
    assert np.array_equal(world.good(rng(1)), PartsWorld(size=96).good(rng(1)))


def test_given_textures_show() -> None:
    textures = [np.full((9, 12, 3), (250, 10, 10), np.uint8), np.full((30, 7), 0, np.uint8)]
    seen = PartsWorld(textures, size=64).good(rng()).astype(int)
    assert seen[0, :, 0].mean() > 4 * seen[0, :, 1].mean()  # the bench is red
    plain = PartsWorld(textures[:1], size=64).good(rng()).astype(int)
    assert plain[30, 30, 0] > seen[30, 30, 0] + 40  # and so is the floor, where there is no other


def test_global_state_is_left_alone(world: PartsWorld) -> None:
    before = np.random.get_state()[1].tolist()
    world.structural(rng())
    world.logical(rng())
    assert np.random.get_state()[1].tolist() == before


def test_a_world_is_written_as_the_layout_reads_it(tmp_path: Path) -> None:
    kinds = ("scratch", "missing")
    root = write_dataset(tmp_path / "tray", PartsWorld(size=64).draw, kinds, rng(3), train=3, good=2, each=2)
    records = mvtec.index(root, Query())
    assert Counter((r.split, r.defect) for r in records) == {
        ("train", None): 3,
        ("test", None): 2,
        ("test", "scratch"): 2,
        ("test", "missing"): 2,
    }
    for record in records:
        assert read_image(record.path).shape == (64, 64, 3)
        assert (record.mask is not None) == (record.defect is not None)
        if record.mask:
            assert set(np.unique(read_image(record.mask))) == {0, 255}
    again = write_dataset(tmp_path / "again", PartsWorld(size=64).draw, kinds, rng(3), train=3, good=2, each=2)
    files = [sorted(p.relative_to(r) for p in r.rglob("*.png")) for r in (root, again)]
    assert files[0] == files[1]
    assert all((root / f).read_bytes() == (again / f).read_bytes() for f in files[0])
    write_dataset(
        tmp_path / "small", lambda k, g: disc_and_square(g, (32, 32), k), SWAPS, rng(), train=1, good=1, each=1
    )
    assert len(mvtec.index(tmp_path / "small", Query())) == 5


def test_unknown_kinds_and_small_trays_are_refused(world: PartsWorld) -> None:
    with pytest.raises(ConfigError, match="unknown kind 'scratches'") as error:
        world.draw("scratches", rng())
    assert error.value.hint == "did you mean 'scratch'?"
    with pytest.raises(ConfigError, match="unknown kind"):
        disc_and_square(rng(), kind="disc")
    with pytest.raises(ConfigError, match="32 pixels"):
        PartsWorld(size=32)

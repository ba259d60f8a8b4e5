"""Anchors: clustering on the sphere, votes, reliability, candidates, and what adding a category leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.ops.anchors import CANDIDATES, Anchors, cluster, silhouette, spherical_kmeans
from blemish.ops.arrays import unit
from blemish.ops.draws import Draws

Floats = NDArray[np.float32]

D, GRID = 12, 8


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def maps_of(kind: int, images: int = 4, seed: int = 0, shared: float = 0.0, noise: float = 0.3) -> Floats:
    """(images, D, GRID, GRID): features of one category in left-over noise; a share of the rows shows a background that
    all categories have."""
    drawn = 1000 * kind + seed
    x = 2 * normal(D, seed=77 + kind)[None, :, None, None] + noise * normal(images, D, GRID, GRID, seed=drawn)
    rows = round(shared * GRID)
    if rows:
        common = 2 * normal(D, seed=5)[None, :, None, None]
        x[:, :, :rows] = common + noise * normal(images, D, rows, GRID, seed=drawn + 500)
    return x.astype(np.float32)


def plain(**options: object) -> Anchors:
    return Anchors(np.zeros(D, np.float32), np.ones(D, np.float32), **options)  # type: ignore[arg-type]


def built(kinds: int, *, shared: float = 0.0, **options: object) -> Anchors:
    anchors = plain(**options)
    anchors.add([maps_of(k, shared=shared) for k in range(kinds)], Draws(0))
    return anchors


def test_kmeans_finds_what_was_drawn() -> None:
    centres = unit(normal(4, D, seed=1), 1)
    x = unit(np.repeat(centres, 50, 0) + np.float32(0.05) * normal(200, D, seed=2), 1)
    found = spherical_kmeans(x, 4, Draws(0))
    assert found.shape == (4, D)
    assert float((centres @ found.T).max(1).min()) > 0.99
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert len(spherical_kmeans(x[:3], 8, Draws(0))) == 3


def test_silhouette_is_its_definition() -> None:
    x = unit(normal(9, 5), 1)
    owner = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    distance = 1 - x @ x.T
    values = []
    for i in range(9):
        within = [float(distance[i, j]) for j in range(9) if owner[j] == owner[i] and j != i]
        others = [float(distance[i, owner == k].mean()) for k in range(3) if k != int(owner[i])]
        a, b = sum(within) / len(within), min(others)
        values.append((b - a) / max(a, b))
    assert silhouette(x, owner) == pytest.approx(sum(values) / 9, abs=1e-5)


@pytest.mark.parametrize("count", [0, 5])
def test_clusters_of_images(count: int) -> None:
    x = unit(np.repeat(unit(normal(5, D, seed=3), 1), 8, 0) + np.float32(0.1) * normal(40, D, seed=4), 1)
    owner = cluster(x, count, 12, Draws(0))
    assert len(set(owner.tolist())) == 5
    assert all(len(set(owner[i * 8 : i * 8 + 8].tolist())) == 1 for i in range(5))


@pytest.mark.parametrize("kinds", [1, 3, CANDIDATES + 4])
def test_images_vote_for_their_own(kinds: int) -> None:
    anchors = built(kinds)
    for k in range(kinds):
        votes, strangeness = anchors(maps_of(k, seed=9))
        assert votes.shape == (4, kinds)
        assert np.allclose(votes.sum(1), 1, atol=1e-5)
        assert votes.argmax(1).tolist() == [k] * 4
        assert float(strangeness.max()) < 0.3


def test_the_unknown_is_strange() -> None:
    anchors = built(3)
    known = np.concatenate([anchors(maps_of(k, seed=9))[1] for k in range(3)])
    assert float(anchors(maps_of(50))[1].min()) > 2 * float(known.max())


@pytest.mark.parametrize("kinds", [3, CANDIDATES + 4])
def test_strangeness_is_that_of_positions_and_of_the_whole(kinds: int) -> None:
    anchors, maps = built(kinds), maps_of(1, seed=9)
    x = anchors.local(maps, (GRID, GRID))
    nearest = (x @ anchors.anchors.reshape(-1, D).T).max(2)
    centre = unit(anchors.local(maps_of(1), (GRID, GRID)).mean((0, 1)), 0)
    np.testing.assert_allclose(anchors.centres[1], centre, rtol=1e-4, atol=1e-6)
    whole = unit(x.mean(1), 1) @ centre
    np.testing.assert_allclose(anchors(maps)[1], 1 - (nearest.mean(1) + whole) / 2, rtol=1e-4, atol=1e-5)


def test_the_same_positions_in_other_shares_are_strange() -> None:
    """Products of one material: each position looks like one that is known, the image as a whole does not."""
    anchors = built(3)
    known = np.concatenate([anchors(maps_of(k, seed=9))[1] for k in range(3)])
    mixed = maps_of(0, seed=9)
    mixed[:, :, 4:] = maps_of(1, seed=9)[:, :, 4:]
    assert float(anchors(mixed)[1].min()) > float(known.max())


@pytest.mark.parametrize("rows", [2, 3])  # of 8
def test_a_defect_does_not_turn_the_vote(rows: int) -> None:
    anchors = built(4)
    image = maps_of(2, seed=5)
    image[:, :, :rows] = maps_of(0, seed=6)[:, :, :rows]  # the defect looks like another product
    assert anchors(image)[0].argmax(1).tolist() == [2] * 4


def test_what_all_categories_show_says_little() -> None:
    reliable, equal = (built(3, shared=0.6, reliable=r) for r in (True, False))
    share = [float(a(maps_of(1, seed=8, shared=0.6))[0][:, 1].mean()) for a in (reliable, equal)]
    assert share[0] > share[1] + 0.02
    assert float(equal.weight.min()) == 1
    assert float(reliable.weight.min()) < 0.9


def test_adding_leaves_alone_what_was_there() -> None:
    anchors = built(2)
    before = {name: value.copy() for name, value in anchors.state().items()}
    anchors.add([maps_of(7)], Draws(1))
    assert len(anchors) == 3
    for name, value in before.items():
        assert np.array_equal(anchors.state()[name][: len(value)], value), name
    assert anchors(maps_of(7, seed=3))[0].argmax(1).tolist() == [2] * 4
    assert anchors(maps_of(0, seed=3))[0].argmax(1).tolist() == [0] * 4


def test_order_and_scale_do_not_matter() -> None:
    levels = [maps_of(k) for k in range(3)]
    pixels = np.concatenate(levels).transpose(1, 0, 2, 3).reshape(D, -1)
    a, b = (Anchors(s * pixels.mean(1), s * pixels.std(1)) for s in np.float32([1, 4]))
    a.add(levels, Draws(0))
    b.add([4 * level for level in levels], Draws(0))
    image = maps_of(1, seed=4)
    assert np.allclose(a(image)[0], b(4 * image)[0], atol=1e-4)
    assert np.allclose(a(image)[1], b(4 * image)[1], atol=1e-4)


def test_only_the_nearest_categories_are_looked_at() -> None:
    """Beyond CANDIDATES, the votes are those among the nearest categories as whole images, and the others get none."""
    kinds = CANDIDATES + 5
    anchors = built(kinds, reliable=False)
    noisy = [maps_of(k, images=1, seed=9, noise=6.0) for k in range(kinds)]  # so that many get votes
    level = np.concatenate(noisy)
    votes, _ = anchors(level)
    local = anchors.local(level, (GRID, GRID))
    for i, near in enumerate(np.argsort(-unit(local.mean(1), 1) @ anchors.centres.T, axis=1)[:, :CANDIDATES]):
        candidates = plain(reliable=False)
        candidates.anchors, candidates.weight = anchors.anchors[near], anchors.weight[near]
        candidates.centres = anchors.centres[near]
        expected = np.zeros(kinds)
        expected[near] = candidates(level[i : i + 1])[0][0]
        np.testing.assert_allclose(votes[i], expected, atol=1e-5)
    every = (local @ anchors.anchors.reshape(-1, D).T).argmax(2) // anchors.count
    left_out = [set(e.tolist()) - set(np.flatnonzero(v).tolist()) for e, v in zip(every, votes, strict=True)]
    assert any(left_out), "some image would have given a vote to a category that is not looked at"

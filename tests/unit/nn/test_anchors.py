"""Anchors: clustering on the sphere, votes, reliability, candidates, and what adding a category leaves alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blemish.nn.anchors import CANDIDATES, Anchors, cluster, silhouette, spherical_kmeans

D, GRID = 12, 8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def maps_of(kind: int, images: int = 4, seed: int = 0, shared: float = 0.0, noise: float = 0.3) -> torch.Tensor:
    """(images, D, GRID, GRID): features of one category in left-over noise; a share of the rows shows a background that
    all categories have."""
    drawn = generator(1000 * kind + seed)
    direction = torch.randn(D, generator=generator(77 + kind)) * 2
    x = direction[None, :, None, None] + noise * torch.randn(images, D, GRID, GRID, generator=drawn)
    rows = round(shared * GRID)
    if rows:
        common = torch.randn(D, generator=generator(5)) * 2
        x[:, :, :rows] = common[None, :, None, None] + noise * torch.randn(images, D, rows, GRID, generator=drawn)
    return x


def built(kinds: int, *, shared: float = 0.0, **options: object) -> Anchors:
    anchors = Anchors(torch.zeros(D), torch.ones(D), **options)  # type: ignore[arg-type]
    anchors.add([maps_of(k, shared=shared) for k in range(kinds)], generator())
    return anchors


def test_kmeans_finds_what_was_drawn() -> None:
    centres = F.normalize(torch.randn(4, D, generator=generator(1)), dim=1)
    x = F.normalize(centres.repeat_interleave(50, 0) + 0.05 * torch.randn(200, D, generator=generator(2)), dim=1)
    found = spherical_kmeans(x, 4, generator())
    assert found.shape == (4, D)
    assert float((centres @ found.T).amax(1).min()) > 0.99
    assert torch.allclose(found.norm(dim=1), torch.ones(4))
    assert len(spherical_kmeans(x[:3], 8, generator())) == 3


def test_silhouette_is_its_definition() -> None:
    x = F.normalize(torch.randn(9, 5, generator=generator()), dim=1)
    owner = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
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
    centres = F.normalize(torch.randn(5, D, generator=generator(3)), dim=1)
    x = F.normalize(centres.repeat_interleave(8, 0) + 0.1 * torch.randn(40, D, generator=generator(4)), dim=1)
    owner = cluster(x, count, 12, generator())
    assert owner.unique().numel() == 5
    assert all(owner[i * 8 : i * 8 + 8].unique().numel() == 1 for i in range(5))


@pytest.mark.parametrize("kinds", [1, 3, CANDIDATES + 4])
def test_images_vote_for_their_own(kinds: int) -> None:
    anchors = built(kinds)
    for k in range(kinds):
        votes, strangeness = anchors(maps_of(k, seed=9))
        assert votes.shape == (4, kinds)
        assert torch.allclose(votes.sum(1), torch.ones(4), atol=1e-5)
        assert votes.argmax(1).tolist() == [k] * 4
        assert float(strangeness.max()) < 0.3


def test_the_unknown_is_strange() -> None:
    anchors = built(3)
    known = torch.cat([anchors(maps_of(k, seed=9))[1] for k in range(3)])
    assert float(anchors(maps_of(50))[1].min()) > 2 * float(known.max())


@pytest.mark.parametrize("kinds", [3, CANDIDATES + 4])
def test_strangeness_is_that_of_positions_and_of_the_whole(kinds: int) -> None:
    anchors, maps = built(kinds), maps_of(1, seed=9)
    x = anchors.local(maps)
    nearest = (x @ anchors.anchors.flatten(0, 1).T).amax(2)
    centre = F.normalize(anchors.local(maps_of(1)).mean((0, 1)), dim=0)
    torch.testing.assert_close(anchors.centres[1], centre)
    whole = F.normalize(x.mean(1), dim=1) @ centre
    torch.testing.assert_close(anchors(maps)[1], 1 - (nearest.mean(1) + whole) / 2)


def test_the_same_positions_in_other_shares_are_strange() -> None:
    """Products of one material: each position looks like one that is known, the image as a whole does not."""
    anchors = built(3)
    known = torch.cat([anchors(maps_of(k, seed=9))[1] for k in range(3)])
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
    reliable, plain = (built(3, shared=0.6, reliable=r) for r in (True, False))
    share = [float(a(maps_of(1, seed=8, shared=0.6))[0][:, 1].mean()) for a in (reliable, plain)]
    assert share[0] > share[1] + 0.02
    assert float(plain.weight.min()) == 1
    assert float(reliable.weight.min()) < 0.9


def test_adding_leaves_alone_what_was_there() -> None:
    anchors = built(2)
    before = {name: value.clone() for name, value in anchors.state_dict().items()}
    anchors.add([maps_of(7)], generator(1))
    assert len(anchors) == 3
    for name, value in before.items():
        assert torch.equal(anchors.state_dict()[name][: len(value)], value), name
    assert anchors(maps_of(7, seed=3))[0].argmax(1).tolist() == [2] * 4
    assert anchors(maps_of(0, seed=3))[0].argmax(1).tolist() == [0] * 4


def test_order_and_scale_do_not_matter() -> None:
    levels = [maps_of(k) for k in range(3)]
    pixels = torch.cat(levels).transpose(0, 1).flatten(1)
    a, b = (Anchors(s * pixels.mean(1), s * pixels.std(1)) for s in (1.0, 4.0))
    a.add(levels, generator())
    b.add([4.0 * level for level in levels], generator())
    image = maps_of(1, seed=4)
    assert torch.allclose(a(image)[0], b(4.0 * image)[0], atol=1e-4)
    assert torch.allclose(a(image)[1], b(4.0 * image)[1], atol=1e-4)


def test_only_the_nearest_categories_are_looked_at() -> None:
    """Beyond CANDIDATES, the votes are those among the nearest categories as whole images, and the others get none."""
    kinds = CANDIDATES + 5
    anchors = built(kinds, reliable=False)
    level = torch.cat([maps_of(k, images=1, seed=9, noise=3.0) for k in range(kinds)])  # so noisy that many get votes
    votes, _ = anchors(level)
    whole = F.normalize(anchors.local(level).mean(1), dim=1)
    for i, near in enumerate((whole @ anchors.centres.T).topk(CANDIDATES, 1).indices):
        candidates = Anchors(torch.zeros(D), torch.ones(D), reliable=False)
        candidates.anchors, candidates.weight = anchors.anchors[near], anchors.weight[near]
        candidates.centres = anchors.centres[near]
        expected = torch.zeros(kinds)
        expected[near] = candidates(level[i : i + 1])[0][0]
        torch.testing.assert_close(votes[i], expected, atol=1e-5, rtol=0)
    every = (anchors.local(level) @ anchors.anchors.flatten(0, 1).T).argmax(2) // anchors.count
    left_out = [set(e.tolist()) - set(v.nonzero().flatten().tolist()) for e, v in zip(every, votes, strict=True)]
    assert any(left_out), "some image would have given a vote to a category that is not looked at"

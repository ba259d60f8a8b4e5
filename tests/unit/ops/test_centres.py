"""Centres against the plain loops that they stand for, and steps along rays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.nn.centres import CentreWindow, aligned, nearest_by_cosine, ray


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_by_one(centres: Tensor, means: Tensor, momentum: float) -> Tensor:
    """The loop of the paper's code: indices once, then one update behind the other."""
    owner = [int(F.cosine_similarity(mean[None], centres).argmax()) for mean in means]
    out = centres.clone()
    for mean, j in zip(means, owner, strict=True):
        out[j] = momentum * out[j] + (1 - momentum) * mean
    return out


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("crowd", [1, 4, 60])  # few centres: many means move the same one
def test_alignment_at_once_is_the_loop(momentum: float, crowd: int) -> None:
    centres = draw(60 // crowd, 7)
    for seed in range(1, 4):
        means = draw(60, 7, seed=seed)
        counts = torch.bincount(nearest_by_cosine(means, centres), minlength=len(centres))
        assert counts.max() > 1
        expected = one_by_one(centres, means, momentum)
        torch.testing.assert_close(aligned(centres, means, momentum), expected, rtol=1e-12, atol=1e-12)
        centres = expected


def test_a_centre_that_nothing_comes_to_stays() -> None:
    centres = torch.eye(3)
    means = torch.tensor([[2.0, 0.1, 0.0], [1.0, 0.0, 0.1]])
    out = aligned(centres, means, 0.9)
    assert torch.equal(out[1:], centres[1:])
    assert not torch.equal(out[0], centres[0])


@pytest.mark.parametrize(("grid", "reach"), [((6, 9), 2), ((3, 4), 4), ((5, 5), 0), ((1, 7), 1)])
def test_window_is_the_exact_search_among_the_cells_within_reach(grid: tuple[int, int], reach: int) -> None:
    h, w = grid
    centres, x = draw(h * w, 5), draw(h, 3, w, 5, seed=1)
    columns = torch.rand(h, 3, w, generator=torch.Generator().manual_seed(2)).argsort(2)
    found = CentreWindow(centres, grid, reach).nearest(x, columns)
    rows = torch.arange(h * w) // w
    for y in range(h):
        for b in range(3):
            for i in range(w):
                near = ((rows - y).abs() <= reach) & ((torch.arange(h * w) % w - columns[y, b, i]).abs() <= reach)
                cosine = F.cosine_similarity(x[y, b, i][None], centres).masked_fill(~near, -2)
                assert int(found[y, b, i]) == int(cosine.argmax())
    everywhere = CentreWindow(centres, grid, None).nearest(x, columns)
    assert torch.equal(everywhere, CentreWindow(centres, grid, max(grid)).nearest(x, columns))
    assert torch.equal(everywhere, F.cosine_similarity(x[..., None, :], centres, dim=-1).argmax(-1))


def test_rays_are_unit_offsets_and_any_direction_where_there_is_none() -> None:
    offset = draw(50, 6).float()
    offset[7] = 0
    generator = torch.Generator().manual_seed(0)
    unit = ray(offset, torch.tensor(1e-3), generator)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(50))
    cosine = F.cosine_similarity(unit, offset)
    assert (torch.cat([cosine[:7], cosine[8:]]) > 0.9999).all()
    assert not torch.equal(ray(offset, torch.tensor(1e-3), generator)[7], unit[7])

"""Our Sinkhorn against POT, the linear programme and the definition of a plan; prototypes on a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from blemish.nn.prototypes import apart, distinct, nearest_means, positions
from blemish.nn.transport import FINEST, barycentres, sinkhorn, sinkhorn_pot

ot = pytest.importorskip("ot", reason="pot is not installed: pip install 'blemish[train]'")


def cost_of(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(n, 3, generator=generator) for n in (rows, columns))
    cost = torch.cdist(x, y)
    return cost / cost.max()


def exact(cost: Tensor) -> float:
    """The cost of the best plan without entropy, by POT's network simplex."""
    rows, columns = cost.shape
    return float(ot.emd2(np.full(rows, 1 / rows), np.full(columns, 1 / columns), cost.double().numpy()))


@pytest.mark.parametrize("epsilon", [0.01, 0.05])
def test_agrees_with_pot_and_meets_the_marginals(epsilon: float) -> None:
    cost = cost_of(30, 20)
    ours = sinkhorn(cost, epsilon=epsilon, iterations=20_000, tolerance=1e-10)
    theirs = sinkhorn_pot(cost, epsilon=epsilon, iterations=20_000, tolerance=1e-10)
    assert (ours.plan - theirs.plan).abs().max() < 1e-6 * ours.plan.max()
    assert (ours.potential - theirs.potential).abs().max() < 1e-6
    for found in (ours, theirs):
        assert found.plan.dtype == torch.float64
        assert (found.plan >= 0).all()
        torch.testing.assert_close(found.plan.sum(1), torch.full((30,), 1 / 30, dtype=torch.float64), rtol=1e-9, atol=0)
        torch.testing.assert_close(found.plan.sum(0), torch.full((20,), 1 / 20, dtype=torch.float64), rtol=1e-6, atol=0)


def test_stopping_early_leaves_rows_exact_and_says_how_far_the_columns_are() -> None:
    cost = cost_of(60, 40)
    last = torch.inf
    for iterations in (1, 5, 50):
        found = sinkhorn(cost, epsilon=0.01, iterations=iterations)
        assert found.iterations == iterations
        torch.testing.assert_close(found.plan.sum(1), torch.full((60,), 1 / 60, dtype=torch.float64), rtol=1e-9, atol=0)
        assert found.error == pytest.approx(float((found.plan.sum(0) - 1 / 40).abs().sum()), rel=1e-6)
        assert found.error < last
        last = found.error
    early = sinkhorn(cost, epsilon=0.01, iterations=5000, tolerance=0.01)
    assert early.error < 0.01
    assert early.iterations < 5000


@pytest.mark.parametrize("solve", [sinkhorn, sinkhorn_pot])
def test_a_start_changes_how_soon_the_plan_is_found_and_not_which(solve: object) -> None:
    options = {"epsilon": 0.02, "iterations": 20_000, "tolerance": 1e-9}
    cold = solve(cost_of(60, 40), **options)  # type: ignore[operator]
    warm = solve(cost_of(60, 40), **options, start=cold.potential)  # type: ignore[operator]
    assert warm.iterations < cold.iterations / 4
    assert (warm.plan - cold.plan).abs().max() < 1e-6 * cold.plan.max()
    far = solve(cost_of(60, 40), **options, start=torch.linspace(-0.5, 0.5, 40).double())  # type: ignore[operator]
    assert (far.plan - cold.plan).abs().max() < 1e-6 * cold.plan.max()


def test_rows_in_blocks_are_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sinkhorn(cost_of(50, 20), epsilon=0.02, iterations=40)
    monkeypatch.setattr("blemish.nn.transport.BLOCK", 140)  # 7 rows: the last block has one
    torch.testing.assert_close(sinkhorn(cost_of(50, 20), epsilon=0.02, iterations=40).plan, whole.plan)


def test_entropy_costs_something_and_less_of_it_less() -> None:
    cost = cost_of(24, 16)
    best, costs = exact(cost), []
    for epsilon in (0.1, 0.03, 0.01):
        found = sinkhorn(cost, epsilon=epsilon, iterations=50_000, tolerance=1e-9)
        costs.append(float((found.plan * cost).sum()))
    assert costs[0] > costs[1] > costs[2] > best - 1e-9
    assert costs[2] < best + 0.02


def test_identical_sets_are_assigned_one_to_one() -> None:
    x = torch.rand(12, 2, generator=torch.Generator().manual_seed(3)).double()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    cost = torch.cdist(x, x[order])
    found = sinkhorn(cost / cost.max(), epsilon=FINEST, iterations=20_000, tolerance=1e-8)
    assert (found.plan.argmax(0) == order).all()
    torch.testing.assert_close(barycentres(found.plan, x), x[order], rtol=0, atol=0.02)


def test_the_worst_costs_do_not_underflow() -> None:
    """A column that is far from every row, at the finest epsilon, and then with the potential that this gives."""
    cost = torch.zeros(6, 4)
    cost[:, 0] = 1
    found = sinkhorn(cost, epsilon=FINEST, iterations=50)
    assert torch.isfinite(found.plan).all()
    assert found.error < 1e-6
    again = sinkhorn(1 - cost, epsilon=FINEST, iterations=50, start=found.potential)
    assert torch.isfinite(again.plan).all()
    assert again.error < 1e-6


def test_barycentres_are_means_of_points() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(30, 5, generator=generator)
    plan = sinkhorn(cost_of(30, 20), epsilon=0.02, iterations=20_000, tolerance=1e-9).plan
    weights = 20 * plan.T
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(20).double(), rtol=0, atol=1e-7)
    found = barycentres(plan, points)
    torch.testing.assert_close(found, weights @ points.double())
    assert (found <= points.amax(0) + 1e-9).all()
    assert (found >= points.amin(0) - 1e-9).all()


def test_places_are_the_grid_with_its_corners() -> None:
    grid = positions((3, 5))
    assert grid.shape == (15, 2)
    assert grid[0].tolist() == [0, 0]
    assert grid[4].tolist() == [0, 1]
    assert grid[-1].tolist() == [1, 1]
    distance = apart(grid, grid)
    assert distance.max() == 1
    assert distance[0, 4] == pytest.approx(2**-0.5)
    assert apart(positions((1, 1)), positions((1, 1))).tolist() == [[0.0]]


def test_nearest_means_leave_what_is_nearest_to_nothing() -> None:
    cost = torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.3, 0.9], [0.7, 0.6, 0.9]])
    points, now = torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    assert nearest_means(cost, points, now).tolist() == [[2.0], [7.0], [30.0]]


@pytest.mark.parametrize("cells", ["one", "many"])
def test_distinct_rows_are_those_of_the_plain_loop(cells: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(1300, 3, generator=generator), dim=1)
    at = torch.zeros(1300, dtype=torch.int64) if cells == "one" else torch.arange(1300) % 7
    expected: list[int] = []
    for i in range(1300):
        if not any(at[j] == at[i] for j in expected) or not bool(
            ((x[expected] @ x[i] > 0.99) & (at[expected] == at[i])).any()
        ):
            expected.append(i)
    assert distinct(x, at, 0.99).tolist() == expected
    assert distinct(x, at, 1.0).tolist() == list(range(1300))

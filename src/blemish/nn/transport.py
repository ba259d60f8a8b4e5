"""Entropic optimal transport between two uniform distributions (Cuturi, NIPS 2013), in the kernel form.

With M the costs, N rows and K columns:

    G = argmin <G, M> + epsilon sum G log G     where rows of G sum to 1/N, columns to 1/K
      = diag(u) exp(-M / epsilon) diag(v)

In float32 that exponential underflows at the epsilons that matter. In float64, with the smallest cost of each row taken
off, it holds, and needs a few products where the log domain needs an exponential of every entry in every iteration.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FINEST = 0.003  # epsilon for costs in [0, 1]; below it an exponential of float64 may underflow
BLOCK = 2**18  # entries of the kernel that both half-steps of an iteration share while they are in the cache


class Transport(NamedTuple):
    """An entropic plan."""

    plan: Tensor  # (N, K) float64, not negative; rows sum to 1/N
    potential: Tensor  # (K,) float64, of the columns, in units of cost: where the next solution may start
    error: float  # sum over columns of |sum of the column - 1/K|
    iterations: int


def sinkhorn(
    cost: Tensor, *, epsilon: float, iterations: int, tolerance: float = 0.0, start: Tensor | None = None
) -> Transport:
    """The entropic plan of costs (N, K) in [0, 1], by Sinkhorn's iterations in float64.

    Args:
        epsilon: of the entropy, at least `FINEST`.
        iterations: at most so many; each rescales all rows, then looks at the columns, then rescales them.
        tolerance: stop where `error` is smaller.
        start: a column potential of a problem like this one. It changes how soon the plan is found, not which.

    Rows are exact, as after the last half-step; columns are met within `error`.
    """
    rows, columns = cost.shape
    kernel = cost.to(torch.float64, copy=True)
    if start is not None:
        kernel -= start
    kernel -= kernel.amin(1, keepdim=True)
    kernel.mul_(-1 / epsilon).exp_()
    u, v = kernel.new_empty(rows), kernel.new_ones(columns)
    size = max(BLOCK // columns, 1)
    error, done = torch.inf, 0
    while True:
        sums = torch.zeros_like(v)
        for first in range(0, rows, size):
            block = kernel[first : first + size]
            scale = 1 / (rows * (block @ v))
            u[first : first + size] = scale
            sums += scale @ block
        done += 1
        error = float((v * sums - 1 / columns).abs().sum())
        if error < tolerance or done >= iterations:
            break
        v = 1 / (columns * sums)
    potential = epsilon * v.log()
    potential = potential if start is None else potential + start
    plan = kernel.mul_(u[:, None]).mul_(v)
    return Transport(plan, potential - potential.mean(), error, done)


def sinkhorn_pot(
    cost: Tensor, *, epsilon: float, iterations: int, tolerance: float = 0.0, start: Tensor | None = None
) -> Transport:
    """The same by POT, Python Optimal Transport (Flamary et al., JMLR 22, 2021), in the log domain.

    POT looks at the columns at every tenth iteration, and at the root of the summed squares there.
    """
    import ot

    rows, columns = cost.shape
    begin = None
    if start is not None:  # POT's first half-step is that of the columns, so it has to be told of the rows
        first = -torch.logsumexp((start - cost.double()) / epsilon, 1)
        begin = (first - first.mean(), start / epsilon)
    plan, log = ot.sinkhorn(
        torch.full((rows,), 1 / rows, dtype=torch.float64),
        torch.full((columns,), 1 / columns, dtype=torch.float64),
        cost.double(),
        epsilon,
        method="sinkhorn_log",
        numItermax=iterations,
        stopThr=tolerance,
        warmstart=begin,
        log=True,
        warn=False,
    )
    error = float((plan.sum(0) - 1 / columns).abs().sum())
    potential = epsilon * log["log_v"]
    return Transport(plan, potential - potential.mean(), error, int(log["niter"]) + 1)


def barycentres(plan: Tensor, points: Tensor) -> Tensor:
    """(N, K) plan, (N, D) points -> (K, D): where each column's mass comes from, as a mean of the points.

    The weights of a column, K times its entries of the plan, sum to 1 as far as the plan meets its columns.
    """
    return plan.shape[1] * (plan.T @ points.to(plan.dtype))

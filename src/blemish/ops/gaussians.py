"""Streaming Gaussian statistics per position, and whitening."""

from __future__ import annotations

import torch
from torch import Tensor


class PositionGaussians:
    """Mean and covariance of a descriptor at each of P positions, in one pass and constant memory.

    Sums are kept in float64 around a fixed origin (the first sample's mean descriptor), so that products of large
    means do not cancel. `merge` adds the statistics of another stream exactly.
    """

    def __init__(self) -> None:
        self.n = 0
        self.origin: Tensor | None = None
        self.total = torch.zeros(0)
        self.outer = torch.zeros(0)

    @classmethod
    def recalled(cls, mean: Tensor, whiten: Tensor, ridge: float, n: int) -> PositionGaussians:
        """The statistics of n samples, from their mean (P, C) and the `whitening` (P, C, C) of their covariance.

        `ridge` is the share of the mean variance that was added before whitening. Identity matrices stand for samples
        that do not vary.
        """
        found = cls()
        eye = torch.eye(mean.shape[1], dtype=torch.float64)
        factor = torch.linalg.inv(whiten.double())  # the transposed Cholesky factor
        covariance = factor.transpose(1, 2) @ factor
        varies = not torch.equal(whiten, eye.float().expand_as(whiten))
        added = float(covariance.diagonal(dim1=1, dim2=2).mean()) * ridge / (1 + ridge) if varies else 1.0
        found.n, found.origin = n, mean.clone()
        found.total = torch.zeros_like(mean, dtype=torch.float64)
        found.outer = (covariance - added * eye) * max(n - 1, 1)
        return found

    def add(self, x: Tensor, origin: Tensor | None = None) -> None:
        """x: (B, P, C) float32."""
        if self.origin is None:
            self.origin = x[0].clone() if origin is None else origin
            self.total = torch.zeros(x.shape[1:], dtype=torch.float64)
            self.outer = torch.zeros(x.shape[1], x.shape[2], x.shape[2], dtype=torch.float64)
        centred = (x - self.origin).transpose(0, 1)  # (P, B, C)
        self.total += centred.sum(1, dtype=torch.float64)
        self.outer += centred.transpose(1, 2) @ centred
        self.n += int(x.shape[0])

    def merge(self, other: PositionGaussians) -> None:
        """Add another stream's statistics, moved to this one's origin."""
        if other.origin is None:
            return
        if self.origin is None:
            self.n, self.origin, self.total, self.outer = other.n, other.origin, other.total, other.outer
            return
        shift = (other.origin - self.origin).double()
        cross = other.total[:, :, None] * shift[:, None, :]
        self.outer += other.outer + cross + cross.transpose(1, 2) + other.n * shift[:, :, None] * shift[:, None, :]
        self.total += other.total + other.n * shift
        self.n += other.n

    def mean(self) -> Tensor:
        """(P, C) float64."""
        assert self.origin is not None
        return self.origin.double() + self.total / self.n

    def covariance(self) -> Tensor:
        """(P, C, C) float64, divided by n - 1 (by 1 where n = 1: all zeros)."""
        mean = self.total / self.n
        return (self.outer - self.n * mean[:, :, None] * mean[:, None, :]) / max(self.n - 1, 1)


def whitening(covariance: Tensor, ridge: Tensor | float) -> Tensor:
    """(P, C, C) -> W (P, C, C) float32 with x @ W white: ||d @ W||^2 = d^T (cov + ridge I)^-1 d.

    W is the transposed inverse of the Cholesky factor. `ridge` may be one number or one per position (P, 1, 1).
    """
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    factor = torch.linalg.cholesky(covariance + ridge * eye)
    inverse: Tensor = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    return inverse.transpose(1, 2).float()

"""Streaming Gaussian statistics per position, and whitening."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_BLOCK = 32  # positions that are factored at a time


class PositionGaussians:
    """Mean and covariance of a descriptor at each of P positions, in one pass and constant memory.

    Sums are kept in float64 around a fixed origin (the first sample's mean descriptor), so that products of large
    means do not cancel. `merge` adds the statistics of another stream exactly.
    """

    def __init__(self) -> None:
        self.n = 0
        self.origin: Floats | None = None
        self.total: Doubles = np.zeros(0)
        self.outer: Doubles = np.zeros(0)

    @classmethod
    def recalled(cls, mean: Floats, whiten: Floats, ridge: float, n: int) -> PositionGaussians:
        """The statistics of n samples, from their mean (P, C) and the `whitening` (P, C, C) of their covariance.

        `ridge` is the share of the mean variance that was added before whitening. Identity matrices stand for samples
        that do not vary.
        """
        found = cls()
        eye = np.eye(mean.shape[1])
        factor = np.linalg.inv(whiten.astype(np.float64))  # the transposed Cholesky factor
        covariance = factor.transpose(0, 2, 1) @ factor
        varies = not np.array_equal(whiten, np.broadcast_to(eye.astype(np.float32), whiten.shape))
        added = float(_diagonals(covariance).mean()) * ridge / (1 + ridge) if varies else 1.0
        found.n, found.origin = n, mean.copy()
        found.total = np.zeros(mean.shape)
        found.outer = (covariance - added * eye) * max(n - 1, 1)
        return found

    def add(self, x: Floats, origin: Floats | None = None) -> None:
        """x: (B, P, C)."""
        if self.origin is None:
            self.origin = x[0].copy() if origin is None else origin
            self.total = np.zeros(x.shape[1:])
            self.outer = np.zeros((x.shape[1], x.shape[2], x.shape[2]))
        centred = np.ascontiguousarray((x - self.origin).transpose(1, 0, 2))  # (P, B, C)
        self.total += centred.sum(1, dtype=np.float64)
        self.outer += centred.transpose(0, 2, 1) @ centred
        self.n += len(x)

    def merge(self, other: PositionGaussians) -> None:
        """Add another stream's statistics, moved to this one's origin."""
        if other.origin is None:
            return
        if self.origin is None:
            self.n, self.origin = other.n, other.origin
            self.total, self.outer = other.total.copy(), other.outer.copy()  # what a cluster sends is only to be read
            return
        shift = (other.origin - self.origin).astype(np.float64)
        cross = other.total[:, :, None] * shift[:, None, :]
        self.outer += other.outer + cross + cross.transpose(0, 2, 1) + other.n * shift[:, :, None] * shift[:, None, :]
        self.total += other.total + other.n * shift
        self.n += other.n

    def mean(self) -> Doubles:
        """(P, C)."""
        assert self.origin is not None
        return self.origin.astype(np.float64) + self.total / self.n

    def covariance(self) -> Doubles:
        """(P, C, C), divided by n - 1 (by 1 where n = 1: all zeros)."""
        mean = self.total / self.n
        found: Doubles = mean[:, :, None] * (-self.n * mean)[:, None, :]
        found += self.outer
        found /= max(self.n - 1, 1)
        return found


def _diagonals(matrices: Doubles) -> Doubles:
    return matrices.diagonal(axis1=1, axis2=2)


def whitening(covariance: Doubles, ridge: Any) -> Floats:
    """(P, C, C) -> W (P, C, C) float32 with x @ W white: ||d @ W||^2 = d^T (cov + ridge I)^-1 d.

    W is the transposed inverse of the Cholesky factor. `ridge` may be one number or one per position (P, 1, 1).
    """
    found = np.empty(covariance.shape, np.float32)
    ridges = np.broadcast_to(np.asarray(ridge, np.float64), (len(covariance), 1, 1))
    eye = np.eye(covariance.shape[-1])
    for start in range(0, len(covariance), _BLOCK):
        part = slice(start, start + _BLOCK)
        found[part] = _inverse_factor(covariance[part] + ridges[part] * eye).transpose(0, 2, 1)
    return found


def _inverse_factor(matrices: Doubles) -> Doubles:
    """The inverse of the Cholesky factor of each matrix (P, C, C), in halves: batched products are several times faster
    than factors one by one."""
    size = matrices.shape[-1]
    if size <= 24:
        return np.linalg.inv(np.linalg.cholesky(matrices))
    half = size // 2
    found = np.zeros_like(matrices)
    first = _inverse_factor(matrices[:, :half, :half])
    below = matrices[:, half:, :half] @ first.transpose(0, 2, 1)  # the factor's lower left
    last = _inverse_factor(matrices[:, half:, half:] - below @ below.transpose(0, 2, 1))
    found[:, :half, :half], found[:, half:, half:] = first, last
    found[:, half:, :half] = -last @ (below @ first)
    return found

"""Streaming Gaussian statistics per position, and whitening."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_BLOCK = 32  # positions that are factored at a time
_CONSTANT = 1e-7  # share of the scatter that is rounding: products are summed up in float32


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


class Without:
    """Distances to the Gaussians of all samples but some, from the statistics of all: exact, by a downdate.

    D (C, k) are the k samples of one position that are left out, around the mean of all n, S is the scatter around it,
    n' = n - k, and G = I + 1 1^T / n'. Without them the mean moves by -D 1 / n' and the scatter is S - D G D^T. The
    ridge r is a share of the variance that is left, so L = (n' - 1) r is that share of the mean scatter. With
    A = (S + L I)^-1, Woodbury's identity gives the inverse of what is left: A + A D (G^-1 - D^T A D)^-1 D^T A. S is
    kept by its eigenvectors, so that A costs a division whatever L is.
    """

    def __init__(self, statistics: PositionGaussians, ridge: float) -> None:
        self.n, self.ridge = statistics.n, ridge
        self.mean = statistics.mean()  # (P, C)
        scatter = statistics.covariance()
        scatter *= max(self.n - 1, 1)
        self.spread = float(_diagonals(scatter).mean())
        self.values = np.empty(self.mean.shape)
        for start in range(0, len(scatter), _BLOCK):
            part = slice(start, start + _BLOCK)
            self.values[part], scatter[part] = np.linalg.eigh(scatter[part])
        self.vectors = scatter  # (P, C, C), in the columns

    def distances(self, left_out: Floats, judged: Floats) -> Floats:
        """Samples (k, P, C) that are among the n, and others or the same (B, P, C) -> (B, P) Mahalanobis distances."""
        k, left = len(left_out), self.n - len(left_out)
        if left < 1:
            raise ValueError(f"{k} of {self.n} samples are left out, and none is left")
        gone = self._turned(left_out)  # (P, C, k)
        apart = self._turned(judged) + gone.sum(2, keepdims=True) / left  # (P, C, B), around the mean that is left
        gram = gone.transpose(0, 2, 1) @ gone
        spread = self.spread - float((gram * (np.eye(k) + 1 / left)).sum()) / self.mean.size
        if left == 1 or spread <= _CONSTANT * self.spread:  # what is left does not vary: Euclidean
            squares = (apart**2).sum(1)
        else:
            loaded = np.maximum(self.values, 0)[:, :, None] + self.ridge * spread  # (P, C, 1)
            inner = np.linalg.inv(np.eye(k) - 1 / self.n - gone.transpose(0, 2, 1) @ (gone / loaded))
            cross = gone.transpose(0, 2, 1) @ (apart / loaded)  # (P, k, B)
            squares = (left - 1) * ((apart**2 / loaded).sum(1) + (cross * (inner @ cross)).sum(1))
        found: Floats = np.sqrt(squares.T).astype(np.float32)
        return found

    def _turned(self, x: Floats) -> Doubles:
        """(B, P, C) -> (P, C, B), around the mean of all and along the eigenvectors."""
        turned: Doubles = self.vectors.transpose(0, 2, 1) @ (x - self.mean).transpose(1, 2, 0)
        return turned


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

"""Which views of a good part are good parts too, as the good images themselves say. No PyTorch.

A part that is flipped, turned or tilted is a good one where held-out good images, so turned, look no stranger than they
did before. What judges is a Gaussian at each place: of a part that always lies the same way it knows every place, and a
mirrored one is strange; of parts at any angle it has learned what all angles have in common. Each half of the images is
judged by the other. Of several products in one model all are judged together.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blemish.learning.sources.features import BATCH, FeatureSource
from blemish.learning.sources.image import VIEWS, ImageSamples, files, fits
from blemish.ops.gaussians import PositionGaussians, whitening
from blemish.ops.patches import grid_of, patch_descriptors
from blemish.ops.scoring import SHARE, highest_share
from blemish.types import Batch, FeatureSpec, Needs, Record

Floats = NDArray[np.float32]

RIDGE = 0.01  # added to the covariance's diagonal, as a share of the mean variance
IMAGES = 128  # that are looked at; more would tell no more
LEAST = 16  # fewer tell nothing
STRANGER = 0.6
"""Share of pairs, one image turned and one as it is, in which the turned one may be the stranger; half is by chance."""


def suggested(source: FeatureSource, records: Sequence[Record], seed: int) -> tuple[str, ...]:
    """The names of the views that are good parts too, of `VIEWS`; none where there are too few images to tell."""
    strange = stranger(source, records, seed)
    return tuple(view for view, share in strange.items() if share <= STRANGER)


def stranger(source: FeatureSource, records: Sequence[Record], seed: int) -> dict[str, float]:
    """For each view that fits the input: in which share of pairs a turned image scores higher than one as it is."""
    if len(records) < LEAST:
        return {}
    chosen = random.Random(seed).sample(list(records), min(len(records), IMAGES))
    halves = _halves(chosen)
    names = [name for name in VIEWS if fits(name, source.preprocess.size)]
    scores: dict[str, list[Floats]] = {name: [] for name in names}
    for learned, judged in (halves, halves[::-1]):
        known, samples = _Places(source.spec), _samples(source, learned)
        for i in range(0, len(learned), BATCH):
            known.learn(samples.seen_as("same", i, i + BATCH))
        known.conclude()
        samples = _samples(source, judged)
        for name in names:
            scores[name] += [known.scores(samples.seen_as(name, i, i + BATCH)) for i in range(0, len(judged), BATCH)]
    plain = np.concatenate(scores.pop("same"))
    return {name: _above(np.concatenate(found), plain) for name, found in scores.items()}


class _Places:
    """A Gaussian of normal descriptors at each place."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec, self.grid = spec, grid_of(spec, -1)
        self._statistics = PositionGaussians()

    def _descriptors(self, batch: Batch) -> Floats:
        assert batch.pyramid is not None
        found: Floats = patch_descriptors(batch.pyramid.maps, self.spec, self.grid, length="root")
        return found

    def learn(self, batch: Batch) -> None:
        self._statistics.add(self._descriptors(batch))

    def conclude(self) -> None:
        covariance = self._statistics.covariance()
        variance = float(covariance.diagonal(axis1=1, axis2=2).mean())
        self.mean = self._statistics.mean().astype(np.float32)
        self.whiten = whitening(covariance, RIDGE * variance or 1.0)

    def scores(self, batch: Batch) -> Floats:
        """(B,): the mean of the highest share of the places' distances."""
        white = (self._descriptors(batch) - self.mean).transpose(1, 0, 2) @ self.whiten
        distance = np.sqrt((white * white).sum(2)).T
        found: Floats = highest_share(distance, SHARE, distance.shape[1])
        return found


def _halves(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Two halves in which no unit stands on both sides."""
    first: list[Record] = []
    for name in dict.fromkeys(r.whole for r in records):
        if len(first) < len(records) // 2:
            first += [r for r in records if r.whole == name]
    ids = {r.id for r in first}
    return first, [r for r in records if r.id not in ids]


def _samples(source: FeatureSource, records: Sequence[Record]) -> ImageSamples:
    return ImageSamples(source, files(records, source.preprocess), Needs())


def _above(turned: Floats, plain: Floats) -> float:
    """The share of pairs in which the first is higher; ties count half."""
    return float(((turned[:, None] > plain) + 0.5 * (turned[:, None] == plain)).mean())

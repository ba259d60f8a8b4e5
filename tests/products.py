"""A drawn world of three products whose anomalies are pieces of another product, as samples with categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from blemish.learning.backbones.base import Backbone
from blemish.types import Batch, Pyramid
from tests.fakes import batch_of

SIZE = (64, 64)
COUNT = 3
PIECE = 16  # side of the foreign piece, in pixels

Image = NDArray[np.uint8]


def product(kind: int, seed: int) -> Image:
    """(64, 64, 3): stripes, another way, or checks, with a little noise."""
    generator = np.random.default_rng([kind, seed])
    y, x = np.mgrid[:64, :64] / 4 + generator.uniform(-0.3, 0.3)
    wave, colour, middle = (
        (np.sin(y), (40, 40, 40), (120, 120, 120)),
        (np.sin(x), (50, 20, -30), (150, 110, 90)),
        (np.sin(x) * np.sin(y), (20, 50, 40), (90, 120, 140)),
    )[kind]
    image = wave[..., None] * np.array(colour) + middle + generator.normal(0, 2, (64, 64, 3))
    return image.clip(0, 255).astype(np.uint8)


def damaged(kind: int, seed: int) -> tuple[Image, Image, NDArray[np.bool_]]:
    """An anomalous image, the good one that it was made of, and the mask: a square of the next product."""
    generator = np.random.default_rng([7, kind, seed])
    good, other = product(kind, seed), product((kind + 1) % COUNT, seed)
    y, x = generator.integers(0, (64 - PIECE) // 16 + 1, 2) * 16
    mask = np.zeros(SIZE, bool)
    mask[y : y + PIECE, x : x + PIECE] = True
    return np.where(mask[..., None], other, good), good, mask


class Products:
    """`each` good images of every product (`Samples`), features computed once; a twin each where asked."""

    def __init__(self, backbone: Backbone, each: int = 8, *, first: int = 0, twins: bool = False) -> None:
        kinds = [(k, first + i) for i in range(each) for k in range(COUNT)]
        self.category = torch.tensor([k for k, _ in kinds])
        self.ids = tuple(f"{k}/{i}" for k, i in kinds)
        self.good = batch_of(backbone, [product(*kind) for kind in kinds], image=False)
        self.twins, self.masks = None, None
        if twins:
            made = [damaged(*kind) for kind in kinds]
            self.twins = batch_of(backbone, [image for image, _, _ in made], image=False).pyramid
            self.masks = torch.from_numpy(np.stack([mask for _, _, mask in made]))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        rows = list(indices)
        assert self.good.pyramid is not None
        batch = Batch(
            size=SIZE,
            pyramid=_rows(self.good.pyramid, rows),
            ids=tuple(self.ids[i] for i in rows),
            category=self.category[rows],
        )
        if generator is None or self.twins is None or self.masks is None:
            return batch
        return replace(batch, twin=_rows(self.twins, rows), mask=self.masks[rows])

    @property
    def all(self) -> Batch:
        """Every sample, with its twin."""
        return self.batch(range(len(self)), torch.Generator())


def _rows(pyramid: Pyramid, rows: list[int]) -> Pyramid:
    return Pyramid(tuple(x[rows] for x in pyramid.maps))

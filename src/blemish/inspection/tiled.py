"""A graph that is given tiles, as an engine of whole pictures: scores and maps of a picture from those of its tiles.

Where tiles know their places, the graph ends at the features, and the head of each tile's place follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.image.tiles import Tiles
from blemish.inspection.engines import Engine, Outputs
from blemish.inspection.routed import Heads

TOGETHER = 8  # tiles in one call, whatever the picture's size


class Tiled:
    """An engine of `Tiles`: the score is that of the most anomalous tile, the map all of theirs, joined.

    Prepared inputs that are no tiles (noise, blanks) go through as they are: with heads, as a picture that shows the
    same at all places.
    """

    def __init__(self, engine: Engine, heads: Heads | None = None) -> None:
        self.engine, self.name, self.precision = engine, engine.name, engine.precision
        self.heads = heads

    def __call__(self, images: Any) -> Outputs:
        if not isinstance(images, list):
            return self.engine(images) if self.heads is None else self._everywhere(images, self.heads)
        scores, maps = [], []
        for picture in images:
            score, joined = self._picture(picture)
            scores.append(score)
            maps.append(joined)
        alike = len({one.shape for one in maps}) == 1
        return np.array(scores, np.float32), np.stack(maps) if alike else maps  # type: ignore[return-value]

    def _picture(self, picture: Tiles) -> tuple[float, Any]:
        blocks = [slice(i, i + TOGETHER) for i in range(0, len(picture.images), TOGETHER)]
        parts = [self._tiles(picture.images[block], picture.numbers[block]) for block in blocks]
        scores, maps = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        return float(scores.max()), picture.joined(maps)

    def _tiles(self, images: NDArray[np.uint8], numbers: Sequence[int]) -> Outputs:
        found = self.engine(images)
        if self.heads is None:
            return found
        each = [self.heads(number, [level[i] for level in found]) for i, number in enumerate(numbers)]
        return tuple(np.concatenate(parts) for parts in zip(*each, strict=True))

    def _everywhere(self, images: NDArray[np.uint8], heads: Heads) -> Outputs:
        """Score and map by the head that finds an image most anomalous."""
        levels, found = self.engine(images), []
        for i in range(len(images)):
            each = [heads(number, [level[i] for level in levels]) for number in heads.numbers]
            found.append(max(each, key=lambda outputs: float(outputs[0][0])))
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

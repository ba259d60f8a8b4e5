"""A graph that is given tiles, as an engine of whole pictures: scores and maps of a picture from those of its tiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from blemish.data.image.tiles import Tiles
from blemish.inspection.engines import Engine, Outputs

TOGETHER = 8  # tiles in one call, whatever the picture's size


class Tiled:
    """An engine of `Tiles`: the score is that of the most anomalous tile, the map all of theirs, joined.

    Prepared inputs that are no tiles (noise, blanks) go through as they are.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.name, self.precision = engine, engine.name, engine.precision

    def __call__(self, images: Any) -> Outputs:
        if not isinstance(images, list):
            return self.engine(images)
        scores, maps = [], []
        for picture in images:
            score, joined = self._picture(picture)
            scores.append(score)
            maps.append(joined)
        alike = len({one.shape for one in maps}) == 1
        return np.array(scores, np.float32), np.stack(maps) if alike else maps  # type: ignore[return-value]

    def _picture(self, picture: Tiles) -> tuple[float, Any]:
        parts = [self.engine(picture.images[i : i + TOGETHER]) for i in range(0, len(picture.images), TOGETHER)]
        scores, maps = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        return float(scores.max()), picture.joined(maps)

"""Whether each tile gets a head of its own, which knows the tile's place: only where good pictures lie alike.

The rule of `tile_places=auto`: pictures of one size, two to `MOST` tiles, `FEWEST` good pictures or more, a method that
learns in one pass, heads of `LARGEST` bytes or less together, and at most `WORTH` of the spread of good tiles left
within a place (`spread_left`). The limits were set by thought; no measurement chose them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.image.modality import Images
from blemish.data.image.preprocess import Preprocess
from blemish.data.image.reading import read_shown, size_of
from blemish.errors import ConfigError, DataError
from blemish.inspection.routed import KEPT
from blemish.methods.base import Method
from blemish.types import Record

MOST = KEPT  # heads, all of which stay compiled at inspection
LOOKED = 50  # good pictures that are compared
FEWEST = 10  # good pictures to learn from; of fewer a head learns too little
SMALL = 16  # pixels of a tile's side as it is compared
PLAIN = 4.0  # pixels of the blur that is taken away from it: slow shades of the light are no place
WORTH = 0.5  # of the spread of good tiles
LARGEST = 2**30  # bytes of all heads


def decided(kind: Images, good: Sequence[Record], asked: str, method: type[Method[Any]], bytes_of_head: int) -> Images:
    """The modality with the shape in which its tiles know their places, where they are to; as it is otherwise.

    With "on" DataError naming a picture of another size, ConfigError where there are too many tiles.
    """
    tiles = kind.preprocess.tiles
    if tiles is None or asked == "off":
        return kind
    shape, other = _shape(kind.preprocess, good)
    if other is not None and asked == "on":
        message = (
            f"is not {shape[1]} x {shape[0]} pixels large as the first picture, and tiles are to know their places"
        )
        raise DataError(message, path=other.path, hint="pictures of one size, or --tile-places off")
    count = len(kind.preprocess.tile_numbers(shape))
    if asked == "on" and count > MOST:
        message = f"{count} tiles of a picture have a head each, and a model has at most {MOST}"
        raise ConfigError(message, hint="larger tiles (--tiles), or --tile-places off")
    placed = Images(replace(kind.preprocess, tiles=tiles._replace(shape=shape)))
    if asked == "on":
        return placed
    possible = other is None and 2 <= count <= MOST and len(good) >= FEWEST and not method.fitted_modules
    small = count * bytes_of_head <= LARGEST
    return placed if possible and small and spread_left(placed.preprocess, good) <= WORTH else kind


def _shape(preprocess: Preprocess, good: Sequence[Record]) -> tuple[tuple[int, int], Record | None]:
    """(H, W) of the pictures, and one of another size, if any; of located parts all have that of the crop."""
    if preprocess.locate is not None:
        return preprocess.locate.pixels, None
    sizes = [size_of(record)[0] for record in good]
    wide, high = sizes[0]
    return (high, wide), next((r for r, size in zip(good, sizes, strict=True) if size != sizes[0]), None)


def spread_left(preprocess: Preprocess, good: Sequence[Record]) -> float:
    """Mean squared difference of a small grey tile from the mean of the other pictures' tiles at its place, over that
    from the mean of all of their tiles; of `LOOKED` good pictures. About 0 where pictures lie alike, 1 of a texture."""
    looks = []
    for record in good[:: -(-len(good) // LOOKED)]:
        pictures = preprocess.in_8_bit(read_shown(record, max_pixels=preprocess.max_pixels))
        try:
            looks.append(_small_tiles(preprocess, preprocess.whole(pictures)[0]))
        except DataError as error:
            raise error.at(record.path) from None
    tiles = np.stack(looks)
    others = (tiles.sum(0) - tiles) / (len(tiles) - 1)
    place = float(np.square(tiles - others).mean())
    anywhere = float(np.square(tiles - others.mean(1, keepdims=True)).mean())
    return place / anywhere if anywhere > 0 else 1.0


def _small_tiles(preprocess: Preprocess, whole: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(K, SMALL, SMALL): each inspected tile of a picture in grey, without slow shades."""
    assert preprocess.tiles is not None
    grey = np.asarray(cv2.cvtColor(whole, cv2.COLOR_RGB2GRAY) if whole.ndim == 3 else whole)
    shape = grey.shape[0], grey.shape[1]
    places = preprocess.tiles.places(shape)
    out = []
    for number in preprocess.tile_numbers(shape):
        cut = preprocess.tiles.cut(grey, places[number])
        small = cv2.resize(cut, (SMALL, SMALL), interpolation=cv2.INTER_AREA).astype(np.float32)
        out.append(small - cv2.GaussianBlur(small, (0, 0), PLAIN))
    return np.stack(out)

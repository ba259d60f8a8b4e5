"""Sizes of network inputs, and the way of an image to one and of an anomaly map back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.image.header import open_header
from blemish.data.image.levels import Levels, kind_of
from blemish.data.image.lightings import Lightings, Lit
from blemish.data.image.posing import Posing
from blemish.data.image.resolution import parse_scale
from blemish.data.image.roi import roi_at, unpack_roi
from blemish.data.image.template import locator_of
from blemish.data.image.tiles import Tiles, Tiling
from blemish.errors import ConfigError, DataError
from blemish.files import MAX_PIXELS
from blemish.types import Pose

_OUTSIDE = np.uint8(127)  # the grey that backbones are centred on
MOST_SIDE = 8192  # pixels of a network input's side; features of more would not fit into memory
AREA_TOLERANCE = 0.15  # share of the pixel budget that a rounding may miss or exceed for the sake of the aspect


@dataclass(frozen=True, slots=True)
class ImageSize:
    """A wanted input size in pixels. With `keep_aspect`, width x height is a budget of pixels and no shape."""

    width: int
    height: int
    keep_aspect: bool = False

    def __str__(self) -> str:
        if self.keep_aspect:
            return str(self.width)
        return f"{self.width}sq" if self.width == self.height else f"{self.width}x{self.height}"


def parse_image_size(text: str | int) -> ImageSize:
    """A size from `256` (pixels² with the aspect kept), `320x128` (width x height) or `256sq`; otherwise
    ConfigError."""
    match = re.fullmatch(r"([1-9]\d{0,4})(?:(sq)|x([1-9]\d{0,4}))?", str(text).strip(), re.ASCII)
    if match is None:
        hint = "use 256 (pixel budget, aspect kept), 320x128 (width x height) or 256sq"
        raise ConfigError(f"image size '{text}' is not understood", hint=hint)
    width, square, height = match.groups()
    return ImageSize(int(width), int(height or width), keep_aspect=square is None and height is None)


def resolve(image_size: ImageSize, median_aspect: float, stride: int) -> tuple[int, int]:
    """(H, W) in multiples of `stride`, at least one each; `median_aspect` is W/H of the images.

    An exact size is rounded to the nearest multiples. A budget takes, of the roundings up and down of its ideal sides,
    the one nearest in log-aspect among those within AREA_TOLERANCE of the budget, else the nearest in area.
    """
    if stride < 1 or not (0 < median_aspect < math.inf):
        raise ConfigError(f"stride {stride} and aspect {median_aspect} have to be positive")
    if max(image_size.width, image_size.height) > MOST_SIDE:
        raise ConfigError(f"image size {image_size} is larger than {MOST_SIDE}", hint="256 is a good start")
    if not image_size.keep_aspect:
        sides = (image_size.height, image_size.width)
        height, width = (max(stride, math.floor(side / stride + 0.5) * stride) for side in sides)
        return height, width
    budget = image_size.width * image_size.height
    ideal = math.sqrt(budget / median_aspect), math.sqrt(budget * median_aspect)
    heights, widths = ({max(1, f(side / stride)) * stride for f in (math.floor, math.ceil)} for side in ideal)
    candidates = [(h, w) for h in sorted(heights) for w in sorted(widths)]

    def area_error(size: tuple[int, int]) -> float:
        return abs(size[0] * size[1] / budget - 1)

    def aspect_error(size: tuple[int, int]) -> float:
        return round(abs(math.log(size[1] / size[0] / median_aspect)), 9)  # so that equals tie and area decides

    near = [size for size in candidates if area_error(size) <= AREA_TOLERANCE]
    if near:
        return min(near, key=lambda size: (aspect_error(size), area_error(size)))
    return min(candidates, key=lambda size: (area_error(size), aspect_error(size)))


def median_aspect(sizes: Iterable[tuple[int, int]]) -> float:
    """W/H of the middle one of (W, H) sizes; in log space, so that turning every image gives the inverse."""
    logs = [math.log(w / h) for w, h in sizes]
    if not logs:
        raise DataError("no image sizes to take the median aspect of", hint="give at least one image")
    return math.exp(float(np.median(logs)))


def image_size_of(path: str | Path) -> tuple[int, int]:
    """(W, H) as shown, EXIF orientation applied, from the header alone. DataError where it is no image."""
    return size_and_depth(path)[0]


def size_and_depth(path: str | Path) -> tuple[tuple[int, int], bool]:
    """(W, H) as `image_size_of`, and whether its pixels may be deeper than 8 bits, from the header alone."""
    try:
        if Path(path).exists() and not Path(path).is_file():  # reading a pipe would block
            raise DataError("is no regular file", path=path, hint="name a file on disk")
        with open(path, "rb") as file:
            header, image = open_header(file, str(path))
            deep = header.bits > 8 or image is None or image.mode in ("I", "F") or image.mode.startswith("I;16")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path, hint="check path and permission") from None
    return (header.width, header.height), deep


@dataclass(frozen=True, slots=True)
class Preprocess:
    """A canonical image becomes the uint8 input of a network: 8 bits, resized, three channels in RGB order; a sample of
    several lightings three channels for each."""

    size: tuple[int, int]  # H, W
    white_uint16: float = 65535.0  # this value and all above become 255
    white_float: float = 1.0
    roi: str | None = None  # `pack_roi` of the area that is inspected; all else becomes mid-grey in every image
    black_uint16: float = 0.0  # this value and all below become 0
    black_float: float = 0.0
    darkest: float = 0.0  # the brightest value of the darkest good image, of 255; 0 = not known
    max_pixels: int = MAX_PIXELS  # larger images are refused before they are decoded
    locate: Posing | None = None  # how the part is found, which is cropped and turned to one pose
    tiles: Tiling | None = None  # each tile of a picture is an input of the network
    scale: str | None = None  # how large a source pixel is (`resolution.parse_scale`)
    areas: tuple[tuple[str, str], ...] = ()  # names in the region of interest, and `pack_roi` of each
    lightings: Lightings | None = None  # a sample is several pictures, whose levels these are
    drawn: tuple[int, int] | None = None  # (H, W) that `roi` and `areas` are packed for, where that is not `size`

    def __post_init__(self) -> None:
        if len(self.size) != 2 or any(int(side) != side or side < 1 for side in self.size):
            raise ConfigError(f"preprocess size {self.size} is not (height, width) of at least 1")
        for black, white in (self.levels.uint16, self.levels.real):
            if not -math.inf < black < white < math.inf:
                raise ConfigError(f"white has to be above black, not {white:g} above {black:g}")
        if not 0 <= self.darkest <= 255:
            raise ConfigError(f"the brightest value of a good image is {self.darkest:g}, not from 0 to 255")
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels has to be at least 1, not {self.max_pixels}")
        if self.scale is not None:
            parse_scale(self.scale)

    @classmethod
    def of(cls, size: tuple[int, int], levels: Levels, max_pixels: int = MAX_PIXELS) -> Preprocess:
        """For a network input of `size` and images of these levels."""
        (black_uint16, white_uint16), (black_float, white_float) = levels.uint16, levels.real
        return cls(size, white_uint16, white_float, None, black_uint16, black_float, levels.darkest, max_pixels)

    @property
    def levels(self) -> Levels:
        """Which values are black and white, and which are outside the learned range."""
        real = self.black_float, self.white_float
        return Levels((self.black_uint16, self.white_uint16), real, self.darkest)

    @property
    def groups(self) -> int:
        """How many pictures of three channels each the network's input has."""
        return 1 if self.lightings is None else len(self.lightings.each)

    def __call__(
        self, image: NDArray[Any] | Lit, pose: Pose | None = None, tile: int | None = None
    ) -> NDArray[np.uint8]:
        """(H, W) or (H, W, 3), uint8, uint16 or float, of lightings one for each -> (*size, 3 groups) uint8; the part
        in its pose, where it is located (in the first lighting); a tile by its number.

        DataError on another shape or type, and on values outside the learned range; PartNotFound.
        """
        pictures = self.in_8_bit(image)
        if self.tiles is not None and tile is not None:
            whole = self.whole(pictures, pose)
            return self._tile(whole, self.tiles.places((whole[0].shape[0], whole[0].shape[1]))[tile])
        if self.locate is None:
            out = [_resized(picture, self.size) for picture in pictures]
        else:
            pose = pose or self.locate.find(pictures[0])
            out = [self.locate.crop(picture, pose, self.size) for picture in pictures]
        if self.roi is not None:
            inside = self.mask(self.roi, self.size)
            out = [_greyed(one, inside) for one in out]
        return _beside(out)

    def in_tiles(self, image: NDArray[Any] | Lit, pose: Pose | None = None) -> Tiles:
        """A picture, or its located part in source pixels, as all of its tiles in the region of interest; of a plan
        that has tiles. DataError and PartNotFound as `__call__`."""
        assert self.tiles is not None
        whole = self.whole(self.in_8_bit(image), pose)
        shape = whole[0].shape[0], whole[0].shape[1]
        numbers, places = self.tile_numbers(shape), self.tiles.places(shape)
        places = [places[k] for k in numbers]
        images = np.stack([self._tile(whole, place) for place in places])
        return Tiles(images, places, shape, self.tiles.side, numbers)

    def tile_numbers(self, shape: tuple[int, int]) -> list[int]:
        """Which tiles of a picture (H, W) are inspected: those that have some of the region of interest. With a
        located part the picture is its crop. DataError as `Tiling.places`, and where none is left."""
        assert self.tiles is not None
        places = self.tiles.places(shape if self.locate is None else self.locate.pixels)
        if self.roi is None:
            return list(range(len(places)))
        inside = self.mask(self.roi, shape)
        numbers = [k for k, place in enumerate(places) if self.tiles.cut(inside, place).any()]
        if not numbers:
            raise DataError("no tile has any of the region of interest", hint="is the picture of the learned size?")
        return numbers

    def whole(self, pictures: Sequence[NDArray[np.uint8]], pose: Pose | None = None) -> list[NDArray[np.uint8]]:
        """What is cut into tiles: the pictures of a sample in 8 bits, or their part in the learned pose, in source
        pixels. PartNotFound."""
        if self.locate is None:
            return list(pictures)
        pose = pose or self.locate.find(pictures[0])
        return [self.locate.crop(picture, pose, self.locate.pixels) for picture in pictures]

    def _tile(self, whole: Sequence[NDArray[np.uint8]], place: tuple[int, int]) -> NDArray[np.uint8]:
        """One tile as the network takes it."""
        assert self.tiles is not None
        out = [_resized(self.tiles.cut(one, place), self.size) for one in whole]
        if self.roi is not None:
            shape = whole[0].shape[0], whole[0].shape[1]
            inside = self.tiles.cut(self.mask(self.roi, shape), place).astype(np.uint8)
            seen = cv2.resize(inside, self.size[::-1], interpolation=cv2.INTER_NEAREST) > 0
            out = [_greyed(one, seen) for one in out]
        return _beside(out)

    def mask(self, packed: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """`roi`, or the mask of an area, for a map or picture of a shape (H, W)."""
        return roi_at(packed, self.drawn or self.size, shape)

    def in_8_bit(self, image: NDArray[Any] | Lit) -> tuple[NDArray[np.uint8], ...]:
        """The pictures of a sample, (H, W[, 3]) in grey levels or RGB each. DataError as `__call__`."""
        if self.lightings is None:
            if isinstance(image, tuple):
                raise DataError(f"{len(image)} lightings, and the model takes one picture", hint="give that picture")
            return (_in_8_bit(image, self.levels),)
        pictures = image if isinstance(image, tuple) else (image,)
        out = []
        for one, picture in zip(self.lightings.each, self.lightings.check(pictures, None), strict=True):
            try:
                out.append(_in_8_bit(picture, one.levels))
            except DataError as error:
                raise type(error)(f"lighting '{one.name}': {error}", hint=error.hint) from None
        return tuple(out)

    def back(self, anomaly_map: NDArray[np.float32], shape: tuple[int, int], pose: Pose | None) -> NDArray[np.float32]:
        """A map of the network's input in the pixels of the picture (H, W)."""
        inside = self.inside(anomaly_map)
        if self.locate is None or pose is None:
            return to_source(inside, shape)
        return self.locate.back(inside, pose, shape)

    def inside(self, anomaly_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """The map of a network input with everything outside the region of interest at the map's lowest value."""
        if self.roi is None:
            return anomaly_map
        shape = anomaly_map.shape[0], anomaly_map.shape[1]
        return np.where(self.mask(self.roi, shape), anomaly_map, anomaly_map.min())

    @property
    def inspected(self) -> float:
        """Share of a picture that lies in the region of interest; 1 where there is none."""
        return 1.0 if self.roi is None else float(unpack_roi(self.roi, self.drawn or self.size).mean())

    def inspected_pixels(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Which pixels of a source image (H, W) lie in the region of interest; all where there is none."""
        return np.ones(shape, np.bool_) if self.roi is None else self.mask(self.roi, shape)

    def area_scores(self, anomaly_map: NDArray[np.float32]) -> tuple[float, ...]:
        """The largest value of the map of a network input, or of all tiles joined, in each named area."""
        shape = anomaly_map.shape[0], anomaly_map.shape[1]
        return tuple(float(anomaly_map[self.mask(mask, shape)].max()) for _, mask in self.areas)

    def areas_in(self, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Which area each pixel of a source image (H, W) lies in, by its number from 1; 0 = none."""
        return _numbered(self.areas, self.drawn or self.size, shape)

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name; what came later only where it is other than usual."""
        more: dict[str, Any] = {"locate": self.locate and self.locate.to_json()}
        more |= {"areas": [list(area) for area in self.areas], "tiles": self.tiles and self.tiles.to_json()}
        more |= {"drawn": self.drawn and list(self.drawn), "lightings": self.lightings and self.lightings.to_json()}
        values = {**asdict(self), "size": list(self.size), **more}
        usual: dict[str, Any] = {"max_pixels": MAX_PIXELS, "scale": None, "areas": []}
        usual |= dict.fromkeys(("locate", "tiles", "drawn", "lightings"))
        return {k: v for k, v in values.items() if k not in usual or v != usual[k]}

    def rendering(self) -> dict[str, Any]:
        """What pixels of the network's input depend on: names features in the cache, over all sets of good images."""
        values = self.to_json()
        for name in ("max_pixels", "scale", "areas"):
            values.pop(name, None)
        for levels in (values, *values.get("lightings", {}).get("each", ())):
            del levels["darkest"]
        later = {name: values.pop(name) for name in ("black_uint16", "black_float")}
        return values | {name: value for name, value in later.items() if value}  # older entries are found again

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of `to_json`; ConfigError on a missing, unknown or ill-typed value. Levels that models of an
        earlier version do not state are 0."""
        try:
            size, roi, limit = values["size"], values["roi"], values.get("max_pixels", MAX_PIXELS)
            scale, areas = values.get("scale"), tuple((str(name), str(mask)) for name, mask in values.get("areas", ()))
            known = {f.name for f in fields(cls)}
            if (
                set(values) - known
                or any(type(n) is not int for n in (*size, limit))
                or not isinstance(roi, str | None)
                or not isinstance(scale, str | None)
            ):
                raise ValueError("unknown names or sizes that are not whole numbers")
            levels = {name: float(values[name]) for name in ("white_uint16", "white_float")}
            levels |= {
                name: float(values[name]) for name in ("black_uint16", "black_float", "darkest") if name in values
            }
            locate = locator_of(values["locate"]) if "locate" in values else None
            tiles = Tiling.from_json(values["tiles"]) if "tiles" in values else None
            given: dict[str, Any] = {**levels, "locate": locate, "tiles": tiles, "scale": scale, "areas": areas}
            given["lightings"] = Lightings.from_json(values["lightings"]) if "lightings" in values else None
            if "drawn" in values:
                high, wide = map(int, values["drawn"])
                given["drawn"] = (high, wide)
            return cls(size=tuple(size), roi=roi, max_pixels=limit, **given)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"preprocess {dict(values)} is not understood ({error})") from None


@lru_cache(maxsize=4)
def _numbered(areas: tuple[tuple[str, str], ...], size: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.uint8]:
    numbers = np.zeros(size, np.uint8)
    for number, (_, mask) in enumerate(areas, 1):
        numbers[unpack_roi(mask, size)] = number
    return cast(NDArray[np.uint8], cv2.resize(numbers, shape[::-1], interpolation=cv2.INTER_NEAREST))


@lru_cache(maxsize=32)
def _table(black: float, white: float) -> NDArray[np.uint8]:
    table = np.rint(np.clip((np.arange(65536) - black) * (255 / (white - black)), 0, 255)).astype(np.uint8)
    table.flags.writeable = False
    return cast(NDArray[np.uint8], table)


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Mean over areas along an axis that shrinks (no aliasing), linear along one that grows."""
    h, w = image.shape[:2]
    H, W = size
    image = np.ascontiguousarray(image)
    if H < h or W < w:
        image = cv2.resize(image, (min(w, W), min(h, H)), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if H > h or W > w:
        image = cv2.resize(image, (W, H), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return image


def _in_8_bit(image: NDArray[Any], levels: Levels) -> NDArray[np.uint8]:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)) or image.size == 0:
        hint = "bring it into shape with blemish.data.image.decode.as_image"
        raise DataError(f"an image of shape {image.shape} is neither grey nor RGB", hint=hint)
    image = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    kind = kind_of(image.dtype)
    levels.check(image)
    if kind == "uint8":
        return cast(NDArray[np.uint8], image)
    black, white = levels.of(kind)
    if kind == "uint16":
        return cast(NDArray[np.uint8], _table(black, white)[image])
    scaled = (np.clip(image, black, white) - np.float32(black)) * np.float32(255 / (white - black))
    return cast(NDArray[np.uint8], np.rint(scaled).astype(np.uint8))


def _beside(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """(H, W, 3 groups), grey in three equal channels."""
    if len(pictures) == 1:
        return _rgb(pictures[0])
    return np.concatenate([_rgb(picture) for picture in pictures], axis=2)


def _greyed(image: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """An image (H, W[, 3]) with mid-grey outside of the region of interest."""
    return np.where(inside[(...,) + (None,) * (image.ndim - 2)], image, _OUTSIDE)


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if image.ndim == 3 else cast(NDArray[np.uint8], cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))


def to_source(anomaly_map: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """An anomaly map (h, w) brought to the source's (H, W), bilinearly; float32, values never rescaled."""
    values = np.ascontiguousarray(anomaly_map, dtype=np.float32)
    if values.shape == tuple(shape):
        return values
    resized = cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return cast(NDArray[np.float32], resized)

"""Training samples by number: frozen features of images, of their flipped views and of their damaged copies.

All but fresh twins comes through the cache, so that a step runs no backbone and memory does not grow with the data. A
damaged copy (twin) depends on the image's bytes and the copy's number alone.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.config import nearest
from blemish.data.identity import image_id
from blemish.data.image.areas import read_drawn
from blemish.data.image.channels import extent
from blemish.data.image.decode import read_image
from blemish.data.image.levels import Levels, Measured, learn, measure
from blemish.data.image.lightings import Lighting, Lightings
from blemish.data.image.locate import Locator
from blemish.data.image.modality import Images
from blemish.data.image.posing import Posing
from blemish.data.image.preprocess import (
    Preprocess,
    median_aspect,
    parse_image_size,
    resolve,
)
from blemish.data.image.reading import check_count, data_of, read_shown, shown_in, size_of
from blemish.data.image.resolution import parse_scale
from blemish.data.image.roi import pack_roi
from blemish.data.image.stated import scale_in
from blemish.data.image.template import TemplateLocator
from blemish.data.image.tiles import Tiling, parse_tiles
from blemish.data.modality import Modality
from blemish.data.synthesis.makers import MAKERS, VERSION
from blemish.data.synthesis.scenes import procedural_scene
from blemish.errors import ConfigError, DataError
from blemish.files import MAX_PIXELS, content_id
from blemish.inspection.engines import Precision
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.options import FitOptions
from blemish.learning.sources.base import Learning
from blemish.learning.sources.features import FeatureSource, Maps
from blemish.system import cores
from blemish.types import Batch, Needs, Pyramid, Record

if TYPE_CHECKING:
    import torch

    from blemish.learning.backbones.base import Backbone

Image = NDArray[np.uint8]
TWINS = 4  # damaged versions of each view
SCENES = 1024  # synthetic images that a data-independent phase learns from
KEPT = 1024  # images that stay decoded, where a method takes pixels: decoding takes as long as a small network's step
ASPECT = 0.02  # by which width / height of a region of interest and of a picture may differ, beside the rounding
MEASURED = 32  # 8-bit images whose brightness is looked up
TILT = 10.0  # degrees of a tilted view
WORTH_LOCATING = 0.7  # of the spread of good images that may be left, to turn locating on by itself
DRAWN = 2048  # pixels of a region of interest's longer side, where it is kept for whole pictures in tiles
SCENE = (256, 256)  # their size, whatever the size of the images


def _tilted(degrees: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Turned about the middle, what lies outside mirrored in."""

    def view(x: NDArray[Any]) -> NDArray[Any]:
        high, wide = x.shape[:2]
        if x.ndim == 3 and x.shape[2] > 3:  # OpenCV takes four channels, and is silent about more
            return np.concatenate([view(x[..., at : at + 3]) for at in range(0, x.shape[2], 3)], axis=2)
        turn = cv2.getRotationMatrix2D(((wide - 1) / 2, (high - 1) / 2), degrees, 1)
        return np.asarray(cv2.warpAffine(x, turn, (wide, high), borderMode=cv2.BORDER_REFLECT_101))

    return view


VIEWS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "same": lambda x: x,
    "flip_h": lambda x: x[:, ::-1],
    "flip_v": lambda x: x[::-1],
    "turn_180": lambda x: x[::-1, ::-1],
    "turn_90": lambda x: np.rot90(x, 1, (0, 1)),
    "turn_270": lambda x: np.rot90(x, 3, (0, 1)),
    "tilt_left": _tilted(TILT),
    "tilt_right": _tilted(-TILT),
}
AUTO = "auto"
"""Stands for the views that the good images suggest (`learning.views`)."""


def check_views(views: Sequence[str], size: tuple[int, int] | None = None) -> None:
    """ConfigError on a name that is no view, and on a quarter turn where the network's input is not square."""
    for view in views:
        if view not in VIEWS and view != AUTO:
            raise ConfigError(f"no view '{view}'", hint=nearest(view, [*VIEWS, AUTO]))
        if size is not None and not fits(view, size):
            raise ConfigError(f"{view} needs a square input, not {size[1]}x{size[0]}", hint="image_size=256sq")


def fits(view: str, size: tuple[int, int]) -> bool:
    """Whether a turned input has the size of the input."""
    return size[0] == size[1] or view not in ("turn_90", "turn_270")


@dataclass(frozen=True)
class Item:
    """One image to learn from."""

    id: str
    data: Callable[[], bytes]  # names its content
    image: Callable[[bytes], Image]  # of that content, as the network takes it
    content: Callable[[bytes], str] = content_id  # the id in the model's description
    variant: str = ""  # which part of that content


def files(records: Sequence[Record], preprocess: Preprocess) -> list[Item]:
    """The images of records."""
    again = lru_cache(2)(shown_in)  # tiles of one picture are asked for one after the other

    def item(record: Record) -> Item:
        decode, picture = (shown_in, record) if record.tile is None else (again, replace(record, id="", tile=None))

        def decoded(data: bytes) -> Any:
            return decode(data, picture, max_pixels=preprocess.max_pixels)

        def image(data: bytes) -> Image:
            return preprocess(decoded(data), tile=record.tile)

        def content(data: bytes) -> str:
            return image_id(data, lambda: decoded(data))

        variant = "" if record.tile is None else f"|tile {record.tile}"
        return Item(record.id, lambda: data_of(record), image, content, variant)

    return [item(record) for record in records]


def scenes(size: tuple[int, int], count: int = SCENES, groups: int = 1) -> list[Item]:
    """Synthetic images, the same for every data set and in each of several lightings."""

    def item(number: int) -> Item:
        def image(_: bytes) -> Image:
            return np.tile(procedural_scene(size, np.random.default_rng([number, VERSION])), groups)

        return Item(f"scene {number}", f"scene {number} {VERSION}".encode, image)

    return [item(number) for number in range(count)]


def read_textures(folder: str | None) -> list[Image]:
    """The images of a folder and below, as RGB; none where there is no folder."""
    if folder is None:
        return []
    from blemish.data.listing import images_in

    found = [read_image(path) for path in images_in(Path(folder), deep=True)]
    return [Preprocess(image.shape[:2])(image) for image in found]


class ImageSamples:
    """Samples of a list of items; the `learning.training.Samples` of images."""

    def __init__(
        self,
        source: FeatureSource,
        items: Sequence[Item],
        needs: Needs,
        *,
        views: Sequence[str] = (),
        textures: Sequence[Image] = (),
    ) -> None:
        check_views(views, source.preprocess.size)
        self.source, self.items, self.needs = source, items, needs
        self.views = ("same", *(v for v in views if v != "same"))
        self.maker = MAKERS[needs.twin](textures) if needs.twin else None
        drawn = hashlib.sha256(b"".join(t.tobytes() for t in textures)).hexdigest()[:16] if textures else "drawn"
        self._kept = lru_cache(KEPT)(self._drawn)
        self.made_by = f"{needs.twin}:{VERSION}:{drawn}"

    def __len__(self) -> int:
        return len(self.items)

    @property
    def categories(self) -> list[int]:
        """The decided category of each item; none where there is one product."""
        owners = self.source.categories
        return [owners[item.id] for item in self.items] if owners else []

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        """These samples; with a generator in views drawn from it, and with one of their damaged copies each."""
        chosen = [self.items[i] for i in indices]
        if generator is None:
            return self._stacked(chosen, [self._one(item, "same") for item in chosen])
        import torch

        draws = torch.randint(len(self.views) * TWINS, (len(chosen),), generator=generator).tolist()
        views = [self.views[draw // TWINS] for draw in draws]
        rows = [self._one(item, view) for item, view in zip(chosen, views, strict=True)]
        if self.maker is None:
            return self._stacked(chosen, rows)
        if self.needs.fresh:
            numbers = torch.randint(2**62, (len(chosen),), generator=generator).tolist()
            fresh = [self._fresh_twin(*each) for each in zip(chosen, views, numbers, strict=True)]
            return self._stacked(chosen, rows, fresh)
        twins = [self._twin(i, v, draw % TWINS) for i, v, draw in zip(chosen, views, draws, strict=True)]
        return self._stacked(chosen, rows, twins)

    def maps_of(self, x: NDArray[np.float32]) -> Maps:
        """What the frozen network makes of other images, normalised as `Batch.x`."""
        return self.source.maps_of(x)

    def seen_as(self, view: str, start: int, stop: int) -> Batch:
        """Samples by number, all in one view."""
        chosen = self.items[start:stop]
        return self._stacked(chosen, [self._one(item, view) for item in chosen])

    def _one(self, item: Item, view: str) -> tuple[Maps, NDArray[np.float32] | None]:
        data = item.data()
        self.source.seen.add(item.content(data))
        image = partial(self._kept if self.needs.image else self._drawn, item, view)
        maps = self.source.cached(data, item.variant + ("" if view == "same" else f"|{view}"), image)
        return maps, self.source.normalised(image()) if self.needs.image else None

    @staticmethod
    def _drawn(item: Item, view: str) -> Image:
        return np.ascontiguousarray(VIEWS[view](item.image(item.data())))

    def _twin(self, item: Item, view: str, number: int) -> tuple[Maps, NDArray[np.bool_]]:
        data = item.data()
        variant = f"{item.variant}|{view}|{self.made_by}|{number}"
        made = lru_cache(1)(lambda: self._damaged(item, view, number))
        maps = self.source.cached(data, variant, lambda: made()[0])
        return maps, self._mask(data, variant, lambda: made()[1])

    def _fresh_twin(self, item: Item, view: str, number: int) -> tuple[Maps, NDArray[np.bool_]]:
        """One that is hardly ever wanted again, and not kept."""
        image, mask = self._damaged(item, view, number)
        return self.source.extracted(image), mask

    def _damaged(self, item: Item, view: str, number: int) -> tuple[Image, NDArray[np.bool_]]:
        assert self.maker is not None
        seed = hashlib.sha256(item.data() + f"{item.variant}|{view}|{self.made_by}|{number}".encode()).digest()[:8]
        image, number = self._drawn(item, view), int.from_bytes(seed, "little")
        made = [  # the same draws for each lighting: a defect lies at one place in all of them
            self.maker(np.ascontiguousarray(image[..., at : at + 3]), np.random.default_rng(number))
            for at in range(0, image.shape[2], 3)
        ]
        if len(made) == 1:
            return made[0]  # type: ignore[no-any-return]
        return np.concatenate([one for one, _ in made], axis=2), np.any([mask for _, mask in made], axis=0)

    def _mask(self, data: bytes, variant: str, make: Callable[[], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """A twin's mask, one bit a pixel in the cache."""
        size, cache = self.source.preprocess.size, self.source.cache
        if cache is None:
            return make()
        digest = hashlib.sha256(data).hexdigest()
        name = f"mask {digest} {self.source.preprocess.rendering()} {variant}"
        if (kept := cache.get_blob(name)) is not None:
            bits = np.unpackbits(np.frombuffer(kept, np.uint8), count=size[0] * size[1])
            return bits.reshape(size).astype(np.bool_)
        mask = make()
        cache.put_blob(name, np.packbits(mask).tobytes())
        return mask

    def _stacked(
        self,
        items: Sequence[Item],
        rows: Sequence[tuple[Maps, NDArray[np.float32] | None]],
        twins: Sequence[tuple[Maps, NDArray[np.bool_]]] = (),
    ) -> Batch:
        def pyramid(maps: Sequence[Maps]) -> Pyramid:
            return Pyramid(tuple(np.stack(level) for level in zip(*maps, strict=True)))

        images = [x for _, x in rows if x is not None]
        return Batch(
            size=self.source.preprocess.size,
            pyramid=pyramid([maps for maps, _ in rows]),
            x=np.stack(images) if images else None,
            ids=tuple(item.id for item in items),
            twin=pyramid([maps for maps, _ in twins]) if twins else None,
            mask=np.stack([mask for _, mask in twins]) if twins else None,
            category=self.source.categories_of([item.id for item in items]),
        )


def read_roi(path: str, preprocess: Preprocess, records: Sequence[Record], max_pixels: int = MAX_PIXELS) -> Preprocess:
    """The plan with the region of interest of a file (see `data.image.areas`) and its named areas, for pictures of
    these records: kept in the size of the network's input, or where they are cut into tiles in their own shape.

    A warning where it covers everything; DataError where its aspect differs from that of a picture, so that it would
    cover another place, or it is empty.
    """
    shapes = [size_of(record)[0] for record in records]
    drawn = read_drawn(path, shapes, max_pixels)
    high, wide = drawn.inside.shape
    for record, (w, h) in zip(records, shapes, strict=True) if not drawn.relative else ():
        if abs(math.log(w / h * high / wide)) > ASPECT + 0.5 / wide + 0.5 / high:
            message = f"the region of interest is {wide} x {high}, and {record.path.name} {w} x {h} (width x height)"
            raise DataError(message, path=path, hint="draw it on one of the pictures that are learned from")
    if drawn.inside.all() and not drawn.areas:
        warnings.warn(f"{path}: the region of interest covers everything: 0 is what is not inspected", stacklevel=2)
    shape = None
    if preprocess.tiles is not None:
        factor = min(1.0, DRAWN / max(high, wide))
        shape = max(1, round(high * factor)), max(1, round(wide * factor))
    size = shape or preprocess.size
    areas = tuple((name, pack_roi(mask, size, f"{path}: region '{name}'")) for name, mask in drawn.areas.items())
    return replace(preprocess, roi=pack_roi(drawn.inside, size), areas=areas, drawn=shape)


def plan_preprocess(good: Sequence[Record], options: FitOptions, stride: int) -> Preprocess:
    """How an image becomes the network's input: planned from these images, with the region of interest."""
    tiles = None if options.tiles is None else parse_tiles(options.tiles)
    lightings = Lightings.parse(options.lightings)
    preprocess = plan_geometry(good, options.image_size, stride, options.max_pixels, tiles, lightings)
    if options.scale is not None:
        preprocess = replace(preprocess, scale=options.scale)
        for record in good if parse_scale(options.scale) is None else ():
            scale_in(record.path)
    if options.locate != "off" and (locator := _locator(good, preprocess, options)) is not None:
        high, wide = locator.size
        if tiles is None:
            size = resolve(parse_image_size(options.image_size), wide / high, stride)
            return replace(preprocess, size=size, locate=locator)
        if min(locator.pixels) < tiles.side:
            message = f"the located part has {wide:.0f} x {high:.0f} pixels, a tile {tiles.side} x {tiles.side}"
            raise DataError(message, hint="smaller tiles (--tiles), or none")
        return replace(preprocess, locate=locator)
    return preprocess if options.roi is None else read_roi(options.roi, preprocess, good, options.max_pixels)


def _locator(good: Sequence[Record], preprocess: Preprocess, options: FitOptions) -> Posing | None:
    """How the part is found in pictures like these. With "auto" None where it cannot be told, or is not worth it;
    otherwise DataError."""

    def picture(number: int) -> Image:
        return preprocess.in_8_bit(read_shown(good[number], max_pixels=preprocess.max_pixels))[0]

    asked, names = options.locate, [str(record.path) for record in good]
    several = asked == "several"
    found: Posing
    try:
        if options.template is None:
            found = Locator.learn(picture, names, several=several)
        else:
            levels = preprocess.levels if preprocess.lightings is None else preprocess.lightings.each[0].levels
            shown = read_image(options.template, max_pixels=preprocess.max_pixels)
            drawn = Preprocess.of(preprocess.size, levels).in_8_bit(shown)[0]
            found = _of_template(options.template, drawn, picture, names, several)
    except DataError as error:
        if asked != "auto":
            raise
        warnings.warn(f"parts are not located: {error}", stacklevel=2)
        return None
    return found if found.narrowed < WORTH_LOCATING or asked != "auto" else None


def _of_template(
    path: str, drawn: Image, picture: Callable[[int], Image], names: Sequence[str], several: bool
) -> TemplateLocator:
    try:
        return TemplateLocator.learn(drawn, picture, names, several=several)
    except DataError as error:
        raise error.at(path) from None  # where it names no good picture


def suggested_locator(good: Sequence[Record], options: FitOptions) -> Posing | None:
    """How `locate=auto` would locate the part of these images; None where it would not."""
    plain = plan_geometry(good, options.image_size, 1, options.max_pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # why it would not
        return _locator(good, plain, replace(options, locate="auto"))


def plan_geometry(
    good: Sequence[Record],
    image_size: str,
    stride: int,
    max_pixels: int = MAX_PIXELS,
    tiles: Tiling | None = None,
    lightings: Lightings | None = None,
) -> Preprocess:
    """The network's input for these images: size at their median aspect, or of a tile, and the levels of their values,
    of each lighting its own.

    Deep and real-valued images are all measured, 8-bit ones in part, spread over the set: they need no range.
    """
    heads = [(r, *size_of(r)) for r in good]
    if tiles is not None:
        for record, (wide, high), _ in heads:
            try:
                tiles.places((high, wide))
            except DataError as error:
                raise error.at(record.path) from None
    aspect = 1.0 if tiles is not None else median_aspect(shape for _, shape, _ in heads)
    size = resolve(parse_image_size(image_size), aspect, stride)
    deep, flat = ([r for r, _, is_deep in heads if is_deep is wanted] for wanted in (True, False))
    measured = [*deep, *flat[:: max(1, len(flat) // MEASURED)]]

    def values(record: Record) -> list[Measured]:
        shown = read_shown(record, max_pixels=max_pixels)
        return [measure(one) for one in (shown if isinstance(shown, tuple) else (shown,))]

    with ThreadPoolExecutor(cores()) as pool:
        found = [*zip(*pool.map(values, measured), strict=True)]
    if lightings is None:
        return replace(Preprocess.of(size, learn(found[0]), max_pixels), tiles=tiles)
    learned = replace(lightings, each=_levels(lightings, found), of=_channels(good, lightings))
    return replace(Preprocess.of(size, Levels(), max_pixels), tiles=tiles, lightings=learned)


def _levels(lightings: Lightings, found: Sequence[Sequence[Measured]]) -> tuple[Lighting, ...]:
    """The lightings with the levels of their own values; DataError as `levels.learn`, naming the lighting."""
    out = []
    for one, measured in zip(lightings.each, found, strict=True):
        try:
            out.append(replace(one, levels=learn(measured)))
        except DataError as error:
            raise DataError(f"lighting '{one.name}': {error}", hint=error.hint) from None
    return tuple(out)


def _channels(good: Sequence[Record], lightings: Lightings) -> int:
    """How many channels each file has that shows all lightings; 0 where each has its own. DataError where they
    differ."""
    if not lightings.in_one_file:
        return 0
    first = extent(good[0].path).channels
    for record in good:
        check_count(extent(record.path).channels, first, str(record.path))
    return first


def _plan(learn: Sequence[Record], options: FitOptions, backbone: Backbone) -> Modality[Any]:
    return Images(plan_preprocess(learn, options, backbone.stride))


def _open(
    kind: Images,
    backbone: Backbone,
    cache: FeatureCache | None,
    *,
    threads: int | None = None,
    precision: Precision = "f32",
    image: bool = False,
) -> FeatureSource:
    return FeatureSource(backbone, kind.preprocess, cache, threads=threads, precision=precision, image=image)


def _samples(
    source: FeatureSource, records: Sequence[Record], needs: Needs, options: FitOptions, textures: Sequence[Any]
) -> ImageSamples:
    items = files(records, source.preprocess)
    return ImageSamples(source, items, needs, views=options.views, textures=textures)


LEARNING = Learning(("pyramid", "image"), Images, _plan, _open, _samples)

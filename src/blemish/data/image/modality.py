"""Images: files or arrays become uint8 (H, W, 3); maps come back in source pixels."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from blemish.data.drawing import Picture, Scale
from blemish.data.identity import image_id
from blemish.data.image import picture
from blemish.data.image.channels import NPY
from blemish.data.image.decode import as_image, decode_image, is_encoded, read_image, read_mask, take_encoded
from blemish.data.image.lightings import Lightings, Lit
from blemish.data.image.measures import measure
from blemish.data.image.preprocess import Preprocess
from blemish.data.image.reading import Shown, channels_in, check_count, data_of, first_of, grouped, shown_in, size_of
from blemish.data.image.resolution import parse_scale
from blemish.data.image.saturation import saturated_masks
from blemish.data.image.stated import scale_in
from blemish.data.image.tiles import Tiles
from blemish.data.listing import Listing, is_image, list_images
from blemish.data.modality import Cut, Modality
from blemish.data.regions import cut, find_regions
from blemish.errors import DataError, PartNotFound
from blemish.files import MOST_PIXELS, as_path, content_id, walk
from blemish.outputs import without_maps
from blemish.system import cores
from blemish.types import LightingFile, Pose, Record, Region

Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Located:
    """A canonical image, of several lightings one for each, and where its part lies; or why there is none."""

    shown: Shown
    pose: Pose | None = None
    alarm: str | None = None
    in_8_bit: Lit | None = None  # in the first of which the part was looked for

    @property
    def pixels(self) -> Pixels:
        """The picture that stands for the sample."""
        return first_of(self.shown)


@dataclass(frozen=True, slots=True)
class PartOf:
    """One of several parts that a picture shows, by its number from left to right."""

    path: Path
    number: int

    def __fspath__(self) -> str:
        return os.fspath(self.path)


@dataclass(frozen=True, slots=True)
class LitPath:
    """The file that stands for a sample, and those of its lightings, which need not be found by its name."""

    path: Path
    lightings: tuple[LightingFile, ...]

    def __fspath__(self) -> str:
        return os.fspath(self.path)


class Images(Modality[Located]):
    """`Raw` is a canonical image (see `data.image.decode`), with the place of the part where the model looks for it."""

    name = "image"
    samples = "images"
    map_unit = "source pixels, mask > 0, 8-connected regions, pooled over the set"
    legend = "The part as photographed, beside it what the model found unusual."
    part = "part"
    found = "Boxes are areas"
    marked = "A green outline is the defect as marked by people."
    hint = "png, jpg, tif, bmp, webp, gif, pgm, ppm, jp2 and avif are read"
    encoded = True
    takes_in = "pixels (width x height)"
    preprocess: Preprocess

    @classmethod
    def from_json(cls, preprocess: Mapping[str, Any]) -> Self:
        return cls(Preprocess.from_json(preprocess))

    @property
    def several(self) -> bool:
        return self.preprocess.locate is not None and self.preprocess.locate.several

    @property
    def locates(self) -> bool:
        return self.preprocess.locate is not None

    @property
    def cut(self) -> Cut | None:
        plan = self.preprocess.lightings
        return None if plan is None else Cut(lightings=plan.texts)

    @property
    def lightings(self) -> tuple[str, ...]:
        return () if self.preprocess.lightings is None else self.preprocess.lightings.names

    @property
    def read_from_files(self) -> bool:
        return self.preprocess.lightings is not None and not self.preprocess.lightings.in_one_file

    @staticmethod
    def content(record: Record) -> str:
        # the model has a limit of its own; here only the largest allowed one applies
        data = data_of(record, max_bytes=16 * MOST_PIXELS)
        return image_id(data, lambda: shown_in(data, record, max_pixels=MOST_PIXELS))

    @staticmethod
    def file_content(record: Record) -> str:
        return content_id(data_of(record))

    @classmethod
    def contents(cls, records: Sequence[Record]) -> Iterator[str]:
        """Decoded on all cores, a few at a time."""
        waiting: deque[Future[str]] = deque()
        with ThreadPoolExecutor(cores()) as pool:
            try:
                for record in records:
                    waiting.append(pool.submit(cls.content, record))
                    if len(waiting) > 2 * cores():
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    @staticmethod
    def source(record: Record) -> Path | LitPath:
        return LitPath(record.path, record.lightings) if record.lightings else record.path

    @staticmethod
    def mask(record: Record, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        return None if record.mask is None else read_mask(record.mask, (shape[0], shape[1]))

    @staticmethod
    def saturated(record: Record, shape: tuple[int, ...]) -> list[tuple[NDArray[np.bool_], int]]:
        return saturated_masks(record, (shape[0], shape[1]))

    @staticmethod
    def is_sample(path: Path) -> bool:
        return is_image(path)

    @classmethod
    def files(cls, folder: Path, cut: Cut | None = None) -> list[Path]:
        """By their first bytes too, where the name says nothing; arrays, where a file shows several lightings."""
        return _listed(folder, cut).files

    @classmethod
    def listing(cls, folder: Path, cut: Cut | None = None) -> Listing:
        found, plan = _listed(folder, cut), _lightings(cut)
        if plan is None:
            return found
        samples, wrong = plan.sorted_out(found.files)
        return found._replace(files=samples, unread=[*found.unread, *wrong])

    @classmethod
    def completed(cls, records: Sequence[Record], cut: Cut | None) -> list[Record]:
        plan = _lightings(cut)
        return list(records) if plan is None else plan.completed(records)

    def named_with(self, paths: Sequence[Path]) -> set[Path]:
        plan = self.preprocess.lightings
        if plan is None:
            return set()
        known, out = set(paths), set()
        for path in paths:
            try:
                out |= known & {file.path for file in plan.at(path)[1:]}
            except DataError:  # said when it is inspected
                continue
        return out - {path for path in paths if plan.in_one_file}

    def is_one(self, array: NDArray[Any]) -> bool:
        if self.lightings:
            return array.dtype.kind in "buif" and array.ndim in (2, 3)
        return array.dtype.kind in "buif" and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4)))

    def grab(self, source: Any) -> Any:
        if is_encoded(source):
            return take_encoded(source, max_bytes=16 * self.preprocess.max_pixels)
        if isinstance(source, Mapping):
            return {name: self.grab(one) for name, one in source.items()}
        if isinstance(source, list | tuple) and self.lightings:
            return [self.grab(one) for one in source]
        return super().grab(source)

    def read(self, source: Any) -> Located:
        """A file, its bytes or a binary stream of them, a PIL image, an array or a tensor; of several lightings also a
        mapping or a list of those."""
        plan = self.preprocess.lightings
        shown = self._pixels(source) if plan is None else plan.check(self._lit(source, plan), _name_of(source))
        return self._located(shown, source.number if isinstance(source, PartOf) else 0)

    def sources(self, path: Path) -> list[Any]:
        """The file, or each part that it shows where they may be several: found at once, and read one by one."""
        locator = self.preprocess.locate
        if locator is None or not locator.several:
            return [path]
        plan = self.preprocess.lightings
        shown = self._pixels(path) if plan is None else self._lit(path, plan)
        picture = self.preprocess.in_8_bit(shown)[0]
        try:
            return [PartOf(path, number) for number in range(len(locator.find_all(picture)))]
        except PartNotFound:
            return [path]  # an alarm, when it is inspected

    def _located(self, shown: Shown, number: int = 0) -> Located:
        if self.preprocess.locate is None:
            return Located(shown)
        pictures = self.preprocess.in_8_bit(shown)
        try:
            return Located(shown, self.preprocess.locate.find(pictures[0], number), in_8_bit=pictures)
        except PartNotFound as error:
            return Located(shown, alarm=str(error))

    def _pixels(self, source: Any) -> Pixels:
        limit = self.preprocess.max_pixels
        if isinstance(source, str | os.PathLike):
            return read_image(source, max_pixels=limit)
        if is_encoded(source):
            data, name = take_encoded(source, max_bytes=16 * limit)
            return decode_image(data, name, max_pixels=limit)
        return as_image(source)

    def _lit(self, source: Any, plan: Lightings) -> Lit:
        """A picture for each lighting, out of the file that stands for a sample or of what the caller hands over."""
        limit = self.preprocess.max_pixels
        if isinstance(source, str | os.PathLike):
            path = as_path(source)
            files = source.lightings if isinstance(source, LitPath) else plan.at(path)
            record = Record(str(path), path, lightings=files)
            shown = self._shown(data_of(record, max_bytes=16 * limit), record)
            assert isinstance(shown, tuple)
            return shown
        if is_encoded(source):
            if not plan.in_one_file:
                message = f"one file, and the model takes one for each lighting: {', '.join(plan.names)}"
                raise DataError(message, hint="hand over a dict by their names")
            data, name = take_encoded(source, max_bytes=16 * limit)
            return channels_in(data, plan.at(Path(name)), max_pixels=limit, of=plan.of)
        if isinstance(source, Mapping):
            source = plan.ordered(source)
        if isinstance(source, list | tuple):
            return tuple(map(self._pixels, source))
        return self._split(np.asarray(source), plan)

    @staticmethod
    def _split(array: NDArray[Any], plan: Lightings) -> Lit:
        """The lightings of one array (H, W, C)."""
        if array.ndim not in (2, 3):
            raise DataError(f"an array of shape {array.shape} is not (H, W, channels)", hint="give all channels")
        channels = [as_image(one) for one in (np.moveaxis(array, 2, 0) if array.ndim == 3 else array[None])]
        if plan.in_one_file:
            check_count(len(channels), plan.of, None)
            wanted = [channels[k] for one in plan.each for k in one.channels]
            return grouped(wanted, plan.at(Path("array")), None)
        count = len(plan.each)
        if len(channels) == count:
            return tuple(channels)
        if len(channels) == 3 * count:
            return tuple(np.stack(channels[3 * k : 3 * k + 3], axis=2) for k in range(count))
        message = f"an array of {len(channels)} channels, and the model takes {count} lightings of 1 or 3 each"
        raise DataError(message, hint=f"give (H, W, {count}), or a dict by the names {', '.join(plan.names)}")

    def _shown(self, data: bytes, record: Record) -> Shown:
        plan = self.preprocess.lightings
        return shown_in(data, record, max_pixels=self.preprocess.max_pixels, of=0 if plan is None else plan.of)

    def load(self, record: Record) -> tuple[str, Located]:
        data = data_of(record, max_bytes=16 * self.preprocess.max_pixels)
        shown = self._shown(data, record)
        if (plan := self.preprocess.lightings) is not None and isinstance(shown, tuple):
            plan.check(shown, record.path)
        return image_id(data, lambda: shown), self._located(shown)

    def prepare(self, raw: Located) -> Any:
        """As the network takes it; where pictures are inspected in tiles, a `Tiles`."""
        if raw.alarm is not None:
            raise PartNotFound(raw.alarm)
        if self.preprocess.tiles is not None:
            return self.preprocess.in_tiles(raw.shown, raw.pose)
        if raw.in_8_bit is None:
            return self.preprocess(raw.shown)
        return self.preprocess(raw.in_8_bit if self.lightings else raw.in_8_bit[0], raw.pose)

    def alarm(self, raw: Located) -> str | None:
        return raw.alarm

    def pieces(self, records: Sequence[Record]) -> list[Record]:
        """Each tile of each; records of tiles stay as they are."""
        if self.preprocess.tiles is None:
            return list(records)
        out = []
        for record in records:
            if record.tile is not None:
                out.append(record)
                continue
            (wide, high), _ = size_of(record)
            numbers = self.preprocess.tile_numbers((high, wide))
            out += [replace(record, id=f"{record.id}#{k}", unit=record.whole, tile=k) for k in numbers]
        return out

    @property
    def tile_heads(self) -> tuple[int, ...]:
        tiles = self.preprocess.tiles
        return () if tiles is None or tiles.shape is None else tuple(self.preprocess.tile_numbers(tiles.shape))

    def example(self, record: Record) -> NDArray[np.uint8]:
        prepared = self.ready(record)[1]
        if not isinstance(prepared, Tiles):
            return prepared
        return prepared.images[
            len(prepared.images) // 2 if record.tile is None else prepared.numbers.index(record.tile)
        ]

    def stack(self, prepared: Sequence[Any]) -> Any:
        return list(prepared) if isinstance(prepared[0], Tiles) else super().stack(prepared)

    def noise(self, generator: np.random.Generator) -> NDArray[np.uint8]:
        return generator.integers(0, 256, (*self.preprocess.size, 3 * self.preprocess.groups), dtype=np.uint8)

    def blank(self) -> NDArray[np.uint8] | None:
        """Mid-grey all over: a lens cap in light, a picture of the wrong bit depth. None where a part is looked for,
        since none is found in it."""
        if self.preprocess.locate is not None:
            return None
        return np.full((*self.preprocess.size, 3 * self.preprocess.groups), 127, np.uint8)

    def back(self, anomaly_map: NDArray[np.float32], raw: Located) -> NDArray[np.float32]:
        high, wide = raw.pixels.shape[:2]
        return self.preprocess.back(anomaly_map, (high, wide), raw.pose)

    def inspected(self, raw: Located) -> NDArray[np.bool_] | None:
        return None if self.preprocess.roi is None else self.preprocess.inspected_pixels(raw.pixels.shape[:2])

    def regions(self, anomaly_map: NDArray[np.float32], threshold: float, raw: Located) -> tuple[Region, ...]:
        return find_regions(anomaly_map, threshold)

    @property
    def measures(self) -> bool:
        return self.scaled or bool(self.preprocess.areas)

    @property
    def scaled(self) -> bool:
        return self.preprocess.scale is not None

    @property
    def areas(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.preprocess.areas)

    def area_scores(self, anomaly_map: NDArray[np.float32]) -> tuple[float, ...]:
        return self.preprocess.area_scores(anomaly_map)

    def millimetres(self, source: Any) -> float | None:
        """For each pixel of a source; None where the model states no scale. DataError where its file should and does
        not."""
        scale = self.preprocess.scale
        return None if scale is None else parse_scale(scale) or scale_in(source)

    def check(self, source: Any) -> None:
        self.millimetres(source)

    def measured(
        self,
        anomaly_map: NDArray[np.float32],
        threshold: float,
        raw: Located,
        source: Any,
    ) -> tuple[Region, ...]:
        size = self.millimetres(source)
        numbers = self.preprocess.areas_in(raw.pixels.shape[:2]) if self.areas else None
        found = [self._measured(region, mask, size, numbers) for region, mask in cut(anomaly_map, threshold)]
        return tuple(sorted(found, key=lambda r: -r.peak))

    def _measured(
        self, region: Region, mask: NDArray[np.bool_], size: float | None, numbers: NDArray[np.uint8] | None
    ) -> Region:
        """The area is the one that has the most of the region's pixels; none where it lies beside all of them."""
        length, width, (x, y) = measure(mask)
        region = replace(region, length_px=length, width_px=width)
        if numbers is not None:
            x0, y0, x1, y1 = region.bbox
            counts = np.bincount(numbers[y0:y1, x0:x1][mask], minlength=len(self.areas) + 1)
            counts[0] = 0
            region = replace(region, area=self.areas[counts.argmax() - 1] if counts.any() else None)
        if size is None:
            return region
        return replace(
            region,
            length_mm=length * size,
            width_mm=width * size,
            area_mm2=region.area_px * size**2,
            position_mm=((region.bbox[0] + x) * size, (region.bbox[1] + y) * size),
        )

    def named(self, source: Any, raw: Located) -> dict[str, Any]:
        path = str(as_path(source)) if isinstance(source, str | os.PathLike) else None
        return {"image_path": path, "pose": raw.pose, "lightings": self.lightings}

    def picture(
        self, raw: Located, anomaly_map: NDArray[np.float32], *, scale: Scale, regions: Sequence[Region] = ()
    ) -> Picture:
        return picture.overlay(raw.pixels, anomaly_map, low=scale.low, high=scale.high, regions=regions)

    def thumbnail(
        self,
        raw: Located,
        anomaly_map: NDArray[np.float32],
        *,
        scale: Scale,
        regions: Sequence[Region] = (),
        mask: NDArray[np.bool_] | None = None,
    ) -> Picture:
        return picture.thumbnail(raw.pixels, anomaly_map, scale=scale, regions=regions, mask=mask)


def _lightings(cut: Cut | None) -> Lightings | None:
    return None if cut is None else Lightings.parse(cut.lightings)


def _listed(folder: Path, cut: Cut | None) -> Listing:
    """Every picture; arrays are pictures too, where a file shows several lightings."""
    found, plan = list_images(folder), _lightings(cut)
    if plan is None or not plan.in_one_file or not found.other[NPY]:
        return found
    arrays = [path for path in without_maps(walk(folder).files) if path.suffix.lower() == NPY]
    other = found.other.copy()
    del other[NPY]
    return found._replace(files=sorted([*found.files, *arrays]), other=other)


def _name_of(source: Any) -> str | None:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else None


MODALITY = Images

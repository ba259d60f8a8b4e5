"""Images: files or arrays become uint8 (H, W, 3); maps come back in source pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from blemish import drawing
from blemish.data.decode import as_image, content_id, decode_image, read_file, read_image, read_mask
from blemish.data.geometry import Preprocess, to_source
from blemish.data.layouts._common import images_in
from blemish.drawing import Picture, Scale
from blemish.kinds.base import SampleKind
from blemish.regions import find_regions
from blemish.types import Record, Region

Pixels = NDArray[Any]


class Images(SampleKind[Pixels]):
    """`Raw` is a canonical image (see `data.decode`)."""

    name = "image"
    map_unit = "source pixels, mask > 0, 8-connected regions, pooled over the set"
    legend = "The part as photographed, beside it what the model found unusual."
    part = "part"
    found = "Boxes are areas"
    marked = "A green outline is the defect as marked by people."
    hint = "png, jpg, tif, bmp and webp are read"
    preprocess: Preprocess

    @classmethod
    def from_json(cls, preprocess: Mapping[str, Any]) -> Self:
        return cls(Preprocess.from_json(preprocess))

    @staticmethod
    def content(record: Record) -> str:
        return content_id(read_file(record.path))

    @staticmethod
    def source(record: Record) -> Path:
        return record.path

    @staticmethod
    def mask(record: Record, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        return None if record.mask is None else read_mask(record.mask, (shape[0], shape[1]))

    @staticmethod
    def files(folder: Path) -> list[Path]:
        return images_in(folder, deep=True)

    def read(self, source: Any) -> Pixels:
        if isinstance(source, str | Path):
            return read_image(source, max_pixels=self.preprocess.max_pixels)
        return as_image(source)

    def load(self, record: Record) -> tuple[str, Pixels]:
        data = read_file(record.path)
        return content_id(data), decode_image(data, str(record.path), max_pixels=self.preprocess.max_pixels)

    def prepare(self, raw: Pixels) -> NDArray[np.uint8]:
        return self.preprocess(raw)

    def noise(self, generator: np.random.Generator) -> NDArray[np.uint8]:
        return generator.integers(0, 256, (*self.preprocess.size, 3), dtype=np.uint8)

    def blank(self) -> NDArray[np.uint8]:
        """Mid-grey all over: a lens cap in light, a picture of the wrong bit depth."""
        return np.full((*self.preprocess.size, 3), 127, np.uint8)

    def back(self, anomaly_map: NDArray[np.float32], raw: Pixels) -> NDArray[np.float32]:
        return to_source(self.preprocess.inside(anomaly_map), raw.shape[:2])

    def regions(self, anomaly_map: NDArray[np.float32], threshold: float, raw: Pixels) -> tuple[Region, ...]:
        return find_regions(anomaly_map, threshold)

    def named(self, source: Any, raw: Pixels) -> dict[str, Any]:
        return {"image_path": str(source) if isinstance(source, str | Path) else None}

    def picture(
        self, raw: Pixels, anomaly_map: NDArray[np.float32], *, scale: Scale, regions: Sequence[Region] = ()
    ) -> Picture:
        return drawing.overlay(raw, anomaly_map, low=scale.low, high=scale.high, regions=regions)

    def thumbnail(
        self,
        raw: Pixels,
        anomaly_map: NDArray[np.float32],
        *,
        scale: Scale,
        regions: Sequence[Region] = (),
        mask: NDArray[np.bool_] | None = None,
    ) -> Picture:
        return drawing.thumbnail(raw, anomaly_map, scale=scale, regions=regions, mask=mask)

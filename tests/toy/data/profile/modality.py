"""Profiles: heights in a text file become float32 (1, L), less their median; maps come back by row of the file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from blemish.data.drawing import Picture, Scale, colours
from blemish.data.identity import values_id
from blemish.data.modality import Modality
from blemish.data.regions import find_regions
from blemish.errors import DataError
from blemish.files import as_path, content_id, read_file
from blemish.types import Record, Region

Heights = NDArray[np.float32]


@dataclass(frozen=True)
class ProfilePlan:
    """How many heights a profile has."""

    size: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "size": list(self.size)}


def heights(path: Path) -> Heights:
    try:
        return np.array([float(line) for line in read_file(path).decode().split()], np.float32)
    except ValueError:
        raise DataError("is no profile", path=path, hint="one number a line") from None


class Profiles(Modality[Heights]):
    """`Raw` is the heights of one file."""

    name = "profile"
    samples = "profiles"
    map_unit = "rows of the file"
    legend = "The profile's map, from left to right."
    part = "profile"
    found = "Stretches are places"
    marked = ""
    hint = "prof is read"
    preprocess: ProfilePlan

    @classmethod
    def from_json(cls, preprocess: Mapping[str, Any]) -> Self:
        return cls(ProfilePlan(tuple(preprocess["size"])))

    @staticmethod
    def is_sample(path: Path) -> bool:
        return path.suffix == ".prof"

    @staticmethod
    def content(record: Record) -> str:
        return values_id(heights(record.path))

    @staticmethod
    def file_content(record: Record) -> str:
        return content_id(read_file(record.path))

    @staticmethod
    def source(record: Record) -> Path:
        return record.path

    @staticmethod
    def mask(record: Record, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        return None if record.mask is None else (heights(record.mask) > 0).reshape(shape)

    def read(self, source: Any) -> Heights:
        return heights(as_path(source)) if isinstance(source, str | os.PathLike) else np.asarray(source, np.float32)

    def load(self, record: Record) -> tuple[str, Heights]:
        return self.content(record), self.read(record.path)

    def prepare(self, raw: Heights) -> Heights:
        if raw.shape != self.size:
            raise DataError(f"has {len(raw)} heights, and the model looks at {self.size[0]}")
        return (raw - np.median(raw))[None]

    def noise(self, generator: np.random.Generator) -> Heights:
        return generator.standard_normal((1, *self.size)).astype(np.float32)

    def back(self, anomaly_map: Heights, raw: Heights) -> Heights:  # noqa: ARG002
        return anomaly_map

    def regions(self, anomaly_map: Heights, threshold: float, raw: Heights) -> tuple[Region, ...]:  # noqa: ARG002
        return find_regions(anomaly_map[None], threshold)

    def named(self, source: Any, raw: Heights) -> dict[str, Any]:  # noqa: ARG002
        return {"image_path": str(as_path(source)) if isinstance(source, str | os.PathLike) else None}

    def picture(
        self,
        raw: Heights,  # noqa: ARG002
        anomaly_map: Heights,
        *,
        scale: Scale,
        regions: Sequence[Region] = (),  # noqa: ARG002
    ) -> Picture:
        return np.repeat(colours((anomaly_map - scale.low) / (scale.high - scale.low))[None], 24, axis=0)

    def thumbnail(
        self,
        raw: Heights,
        anomaly_map: Heights,
        *,
        scale: Scale,
        regions: Sequence[Region] = (),
        mask: NDArray[np.bool_] | None = None,  # noqa: ARG002
    ) -> Picture:
        return self.picture(raw, anomaly_map, scale=scale, regions=regions)


MODALITY = Profiles

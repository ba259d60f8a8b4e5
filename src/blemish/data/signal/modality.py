"""Signals: windows of recordings become float32 (K, L); maps come back in their samples, regions in seconds."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from blemish.data.drawing import Picture, Scale
from blemish.data.identity import values_id
from blemish.data.modality import Cut, Modality
from blemish.data.regions import find_regions
from blemish.data.signal import picture as strips
from blemish.data.signal.beats import beat_mask
from blemish.data.signal.preprocess import (
    Signal,
    SignalPlan,
    Window,
    as_signal,
    check_rate,
    read_window,
    spans,
    window_content,
    window_of,
)
from blemish.data.signal.recordings import (
    extent,
    is_recording,
    missing_in,
    recordings_in,
    segment_names,
    values_digest,
)
from blemish.data.signal.windows import windows_in
from blemish.errors import DataError
from blemish.files import as_path
from blemish.types import Record, Region


class Signals(Modality[Signal]):
    """`Raw` is one window with the recording's filter and scale applied, and as it was recorded."""

    name = "signal"
    samples = "windows of recordings"
    map_unit = "samples of the recording, marked or not, connected regions, pooled over the set"
    legend = (
        "Each lead as it was recorded (large squares: 0.2 s, and 0.5 mV where the unit is mV), below it the anomaly "
        "score over time; colour lies where it is high."
    )
    part = "window"
    marks_whole = True
    wide = True
    found = "Black bars are the times"
    marked = "A green bar is what people have marked."
    hint = "hea (WFDB), csv and npy are read"
    extra = ("interval",)
    timed = True
    preprocess: SignalPlan

    @classmethod
    def from_json(cls, preprocess: Mapping[str, Any]) -> Self:
        return cls(SignalPlan.from_json(preprocess))

    @property
    def cut(self) -> Cut:
        return Cut(self.preprocess.window, self.preprocess.file_rate)

    @property
    def several(self) -> bool:
        return True

    @staticmethod
    def content(record: Record) -> str:
        window = window_of(record)
        return values_id(values_digest(window.path), str(window.span))

    @staticmethod
    def file_content(record: Record) -> str:
        return window_content(window_of(record))

    @staticmethod
    def source(record: Record) -> Window:
        return window_of(record)

    @staticmethod
    def mask(record: Record, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        if record.mask is None:
            return None
        if not isinstance(record.mask, Path):
            raise DataError("has several masks, and a recording has one", path=record.path)
        return beat_mask(record.mask, record.path, record.span, shape[0])

    @staticmethod
    def is_sample(path: Path) -> bool:
        return is_recording(path)

    @classmethod
    def files(cls, folder: Path, cut: Cut | None = None) -> list[Path]:  # noqa: ARG003
        """Those that a list RECORDS names and that are missing too: each of them is an error."""
        return sorted({*recordings_in(folder, deep=True), *missing_in(folder, deep=True)})

    @classmethod
    def records(cls, path: Path, name: str, cut: Cut | None = None) -> list[Record]:
        return windows_in(path, name, cut) if cls.is_sample(path) else super().records(path, name)

    @staticmethod
    def companions(files: Sequence[Path]) -> set[Path]:
        """Signals and annotations lie beside a WFDB header, under its name or a segment's; RECORDS lists them."""
        headers = [path for path in files if path.suffix == ".hea"]
        names = {path.with_name(name) for path in headers for name in (path.stem, *segment_names(path))}
        beside = {other for path in names for other in path.parent.glob(f"{glob.escape(path.name)}.*")}
        return beside | {path.parent / "RECORDS" for path in headers}

    def sources(self, path: Path) -> list[Window]:
        """Windows side by side; one more ends with the recording, so that nothing is left out."""
        try:
            size, plan = extent(path), self.preprocess
            cut = spans(size, plan.window, plan.file_rate, whole=True)
            check_rate(size.rate or plan.file_rate or plan.rate, plan)
        except DataError as error:
            raise error.at(path) from None
        return [Window(path, span) for span in cut]

    def read(self, source: Any) -> Signal:
        if isinstance(source, Window):
            return read_window(source, self.preprocess)
        if isinstance(source, str | os.PathLike):
            return read_window(Window(as_path(source)), self.preprocess)
        return as_signal(source, self.preprocess)

    def load(self, record: Record) -> tuple[str, Signal]:
        return self.content(record), self.read(self.source(record))

    def prepare(self, raw: Signal) -> NDArray[np.float32]:
        return raw.x

    def noise(self, generator: np.random.Generator) -> NDArray[np.float32]:
        return generator.standard_normal((len(self.preprocess.leads), *self.size)).astype(np.float32)

    def back(self, anomaly_map: NDArray[np.float32], raw: Signal) -> NDArray[np.float32]:
        count = raw.values.shape[1]
        at = (np.arange(count) + 0.5) * (len(anomaly_map) / count) - 0.5
        return np.asarray(np.interp(at, np.arange(len(anomaly_map)), anomaly_map), np.float32)

    def regions(self, anomaly_map: NDArray[np.float32], threshold: float, raw: Signal) -> tuple[Region, ...]:
        found = find_regions(anomaly_map[None], threshold)
        return tuple(replace(r, interval=(_time(raw, r.bbox[0]), _time(raw, r.bbox[2]))) for r in found)

    def named(self, source: Any, raw: Signal) -> dict[str, Any]:
        path = source.path if isinstance(source, Window) else source
        named = isinstance(path, str | os.PathLike)
        span = (_time(raw, 0), _time(raw, raw.values.shape[1]))
        return {"image_path": str(as_path(path)) if named else None, "span": span}

    def picture(
        self, raw: Signal, anomaly_map: NDArray[np.float32], *, scale: Scale, regions: Sequence[Region] = ()
    ) -> Picture:
        return strips.strip(raw.values, anomaly_map, raw.rate, raw.start, raw.leads, scale, regions)

    def thumbnail(
        self,
        raw: Signal,
        anomaly_map: NDArray[np.float32],
        *,
        scale: Scale,
        regions: Sequence[Region] = (),
        mask: NDArray[np.bool_] | None = None,
    ) -> Picture:
        return strips.strip(raw.values, anomaly_map, raw.rate, raw.start, raw.leads, scale, regions, mask)


def _time(raw: Signal, sample: int) -> float:
    """Seconds in the recording."""
    return round(raw.start + sample / raw.rate, 6)


MODALITY = Signals

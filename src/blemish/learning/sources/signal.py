"""Windows of recordings for a method that takes signals as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.modality import Modality
from blemish.data.signal.modality import Signals
from blemish.data.signal.preprocess import SignalPlan, least_movement, parse_band, plan_leads
from blemish.data.signal.recordings import read_recording
from blemish.errors import ConfigError, DataError
from blemish.inspection.engines import Precision
from blemish.learning.backbones.cache import FeatureCache, feature_key
from blemish.learning.options import FitOptions
from blemish.learning.sources.base import Learning, PlainSamples, PlainSource
from blemish.types import FeatureSpec, Needs, Record

BATCH = 64  # windows that a method observes at a time
HELD = 2**28  # bytes of windows in memory while a method learns: reading them again takes a fifth of a short step


class WindowSource(PlainSource):
    """Prepared windows, from the cache or from their recordings."""

    kind: Signals

    def __init__(
        self,
        kind: Signals,
        cache: FeatureCache | None,
        *,
        threads: int | None = None,
        precision: Precision = "f32",
    ) -> None:
        spec = FeatureSpec((), (), (), inputs=len(kind.preprocess.leads))
        super().__init__(kind, spec, batch=BATCH, threads=threads, precision=precision)
        self.cache = cache
        self._kept = FeatureSpec((0,), (spec.inputs,), (kind.size,))  # what the cache holds of a window

    def prepared(self, record: Record) -> NDArray[np.float32]:
        self.seen.add(self.kind.content(record))
        key = feature_key(self.kind.file_content(record).encode(), self.preprocess.to_json(), "window", "f32")
        if self.cache is not None and (cached := self.cache.get(key, self._kept)) is not None:
            return cached[0]
        x = self.kind.prepare(self.kind.read(self.kind.source(record)))
        if self.cache is not None:
            self.cache.put(key, (x,))
        return np.asarray(x, np.float32)


class WindowSamples(PlainSamples):
    """Windows by number, the first of them held in memory; others are read at each step."""

    def __init__(self, source: WindowSource, records: Sequence[Record]) -> None:
        super().__init__(source, records)
        self._held: dict[int, NDArray[np.float32]] = {}
        self._most = HELD // (4 * source.spec.inputs * source.kind.size[-1])

    def prepared(self, number: int) -> NDArray[np.float32]:
        if number in self._held:
            return self._held[number]
        x = super().prepared(number)
        if len(self._held) < self._most:
            self._held[number] = np.array(x)  # not a file's map
        return x


def _plan(learn: Sequence[Record], options: FitOptions, backbone: Any) -> Modality[Any]:  # noqa: ARG001
    """The leads that the options name, else those that all recordings share; rate and filter from the options; and how
    little the leads move.

    DataError where a rate is unknown, or a window cannot be used.
    """
    plan = SignalPlan(
        leads=plan_leads((record.path for record in learn), options.leads),
        rate=options.resample,
        window=options.window,
        band=parse_band(options.band),
        file_rate=options.file_rate,
    )
    first = read_recording(learn[0].path)
    rate = first.rate or options.file_rate
    if rate is None:
        raise DataError(
            "does not state its sampling rate", path=learn[0].path, hint="file_rate (--rate) gives it, in Hz"
        )
    if first.piece is not None:  # a table of windows: their length is fixed
        plan = replace(plan, window=first.piece / rate)
    windows = sorted(map(Signals.source, learn), key=lambda window: str(window.path))  # each recording is read once
    return Signals(replace(plan, least=least_movement(windows, plan)))


def _open(
    kind: Signals,
    backbone: Any,  # noqa: ARG001
    cache: FeatureCache | None,
    *,
    threads: int | None = None,
    precision: Precision = "f32",
    image: bool = False,  # noqa: ARG001
) -> WindowSource:
    return WindowSource(kind, cache, threads=threads, precision=precision)


def _samples(
    source: WindowSource, records: Sequence[Record], needs: Needs, options: FitOptions, textures: Sequence[Any]
) -> WindowSamples:
    if set(options.views) - {"auto"} or textures or needs.twin:
        raise ConfigError("views, textures and synthetic defects are for images", hint="leave them out")
    return WindowSamples(source, records)


LEARNING = Learning(("signal",), Signals, _plan, _open, _samples, backbone=False)

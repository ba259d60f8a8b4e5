"""Windows of recordings for a method that takes signals as they are: no backbone, no pyramid, `Batch.x` alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.modality import Modality
from blemish.data.signal.modality import Signals
from blemish.data.signal.preprocess import SignalPlan, least_movement, parse_band, plan_leads
from blemish.data.signal.recordings import read_recording
from blemish.errors import ConfigError, DataError
from blemish.inspection.engines import Engine, Precision
from blemish.learning import export
from blemish.learning.backbones.cache import FeatureCache, feature_key
from blemish.learning.options import FitOptions
from blemish.learning.sources.base import Learning
from blemish.system import cores
from blemish.types import Batch, FeatureSpec, Needs, Record

if TYPE_CHECKING:
    import torch

    from blemish.learning.export import Vote
    from blemish.methods.base import Method

BATCH = 64  # windows that a method observes at a time
HELD = 2**28  # bytes of windows in memory while a method learns: reading them again takes a fifth of a short step


class WindowSource:
    """Prepared windows, from the cache or from their recordings; the counterpart of `features.FeatureSource`."""

    identity = "none"  # of the frozen network
    layers: tuple[int, ...] = ()
    batch = BATCH

    def __init__(
        self,
        kind: Signals,
        cache: FeatureCache | None,
        *,
        threads: int | None = None,
        precision: Precision = "f32",
    ) -> None:
        self.kind, self.preprocess, self.cache = kind, kind.preprocess, cache
        self.threads = threads or cores()
        self.precision: Precision = precision
        self.spec = FeatureSpec((), (), (), inputs=len(kind.preprocess.leads))
        self.seen: set[str] = set()  # content ids of every window asked for
        self.categories: dict[str, int] = {}  # of several products: there are none of signals
        self._kept = FeatureSpec((0,), (self.spec.inputs,), (kind.size,))  # what the cache holds of a window

    def window(self, record: Record) -> NDArray[np.float32]:
        """(K, L) as the graph takes it. DataError where it cannot be read."""
        self.seen.add(self.kind.content(record))
        key = feature_key(self.kind.file_content(record).encode(), self.preprocess.to_json(), "window", "f32")
        if self.cache is not None and (cached := self.cache.get(key, self._kept)) is not None:
            return cached[0]
        x = self.kind.prepare(self.kind.read(self.kind.source(record)))
        if self.cache is not None:
            self.cache.put(key, (x,))
        return np.asarray(x, np.float32)

    def stream(self, records: Iterable[Record]) -> Iterator[tuple[Record, NDArray[np.float32]]]:
        """Records with their windows, in order."""
        for record in records:
            yield record, self.window(record)

    def batches(self, records: Iterable[Record]) -> Iterator[Batch]:
        """The same as batches for a method."""
        rest = iter(records)
        while some := list(islice(rest, BATCH)):
            yield self.stacked(some)

    def stacked(self, records: Sequence[Record]) -> Batch:
        """These windows as one batch."""
        import torch

        x = torch.from_numpy(np.stack([self.window(record) for record in records]))
        return Batch(size=self.kind.size, x=x, ids=tuple(record.id for record in records))

    def freeze(self, method: Method[Any], vote: Vote | None = None) -> bytes:
        """The whole graph from signal to score and map."""
        assert vote is None, "signals have no categories"
        return export.export_plain(method)

    def reference(self, method: Method[Any], vote: Vote | None = None) -> Engine:
        """The same in PyTorch."""
        assert vote is None, "signals have no categories"
        return export.plain_engine(method)


class WindowSamples:
    """Windows by number; the `sampler.Samples` of signals. What a step changes about them is the method's to draw."""

    def __init__(self, source: WindowSource, records: Sequence[Record]) -> None:
        self.source, self.records = source, records
        self._held: dict[int, NDArray[np.float32]] = {}  # the first of them; others are read at each step
        self._most = HELD // (4 * source.spec.inputs * source.kind.size[-1])

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:  # noqa: ARG002
        """These windows."""
        import torch

        x = torch.from_numpy(np.stack([self._window(i) for i in indices]))
        return Batch(size=self.source.kind.size, x=x, ids=tuple(self.records[i].id for i in indices))

    def _window(self, number: int) -> NDArray[np.float32]:
        if number in self._held:
            return self._held[number]
        x = self.source.window(self.records[number])
        if len(self._held) < self._most:
            self._held[number] = np.array(x)  # not a file's map
        return x


def _plan(learn: Sequence[Record], options: FitOptions, backbone: Any) -> Modality[Any]:  # noqa: ARG001
    """Leads of the recordings that are learned from, rate and filter as asked, and how little they move.

    DataError where a rate is unknown, or a window cannot be used.
    """
    if options.roi:
        raise ConfigError("a region of interest is for images", hint="leave it out")
    plan = SignalPlan(
        leads=plan_leads(record.path for record in learn),
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
    if first.piece is not None:  # a table of windows: their length is what it is
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
    if options.views or textures or needs.twin:
        raise ConfigError("views, textures and made defects are for images", hint="leave them out")
    return WindowSamples(source, records)


LEARNING = Learning(("signal",), Signals, _plan, _open, _samples, backbone=False)

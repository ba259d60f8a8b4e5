"""The line: file -> image -> graph -> map in source pixels -> decision -> result."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from blemish.data import registry
from blemish.data.image.decode import is_encoded
from blemish.errors import ConfigError, DataError, EngineError, ModelFileError
from blemish.inspection.categories import Decided
from blemish.inspection.conformal import Calibrator
from blemish.inspection.engines import Engine, Outputs, best_precision
from blemish.inspection.measuring import Measuring
from blemish.inspection.modelfile import Model
from blemish.inspection.open import open_model
from blemish.system import cores, memory_for
from blemish.types import ALARM, AnomalyResult, LightingScore, Region

Errors = Literal["raise", "yield"]


def precision_of(model: Model, engine: str) -> str:
    """The number format to run a model in: the one it was learned in where this engine has it, and float32 else.

    EngineError where the model is calibrated, but not for what this machine can do: its promise would not hold.
    """
    wanted = model.meta.precision
    available = best_precision() if engine in ("openvino", "local") else "f32"
    chosen = wanted if wanted == available else "f32"
    if model.calibrators and chosen not in model.calibrators:
        raise EngineError(
            f"the model is calibrated for {', '.join(model.calibrators)}, this engine computes in {chosen}",
            hint="`blemish calibrate MODEL GOOD` on this machine makes a threshold for it",
        )
    return str(chosen)


def _same(process: int) -> None:
    """EngineError where a run is continued in a forked child: its threads exist in the parent only."""
    if os.getpid() != process:
        raise EngineError("this run was begun in another process", hint="call inspect_many in the child itself")


class Inspector:
    """A model, ready to inspect. May be pickled, and used in a forked child: the engine is then created again there.

    Args:
        model: what `inspection.modelfile.load` gives.
        engine: "openvino", "onnxruntime", or an Engine (the PyTorch reference is one).
        threads: images worked on at the same time, each on one core; None = all cores.
        batch: images per call of the graph. 1 is fastest on a CPU, where larger batches leave the cache.
    """

    def __init__(
        self, model: Model, engine: str | Engine = "openvino", *, threads: int | None = None, batch: int = 1
    ) -> None:
        if batch < 1:
            raise ConfigError(f"batch size has to be at least 1, not {batch}")
        self.threads = threads or cores()
        self.batch = batch
        self.kind = registry.of(model.meta)
        self.preprocess = self.kind.preprocess
        if isinstance(engine, str):
            precision = precision_of(model, engine)
            options: Any = {"precision": precision, "threads": self.threads, "batch": batch}
            engine = open_model(model, engine, **options)
        self.engine = engine
        self.calibrator: Calibrator | None = model.calibrators.get(engine.precision)
        self.categories = model.categories
        self.measuring = Measuring.at_inspection(self.kind, model.meta.rules)
        promised = self.categories and self.categories.known.get(engine.precision)
        calibrators = [self.calibrator, *((*promised.scores, *promised.strangeness) if promised else ())]
        self.known = set(model.meta.data.content_ids).union(*(c.ids for c in calibrators if c))

    def inspect(self, source: Any) -> AnomalyResult:
        """One sample -> its result. DataError where it cannot be read.

        An image is a path, an encoded file's bytes or binary stream (`image.decode.take_encoded`), a PIL image, or a
        numpy array (H, W[, C]) or tensor in RGB order; arrays of OpenCV are BGR and have to be turned. A model of
        several lightings takes the file that stands for a sample, a dict or a list of one such for each lighting, an
        array (H, W, C) of all channels, and bytes where one file shows them all. A model of
        signals takes a `data.signal.preprocess.Window`, a recording of one window's length, or an array (K, N).
        """
        with self._memory():
            result: AnomalyResult = self._inspect_group([self._grabbed(source)])[0]
        return result

    def inspect_many(self, sources: Iterable[Any], *, errors: Errors | bool = "raise") -> Iterator[Any]:
        """Results in order, lazily; at most a few images are held at a time.

        errors  what becomes of a source that cannot be read. "raise": its DataError ends the run, after the results of
                those before it. "yield": it comes in place of a result, and the run goes on.

        A path in place of the sources is what `blemish inspect` makes of it: that file, each window of that recording,
        or the samples of that folder; a warning counts its other files. Bytes and binary streams are one image. Streams
        are read, and arrays copied, when they are taken from the iterable, so that it may close or use them again. An
        error of the iterable itself is raised after the results of its earlier items.
        """
        if isinstance(errors, bool):
            warnings.warn("errors=True is errors='yield', errors=False is 'raise'", DeprecationWarning, stacklevel=2)
            errors = "yield" if errors else "raise"
        if errors not in ("raise", "yield"):
            raise ConfigError(f"errors has to be 'raise' or 'yield', not {errors!r}")
        return self._inspect_all(self._sources(sources), errors == "yield")

    def _sources(self, sources: Any) -> Iterable[Any]:
        """What is inspected of what the caller hands over."""
        if isinstance(sources, str | os.PathLike):
            return self._of_path(Path(os.fsdecode(sources)))
        if is_encoded(sources) or isinstance(sources, Mapping):
            return [sources]
        if isinstance(sources, np.ndarray) and self.kind.is_one(sources):
            hint = "give inspect_many a list, or a stack of them with one more axis"
            raise DataError(f"an array of shape {sources.shape} is one {self.kind.name}, not several", hint=hint)
        if not isinstance(sources, Iterable):
            raise DataError(f"a {type(sources).__name__} is not a list of {self.kind.name}s", hint="give a list")
        return sources

    def _of_path(self, path: Path) -> list[Any]:
        if not path.is_dir():
            return self.kind.sources(path)
        found = self.kind.listing(path, self.kind.cut)
        if message := found.not_inspected():
            warnings.warn(f"{path}: {message}", stacklevel=4)
        if not found.files and not found.unread:
            raise DataError(f"no {self.kind.name}s in this folder", path=path, hint=self.kind.hint)
        each: list[tuple[Path, list[Any]]] = [(error.path or path, [error]) for error in found.unread]
        each += [(file, self._sources_of(file)) for file in found.files]
        return [source for _, sources in sorted(each, key=lambda one: one[0]) for source in sources]

    def _sources_of(self, file: Path) -> list[Any]:
        try:
            return self.kind.sources(file)
        except DataError as error:
            return [error]

    def _inspect_all(self, sources: Iterable[Any], errors: bool) -> Iterator[Any]:
        process = os.getpid()
        items = iter(sources)
        broken: BaseException | None = None
        with self._memory(), ThreadPoolExecutor(self.threads) as pool:
            waiting: deque[Future[list[Any]]] = deque()
            try:
                while broken is None:
                    group: list[Any] = []
                    try:
                        group.extend(map(self._grabbed, islice(items, self.batch)))
                    except Exception as error:  # of the caller's iterable; earlier results come first
                        broken = error
                    if not group:
                        break
                    waiting.append(pool.submit(self._inspect_group, group, errors))
                    if len(waiting) > 2 * self.threads:
                        yield from waiting.popleft().result()
                        _same(process)
                while waiting:
                    for result in waiting.popleft().result():
                        yield result
                        _same(process)
            finally:
                for future in waiting:
                    future.cancel()
        if broken is not None:
            raise broken

    def _grabbed(self, source: Any) -> Any:
        """What another thread inspects of a source; the DataError in place of one that cannot be had."""
        try:
            return self.kind.grab(source)
        except DataError as error:
            return error

    def _memory(self) -> AbstractContextManager[None]:
        """Around a run: running out of memory is an error that says what needs less."""
        return memory_for(
            "inspecting", f"fewer threads than {self.threads} (--threads), or a model of a smaller image_size"
        )

    def read(self, source: Any) -> tuple[Any, Any]:
        """A sample as it was read, and prepared as `outputs` takes it; None for an alarm that needs no outputs.
        DataError where it cannot be used.

        Together with `outputs`, a subclass overrides this where samples do not go through the whole graph.
        """
        raw = self.kind.read(source)
        return raw, None if self.kind.alarm(raw) else self.kind.prepare(raw)

    def outputs(self, prepared: Sequence[Any]) -> Outputs:
        """What the model gives for prepared samples: score and map of each, and votes where the model routes."""
        return self.engine(self.kind.stack(prepared))

    def _inspect_group(self, sources: list[Any], errors: bool = False) -> list[Any]:
        start = perf_counter()
        out: list[Any] = []
        for source in sources:
            try:
                if isinstance(source, DataError):
                    raise source
                self.kind.check(source)
                raw, prepared = self.read(source)
                out.append((source, raw, prepared) if prepared is not None else self._alarmed(source, raw))
            except DataError as error:
                named = error.at(os.fspath(source)) if isinstance(source, str | os.PathLike) else error
                if not errors:
                    raise named from None
                out.append(named)
        ready = [entry for entry in out if isinstance(entry, tuple)]
        if ready:
            outputs = zip(*self.outputs([prepared for _, _, prepared in ready]), strict=True)
            results = iter(
                [self._decide(source, raw, out) for (source, raw, _), out in zip(ready, outputs, strict=True)]
            )
            out = [next(results) if isinstance(entry, tuple) else entry for entry in out]
        seconds = (perf_counter() - start) / len(sources)
        return [replace(entry, seconds=seconds) if isinstance(entry, AnomalyResult) else entry for entry in out]

    def _alarmed(self, source: Any, raw: Any) -> AnomalyResult:
        """The result of a sample that is anomalous as it is: nothing on its map, and the highest score."""
        nothing = np.zeros(self.kind.size, np.float32)
        return AnomalyResult(
            **self.kind.named(source, raw),
            score=ALARM,
            anomaly_map=self.kind.back(nothing, raw),
            p_value=self.calibrator.p_value(ALARM) if self.calibrator else None,
            threshold=self.calibrator.threshold if self.calibrator else None,
            alarm=self.kind.alarm(raw),
        )

    def _decide(self, source: Any, raw: Any, outputs: Outputs) -> AnomalyResult:
        """What the graph gives for one sample -> its result: score and map, and of several categories votes and
        strangeness, or of lightings that were learned apart the score and map of each."""
        score, small, *further = outputs
        apart = bool(further) and further[-1].ndim > small.ndim
        vote = [] if apart else further
        anomaly_map = self.kind.back(small, raw)
        decided = self._category(*vote) if vote else None
        calibrator = decided.calibrator if decided else self.calibrator
        result = AnomalyResult(
            **self.kind.named(source, raw),
            score=float(score),
            anomaly_map=anomaly_map,
            p_value=calibrator.p_value(float(score)) if calibrator else None,
            threshold=calibrator.threshold if calibrator else None,
            regions=self._regions(anomaly_map, calibrator, raw),
            category=decided.category if decided else None,
            category_confidence=decided.confidence if decided else None,
            unknown=decided.unknown if decided else None,
            map_threshold=calibrator.map_threshold if calibrator else None,
            map_threshold_per=calibrator.map_threshold_per if calibrator else None,
        )
        if apart:
            each = zip(result.lightings, *further, strict=True)
            own = tuple(LightingScore(name, float(s), self.kind.back(m, raw)) for name, s, m in each)
            result = replace(result, by_lighting=own)
        return result if self.measuring is None else self.measuring.completed(result, small, calibrator, raw, source)

    def _regions(self, anomaly_map: NDArray[np.float32], calibrator: Calibrator | None, raw: Any) -> tuple[Region, ...]:
        """Where nothing is measured of them."""
        if calibrator is None or self.measuring is not None:
            return ()
        return self.kind.regions(anomaly_map, calibrator.map_threshold, raw)

    def _category(self, votes: NDArray[np.float32], strangeness: NDArray[np.float32]) -> Decided | None:
        if self.categories is None:
            raise ModelFileError("the graph votes for categories, and the model names none")
        return self.categories.decide(votes.tolist(), float(strangeness), self.engine.precision)

"""The line: file -> image -> graph -> map in source pixels -> decision -> result."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish import kinds
from blemish.calibration import Calibrator
from blemish.categories import Decided
from blemish.errors import ConfigError, DataError, EngineError, ModelFileError
from blemish.modelfile import Model
from blemish.runtime.engines import Engine, Outputs, best_precision, cores
from blemish.types import AnomalyResult


def precision_of(model: Model, engine: str) -> str:
    """The number format to run a model in: the one it was learned in where this engine has it, and float32 else.

    EngineError where the model is calibrated, but not for what this machine can do: its promise would not hold.
    """
    wanted = model.meta["precision"]
    available = best_precision() if engine in ("openvino", "local") else "f32"
    chosen = wanted if wanted == available else "f32"
    if model.calibrators and chosen not in model.calibrators:
        raise EngineError(
            f"the model is calibrated for {', '.join(model.calibrators)}, this engine computes in {chosen}",
            hint="`blemish calibrate MODEL GOOD` on this machine makes a threshold for it",
        )
    return str(chosen)


class Inspector:
    """A model, ready to inspect.

    Args:
        model: what `modelfile.load` gives.
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
        self.kind = kinds.of(model.meta)
        self.preprocess = self.kind.preprocess
        if isinstance(engine, str):
            precision = precision_of(model, engine)
            options: Any = {"precision": precision, "threads": self.threads, "batch": batch}
            engine = self.kind.open(model, engine, **options)
        self.engine = engine
        self.calibrator: Calibrator | None = model.calibrators.get(engine.precision)
        self.categories = model.categories
        self.known = set(model.meta["data"]["content_ids"]) | set(self.calibrator.ids if self.calibrator else ())

    def inspect(self, source: Any) -> AnomalyResult:
        """One file, PIL image, numpy array (H, W[, C]) or tensor -> its result. DataError where it cannot be read.

        A model of signals takes a `data.signals.Window`, a recording of one window's length, or an array (K, N).
        """
        result: AnomalyResult = self._inspect_group([source])[0]
        return result

    def inspect_many(self, sources: Iterable[Any], *, errors: bool = False) -> Iterator[Any]:
        """Results in order, lazily; at most a few images are held at a time.

        With `errors`, a source that cannot be read gives its DataError in place of a result and the run goes on.
        """
        items = iter(sources)
        groups: Iterator[list[Any]] = iter(lambda: list(islice(items, self.batch)), [])
        with ThreadPoolExecutor(self.threads) as pool:
            waiting: deque[Future[list[Any]]] = deque()
            try:
                for group in groups:
                    waiting.append(pool.submit(self._inspect_group, group, errors))
                    if len(waiting) > 2 * self.threads:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _inspect_group(self, sources: list[Any], errors: bool = False) -> list[Any]:
        start = perf_counter()
        out: list[Any] = []
        for source in sources:
            try:
                raw = self.kind.read(source)
                out.append((source, raw, self.kind.prepare(raw)))
            except DataError as error:
                if not errors:
                    raise
                out.append(error)
        ready = [entry for entry in out if isinstance(entry, tuple)]
        if not ready:
            return out
        outputs = zip(*self.engine(self.kind.stack([entry[2] for entry in ready])), strict=True)
        results = iter([self._decide(e[0], e[1], out) for e, out in zip(ready, outputs, strict=True)])
        seconds = (perf_counter() - start) / len(sources)
        return [replace(next(results), seconds=seconds) if isinstance(entry, tuple) else entry for entry in out]

    def _decide(self, source: Any, raw: Any, outputs: Outputs) -> AnomalyResult:
        """What the graph gives for one sample (of several products votes and strangeness too) -> its result."""
        score, small, *vote = outputs
        anomaly_map = self.kind.back(small, raw)
        decided = self._category(*vote) if vote else None
        calibrator = decided.calibrator if decided else self.calibrator
        return AnomalyResult(
            **self.kind.named(source, raw),
            score=float(score),
            anomaly_map=anomaly_map,
            p_value=calibrator.p_value(float(score)) if calibrator else None,
            threshold=calibrator.threshold if calibrator else None,
            regions=self.kind.regions(anomaly_map, calibrator.map_threshold, raw) if calibrator else (),
            category=decided.category if decided else None,
            category_confidence=decided.confidence if decided else None,
            unknown=decided.unknown if decided else None,
        )

    def _category(self, votes: NDArray[np.float32], strangeness: NDArray[np.float32]) -> Decided | None:
        if self.categories is None:
            raise ModelFileError("the graph votes for categories, and the model names none")
        return self.categories.decide(votes.tolist(), float(strangeness), self.engine.precision)

"""Evaluation from cached features: the backbone sees each image once, whatever is learned and measured afterwards."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.image.preprocess import image_size_of
from blemish.errors import DataError
from blemish.inspection.engines import Engine, Head, Outputs
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model
from blemish.inspection.routed import Routes
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.sources.features import FeatureSource
from blemish.types import FeatureSpec, Record


class CountedCache(FeatureCache):
    """A feature cache that counts what was asked for and what was there."""

    def __init__(self, root: Path | None = None) -> None:
        super().__init__(root)
        self.asked = self.found = 0
        self._lock = threading.Lock()

    def get(self, key: str, spec: FeatureSpec) -> tuple[NDArray[np.float32], ...] | None:
        """As `FeatureCache.get`, counted."""
        maps = super().get(key, spec)
        with self._lock:
            self.asked += 1
            self.found += maps is not None
        return maps


class _HeadAsEngine:
    """Says what the head runs on; it is not called with images."""

    def __init__(self, precision: Any) -> None:
        self.name, self.precision = "openvino", precision

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        raise NotImplementedError("a line from cached features takes files")


class CachedLine(Inspector):
    """An inspector of files whose features come from the cache: file -> cached features -> head of the graph -> result.

    Scores and maps are those of the deployed graph, bit for bit; `differing` compares them.
    """

    def __init__(self, model: Model, source: FeatureSource) -> None:
        engine: Engine = _HeadAsEngine(source.precision)
        super().__init__(model, engine, threads=source.threads)
        self._source = source
        options: Any = {"precision": source.precision, "threads": source.threads}
        self._head = Routes(model.heads, **options) if model.heads else Head(model.graph, **options)

    def _inspect_group(self, sources: list[Any], errors: bool = False) -> list[Any]:
        out: list[Any] = []
        for source in sources:
            start = perf_counter()
            try:
                maps = self._source.maps(Record(id=str(source), path=Path(source)))
                width, height = image_size_of(Path(source))
            except DataError as error:
                if not errors:
                    raise
                out.append(error)
                continue
            shape = np.broadcast_to(np.uint8(0), (height, width))  # of the image, which need not be decoded
            result = self._decide(source, shape, tuple(part[0] for part in self._head(maps)))
            out.append(replace(result, seconds=perf_counter() - start))
        return out


def differing(deployed: Inspector, line: Inspector, paths: list[Path]) -> int:
    """How many of these files get another score or map, by any bit."""
    pairs = zip(deployed.inspect_many(paths), line.inspect_many(paths), strict=True)
    return sum(a.score != b.score or not np.array_equal(a.anomaly_map, b.anomaly_map) for a, b in pairs)

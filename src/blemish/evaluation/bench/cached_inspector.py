"""Evaluation from cached features: the backbone sees each image once, whatever is learned and measured afterwards."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.image.modality import Located
from blemish.data.image.preprocess import image_size_of
from blemish.inspection.engines import Head, Outputs, Precision
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model
from blemish.inspection.routed import Routes
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.sources.features import FeatureSource
from blemish.types import FeatureSpec, Record


class CountedCache(FeatureCache):
    """A feature cache that counts requests and hits."""

    def __init__(self, root: Path | None = None) -> None:
        super().__init__(root)
        self.requested = self.found = 0
        self._lock = threading.Lock()

    def get(self, key: str, spec: FeatureSpec) -> tuple[NDArray[np.float32], ...] | None:
        """As `FeatureCache.get`, counted."""
        maps = super().get(key, spec)
        with self._lock:
            self.requested += 1
            self.found += maps is not None
        return maps


class _HeadEngine:
    """The head of a model as an engine that takes features: those of one image at a time, as they are cached."""

    name = "openvino"

    def __init__(self, model: Model, precision: Precision, threads: int) -> None:
        self.precision: Precision = precision
        options: Any = {"precision": precision, "threads": threads}
        self._head = Routes(model.heads, **options) if model.heads else Head(model.graph, **options)

    def __call__(self, images: Any) -> Outputs:
        """The levels of each image -> the outputs of all."""
        return tuple(map(np.concatenate, zip(*map(self._head, images), strict=True)))


class CachedLine(Inspector):
    """An inspector of files whose features come from the cache: file -> cached features -> head of the graph -> result.

    Scores and maps are those of the deployed graph, bit for bit; `differing` compares them.
    """

    def __init__(self, model: Model, source: FeatureSource) -> None:
        super().__init__(model, _HeadEngine(model, source.precision, source.threads), threads=source.threads)
        self._source = source

    def read(self, source: Any) -> tuple[Any, Any]:
        """The shape of the image, which need not be decoded, and its cached features."""
        if self.preprocess.locate is not None:
            raw = self.kind.read(source)
            if self.kind.alarm(raw):
                return raw, None
            return raw, self._source.maps(Record(id=str(source), path=Path(source)))
        maps = self._source.maps(Record(id=str(source), path=Path(source)))
        width, height = image_size_of(Path(source))
        return Located(np.broadcast_to(np.uint8(0), (height, width))), maps

    def outputs(self, prepared: Sequence[Any]) -> Outputs:
        """As `Inspector.outputs`, of features."""
        features: Any = prepared  # their shapes differ, so they are not stacked into one array
        return self.engine(features)


def differing(deployed: Inspector, line: Inspector, paths: list[Path]) -> int:
    """How many of these files get a score or map that differs in any bit."""
    pairs = zip(deployed.inspect_many(paths), line.inspect_many(paths), strict=True)
    return sum(a.score != b.score or not np.array_equal(a.anomaly_map, b.anomaly_map) for a, b in pairs)

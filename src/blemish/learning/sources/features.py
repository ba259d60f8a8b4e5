"""From records to batches of frozen features: decode, preprocess, backbone graph, cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.identity import image_id
from blemish.data.image.preprocess import Preprocess
from blemish.data.image.reading import data_of, shown_in
from blemish.errors import DataError
from blemish.inspection.engines import Engine, Precision, open_engine
from blemish.learning import export
from blemish.learning.again import behind_image
from blemish.learning.backbones.cache import FeatureCache, feature_key
from blemish.learning.backbones.graph_net import GraphBackbone
from blemish.learning.backbones.lit import LitBackbone
from blemish.learning.onnx_parts import written
from blemish.ops.drawing import OPSET
from blemish.system import cores
from blemish.types import Batch, Pyramid, Record

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone
    from blemish.learning.heads import Vote
    from blemish.methods.base import Method

Maps = tuple[NDArray[np.float32], ...]

BATCH = 16  # samples a method observes at a time; larger ones leave the processor's cache


class FeatureSource:
    """Frozen features of images, by the same graph and in the same number format as at inspection.

    Args:
        backbone: the frozen network; its graph is exported once and kept in the cache folder.
        preprocess: how an image becomes the network's input.
        cache: where features are kept; None computes them each time.
        threads: images worked on at the same time.
        precision: number format of the network.
        image: whether a head takes the normalised image too, as one more level.
        lighting: the number of the one whose features alone are given, of a `LitBackbone`'s; None = all.
    """

    def __init__(
        self,
        backbone: Backbone,
        preprocess: Preprocess,
        cache: FeatureCache | None,
        *,
        threads: int | None = None,
        precision: Precision = "f32",
        image: bool = False,
        lighting: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.preprocess = preprocess
        self.cache = cache
        self.threads = threads or cores()
        self.lighting = lighting
        self.whole = backbone.spec(preprocess.size)
        self.spec = self.whole
        if lighting is not None and isinstance(backbone, LitBackbone):
            self.spec = backbone.inner.spec(preprocess.size)
        self.precision = precision
        self.image = image
        self.graph = backbone_graph(backbone, preprocess.size, cache)
        self.trunk = backbone_graph(backbone, preprocess.size, cache, image=True) if image else self.graph
        self.seen: set[str] = set()  # content of every image asked for
        self.categories: dict[str, int] = {}  # decided category by record id, where there are several categories
        self._again = lru_cache(2)(shown_in)  # tiles of one picture are asked for one after the other
        self.computed = 0  # images that went through the backbone; the others came from the cache
        self._compiled = open_engine(self.graph, precision=self.precision, threads=self.threads)
        self._use(self._compiled)

    batch = BATCH

    def _use(self, engine: Engine) -> None:
        """Features come from this engine; the cache keeps those of each apart."""
        self._engine, self._dtype = engine, f"{engine.name}-{self.precision}"

    def compute_on(self, device: str) -> str:
        """Features from the same network in PyTorch on the device: equal to the graph's but for rounding. In bf16, and
        with a warning where PyTorch does not have the network, from the graph on the processor."""
        if device == "cpu" or self.precision == "bf16":
            return "cpu"
        from blemish.learning.backbones.on_device import DeviceEngine, in_torch

        network = in_torch(self.backbone)
        if network is None:
            return "cpu"
        self._use(DeviceEngine(network, self.preprocess.size, device))
        return device

    @property
    def identity(self) -> str:
        """Of the frozen network, and of the lighting where it is one of several."""
        return self.backbone.identity if self.lighting is None else f"{self.backbone.identity}#{self.lighting}"

    @property
    def layers(self) -> tuple[int, ...]:
        """Of the frozen network."""
        return self.backbone.layers

    def freeze(self, method: Method[Any], vote: Vote | None = None) -> bytes:
        """The whole graph from image to score and map."""
        return export.merge(self.trunk, export.export_head(method, vote, trunk=self.trunk))

    def reference(self, method: Method[Any], vote: Vote | None = None) -> Engine:
        """What it is compared with."""
        same = isinstance(self.backbone, GraphBackbone) and self.precision == "f32"
        return export.reference_engine(self.backbone, method, vote, engine=self._compiled if same else None)

    def maps(self, record: Record) -> Maps:
        """What a head takes of one image: feature maps (C_l, *grid_l), and the normalised image (3, H, W) where
        `image` is set. DataError where it cannot be read.
        """
        data = data_of(record)
        limit, lightings = self.preprocess.max_pixels, self.preprocess.lightings
        of = 0 if lightings is None else lightings.of
        decoded = lru_cache(1)(
            lambda: (
                shown_in(data, record, max_pixels=limit, of=of)
                if record.tile is None
                else self._again(data, replace(record, id="", tile=None), max_pixels=limit, of=of)
            )
        )
        self.seen.add(image_id(data, decoded))

        @lru_cache(1)
        def image() -> NDArray[np.uint8]:
            try:
                return self.preprocess(decoded(), tile=record.tile)
            except DataError as error:
                raise error.at(record.path) from None

        maps = self.cached(data, "" if record.tile is None else f"|tile {record.tile}", image)
        return (*maps, self.normalised(image())) if self.image else maps

    def cached(self, data: bytes, variant: str, image: Callable[[], NDArray[np.uint8]]) -> Maps:
        """Feature maps of what `image` makes of a file's bytes; `variant` names how, "" is the file as it is."""
        key = ""
        if self.cache is not None:
            key = feature_key(data, self.preprocess.rendering(), self.backbone.identity, self._dtype + variant)
            cached = self.cache.get(key, self.whole)
            if cached is not None:
                return self._given(cached)
        maps = self._computed(image())
        if self.cache is not None:
            self.cache.put(key, maps)
        return self._given(maps)

    def extracted(self, image: NDArray[np.uint8]) -> Maps:
        """Feature maps of a prepared image (H, W, 3 groups), past the cache."""
        return self._given(self._computed(image))

    def _computed(self, image: NDArray[np.uint8]) -> Maps:
        self.computed += 1
        return tuple(m[0] for m in self._engine(image[None]))

    def _given(self, maps: Maps) -> Maps:
        """Those of the lighting, where one alone is wanted."""
        if self.lighting is None:
            return maps
        counts = self.spec.channels
        return tuple(m[self.lighting * n : (self.lighting + 1) * n] for m, n in zip(maps, counts, strict=True))

    def normalised(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W, 3) uint8 -> (3, H, W) float32, as the graph does it."""
        found: NDArray[np.float32] = self.backbone.normalised(image[None])[0]
        return found

    @cached_property
    def _behind_image(self) -> Engine:
        """The frozen network from the normalised image on."""
        return open_engine(written(behind_image(self.trunk)), precision=self.precision, threads=self.threads)

    def maps_of(self, x: NDArray[np.float32]) -> Maps:
        """Normalised images (B, 3, H, W) -> feature maps (B, C_l, *grid_l), past the cache; where `image` is set."""
        with ThreadPoolExecutor(self.threads) as pool:
            each = list(pool.map(self._behind_image, np.split(x, len(x))))
        return tuple(np.concatenate(level) for level in zip(*each, strict=True))

    def stream(self, records: Iterable[Record]) -> Iterator[tuple[Record, Maps]]:
        """Records with their maps, in order; a few images are held at a time."""
        waiting: deque[tuple[Record, Future[Maps]]] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                for record in records:
                    waiting.append((record, pool.submit(self.maps, record)))
                    if len(waiting) > 2 * self.threads:
                        first, future = waiting.popleft()
                        yield first, future.result()
                while waiting:
                    first, future = waiting.popleft()
                    yield first, future.result()
            finally:
                for _, future in waiting:
                    future.cancel()

    def batches(self, records: Iterable[Record], size: int | None = None) -> Iterator[Batch]:
        """The same as batches for a method."""
        ids: list[str] = []
        maps: list[Maps] = []
        for record, sample in self.stream(records):
            ids.append(record.id)
            maps.append(sample)
            if len(maps) == (size or self.batch):
                yield self._batch(ids, maps)
                ids, maps = [], []
        if maps:
            yield self._batch(ids, maps)

    def _batch(self, ids: list[str], maps: list[Maps]) -> Batch:
        levels = tuple(np.stack(level) for level in zip(*maps, strict=True))
        x = levels[-1] if self.image else None
        pyramid = Pyramid(levels[:-1] if self.image else levels)
        return Batch(size=self.preprocess.size, pyramid=pyramid, x=x, ids=tuple(ids), category=self.categories_of(ids))

    def categories_of(self, ids: Sequence[str]) -> NDArray[np.int64] | None:
        """(B,): the decided categories of these records; None where there is one product."""
        return np.array([self.categories[i] for i in ids]) if self.categories else None


def backbone_graph(
    backbone: Backbone, size: tuple[int, int], cache: FeatureCache | None, *, image: bool = False
) -> bytes:
    """The backbone's ONNX for one input size, from the cache or made into it; `image` as in `FeatureSource`."""
    if cache is None or isinstance(backbone, GraphBackbone):  # which is a graph, and cut in no time
        return backbone.graph(size, image=image)
    name = f"{backbone.identity}|{size}|{OPSET}|{version('torch')}" + ("|image" if image else "")
    graph = cache.get_graph(name)
    if graph is None:
        graph = backbone.graph(size, image=image)
        cache.put_graph(name, graph)
    return graph

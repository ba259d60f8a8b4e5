"""The learning side of each kind of samples: how it is planned, where its samples come from, how steps get them.

The inspecting side is `kinds`. `SIDES` is found by `Needs.source`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from blemish.backbones.cache import FeatureCache
from blemish.clouds import CloudSamples, CloudSource
from blemish.data._header import MAX_PIXELS
from blemish.data.clouds.part import CloudPlan
from blemish.data.decode import read_image, set_in
from blemish.data.geometry import (
    Preprocess,
    image_size_of,
    median_aspect,
    pack_roi,
    parse_image_size,
    resolve,
    size_and_depth,
)
from blemish.data.levels import learn, measure
from blemish.data.recordings import read_recording
from blemish.data.signals import SignalPlan, least_movement, parse_band, plan_leads
from blemish.errors import ConfigError, DataError
from blemish.features import FeatureSource
from blemish.kinds import SampleKind
from blemish.kinds.cloud import Clouds, part_at
from blemish.kinds.image import Images
from blemish.kinds.signal import Signals
from blemish.options import FitOptions
from blemish.runtime.engines import Engine, Precision, cores
from blemish.samples import ImageSamples, files
from blemish.types import Batch, FeatureSpec, Needs, Record
from blemish.windows import WindowSamples, WindowSource

ASPECT = 0.02  # by which width / height of a region of interest and of a picture may differ, beside the rounding

if TYPE_CHECKING:
    from blemish.backbones.base import Backbone
    from blemish.batches import Samples
    from blemish.export import Vote
    from blemish.methods.base import Method


MEASURED = 32  # 8-bit images whose brightness is looked up


class Source(Protocol):
    """Samples as a method sees them, and its way to a graph; `FeatureSource` and `WindowSource` are two."""

    spec: FeatureSpec
    preprocess: Any
    precision: Precision
    threads: int
    seen: set[str]
    categories: dict[str, int]
    batch: int

    @property
    def identity(self) -> str:
        """Of the frozen network; equal ones give equal samples."""
        ...

    @property
    def layers(self) -> tuple[int, ...]:
        """Of the frozen network."""
        ...

    def stream(self, records: Iterable[Record]) -> Iterator[tuple[Record, Any]]:
        """Records with their samples, in order."""
        ...

    def batches(self, records: Iterable[Record]) -> Iterator[Batch]:
        """The same as batches for a method."""
        ...

    def freeze(self, method: Method[Any], vote: Vote | None = None) -> bytes:
        """The whole graph from a prepared sample to score and map."""
        ...

    def reference(self, method: Method[Any], vote: Vote | None = None) -> Engine:
        """The same in PyTorch."""
        ...


@dataclass(frozen=True)
class Side:
    """The learning side of one kind.

    plan       records to learn from, options, frozen network -> the kind with its preprocessing
    open       where a method gets its samples from
    samples    the samples of a step
    backbone   whether there is a frozen network in front of the method
    kind       the inspecting side
    """

    kind: type[SampleKind[Any]]
    plan: Callable[[Sequence[Record], FitOptions, Any], SampleKind[Any]]
    open: Callable[..., Source]
    samples: Callable[[Any, Sequence[Record], Needs, FitOptions, Sequence[Any]], Samples]
    backbone: bool = True


def side_of(needs: Needs) -> Side:
    """By `Needs.source`; ConfigError where there is none."""
    if needs.source not in SIDES:
        raise ConfigError(f"no samples of kind '{needs.source}' can be learned from")
    return SIDES[needs.source]


def _plan_images(learn: Sequence[Record], options: FitOptions, backbone: Backbone) -> SampleKind[Any]:
    return Images(plan_preprocess(learn, options, backbone.stride))


def _open_images(
    kind: Images,
    backbone: Backbone,
    cache: FeatureCache | None,
    *,
    threads: int | None = None,
    precision: Precision = "f32",
    image: bool = False,
) -> FeatureSource:
    return FeatureSource(backbone, kind.preprocess, cache, threads=threads, precision=precision, image=image)


def _image_samples(
    source: FeatureSource, records: Sequence[Record], needs: Needs, options: FitOptions, textures: Sequence[Any]
) -> ImageSamples:
    items = files(records, source.preprocess)
    return ImageSamples(source, items, needs, views=options.views, textures=textures)


def _plan_windows(learn: Sequence[Record], options: FitOptions, backbone: Any) -> SampleKind[Any]:  # noqa: ARG001
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
        raise DataError("does not state its sampling rate", path=learn[0].path, hint="--rate gives it, in Hz")
    if first.piece is not None:  # a table of windows: their length is what it is
        plan = replace(plan, window=first.piece / rate)
    windows = sorted(map(Signals.source, learn), key=lambda window: str(window.path))  # each recording is read once
    return Signals(replace(plan, least=least_movement(windows, plan)))


def _open_windows(
    kind: Signals,
    backbone: Any,  # noqa: ARG001
    cache: FeatureCache | None,
    *,
    threads: int | None = None,
    precision: Precision = "f32",
    image: bool = False,  # noqa: ARG001
) -> WindowSource:
    return WindowSource(kind, cache, threads=threads, precision=precision)


def _window_samples(
    source: WindowSource, records: Sequence[Record], needs: Needs, options: FitOptions, textures: Sequence[Any]
) -> WindowSamples:
    if options.views or textures or needs.twin:
        raise ConfigError("views, textures and made defects are for images", hint="leave them out")
    return WindowSamples(source, records)


def _plan_clouds(learn: Sequence[Record], options: FitOptions, backbone: Any) -> SampleKind[Any]:  # noqa: ARG001
    """Size and spacing of the typical part, of eight spread over the set; how much they and up to 64 others show."""
    if options.views or options.textures or options.roi:
        raise ConfigError("views, textures and a region of interest are for images", hint="leave them out")
    typical = learn[:: max(1, len(learn) // 8)]
    more = [record for record in learn if record not in typical]
    parts = (map(part_at, (record.path for record in some)) for some in (typical, more[:: max(1, len(more) // 64)]))
    return Clouds(CloudPlan.of(*parts))


def _open_clouds(
    kind: Clouds,
    backbone: Any,  # noqa: ARG001
    cache: FeatureCache | None,  # noqa: ARG001
    *,
    threads: int | None = None,
    precision: Precision = "f32",  # noqa: ARG001
    image: bool = False,  # noqa: ARG001
) -> CloudSource:
    return CloudSource(kind, threads=threads)


def _cloud_samples(
    source: CloudSource, records: Sequence[Record], needs: Needs, options: FitOptions, textures: Sequence[Any]
) -> CloudSamples:
    if textures or needs.twin:
        raise ConfigError("textures and made defects are for images", hint="leave them out")
    return CloudSamples(source, records)


_IMAGES = Side(Images, _plan_images, _open_images, _image_samples)
_WINDOWS = Side(Signals, _plan_windows, _open_windows, _window_samples, backbone=False)
_CLOUDS = Side(Clouds, _plan_clouds, _open_clouds, _cloud_samples, backbone=False)

SIDES: dict[str, Side] = {"pyramid": _IMAGES, "image": _IMAGES, "signal": _WINDOWS, "points": _CLOUDS}
SIDE_OF_KIND: dict[str, Side] = {side.kind.name: side for side in SIDES.values()}


def read_roi(path: str, size: tuple[int, int], records: Sequence[Record], max_pixels: int = MAX_PIXELS) -> str:
    """The region of interest of an image file, for a network input of `size` that these records are brought to.

    A warning where it covers everything; DataError where it has not the shape of every picture, so that it would lie
    elsewhere on it, or is empty.
    """
    image = read_image(path, max_pixels=max_pixels)
    mask = set_in(image, path)
    high, wide = mask.shape
    for record in records:
        w, h = image_size_of(record.path)
        if abs(math.log(w / h * high / wide)) > ASPECT + 0.5 / wide + 0.5 / high:
            message = f"the region of interest is {wide} x {high}, and {record.path.name} {w} x {h} (width x height)"
            raise DataError(message, path=path, hint="draw it on one of the pictures that are learned from")
    if mask.all():
        warnings.warn(f"{path}: the region of interest covers everything: 0 is what is not inspected", stacklevel=2)
    return pack_roi(np.asarray(mask, np.bool_), size)


def plan_preprocess(good: Sequence[Record], options: FitOptions, stride: int) -> Preprocess:
    """How an image becomes the network's input: planned from these images, with the region of interest."""
    preprocess = plan_geometry(good, options.image_size, stride, options.max_pixels)
    if options.roi is None:
        return preprocess
    return replace(preprocess, roi=read_roi(options.roi, preprocess.size, good, options.max_pixels))


def plan_geometry(good: Sequence[Record], image_size: str, stride: int, max_pixels: int = MAX_PIXELS) -> Preprocess:
    """The network's input for these images: size at their median aspect, and the levels of their values.

    Deep and real-valued images are measured all, of 8-bit ones some, spread over the set: they need no range.
    """
    heads = [(r, *size_and_depth(r.path)) for r in good]
    size = resolve(parse_image_size(image_size), median_aspect(shape for _, shape, _ in heads), stride)
    deep, flat = ([r for r, _, is_deep in heads if is_deep is wanted] for wanted in (True, False))
    some = [*deep, *flat[:: max(1, len(flat) // MEASURED)]]
    with ThreadPoolExecutor(cores()) as pool:
        found = list(pool.map(lambda record: measure(read_image(record.path, max_pixels=max_pixels)), some))
    return Preprocess.of(size, learn(found), max_pixels)

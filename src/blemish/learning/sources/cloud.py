"""Point clouds for a method that takes points as they are: no backbone, no pyramid, `Batch.x` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from blemish.data.cloud.modality import Clouds, part_at
from blemish.data.cloud.preprocess import CloudPlan
from blemish.data.modality import Modality
from blemish.errors import ConfigError
from blemish.inspection.engines import Precision
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.options import FitOptions
from blemish.learning.sources.base import Learning, PlainSamples, PlainSource
from blemish.types import FeatureSpec, Needs, Record

BATCH = 8  # clouds that a method observes at a time


class CloudSource(PlainSource):
    """Prepared clouds. They are not cached: reading one is little beside describing its points, the method's own."""

    def __init__(self, kind: Clouds, *, threads: int | None = None) -> None:
        plan = kind.preprocess
        spec = FeatureSpec((), (), (), inputs=6, spacing=plan.spacing / plan.diagonal)
        super().__init__(kind, spec, batch=BATCH, threads=threads)

    def map_size(self, x: NDArray[Any]) -> tuple[int, ...]:
        return (x.shape[1],)


def _plan(learn: Sequence[Record], options: FitOptions, backbone: Any) -> Modality[Any]:  # noqa: ARG001
    """Size and spacing of the typical part, of eight spread over the set; how much they and up to 64 others show."""
    if set(options.views) - {"auto"} or options.textures:
        raise ConfigError("views and textures are for images", hint="leave them out")
    typical = learn[:: max(1, len(learn) // 8)]
    more = [record for record in learn if record not in typical]
    parts = (map(part_at, (record.path for record in group)) for group in (typical, more[:: max(1, len(more) // 64)]))
    return Clouds(CloudPlan.of(*parts))


def _open(
    kind: Clouds,
    backbone: Any,  # noqa: ARG001
    cache: FeatureCache | None,  # noqa: ARG001
    *,
    threads: int | None = None,
    precision: Precision = "f32",  # noqa: ARG001
    image: bool = False,  # noqa: ARG001
) -> CloudSource:
    return CloudSource(kind, threads=threads)


def _samples(
    source: CloudSource, records: Sequence[Record], needs: Needs, options: FitOptions, textures: Sequence[Any]
) -> PlainSamples:
    if textures or needs.twin:
        raise ConfigError("textures and synthetic defects are for images", hint="leave them out")
    return PlainSamples(source, records)


LEARNING = Learning(("points",), Clouds, _plan, _open, _samples, backbone=False)

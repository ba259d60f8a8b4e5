"""Point clouds for a method that takes points as they are: no backbone, no pyramid, `Batch.x` alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.cloud.modality import Clouds, part_at
from blemish.data.cloud.preprocess import CloudPlan
from blemish.data.modality import Modality
from blemish.errors import ConfigError, ExportError
from blemish.inspection.engines import Engine, Precision
from blemish.learning import export
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.options import FitOptions
from blemish.learning.sources.base import Learning
from blemish.system import cores
from blemish.types import Batch, FeatureSpec, Needs, Record

if TYPE_CHECKING:
    import torch

    from blemish.learning.export import Vote
    from blemish.methods.base import Method

BATCH = 8  # clouds that a method observes at a time


class CloudSource:
    """Prepared clouds, from their files; the counterpart of `learning.sources.features.FeatureSource`.

    They are not cached: reading one is little beside describing its points, which is the method's own.
    """

    identity = "none"  # of the frozen network
    layers: tuple[int, ...] = ()
    batch = BATCH
    precision: Precision = "f32"

    def __init__(self, kind: Clouds, *, threads: int | None = None) -> None:
        self.kind, self.preprocess = kind, kind.preprocess
        self.threads = threads or cores()
        self.spec = FeatureSpec((), (), (), inputs=6, spacing=self.preprocess.spacing / self.preprocess.diagonal)
        self.seen: set[str] = set()  # content ids of every cloud asked for
        self.categories: dict[str, int] = {}  # of several products: there are none of clouds

    def stream(self, records: Iterable[Record]) -> Iterator[tuple[Record, NDArray[np.float32]]]:
        """Records with their points (N, 6), in order. DataError where one cannot be read."""
        for record in records:
            content, prepared = self.kind.ready(record)
            self.seen.add(content)
            yield record, prepared

    def batches(self, records: Iterable[Record]) -> Iterator[Batch]:
        """The same as batches for a method."""
        rest = iter(records)
        while some := list(islice(rest, BATCH)):
            yield self.stacked(some)

    def stacked(self, records: Sequence[Record]) -> Batch:
        """These clouds as one batch."""
        import torch

        x = torch.from_numpy(self.kind.stack([points for _, points in self.stream(records)]))
        return Batch(size=(x.shape[1],), x=x, ids=tuple(record.id for record in records))

    def freeze(self, method: Method[Any], vote: Vote | None = None) -> bytes:  # noqa: ARG002
        """ExportError: there is no graph of a method of clouds."""
        raise ExportError(f"{type(method).__name__} cannot be one graph: {method.needs.reason}")

    def reference(self, method: Method[Any], vote: Vote | None = None) -> Engine:
        """The method in PyTorch."""
        assert vote is None, "clouds have no categories"
        return export.plain_engine(method)


class CloudSamples:
    """Clouds by number; the `learning.training.Samples` of clouds."""

    def __init__(self, source: CloudSource, records: Sequence[Record]) -> None:
        self.source, self.records = source, records

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:  # noqa: ARG002
        """These clouds."""
        return self.source.stacked([self.records[i] for i in indices])


def _plan(learn: Sequence[Record], options: FitOptions, backbone: Any) -> Modality[Any]:  # noqa: ARG001
    """Size and spacing of the typical part, of eight spread over the set; how much they and up to 64 others show."""
    if options.views or options.textures or options.roi:
        raise ConfigError("views, textures and a region of interest are for images", hint="leave them out")
    typical = learn[:: max(1, len(learn) // 8)]
    more = [record for record in learn if record not in typical]
    parts = (map(part_at, (record.path for record in some)) for some in (typical, more[:: max(1, len(more) // 64)]))
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
) -> CloudSamples:
    if textures or needs.twin:
        raise ConfigError("textures and made defects are for images", hint="leave them out")
    return CloudSamples(source, records)


LEARNING = Learning(("points",), Clouds, _plan, _open, _samples, backbone=False)

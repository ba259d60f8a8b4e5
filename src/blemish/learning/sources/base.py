"""What learning needs of a modality: its plan, its source of samples, and the samples of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from blemish.data.modality import Modality
from blemish.errors import ExportError
from blemish.inspection.engines import Engine, Precision
from blemish.learning.options import FitOptions
from blemish.system import cores
from blemish.types import Batch, FeatureSpec, Needs, Record

if TYPE_CHECKING:
    import torch

    from blemish.learning.heads import Vote
    from blemish.learning.sampler import Samples
    from blemish.methods.base import Method


class Source(Protocol):
    """Samples as a method sees them, and how the method becomes a graph."""

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

    def batches(self, records: Iterable[Record], size: int | None = None) -> Iterator[Batch]:
        """The same as batches for a method, of `size` samples, or `batch`."""
        ...

    def compute_on(self, device: str) -> str:
        """Compute on a device what can be computed there; the device that it then is."""
        ...

    def freeze(self, method: Method[Any], vote: Vote | None = None) -> bytes:
        """The whole graph from a prepared sample to score and map."""
        ...

    def reference(self, method: Method[Any], vote: Vote | None = None) -> Engine:
        """What it is compared with."""
        ...


class PlainSource:
    """Prepared samples as they are, from their files, for a method without a frozen network: `Batch.x` alone.

    Args:
        kind: the modality with its preprocessing.
        spec: the description of a sample for the method.
        batch: samples that a method observes at a time.
    """

    identity = "none"  # of the frozen network
    layers: tuple[int, ...] = ()

    def __init__(
        self,
        kind: Modality[Any],
        spec: FeatureSpec,
        *,
        batch: int = 8,
        threads: int | None = None,
        precision: Precision = "f32",
    ) -> None:
        self.kind, self.preprocess, self.spec, self.batch = kind, kind.preprocess, spec, batch
        self.threads = threads or cores()
        self.precision: Precision = precision
        self.seen: set[str] = set()  # content ids of every sample asked for
        self.categories: dict[str, int] = {}  # of several categories: only a frozen network's features tell those apart

    def compute_on(self, device: str) -> str:  # noqa: ARG002
        """The processor: samples are prepared in NumPy."""
        return "cpu"

    def prepared(self, record: Record) -> NDArray[Any]:
        """A sample as the engine takes it. DataError where it cannot be read."""
        content, prepared = self.kind.ready(record)
        self.seen.add(content)
        return prepared

    def stream(self, records: Iterable[Record]) -> Iterator[tuple[Record, NDArray[Any]]]:
        """Records with their samples, in order."""
        return ((record, self.prepared(record)) for record in records)

    def batches(self, records: Iterable[Record], size: int | None = None) -> Iterator[Batch]:
        """The same as batches for a method."""
        remaining = iter(records)
        while block := list(islice(remaining, size or self.batch)):
            yield self.stacked(block)

    def stacked(self, records: Sequence[Record]) -> Batch:
        """These samples as one batch."""
        return self.batch_of([self.prepared(record) for record in records], records)

    def batch_of(self, prepared: Sequence[NDArray[Any]], records: Sequence[Record]) -> Batch:
        """Prepared samples of these records as one batch."""
        x = self.kind.stack(prepared)
        return Batch(size=self.map_size(x), x=x, ids=tuple(record.id for record in records))

    def map_size(self, x: NDArray[Any]) -> tuple[int, ...]:  # noqa: ARG002
        """Shape of a map of one sample of a batch."""
        return tuple(self.kind.size)

    def freeze(self, method: Method[Any], vote: Vote | None = None) -> bytes:
        """The whole graph from a prepared sample to score and map; ExportError where the method has none."""
        from blemish.learning import export

        assert vote is None, "there are no categories without a frozen network"
        if not method.needs.graph:
            raise ExportError(f"{type(method).__name__} cannot be one graph: {method.needs.reason}")
        return export.export_plain(method)

    def reference(self, method: Method[Any], vote: Vote | None = None) -> Engine:
        """What it is compared with."""
        from blemish.learning import export

        assert vote is None, "there are no categories without a frozen network"
        return export.plain_engine(method)


class PlainSamples:
    """Samples of a `PlainSource` by number (`sampler.Samples`)."""

    def __init__(self, source: PlainSource, records: Sequence[Record]) -> None:
        self.source, self.records = source, records

    def __len__(self) -> int:
        return len(self.records)

    def prepared(self, number: int) -> NDArray[Any]:
        """One sample."""
        return self.source.prepared(self.records[number])

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:  # noqa: ARG002
        """These samples."""
        return self.source.batch_of([self.prepared(i) for i in indices], [self.records[i] for i in indices])


@dataclass(frozen=True)
class Learning:
    """The learning half of one modality, for methods whose `Needs.source` is one of `takes`.

    modality  the inspecting half
    plan      records to learn from, options, frozen network -> the modality with its preprocessing
    open      where a method gets its samples from
    samples   the samples of a step
    backbone  whether there is a frozen network in front of the method
    """

    takes: tuple[str, ...]
    modality: type[Modality[Any]]
    plan: Callable[[Sequence[Record], FitOptions, Any], Modality[Any]]
    open: Callable[..., Source]
    samples: Callable[[Any, Sequence[Record], Needs, FitOptions, Sequence[Any]], Samples]
    backbone: bool = True

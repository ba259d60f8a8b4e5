"""What learning needs of a modality: how it is planned, where its samples come from, how steps get them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from blemish.data.modality import Modality
from blemish.inspection.engines import Engine, Precision
from blemish.learning.options import FitOptions
from blemish.types import Batch, FeatureSpec, Needs, Record

if TYPE_CHECKING:
    from blemish.learning.export import Vote
    from blemish.learning.sampler import Samples
    from blemish.methods.base import Method


class Source(Protocol):
    """Samples as a method sees them, and its way to a graph."""

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

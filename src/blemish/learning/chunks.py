"""Large sets are observed in chunks and merged in order: here or on other machines, with the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from blemish.data.modality import Modality
from blemish.inspection.engines import Precision
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.sources.base import Source
from blemish.learning.sources.registry import learning_for
from blemish.types import Record

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone
    from blemish.methods.base import Method

Observed = tuple["Method[Any]", set[str]]
"""A method that has seen one chunk, and the content ids of its images."""


@dataclass(frozen=True)
class Chunk:
    """Everything needed to observe a chunk of a large set, on any machine."""

    method_class: type[Method[Any]]
    config: Any
    seed: int
    backbone: Backbone | None
    kind: Modality[Any]
    precision: Precision
    cache: FeatureCache | None
    categories: dict[str, int] = field(default_factory=dict)  # decided ones by record id, of several categories
    device: str = "cpu"

    def source(self, threads: int | None = None) -> Source:
        """Where a worker gets its samples from; one serves many chunks."""
        needs = self.method_class.wants(self.config)
        opened = {"threads": threads, "precision": self.precision, "image": needs.image}
        source = learning_for(needs).open(self.kind, self.backbone, self.cache, **opened)
        source.categories = self.categories
        return source

    def method(self, source: Source) -> Method[Any]:
        """The method, before it has observed anything."""
        return self.method_class(self.config, source.spec, self.kind.size, self.seed)

    def observe(self, source: Source, records: Sequence[Record]) -> Observed:
        """Show one chunk to a method of its own."""
        from blemish.learning.observing import observe

        source.seen.clear()
        method = self.method(source)
        method.move(self.device)
        observe(method, source.batches(records))
        method.condense()
        method.move("cpu")  # it may come from another machine, and is merged where all are
        return method, set(source.seen)


class Spread(Protocol):
    """Learning on several machines; `learning.on_ray` is one."""

    def warm(self, chunk: Chunk, records: Sequence[Record]) -> None:
        """Bring features into the shared cache, for a set that one machine observes."""
        ...

    def observe(self, chunk: Chunk, chunks: Sequence[Sequence[Record]]) -> Iterator[Observed]:
        """What `Chunk.observe` gives for each chunk, in order."""
        ...

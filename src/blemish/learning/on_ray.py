"""Learning from one large set on a cluster: workers extract features into the shared cache and observe chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from blemish.learning.chunks import Chunk, Observed
from blemish.types import Record

PIECE = 64  # images in one task where only features are asked for
AHEAD = 2  # chunks queued for a worker: bounds the waiting results, whatever the size of the set


class _Worker:
    """One process with one core: its own copy of the network, used for every chunk that it gets."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.source = chunk.source(threads=1)

    def warm(self, records: Sequence[Record]) -> int:
        """Bring these records' features into the cache."""
        return sum(1 for _ in self.source.stream(records))

    def observe(self, records: Sequence[Record]) -> Observed:
        """The result of one chunk."""
        return self.chunk.observe(self.source, records)


class RaySpread:
    """`learning.chunks.Spread` on a connected Ray cluster.

    A worker that dies is restarted and its chunk observed again; chunks are always merged in order, so that the model
    is bit for bit the one learned on one machine. The cache folder has to be one that all
    machines share; without a cache, features are computed where a chunk is observed.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def warm(self, chunk: Chunk, records: Sequence[Record]) -> None:
        """Bring features into the shared cache; nothing without one."""
        if chunk.cache is not None:
            pieces = [records[i : i + PIECE] for i in range(0, len(records), PIECE)]
            for _ in self._map(chunk, "warm", pieces):
                pass

    def observe(self, chunk: Chunk, chunks: Sequence[Sequence[Record]]) -> Iterator[Observed]:
        """The result of each chunk, in order."""
        return self._map(chunk, "observe", chunks)

    def _map(self, chunk: Chunk, call: str, pieces: Sequence[Sequence[Record]]) -> Iterator[Any]:
        count = max(1, min(len(pieces), int(self._ray.cluster_resources().get("CPU", 1))))
        worker = self._ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_Worker)
        shared = self._ray.put(replace(chunk, device="cpu"))  # a worker has one core of its machine, and no card
        workers = [worker.remote(shared) for _ in range(count)]
        jobs = enumerate(pieces)
        waiting = [getattr(workers[i % count], call).remote(piece) for i, piece in islice(jobs, AHEAD * count)]
        while waiting:
            yield self._ray.get(waiting.pop(0))
            waiting += [getattr(workers[i % count], call).remote(piece) for i, piece in islice(jobs, 1)]

"""One trunk, a router, and a head for each category: an image goes through one head, however many there are.

Local feature routing of DFC (Wang et al. 2025), as an engine: image -> features -> votes -> the head of the category
that they route to -> score and map. Heads are compiled when they are first needed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.inspection.engines import Head, Outputs, Precision, open_engine
from blemish.system import undisturbed

VOTE = "votes"
_ELECTING = threading.Lock()
KEPT = 64  # compiled heads that are kept; the least recently used are dropped, and compiled again when needed


def head_name(number: int) -> str:
    """Of the head of a category, or of a tile's place, among a model's heads."""
    return f"{number:04d}"


class Heads:
    """Graphs behind one trunk, by number: features of one image -> score and map."""

    def __init__(self, heads: Mapping[str, bytes], *, precision: Precision, threads: int = 1) -> None:
        self._heads, self._precision, self._threads = dict(heads), precision, threads
        self._compiled: OrderedDict[int, Head] = OrderedDict()

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of all heads."""
        return tuple(sorted(int(name) for name in self._heads if name != VOTE))

    def __call__(self, number: int, maps: Sequence[NDArray[np.float32]]) -> Outputs:
        """All levels of one image (C_l, *grid_l) -> the outputs of a head, each with a batch of one."""
        return self._elected(number)(maps)

    def _elected(self, number: int) -> Head:
        """A head, compiled when it is first needed."""
        with undisturbed, _ELECTING:
            if number not in self._compiled:
                if len(self._compiled) >= KEPT:
                    self._compiled.popitem(last=False)
                graph = self._heads[head_name(number)]
                self._compiled[number] = Head(graph, precision=self._precision, threads=self._threads)
            self._compiled.move_to_end(number)
            return self._compiled[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": OrderedDict()}


class Routes:
    """Features of one image -> score, map, votes and strangeness, by the head of the decided category."""

    def __init__(self, heads: Mapping[str, bytes], *, precision: Precision, threads: int = 1) -> None:
        self._vote = Head(heads[VOTE], precision="f32", threads=threads)
        self._heads = Heads(heads, precision=precision, threads=threads)

    def __call__(self, maps: Sequence[NDArray[np.float32]]) -> Outputs:
        """All levels of one image (C_l, *grid_l) -> the outputs, each with a batch of one."""
        votes, strangeness = self._vote(maps)
        score, anomaly_map = self._heads(int(votes[0].argmax()), maps)
        return score, anomaly_map, votes, strangeness


class Routed:
    """A model whose categories have heads of their own; an `Engine`."""

    name = "openvino"

    def __init__(
        self, trunk: bytes, heads: Mapping[str, bytes], *, precision: Precision, threads: int = 1, batch: int = 1
    ) -> None:
        self.precision: Precision = precision
        self._trunk = open_engine(trunk, precision=precision, threads=threads, batch=batch)
        self._routes = Routes(heads, precision=precision, threads=threads)

    def __call__(self, images: NDArray[Any]) -> Outputs:
        levels = self._trunk(images)
        each = [self._routes([level[i] for level in levels]) for i in range(len(images))]
        return tuple(np.concatenate(parts) for parts in zip(*each, strict=True))

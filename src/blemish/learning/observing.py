"""One pass over the good samples: what a method observes, merges and concludes. No PyTorch.

observe    every batch once, in order          (statistics, banks)
merge      what chunks have observed, in their order
conclude   what was observed becomes what is kept

`seen_again` gives a batch the frozen features of an image that the method makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import DataError
from blemish.methods.base import Method
from blemish.types import Batch, Pyramid

CHUNK = 4096
"""Images that are observed in one go; more are observed chunk by chunk and merged in order, on however many machines,
so that the number of machines changes no bit of the result."""


def observe(method: Method[Any], batches: Iterable[Batch]) -> None:
    """Show a method every batch once, in order. DataError where there is no sample at all."""
    seen = 0
    with method.computing():
        for batch in batches:
            method.observe(method.placed(batch))
            seen += len(batch.ids)
    if not seen:
        raise DataError("there is no good image to learn from", hint="give a folder with at least one")


def merge(method: Method[Any], chunks: Iterable[Method[Any]]) -> None:
    """Take over what the chunks have observed, in order."""
    with method.computing():
        for chunk in chunks:
            method.merge(chunk)


def conclude(method: Method[Any]) -> None:
    """Turn what was observed into what is kept."""
    with method.computing():
        method.conclude()


def train(method: Method[Any], batches: Iterable[Batch]) -> None:
    """Observe everything and conclude."""
    observe(method, batches)
    conclude(method)


MapsOf = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], ...]]
"""Normalised images (B, 3, H, W) -> the frozen network's maps."""


def seen_again(method: Method[Any], batch: Batch, maps_of: MapsOf) -> Batch:
    """A batch with the features of what the method makes of it, in its own arrays; as it is where it makes nothing."""
    if not method.wants(method.config).again:
        return batch
    with method.computing():
        made = method.remade(method.placed(batch))
        made = made.cpu() if method.device != "cpu" else made
    return method.placed(replace(batch, again=Pyramid(maps_of(np.asarray(made)))))

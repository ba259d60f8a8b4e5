"""The only training loop. It gets training data only: there is nothing here to peek at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from blemish.errors import DataError
from blemish.methods.base import Method
from blemish.types import Batch


@torch.no_grad()
def train(method: Method[Any], batches: Iterable[Batch]) -> None:
    """Show a method every batch once, in order, and let it conclude. DataError where there is no sample at all."""
    seen = 0
    for batch in batches:
        method.observe(batch)
        seen += len(batch.ids)
    if not seen:
        raise DataError("there is no good image to learn from", hint="give a folder with at least one")
    method.conclude()

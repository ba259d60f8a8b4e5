"""Training samples by number, and which of them each step gets.

A step's samples depend on seed, phase and step alone, so that a run can start at any step.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from blemish.methods.base import Phase
from blemish.types import Batch


class Samples(Protocol):
    """Training samples by number."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        """These samples; with a generator, random views of them, and with their damaged copies."""
        ...


@runtime_checkable
class OfProducts(Protocol):
    """Of samples of several categories also the category of each; none where there is one product."""

    @property
    def categories(self) -> Sequence[int]: ...


class SeenAgain(Protocol):
    """Of samples behind a frozen network also what that makes of other images."""

    def maps_of(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """(B, 3, H, W) normalised -> maps."""
        ...


def in_order(samples: Samples, size: int = 16) -> Iterator[Batch]:
    """All samples once, undamaged."""
    for start in range(0, len(samples), size):
        yield samples.batch(range(start, min(start + size, len(samples))))


def drawn_order(samples: Samples, balanced: bool, generator: torch.Generator) -> list[int]:
    """As many numbers as there are samples: each once, or, `balanced`, equally many of each product in turn."""
    n = len(samples)
    owners = list(samples.categories) if balanced and isinstance(samples, OfProducts) else []
    by_owner = [[i for i, owner in enumerate(owners) if owner == k] for k in sorted(set(owners))]
    if len(by_owner) < 2:
        return torch.randperm(n, generator=generator).tolist()
    turns = math.ceil(n / len(by_owner))
    columns = []
    for members in by_owner:
        times = math.ceil(turns / len(members))
        shuffled = [torch.randperm(len(members), generator=generator).tolist() for _ in range(times)]
        columns.append([members[i] for order in shuffled for i in order][:turns])
    return [number for turn in zip(*columns, strict=True) for number in turn][:n]


class Draws:
    """What the steps of one phase get: epochs of samples in random order, one after the other, cut into batches.

    Args:
        number: of the phase.
    """

    def __init__(self, samples: Samples, phase: Phase, seed: int, number: int) -> None:
        self.samples, self.phase, self.seed, self.number = samples, phase, seed, number
        self.size = max(min(phase.batch, len(samples)), 2)  # 2: a batch norm needs more than one value
        self.orders: dict[int, list[int]] = {}  # of the epochs that the last batch is of

    def prefetched(self, start: int) -> Generator[Batch, None, None]:
        """The batches of all steps from `start`, each loaded while the previous one is processed.

        A caller that stops early has to close it: the garbage collector might end it in its own thread, which cannot
        wait for itself.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            next_batch = pool.submit(self.batch, start)
            for step in range(start, self.phase.steps):
                batch = next_batch.result()
                if step + 1 < self.phase.steps:
                    next_batch = pool.submit(self.batch, step + 1)
                yield batch

    def batch(self, step: int) -> Batch:
        """The batch of this step."""
        n = len(self.samples)
        wanted = range(step * self.size, (step + 1) * self.size)
        epochs = range(wanted[0] // n, wanted[-1] // n + 1)
        self.orders = {epoch: self.orders.get(epoch) or self.order(epoch) for epoch in epochs}
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.number, step, 3))
        return self.samples.batch([self.orders[i // n][i % n] for i in wanted], generator)

    def order(self, epoch: int) -> list[int]:
        """Of the samples in this epoch."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.number, epoch, 2))
        return drawn_order(self.samples, self.phase.balanced, generator)


def seed_of(*numbers: int) -> int:
    """One seed from several numbers; similar numbers give unrelated seeds."""
    value = 0
    for number in numbers:
        value = (value * 6364136223846793005 + number + 1442695040888963407) % 2**64
        value ^= value >> 29
    return value % 2**63

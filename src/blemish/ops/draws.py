"""Random numbers that are the same with every version of every library: the words of a Mersenne Twister."""

from __future__ import annotations

import numpy as np


class Draws:
    """Draws under a seed, one behind the other.

    The words are MT19937's, whose stream is fixed for ever; other generators may change theirs with a version.
    """

    def __init__(self, seed: int) -> None:
        self._words = np.random.RandomState(seed % 2**32)

    def below(self, n: int) -> int:
        """A number in [0, n)."""
        return int(self._words.randint(0, 2**32, dtype=np.uint32)) % n

    def permutation(self, n: int) -> list[int]:
        """The numbers 0 to n - 1 in a drawn order (Fisher and Yates)."""
        order = list(range(n))
        for i in range(n - 1):
            j = i + self.below(n - i)
            order[i], order[j] = order[j], order[i]
        return order

    def share(self) -> float:
        """A number in [0, 1), of 53 bits."""
        return float(self._words.random_sample())

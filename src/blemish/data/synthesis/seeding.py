"""The random generator of one output."""

from __future__ import annotations

import hashlib

import numpy as np


def generator_for(seed: int, *what: object) -> np.random.Generator:
    """A generator that depends on the run's seed and on `what` is made, and on nothing else: not on what else is made,
    nor on when."""
    digest = hashlib.sha256("\0".join(map(str, what)).encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()])

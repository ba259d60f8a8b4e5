"""Stations that learn and save for ever, until they are killed: the tests of `test_kill` start them.

Each line on stdin forks one from this process, which has everything imported and has run nothing yet.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

from blemish import methods
from blemish.config import build
from blemish.data import layouts
from blemish.inspection import modelfile
from blemish.learning import export, observing
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.fit import fit
from blemish.learning.options import FitOptions
from tests.fakes import FakeBackbone

LOADED = (export, observing, methods.get("padim"))  # what `fit` would import in every station anew
OPTIONS = {
    "method": "padim", "backbone": "fake", "image_size": "64x48", "false_alarm_rate": 0.4, "held_out": 0.4,
}  # fmt: skip


def station(good: Path, out: Path) -> None:
    """Every round drops what the cache holds and takes another seed, so that there is always something to write."""
    records = layouts.index(good)
    for seed in count():
        cache = FeatureCache()
        if seed % 3 == 2:
            cache.clear()
        model = fit(records, build(FitOptions, {**OPTIONS, "seed": seed}), backbone=FakeBackbone(), cache=cache)
        print("ready", flush=True)
        for _ in range(20):
            modelfile.save(model, out)


if __name__ == "__main__":
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            station(Path(sys.argv[1]), Path(sys.argv[2]))
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("gone", flush=True)

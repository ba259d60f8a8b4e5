"""A model fitted in a second or two, for the tests of what happens to a model afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from blemish import methods
from blemish.config import build
from blemish.inspection.calibrate import formats
from blemish.inspection.engines import Engine, Precision, open_engine
from blemish.inspection.modelfile import Model
from blemish.learning.fit import fit
from blemish.learning.options import FitOptions
from blemish.types import Record
from tests.fakes import FakeBackbone, write_images

ROOT = Path(__file__).resolve().parents[1]
HERE = [name for name in methods.names() if find_spec("torch") or not methods.describe(name)["extra"]]
"""Methods that can run with what is installed."""
OF_IMAGES = [name for name in HERE if methods.get(name).needs.source in ("pyramid", "image")]
TRAINED = [name for name in OF_IMAGES if methods.get(name).fitted_modules]
ROUTED = [name for name in OF_IMAGES if methods.get(name).routing(methods.get(name).Config()) is not None]
GRADIENT = "rd"  # the lightest of the trained whose networks may run in bf16 up to a border
SAMPLE = [*(name for name in OF_IMAGES if name not in TRAINED), GRADIENT]
"""What is tried with files: methods of one pass, and one that is trained; the contract tests try each without."""
RATE = 0.2  # small enough a promise that four held-out images support it
FEW = 12  # steps of a training whose outcome is only compared, saved, moved about


class Done(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


def shortened(brief: dict[str, Any], most: int = FEW) -> dict[str, Any]:
    """The options of a brief training with no more than so many steps in any of its phases."""
    return {key: min(value, most) if key.endswith("steps") else value for key, value in brief.items()}


def fit_tiny(folder: Path, records: Sequence[Record] | None = None, *, cache: Any = None, **options: Any) -> Model:
    """A model of 20 tiny images (or of `records`), after a few steps; whatever is cached lands in `folder`."""
    chosen = {"method": "padim", "backbone": "fake", "image_size": "64x48", "false_alarm_rate": RATE, **options}
    chosen["options"] = {**shortened(methods.get(chosen["method"]).brief), **chosen.get("options", {})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLEMISH_CACHE", str(folder / "cache"))
        records = records if records is not None else write_images(folder / "good", 20)
        return fit(records, build(FitOptions, chosen), backbone=FakeBackbone(), cache=cache)


def in_formats(graph: bytes) -> dict[Precision, Engine]:
    """A graph in every number format of this machine."""
    return {precision: open_engine(graph, precision=precision) for precision in formats()}


def python(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run this interpreter from the repository's root, its `src` first on the path."""
    paths = [p for p in (os.environ.get("PYTHONPATH"), str(ROOT)) if p]
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(env or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )

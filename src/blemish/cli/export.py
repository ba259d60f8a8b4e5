"""`blemish export`: a model for programs that know nothing of Blemish."""

from __future__ import annotations

from pathlib import Path

from blemish.cli.about import emit
from blemish.cli.progress import track
from blemish.errors import ConfigError


def run(model: Path, out: Path, runtime: str, golden: list[Path], int8: bool, calibration: str | None) -> None:
    """Write the folder and print one JSON object."""
    from blemish.detector import Detector
    from blemish.inspection import bundle

    if int8 and calibration is None:
        raise ConfigError("--int8 needs good images to measure ranges with", hint="--calibration GOOD, unseen ones")
    if calibration is not None and not int8:
        raise ConfigError("--calibration means nothing without --int8", hint="leave --calibration out")
    detector = Detector.load(model)
    bundle.check_place(out, [model, *golden, *([calibration] if calibration else [])])
    emit(detector.export(out, runtime, golden=golden, int8=calibration, track=track))

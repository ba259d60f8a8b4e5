"""Blemish learns what good parts look like from good images alone, then finds, localises and judges defects.

    from blemish import Detector
    detector = Detector("padim").fit("good/").calibrate(false_alarm_rate=0.05)
    detector.inspect("part.png").verdict

Names are loaded when they are first used: importing this package imports neither torch nor an engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Detector": "blemish.detector",
    "Evaluation": "blemish.evaluation.summary",
    "AnomalyResult": "blemish.types",
    "Record": "blemish.types",
    "methods": "blemish.methods",
    "BlemishError": "blemish.errors",
    "ConfigError": "blemish.errors",
    "DataError": "blemish.errors",
    "OutOfRange": "blemish.errors",
    "PartNotFound": "blemish.errors",
    "NotFittedError": "blemish.errors",
    "BackboneError": "blemish.errors",
    "TrainingDiverged": "blemish.errors",
    "CalibrationError": "blemish.errors",
    "ModelFileError": "blemish.errors",
    "ExportError": "blemish.errors",
    "EngineError": "blemish.errors",
    "ResourceError": "blemish.errors",
}
__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from blemish import methods as methods
    from blemish.detector import Detector as Detector
    from blemish.errors import BackboneError as BackboneError
    from blemish.errors import BlemishError as BlemishError
    from blemish.errors import CalibrationError as CalibrationError
    from blemish.errors import ConfigError as ConfigError
    from blemish.errors import DataError as DataError
    from blemish.errors import EngineError as EngineError
    from blemish.errors import ExportError as ExportError
    from blemish.errors import ModelFileError as ModelFileError
    from blemish.errors import NotFittedError as NotFittedError
    from blemish.errors import OutOfRange as OutOfRange
    from blemish.errors import PartNotFound as PartNotFound
    from blemish.errors import ResourceError as ResourceError
    from blemish.errors import TrainingDiverged as TrainingDiverged
    from blemish.evaluation.summary import Evaluation as Evaluation
    from blemish.types import AnomalyResult as AnomalyResult
    from blemish.types import Record as Record


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'blemish' has no attribute '{name}'")
    module = importlib.import_module(_WHERE[name])
    return module if name == "methods" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Every error that Blemish raises on purpose.

BlemishError
├── ConfigError          an option is unknown, ill-typed or out of range
├── DataError            a file or a data set cannot be used; names the path
│   ├── OutOfRange       it can be read, and lies outside of what the model has learned to judge
│   └── PartNotFound     it can be read, and shows no part that could be found: never a good one
├── NotFittedError       asked to predict before fit
├── BackboneError        a backbone or its weights are missing or not what they claim to be
├── TrainingDiverged     a loss became infinite or no number; names the step and the terms
├── CalibrationError     too few good images for the promise that was asked
├── ModelFileError       a model folder is damaged, incomplete or of another version
├── ExportError          the graph cannot be made, or disagrees with PyTorch
├── EngineError          the asked inference engine or precision is not available here
└── ResourceError        what was asked for needs more memory than there is
"""

from __future__ import annotations

from pathlib import Path


class BlemishError(Exception):
    """Base of all. `hint` is one line that says what to do; the command line prints it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(BlemishError, ValueError):
    """An option is unknown, ill-typed or out of range."""


class DataError(BlemishError):
    """A file or a data set cannot be used."""

    def __init__(self, message: str, *, path: str | Path | None = None, hint: str | None = None) -> None:
        super().__init__(message if path is None else f"{path}: {message}", hint=hint)
        self.path = None if path is None else Path(path)

    def at(self, path: str | Path) -> DataError:
        """The same error, naming the file where it named none."""
        return self if self.path is not None else type(self)(str(self), path=path, hint=self.hint)


class OutOfRange(DataError):
    """A sample can be read, and lies outside of what the model has learned to judge: it gets no verdict."""


class PartNotFound(DataError):
    """A picture shows no part that could be found, or more than one: it is anomalous."""


class NotFittedError(BlemishError, RuntimeError):
    """Asked to predict before fit."""


class BackboneError(BlemishError):
    """A backbone or its weights are missing or not what they claim to be."""


class TrainingDiverged(BlemishError):
    """A loss became infinite or no number."""


class CalibrationError(BlemishError):
    """Too few good images for the promise that was asked."""


class ModelFileError(BlemishError):
    """A model folder is damaged, incomplete or of another version."""


class ExportError(BlemishError):
    """The graph cannot be made, or disagrees with PyTorch."""


class EngineError(BlemishError):
    """The asked inference engine or precision is not available on this machine."""


class ResourceError(BlemishError, MemoryError):
    """What was asked for needs more memory than there is."""

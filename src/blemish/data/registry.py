"""The modalities: what differs between images, signals and point clouds is in one object each; everything else is

shared. Each package beside this file that has a `modality` module with `MODALITY` is one, by the
package's name. A new one is such a package, and a file in `learning.sources`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol

from blemish import data
from blemish.config import nearest
from blemish.data.modality import Modality
from blemish.errors import ConfigError, ModelFileError

DEFAULT = "image"  # of models that do not say: those of earlier versions


def names() -> list[str]:
    """The modalities there are, sorted; imports none of them."""
    packages = [module.name for module in pkgutil.iter_modules(data.__path__) if module.ispkg]
    return sorted(name for name in packages if importlib.util.find_spec(f"{data.__name__}.{name}.modality"))


def get(name: str) -> type[Modality[Any]]:
    """The class behind a name; ConfigError where there is none."""
    if name not in names():
        raise ConfigError(f"no modality '{name}'", hint=nearest(name, names()))
    found: type[Modality[Any]] = importlib.import_module(f"{data.__name__}.{name}.modality").MODALITY
    return found


class Described(Protocol):
    """What identifies a model's modality: its name, and the plan of its preprocessing."""

    @property
    def kind(self) -> str: ...

    @property
    def preprocess(self) -> Mapping[str, Any]: ...


def of(meta: Described) -> Modality[Any]:
    """The modality that a model was learned from, by its description; ModelFileError where it is not understood."""
    try:
        return get(meta.kind).from_json(meta.preprocess)
    except (KeyError, ConfigError) as error:
        raise ModelFileError(f"the model's preprocessing is not understood ({error})") from None

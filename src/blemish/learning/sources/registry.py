"""Which modality a method learns from. Each file of this folder that has `LEARNING` is one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from blemish.errors import ConfigError
from blemish.learning import sources
from blemish.learning.sources.base import Learning
from blemish.types import Needs


def learning_for(needs: Needs) -> Learning:
    """By `Needs.source`; ConfigError where there is none."""
    for one in _all(tuple(sources.__path__)):
        if needs.source in one.takes:
            return one
    raise ConfigError(f"no samples of '{needs.source}' can be learned from")


def learning_of(modality: str) -> Learning:
    """By the modality's name; ConfigError where there is none."""
    for one in _all(tuple(sources.__path__)):
        if one.modality.name == modality:
            return one
    raise ConfigError(f"nothing learns from samples of modality '{modality}'")


@cache
def _all(path: tuple[str, ...]) -> tuple[Learning, ...]:
    """In the files' order; `path` is the package's own, which a test may widen."""
    modules = (importlib.import_module(f"{sources.__name__}.{m.name}") for m in pkgutil.iter_modules(path))
    return tuple(module.LEARNING for module in modules if hasattr(module, "LEARNING"))

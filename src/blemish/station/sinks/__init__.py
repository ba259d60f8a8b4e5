"""Where verdicts go: one file each. The files of this folder are the list; a sink's kind is the name of its file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from blemish.errors import ConfigError
from blemish.station.config import Config
from blemish.station.place import Place
from blemish.station.sinks.base import Around, Sink

_NOT_SINKS = {"base"}
HIDDEN = "********"
"""Stands for a secret where options are shown; given back, it means the secret that is there."""


def kinds() -> list[str]:
    """All kinds of sinks, sorted; imports none of them."""
    return sorted(one.name for one in pkgutil.iter_modules(__path__) if one.name not in _NOT_SINKS)


def get(kind: str) -> type[Sink[Any]]:
    """The class of a kind; ConfigError where there is none."""
    if kind not in kinds():
        raise ConfigError(f"there is no sink of kind '{kind}'", hint=f"there are: {', '.join(kinds())}")
    found: type[Sink[Any]] = importlib.import_module(f"{__name__}.{kind}").SINK
    return found


def made(kind: str, name: str, options: Mapping[str, Any], place: Place, config: Config) -> Sink[Any]:
    """A sink, which sends nothing yet. ConfigError that names the option where one cannot be."""
    return get(kind)(options, Around(place, config, name))


def _secrets(kind: str) -> list[str]:
    return [one.name for one in fields(get(kind).OPTIONS) if one.metadata.get("secret")]


def shown(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without what nobody may read."""
    secrets = _secrets(kind)
    return {name: HIDDEN if name in secrets and value else value for name, value in options.items()}


def merged(kind: str, options: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Options as somebody has changed them, with the secrets that were only shown as hidden."""
    secrets = _secrets(kind)
    return {n: before.get(n, "") if n in secrets and value == HIDDEN else value for n, value in options.items()}

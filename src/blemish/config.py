"""Options are frozen dataclasses: build one from names and values, override it, write it as JSON.

Pydantic does the reading of values ("0.05" -> 0.05) and the type errors; it is imported inside `build` because the
inspecting side never builds a config.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from blemish.errors import ConfigError

T = TypeVar("T")


def nearest(word: str, known: list[str]) -> str:
    """The end of an error message: the nearest known name, or all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known) or 'none'}"


def build(cls: type[T], options: Mapping[str, Any], *, also: Sequence[str] = ()) -> T:
    """An instance of the dataclass `cls` from `options`; values may be text, paths, or numpy's numbers and arrays.

    Raises ConfigError on an unknown name (naming the nearest one of its own and of `also`, which stand beside them),
    an ill-typed or out-of-range value.
    """
    from pydantic import TypeAdapter, ValidationError

    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in options:
        if name not in names:
            raise ConfigError(f"unknown option '{name}'", hint=nearest(name, [*names, *also]))
    try:
        several = {f.name for f in dataclasses.fields(cls) if str(f.type).startswith("tuple[")}  # type: ignore[arg-type]
        plain = {name: _plain(value) for name, value in options.items()}
        given = {k: v.split(",") if k in several and isinstance(v, str) else v for k, v in plain.items()}
        config = TypeAdapter(cls).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # a check over several options, whose message names the values
            raise ConfigError(message, hint=getattr(first.get("ctx", {}).get("error"), "hint", None)) from None
        where = ".".join(str(p) for p in first["loc"])
        raise ConfigError(f"option '{where}': {message} (got {first['input']!r})") from None
    for name in names:
        value = getattr(config, name)
        if isinstance(value, float) and not math.isfinite(value):  # NaN passes every comparison of __post_init__
            raise ConfigError(f"option '{name}': has to be a finite number (got {value})")
    return config


def _plain(value: Any) -> Any:
    """As in JSON: paths as text, numpy's values as plain numbers."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value


def override(config: T, options: Mapping[str, Any]) -> T:
    """A copy of `config` with `options` on top; same errors as `build`."""
    return build(type(config), {**to_json(config), **options})


def to_json(config: Any) -> dict[str, Any]:
    """Plain values by field name; tuples become lists, as JSON has them."""
    return {
        f.name: list(v) if isinstance(v := getattr(config, f.name), tuple) else v for f in dataclasses.fields(config)
    }


def parse_assignments(pairs: list[str]) -> dict[str, Any]:
    """`["a=1", "b.c=x"]` -> `{"a": "1", "b": {"c": "x"}}`, as given with --set.

    ConfigError where one has another form, or gives an option both a value and parts.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        name, sep, value = pair.partition("=")
        *groups, last = (part.strip() for part in name.split("."))
        if not sep or not all((*groups, last)):
            raise ConfigError(f"'{pair}' is not of the form key=value")
        inner = out
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"'{pair}': {group} has a value already")
        if isinstance(inner.get(last), dict):
            raise ConfigError(f"'{pair}': parts of {last} are set already")
        inner[last] = value.strip()
    return out

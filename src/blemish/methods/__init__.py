"""The methods: one file each. The files of this folder are the list; names are not written anywhere else."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.config import nearest
from blemish.errors import ConfigError

if TYPE_CHECKING:
    from blemish.methods.base import Method

_NOT_METHODS = {"base", "torch_base"}
FUSED = "fused"
"""Stands for the two methods that complement each other best on average: `padim+protoot`."""
MOST_PARTS = 4  # of methods that are fused into one


def names() -> list[str]:
    """Public names of all methods, sorted; imports none of them."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_METHODS)


def parts(name: str) -> tuple[str, ...]:
    """The methods that a name such as `padim+protoot` fuses into one, in that order; a single name alone.

    ConfigError where a part is no method, or stands there twice.
    """
    each = tuple(part.strip() for part in ("padim+protoot" if name == FUSED else name).split("+"))
    if len(each) > 1:
        for part in each:
            get(part)
        if len(set(each)) < len(each) or len(each) > MOST_PARTS:
            raise ConfigError(f"'{name}' has to be 2 to {MOST_PARTS} different methods", hint="such as padim+protoot")
    return each


def get(name: str) -> type[Method[Any]]:
    """The class behind a name; ConfigError names the nearest where there is none."""
    if name not in names():
        raise ConfigError(f"no method '{name}'", hint=nearest(name, names()))
    method: type[Method[Any]] = importlib.import_module(f"{__name__}.{name}").METHOD
    return method


def describe(name: str) -> dict[str, str]:
    """Title, paper and what a method suits ("" where it is missing), from its file's docstring; and the extra that it
    needs, "train" for PyTorch.

    The file is read, not imported, so without torch. ConfigError where there is no such method.
    """
    for folder in __path__:
        file = Path(folder) / f"{name}.py"
        if file.exists():
            text = file.read_text(encoding="utf-8")
            doc = ast.get_docstring(ast.parse(text)) or ""
            lines = doc.splitlines() or [""]
            paper, suits = (
                next((line.removeprefix(key).strip() for line in lines if line.startswith(f"{key} ")), "")
                for key in ("Paper", "Suits")
            )
            extra = "train" if "from blemish.methods.torch_base import" in text else ""
            return {"name": name, "title": lines[0], "paper": paper, "suits": suits, "extra": extra}
    raise ConfigError(f"no method '{name}'", hint=nearest(name, names()))

"""Digests of source code that see what it does, not how it is written.

Blind to comments, docstrings, formatting and imports, and the same on every version of Python: results that are kept
under such a digest stay valid when a file is moved, commented or formatted.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Collection, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from blemish.methods.base import Method

_UNSEEN = frozenset({"ctx", "kind", "type_comment", "type_ignores"})  # fields of nodes that do not affect execution


def code_digest(*sources: str, without: Collection[str] = ()) -> str:
    """sha256 (hex) over what these source texts do, in their order, without functions and attributes named in
    `without`.

    Raises SyntaxError for a text that is no Python.
    """
    found = hashlib.sha256()
    for source in sources:
        found.update(repr(_plain(ast.parse(source), frozenset(without))).encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def _plain(value: Any, without: frozenset[str]) -> Any:
    """A node as nested tuples of the fields that hold something: which empty ones there are differs by version."""
    if isinstance(value, ast.JoinedStr):
        return ("JoinedStr", *(_plain(part, without) for part in _joined(value.values)))
    if isinstance(value, ast.AST):
        fields = {name: _plain(field, without) for name, field in ast.iter_fields(value) if name not in _UNSEEN}
        return (type(value).__name__, *((name, field) for name, field in sorted(fields.items()) if _holds(field)))
    if isinstance(value, list):
        return tuple(_plain(item, without) for item in value if not _unseen(item, without))
    return (type(value).__name__, repr(value)) if value is not None else None


def _joined(parts: list[ast.expr]) -> Iterator[ast.expr]:
    """Texts of an f-string that lie side by side as one: where they are cut differs by version."""
    for constant, run in groupby(parts, lambda part: isinstance(part, ast.Constant)):
        if not constant:
            yield from run
        elif text := "".join(str(part.value) for part in run if isinstance(part, ast.Constant)):
            yield ast.Constant(text)


def _holds(field: Any) -> bool:
    return field is not None and field != ()


def _unseen(node: Any, without: frozenset[str]) -> bool:
    """Imports, blocks that hold only imports (`if TYPE_CHECKING:`), docstrings, and what is left out by name."""
    if isinstance(node, ast.If):
        return not node.orelse and all(_unseen(inner, without) for inner in node.body)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name in without
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Name) and target.id in without for target in node.targets)
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return text or isinstance(node, ast.Import | ast.ImportFrom)


def learning_sources(method_class: type[Method[Any]]) -> str:
    """Digest of the code that a phase's outcome depends on, so that after a change nothing kept is found.

    The method's file and what it is built of in `nn` and `ops`, the training loop, and what makes its samples.
    """
    root = Path(__file__).parents[1]
    learning = root / "learning"
    files = {learning / "training.py", learning / "sampler.py", *(learning / "sources").glob("*.py")}
    files |= {*(root / "data" / "synthesis").glob("*.py")}
    unread = [Path(inspect.getfile(method_class))]
    while unread:
        files.add(path := unread.pop())
        unread += [root / name for name in _read(path, path.stat().st_mtime_ns).built_of if root / name not in files]
    marks = [_read(path, path.stat().st_mtime_ns).digest for path in sorted(files)]
    return hashlib.sha256("".join(marks).encode()).hexdigest()


class _Source(NamedTuple):
    digest: str
    built_of: tuple[str, ...]  # files of `nn`, `ops` and `methods` that it imports from, below the package


@cache
def _read(path: Path, _changed: int) -> _Source:
    """A source file, parsed once for each state of it: each head of a multi-class model asks for its own."""
    text = path.read_text(encoding="utf-8")
    return _Source(code_digest(text), tuple(_built_of(text)))


def _built_of(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, *inner = node.module.split(".")
            if package == "blemish" and len(inner) == 2 and inner[0] in ("nn", "ops", "methods"):
                yield f"{inner[0]}/{inner[1]}.py"

"""What must not stand in the code, whoever writes it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import blemish
from blemish.methods import names

SOURCE = Path(blemish.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
FILES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
# A method that is taken where none is named; every other name comes from the folder.
DEFAULTS = {
    "cli/app.py": {"padim"},
    "cli/demo.py": {"padim"},
    "learning/options.py": {"patchcore"},
}
READS_PICKLES = {"learning/backbones/weights.py"}  # and there with weights_only=True


def tree_of(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> set[int]:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, kinds) and node.body]
    return {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def forbidden(tree: ast.Module, *, may_load: bool) -> list[str]:
    """Ways to run what a file says."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [m for m in modules if m.split(".")[0] in ("pickle", "dill", "joblib", "marshal", "shelve")]
    for function, call in calls(tree):
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if function in ("eval", "exec", "compile", "__import__"):
            found.append(function)
        if function.endswith("torch.load") and not (may_load and keywords.get("weights_only") == "True"):
            found.append(function)
        if function in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
            found.append(function)
    return found


@pytest.mark.parametrize("name", FILES)
def test_nothing_read_is_ever_run(name: str) -> None:
    assert forbidden(tree_of(name), may_load=name in READS_PICKLES) == []


def swallows(handler: ast.ExceptHandler) -> bool:
    wide = handler.type is None or ast.unparse(handler.type) in ("Exception", "BaseException")
    idle = all(
        isinstance(node, ast.Pass | ast.Continue)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in handler.body
    )
    return wide and idle


@pytest.mark.parametrize("name", FILES)
def test_no_error_is_swallowed(name: str) -> None:
    handlers = [node for node in ast.walk(tree_of(name)) if isinstance(node, ast.ExceptHandler)]
    assert not [h.lineno for h in handlers if h.type is None or swallows(h)]
    suppressed = [call for function, call in calls(tree_of(name)) if function.endswith("suppress")]
    assert not [c.lineno for c in suppressed for a in c.args if ast.unparse(a) in ("Exception", "BaseException")]


def method_names_in(tree: ast.Module) -> set[str]:
    """Method names among identifiers and in strings that are no docstrings."""
    ignored, known, found = docstrings(tree), set(names()), set()
    for node in ast.walk(tree):
        words: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in ignored:
            words = re.findall(r"\w+", node.value)
        for field in ("id", "attr", "name", "arg", "module", "asname"):
            words += re.findall(r"[^\W.]+", getattr(node, field, None) or "")
        found |= {word.lower() for word in words} & known
    return found


@pytest.mark.parametrize("name", [n for n in FILES if n not in {f"methods/{m}.py" for m in names()}])
def test_no_method_is_named_outside_its_file(name: str) -> None:
    assert method_names_in(tree_of(name)) <= DEFAULTS.get(name, set())


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_named_defaults_are_still_there(name: str) -> None:
    assert method_names_in(tree_of(name)) == DEFAULTS[name]


def tracked() -> list[Path]:
    """Text files that go into the repository."""
    folders = ("src", "tests", "docs", "benchmarks", ".ci", ".github")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    top = [
        path
        for path in ROOT.iterdir()
        if path.suffix in (".md", ".toml", ".cff", ".yml", "") and not path.name.startswith(".git")
    ]
    suffixes = {".py", ".md", ".toml", ".json", ".jsonl", ".csv", ".html", ".css", ".js", ".yml", ".txt", ".svg", ""}
    files = [path for path in inside + top if path.is_file() and "__pycache__" not in path.parts]
    return sorted(path for path in files if path.suffix in suffixes)


# In pieces, so that this file does not name what it looks for.
_MACHINE = re.compile(
    r"(?<![\w./])/(?:" + "|".join(["wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers", "m" + "nt"]) + r")/[\w.-]+",
    re.ASCII,
)
_HOSTS = re.compile(
    "|".join(
        [
            r"artif" + "actory",
            r"jf" + "rog",
            r"nex" + r"us\.",
            r"files\.python" + "hosted",
            r"index" + r"-url",
            r"pypi\.[a-z]+\.(?:local|internal|corp)",
        ]
    ),
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    ("pattern", "text", "hit"),
    [
        (_MACHINE, "see /" + "home/me/data", True),
        (_MACHINE, "a/" + "home/me", False),
        (_HOSTS, "https://jf" + "rog.example/x", True),
        (_HOSTS, "pip install blemish", False),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[str], text: str, hit: bool) -> None:
    assert bool(pattern.search(text)) is hit


def test_no_file_names_a_machine_or_a_package_host() -> None:
    files = tracked()
    assert len(files) > 60
    found = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for p in (_MACHINE, _HOSTS) for m in p.finditer(text)]
    assert found == []

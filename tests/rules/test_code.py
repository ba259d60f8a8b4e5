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
    "cli/station.py": {"padim"},
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


def words_in(node: ast.AST) -> set[str]:
    """Whole strings in an expression; a text that is more than one word is none."""
    return {str(n.value) for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def speaks_of_methods(node: ast.AST | None) -> bool:
    """Whether an expression is about a method's name: `options.method`, `meta["method"]`, `cell.method.name`."""
    return node is not None and re.search(r"methods?('\])?(\.name)?$", ast.unparse(node)) is not None


def named_by(node: ast.AST) -> set[str]:
    """What one node of a file may name as a method, by where it stands: a plain word elsewhere is a plain word."""
    match node:
        case ast.keyword(arg=str() as key, value=value) if speaks_of_methods(ast.Name(key)):
            return words_in(value)  # Detector(method="x")
        case ast.AnnAssign(target=target, value=ast.expr() as value) if speaks_of_methods(target):
            return words_in(value)  # method: str = "x"
        case ast.Assign(targets=[target], value=value) if speaks_of_methods(target):
            return words_in(value)
        case ast.arguments():  # def f(method="x")
            pairs = [*zip(reversed([*node.posonlyargs, *node.args]), reversed(node.defaults), strict=False)]
            pairs += [(arg, default) for arg, default in zip(node.kwonlyargs, node.kw_defaults, strict=True) if default]
            return {
                word for arg, default in pairs if speaks_of_methods(ast.Name(arg.arg)) for word in words_in(default)
            }
        case ast.Compare(left=left, comparators=others) if any(map(speaks_of_methods, (left, *others))):
            return {word for side in (left, *others) for word in words_in(side)}  # meta["method"] == "x"
        case ast.Match(subject=subject, cases=cases) if speaks_of_methods(subject):
            return {word for case in cases for word in words_in(case.pattern)}
        case ast.Call(func=ast.Attribute(value=owner), args=given) if speaks_of_methods(owner):
            return {word for value in given for word in words_in(value)}  # methods.get("x")
        case ast.Call(func=ast.Name("Detector"), args=[first, *_]):
            return words_in(first)
        case ast.Dict(keys=keys, values=values):  # {"method": "x"}, {"x": ..., "y": ...}[method]
            pairs = zip(keys, values, strict=True)
            return {word for k, v in pairs if k and words_in(k) & {"method", "methods"} for word in words_in(v)}
        case ast.Subscript(value=value, slice=index) if speaks_of_methods(index):
            return words_in(value)
        case ast.Attribute(value=ast.Name("methods"), attr=name):
            return {name}  # methods.x
        case ast.ImportFrom(module="blemish.methods", names=names):
            return {alias.name for alias in names}
        case ast.ImportFrom(module=str() as module) if module.startswith("blemish.methods."):
            return {module.split(".")[2]}
        case ast.Import(names=names):
            return {alias.name.split(".")[2] for alias in names if alias.name.startswith("blemish.methods.")}
        case ast.Constant(value=str() as text):  # "blemish fit --method x", "blemish.methods.x"
            return set(re.findall(r"(?:--methods? |blemish\.methods\.)(\w+)", text))
    return set()


def methods_in(tree: ast.Module) -> set[str]:
    """All that a file names as a method, outside of docstrings."""
    ignored = docstrings(tree)
    return {word for node in ast.walk(tree) if id(node) not in ignored for word in named_by(node)}


@pytest.mark.parametrize("name", [n for n in FILES if n not in {f"methods/{m}.py" for m in names()}])
def test_no_method_is_named_outside_its_file(name: str) -> None:
    assert methods_in(tree_of(name)) & set(names()) <= DEFAULTS.get(name, set())


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_named_defaults_are_still_there(name: str) -> None:
    assert methods_in(tree_of(name)) & set(names()) == DEFAULTS[name]


@pytest.mark.parametrize(
    "code",
    [
        "if meta['method'] == 'memory': pass",
        "if 'memory' != options.method: pass",
        "if cell.method.name in ('rd', 'memory'): pass",
        "match options.method:\n    case 'rd' | 'memory': pass",
        "from blemish.methods.memory import Config",
        "from blemish.methods import memory",
        "import blemish.methods.memory",
        "import blemish.methods.memory as plain",
        "found = methods.memory",
        "found = methods.get('memory')",
        "found = Detector('memory', seed=1)",
        "fit(method='memory')",
        "class A:\n    method: str = 'memory'",
        "def fit(data, method='memory'): pass",
        "def fit(data, *, method='memory'): pass",
        "run = {'method': 'memory', 'seed': 0}",
        "costs = {'rd': 1, 'memory': 2}[options.method]",
        "words = 'fit good/ --method memory'",
        "importlib.import_module('blemish.methods.memory')",
    ],
)
def test_a_method_that_is_named_is_found(code: str) -> None:
    assert "memory" in methods_in(ast.parse(code))


@pytest.mark.parametrize("word", ["memory", "image", "mean", "score", "linear", "path", "nearest"])
def test_a_method_with_a_plain_name_trips_no_rule(word: str) -> None:
    """Everybody's words stay everybody's: these stand in many files."""
    assert sum(word in path.read_text(encoding="utf-8") for path in FILES.values()) > 3
    assert [name for name in FILES if word in methods_in(tree_of(name))] == []


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

"""Who may import whom. `LAYERS` is the table; docs/architecture.md tells why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import blemish
from tests.tiny import python

# A package (or module at the root) imports from the rows above its own, from what stands left of it in its own row, and
# from itself; never from its right or from below.
# All imports count: those inside functions and those for type checking too.
LAYERS = (
    ("errors",),
    ("config", "system", "types", "files", "outputs"),
    ("ops", "nn"),
    ("data", "methods"),
    ("inspection",),
    ("learning",),
    ("evaluation",),
    ("detector",),
    ("station",),
    ("cli", "__main__"),
)
# Tighter than their row, by the longest prefix: arithmetic knows nothing of models and engines, what reads and draws
# data knows neither, and nothing but `methods` is trained.
ONLY = {
    "ops": {"errors", "types"},
    "nn": {"types", "ops"},
    "methods": {"errors", "config", "types", "ops", "nn"},
    "inspection.conformal": {"errors"},
    "inspection.engines": {"errors", "config", "system", "inspection.graph_parts"},
    "inspection.graph_parts": {"errors"},
    "learning.sampler": {"types", "methods"},
    "learning.observing": {"errors", "types", "methods"},
    "learning.training": {"errors", "types", "methods", "learning.sampler", "learning.observing"},
    "evaluation.metrics": {"errors", "evaluation.metrics"},
}
# Importing any other module loads no torch; where they need it, they load it inside a function.
IMPORT_TORCH = (
    "nn",
    "methods",
    "learning.sampler",
    "learning.trace",
    "learning.training",
    "learning.backbones.on_device",
    "learning.backbones.torch_base",
    "learning.backbones.pair",
    "learning.backbones.timm_net",
)

BASES = {"methods.base", "methods.torch_base"}

SOURCE = Path(blemish.__file__).parent
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path != SOURCE / "__init__.py"  # the facade: it names what it hands out, and loads it when it is used
}
PLACE = {name: (row, number) for row, line in enumerate(LAYERS) for number, name in enumerate(line)}


def component(module: str) -> str:
    """`data.layouts.visa` -> `data`."""
    return module.partition(".")[0]


def within(module: str, name: str) -> bool:
    return f"{module}.".startswith(f"{name}.")


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that the nodes import, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.removeprefix("blemish.") in FILES else str(node.module)


def package_imports(tree: ast.AST) -> set[str]:
    """The imported modules of this package, without the package's name."""
    return {name.removeprefix("blemish.") for name in imported(tree) if name.startswith("blemish.")}


def parsed(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def at_import_time(tree: ast.Module) -> ast.Module:
    """Without functions' bodies and without what is for type checkers."""
    kept = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    copy = ast.Module(kept, [])
    for node in ast.walk(copy):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = []
    return copy


STATISTICAL = [
    module
    for module in FILES
    if module.startswith("methods.")
    and module not in BASES
    and "methods.torch_base" not in package_imports(parsed(module))
]  # methods in numpy


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    importing = component(module)
    if importing == "__init__":
        return
    assert importing in PLACE, f"give '{importing}' a place in LAYERS"
    limits = [allowed for name, allowed in ONLY.items() if within(module, name)]
    for name in package_imports(parsed(module)):
        imported_part = component(name)
        assert imported_part == importing or PLACE[imported_part] < PLACE[importing], f"{module} imports {name}"
        for allowed in limits:
            itself = {prefix for prefix in ONLY if within(module, prefix)}
            assert any(within(name, one) for one in allowed | itself), f"{module} imports {name}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: {name for name in package_imports(parsed(module)) if name in FILES} for module in FILES}
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in finished:
            for name in sorted(graph[module]):
                visit(name, (*path, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("methods.") and m not in BASES])
def test_methods_do_not_import_each_other(module: str) -> None:
    assert {name for name in package_imports(parsed(module)) if name.startswith("methods")} <= BASES


@pytest.mark.parametrize("module", FILES)
def test_torch_is_loaded_where_it_is_needed_and_nowhere_else(module: str) -> None:
    names = {name.partition(".")[0] for name in imported(at_import_time(parsed(module)))}
    numpy_only = module in ("methods", "methods.base") or module in STATISTICAL
    allowed = not numpy_only and any(within(module, name) for name in IMPORT_TORCH)
    heavy = {"torch", "torchvision", "timm", "onnx", "safetensors", "pydantic"}
    if within(module, "station"):  # a server, whose web framework is built on pydantic
        heavy -= {"pydantic"}
    assert allowed or not names & heavy


def test_importing_a_statistical_method_loads_no_torch() -> None:
    assert {"methods.padim", "methods.patchcore", "methods.fpfh"} <= set(STATISTICAL)
    imports = "; ".join(f"import blemish.{module}" for module in STATISTICAL)
    done = python("-c", f"{imports}; import sys; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("module", ["errors", "config", "inspection.conformal", "cli.app"])
def test_no_numpy_at_import_time(module: str) -> None:
    names = {name.partition(".")[0] for name in imported(at_import_time(parsed(module)))}
    assert not names & {"numpy", "cv2", "PIL", "openvino", "onnxruntime"}


def test_the_reader_of_imports_sees_them() -> None:
    tree = ast.parse("from blemish import config\ndef f():\n  from blemish.data import identity\n  import torch.nn\n")
    assert package_imports(tree) == {"config", "data.identity"}
    assert "torch.nn" in set(imported(tree))
    assert "torch.nn" not in set(imported(at_import_time(tree)))

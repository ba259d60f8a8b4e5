"""Who may import whom. `LAYERS` is the table; docs/architecture.md tells why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import blemish

# A component imports from the lines above its own, and from itself; never from its own line or below.
# All imports count: those inside functions and those for type checking too.
LAYERS = (
    ("errors",),
    ("config", "types", "files", "system"),
    ("ops", "outputs"),
    ("nn", "metrics", "synthesis", "calibration", "regions", "runtime.engines"),
    ("categories", "runtime.routed", "runtime.clouds"),
    ("data", "backbones", "methods", "modelfile", "drawing", "plots", "contact_sheet"),
    ("strips", "cloud_view"),
    ("cloud_heat",),
    ("kinds", "runtime.open", "scale"),
    ("export", "code_digest", "batches", "runtime.scores", "runtime.inspector", "cases", "options"),
    ("training", "runtime.promises", "cloud_sheets"),
    ("features", "footprint", "windows", "clouds", "evaluation", "holdout", "power", "studio", "studio3d"),
    ("samples",),
    ("sides",),
    ("chunks",),
    ("learning",),
    ("several",),
    ("adapting", "extending"),
    ("fitting", "report_tables"),
    ("detector", "report"),
    ("demo", "power_page"),
    ("bench",),
    ("cluster", "server"),
    ("cli",),
    ("__main__",),
)
# Tighter than their line: pure arithmetic knows nothing of models and engines, and nothing but `methods` is trained.
ONLY = {
    "ops": {"errors", "types"},
    "nn": {"types"},
    "metrics": {"errors"},
    "runtime.engines": {"errors", "config", "system"},
    "methods": {"errors", "config", "types", "ops", "nn", "synthesis"},
    "batches": {"types", "methods"},
    "training": {"errors", "types", "methods", "batches"},
}
# Importing any other module loads no torch; where they need it, they load it inside a function.
IMPORT_TORCH = (
    "ops",
    "nn",
    "synthesis",
    "methods",
    "batches",
    "training",
    "samples",
    "backbones.base",
    "backbones.pair",
    "backbones.timm_net",
)

SOURCE = Path(blemish.__file__).parent
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path != SOURCE / "__init__.py"  # the facade: it names what it hands out, and loads it when it is used
}
LEVEL = {name: level for level, line in enumerate(LAYERS) for name in line}


def component(module: str) -> str:
    """`data.layouts.visa` -> `data`; the parts of `runtime` stand for themselves."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "runtime" else parts[0]


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


def own(tree: ast.AST) -> set[str]:
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


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    here = component(module)
    if here == "runtime":
        assert not own(parsed(module))
        return
    assert here in LEVEL, f"give '{here}' a line in LAYERS"
    for name in own(parsed(module)):
        there = component(name)
        if there != here:
            assert LEVEL[there] < LEVEL[here], f"{module} imports {name}"
            assert there in ONLY.get(here, {there}), f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("methods.") and m != "methods.base"])
def test_methods_do_not_import_each_other(module: str) -> None:
    assert {name for name in own(parsed(module)) if name.startswith("methods")} <= {"methods.base"}


@pytest.mark.parametrize("module", FILES)
def test_torch_is_loaded_where_it_is_needed_and_nowhere_else(module: str) -> None:
    names = {name.partition(".")[0] for name in imported(at_import_time(parsed(module)))}
    allowed = module != "methods" and any(f"{module}.".startswith(f"{name}.") for name in IMPORT_TORCH)
    assert allowed or not names & {"torch", "torchvision", "timm", "onnx", "safetensors", "pydantic"}


@pytest.mark.parametrize("module", ["errors", "config", "calibration", "cli.app"])
def test_no_numpy_at_import_time(module: str) -> None:
    names = {name.partition(".")[0] for name in imported(at_import_time(parsed(module)))}
    assert not names & {"numpy", "cv2", "PIL", "openvino", "onnxruntime"}


def test_the_reader_of_imports_sees_them() -> None:
    tree = ast.parse("from blemish import config\ndef f():\n  from blemish.data import decode\n  import torch.nn\n")
    assert own(tree) == {"config", "data.decode"}
    assert "torch.nn" in set(imported(tree))
    assert "torch.nn" not in set(imported(at_import_time(tree)))

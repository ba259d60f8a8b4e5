"""The reference of the documentation says what the code does: errors, JSON fields, public names."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import blemish
from blemish import errors
from blemish.types import AnomalyResult, AreaScore, LightingScore, Pose, Region, RuleResult
from tests.fakes import write_mvtec
from tests.tiny import fit_tiny

ROOT = Path(__file__).resolve().parents[2]
ERRORS, FIELDS, API = (ROOT / "docs" / page for page in ("howto/errors.md", "reference/json.md", "reference/api.md"))
KINDS = {name: one for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)}


def section(page: Path, title: str) -> str:
    """What stands below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", page.read_text(encoding="utf-8"), re.M | re.S)
    assert found, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Cells of the tables, without their heads."""
    bodies = re.findall(r"^\|(?:-+\|)+\n((?:\|.*\n)+)", text, re.M)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for body in bodies for line in body.splitlines()]


def named(text: str) -> list[str]:
    """What the first cells of the tables name, in order."""
    return [name for row in rows(text) for name in re.findall(r"`([^`]+)`", row[0])]


@cache
def raised() -> dict[str, list[str]]:
    """Messages and hints by class of error, as they stand in the code; what is filled in is an ellipsis."""

    def text(node: ast.AST) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text, node.values))
        if isinstance(node, ast.BinOp):
            return text(node.left) + text(node.right)
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"

    out: dict[str, list[str]] = {name: [] for name in KINDS}
    for file in (ROOT / "src" / "blemish").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                out[node.func.id] += map(text, [*node.args, *(keyword.value for keyword in node.keywords)])
    return out


def test_every_class_of_error_is_explained() -> None:
    assert re.findall(r"^## (\w+)$", ERRORS.read_text(encoding="utf-8"), re.M) == list(KINDS)


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "BlemishError"])
def test_messages_that_are_explained_are_those_of_the_code(kind: str) -> None:
    text = section(ERRORS, kind)
    messages = named(text) or re.findall(r"^`([^`]+)`", text, re.M)
    assert messages
    for message in messages:
        assert any(message in one for one in raised()[kind]), message


def test_the_fields_of_inspect_are_those_of_the_code() -> None:
    measures = {"length_px": 1.0, "width_px": 1.0, "length_mm": 1.0, "width_mm": 1.0, "area_mm2": 1.0}
    measures |= {"position_mm": (0.5, 0.5), "area": "seal"}
    region = Region((0, 0, 1, 1), 1, 1.0, 1.0, interval=(0.0, 1.0), box=(0.0,) * 6, points=1, **measures)
    more = {"span": (0.0, 1.0), "pose": Pose(0, 0, 0, 1), "alarm": "no part found"}
    more |= {"lightings": ("left", "right"), "by_lighting": (LightingScore("left", 1.0, np.zeros((1, 1), np.float32)),)}
    more |= {"areas": (AreaScore("seal", 1.0, 2.0),), "rules": (RuleResult("count > 3", False, 1.0),)}
    line = AnomalyResult("a.png", 1.0, None, regions=(region,), **more).to_json()  # type: ignore[arg-type]
    above, below = section(FIELDS, "A line of inspect").split("Each region:")
    assert named(above) == list(line)
    assert named(below) == list(line["regions"][0])


@pytest.mark.slow
def test_the_fields_of_evaluate_and_of_a_model_are_those_of_the_code(tmp_path: Path) -> None:
    detector = blemish.Detector.from_model(fit_tiny(tmp_path))
    detector.save(tmp_path / "tiny.blemish")
    model = json.loads((tmp_path / "tiny.blemish" / "model.json").read_text(encoding="utf-8"))
    assert sorted(named(section(FIELDS, "The model folder"))) == sorted(model)
    figures = detector.evaluate(write_mvtec(tmp_path / "dataset")).to_json()
    tables = re.split(r"^`(?:setting|overall).*:$", section(FIELDS, "The figures of evaluate"), flags=re.M)
    for table, values in zip(tables, (figures, figures["setting"], figures["overall"]), strict=True):
        assert sorted(named(table)) == sorted(values)
    masks = next(row[1] for row in rows(tables[1]) if row[0] == "`masks`")
    assert re.findall(r"`([^`]+)`", masks) == list(figures["setting"]["masks"])


def test_every_public_name_is_in_the_reference() -> None:
    named = re.findall(r"^::: blemish\.(\w+)$", API.read_text(encoding="utf-8"), re.M)
    assert sorted(named) == sorted(set(blemish.__all__) - {"__version__"})


def test_the_figures_on_the_first_page_are_those_of_the_ledger() -> None:
    ledger = ROOT / "docs" / "ledger.md"
    head, *data = re.findall(
        r"^\| (?:data|ELPV|mtd|bsdata_s|deeppcb_s).*", (ROOT / "README.md").read_text("utf-8"), re.M
    )
    names = [method.strip("`").split("`")[0] for method in head.strip("| ").split(" | ")[2:]]
    assert len(data) > 3
    for line in data:
        where, figure, *values = line.strip("| ").split(" | ")
        table = section(ledger, where)
        columns = next(row for row in table.splitlines() if row.startswith("| method")).strip("| ").split(" | ")
        for method, value in zip(names, values, strict=True):
            found = next(row for row in rows(table.replace(" --- ", "---")) if row[0].removesuffix(" †") == method)
            assert found[columns.index(figure)].split(" [")[0] == value, (where, method)


PROSE = [ROOT / "docs" / "architecture.md", *sorted((ROOT / "docs" / "background").glob("*.md"))]
PACKAGE = ROOT / "src" / "blemish"


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_modules_and_names_of_the_prose_are_there(page: Path) -> None:
    """Each `package.module.Name` in code marks."""
    roots = "|".join(path.stem for path in PACKAGE.iterdir() if not path.stem.startswith("_"))
    for name in re.findall(rf"`((?:{roots})(?:\.\w+)+)`", page.read_text(encoding="utf-8")):
        if name.rpartition(".")[2] in ("md", "py", "json", "onnx", "toml"):
            continue
        parts = name.split(".")
        depth = max(n for n in range(1, len(parts) + 1) if (place := file_of(parts[:n])) and place.is_file())
        source = file_of(parts[:depth]).read_text(encoding="utf-8")
        for inner in parts[depth:]:
            assert re.search(rf"\b{inner}\b", source), f"{name}: no '{inner}' in {'.'.join(parts[:depth])}"


def file_of(parts: list[str]) -> Path:
    """Where a module's code stands, if it is one."""
    path = PACKAGE.joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

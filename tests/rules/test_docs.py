"""What the pages of the documentation name is there, and generated pages are those of the code."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from blemish import methods
from blemish.cli import reference
from tests.docs.pages import DOCS, PAGES, ROOT, blocks, lines, module, name, of


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_block_escapes(page: Path) -> None:
    """`text` blocks are drawings and runs that take minutes; all else is run, read, or looked up."""
    assert {language for language, _ in blocks(page)} <= {"", "python", "json", "toml", "text"}
    for code in of(page, "json"):
        json.loads(code)
    for code in of(page, "toml"):
        tomllib.loads(code)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    extras = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    )
    for words in lines(page):
        match words:
            case ["make", target]:
                assert target in targets
            case ["pip", "install", what]:
                assert set(re.findall(r"\w+", what)) <= extras
            case ["python", "-m", module, *_]:
                assert find_spec(module)
            case ["blemish", *_]:
                pass  # run above
            case _:
                pytest.fail(f"{' '.join(words)}: a plain block holds commands that a test knows")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_options_exist(page: Path) -> None:
    """In `text` blocks too, and every `python benchmarks/...` of the text."""
    from blemish.cli.app import commands

    known = commands()
    for line in "\n".join([*of(page, ""), *of(page, "text")]).replace("\\\n", " ").splitlines():
        if not line.startswith("blemish "):
            continue
        words = shlex.split(line, comments=True)
        named = (" ".join(words[1:end]) for end in (2, 3, 4))  # `fit`, `synthesize perlin`, `station user add`
        command = next(known[one] for one in named if one in known)
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        assert {w for w in words[2:] if w.startswith("--")} <= options, line
    for script in re.findall(r"benchmarks/\w+\.\w+", page.read_text(encoding="utf-8")):
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        if "://" not in target:
            target_page = page.parent / file if file else page
            assert target_page.exists(), target
            assert not anchor or anchor in anchors(target_page), target


def anchors(page: Path) -> set[str]:
    """Of the headings, as the site and the host of the repository name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


WRITTEN = [DOCS / "architecture.md", DOCS / "power.md", DOCS / "synthesis.md", DOCS / "protocol.md", DOCS / "data.md"]
WRITTEN += [
    page
    for shelf in ("tutorials", "howto", "reference", "background", "station")
    for page in (DOCS / shelf).glob("*.md")
]
OLD_WORDS = r"made (?:defect|anomal)|kinds? of samples|by lot\b|elect(?:s|ed)\b|looked at\b"


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_pages_speak_the_words_of_the_glossary(page: Path) -> None:
    text = re.sub(r"`[^`]*`|^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert re.findall(OLD_WORDS, text) == []


def test_every_page_stands_in_the_navigation_once() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'blemish[train]'")

    def places(entry: Any) -> list[str]:
        return [entry] if isinstance(entry, str) else [p for e in _inside(entry) for p in places(e)]

    def _inside(entry: Any) -> list[Any]:
        return list(entry.values()) if isinstance(entry, dict) else entry

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    config = module(DOCS / "_hooks.py").on_config({"docs_dir": str(DOCS), "nav": nav})
    listed = places(config["nav"])
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("method", methods.names())
def test_every_method_has_a_page(method: str) -> None:
    page = ROOT / "docs" / "methods" / f"{method}.md"
    assert page.read_text(encoding="utf-8").startswith(f"# {method}\n")


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "methods" / "index.md"], ids=name)
def test_tables_of_methods_are_those_of_the_files(page: Path) -> None:
    from blemish.cli.method_tables import links_of, written

    text = page.read_text(encoding="utf-8")
    assert all(f"| [{method}](" in text for method in methods.names())
    assert written(text, links_of(page)) == text, "make docs"


@pytest.mark.parametrize(
    ("file", "made", "argument"), [("cli.md", reference.page, ""), ("options.md", reference.options_page, " options")]
)
def test_the_page_is_that_of_the_code(file: str, made: Callable[[], str], argument: str) -> None:
    committed = (ROOT / "docs" / file).read_text(encoding="utf-8")
    assert committed == made(), f"python -m blemish.cli.reference{argument} > docs/{file}"


@pytest.mark.parametrize(
    "page", ["ledger.md", "variants.md", "ablations.md", "several.md", "several_ablations.md", "strength.md"]
)
@pytest.mark.slow
def test_the_ledger_is_that_of_its_tables(page: str) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'blemish[bench]'")
    from blemish.evaluation.bench import ledger, results

    file = ROOT / "docs" / page
    committed = file.read_text(encoding="utf-8")
    command = committed.split("Made by `")[1].split("`")[0]
    plots = dict(re.findall(r"^!\[(.+?)\]\((.+?)\)$", committed, re.M))
    missing = int(found[1]) if (found := re.search(r"^(\d+) of its cells are not finished", committed, re.M)) else 0
    title = file.stem.capitalize().replace("_", " ")
    assert ledger.text(results.read(file.with_suffix("")), plots, command, missing, title) == committed

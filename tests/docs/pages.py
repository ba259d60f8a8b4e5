"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from types import ModuleType


def module(path: Path) -> ModuleType:
    """A script that lies in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TUTORIALS, HOWTO = sorted((DOCS / "tutorials").glob("*.md")), sorted((DOCS / "howto").glob("*.md"))
IN_ORDER = [*TUTORIALS, *HOWTO]  # their blocks go on from each other
done, blocks_of = (getattr(module(DOCS / "_pictures.py"), name) for name in ("done", "blocks"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SUITE = 'methods = ["padim"]\n[fit]\nimage_size = "64x64"\n[[data]]\nname = "brackets"\nsource = "dataset"\n'
LONG = ("demo", "serve", "watch")  # commands that take minutes, or do not end


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, code) of every block."""
    found: list[tuple[str, str]] = blocks_of(page.read_text(encoding="utf-8"))
    return found


def of(page: Path, language: str) -> list[str]:
    return [code for found, code in blocks(page) if found == language]


def lines(page: Path) -> list[list[str]]:
    """Words of every line in plain blocks, without comments."""
    text = "\n".join(of(page, "")).replace("\\\n", " ").splitlines()
    return [words for line in text if (words := shlex.split(line, comments=True))]


def commands_in(page: Path) -> list[list[str]]:
    return [words[1:] for words in lines(page) if words[0] == "blemish"]

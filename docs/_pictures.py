"""The tutorials as a reader does them, and the pictures in docs/tutorials: `python docs/_pictures.py [chromium]`.

A browser by the given command photographs the report; without one, that picture stays as it is.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

TUTORIALS = Path(__file__).resolve().parent / "tutorials"


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of every block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)


def run(words: list[str]) -> int:
    """One command of `blemish`, in this process: its exit code."""
    from blemish.cli import main

    try:
        main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def done(page: Path, skip: Sequence[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Does what a page says, in its order and in the current folder: (language, code, printed) of each block.

    Python shares one namespace; installations and the commands of `skip` are left out. RuntimeError where one fails.
    """
    names: dict[str, object] = {}
    for language, code in blocks(page.read_text(encoding="utf-8")):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            if language == "python":
                exec(compile(code, str(page), "exec"), names)
            for line in code.replace("\\\n", " ").splitlines() if language == "" else ():
                words = shlex.split(line, comments=True)
                fine = (0, 3) if "--fail-on-anomaly" in words else (0,)
                if words[:1] == ["blemish"] and words[1] not in skip and run(words[1:]) not in fine:
                    raise RuntimeError(f"{page.name}: {line}")
        yield language, code, out.getvalue()


def sheet(rows: list[list[str]], name: str) -> None:
    """Pictures of one size side by side."""
    pictures = [[Image.open(path).convert("RGB") for path in row] for row in rows]
    w, h = pictures[0][0].size
    whole = Image.new("RGB", (w * len(rows[0]), h * len(rows)))
    for y, row in enumerate(pictures):
        for x, picture in enumerate(row):
            whole.paste(picture.resize((w, h)), (w * x, h * y))
    whole.save(TUTORIALS / f"{name}.jpg", quality=85)


def few_colours(source: Path, name: str) -> None:
    Image.open(source).convert("RGB").quantize(64).save(TUTORIALS / f"{name}.png", optimize=True)


def main(browser: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for page in TUTORIALS.glob("*.md"):
            (root / page.stem).mkdir()
            with contextlib.chdir(root / page.stem):
                for _ in done(page):
                    pass
        first = root / "first-model"
        sheet([[f"{first}/washers/train/good/{3 * y + x:03}.png" for x in range(3)] for y in range(2)], "washers")
        shown = ("scratch/000.png", "chip/001.png", "good/001.png")
        sheet([[f"{first}/{place}/{name}" for name in shown] for place in ("washers/test", "maps")], "heatmaps")
        few_colours(root / "recordings/maps/worn/00_0003.png", "vibration")
        few_colours(root / "scans/maps/dented/00.png", "knob")
        if browser:
            window = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,920"]
            shot = root / "report.png"
            subprocess.run([*browser, *window, f"--screenshot={shot}", str(first / "report.html")], check=True)
            Image.open(shot).convert("RGB").save(TUTORIALS / "report.jpg", quality=85)


if __name__ == "__main__":
    main(sys.argv[1:])

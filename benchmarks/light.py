"""What `blemish fit` takes of processor and memory under two interpreters: a Markdown table.

    python benchmarks/light.py --python .venv/bin/python --against OTHER/bin/python [--images FOLDER]

Each fit is a process of its own, from its start to the saved model, with the command's own options. Features are cached
before: each interpreter has a cache to itself, which a first fit fills. Then the two take turns, and whoever was first
is second in the next round. Figures are medians; ratios are medians of those within a pair. The memory is the peak of
what is resident, of the process or of the largest that it started and waited for. Images are drawn where no folder is
given: 256 x 256, each under its own seed. One interpreter against itself shows how far ratios scatter.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from PIL import Image

from blemish.data.listing import images_in

SIDE = 256  # pixels of a drawn image
COMMAND = "from blemish.cli import main; main()"


class Taken(NamedTuple):
    """What one process took."""

    seconds: float  # of processor time, user and system
    megabytes: float  # peak of what was resident


class Job(NamedTuple):
    """A fit, and the folder that it learns."""

    method: str
    number: int  # of images
    images: Path

    def words(self, model: Path) -> list[str]:
        """Of the command."""
        return ["fit", str(self.images), "--method", self.method, "--out", str(model)]


Pairs = dict[Job, list[tuple[Taken, Taken]]]


def drawn(folder: Path, count: int) -> None:
    """Good images: stripes with noise."""
    stripes = 120 + 40 * np.sin(np.arange(SIDE) / 3)[:, None, None]
    for seed in range(count):
        noise = np.random.default_rng(seed).normal(0, 6, (SIDE, SIDE, 3))
        Image.fromarray((stripes + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{seed:05d}.png")


def linked(folder: Path, source: Path, count: int) -> None:
    """The first images of a folder of good ones. SystemExit where they are too few."""
    found = images_in(source, deep=True)
    if len(found) < count:
        raise SystemExit(f"{source}: {len(found)} images, {count} are asked for")
    for number, path in enumerate(found[:count]):
        (folder / f"{number:05d}{path.suffix}").symlink_to(path.resolve())


def measured(python: Path, words: list[str], place: Path, cache: Path) -> Taken:
    """Run the command to its end, in `place`; SystemExit with what it said where it fails."""
    # Linux counts the peak of the process that starts another one as the other's: this one has to stay small.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"BLEMISH_CACHE": str(cache)}
    with tempfile.TemporaryFile(dir=place) as said:
        started = subprocess.Popen([python, "-c", COMMAND, *words], cwd=place, env=env, stdout=said, stderr=said)
        _, status, usage = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
        if started.returncode:
            said.seek(0)
            raise SystemExit(f"{python}: {' '.join(words)}\n{said.read().decode(errors='replace')}")
    return Taken(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def compared(pythons: tuple[Path, Path], jobs: list[Job], repeats: int, place: Path) -> Pairs:
    """Pairs of runs, one of each interpreter; the first round warms up and is left out."""

    def run(side: int, job: Job) -> Taken:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            return measured(pythons[side], job.words(Path(folder) / "model"), place, place / f"cache-{side}")

    pairs: Pairs = {job: [] for job in jobs}
    for turn in range(repeats + 1):
        for job in jobs:
            order = (0, 1) if turn % 2 else (1, 0)
            found = {side: run(side, job) for side in order}
            if turn:
                pairs[job].append((found[0], found[1]))
    return pairs


def table(pairs: Pairs) -> list[str]:
    """The rows, below their head."""
    lines = [
        "| method | images | CPU s | against | ratio | peak MB | against | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for job, found in pairs.items():
        cells = [job.method, str(job.number)]
        for field, digits in (("seconds", 2), ("megabytes", 0)):
            values = [(getattr(a, field), getattr(b, field)) for a, b in found]
            cells += [f"{median(side):.{digits}f}" for side in zip(*values, strict=True)]
            cells.append(f"{median(a / b for a, b in values):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def package(python: Path, place: Path) -> str:
    """Where an interpreter has the package from."""
    code = "import blemish; print(blemish.__version__, 'in', blemish.__path__[0])"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code], cwd=place, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    """Draw, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--against", type=Path, required=True)
    parser.add_argument("--images", type=Path, help="folder of good images, instead of drawn ones")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 762], help="of images")
    parser.add_argument("--methods", nargs="+", default=["padim", "patchcore"])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    pythons = (arguments.python.absolute(), arguments.against.absolute())  # a link stays one: it names its environment
    with tempfile.TemporaryDirectory() as folder:
        place, jobs = Path(folder), []
        for count in arguments.counts:
            images = place / f"good-{count}"
            images.mkdir()
            linked(images, arguments.images, count) if arguments.images else drawn(images, count)
            jobs += [Job(method, count, images) for method in arguments.methods]
        packages = [package(python, place) for python in pythons]
        pairs = compared(pythons, jobs, arguments.repeats, place)
    print(f"`blemish fit`, {packages[0]}, against {packages[1]}; features cached, medians of {arguments.repeats}.\n")
    print("\n".join(table(pairs)))


if __name__ == "__main__":
    main()

"""How often is drift alarmed where nothing changes, and how soon where something does? Writes
docs/results/station_drift.md.

    python -m benchmarks.station_drift [--lines 400] [--method padim]

Scores are real: solar cells that a model has not learned from, drawn with replacement; those above the threshold of 5 %
are rejected, the others make blocks of 100 accepted parts. The shape of the cells' brightness is real too. A line runs
day and night, a block lasts ten minutes. Lots shift all scores of their parts by a normal number. Beside the test that
a station runs stand two that it does not: against a fixed set of calibration scores, and part by part.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.kept import kept
from benchmarks.promise import scores
from blemish.data import layouts
from blemish.data.drawing import display
from blemish.data.image.decode import read_image
from blemish.files import write_whole
from blemish.station.drift import LIMITS, Monitor, combined
from blemish.station.judging import HEALTH, health, small

OUT = Path(".bench/station_drift")
BLOCKS = 2000  # of a line without change
YEAR = 365 * 144  # blocks
PARTS = 100
BEFORE = 200  # blocks before a change
PATIENCE = 3000  # blocks after it
SHIFTED = 100  # lines of each change


class World(NamedTuple):
    """What parts are drawn from."""

    scores: NDArray[np.float64]  # standardised
    brightness: NDArray[np.float64]  # grey levels
    threshold: float


def measured(method: str) -> dict[str, Any]:
    """Scores of good cells, and how bright they are."""
    _, values = scores(method)
    bright = []
    for record in [r for r in layouts.index("elpv") if r.label == 0]:
        bright.append(health(small(display(read_image(record.path)), HEALTH))["brightness"])
    return {"scores": sorted(map(float, values)), "brightness": bright}


def blocks(
    world: World, generator: np.random.Generator, lot_sd: float, lot_blocks: int
) -> Iterator[tuple[float, float, float]]:
    """(mean score of accepted parts, share rejected, mean brightness) of one block after the other."""
    offset, left = 0.0, 0
    while True:
        if left == 0:
            offset, left = lot_sd * float(generator.normal()), lot_blocks
        left -= 1
        drawn = generator.choice(world.scores, 2 * PARTS) + offset
        accepted = np.flatnonzero(drawn <= world.threshold)
        last = accepted[min(PARTS, len(accepted)) - 1] + 1
        bright = generator.choice(world.brightness, PARTS).mean()
        yield float(drawn[accepted[:PARTS]].mean()), 1 - min(PARTS, len(accepted)) / float(last), float(bright)


def alarms(world: World, lines: int, lot_sd: float, lot_blocks: int) -> dict[str, int]:
    """How often each limit was reached in so many lines without change; a test starts anew after its alarm."""
    found = dict.fromkeys(LIMITS, 0)
    for line in range(lines):
        generator = np.random.default_rng([line, lot_blocks, round(100 * lot_sd)])
        tests = {name: [Monitor() for _ in range(3)] for name in LIMITS}
        stream = blocks(world, generator, lot_sd, lot_blocks)
        for _ in range(BLOCKS):
            values, draws = next(stream), generator.random(3)
            for name, monitors in tests.items():
                for monitor, value, u in zip(monitors, values, draws, strict=True):
                    monitor.add(value, float(u))
                if combined(monitors) >= LIMITS[name]:
                    found[name] += 1
                    tests[name] = [Monitor() for _ in range(3)]
    return found


def delays(world: World, shift: float, lamp: float, lot_sd: float) -> dict[str, list[int]]:
    """Blocks from a change to each alarm: scores are shifted, or light fades by a share each day; PATIENCE where none
    came, and 0 where one stood before."""
    found: dict[str, list[int]] = {name: [] for name in LIMITS}
    for line in range(SHIFTED):
        generator = np.random.default_rng([7, line])
        monitors = [Monitor() for _ in range(3)]
        stream, moved = blocks(world, generator, lot_sd, 1), world._replace(scores=world.scores + shift)
        changed = blocks(moved, generator, lot_sd, 1)
        reached: dict[str, int] = {}
        for number in range(1, BEFORE + PATIENCE + 1):
            after = number - BEFORE
            score, rejected, bright = next(stream if after <= 0 else changed)
            if after > 0:
                bright *= (1 - lamp) ** (after / 144)
            for monitor, value in zip(monitors, (score, rejected, bright), strict=True):
                monitor.add(value, float(generator.random()))
            evidence = combined(monitors)
            for name, limit in LIMITS.items():
                if evidence >= limit:
                    reached.setdefault(name, max(after, 0))
            if len(reached) == len(LIMITS):
                break
        for name, each in found.items():
            each.append(reached.get(name, PATIENCE))
    return found


def traps(world: World, runs: int, parts: int) -> dict[str, int]:
    """Red alarms in runs of so many unchanged parts, tested one by one: against fixed scores, against all before, and
    against all before with lots of 500 parts."""
    found = {"fixed 150": 0, "fixed 300": 0, "growing": 0, "growing, lots": 0}
    for run in range(runs):
        for way in found:
            generator = np.random.default_rng([run, len(way)])
            reference = np.sort(generator.choice(world.scores, int(way[6:]))) if way.startswith("fixed") else None
            monitor, offset = Monitor(), 0.0
            if reference is not None:
                monitor.values = reference.tolist()
            for i in range(parts):
                if way.endswith("lots") and i % 500 == 0:
                    offset = 0.3 * float(generator.normal())
                value = float(generator.choice(world.scores)) + offset
                monitor.add(value, float(generator.random()))
                if reference is not None:
                    monitor.values.remove(value)
                if monitor.evidence >= LIMITS["red"]:
                    found[way] += 1
                    monitor = Monitor()
                    if reference is not None:
                        monitor.values = reference.tolist()
    return found


def by_year(count: int, total: int) -> str:
    """Alarms a year with the 95 % interval of a Poisson count (Garwood 1936)."""
    low = stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    high = stats.chi2.ppf(0.975, 2 * count + 2) / 2
    return f"{count * YEAR / total:.1f} [{low * YEAR / total:.1f}, {high * YEAR / total:.1f}]"


def time_of(each: list[int]) -> str:
    """Median and 90 % of delays, in hours."""
    half, most = np.quantile(each, [0.5, 0.9]) / 6
    late = sum(value >= PATIENCE for value in each)
    return f"{half:.1f} / {most:.1f} h" + (f" ({late} of {len(each)} never)" if late else "")


def page(world: World, lines: int, method: str, keep: Any) -> str:
    """The tables."""
    total = lines * BLOCKS
    out = [
        "# Drift: false alarms and delays",
        "",
        f"Made by `python -m benchmarks.station_drift --lines {lines} --method {method}`: {len(world.scores)} scores of good solar cells that",
        f"`{method}` has not learned from, in streams; what is above the threshold of 5 % is rejected. Three monitors: score of accepted",
        "parts, share of rejects, brightness. A line runs day and night, a block lasts ten minutes.",
        "",
        "## Nothing changes",
        f"Alarms a year of one line, with a 95 % interval, in {lines} lines of {BLOCKS:,} blocks. Amber is promised at most {YEAR / LIMITS['amber']:.0f}",
        f"times a year, red {YEAR / LIMITS['red']:.1f} times. Where a lot lasts several blocks its blocks are alike, which the promise does not cover.",
        "",
        "| lots | amber | red |",
        "|---|---|---|",
    ]
    for title, sd, length in (
        ("all alike", 0.0, 1),
        ("differ by 0.2 sd, one block each", 0.2, 1),
        ("differ by 0.3 sd, one block each", 0.3, 1),
        ("differ by 0.3 sd, five blocks each", 0.3, 5),
    ):
        found = keep(f"quiet-{lines}-{sd}-{length}", lambda sd=sd, length=length: alarms(world, lines, sd, length))
        out.append(f"| {title} | {by_year(found['amber'], total)} | {by_year(found['red'], total)} |")
    out += [
        "",
        "## Something changes",
        f"Hours from the change to the alarm, median / 90 %, in {SHIFTED} lines that were quiet for {BEFORE} blocks. Only brightness fades with the",
        "lamp here; scores stay as they were.",
        "",
        "| change | lots | amber | red |",
        "|---|---|---|---|",
    ]
    changes = [(f"scores by {shift} sd", shift, 0.0) for shift in (0.3, 0.5, 1.0)]
    for title, shift, lamp in [*changes, ("lamp loses 1 % a day", 0.0, 0.01)]:
        for sd in (0.0, 0.3):
            found = keep(f"change-{shift}-{lamp}-{sd}", lambda a=shift, b=lamp, c=sd: delays(world, a, b, c))
            lots = "differ by 0.3 sd" if sd else "all alike"
            out.append(f"| {title} | {lots} | {time_of(found['amber'])} | {time_of(found['red'])} |")
    runs, parts = 20, 10_000
    found = keep(f"traps-{runs}-{parts}", lambda: traps(world, runs, parts))
    out += [
        "",
        "## What a station does not do",
        f"Red alarms in {runs} runs of {parts:,} unchanged parts, tested part by part: {runs * parts / LIMITS['red']:.0f} are allowed.",
        "",
        "| reference | alarms |",
        "|---|---|",
        *(f"| {way} | {count} |" for way, count in found.items()),
    ]
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=400)
    parser.add_argument("--method", default="padim")
    parser.add_argument("--page", type=Path, default=Path("docs/results/station_drift.md"))
    args = parser.parse_args()
    found = kept(OUT / f"{args.method}.json", lambda: measured(args.method))
    values = np.array(found["scores"])
    values = (values - values.mean()) / values.std()
    world = World(values, np.array(found["brightness"]), float(np.quantile(values, 0.95)))

    def keep(name: str, make: Any) -> Any:
        return kept(OUT / f"{args.method}-{name}.json", make)

    write_whole(args.page, page(world, args.lines, args.method, keep).encode())


if __name__ == "__main__":
    main()

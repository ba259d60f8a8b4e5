"""What several lightings of one part are worth on drawn reliefs. Writes docs/results/lightings.md.

    python benchmarks/lightings.py [--methods padim,patchcore] [--page docs/results/lightings.md]

Drawn data: a rough metal plate with an embossed ring, lit from four sides at a low angle (Lambert's law on its slopes),
a picture for each. Plates differ in grain, place, brightness and gloss. Defects: a groove, which shows where light
crosses it, a dent, whose light and dark side change places with the light, and a stain, which is dark in every light.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish import Detector
from blemish.evaluation.metrics.intervals import delong
from blemish.files import write_whole

SIDES = ("left", "top", "right", "bottom")
SIDE = 160  # pixels of a picture
LOW = 0.45  # tangent of the light's angle above the plate
DEFECTS = ("groove", "dent", "stain")
GOOD, TESTED = 60, 40  # plates to learn from; good ones to test, and defective ones of each kind
SIZE = "160sq"
Floats = NDArray[np.float32]


def blurred(rng: np.random.Generator, x: float, y: float) -> Floats:
    """Noise of these widths, of deviation 1."""
    found = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)).astype(np.float32), (0, 0), sigmaX=x, sigmaY=y)
    return np.asarray(found / found.std(), np.float32)


def relief(rng: np.random.Generator, defect: str | None) -> tuple[Floats, Floats]:
    """Height in pixels and albedo of a plate."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    cx, cy = SIDE / 2 + rng.uniform(-1.5, 1.5, 2)
    ring = np.hypot(x - cx, y - cy)
    height = 3.0 * np.exp(-(((ring - 48) / 5) ** 2)) + 0.1 * blurred(rng, 1.2, 1.2) + 0.8 * blurred(rng, 9, 9)
    albedo = 1 + 0.03 * blurred(rng, 6, 1)
    angle, at = rng.uniform(0, np.pi), SIDE / 2 + rng.uniform(-42, 42, 2)
    along = (x - at[0]) * np.cos(angle) + (y - at[1]) * np.sin(angle)
    across = -(x - at[0]) * np.sin(angle) + (y - at[1]) * np.cos(angle)
    if defect == "groove":
        height -= 1.1 * np.exp(-((across / 1.3) ** 2)) * (np.abs(along) < rng.uniform(9, 16))
    elif defect == "dent":
        height -= 2.2 * np.exp(-(((along / 5.5) ** 2) + (across / 4.5) ** 2))
    elif defect == "stain":
        albedo -= 0.3 * np.exp(-(((along / 6) ** 2) + (across / 5) ** 2))
    return height.astype(np.float32), albedo.astype(np.float32)


def plate(seed: int, defect: str | None = None) -> list[NDArray[np.uint8]]:
    """A picture for each light, of the plate of this number."""
    rng = np.random.default_rng(seed)
    height, albedo = relief(rng, defect)
    slope_y, slope_x = np.gradient(height)
    steep = np.sqrt(1 + slope_x**2 + slope_y**2)
    gain = rng.uniform(0.9, 1.1)
    out = []
    for dx, dy in ((-1, 0), (0, -1), (1, 0), (0, 1)):
        light = (LOW - dx * slope_x - dy * slope_y) / steep / np.hypot(1, LOW)
        seen = gain * albedo * np.maximum(light, 0) * 190 * rng.uniform(0.95, 1.05) + rng.normal(0, 2, light.shape)
        out.append(np.clip(seen, 0, 255).astype(np.uint8))
    return out


def auroc(method: str, lightings: tuple[str, ...], folder: Path, channels: str = "fuse") -> list[str]:
    """AUROC of all defects with its 95 % interval, and that of each kind."""
    options = {"image_size": SIZE, "calibration": "none", "lightings": lightings, "combine_lightings": channels}
    detector = Detector(method, cache=False, **options)
    detector.fit(folder / "good")
    scores = {name: [r.score for r in detector.inspect_many(folder / name)] for name in ("fine", *DEFECTS)}

    def area(names: tuple[str, ...]) -> tuple[float, float, float]:
        found = [s for name in names for s in scores[name]]
        labels = np.array([0] * len(scores["fine"]) + [1] * len(found))
        measured = delong(labels, np.array([*scores["fine"], *found]))
        return measured.value, measured.low, measured.high

    value, low, high = area(DEFECTS)
    return [f"{value:.3f} [{low:.3f}, {high:.3f}]", *(f"{area((name,))[0]:.3f}" for name in DEFECTS)]


def write(root: Path) -> None:
    """The same plates in folders: `lit` with a file for each light, `mean` with their mean grey."""
    sets = [("good", None, 0, GOOD), ("fine", None, 1000, TESTED)]
    sets += [(name, name, 2000 + 1000 * k, TESTED) for k, name in enumerate(DEFECTS)]  # type: ignore[misc]
    for name, defect, first, count in sets:
        for kind in ("lit", "mean"):
            (root / kind / name).mkdir(parents=True)
        for seed in range(first, first + count):
            pictures = plate(seed, defect)
            for side, picture in zip(SIDES, pictures, strict=True):
                cv2.imwrite(str(root / "lit" / name / f"{seed}_{side}.png"), picture)
            mean = np.mean(pictures, axis=0).round().astype(np.uint8)
            cv2.imwrite(str(root / "mean" / name / f"{seed}_mean.png"), mean)


def alone(root: Path, side: str) -> Path:
    """A folder of one light's pictures."""
    for path in sorted((root / "lit").glob(f"*/*_{side}.png")):
        target = root / side / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return root / side


def page(methods: list[str]) -> str:
    """The page."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write(root)
        lines = []
        for method in methods:
            rows = {f"`{side}` alone": ((side,), alone(root, side), "fuse") for side in SIDES[:2]}
            rows["mean grey of the four"] = ("mean",), root / "mean", "fuse"
            rows |= {f"`--channels {channels}`": (SIDES, root / "lit", channels) for channels in ("fuse", "max")}
            for name, (lightings, place, channels) in rows.items():
                start = perf_counter()
                lines.append(f"| `{method}` | {name} | {' | '.join(auroc(method, lightings, place, channels))} |")
                print(lines[-1], f"{perf_counter() - start:.0f} s", flush=True)
    return "\n".join(
        [
            "# Several lightings of one part",
            "",
            f"Made by `python benchmarks/lightings.py --methods {','.join(methods)}`: image AUROC on **drawn** reliefs,",
            "lit from four sides (the benchmark says how), with its 95 % interval (DeLong). "
            f"{GOOD} plates to learn from, {TESTED} good ones",
            f"and {TESTED} of each defect to test, input {SIZE}, seed 0. Drawn data shows what the option can do, not what it "
            "does on your part: how strong defects and grain are was set by hand, once, so that most figures lie between 0.5 and 1.",
            "",
            "| method | learned from | AUROC | groove | dent | stain |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="padim,patchcore")
    parser.add_argument("--page", type=Path, default=Path("docs/results/lightings.md"))
    given = parser.parse_args()
    write_whole(given.page, page(given.methods.split(",")).encode())


if __name__ == "__main__":
    main()

"""What scale, strength and octaves do to a defect of a surface, and how long a million points take.

    python benchmarks/surface3d.py --page docs/results/surface3d.md
    python benchmarks/surface3d.py --pictures docs/synthesis

Eight scans and CAD parts, 20,000 points of the faces of each, three seeds. One parameter is varied, the others stay at
scale 4, strength 0.01, one octave. Pictures are drawn of those that may be passed on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from blemish.data import drawing
from blemish.data.cloud.formats import read_cloud, write_cloud
from blemish.data.image.decode import read_image
from blemish.data.synthesis.cloud_sheets import Look, parameter_grid, sheet
from blemish.data.synthesis.contact_sheet import contact_sheet
from blemish.data.synthesis.graded import KINDS
from blemish.data.synthesis.image_set import StudioOptions, maker, pictures_of
from blemish.data.synthesis.image_set import damage as paint
from blemish.data.synthesis.seeding import generator_for
from blemish.data.synthesis.surface3d import PRESETS, SurfaceDefect, damage, options_of
from blemish.files import write_whole
from blemish.ops.geometry import sampled
from blemish.types import Cloud

MESHES = (
    "stanford-bunny.obj", "rocker-arm.obj", "igea.ply", "spot.obj", "cycloidal.ply", "1002_tray_bottom.STL",
    "ADIS16480.STL", "torus.STL",
)  # fmt: skip
SEEDS, POINTS = (0, 1, 2), 20_000
BASE = {"scale": 4.0, "strength": 0.01, "octaves": 1, "sign": "bulge", "radius": 0.25}
VARIED = {"strength": (0.005, 0.01, 0.02), "scale": (2.0, 4.0, 8.0), "octaves": (1, 3, 5)}
EXPECTED = {"strength": "depth", "scale": "share", "octaves": "roughness"}
SHOWN = {"dent": "torus.STL", "bump": "cycloidal.ply", "rough": "spot.obj", "scratch": "ADIS16480.STL"}
FLANK = (0.45, 0.0, 0.1)  # of the cow


def part(folder: Path, name: str, points: int) -> Cloud:
    """Points of a mesh's faces with their normals."""
    mesh = read_cloud(folder / name)
    places, normals = sampled(mesh.points.astype(np.float64), mesh.faces, points, generator_for(0, name))
    return Cloud(places, normals)


def responses(folder: Path) -> list[str]:
    """The table: what each value of each parameter makes, and in how many sequences the expected figure moves."""
    parts = {name: part(folder, name, POINTS) for name in MESHES}
    rows = ["| | depth, % of the diagonal | share of the points, % | roughness | |", "|---|---|---|---|---|"]
    for parameter, values in VARIED.items():
        found = np.empty((len(MESHES), len(SEEDS), len(values), 3))
        for i, name in enumerate(MESHES):
            for j, seed in enumerate(SEEDS):
                for k, value in enumerate(values):
                    options = SurfaceDefect(**{**BASE, parameter: value})
                    record = damage(parts[name], options, generator_for(seed, name)).record
                    found[i, j, k] = (
                        record["depth"] / record["diagonal"] * 100,
                        record["share"] * 100,
                        record["roughness"],
                    )
            print(parameter, name, found[i].mean(0).round(3).tolist(), flush=True)
        response = found[..., ("depth", "share", "roughness").index(EXPECTED[parameter])].reshape(-1, len(values))
        steps = np.diff(response, axis=1) * (-1 if parameter == "scale" else 1)
        trend = f"{EXPECTED[parameter]} {'falls' if parameter == 'scale' else 'rises'} in {(steps > 0).all(1).sum()} of {len(response)}"
        for k, value in enumerate(values):
            mean, low, high = found[:, :, k].mean((0, 1)), found[:, :, k].min((0, 1)), found[:, :, k].max((0, 1))
            cells = [f"{m:.3g} ({a:.2g} to {b:.2g})" for m, a, b in zip(mean, low, high, strict=True)]
            rows.append(f"| {parameter} {value:g} | {' | '.join(cells)} | {trend if k == 0 else ''} |")
    return rows


def million() -> list[str]:
    """Seconds of processor time and of the clock for a file of a million points, without normals."""
    x, y = np.random.default_rng(0).random((2, 1_000_000))
    z = 0.1 * np.sin(6 * x) + 0.05 * np.cos(9 * y) + np.random.default_rng(1).normal(0, 2e-4, len(x))
    rows = ["| | processor, s | clock, s |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scan.ply"
        write_cloud(file, Cloud(np.stack([x, y, z], 1).astype(np.float32)))
        for preset in PRESETS:
            start = time.process_time(), time.perf_counter()
            made = damage(read_cloud(file), options_of(preset, {}, generator_for(0)), generator_for(0, preset))
            write_cloud(Path(folder) / "out.ply", made.cloud)
            duration = time.process_time() - start[0], time.perf_counter() - start[1]
            rows.append(f"| {preset} | {duration[0]:.1f} | {duration[1]:.1f} |")
            print(rows[-1], flush=True)
    return rows


def page(file: Path, folder: Path) -> None:
    table, times = responses(folder), million()
    text = f"""# Parameters of surface defects

Made by `python benchmarks/surface3d.py --page docs/results/surface3d.md`: {len(MESHES)} scans and CAD parts,
{POINTS:,} points of the faces of each, {len(SEEDS)} seeds; mean (least to most). One parameter is varied, the others
stay at scale 4, strength 0.01, one octave, window 0.25. Roughness is how much the displacement of moved
neighbours differs, over their distance, root mean square. The last column counts the {len(MESHES) * len(SEEDS)} parts and
seeds in which the figure moves at both steps as the parameter says it should.

{chr(10).join(table)}

Depth falls short of the strength where a wall is thinner than that, or the surface hollow.

## A million points
A PLY without normals, read, damaged and written; processor time of all threads together.

{chr(10).join(times)}

A warp moves every point, so every point needs a normal; the others need those in their window.
"""
    write_whole(file, text.encode())


def pictures(out: Path, folder: Path, textures: Path) -> None:
    """JPEGs for the documentation, from a few files that may be passed on (CC0, MIT)."""
    looks = []
    for preset, name in SHOWN.items():
        cloud = part(folder, name, 120_000)
        given = {"strength": 0.02} if preset in ("dent", "bump") else {"at": FLANK} if name == "spot.obj" else {}
        options = options_of(preset, given, generator_for(0))
        looks.append(Look(f"{preset}, {name}", cloud, damage(cloud, options, generator_for(3, name, preset))))
    _jpeg(out / "surfaces.jpg", sheet(looks, "3D-PNAS, four presets on a scan and three CAD parts"), 1400)
    cloud = part(folder, "spot.obj", 120_000)
    _jpeg(out / "grid.jpg", parameter_grid("spot.obj", cloud, "bump", {"radius": 0.2, "at": FLANK}, 4), 1400)
    rows = []
    for kind in ("perlin", "texture", "cutpaste"):
        for number in range(2):
            image = read_image(textures / "brick.png")
            changed, mask = paint(image, maker(kind, StudioOptions()), generator_for(1, kind, number))
            rows.append((f"{kind}, {mask.mean():.1%} of the image", pictures_of(image, changed, mask)))
    heads = ["original", "with defect", "mask"]
    _jpeg(out / "images.jpg", contact_sheet("Synthetic defects", "three kinds", heads, rows, side=170, across=2), 1000)
    graded(out, textures)


def graded(out: Path, textures: Path) -> None:
    """Each variant of `graded`, on a texture."""
    image, rows = read_image(textures / "brick.png"), []
    for variant in KINDS:
        make = maker("graded", StudioOptions(variant=(variant,), area=(0.004, 0.04)))
        changed, mask = paint(image, make, generator_for(2, variant))
        rows.append((f"{variant}, {mask.mean():.1%} of the image", pictures_of(image, changed, mask)))
    heads = ["original", "with defect", "mask"]
    _jpeg(out / "graded.jpg", contact_sheet("graded", "each variant", heads, rows, side=170, across=2), 1000)


def _jpeg(file: Path, picture: np.ndarray, width: int) -> None:
    scale = width / picture.shape[1]
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    write_whole(file, drawing.encode(small, ".jpg", 72))
    print(file, file.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    if arguments.pictures is not None:
        pictures(arguments.pictures, arguments.data / "meshes3d", arguments.data / "textures" / "skimage")
    if arguments.page is not None or arguments.pictures is None:
        page(arguments.page or Path("docs/results/surface3d.md"), arguments.data / "meshes3d")


if __name__ == "__main__":
    main()

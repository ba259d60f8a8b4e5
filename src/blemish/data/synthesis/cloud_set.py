"""Files of point clouds and meshes in, the same with defects and exact labels out; sheets and pages that show them.

Every output has a seed of its own, made of the run's seed, the file's name and its number: it depends neither on the
order of files nor on the other files.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.cloud.formats import HOLDS_FIELDS, clouds_in, read_cloud, write_cloud
from blemish.data.drawing import write_png
from blemish.data.synthesis.cloud_sheets import Look, page, parameter_grid, sheet
from blemish.data.synthesis.seeding import generator_for
from blemish.data.synthesis.surface3d import Made, damage, options_of
from blemish.errors import ConfigError, DataError
from blemish.files import outputs, write_whole
from blemish.ops.geometry import sampled
from blemish.outputs import RunFolder
from blemish.types import Cloud, Track, no_track

SAMPLED = 100_000  # points that are taken from a mesh whose own are too few
COARSE = 0.01  # of the diagonal: a mesh with most of its area in faces with longer edges shows no dent by its vertices
SHOWN = 8  # outputs on the sheet


def surfaces(
    source: str | Path,
    out: str | Path,
    *,
    preset: str = "random",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    count: int = 1,
    points: int | None = None,
    suffix: str | None = None,
    intrinsics: tuple[float, float, float, float] | None = None,
    depth_unit: float = 0.001,
    pictures: bool = True,
    grid: bool = False,
    track: Track = no_track,
) -> Iterator[dict[str, Any]]:
    """Put defects on a file, or on every cloud of a folder, and write a data set to `out`; one value for each output.

    out/test/<preset>/   the clouds, each with a .json of all that was done; TIFF as MVTec 3D-AD: xyz/, gt/, rgb/
    out/test/good/       the same without a defect
    out/ground_truth/    <preset>/<name>_labels.npy: uint8 (N,), or (H, W) where organised; displacement and component
                         beside it where the kind of file holds neither
    out/sheet.png, viewer.html, grid.png   with `pictures` and with `grid`

    preset   dent, bump, rough, warp, scratch, or random: see `data.synthesis.surface3d.PRESETS`
    options  fields of `data.synthesis.surface3d.SurfaceDefect`, over the preset's
    count    defects for each file, each on a cloud of its own
    points   taken from the faces of a mesh, evenly; 0 = its own vertices move; None = its own where they lie close
    suffix   kind of file to write, such as ".ply"; None = that which was read, PLY where points were taken from faces

    `out` is new, empty, or holds the outputs of this very run, which are made again, or other presets on the same
    files; DataError else.

    A file of a folder that cannot be used yields {"source", "error"}, and the others go on; a single one raises
    DataError. ConfigError for options that make no sense.
    """
    source, out = Path(source), Path(out)
    _check(count, points, suffix)
    given = dict(options or {})
    options_of(preset, given, np.random.default_rng(0))
    files = clouds_in(source, depth=intrinsics is not None) if source.is_dir() else [source]
    if not files:
        raise DataError("no point clouds in this folder", path=source, hint="ply, pcd, stl, obj, tiff, xyz, npy")
    named = outputs(files, source)
    run = {
        "seed": seed, "count": count, "options": given, "points": points, "suffix": suffix, "intrinsics": intrinsics,
        "depth_unit": depth_unit,
    }  # fmt: skip
    form = (seed, points, suffix, intrinsics, depth_unit)
    RunFolder(out, preset, run, named, read=[source], form=form).begin()
    looks: list[Look] = []
    for path, name in track(named, "synthesize", len(files)):
        try:
            cloud, kind = _prepared(path, name, points, suffix, seed, intrinsics, depth_unit)
            good = _write_good(out, name, kind, cloud)
            if grid and path == files[0]:
                write_png(out / "grid.png", parameter_grid(name, cloud, preset, given, seed))
            for k in range(count):
                generator = generator_for(seed, name, k)
                made = damage(cloud, options_of(preset, given, generator), generator)
                final = name if count == 1 else f"{name}_{k}"
                row = _write(out, preset, final, kind, path, made, {"seed": seed, "number": k, "name": name})
                if not made.labels.any():
                    warnings.warn(f"{path}: nothing moved farther than {made.record['limit']:.3g}", stacklevel=2)
                if pictures and len(looks) < SHOWN:
                    looks.append(Look(final, cloud, made))
                yield {"source": str(path), "good": good, **row, "error": None}
        except DataError as error:
            if not source.is_dir():
                raise error if error.path else DataError(str(error), path=path, hint=error.hint) from None
            yield {"source": str(path), "error": str(error) if error.path else f"{path}: {error}"}
    if looks:
        write_png(out / "sheet.png", sheet(looks, f"3D-PNAS, preset {preset}, seed {seed}"))
        write_whole(out / "viewer.html", page(looks))


def _check(count: int, points: int | None, suffix: str | None) -> None:
    if count < 1:
        raise ConfigError(f"at least one defect for each file, not {count}")
    if points is not None and points and points < 100:
        raise ConfigError(f"a surface needs 100 points at least, not {points}", hint="0 = the mesh's own vertices")
    if suffix is not None and suffix not in (".ply", ".pcd", ".xyz", ".txt", ".npy", ".obj", ".stl", ".tiff"):
        raise ConfigError(f"'{suffix}' is not written", hint="ply, pcd, xyz, txt, npy, obj, stl, tiff")


def _prepared(
    path: Path, name: str, points: int | None, suffix: str | None, seed: int, intrinsics: Any, depth_unit: float
) -> tuple[Cloud, str]:
    """The cloud that defects are put on, and the kind of file it becomes."""
    cloud = read_cloud(path, intrinsics=intrinsics, depth_unit=depth_unit)
    kind = path.suffix.lower()
    if cloud.faces is not None and (points or (points is None and _coarse(cloud))):
        generator = generator_for(seed, name, "points")
        places, normals = sampled(cloud.points.astype(np.float64), cloud.faces, points or SAMPLED, generator)
        return Cloud(places.astype(np.float32), normals.astype(np.float32)), suffix or ".ply"
    if kind == ".png":
        kind = ".tiff"
    return cloud, suffix or kind


def _coarse(cloud: Cloud) -> bool:
    """Whether a mesh's vertices lie too far apart to show a defect: half of its area in faces with long edges."""
    assert cloud.faces is not None
    corners = cloud.points.astype(np.float64)[cloud.faces]
    edges = np.sqrt(((corners - np.roll(corners, 1, 1)) ** 2).sum(2)).max(1)
    area = np.sqrt((np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) ** 2).sum(1))
    diagonal = np.linalg.norm(np.ptp(cloud.points[cloud.valid], axis=0))
    return bool(area[edges > COARSE * diagonal].sum() > 0.5 * area.sum())


def _write_good(out: Path, name: str, kind: str, cloud: Cloud) -> str:
    target = out / "test" / "good" / ("xyz" if kind.startswith(".tif") else "") / f"{name}{kind}"
    write_cloud(target, cloud)
    return str(target)


def _write(
    out: Path, preset: str, name: str, kind: str, source: Path, made: Made, run: dict[str, Any]
) -> dict[str, Any]:
    """The files of one output; what stdout says of them."""
    folder, truth = out / "test" / preset, out / "ground_truth" / preset
    grid = kind.startswith(".tif")
    target = folder / ("xyz" if grid else "") / f"{name}{kind}"
    write_cloud(target, made.cloud)
    arrays: dict[str, NDArray[Any]] = {"labels": made.labels}
    if kind not in HOLDS_FIELDS:
        arrays |= {"displacement": made.displacement, "component": made.component}
    for what, values in arrays.items():
        write_whole(truth / f"{name}_{what}.npy", _npy(values, made.cloud.shape))
    if grid and made.cloud.shape is not None:
        write_png(folder / "gt" / f"{name}.png", made.labels.reshape(made.cloud.shape) * np.uint8(255))
        colour = source.parent.parent / "rgb" / f"{source.stem}.png"
        if source.parent.name == "xyz" and colour.is_file():
            write_whole(folder / "rgb" / f"{name}.png", colour.read_bytes())
    record = {"source": str(source), "preset": preset, **run, **made.record, "versions": _versions()}
    write_whole(folder / f"{name}.json", (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    figures = {key: made.record[key] for key in ("points", "moved", "share", "components", "depth", "roughness")}
    chosen = {key: made.record["options"][key] for key in ("scale", "strength", "octaves")}
    return {
        "path": str(target), "labels": str(truth / f"{name}_labels.npy"), "preset": preset, "seed": run["seed"],
        **chosen, **figures,
    }  # fmt: skip


def _npy(values: NDArray[Any], shape: tuple[int, int] | None) -> bytes:
    data = io.BytesIO()
    np.save(data, values if shape is None else values.reshape(shape))
    return data.getvalue()


def _versions() -> dict[str, str]:
    import scipy

    return {"blemish": version("blemish"), "numpy": np.__version__, "scipy": scipy.__version__}

"""`blemish synthesize KIND IN --out DIR`: defects with masks, on images and on point clouds."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

app = typer.Typer(
    name="synthesize",
    help="Good images or clouds in, the same with synthetic defects and exact masks out.",
    rich_markup_mode=None,
)


# the values of `SurfaceDefect`'s fields of these names
Sign = StrEnum("Sign", ("BULGE", "SINK", "RANDOM"))
Mode = StrEnum("Mode", ("ISLANDS", "GLOBAL"))
Plane = StrEnum("Plane", ("PCA", "LOCAL", "CYLINDER"))
Units = StrEnum("Units", ("RELATIVE", "RAW"))
Sampling = StrEnum("Sampling", ("GRID", "POINTS"))

Images = Annotated[Path, typer.Argument(metavar="IN", help="An image, a folder of good images, or a data set.")]
Out = Annotated[Path, typer.Option(help="The folder to write, laid out as a test set.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same defects.")]
Count = Annotated[int, typer.Option(min=1, help="Defects for each image or cloud, each on a copy of its own.")]
Most = Annotated[Optional[int], typer.Option("--images", min=1, help="Maximum number of images, drawn at random.")]  # noqa: UP045
Layout = Annotated[Optional[str], typer.Option(help="How the data set lies on disk; detected if not given.")]  # noqa: UP045
Threads = Annotated[int, typer.Option(min=1, help="Images worked on at once; the outputs are the same.")]
Picture = Annotated[bool, typer.Option("--sheet/--no-sheet", help="Write sheet.png, which shows some of the outputs.")]
MaxPixels = Annotated[int, typer.Option(min=1, max=178_956_970, help="Larger images are refused.")]
Area = Annotated[Optional[tuple[float, float]], typer.Option(help="Least and most share of the image.")]  # noqa: UP045
Opacity = Annotated[Optional[tuple[float, float]], typer.Option(help="Least and most, 0 to 1, of what is painted.")]  # noqa: UP045
Textures = Annotated[Optional[Path], typer.Option(help="Folder of images to paint with; drawn ones if not given.")]  # noqa: UP045


@app.command()
def perlin(
    in_: Images,
    out: Out,
    seed: Seed = 0,
    count: Count = 1,
    images: Most = None,
    area: Area = None,
    opacity: Opacity = None,
    threshold: Annotated[Optional[float], typer.Option(help="Of the noise, -1 to 1; higher: smaller islands.")] = None,  # noqa: UP045
    finest: Annotated[Optional[int], typer.Option(help="At most 2 to the power of this many cells across.")] = None,  # noqa: UP045
    textures: Textures = None,
    layout: Layout = None,
    threads: Threads = 1,
    sheet: Picture = True,
    max_pixels: MaxPixels = 100_000_000,
) -> int:
    """A foreign texture in islands of Perlin noise."""
    given = {"area": area, "opacity": opacity, "threshold": threshold, "finest": finest}
    return _images("perlin", in_, out, given, textures, seed, count, images, layout, threads, sheet, max_pixels)


@app.command()
def texture(
    in_: Images,
    out: Out,
    seed: Seed = 0,
    count: Count = 1,
    images: Most = None,
    shape: Annotated[Optional[list[str]], typer.Option(help="blob, box or thread; repeatable, none = all.")] = None,  # noqa: UP045
    area: Area = None,
    opacity: Opacity = None,
    textures: Textures = None,
    layout: Layout = None,
    threads: Threads = 1,
    sheet: Picture = True,
    max_pixels: MaxPixels = 100_000_000,
) -> int:
    """A foreign texture in one blob, box or thread."""
    given = {"area": area, "opacity": opacity, "shape": tuple(shape or ())}
    return _images("texture", in_, out, given, textures, seed, count, images, layout, threads, sheet, max_pixels)


@app.command()
def cutpaste(
    in_: Images,
    out: Out,
    seed: Seed = 0,
    count: Count = 1,
    images: Most = None,
    variant: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="patch, scar, blur or shift; repeatable, none = all."),
    ] = None,
    layout: Layout = None,
    threads: Threads = 1,
    sheet: Picture = True,
    max_pixels: MaxPixels = 100_000_000,
) -> int:
    """A piece of the image itself elsewhere, out of focus, or in another colour."""
    given = {"variant": tuple(variant or ())}
    return _images("cutpaste", in_, out, given, None, seed, count, images, layout, threads, sheet, max_pixels)


@app.command()
def graded(
    in_: Images,
    out: Out,
    seed: Seed = 0,
    count: Count = 1,
    images: Most = None,
    variant: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="spot, crack, chip, gap, moved, bent or uneven; repeatable, none = all."),
    ] = None,
    area: Area = None,
    layout: Layout = None,
    threads: Threads = 1,
    sheet: Picture = True,
    max_pixels: MaxPixels = 100_000_000,
) -> int:
    """Changes of graded sizes in the image's own tones and pieces, to compare methods with."""
    given = {"variant": tuple(variant or ()), "area": area}
    return _images("graded", in_, out, given, None, seed, count, images, layout, threads, sheet, max_pixels)


@app.command()
def surface3d(
    in_: Annotated[Path, typer.Argument(metavar="IN", help="PLY, PCD, STL, OBJ, TIFF, XYZ, NPY, or a folder of them.")],
    out: Out,
    preset: Annotated[str, typer.Option(help="dent, bump, rough, warp, scratch, or random.")] = "random",
    seed: Seed = 0,
    count: Count = 1,
    scale: Annotated[Optional[float], typer.Option(help="Cells of the noise across the part.")] = None,  # noqa: UP045
    strength: Annotated[Optional[float], typer.Option(help="Depth, as a share of the part's diagonal.")] = None,  # noqa: UP045
    octaves: Annotated[Optional[int], typer.Option(help="Layers of ever finer noise.")] = None,  # noqa: UP045
    persistence: Annotated[Optional[float], typer.Option(help="Weight of a layer against the one before.")] = None,  # noqa: UP045
    lacunarity: Annotated[Optional[float], typer.Option(help="Cells of a layer against the one before.")] = None,  # noqa: UP045
    tau: Annotated[Optional[float], typer.Option(help="Noise below it, 0 to 1, moves nothing.")] = None,  # noqa: UP045
    radius: Annotated[Optional[float], typer.Option(help="Of the window, share of the part; 0 = none.")] = None,  # noqa: UP045
    sign: Annotated[Optional[Sign], typer.Option(help="Which way.")] = None,  # noqa: UP045
    mode: Annotated[Optional[Mode], typer.Option(help="global: the whole part, both ways.")] = None,  # noqa: UP045
    plane: Annotated[Optional[Plane], typer.Option(help="What the noise is laid on.")] = None,  # noqa: UP045
    at: Annotated[Optional[tuple[float, float, float]], typer.Option(help="The defect's place, x y z.")] = None,  # noqa: UP045
    guard: Annotated[Optional[bool], typer.Option("--guard/--no-guard", help="One side of the part only; on.")] = None,  # noqa: UP045
    clamp: Annotated[Optional[bool], typer.Option("--clamp/--no-clamp", help="Points do not cross; on.")] = None,  # noqa: UP045
    stretch: Annotated[Optional[float], typer.Option(help="How many times longer than wide the noise is.")] = None,  # noqa: UP045
    scale_units: Annotated[Optional[Units], typer.Option(help="raw: scale is cells per unit of the file.")] = None,  # noqa: UP045
    sample: Annotated[Optional[Sampling], typer.Option(help="points: the noise itself, no grid between.")] = None,  # noqa: UP045
    resolution: Annotated[Optional[int], typer.Option(help="Nodes of the noise's grid.")] = None,  # noqa: UP045
    noise: Annotated[Optional[float], typer.Option(help="Of the sensor, in the file's unit; less: no label.")] = None,  # noqa: UP045
    neighbours: Annotated[Optional[int], typer.Option(help="Points that a normal is estimated from.")] = None,  # noqa: UP045
    points: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="Taken from a mesh's faces; 0 = its vertices; detected if not given."),
    ] = None,
    format_: Annotated[Optional[str], typer.Option("--format", help="ply, pcd, ...; that of IN if not given.")] = None,  # noqa: UP045
    intrinsics: Annotated[
        Optional[tuple[float, float, float, float]],  # noqa: UP045
        typer.Option(help="FX FY CX CY in pixels: IN are depth images."),
    ] = None,
    depth_unit: Annotated[float, typer.Option(help="What one step of a depth image is.")] = 0.001,
    grid: Annotated[bool, typer.Option("--grid", help="Write grid.png: scale x strength x octaves.")] = False,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Write sheet.png and viewer.html.")] = True,
) -> int:
    """Dents, bumps, roughness and scratches of scanned surfaces, by Perlin noise (3D-PNAS)."""
    values = dict(locals())
    from blemish.cli.progress import track
    from blemish.data.synthesis.cloud_set import surfaces

    names = (
        "scale", "strength", "octaves", "persistence", "lacunarity", "tau", "radius", "sign", "mode", "plane", "at",
        "guard", "clamp", "stretch", "scale_units", "sample", "resolution", "noise", "neighbours",
    )  # fmt: skip
    options = {
        name: str(values[name]) if isinstance(values[name], StrEnum) else values[name]
        for name in names
        if values[name] is not None
    }
    rows = surfaces(
        in_, out, preset=preset, options=options, seed=seed, count=count, points=points,
        suffix=None if format_ is None else f".{format_.lower().lstrip('.')}",
        intrinsics=intrinsics, depth_unit=depth_unit, pictures=pictures, grid=grid, track=track,
    )  # fmt: skip
    return _print_rows(rows)


def _images(
    kind: str, in_: Path, out: Path, given: dict[str, Any], textures: Path | None, seed: int, count: int,
    images: int | None, layout: str | None, threads: int, sheet: bool, max_pixels: int,
) -> int:  # fmt: skip
    from blemish.cli.progress import track
    from blemish.data.synthesis.image_set import StudioOptions, defects, textures_in

    options = StudioOptions(**given, textures=() if textures is None else textures_in(textures))
    rows = defects(
        kind, in_, out, options=options, seed=seed, count=count, images=images, layout=layout, threads=threads,
        picture=sheet, max_pixels=max_pixels, read=[] if textures is None else [textures], track=track,
    )  # fmt: skip
    return _print_rows(rows)


def _print_rows(rows: Iterator[dict[str, Any]]) -> int:
    """One JSON line each; 1 where a file could not be used."""
    from blemish.cli.about import emit

    failed = False
    for row in rows:
        failed = failed or row["error"] is not None
        emit(row)
    return int(failed)

"""Good images in, the same with synthetic defects and their masks out, laid out as a test set.

Every output has a random generator of its own, seeded by the run's seed, the image's name and its number: it depends
neither on the order of images, nor on the other images, nor on the number of threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.config import nearest
from blemish.data import drawing, layouts
from blemish.data.drawing import write_png
from blemish.data.image.decode import read_image
from blemish.data.listing import images_in
from blemish.data.synthesis.contact_sheet import Row, contact_sheet
from blemish.data.synthesis.cutpaste import CutPaste
from blemish.data.synthesis.graded import AREA, Graded
from blemish.data.synthesis.masks import Mask, Masker, Shape, blob_mask, box_mask, perlin_mask, thread_mask
from blemish.data.synthesis.seeding import generator_for
from blemish.data.synthesis.texture import FromImages, PasteTexture, Procedural
from blemish.errors import ConfigError, DataError
from blemish.files import MAX_PIXELS, outputs, read_file, write_whole
from blemish.outputs import RunFolder
from blemish.types import Track, no_track

Array = NDArray[Any]

SHOWN = 8  # outputs on the contact sheet
# a defect is drawn up to TRIES times, until a share SEEN of its mask differs by LEVELS of 255
TRIES, LEVELS, SEEN = 6, 4, 0.5


@dataclass(frozen=True)
class StudioOptions:
    """What the defects are like; what a kind does not know is refused. ConfigError for values that make none."""

    area: tuple[float, float] | None = None  # share of the image, least and most: perlin, texture (blob, box), graded
    opacity: tuple[float, float] | None = None  # of what is painted, 0 to 1: perlin, texture
    threshold: float | None = None  # of the noise, -1 to 1; higher makes smaller islands: perlin
    finest: int | None = None  # at most 2 to the power of this many cells across the image: perlin
    shape: tuple[str, ...] = ()  # blob, box, thread; at random among those: texture
    # patch, scar, blur, shift: cutpaste; spot, crack, chip, gap, moved, bent, uneven: graded; at random among those
    variant: tuple[str, ...] = ()
    textures: tuple[Array, ...] = field(default=(), repr=False)  # images to paint with; drawn ones if none are given


def maker(kind: str, options: StudioOptions) -> Callable[[Array, np.random.Generator], tuple[Array, Mask]]:
    """The synthesizer of a kind.

    perlin    a texture in islands of Perlin noise (Zavrtanik et al., DRAEM, ICCV 2021)
    texture   a texture in one blob, box or thread
    cutpaste  a piece of the image itself elsewhere, out of focus, or in another colour (Li et al., CutPaste, CVPR 2021)
    graded    changes of graded sizes that show nothing but the picture's own tones and pieces
    """
    if kind not in KINDS:
        raise ConfigError(f"no kind of defect '{kind}'", hint=nearest(kind, list(KINDS)))
    for name in ("area", "opacity", "threshold", "finest", "shape", "variant", "textures"):
        if getattr(options, name) not in (None, ()) and name not in KINDS[kind]:
            raise ConfigError(f"option '{name}' means nothing to {kind}", hint=f"it has {', '.join(KINDS[kind])}")
    if kind == "cutpaste":
        return CutPaste(options.variant) if options.variant else CutPaste()
    if kind == "graded":
        return Graded(options.variant or Graded.kinds, options.area or AREA)
    source = FromImages(options.textures) if options.textures else Procedural()
    opacity = options.opacity or PasteTexture.opacity
    mask = _islands(options) if kind == "perlin" else _single(options)
    return PasteTexture(source, opacity, mask)


KINDS = {
    "perlin": ("area", "opacity", "threshold", "finest", "textures"),
    "texture": ("area", "opacity", "shape", "textures"),
    "cutpaste": ("variant",),
    "graded": ("variant", "area"),
}
"""Kinds of defects, and the options that each has."""


def _islands(options: StudioOptions) -> Masker:
    given: dict[str, Any] = {}
    if options.area is not None:
        given |= {"least": options.area[0], "most": options.area[1]}
    if options.threshold is not None:
        if not -1 < options.threshold < 1:
            raise ConfigError(f"option 'threshold': {options.threshold:g} is not between -1 and 1")
        given["threshold"] = options.threshold
    if options.finest is not None:
        if not 0 <= options.finest <= 8:
            raise ConfigError(f"option 'finest': {options.finest} is not in 0 to 8")
        given["finest"] = options.finest
    perlin_mask((8, 8), np.random.default_rng(0), **given)  # refuses bounds that make no mask
    return lambda shape, generator: perlin_mask(shape, generator, **given)


def _single(options: StudioOptions) -> Masker:
    area: dict[str, Any] = {} if options.area is None else {"area": options.area}
    if options.area is not None and not 0 <= options.area[0] <= options.area[1] <= 1:
        raise ConfigError(f"option 'area': {options.area} are no shares of an image", hint="0 <= least <= most <= 1")
    known: dict[str, Masker] = {
        "blob": lambda shape, generator: blob_mask(shape, generator, **area),
        "box": lambda shape, generator: box_mask(shape, generator, **area),
        "thread": thread_mask,
    }
    chosen = options.shape or tuple(known)
    for name in chosen:
        if name not in known:
            raise ConfigError(f"no shape '{name}'", hint=nearest(name, list(known)))

    def at_random(shape: Shape, generator: np.random.Generator) -> Mask:
        return known[chosen[int(generator.integers(len(chosen)))]](shape, generator)

    return at_random


def defects(
    kind: str,
    source: str | Path,
    out: str | Path,
    *,
    options: StudioOptions | None = None,
    seed: int = 0,
    count: int = 1,
    images: int | None = None,
    layout: str | None = None,
    threads: int = 1,
    picture: bool = True,
    max_pixels: int = MAX_PIXELS,
    read: Sequence[str | Path] = (),
    track: Track = no_track,
) -> Iterator[dict[str, Any]]:
    """Put defects on an image, or on the good images of a folder or data set; one value for each output.

    out/test/<kind>/                    PNG in the image's own depth; outside the mask the image's own bits
    out/ground_truth/<kind>/*_mask.png  0 and 255
    out/test/good/                      the untouched files
    out/sheet.png                       some of them to look at, with `picture`

    kind     perlin, texture or cutpaste: see `maker`
    count    defects for each image, each on a copy of its own
    images maximum number of images, chosen at random; None = all. Of a data set its good test images, where it has any
    threads  images worked on at once; the outputs are the same
    read     what else was read, such as the folder of textures: outputs may not lie in it

    `out` is new, empty, or holds the outputs of this very run, which are made again, or other kinds of defects on the
    same images; DataError else.

    Yields {"source", "path", "mask", "good", "kind", "seed", "number", "share", "error"}. An image of a folder that
    cannot be read yields {"source", "error"} and the others go on; a single one raises DataError. ConfigError for
    options that make no sense.
    """
    make = maker(kind, options or StudioOptions())
    if count < 1 or (images is not None and images < 1):
        raise ConfigError(f"at least one image and one defect, not {images} and {count}")
    source, out = Path(source), Path(out)
    named = _good_images(source, layout)
    if images is not None and images < len(named):
        named = [named[i] for i in sorted(generator_for(seed, "images").permutation(len(named))[:images])]
    RunFolder(out, kind, _run(options or StudioOptions(), seed, count), named, read=[source, *read]).begin()

    def one(item: tuple[Path, str]) -> list[tuple[dict[str, Any], Row | None]]:
        path, name = item
        try:
            image = read_image(path, max_pixels=max_pixels)
            good = out / "test" / "good" / f"{name}{path.suffix}"
            write_whole(good, read_file(path))
            made: list[tuple[dict[str, Any], Row | None]] = []
            for k in range(count):
                changed, mask = damage(image, make, generator_for(seed, kind, name, k))
                row = _write(out, kind, name if count == 1 else f"{name}_{k}", changed, mask)
                origin = {"good": str(good), "kind": kind, "seed": seed, "number": k, "share": float(mask.mean())}
                caption = f"{Path(row['path']).stem}   {mask.mean():.2%} of the image"
                pictures = (caption, pictures_of(image, changed, mask)) if picture else None
                made.append(({"source": str(path), **row, **origin, "error": None}, pictures))
            return made
        except DataError as error:
            if not source.is_dir():
                raise
            return [({"source": str(path), "error": str(error)}, None)]

    shown: list[Row] = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for made in track(pool.map(one, named), "synthesize", len(named)):
            for row, card in made:
                if card is not None and len(shown) < SHOWN:
                    shown.append(card)
                yield row
    if picture and shown:
        heads = ["original", "with defect", "mask"]
        text = f"{kind}, seed {seed}; {len(named)} images, {count} each"
        write_png(out / "sheet.png", contact_sheet("Synthetic defects", text, heads, shown, across=2))


def _run(options: StudioOptions, seed: int, count: int) -> dict[str, Any]:
    """All that the outputs depend on except the images."""
    values = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "textures"}
    textures = hashlib.sha256(b"".join(np.ascontiguousarray(t).tobytes() for t in options.textures)).hexdigest()
    return {"seed": seed, "count": count, **values, "textures": textures if options.textures else None}


def _good_images(source: Path, layout: str | None) -> list[tuple[Path, str]]:
    """The good images and the names of what is made of them."""
    if source.is_file():
        return outputs([source], source)
    records = [r for r in layouts.index(source, layout) if not r.label]
    tested = [r for r in records if r.split == "test"]
    chosen = [r.path for r in tested or records]
    inside = source if all(path.is_relative_to(source) for path in chosen) else source.parent
    return outputs(chosen, inside)


def damage(
    image: Array, make: Callable[[Array, np.random.Generator], tuple[Array, Mask]], generator: np.random.Generator
) -> tuple[Array, Mask]:
    """A canonical image (H, W[, 3]) uint8, uint16 or float32 with a defect in its own type, and the mask (H, W).

    Makers paint in 8 bits: a deeper image is shown to them from its least to its greatest value, and what they change
    is added to it. In a grey image a defect is the mean of its colours.
    """
    low = min(0.0, float(image.min()))
    step = max(float(image.max()) - low, 1e-12) / 255 if image.dtype != np.uint8 else 1.0
    small = image if image.dtype == np.uint8 else np.rint((image.astype(np.float64) - low) / step).astype(np.uint8)
    colour = np.ascontiguousarray(small if small.ndim == 3 else np.repeat(small[:, :, None], 3, 2))
    for _ in range(TRIES):
        changed, mask = make(colour, generator)
        difference = changed.astype(np.float64) - colour
        if image.ndim == 2:
            difference = difference.mean(2)
        if (np.abs(difference[mask]) >= LEVELS).mean() >= SEEN:
            break
    after = image.astype(np.float64) + difference * step
    if image.dtype.kind != "f":
        after = np.clip(np.rint(after), 0, np.iinfo(image.dtype).max)
    inside = mask if image.ndim == 2 else mask[:, :, None]
    return np.where(inside, after.astype(image.dtype), image), mask


def _write(out: Path, kind: str, name: str, changed: Array, mask: Mask) -> dict[str, str]:
    """PNG, and TIFF for what PNG cannot hold."""
    truth = out / "ground_truth" / kind / f"{name}_mask.png"
    suffix = ".tiff" if changed.dtype.kind == "f" else ".png"
    target = out / "test" / kind / f"{name}{suffix}"
    array = cv2.cvtColor(changed, cv2.COLOR_RGB2BGR) if changed.ndim == 3 else changed
    fine, data = cv2.imencode(suffix, array)
    if not fine:
        raise DataError(f"an image of type {changed.dtype} cannot be written", path=target)
    write_whole(target, data.tobytes())
    write_png(truth, mask.astype(np.uint8) * np.uint8(255))
    return {"path": str(target), "mask": str(truth)}


def pictures_of(before: Array, after: Array, mask: Mask) -> list[NDArray[np.uint8]]:
    """Original, with the defect, and the mask over it: RGB, their longest side 440 pixels."""
    scale = 440 / max(mask.shape)
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    both = drawing.display(np.concatenate([before, after]))  # at once: deep images are stretched by what is in them
    first, second = (
        np.asarray(cv2.resize(p, size, interpolation=way), np.uint8) for p in (both[: len(mask)], both[len(mask) :])
    )
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)[:, :, None]
    red = np.array([226, 58, 52], np.float32)
    over: Any = (second * (1 - 0.55 * share) + red * (0.55 * share)).round().astype(np.uint8)
    edges = cv2.findContours((share > 0.3).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    over = cv2.drawContours(np.ascontiguousarray(over), edges, -1, red.tolist(), 2)
    return [first, second, np.asarray(over, np.uint8)]


def textures_in(folder: str | Path) -> tuple[Array, ...]:
    """The 8-bit images of a folder and its sub-folders, to paint with; DataError where there is none."""
    found: Sequence[Path] = images_in(Path(folder), deep=True)
    if not found:
        raise DataError("holds no images to paint with", path=folder, hint="png, jpg, tif, bmp and webp are read")
    return tuple(drawing.display(read_image(path)) for path in found)

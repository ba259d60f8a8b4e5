"""The teacher of `mudenet`, distilled once from a frozen network on photographs and drawn scenes, as a file.

    python benchmarks/distil_teacher.py --out FOLDER [--steps 20000] [--folder IMAGES ...] [--ship]

Goes on from its last snapshot in FOLDER where it was stopped. Ends with `teacher.safetensors` and, beside it,
`teacher.json`: how it was made, and its digest. `mudenet` uses it with `teacher=FOLDER/teacher.safetensors`; `--ship`
copies both to where the package keeps what comes with it, and refuses where images of a folder were learned from.

The pool: pictures that the scikit-image package itself holds and that it documents as public domain or CC0, in random
zoom, place, turn, colour and sharpness; one in three views is a drawn scene (`blemish.data.synthesis.scenes`). Images of
a folder join the pictures: good images at hand, or textures. No image of a test set belongs there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from blemish import config
from blemish.data.image.decode import read_image
from blemish.data.image.preprocess import Preprocess
from blemish.data.listing import images_in
from blemish.data.synthesis.scenes import procedural_scene
from blemish.data.synthesis.texture import jittered
from blemish.learning import artefacts, backbones, training
from blemish.learning.backbones.cache import Blobs, FeatureCache
from blemish.learning.backbones.loading import load
from blemish.learning.sources.features import FeatureSource
from blemish.methods.mudenet import Config, MuDeNet
from blemish.types import Batch, Pyramid

Image = NDArray[np.uint8]
SIDE = 256  # of a view
VIEWS = 2048
SCENES = 1 / 3  # share of views that are drawn
ZOOM = 2.0  # a picture's pixel becomes 1/ZOOM to ZOOM pixels of the view
PICTURES = (
    "astronaut camera brick grass gravel chelsea coffee rocket hubble_deep_field retina immunohistochemistry cell "
    "coins text clock"
).split()
"""Of `skimage.data`: those that come with the package and are said to be free of copyright."""


def pictures(folders: Sequence[Path]) -> list[Image]:
    """RGB, as they are."""
    import skimage.data

    found = [getattr(skimage.data, name)() for name in PICTURES]
    found += [read_image(path) for folder in folders for path in images_in(folder, deep=True)]
    return [Preprocess(image.shape[:2])(image) for image in found]


def view(number: int, pool: Sequence[Image]) -> Image:
    """One of `VIEWS`, the same in every run."""
    generator = np.random.default_rng([number, 24])
    if generator.random() < SCENES:
        return procedural_scene((SIDE, SIDE), generator)
    picture = pool[int(generator.integers(len(pool)))]
    zoom = ZOOM ** generator.uniform(-1, 1)
    side = max(min(round(SIDE / zoom), *picture.shape[:2]), 16)  # small ones are looked at from close by
    top, left = (int(generator.integers(n - side + 1)) for n in picture.shape[:2])
    cut = np.rot90(picture[top : top + side, left : left + side], int(generator.integers(4)))
    cut = cut[:, ::-1] if generator.random() < 0.5 else cut
    way = cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC
    image = np.asarray(cv2.resize(np.ascontiguousarray(cut), (SIDE, SIDE), interpolation=way), np.uint8)
    if generator.random() < 0.2:
        image = np.asarray(255 - image, np.uint8)
    if generator.random() < 0.3:
        image = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    if generator.random() < 0.8:
        image = jittered(image, 0.5, generator)
    if generator.random() < 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), generator.uniform(0.4, 1.5)), np.uint8)
    if generator.random() < 0.3:
        noisy = image + generator.normal(0, generator.uniform(1, 12), image.shape)
        image = noisy.clip(0, 255).astype(np.uint8)
    return image


class Views:
    """The pool as samples (`blemish.learning.training.Samples`); each is made and looked at once, and kept in memory."""

    def __init__(self, source: FeatureSource, pool: Sequence[Image], count: int) -> None:
        self.source, self.pool, self.count = source, pool, count
        self._kept = lru_cache(None)(self._made)

    def __len__(self) -> int:
        return self.count

    def _made(self, number: int) -> tuple[Image, tuple[NDArray[np.float16], ...]]:
        image = view(number, self.pool)
        return image, tuple(level.astype(np.float16) for level in self.source.extracted(image))

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        images, levels = zip(*(self._kept(i) for i in indices), strict=True)
        x = np.stack([self.source.normalised(image) for image in images])
        maps = tuple(np.stack(level).astype(np.float32) for level in zip(*levels, strict=True))
        return Batch((SIDE, SIDE), Pyramid(maps), x, ids=tuple(map(str, indices)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone", default=backbones.DEFAULT)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--views", type=int, default=VIEWS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, action="append", default=[])
    parser.add_argument("--ship", action="store_true")
    args = parser.parse_args()
    if args.ship and args.folder:
        parser.error("what comes with the package learns from free pictures alone: no --folder")
    torch.set_num_threads(args.threads)
    backbone = load(args.backbone, strides=MuDeNet.needs.strides)
    settings = Config(teacher="scenes", distil_steps=args.steps, distil_batch=args.batch, distil_rate=args.rate)
    method = MuDeNet(settings, backbone.spec((SIDE, SIDE)), (SIDE, SIDE))
    phase = method.phases()[0]
    pool = pictures(args.folder)
    source = FeatureSource(backbone, Preprocess((SIDE, SIDE)), None, threads=args.threads, image=True)
    drawn = hashlib.sha256(b"".join(image.tobytes() for image in pool)).hexdigest()
    recipe: dict[str, Any] = {
        "method": "mudenet",
        "backbone": backbone.identity,
        "licence": backbone.licence,
        "options": {name: getattr(settings, name) for name in phase.depends if name != "crop"},
        "steps": args.steps,
        "batch": args.batch,
        "rate": args.rate,
        "crop": settings.crop,
        "format": "bf16",
        "pool": {
            "pictures": PICTURES,
            "folders": [folder.name for folder in args.folder],
            "images": len(pool),
            "sha256": drawn,
            "views": args.views,
            "scenes": round(SCENES, 3),
        },
        "software": {name: version(name) for name in ("torch", "scikit-image", "openvino")},
    }
    plan = training.Plan(
        store=Blobs(FeatureCache(args.out / "snapshots")), name=f"teacher {recipe}", bf16=True, track=noted
    )
    learned = training.learned(method, phase, Views(source, pool, args.views), plan)
    recipe["training"] = config.to_json(plan.report[-1])
    artefacts.write(args.out / "teacher.safetensors", learned, recipe)
    if args.ship:
        artefacts.write(artefacts.shipped(args.backbone), learned, recipe)


def noted(todo: Any, text: str, total: int) -> Any:
    """A line every hundred steps."""
    for number, each in enumerate(todo):
        if number % 100 == 0:
            print(f"{text}: {number} of {total} left", flush=True)
        yield each


if __name__ == "__main__":
    main()

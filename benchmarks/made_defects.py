"""Made test sets to choose options on: good training images, apart from some that get a synthetic defect.

    python benchmarks/made_defects.py [--kind graded]      # into .bench/made/<set>, MVTec-style
    blemish bench benchmarks/choices.toml --out .bench/choices

Nothing is ever chosen on test images, so these trees hold training images alone: of each set 70 % stay to learn from,
15 % are good test images and 15 % get a defect of `--kind`, a command of `blemish synthesize`. No method is trained with
`graded`; earlier choices were made with `cutpaste`, in colour on grey images too. What such figures can rank is measured
(docs/results/ranks.md). Units stay whole. Figures on them say which of two options to take, and nothing else.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from blemish.data import layouts
from blemish.data.image.decode import read_image
from blemish.data.image.preprocess import Preprocess
from blemish.data.synthesis.image_set import KINDS, StudioOptions, damage, maker
from blemish.learning.splits import good_training_records, split_at_random
from blemish.types import Record

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
OUT = Path(".bench/made")
MOST = 300  # images of a set
SOURCES = {
    "mtd": (str(DATA / "mtd"), None),
    "elpv_mono": ("elpv", "mono"),
    "bsdata_s": (str(DATA / "bsdata_s"), None),
    "deeppcb_s": (str(DATA / "deeppcb_s"), None),
    "aws_aliens": (str(DATA / "aws_aliens"), None),
}


def write(kind: str, records: list[Record], root: Path) -> dict[str, int]:
    """One tree; how many images lie where."""
    chosen, _ = split_at_random(records, max(0.0, 1 - MOST / len(records)), seed=1)
    learn, test = split_at_random(chosen, 0.3, seed=2)
    good, spoilt = split_at_random(test, 0.5, seed=3)
    make = maker(kind, StudioOptions())
    for folder, part in (("train/good", learn), ("test/good", good), ("test/made", spoilt)):
        (root / folder).mkdir(parents=True)
        for number, record in enumerate(sorted(part, key=lambda r: r.id)):
            image = read_image(record.path)
            if folder == "test/made":
                # on the image as it is, not as RGB: a colour on a grey surface is found by everything
                image, mask = damage(image, make, np.random.default_rng([number, 7]))
                (root / "ground_truth/made").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(root / f"ground_truth/made/{number:03d}_mask.png")
            rgb = Preprocess(image.shape[:2])(image)
            Image.fromarray(rgb).save(root / folder / f"{number:03d}.png")
    return {"learn": len(learn), "good": len(good), "made": len(spoilt)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=list(KINDS), default="graded")
    kind = parser.parse_args().kind
    shutil.rmtree(OUT, ignore_errors=True)
    for name, (source, group) in SOURCES.items():
        records = good_training_records(layouts.index(source))
        records = [r for r in records if group is None or r.group == group]
        print(name, write(kind, records, OUT / name))


if __name__ == "__main__":
    main()

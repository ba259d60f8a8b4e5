"""What bf16 changes: the same models in float32 and in bf16, on held-out and on test images.

    python benchmarks/number_format.py        # writes docs/results/number_format.md; needs a processor with bf16

Each method learns once in each format. `auto` looks at the first comparison alone: one model, learned in float32 and run
in both formats on the images that it has held out.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from blemish import Detector
from blemish.data import layouts, registry
from blemish.evaluation.metrics.intervals import delong
from blemish.inspection.calibrate import MOVED, RANK
from blemish.inspection.engines import best_precision
from blemish.inspection.open import open_model
from blemish.learning.backbones.cache import FeatureCache
from blemish.types import Record

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {
    "magnetic tiles (`mtd`)": (str(DATA / "mtd"), []),
    "solar cells, mono": ("elpv", ["mono"]),
    "solar cells, poly": ("elpv", ["poly"]),
    "circuits (`deeppcb_s`)": (str(DATA / "deeppcb_s"), []),
    "toys (`aws_aliens`)": (str(DATA / "aws_aliens"), []),
}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "number_format.md"


def auroc(model: Any, test: list[Record], precision: str) -> float:
    """Image AUROC of a model in a number format."""
    import numpy as np

    kind = registry.of(model.meta)
    engine = open_model(model, precision=precision)
    scores = [float(engine(kind.stack([kind.ready(r)[1]]))[0][0]) for r in test]
    return delong(np.array([r.label for r in test]), np.array(scores)).value


def row(method: str, title: str, source: str, categories: list[str]) -> str:
    """One line of the table."""
    records = layouts.select(layouts.index(source), categories)
    test = [r for r in records if r.split == "test"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact, short = (fitted(method, records, precision) for precision in ("auto", "bf16"))
    found = exact.parity["formats"]
    figures = (auroc(exact, test, "f32"), auroc(exact, test, "bf16"), auroc(short, test, "bf16"))
    taken = "bf16" if found["harmless"] else "float32"
    moved = f"{found['moved']:.1%} | {found['rank']:.4f} | {found['images']}"
    return f"| `{method}` | {title} | {moved} | {taken} | " + " | ".join(f"{f:.3f}" for f in figures) + " |"


def fitted(method: str, records: list[Record], precision: str) -> Any:
    """The model; one that sees nothing is measured too."""
    from blemish import config
    from blemish.learning.fit import fit
    from blemish.learning.options import FitOptions

    options = config.build(FitOptions, {"method": method, "precision": precision})
    return fit(records, options, cache=FeatureCache(), blind=True)


def main() -> None:
    """Print the page, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["padim", "patchcore"])
    parser.add_argument("--page", type=Path, default=PAGE)
    chosen = parser.parse_args()
    if best_precision() != "bf16":
        raise SystemExit("this processor does not compute in bf16")
    if not DATA.is_dir():
        raise SystemExit("the real data sets are not beside the repository (../shared/data)")
    Detector()  # says what is missing before any work
    rows = []
    for title, (source, categories) in SETS.items():
        for method in chosen.methods:
            rows.append(row(method, title, source, categories))
            print(rows[-1], flush=True)
    chosen.page.write_text(text(rows), encoding="utf-8")


def text(rows: list[str]) -> str:
    """The page."""
    head = (
        "| method | data | moved | rank correlation | held-out images | `auto` runs in | AUROC, float32 | "
        "float32 model run in bf16 | learned and run in bf16 |\n|---|---|---|---|---|---|---|---|---|"
    )
    return "\n".join(
        [
            "# Number format",
            "Made by `python benchmarks/number_format.py`, default options, 256 pixels, first seed.",
            "",
            "bf16 keeps 8 bits of a number, and a processor that computes in it runs a network up to twice as fast. "
            "Features move by about a tenth of their norm. `auto` takes bf16 only where the scores of held-out good "
            f"images hardly notice: none moves by more than {MOVED:.0%} of their spread, and their rank correlation is at "
            f"least {RANK}. The last three columns are image AUROC on the test images; `auto` has not seen them.",
            "",
            head,
            *rows,
            "",
            "Processors with other bf16 units round otherwise; `blemish calibrate` compares again on the machine that it "
            "runs on.",
            "",
        ]
    )


if __name__ == "__main__":
    main()

"""ELPV: 2,624 electroluminescence images of solar cells, from the installed package `elpv-dataset`.

Buerhop-Lutz et al., A benchmark for visual identification of defective solar cells in electroluminescence imagery,
EU PVSEC 2018. Label 0 is good and 1 defective; 1/3 and 2/3 are uncertain ratings, which are held. group = mono or poly.

Neighbouring file numbers come from one module, so that a random split shows the module of a test cell in training.
The default split goes by blocks of 64 numbers (unit = block): half of the blocks, drawn with `seed`, give their good
cells to train; the good cells of the others and all defective cells are test. split="random" draws half of the good
cells instead and has no units; the difference shows how much too optimistic such a split is.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from blemish.data.layouts._common import Query, default_split_only, existing
from blemish.errors import DataError
from blemish.types import Record, Split

PRIORITY = 15
MODALITY = "image"
BLOCK = 64
_HINT = "pip install elpv-dataset"


def locate() -> Path:
    """The data folder of the installed package, found without importing it; DataError where it is not installed."""
    spec = find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the package elpv-dataset is not installed", hint=_HINT)
    return Path(spec.submodule_search_locations[0]) / "data"


def detect(root: Path) -> bool:
    return (root / "labels.csv").is_file() and (root / "images" / "cell0001.png").is_file()


def index(root: Path, query: Query) -> list[Record]:
    default_split_only(query.split, "elpv", ["random"])
    rows = _rows(root / "labels.csv")
    rng = np.random.default_rng(query.seed)
    if query.split == "random":
        good = [name for name, probability, _ in rows if probability == 0]
        chosen = {good[i] for i in rng.permutation(len(good))[: len(good) // 2]}
        train = [name in chosen for name, _, _ in rows]
    else:
        blocks = sorted({_block(name) for name, _, _ in rows})
        drawn = {blocks[i] for i in rng.permutation(len(blocks))[: len(blocks) // 2]}
        train = [_block(name) in drawn for name, _, _ in rows]
    records = []
    for (name, probability, group), learned in zip(rows, train, strict=True):
        certain = probability in (0, 1)
        side: Split = "held" if not certain else "train" if learned and probability == 0 else "test"
        records.append(
            Record(
                name,
                existing(root / name, root / "labels.csv"),
                side,
                int(probability >= 0.5),
                defect="defective" if probability == 1 else None,
                group=group,
                unit=None if query.split == "random" else str(_block(name)),
            )
        )
    return records


def _block(name: str) -> int:
    return (int("".join(filter(str.isdigit, Path(name).stem))) - 1) // BLOCK


def _rows(path: Path) -> list[tuple[str, float, str]]:
    """(name, probability of a defect, mono or poly), sorted by name."""
    rows, line = [], 0
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            line += 1
            if text.strip():
                name, probability, group = text.split()
                rows.append((name, float(probability), group))
                _block(name)
    except (OSError, ValueError) as error:
        raise DataError(f"line {line}: {error}", path=path, hint=_HINT) from None
    return sorted(rows)

"""The real sets, where they are there: their counts, units and published splits."""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from blemish.data.image.decode import read_image, read_mask
from blemish.data.layouts import index
from tests.trees import sides

pytestmark = pytest.mark.real

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("name", ["mtd", "bsdata_s", "deeppcb_s", "aws_aliens"])
def test_real_sets_count_as_they_say(name: str) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"no data set {name} beside the repository")
    counts = json.loads((REAL / name / "dataset.json").read_text())["counts"]
    records = index(REAL / name)
    images = {key: value for key, value in counts.items() if key.startswith(("train/", "test/"))}
    assert Counter(str(Path(r.id).parent) for r in records) == images
    masks = {key.partition("/")[2]: value for key, value in counts.items() if key not in images}
    assert Counter(r.defect for r in records if r.mask) == masks
    for record in [r for r in records if r.mask][:5]:
        assert record.mask is not None
        assert read_mask(record.mask, read_image(record.path).shape[:2]).any()


def test_real_mtd_units_and_published_split() -> None:
    if not (REAL / "mtd").is_dir():
        pytest.skip("no data set mtd beside the repository")
    good = [r for r in index(REAL / "mtd") if not r.label]
    assert len({r.unit for r in good}) == 185
    again = [r for r in index(REAL / "mtd", split="random80") if not r.label]
    assert sides(again) == sides(good) == {("train", 0): 762, ("test", 0): 190}
    assert {r.id for r in again if r.split == "train"} != {r.id for r in good if r.split == "train"}


def test_real_elpv() -> None:
    if find_spec("elpv_dataset") is None:
        pytest.skip("the package elpv-dataset is not installed")
    records = index("elpv")
    assert len(records) == 2624
    assert len({r.unit for r in records}) == 41
    assert sum(r.label for r in records if r.split == "test") == 715
    assert sum(r.split == "held" for r in records) == 401
    assert sides(index("elpv", split="random"))[("train", 0)] == 754
    assert read_image(records[0].path).shape == (300, 300)

"""The data sets of 2024 and 2025, and DAGM: made folders of exactly their shape, and damaged ones."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish.data import layouts
from blemish.data.image.decode import read_mask
from blemish.data.image.saturation import saturated_masks
from blemish.data.layouts import index
from blemish.errors import ConfigError, DataError
from blemish.types import UNLABELLED, Record
from tests.trees import by_id, put, put_text, sides


def mvtec2_tree(root: Path, category: str = "can") -> Path:
    put(root / category, "train/good/000_regular.png", "train/good/001_regular.png", "validation/good/000_regular.png")
    put(root / category, "test_public/good/000_regular.png", "test_public/good/000_shift_1.png")
    put(root / category, "test_public/bad/000_regular.png", "test_public/ground_truth/bad/000_regular_mask.png")
    put(root / category, "test_private/000_regular.png", "test_private/001_regular.png")
    put(root / category, "test_private_mixed/000_mixed.png")
    return root


def test_mvtec2_learns_from_train_and_measures_the_public_test(tmp_path: Path) -> None:
    records = index(mvtec2_tree(tmp_path))
    assert layouts._detected(tmp_path, None) is layouts._load("mvtec2")
    assert sides(records) == {("train", 0): 2, ("held", 0): 1, ("test", 0): 2, ("test", 1): 1, ("held", 1): 3}
    bad = by_id(records)["can/test_public/bad/000_regular.png"]
    assert bad.mask == tmp_path / "can/test_public/ground_truth/bad/000_regular_mask.png"
    assert (bad.defect, bad.group) == ("bad", "can")
    assert [r.path for r in records] == [r.path for r in index(tmp_path / "can")]


@pytest.mark.parametrize(("split", "images"), [("test_private", 2), ("test_private_mixed", 1)])
def test_mvtec2_images_without_labels_are_good_to_nobody(tmp_path: Path, split: str, images: int) -> None:
    records = index(mvtec2_tree(tmp_path), split=split)
    private = [r for r in records if r.path.parent.name == split]
    assert len(private) == images
    assert {(r.split, r.label, r.defect, r.mask) for r in private} == {("held", 1, UNLABELLED, None)}
    assert not [r for r in records if r.split == "test"]
    assert sides(index(tmp_path, split="test_public")) == {
        ("train", 0): 2,
        ("held", 0): 1,
        ("test", 0): 2,
        ("test", 1): 1,
    }


def test_mvtec2_of_which_only_the_private_images_were_copied(tmp_path: Path) -> None:
    put(tmp_path, "vial/test_private_mixed/000_mixed.png")
    assert [r.id for r in index(tmp_path)] == ["vial/test_private_mixed/000_mixed.png"]


def test_mvtec2_says_what_it_does_not_use(tmp_path: Path) -> None:
    mvtec2_tree(tmp_path)
    put(tmp_path / "can", "test_private/bad/002.png", "test_public/003.png", "test_public/ground_truth/bad/9_mask.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        index(tmp_path)
    said = " ".join(str(w.message) for w in caught)
    assert "test_private: not used, since its images lie in no folders: 'bad'" in said
    assert "lie in no folder" in said
    assert "1 masks match no image of bad: '9_mask.png'" in said


def test_mvtec2_a_defect_without_its_mask_is_kept_without(tmp_path: Path) -> None:
    (mvtec2_tree(tmp_path) / "can/test_public/ground_truth/bad/000_regular_mask.png").unlink()
    record = by_id(index(tmp_path))["can/test_public/bad/000_regular.png"]
    assert (record.label, record.mask) == (1, None)


def autovi_tree(root: Path, config: bool = True) -> Path:
    object_ = root / "pipe_clip"
    put(object_, "train/good/0000.png", "test/good/0001.png", "test/unclipped/0089.png", "test/operator/0090.png")
    for defect, stem, greys in (("unclipped", "0089", (1, 2)), ("operator", "0090", (3,))):
        for number, grey in enumerate(greys):
            mask = np.zeros((4, 5, 4), np.uint8)
            mask[number, :3, :3] = grey
            mask[..., 3] = 255  # theirs are colour pictures that are nowhere transparent
            path = object_ / "ground_truth" / defect / stem / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
    entry: dict[str, Any] = {"defect_name": "a", "saturation_threshold": 2, "relative_saturation": False}
    if config:
        entries = [{**entry, "pixel_value": grey} for grey in (1, 2, 3)]
        put_text(object_ / "defects_config.json", json.dumps(entries))
    return root


def test_autovi_has_a_mask_for_each_defect_and_saturation_areas(tmp_path: Path) -> None:
    records = by_id(index(autovi_tree(tmp_path)))
    assert layouts._detected(tmp_path, None) is layouts._load("autovi")
    assert sides(list(records.values())) == {("train", 0): 1, ("test", 0): 1, ("test", 1): 2}
    record = records["pipe_clip/test/unclipped/0089.png"]
    assert record.defect == "unclipped"
    assert [p.name for p in record.mask or ()] == ["0000.png", "0001.png"]  # type: ignore[union-attr]
    assert [(int(mask.sum()), enough) for mask, enough in saturated_masks(record, (4, 5))] == [(3, 2), (3, 2)]
    assert int(read_mask(record.mask, (4, 5)).sum()) == 6  # type: ignore[arg-type]


def test_autovi_without_its_list_is_known_by_its_masks_and_loco_stays_loco(tmp_path: Path) -> None:
    records = index(autovi_tree(tmp_path / "a", config=False))
    assert layouts._detected(tmp_path / "a", None) is layouts._load("autovi")
    assert {r.saturation for r in records} == {None}
    put(tmp_path / "b", "c/train/good/0.png", "c/test/logical_anomalies/1.png")
    put(tmp_path / "b", "c/ground_truth/logical_anomalies/1/000.png")
    put_text(tmp_path / "b/c/defects_config.json", "[]")
    assert layouts._detected(tmp_path / "b", None) is layouts._load("loco")


def dagm_tree(root: Path, name: str = "Class1") -> Path:
    category = root / name
    for side, images, bad in (("Train", ("0001", "0002", "0003"), "0003"), ("Test", ("0001", "0002"), "0002")):
        put(category / side, *(f"{stem}.PNG" for stem in images), f"Label/{bad}_label.PNG")
        lines = [
            f"{i}\t{int(s == bad)}\t{s}.PNG\t0\t{f'{s}_label.PNG' if s == bad else 0}" for i, s in enumerate(images, 1)
        ]
        put_text(category / side / "Label" / "Labels.txt", "\n".join(["1", *lines]) + "\n")
    return root


def test_dagm_by_its_lists(tmp_path: Path) -> None:
    records = by_id(index(dagm_tree(tmp_path)))
    assert layouts._detected(tmp_path, None) is layouts._load("dagm")
    assert sides(list(records.values())) == {("train", 0): 2, ("held", 1): 1, ("test", 0): 1, ("test", 1): 1}
    assert records["Class1/Test/0002.PNG"].mask == tmp_path / "Class1/Test/Label/0002_label.PNG"
    assert {r.group for r in records.values()} == {"Class1"}


def test_dagm_archives_unpacked_into_folders_of_their_names(tmp_path: Path) -> None:
    dagm_tree(tmp_path / "Class1", "Class1")
    dagm_tree(tmp_path / "Class10", "Class10")
    assert {r.group for r in index(tmp_path)} == {"Class1", "Class10"}
    assert {r.id for r in index(tmp_path / "Class1")} == {
        r.id.partition("/")[2] for r in index(tmp_path) if r.group == "Class1"
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("1\n1\t0\t0001.PNG\t0\t0\n", "does not name images that are there: '0002.PNG'"),
        ("1\n1\t0\t0001.PNG\n2\t1\t0002.PNG\n3\t0\t0009.PNG\n", "images that are not there: '0009.PNG'"),
        ("1\n1\t0\t0001.PNG\n2\t1\t0002.PNG\n3\t0\t0002.PNG\n", "line 4 lists '0002.PNG' again"),
        ("1\n1\t0\t0001.PNG\n2\t0\t0002.PNG\n", "calls images good that have a mask: '0002'"),
        ("1\n1\t0\t0001.PNG\n2\tbad\t0002.PNG\n", "line 3 is not understood"),
        ("\xff\xfe\0", "is text in UTF-16, not in UTF-8"),
    ],
)
def test_dagm_a_list_that_disagrees_with_the_files(tmp_path: Path, change: str, message: str) -> None:
    (dagm_tree(tmp_path) / "Class1/Test/Label/Labels.txt").write_bytes(change.encode("latin-1"))
    with pytest.raises(DataError, match=message) as caught:
        index(tmp_path)
    assert "Labels.txt" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("left", ["masks", "nothing"])
def test_dagm_without_its_list_nothing_is_taken_for_good(tmp_path: Path, left: str) -> None:
    labels = dagm_tree(tmp_path) / "Class1/Train/Label"
    (labels / "Labels.txt").unlink()
    if left == "nothing":
        (labels / "0003_label.PNG").unlink()
        labels.rmdir()
    with pytest.raises(DataError, match=r"Train: has images and no Label/Labels.txt"):
        index(tmp_path)


def test_dagm_a_defect_without_its_mask_is_still_one(tmp_path: Path) -> None:
    (dagm_tree(tmp_path) / "Class1/Test/Label/0002_label.PNG").unlink()
    record = by_id(index(tmp_path))["Class1/Test/0002.PNG"]
    assert (record.label, record.mask) == (1, None)


def test_folders_that_hold_nothing_are_named(tmp_path: Path) -> None:
    mvtec2_tree(tmp_path / "a")
    for name in ("train/good", "test_private"):
        (tmp_path / "a" / "vial" / name).mkdir(parents=True)
    with pytest.warns(UserWarning, match="no samples in 'vial/train', 'vial/test_private'"):
        index(tmp_path / "a")
    (autovi_tree(tmp_path / "b") / "tank_screw" / "train" / "good").mkdir(parents=True)
    with pytest.warns(UserWarning, match="no samples in 'tank_screw/train'"):
        index(tmp_path / "b")
    for path in (dagm_tree(tmp_path / "c") / "Class1/Train").glob("*.PNG"):
        path.unlink()
    with pytest.warns(UserWarning, match="no samples in 'Train'"):
        index(tmp_path / "c")


FILES = ("query_image", "query_crop", "query_mask")
HEAD = ["capture_id", "item_identifier", "defect", "major_defect", "defect_types", "item_material"]


def kaputt_row(split: str, name: str, item: str, defect: bool, major: bool = False, types: str = "") -> dict[str, Any]:
    base = f"data/{split}/query-data"
    files = [f"{base}/{kind}/{name}.{end}" for kind, end in (("image", "jpg"), ("crop", "jpg"), ("mask", "png"))]
    return dict(zip([*HEAD, *FILES], [name, item, defect, major, types, "cardboard", *files], strict=True))


ROWS = {
    "train": [kaputt_row("train", "a", "i1", False), kaputt_row("train", "b", "i2", True, True, "deformation")],
    "validation": [kaputt_row("validation", "c", "i3", False)],
    "test": [
        kaputt_row("test", "d", "i4", False),
        kaputt_row("test", "e", "i5", True, False, "actuation,deformation"),
        kaputt_row("test", "f", "i6", True, True, "penetration"),
    ],
}


def kaputt_tree(
    root: Path, rows: dict[str, list[dict[str, Any]]] = ROWS, *, kind: str = "csv", flat: bool = False
) -> Path:
    """`flat`: lists and images below one folder; else each archive has a folder of its own."""
    for split, each in rows.items():
        for row in each:
            for column in FILES:
                put(root if flat else root / column.replace("_", "-"), row[column])
        path = (root if flat else root / "datasets") / f"query-{split}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "csv":
            columns = list(each[0])
            text = "\n".join(",".join(f'"{"" if r[c] is None else r[c]}"' for c in columns) for r in each)
            put_text(path, f"{','.join(columns)}\n{text}\n")
        else:
            pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(each), path)
    return root


@pytest.mark.parametrize(("kind", "flat"), [("csv", False), ("csv", True), ("parquet", False)])
def test_kaputt_lists_images_by_item_and_material(tmp_path: Path, kind: str, flat: bool) -> None:
    records = index(kaputt_tree(tmp_path, kind=kind, flat=flat))
    assert layouts._detected(tmp_path, None) is layouts._load("kaputt")
    assert sides(records) == {("train", 0): 1, ("held", 0): 1, ("held", 1): 1, ("test", 0): 1, ("test", 1): 2}
    assert {r.mask for r in records} == {None}  # those masks show the item, not its defect
    found = {r.path.stem: r for r in records}
    assert found["e"].defect == "minor: actuation,deformation"
    assert found["f"].defect == "major: penetration"
    assert (found["f"].unit, found["f"].group) == ("i6", "cardboard")
    assert found["f"].path.parent.name == "image"


def test_kaputt_empty_cells_that_the_data_set_has(tmp_path: Path) -> None:
    bare = {**ROWS["test"][1], "item_material": None, "major_defect": None, "defect_types": None}
    [record] = index(kaputt_tree(tmp_path, {"test": [bare]}, kind="parquet"))
    assert (record.group, record.defect, record.label) == ("unknown", "minor: of no type", 1)


def test_kaputt_crops_and_major_defects_alone(tmp_path: Path) -> None:
    kaputt_tree(tmp_path)
    assert {r.path.parent.name for r in index(tmp_path, split="crop")} == {"crop"}
    for split in ("major", "crop-major"):
        records = {r.path.stem: r for r in index(tmp_path, split=split)}
        assert (records["e"].split, records["f"].split) == ("held", "test")
    with pytest.raises(ConfigError, match="no split 'cropped'"):
        index(tmp_path, split="cropped")


def test_kaputt_a_list_without_labels_is_measured_by_nobody(tmp_path: Path) -> None:
    bare = [
        {k: v for k, v in row.items() if k not in ("defect", "major_defect", "defect_types")} for row in ROWS["test"]
    ]
    records = index(kaputt_tree(tmp_path, {**ROWS, "test": bare}))
    hidden = [r for r in records if r.defect == UNLABELLED]
    assert {(r.path.stem, r.split, r.label) for r in hidden} == {(s, "held", 1) for s in "def"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"defect": "perhaps"}, "row 1: defect is 'perhaps'"),
        ({"defect": None}, "row 1: defect is ''"),
        ({"query_image": "data/test/gone.jpg"}, "row 1: no such file: data/test/gone.jpg"),
        ({"item_material": ".."}, "row 1: material '..' is no plain name"),
        ({"item_identifier": ""}, "row 1: no item_identifier"),
    ],
)
def test_kaputt_damaged_rows(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    kaputt_tree(tmp_path)
    row = {**ROWS["test"][0], **change}
    put_text(
        tmp_path / "datasets/query-test.csv",
        f"{','.join(row)}\n{','.join(str(v or '') if v is not False else 'False' for v in row.values())}\n",
    )
    with pytest.raises(DataError, match=message) as caught:
        index(tmp_path)
    assert "query-test.csv" in str(caught.value)


def test_kaputt_damaged_lists(tmp_path: Path) -> None:
    kaputt_tree(tmp_path)
    put_text(tmp_path / "datasets/query-test.csv", "name,defect\na,True\n")
    with pytest.raises(DataError, match="no column 'item_identifier'"):
        index(tmp_path)
    (tmp_path / "datasets/query-test.csv").unlink()
    put_text(tmp_path / "datasets/query-test.parquet", "no table")
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    with pytest.raises(DataError, match="is no readable Parquet"):
        index(tmp_path)


def test_kaputt_an_image_listed_twice_or_an_item_on_both_sides(tmp_path: Path) -> None:
    kaputt_tree(tmp_path, {"test": [ROWS["test"][0]] * 2})
    with pytest.raises(DataError, match="is listed twice"):
        index(tmp_path)
    other = kaputt_tree(tmp_path / "b", {"train": ROWS["train"], "test": [kaputt_row("test", "d", "i1", False)]})
    with pytest.raises(DataError, match="unit 'i1' is in train and in test"):
        index(other)


def fields(records: list[Record]) -> set[tuple[str, str, int]]:
    return {(r.id, r.split, r.label) for r in records}


def test_folders_in_capitals_and_good_by_another_name(tmp_path: Path) -> None:
    put(tmp_path / "can", "TRAIN/OK/0.png", "Test_Public/Good/1.png", "Test_Public/BAD/2.png", "TEST_PRIVATE/3.png")
    assert fields(index(tmp_path / "can")) == {
        ("TRAIN/OK/0.png", "train", 0),
        ("Test_Public/Good/1.png", "test", 0),
        ("Test_Public/BAD/2.png", "test", 1),
        ("TEST_PRIVATE/3.png", "held", 1),
    }

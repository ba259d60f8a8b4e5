"""Each layout on a tiny tree of its kind, and the checks that hold for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blemish.data import layouts
from blemish.data.image.saturation import saturations
from blemish.data.layouts import Query, check_disjoint, index, names, select
from blemish.data.layouts import elpv as elpv_layout
from blemish.data.layouts.mvtec3d import xyz_path
from blemish.errors import ConfigError, DataError
from blemish.types import Record
from tests.trees import by_id, put, put_text, sides

REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data"


def mvtec_tree(root: Path) -> None:
    put(root, "train/good/000.png", "train/good/001.JPG", "test/good/000.png", "test/crack/000.png", "test/hole/a.jpg")
    put(root, "test/hole/b.png", "ground_truth/crack/000_mask.png", "ground_truth/hole/a.png")


TREES: dict[str, list[str]] = {
    "folder": ["a.png", "day/b.JPEG", "day/c.tif"],
    "mvtec": ["c/train/good/0.png", "c/test/good/1.png", "c/test/bad/2.png", "c/ground_truth/bad/2_mask.png"],
    "loco": ["c/train/good/0.png", "c/validation/good/0.png", "c/test/good/0.png", "c/test/logical_anomalies/0.png"],
    "btad": ["01/train/ok/0.bmp", "01/test/ok/1.bmp", "01/test/ko/2.bmp", "01/ground_truth/ko/2.bmp"],
    "mvtec3d": [
        "c/train/good/rgb/0.png",
        "c/validation/good/rgb/0.png",
        "c/test/hole/rgb/0.png",
        "c/test/hole/gt/0.png",
    ],
    "visa": [*(f"c/Data/Images/Normal/{i:02}.JPG" for i in range(20)), "c/Data/Images/Anomaly/0.JPG"],
    "elpv": ["images/cell0001.png"],
    "manifest": ["images/a.png"],
    "real_iad": ["realiad_256/c/OK/S1/c_1_OK_C1_2.jpg"],
    "mvtec2": ["c/train/good/0.png", "c/test_public/bad/1.png", "c/test_private/2.png"],
    "autovi": ["c/train/good/0.png", "c/test/missing/1.png", "c/ground_truth/missing/1/0000.png"],
    "dagm": ["Class1/Train/1.PNG", "Class1/Test/2.PNG", "Class1/Test/Label/2_label.PNG"],
    "kaputt": ["data/train/query-data/image/a.jpg"],
}


def tree(root: Path, name: str) -> Path:
    put(root, *TREES[name])
    if name == "elpv":
        put_text(root / "labels.csv", "images/cell0001.png  0.0  mono\n")
    if name == "manifest":
        put_text(root / "manifest.csv", "path\nimages/a.png\n")
    if name == "real_iad":
        entry = {"image_path": "OK/S1/c_1_OK_C1_2.jpg", "mask_path": None, "anomaly_class": "OK", "category": "c"}
        put_text(root / "realiad_jsons" / "c.json", json.dumps({"meta": {}, "train": [entry], "test": []}))
    if name == "dagm":
        put_text(root / "Class1/Train/Label/Labels.txt", "1\n1\t0\t1.PNG\t0\t0\n")
        put_text(root / "Class1/Test/Label/Labels.txt", "1\n2\t1\t2.PNG\t0\t2_label.PNG\n")
    if name == "kaputt":
        row = "i,cardboard,False,False,,data/train/query-data/image/a.jpg"
        head = "item_identifier,item_material,defect,major_defect,defect_types,query_image"
        put_text(root / "datasets" / "query-train.csv", f"{head}\n{row}\n")
    return root


def test_every_layout_has_a_tree_here() -> None:
    recordings = {"recordings", "wfdb", "ecg5000"}  # tried in test_signals.py
    scans = {"clouds", "surfaces"}  # tried with the model that learns them
    assert {*TREES, "mpdd", *recordings, *scans} == set(names())


@pytest.mark.parametrize("name", TREES)
def test_each_layout_is_found_by_itself_and_keeps_the_rules(name: str, tmp_path: Path) -> None:
    records = index(tree(tmp_path, name))
    assert records == index(tmp_path, name) == index(str(tmp_path))
    assert [r.id for r in records] == sorted({r.id for r in records})
    for record in records:
        assert record.path == tmp_path / record.id
        assert record.path.is_file()
        assert record.split != "train" or not record.label
        assert (record.defect is None) == (record.label == 0)
    with pytest.raises(ConfigError, match="split 'nonsense'"):
        index(tmp_path, name, "nonsense")


def test_priorities_differ() -> None:
    values = [layouts._load(name).PRIORITY for name in names()]
    assert len(set(values)) == len(values)


def test_unknown_layout_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="mvtek") as caught:
        index(".", "mvtek")
    assert "did you mean 'mvtec'" in str(caught.value.hint)


def test_nothing_to_index(tmp_path: Path) -> None:
    put_text(tmp_path / "notes.txt", "no images")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError) as caught:
            index(path)
        assert str(path) in str(caught.value)
        assert caught.value.hint
    for name in names():
        with pytest.raises(DataError):
            index(tmp_path, name)


def test_folder_is_all_good_and_blind_to_other_files(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "x/y/a.WEBP", "x/._a.png", "x/z.bmp", "x/t.TIFF")
    put_text(tmp_path / "notes.txt", "")
    records = index(tmp_path)
    assert [r.id for r in records] == ["b.png", "x/t.TIFF", "x/y/a.WEBP", "x/z.bmp"]
    assert sides(records) == {("train", 0): 4}


def test_folder_refuses_what_does_not_sound_good(tmp_path: Path) -> None:
    put(tmp_path, "ok/a.png", "NG/b.png")
    with pytest.raises(DataError, match="'NG'"):
        index(tmp_path)


def test_mvtec_one_category(tmp_path: Path) -> None:
    root = tmp_path / "tile"
    mvtec_tree(root)
    records = by_id(index(root))
    assert sides(list(records.values())) == {("train", 0): 2, ("test", 0): 1, ("test", 1): 3}
    assert records["test/crack/000.png"].mask == root / "ground_truth/crack/000_mask.png"
    assert records["test/hole/a.jpg"].mask == root / "ground_truth/hole/a.png"
    assert records["test/hole/b.png"].mask is None
    assert records["test/hole/b.png"].defect == "hole"
    assert {record.group for record in records.values()} == {"tile"}


def test_mvtec_many_categories_and_select(tmp_path: Path) -> None:
    mvtec_tree(tmp_path / "tile")
    mvtec_tree(tmp_path / "wood")
    put_text(tmp_path / "licence" / "a.txt", "")
    records = index(tmp_path)
    assert len(records) == 12
    assert {r.group for r in select(records, ["wood"])} == {"wood"}
    assert select(records, []) == records
    assert index(tmp_path, "mpdd") == records
    with pytest.raises(ConfigError, match="wod") as caught:
        select(records, ["wod"])
    assert "'wood'" in str(caught.value.hint)


def test_mvtec_units_box_masks_and_named_split(tmp_path: Path) -> None:
    put(
        tmp_path,
        "train/good/a.png",
        "train/good/b.png",
        "test/good/c.png",
        "test/bad/d.png",
        "box_masks/bad/d_mask.png",
    )
    put_text(tmp_path / "groups.json", json.dumps({"a.png": 0, "b.png": 0, "c.png": 1}))
    put_text(
        tmp_path / "split_random80.json", json.dumps({"rule": "", "train": ["a.png", "c.png"], "test_good": ["b.png"]})
    )
    records = by_id(index(tmp_path))
    assert [records[i].unit for i in sorted(records)] == [None, "1", "0", "0"]
    assert records["test/bad/d.png"].mask == tmp_path / "box_masks/bad/d_mask.png"
    again = by_id(index(tmp_path, split="random80"))
    assert {i: r.split for i, r in again.items()} == {
        "train/good/a.png": "train",
        "train/good/b.png": "test",
        "test/good/c.png": "train",
        "test/bad/d.png": "test",
    }
    assert all(record.unit is None for record in again.values())
    put(tmp_path, "test/good/unlisted.png")
    assert by_id(index(tmp_path, split="random80"))["test/good/unlisted.png"].split == "held"
    with pytest.raises(ConfigError) as caught:
        index(tmp_path, split="random8")
    assert "'random80'" in str(caught.value.hint)
    put_text(tmp_path / "groups.json", json.dumps({"a.png": 0, "c.png": 0}))
    with pytest.raises(DataError, match="unit '0' is in train and in test"):
        index(tmp_path)
    put_text(tmp_path / "groups.json", "[")
    with pytest.raises(DataError, match="groups.json"):
        index(tmp_path)


@pytest.mark.parametrize(
    "lists", [{"train": ["a.png"], "test_good": ["a.png"]}, {"train": ["z.png"]}, {"train": ["both.png"]}]
)
def test_mvtec_bad_split_files(lists: dict[str, list[str]], tmp_path: Path) -> None:
    put(tmp_path, "train/good/a.png", "train/good/both.png", "test/good/both.png")
    put_text(tmp_path / "split_x.json", json.dumps(lists))
    with pytest.raises(DataError, match="split_x.json"):
        index(tmp_path, split="x")


def test_loco(tmp_path: Path) -> None:
    truth = "ground_truth/logical_anomalies/000"
    put(
        tmp_path, "train/good/000.png", "validation/good/000.png", "test/good/000.png", "test/logical_anomalies/000.png"
    )
    put(tmp_path, f"{truth}/000.png", f"{truth}/001.png")
    entries = [
        {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 30, "relative_saturation": False},
        {"defect_name": "swapped", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
    ]
    put_text(tmp_path / "defects_config.json", json.dumps(entries))
    records = by_id(index(tmp_path))
    assert sides(list(records.values())) == {("train", 0): 1, ("held", 0): 1, ("test", 0): 1, ("test", 1): 1}
    masks = records["test/logical_anomalies/000.png"].mask
    assert masks == (tmp_path / truth / "000.png", tmp_path / truth / "001.png")
    assert records["test/logical_anomalies/000.png"].saturation == tmp_path / "defects_config.json"
    areas = saturations(tmp_path / "defects_config.json")
    assert (areas[255].pixels(100), areas[255].pixels(20)) == (30, 20)
    assert (areas[254].pixels(100), areas[254].defect) == (50, "swapped")
    put_text(tmp_path / "defects_config.json", "[{}]")
    with pytest.raises(DataError, match="defects_config.json"):
        saturations(tmp_path / "defects_config.json")


def test_btad(tmp_path: Path) -> None:
    records = by_id(index(tree(tmp_path, "btad")))
    assert records["01/test/ko/2.bmp"].mask == tmp_path / "01/ground_truth/ko/2.bmp"
    assert {r.group for r in records.values()} == {"01"}


def test_mvtec3d(tmp_path: Path) -> None:
    records = by_id(index(tree(tmp_path, "mvtec3d")))
    hole = records["c/test/hole/rgb/0.png"]
    assert (hole.mask, hole.view, hole.defect) == (tmp_path / "c/test/hole/gt/0.png", "rgb", "hole")
    assert records["c/validation/good/rgb/0.png"].split == "held"
    with pytest.raises(DataError, match="no points"):
        xyz_path(hole)
    points = put_text(tmp_path / "c/test/hole/xyz/0.tiff", "")
    assert xyz_path(hole) == points


def test_visa_by_its_list(tmp_path: Path) -> None:
    put(tmp_path, "pcb/Data/Images/Normal/0.JPG", "pcb/Data/Images/Normal/1.JPG", "pcb/Data/Images/Anomaly/0.JPG")
    put(tmp_path, "pcb/Data/Masks/Anomaly/0.png")
    rows = [
        "object,split,label,image,mask",
        "pcb,train,normal,pcb/Data/Images/Normal/0.JPG,",
        "pcb,test,normal,pcb/Data/Images/Normal/1.JPG,",
        "pcb,test,anomaly,pcb/Data/Images/Anomaly/0.JPG,pcb/Data/Masks/Anomaly/0.png",
    ]
    listed = put_text(tmp_path / "split_csv/1cls.csv", "\n".join(rows))
    put_text(tmp_path / "split_csv/few.csv", "\n".join(rows).replace("test,anomaly", "train,anomaly"))
    records = by_id(index(tmp_path))
    assert sides(list(records.values())) == {("train", 0): 1, ("test", 0): 1, ("test", 1): 1}
    assert records["pcb/Data/Images/Anomaly/0.JPG"].mask == tmp_path / "pcb/Data/Masks/Anomaly/0.png"
    assert sides(index(tmp_path, split="few")) == {("train", 0): 1, ("test", 0): 1, ("held", 1): 1}
    put_text(listed, "\n".join(rows).replace("test,normal", "test,nomal"))
    with pytest.raises(DataError, match=r"1cls\.csv: line 3.*nomal"):
        index(tmp_path)
    put_text(listed, "\n".join(rows).replace("Normal/1", "Normal/7"))
    with pytest.raises(DataError, match=r"1cls\.csv.*7\.JPG"):
        index(tmp_path)


def test_visa_as_unpacked(tmp_path: Path) -> None:
    put(tree(tmp_path, "visa"), "c/Data/Masks/Anomaly/0.png")
    records = index(tmp_path)
    assert sides(records) == {("train", 0): 18, ("test", 0): 2, ("test", 1): 1}
    assert [r.id[-6:] for r in records if r.split == "test" and not r.label] == ["09.JPG", "19.JPG"]
    assert by_id(records)["c/Data/Images/Anomaly/0.JPG"].mask == tmp_path / "c/Data/Masks/Anomaly/0.png"


def test_real_iad(tmp_path: Path) -> None:
    good, noisy = "OK/S0001/usb_0001_OK_C1_20231.jpg", "NG/AK/S0003/usb_0003_NG_AK_C2_20231.jpg"
    other, defect = "OK/S0002/usb_0002_OK_C5_20231.jpg", "NG/AK/S0004/usb_0004_NG_AK_C3_20231.jpg"
    mask = defect.replace(".jpg", ".png")
    for size in ("realiad_256", "realiad_1024"):
        put(tmp_path / size / "usb", good, noisy, other, defect, mask)

    def entry(image: str, kind: str, mask: str | None = None) -> dict[str, str | None]:
        return {"category": "usb", "anomaly_class": kind, "image_path": image, "mask_path": mask}

    lists = {
        "meta": {"normal_class": "OK", "prefix": "/somewhere/realiad_1024/usb/"},
        "train": [entry(good, "OK"), entry(noisy, "AK")],
        "test": [entry(other, "OK"), entry(defect, "AK", mask)],
    }
    path = put_text(tmp_path / "realiad_jsons/realiad_jsons/usb.json", json.dumps(lists))
    put_text(tmp_path / "realiad_jsons/realiad_jsons_sv/usb.json", json.dumps({**lists, "train": lists["train"][:1]}))
    put_text(path.with_name("toy.json"), json.dumps({"train": [entry(good, "OK")]}))  # listed, but not unpacked
    records = by_id(index(tmp_path))
    assert sides(list(records.values())) == {("train", 0): 1, ("held", 1): 1, ("test", 0): 1, ("test", 1): 1}
    record = records[f"realiad_256/usb/{defect}"]
    assert record.mask == tmp_path / "realiad_256/usb" / mask
    assert (record.defect, record.group, record.unit, record.view) == ("AK", "usb", "NG/AK/S0004", "C3")
    assert len(index(tmp_path, split="sv")) == 3
    put_text(path, json.dumps({"train": [{"image_path": good}]}))
    with pytest.raises(DataError, match="anomaly_class"):
        index(tmp_path)


def elpv_tree(root: Path) -> Path:
    lines = []
    for number in range(1, 64 * 6 + 1, 4):
        put(root, name := f"images/cell{number:04}.png")
        lines.append(
            f"{name}  {(0.0, 0.3333333333333333, 1.0, 0.0)[number // 4 % 4]}  {('mono', 'poly')[number % 8 > 3]}"
        )
    put_text(root / "labels.csv", "\n".join(lines))
    return root


def test_elpv_splits_by_blocks(tmp_path: Path) -> None:
    records = index(elpv_tree(tmp_path))
    assert sides(records) == {("train", 0): 24, ("test", 0): 24, ("test", 1): 24, ("held", 0): 24}
    learned = {r.unit for r in records if r.split == "train"}
    assert len(learned) == 3
    assert not learned & {r.unit for r in records if r.split == "test" and not r.label}
    assert {r.group for r in records} == {"mono", "poly"}
    other = elpv_layout.index(tmp_path, Query(seed=1))
    assert elpv_layout.index(tmp_path, Query(seed=1)) == other
    assert {r.unit for r in other if r.split == "train"} != learned
    mixed = index(tmp_path, split="random")
    assert sides(mixed) == sides(records)
    assert all(r.unit is None for r in mixed)
    put_text(tmp_path / "labels.csv", "images/cell0001.png 0.0 mono\nimages/cell0005.png zero mono\n")
    with pytest.raises(DataError, match=r"labels\.csv: line 2"):
        index(tmp_path)


def test_elpv_package_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(elpv_layout, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="not installed") as caught:
        index("elpv")
    assert "pip install" in str(caught.value.hint)


def test_check_disjoint() -> None:
    a = Record("a", Path("a.png"), unit="1")
    check_disjoint([a, Record("b", Path("b.png"), "test", unit="2"), Record("c", Path("a.png"), "held")])
    check_disjoint(
        [a, Record("b", Path("b.png"), "test", 1, unit="1"), Record("c", Path("c"), "test", 0, group="g", unit="1")]
    )
    for other, message in [
        (Record("a", Path("b.png")), "listed twice"),
        (Record("b", Path("b.png"), label=1), "anomalous and in the training split"),
        (Record("b", Path("a.png"), "test"), "the file is in train and in test"),
        (Record("b", Path("b.png"), "test", unit="1"), "unit '1'"),
    ]:
        with pytest.raises(DataError, match=message):
            check_disjoint([a, other])

"""What is taken for what, by names: of folders, of lists that lie beside images, of categories."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from blemish.data.layouts import check_named, folders, index
from blemish.data.layouts._common import plain_name
from blemish.data.layouts._names import meaning_of, opposed
from blemish.errors import DataError
from blemish.files import is_hidden
from tests.trees import by_id, put, put_text, sides

BAD = [
    *"nok NOK nOK NG N.G. n.i.O. NiO n.OK n_ok KO k.o. bad BAD2 badparts BadParts not_good not-ok NotGood".split(),
    *"no_good reject rejected scrap fail failed faulty broken crack crack-01 scratch dent hole stain".split(),
    *"missing_part abnormal anomaly anomalies Anomalous defect DEFECT_01 defective_images non_conforming".split(),
    *"schlecht Schlechtteile Ausschuß fehler Fehlerbilder defekt défaut défauts 不良品 异常 불량".split(),
    *"ngimages test Test ground_truth masks".split(),
    "bad parts",
]
GOOD = [
    *"OK ok good Good GOOD normal Normal pass PASS i.O. iO IO O.K. train Train gut Gutteile good_parts".split(),
    *"GoodParts OK-2024 ok_01 good2 images_good defect-free defect_free DefectFree fehlerfrei no_defects".split(),
    *"flawless non_defective 良品 正常 정상".split(),
]
UNCLEAR = [
    *"2024-01-05 cam1 left day screw stainless_steel metal_nut hazelnut Nokia knob cable fabric wood A 7".split(),
    *"passage notch blemish bolt Nylon konus Angle".split(),
]


@pytest.mark.parametrize("name", BAD)
def test_names_of_what_is_not_good(name: str) -> None:
    assert meaning_of(name).bad
    assert not meaning_of(name).good


@pytest.mark.parametrize("name", GOOD)
def test_names_of_what_is_good(name: str) -> None:
    assert meaning_of(name) == (True, False, True)


@pytest.mark.parametrize("name", UNCLEAR)
def test_names_that_say_nothing(name: str) -> None:
    assert meaning_of(name) == (False, False, False)


@pytest.mark.parametrize("name", ["good_front", "ok-left", "normal_turned"])
def test_good_with_a_word_more_leaves_it_open(name: str) -> None:
    assert meaning_of(name) == (True, False, False)


def test_pairs_that_say_that_one_is_bad_but_not_which() -> None:
    for pair in (["0", "1"], ["class_0", "class_1"], ["Label0", "Label1"], ["00", "01"], ["yes", "No"]):
        assert opposed(pair), pair
    for others in (["cam0", "cam1"], ["0", "1", "2"], ["0"], ["a", "b"]):
        assert not opposed(others), others


@pytest.mark.parametrize("good", ["OK", "good", "normal", "pass", "i.O.", "train"])
@pytest.mark.parametrize("other", ["NG", "not_good", "bad parts", "2024-01", "rest", "val"])
def test_what_lies_beside_good_ones_has_to_say_that_it_is_good(good: str, other: str, tmp_path: Path) -> None:
    put(tmp_path, f"{good}/a.png", f"{other}/b.png")
    with pytest.raises(DataError, match=f"'{other}'") as caught:
        index(tmp_path)
    assert "give the folder of good images itself" in str(caught.value.hint)
    assert len(index(tmp_path / good)) == 1


@pytest.mark.parametrize(
    "files",
    [
        ["a.png", "good/b.png"],  # what lies beside the folder of good ones
        ["line1/good/a.png", "line1/x/b.png", "line2/good/c.png"],  # further down
        ["0/a.png", "1/b.png"],
        ["cam/class_0/a.png", "cam/class_1/b.png"],
        ["good/cam1/a.png", "good/cam1/scratches/b.png"],  # bad ones among good ones
    ],
)
def test_refused_wherever_it_lies(files: list[str], tmp_path: Path) -> None:
    put(tmp_path, *files)
    with pytest.raises(DataError) as caught:
        index(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("files", "summary"),
    [
        (["good/a.png", "good/b.png"], "good 2"),
        (["good_front/a.png", "OK 2/b.png"], "2 folders: OK 2 1, good_front 1"),
        (["good/mon/a.png", "good/tue/b.png"], "2 folders: mon 1, tue 1"),
        (["cam0/a.png", "cam1/b.png", "cam1/c.png"], "2 folders: cam0 1, cam1 2"),
        (["line1/good/a.png", "line2/b.png"], "2 folders: line1/good 1, line2 1"),
    ],
)
def test_what_is_learned_from_is_said(files: list[str], summary: str, tmp_path: Path) -> None:
    put(tmp_path / "set", *files)
    assert folders(index(tmp_path / "set")) == summary


def test_many_folders_are_counted(tmp_path: Path) -> None:
    put(tmp_path, *(f"day{i:02}/a.png" for i in range(20)))
    assert folders(index(tmp_path)).startswith("20 folders: day00 1, ")
    assert folders(index(tmp_path)).endswith("day07 1 and 12 more")


HIDDEN = [
    *(".ipynb_checkpoints .Trash-1000 __MACOSX @eaDir $RECYCLE.BIN lost+found #recycle".split()),
    "System Volume Information",
]


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_folders_are_left_out_and_counted(name: str, tmp_path: Path) -> None:
    assert is_hidden(name)
    put(tmp_path, "day/a.png", f"{name}/files/b.png", f"day/{name}/c.png")
    with pytest.warns(UserWarning, match="2 images in hidden or system folders are left out") as caught:
        records = index(tmp_path)
    assert [r.id for r in records] == ["day/a.png"]
    assert len(caught) == 1
    (tmp_path / "x").mkdir()
    put(tmp_path / "x", "train/good/a.png", f"test/{name}/b.png")
    assert [r.id for r in index(tmp_path / "x")] == ["train/good/a.png"]


LISTS = {
    "labels.csv": "filename,label\na.png,good\nb.png,defect\n",
    "annotations.csv": '"image";"Class"\r\n"images/a.png";"OK"\r\n"images\\b.png";"NG"\r\n',
    "labels.tsv": "id\tis_defect\nimg_a\t0\nb.png\t1\n",
    "index.txt": "a.png 0\nb.png 1\n",
    "plain.csv": "elsewhere.png,good\nb.png,scratch\n",
    "meta.jsonl": '{"file": "a.png", "target": 0}\n{"file": "b.png", "target": 1}\n',
}


def test_a_list_of_other_images_of_the_same_names_is_none_of_these(tmp_path: Path) -> None:
    put(tmp_path, "mine/abc.png", "test/bad/abc.png", "other/abc.png")
    put_text(tmp_path / "set.csv", "path,label\ntest/bad/abc.png,defect\n")
    put_text(tmp_path / "elsewhere.csv", "path,label\nC:\\data\\gone\\abc.png,defect\n")
    put_text(tmp_path / "whose.csv", "path,label\nabc.png,defect\n")  # that of mine, or of other
    assert len(index(tmp_path / "mine")) == 1
    put_text(tmp_path / "copied.csv", "path,label\n/home/somebody/mine/abc.png,defect\n")
    with pytest.raises(DataError, match=r"copied\.csv: says 'defect' of 1"):
        index(tmp_path / "mine")


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("where", ["", "images"])
@pytest.mark.parametrize("root", [".", "images"])
def test_a_list_that_calls_images_bad_is_not_passed_over(name: str, where: str, root: str, tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "images/b.png")
    put_text(tmp_path / where / name, LISTS[name])
    with pytest.raises(DataError, match=rf"{name}: says '.*' of 1 images") as caught:
        index(tmp_path / root)
    assert "manifest" in str(caught.value.hint)


def test_a_list_in_the_coding_of_a_table_program(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png")
    (tmp_path / "labels.txt").write_bytes("name\tresult\na.png\tFAIL\n".encode("utf-16"))
    with pytest.raises(DataError, match="'FAIL' of 1"):
        index(tmp_path)


def test_lists_that_say_nothing_against_it_do_not_disturb(tmp_path: Path) -> None:
    put(tmp_path, "images/1.png", "images/abc.png")
    put_text(tmp_path / "labels.csv", "filename,label\nabc.png,good\nother.png,defect\n")
    put_text(tmp_path / "measured.csv", "class,count\n1,5\n2,1\n")
    put_text(tmp_path / "times.csv", "filename,seconds\nabc.png,1\n")
    put_text(tmp_path / "README.txt", "These are pictures of good parts.\n\n")
    (tmp_path / "odd.csv").write_bytes(bytes(range(256)))
    assert len(index(tmp_path)) == 2


def test_labels_that_are_not_understood_are_told(tmp_path: Path) -> None:
    put(tmp_path, "images/abc.png", "images/abd.png")
    put_text(tmp_path / "labels.csv", "filename,class\nabc.png,B7\nabd.png,B9\n")
    with pytest.warns(UserWarning, match="labels that are not read: 'B7', 'B9'"):
        assert len(index(tmp_path)) == 2


def test_recordings_and_clouds_are_refused_alike(tmp_path: Path) -> None:
    for folder in ("good", "nok"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", np.zeros((500, 3), np.float32))
    for kind, layout in (("cloud", "clouds"), ("signal", "recordings")):
        with pytest.raises(DataError, match=rf"does not sound like good [\w ]*{layout}: 'nok'"):
            index(tmp_path, layout, kind=kind)


def test_files_listed_by_hand_keep_the_rule(tmp_path: Path) -> None:
    put(tmp_path, "good/a.png", "more/b.png", "NG/c.png")
    check_named([tmp_path / "good/a.png", tmp_path / "more/b.png"])
    check_named([tmp_path / "NG/c.png"])  # all of one folder: who names it means it
    with pytest.raises(DataError, match="'NG'"):
        check_named([tmp_path / "good/a.png", tmp_path / "NG/c.png"])
    with pytest.raises(DataError, match="lies in a folder '.cache'"):
        check_named([tmp_path / "a.png", tmp_path / ".cache" / "b.png"])


# data sets


@pytest.mark.parametrize("name", ["OK", "ok", "Good", "normal", "PASS", "i.O."])
def test_good_test_images_by_other_names(name: str, tmp_path: Path) -> None:
    put(tmp_path, "train/good/0.png", f"test/{name}/1.png", "test/crack/2.png", "ground_truth/crack/2_mask.png")
    records = by_id(index(tmp_path))
    assert sides(list(records.values())) == {("train", 0): 1, ("test", 0): 1, ("test", 1): 1}
    assert records[f"test/{name}/1.png"].defect is None
    assert records["test/crack/2.png"].mask is not None


@pytest.mark.parametrize(
    ("train", "test", "truth", "bad"),
    [("Train/Good", "TEST/Good", "Ground_Truth", "Crack"), ("train/OK", "test/OK", "ground_truth", "crack")],
)
def test_a_data_set_in_capitals(train: str, test: str, truth: str, bad: str, tmp_path: Path) -> None:
    put(tmp_path, f"{train}/0.png", f"{test}/1.png", f"{Path(test).parent}/{bad}/2.png", f"{truth}/crack/2_mask.png")
    records = index(tmp_path)
    assert sides(records) == {("train", 0): 1, ("test", 0): 1, ("test", 1): 1}
    assert [r.defect for r in records if r.mask] == [bad]


def test_other_layouts_know_good_by_other_names_too(tmp_path: Path) -> None:
    put(tmp_path / "loco", "Train/OK/0.png", "test/normal/0.png", "test/Logical_Anomalies/0.png")
    put(tmp_path / "loco", "ground_truth/logical_anomalies/0/000.png")
    loco = index(tmp_path / "loco")
    assert sides(loco) == {("train", 0): 1, ("test", 0): 1, ("test", 1): 1}
    assert loco[1].mask is not None
    put(tmp_path / "3d", "Train/OK/rgb/0.png", "TEST/ok/rgb/0.png", "TEST/hole/rgb/0.png", "TEST/hole/gt/0.png")
    scans = index(tmp_path / "3d")
    assert sides(scans) == {("train", 0): 1, ("test", 0): 1, ("test", 1): 1}
    put(tmp_path / "btad", "TRAIN/OK/0.png", "TEST/OK/0.png", "TEST/KO/1.png", "ground_truth/ko/1.png")
    found = index(tmp_path / "btad")
    assert (sides(found), found[0].mask is not None) == ({("train", 0): 1, ("test", 0): 1, ("test", 1): 1}, True)


def test_more_defects_than_btad_knows_are_not_lost(tmp_path: Path) -> None:
    put(tmp_path, "train/ok/0.png", "test/ok/1.png", "test/ko/2.png", "test/crack/3.png")
    assert sides(index(tmp_path)) == {("train", 0): 1, ("test", 0): 1, ("test", 1): 2}


def test_a_test_folder_that_may_be_either_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/good/0.png", "test/good/1.png", "test/good_turned/2.png")
    with pytest.raises(DataError, match="good_turned: may hold good samples or defective ones"):
        index(tmp_path)


def test_what_is_not_used_of_a_data_set_is_told(tmp_path: Path) -> None:
    put(tmp_path, "train/good/0.png", "train/stray.png", "train/rest/1.png", "train/crack/1.png", "test/good/1.png")
    with pytest.warns(UserWarning, match="folder 'crack', folder 'rest', files that lie in no folder") as caught:
        records = index(tmp_path)
    assert sides(records) == {("train", 0): 1, ("test", 0): 1}
    assert len(caught) == 1


def test_two_folders_that_differ_in_case_alone(tmp_path: Path) -> None:
    put(tmp_path, "train/good/0.png", "Train/good/1.png")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system does not tell capitals")
    with pytest.raises(DataError, match="'Train', 'train'"):
        index(tmp_path)


def test_masks_that_match_no_image_are_named(tmp_path: Path) -> None:
    put(tmp_path, "train/good/0.png", "test/good/1.png", "test/dent/2.png", "test/dent/3.png")
    put(tmp_path, "ground_truth/dent/2_mask.png", "ground_truth/dent/3_gt.png")
    with pytest.warns(UserWarning, match=r"dent: 1 masks match no image of dent: '3_gt\.png'"):
        records = by_id(index(tmp_path))
    assert records["test/dent/3.png"].mask is None
    (tmp_path / "ground_truth/dent/3_gt.png").rename(tmp_path / "ground_truth/dent/3_mask.png")
    (tmp_path / "test/dent").rename(tmp_path / "test/dents")
    with pytest.warns(UserWarning, match="belong to no folder of test samples: 'dent'"):
        index(tmp_path)


# names that become folders

NOT_PLAIN = [
    *("../../x ../x .. . /abs a/b a\\b C:x CON nul.txt Com1 lpt9 x. .x a:b a*b a?b <a> a|b".split()),
    *(" ", "a\nb", "a\x00b", "x" * 101),
]


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_names_that_are_no_plain_ones(name: str) -> None:
    with pytest.raises(ValueError, match="plain name|longer than"):
        plain_name(name, "group")


@pytest.mark.parametrize("name", ["a", "metal nut", "01", "Gehäuse-links", "x.y", "部品", "console", "com10"])
def test_plain_names(name: str) -> None:
    assert plain_name(name, "group") == name


@pytest.mark.parametrize("name", ["../../escaped", "/escaped", "a\\b", "..", "NUL", "x."])
def test_a_group_never_leaves_its_folder(name: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    rows = [{"path": "a.png", "group": "a"}, {"path": "b.png", "group": name}]
    put_text(tmp_path / "m.jsonl", "\n".join(map(json.dumps, rows)))
    put_text(tmp_path / "m.csv", f"path,group\na.png,a\nb.png,{name}\n")
    for file, line in (("m.jsonl", 2), ("m.csv", 3)):
        with pytest.raises(DataError, match=rf"{file}: line {line}: group .* is no plain name"):
            index(tmp_path / file)


def test_categories_of_published_lists_are_plain_too(tmp_path: Path) -> None:
    put(tmp_path / "v", "a.png")
    put_text(tmp_path / "v/split_csv/1cls.csv", "object,split,label,image,mask\n../x,train,normal,a.png,\n")
    with pytest.raises(DataError, match=r"1cls\.csv: line 2: object '\.\./x'"):
        index(tmp_path / "v")
    put(tmp_path / "r", "realiad_256/c/OK/S1/c_1_OK_C1_2.jpg")
    entry = {"image_path": "OK/S1/c_1_OK_C1_2.jpg", "mask_path": None, "anomaly_class": "OK", "category": "../x"}
    put_text(tmp_path / "r/realiad_jsons/c.json", json.dumps({"meta": {}, "train": [entry], "test": []}))
    with pytest.raises(DataError, match=r"c\.json: category '\.\./x'"):
        index(tmp_path / "r")


def test_groups_that_differ_in_case_alone_are_one_folder(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    with pytest.raises(DataError, match="line 3: group 'Nut' was 'nut' before"):
        index(put_text(tmp_path / "m.csv", "path,group\na.png,nut\nb.png,Nut\n"))

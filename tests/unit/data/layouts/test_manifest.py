"""Lists of images as CSV and JSON lines: what each column says, and which line is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from blemish.data.image.decode import read_image
from blemish.data.layouts import index
from blemish.errors import DataError
from tests.trees import by_id, put, put_text, sides

ROWS = [
    {"path": "a.png", "split": "train", "label": "good", "unit": "u1", "group": "x", "view": "top"},
    {"path": "sub/b.png", "split": "test", "label": "0", "unit": "u2", "group": "x", "view": ""},
    {"path": "sub/c.png", "split": "test", "label": "1", "mask": "m/1.png;m/2.png", "defect": "dent", "group": "y"},
    {"path": "d.png", "split": "held", "label": "good", "note": "a column of their own"},
]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_manifest(suffix: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png", "sub/b.png", "sub/c.png", "d.png", "m/1.png", "m/2.png")
    columns = ["path", "split", "label", "mask", "defect", "group", "unit", "view", "note"]
    if suffix == "csv":
        lines = [",".join(columns), *(",".join(row.get(c, "") for c in columns) for row in ROWS)]
        text = "\ufeff" + "\r\n".join(lines)
    else:
        two = {**ROWS[2], "label": 1, "mask": ["m/1.png", "m/2.png"]}
        text = "\n".join(json.dumps(row) for row in [*ROWS[:2], two, ROWS[3]]) + "\n\n"
    path = put_text(tmp_path / f"list.{suffix}", text)
    with pytest.warns(UserWarning, match=r"list\..*: columns that are not known are ignored: 'note'$") as caught:
        records = by_id(index(path))
    assert len(caught) == 1  # for the file, not for each line
    assert len(records) == 4
    assert records["sub/c.png"].mask == (tmp_path / "m/1.png", tmp_path / "m/2.png")
    assert records["sub/c.png"].defect == "dent"
    first = records["a.png"]
    assert (first.split, first.label, first.group, first.unit, first.view) == ("train", 0, "x", "u1", "top")
    assert records["sub/b.png"].view is None
    assert records["d.png"].split == "held"


def test_manifest_needs_only_paths_and_may_lie_elsewhere(tmp_path: Path) -> None:
    put(tmp_path, "img/a.png", "img/b.png", "m.png")
    path = put_text(tmp_path / "lists/x.csv", "defect,path\n,../img/a.png\ndent,../img/b.png\n")
    records = index(path)
    assert sides(records) == {("train", 0): 1, ("test", 1): 1}
    assert read_image(records[0].path).shape == (4, 5)
    put_text(tmp_path / "manifest.jsonl", '{"path": "img/a.png"}\n{"path": "img/b.png", "mask": "m.png"}')
    record = by_id(index(tmp_path))["img/b.png"]
    assert (record.label, record.mask) == (1, tmp_path / "m.png")


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("a.csv", "path,label\na.png,0\nb.png,maybe\n", r"line 3: label 'maybe'"),
        ("a.csv", "path,split\na.png,training\n", r"line 2: split 'training'"),
        ("a.csv", "path\na.png\nz.png\n", r"line 3: no such file: z\.png"),
        ("a.csv", "path,mask\na.png,z.png\n", r"line 2: no such file"),
        ("a.csv", "path\na.png\na.png\n", r"line 3: 'a\.png' is listed twice"),
        ("a.csv", "path,label,split\na.png,1,train\n", r"line 2: an anomalous sample"),
        ("a.csv", "path\na.png,b.png\n", r"line 2: more values"),
        ("a.csv", "path,label\n,0\n", r"line 2: no path"),
        ("a.csv", "file\na.png\n", r"line 1: no column 'path'"),
        ("a.csv", "", r"line 1: no column"),
        ("a.csv", "path,defect\na.png,\nb.png,none\n", r"line 3: defect 'none' may mean none"),
        ("a.csv", "path,label,defect\na.png,0,dent\n", r"line 2: label '0', and defect 'dent'"),
        ("a.csv", "path,label,defect\na.png,1,good\n", r"line 2: label '1', and defect 'good'"),
        ("a.csv", "path,label, Label\na.png,0,1\n", r"line 2: column 'label' is there twice"),
        ("a.csv", "path;label\na.png;0\n", r"line 1: no column 'path' in the header: commas separate columns"),
        ("a.csv", "filename,label\na.png,0\n", r"line 1: no column 'path' in the header: 'filename' is none"),
        ("a.jsonl", '{"path": "a.png", "label": 0, "label": 1}\n', r"line 1: column 'label' is there twice"),
        ("a.jsonl", '{"path": "a.png"}\n{"path"\n', r"line 2"),
        ("a.jsonl", '"a.png"\n', r"line 1: not a JSON object"),
        ("a.jsonl", '{"path": "a.png"}\n\n{"label": 0}\n', r"line 3: no path"),
    ],
)
def test_manifest_bad_rows_name_file_and_line(name: str, text: str, where: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    with pytest.raises(DataError, match=rf"{name}: {where}") as caught:
        index(put_text(tmp_path / name, text))
    assert caught.value.hint


HEADERS = ["path,label,split", " path , label , split ", "Path,LABEL,Split", "\ufeffpath,label,split"]


@pytest.mark.parametrize("head", [*HEADERS, '"path","label","split"', "path, \"label\", 'split'", "\npath,label,split"])
def test_names_of_columns_are_stripped_and_folded(head: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    rows = ["a.png, good , train", 'b.png, "anomalous", Test']
    records = index(put_text(tmp_path / "m.csv", "\n".join([head, *rows])))
    assert sides(records) == {("train", 0): 1, ("test", 1): 1}
    keys = [name.strip("\ufeff\n\"' ") for name in head.split(",")]
    lines = [dict(zip(keys, (v.strip(' "') for v in row.split(",")), strict=True)) for row in rows]
    lines = [{f" {k.upper()}": v for k, v in line.items()} for line in lines]
    assert index(put_text(tmp_path / "m.jsonl", "\n".join(map(json.dumps, lines)))) == records


@pytest.mark.parametrize(
    ("name", "column"),
    [
        *((name, "label") for name in ("lable", "labels", "class", "Class_Name", "target", "y", "is defective", "nok")),
        *((name, "split") for name in ("set", "subset", "spilt", "splits")),
        *((name, "mask") for name in ("masks", "mask_path", "ground-truth", "maks")),
        *((name, "group") for name in ("category", "product", "gruop")),
        *((name, "unit") for name in ("patient_id", "units")),
        *((name, "defect") for name in ("defect_type", "defcet")),
        *((name, "view") for name in ("veiw", "views")),
    ],
)
def test_a_column_that_may_mean_a_known_one_is_refused(name: str, column: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    row = json.dumps({"path": "a.png", name: "1"})
    for file in (put_text(tmp_path / "m.csv", f"path,{name}\na.png,1\n"), put_text(tmp_path / "m.jsonl", row)):
        with pytest.raises(DataError, match=f"column '{name}' is not known") as caught:
            index(file)
        assert f"did you mean '{column}'?" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["good", "is_ok", "OK"])
def test_a_column_that_means_the_contrary_is_not_to_be_renamed(name: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    with pytest.raises(DataError, match=f"column '{name}' is not known") as caught:
        index(put_text(tmp_path / "m.csv", f"path,{name}\na.png,1\n"))
    assert "good or anomalous" in str(caught.value.hint)


def test_columns_of_their_own_are_named_where_nothing_is_missing(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    text = "path,label,class,part,operator,\na.png,good,B7,1,x,\nb.png,1,B7,2,y,\n"
    with pytest.warns(UserWarning, match=r"ignored: 'class', 'part', 'operator', '\(without a name\)'"):
        assert sides(index(put_text(tmp_path / "m.csv", text))) == {("train", 0): 1, ("test", 1): 1}


def test_a_word_for_good_is_no_defect(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png")
    records = index(put_text(tmp_path / "m.csv", "path,defect\na.png,OK\nb.png,good\nc.png,dent\n"))
    assert [(r.label, r.defect) for r in records] == [(0, None), (0, None), (1, "dent")]


def test_manifest_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"a\.csv"):
        index(tmp_path / "a.csv")


@pytest.mark.parametrize("rows", [
    "path,label\na.png,good\nb.png,anomalous\nc.png,\n",
    '{"path": "a.png", "label": 0}\n{"path": "b.png", "label": 1}\n{"path": "c.png", "class": "anomaly"}\n',
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*columns that are not known")
def test_a_sample_without_a_label_among_labelled_ones_is_not_taken_for_good(tmp_path: Path, rows: str) -> None:
    for name in "abc":
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    path = tmp_path / ("list.jsonl" if rows.startswith("{") else "list.csv")
    path.write_text(rows)
    with pytest.raises(DataError, match=r"line [34]: has no label, and others are good or anomalous"):
        index(path)

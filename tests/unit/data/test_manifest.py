"""Lists of images as CSV and JSON lines: what each column says, and which line is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blemish.data.decode import read_image
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
    records = by_id(index(path))
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


def test_manifest_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"a\.csv"):
        index(tmp_path / "a.csv")

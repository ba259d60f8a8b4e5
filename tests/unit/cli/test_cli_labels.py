"""Label files of `inspect`, and the command `export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.inspection import modelfile
from tests.fakes import good_image
from tests.tiny import fit_tiny
from tests.unit.data.test_outlines import filled

pytestmark = pytest.mark.slow
SHAPE = (96, 128)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    modelfile.save(fit_tiny(folder / "fit", method="patchcore"), folder / "m")
    return folder / "m"


def marked(seed: int, corner: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    image = good_image(seed).repeat(2, 0).repeat(2, 1)  # twice the size of the model's input
    mask = np.zeros(SHAPE, bool)
    mask[corner[0] : corner[0] + 12, corner[1] : corner[1] + 12] = True
    image[mask] = 255
    return image, mask


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two with a defect, of one name in two folders, one called as YOLO's list, and one that is none."""
    folder = tmp_path / "in"
    for name, seed, corner in (("a/one.png", 30, (8, 12)), ("b/one.png", 31, (50, 80)), ("classes.png", 32, (30, 40))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), marked(seed, corner)[0])
    (folder / "b" / "damaged.png").write_bytes(b"no picture")
    return folder


def test_coco_yolo_and_masks_say_where_the_regions_are(model: Path, pictures: Path, tmp_path: Path, run: Any) -> None:
    coco, raw = tmp_path / "labels.json", tmp_path / "raw"
    done = run("inspect", model, pictures, "--labels", "coco", coco, "--masks", tmp_path / "masks", "--raw-maps", raw)
    assert done.code == 1  # the damaged one
    rows = {row["image_path"]: row for row in done.rows}
    value = json.loads(coco.read_text())
    assert value["categories"] == [{"id": 1, "name": "anomaly", "supercategory": ""}]
    assert (value["info"]["pictures"], value["info"]["of"]) == (3, 4)
    assert [image["file_name"] for image in value["images"]] == ["a/one.png", "b/one.png", "classes.png"]
    threshold = modelfile.load(model).calibrators["f32"].map_threshold
    corners = {"a/one.png": (8, 12), "b/one.png": (50, 80), "classes.png": (30, 40)}
    for image in value["images"]:
        name = image["file_name"]
        assert (image["height"], image["width"]) == SHAPE
        assert image["pred_score"] == rows[str(pictures / name)]["pred_score"]
        mask = cv2.imread(str(tmp_path / "masks" / name), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(mask)) == {0, 255}
        found = [a for a in value["annotations"] if a["image_id"] == image["id"]]
        union = np.zeros(SHAPE, int)
        for annotation in found:
            area = sum((filled(p, SHAPE).astype(int) for p in annotation["segmentation"]), np.zeros(SHAPE, int))
            ys, xs = np.nonzero(area)
            x, y, w, h = annotation["bbox"]
            assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x, y, x + w, y + h)
            assert annotation["area"] == area.sum()
            assert (annotation["category_id"], annotation["iscrowd"]) == (1, 0)
            union += area
        assert (union == (mask > 0)).all()
        if modelfile.load(model).meta.precision == "f32":
            assert ((mask > 0) == (np.load(raw / name.replace(".png", ".npy")) > threshold)).all()
        y, x = corners[name]
        assert mask[y + 4 : y + 8, x + 4 : x + 8].all()  # the defect is in it
    assert len({a["id"] for a in value["annotations"]}) == len(value["annotations"])

    done = run("inspect", model, pictures, "--labels", "yolo", tmp_path / "yolo")
    assert (tmp_path / "yolo" / "classes.txt").read_text() == "anomaly\n"
    for image in value["images"]:
        lines = (tmp_path / "yolo" / "labels" / image["file_name"]).with_suffix(".txt").read_text().splitlines()
        boxes = []
        for line in lines:
            kind, *shares = line.split(" ")
            assert kind == "0"
            cx, cy, w, h = (float(s) * side for s, side in zip(shares, SHAPE[::-1] * 2, strict=True))
            boxes.append([round(v, 3) for v in (cx - w / 2, cy - h / 2, w, h)])
        assert boxes == [a["bbox"] for a in value["annotations"] if a["image_id"] == image["id"]]


def test_a_picture_without_regions_has_an_empty_file(model: Path, tmp_path: Path, run: Any) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "good.png"), good_image(3)[..., ::-1])
    assert run("inspect", model, tmp_path / "in", "--labels", "yolo", tmp_path / "yolo").rows[0]["regions"] == []
    assert (tmp_path / "yolo" / "labels" / "good.txt").read_text() == ""
    assert run("inspect", model, tmp_path / "in", "--labels", "coco", tmp_path / "c.json").code == 0
    assert json.loads((tmp_path / "c.json").read_text())["annotations"] == []


def test_labels_replace_what_blemish_wrote_and_nothing_else(
    model: Path, pictures: Path, tmp_path: Path, run: Any
) -> None:
    mine = {"c.json": '{"images": []}', "yolo/labels/classes.txt": "mine", "masks/a/one.png": "mine"}
    for name, text in mine.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for options in (
        ("--labels", "coco", tmp_path / "c.json"),
        ("--labels", "yolo", tmp_path / "yolo"),
        ("--masks", tmp_path / "masks"),
        ("--masks", tmp_path / "same", "--maps", tmp_path / "same"),
        ("--labels", "coco", pictures / "c.json"),
        ("--masks", pictures / "masks"),
    ):
        done = run("inspect", model, pictures, *options)
        assert (done.code, done.out) == (1, ""), options
        assert "hint:" in done.err
    assert {name: (tmp_path / name).read_text() for name in mine} == mine
    for _ in range(2):  # the second run replaces the files of the first
        assert run("inspect", model, pictures / "a", "--labels", "coco", tmp_path / "ours.json").code == 0
        assert run("inspect", model, pictures / "a", "--labels", "yolo", tmp_path / "ours").code == 0


def test_what_marks_nothing_is_refused(model: Path, pictures: Path, tmp_path: Path, run: Any) -> None:
    from dataclasses import replace

    modelfile.save(replace(modelfile.load(model), calibrators={}), tmp_path / "bare")
    for place in (("--masks", tmp_path / "masks"), ("--labels", "yolo", tmp_path / "yolo")):
        done = run("inspect", tmp_path / "bare", pictures, *place)
        assert (done.code, done.out) == (2, "")
        assert "threshold" in done.err
        assert not place[-1].exists()
    done = run("inspect", model, pictures, "--engine", "ray", "--out", tmp_path / "o", "--masks", tmp_path / "masks")
    assert done.code == 2
    assert "--masks" in done.err


def test_export_writes_a_folder_and_says_what(model: Path, tmp_path: Path, run: Any) -> None:
    cv2.imwrite(str(tmp_path / "good.png"), good_image(3)[..., ::-1])
    done = run("export", model, "--out", tmp_path / "out", "--runtime", "openvino", "--golden", tmp_path / "good.png")
    assert done.code == 0
    assert {"runtime": "openvino", "precision": "f32", "golden": 5}.items() <= done.rows[0].items()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"graph.xml", "graph.bin", "pipeline.json", "golden", "inspect_picture.py", "prepare.hpp"} <= names
    assert "InspectPicture.cs" not in names
    assert run("export", model, "--out", tmp_path / "out").code == 1  # it is taken
    for options in (("--int8",), ("--calibration", tmp_path), ("--runtime", "tensorrt")):
        assert run("export", model, "--out", tmp_path / "new", *options).code == 2
    assert not (tmp_path / "new").exists()


def test_export_in_int8_with_its_progress(
    model: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from blemish.inspection import int8

    monkeypatch.setattr(int8, "timed", lambda runs, _: {"f32": 1.0, "int8": 1.5})
    (tmp_path / "fresh").mkdir()
    for number in range(30):
        cv2.imwrite(str(tmp_path / "fresh" / f"{number}.png"), good_image(7000 + number)[..., ::-1])
    done = run("export", model, "--out", tmp_path / "out", "--int8", "--calibration", tmp_path / "fresh")
    assert (done.code, done.out) == (1, "")
    assert "1.50 of the time" in done.err
    assert not (tmp_path / "out").exists()

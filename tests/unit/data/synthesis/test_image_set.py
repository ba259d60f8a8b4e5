"""The studio of defects on images: what is written, that nothing else changes, and what chance depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from blemish.data import layouts
from blemish.data.image.decode import read_image, read_mask
from blemish.data.synthesis.contact_sheet import contact_sheet
from blemish.data.synthesis.image_set import KINDS, StudioOptions, damage, defects, maker
from blemish.errors import ConfigError, DataError
from tests.fakes import good_image, write_images, write_mvtec


def run(kind: str, source: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    return list(defects(kind, source, out, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_outside_the_mask_an_image_keeps_its_bits(tmp_path: Path, kind: str) -> None:
    write_images(tmp_path / "good", 3)
    rows = run(kind, tmp_path / "good", tmp_path / "out", count=2)
    assert [Path(r["path"]).name for r in rows] == [f"{i:03d}_{k}.png" for i in range(3) for k in range(2)]
    for row in rows:
        before, after = read_image(row["source"]), read_image(row["path"])
        mask = read_mask(row["mask"], before.shape[:2])
        assert np.array_equal(before[~mask], after[~mask])
        assert (before[mask] != after[mask]).any()
        assert row["share"] == pytest.approx(mask.mean())
        assert row["error"] is None
        assert Path(row["good"]).read_bytes() == Path(row["source"]).read_bytes()
    assert read_image(tmp_path / "out" / "sheet.png").shape[2] == 3


def test_what_is_written_is_a_test_set(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 3)
    run("perlin", tmp_path / "good", tmp_path / "out", picture=False)
    run("cutpaste", tmp_path / "good", tmp_path / "out", picture=False)
    records = layouts.index(tmp_path / "out")
    assert sorted((r.defect or "good", r.label, r.split) for r in records) == (
        [("cutpaste", 1, "test")] * 3 + [("good", 0, "test")] * 3 + [("perlin", 1, "test")] * 3
    )
    assert all(r.mask is not None and r.mask.is_file() for r in records if r.label)
    assert not (tmp_path / "out" / "sheet.png").exists()


def test_an_output_depends_on_its_own_image_alone(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 4)
    write_images(tmp_path / "fewer", 1, first=2)
    all_ = {Path(r["path"]).name: r for r in run("texture", tmp_path / "good", tmp_path / "a", threads=3)}
    again = {Path(r["path"]).name: r for r in run("texture", tmp_path / "good", tmp_path / "b")}
    (alone,) = run("texture", tmp_path / "fewer", tmp_path / "c")
    (single,) = run("texture", tmp_path / "good" / "002.png", tmp_path / "d")
    for name, row in all_.items():
        assert Path(row["path"]).read_bytes() == Path(again[name]["path"]).read_bytes()
    for row in (alone, single):
        assert Path(row["path"]).read_bytes() == Path(all_["002.png"]["path"]).read_bytes()
    (other,) = run("texture", tmp_path / "fewer", tmp_path / "e", seed=1)
    assert Path(other["path"]).read_bytes() != Path(alone["path"]).read_bytes()


def test_of_a_data_set_the_good_test_images_are_taken(tmp_path: Path) -> None:
    write_mvtec(tmp_path / "set", train=5, test=3)
    rows = run("perlin", tmp_path / "set", tmp_path / "out")
    assert {Path(r["source"]).parent for r in rows} == {tmp_path / "set" / "test" / "good"}
    assert len(run("perlin", tmp_path / "set", tmp_path / "few", images=2)) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", ["grey", "grey16", "colour16", "float"])
def test_grey_and_deep_images_keep_their_kind(kind: str, depth: str) -> None:
    image: Any = good_image(0, (96, 128))
    if "16" in depth:
        image = image.astype(np.uint16) * 200 + np.arange(128, dtype=np.uint16)[None, :, None]
    if depth == "float":
        image = image.astype(np.float32) / 255 - 0.2
    if "colour" not in depth:
        image = np.ascontiguousarray(image[:, :, 0])
    changed, mask = damage(image, maker(kind, StudioOptions()), np.random.default_rng(3))
    assert (changed.dtype, changed.shape) == (image.dtype, image.shape)
    assert np.array_equal(changed[~mask], image[~mask])
    assert (changed[mask] != image[mask]).mean() > 0.4
    assert np.isfinite(changed.astype(float)).all()


def test_files_that_are_deep_stay_deep(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), good_image(0)[:, :, 0].astype(np.uint16) * 250)
    Image.fromarray(good_image(1)[:, :, 0].astype(np.float32) / 7).save(tmp_path / "in" / "b.tiff")
    deep, real = run("perlin", tmp_path / "in", tmp_path / "out")
    assert read_image(deep["path"]).dtype == np.uint16
    assert (read_image(real["path"]).dtype, Path(real["path"]).suffix) == (np.float32, ".tiff")


def test_options_do_what_they_say() -> None:
    image = good_image(0, (128, 128))

    def mean(kind: str, **options: Any) -> tuple[float, float]:
        shares, changes = [], []
        for seed in range(12):
            changed, mask = damage(image, maker(kind, StudioOptions(**options)), np.random.default_rng(seed))
            shares.append(mask.mean())
            changes.append(np.abs(changed[mask].astype(float) - image[mask]).mean())
        return float(np.mean(shares)), float(np.mean(changes))

    assert mean("perlin", area=(0.01, 0.02))[0] < 0.021
    assert mean("perlin", area=(0.2, 0.3))[0] > 0.19
    assert mean("texture", shape=("box",), area=(0.3, 0.31))[0] == pytest.approx(0.305, abs=0.02)
    assert mean("texture", shape=("thread",))[0] < 0.02
    assert mean("perlin", opacity=(0.2, 0.3))[1] < 0.6 * mean("perlin", opacity=(0.9, 1.0))[1]
    assert mean("perlin", threshold=0.7)[0] < mean("perlin", threshold=0.3)[0]
    white = (np.full((64, 64, 3), 255, np.uint8),)
    changed, mask = damage(
        image, maker("perlin", StudioOptions(opacity=(1, 1), textures=white)), np.random.default_rng(0)
    )
    assert changed[mask].min() > 200


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("perlin", {"area": (0.5, 0.1)}, "a mask of 0.5 to 0.1"),
        ("perlin", {"threshold": 2.0}, "'threshold': 2 is not between"),
        ("perlin", {"finest": 12}, "'finest': 12"),
        ("perlin", {"opacity": (0.9, 0.1)}, "opacity"),
        ("perlin", {"variant": ("patch",)}, "'variant' means nothing to perlin"),
        ("texture", {"shape": ("star",)}, "no shape 'star'"),
        ("texture", {"area": (0.1, 2.0)}, "'area'"),
        ("cutpaste", {"variant": ("scra",)}, "unknown kind of defect 'scra'"),
        ("cutpaste", {"opacity": (0.1, 0.2)}, "'opacity' means nothing to cutpaste"),
        ("graded", {"opacity": (0.1, 0.2)}, "'opacity' means nothing to graded"),
        ("graded", {"area": (0.1, 2.0)}, "'area'"),
        ("perlim", {}, "no kind of defect 'perlim'"),
    ],
)
def test_options_that_make_no_sense_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        maker(kind, StudioOptions(**options))


def test_a_broken_image_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 2)
    (tmp_path / "good" / "001.png").write_bytes(b"no image")
    rows = run("perlin", tmp_path / "good", tmp_path / "out")
    assert [r["error"] is None for r in rows] == [True, False]
    assert "001.png" in rows[1]["error"]
    with pytest.raises(DataError, match=r"001\.png"):
        run("perlin", tmp_path / "good" / "001.png", tmp_path / "single")


def test_a_sheet_holds_a_card_for_each_row() -> None:
    picture = np.full((20, 40, 3), 200, np.uint8)
    one, four = (
        contact_sheet("Title", "below", ["a", "b"], [("x" * 300, [picture] * 2)] * n, across=2) for n in (1, 4)
    )
    assert four.shape[1] > 1.8 * one.shape[1] - 100
    assert four.shape[0] > one.shape[0]
    assert (one == 200).all(2).sum() > 2 * 200 * 100  # the pictures, made larger
    with pytest.raises(ConfigError, match="needs 2 pictures"):
        contact_sheet("Title", "", ["a", "b"], [("x", [picture])])

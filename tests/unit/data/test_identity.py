"""Which samples are the same: by what they show, whatever their files are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from blemish.data import identity
from blemish.data.cloud.formats import write_cloud
from blemish.data.cloud.modality import Clouds
from blemish.data.identity import image_id, pixels_id, values_id
from blemish.data.image.decode import read_image
from blemish.data.image.modality import Images
from blemish.data.signal.modality import Signals
from blemish.data.signal.recordings import values_digest
from blemish.files import read_file
from blemish.types import Cloud, Record

GREY = np.random.default_rng(0).integers(0, 256, (20, 31), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (20, 31, 3), np.uint8)


def content(path: Path) -> str:
    return Images.content(Record(path.name, path))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR])
def test_lossless_formats_hold_one_image(pixels: np.ndarray, suffix: str, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"b.{suffix}", **options)
    assert content(tmp_path / "a.png") == content(tmp_path / f"b.{suffix}")


def test_metadata_and_compression_change_nothing(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    note = PngImagePlugin.PngInfo()
    note.add_text("time", "12:00")
    Image.fromarray(COLOUR).save(tmp_path / "b.png", pnginfo=note, compress_level=0)
    Image.fromarray(COLOUR).save(tmp_path / "c.tif", compression="tiff_lzw")
    Image.fromarray(np.dstack([COLOUR, np.full(COLOUR.shape[:2], 255, np.uint8)])).save(tmp_path / "d.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(COLOUR))).save(tmp_path / "e.png", exif=turned)
    assert len({content(path) for path in tmp_path.iterdir()}) == 1


def test_the_type_of_the_values_changes_nothing() -> None:
    deep = GREY.astype(np.uint16)
    same = [deep, deep * 257, GREY.astype(np.float32), np.dstack([GREY] * 3), np.dstack([deep * 257] * 3)]
    assert {pixels_id(image) for image in same} == {pixels_id(GREY)}
    twelve = np.random.default_rng(2).integers(0, 4096, (20, 31), np.uint16)
    assert pixels_id(twelve) == pixels_id(twelve.astype(np.float32))


def test_other_pixels_are_another_image() -> None:
    one = GREY.copy()
    one[3, 4] ^= 1
    tinted = np.dstack([GREY] * 3)
    tinted[19, 30, 2] ^= 1  # a colour picture by one pixel in the last row
    shifted = GREY.astype(np.float32) - 0.5
    others = [GREY, one, tinted, shifted, GREY.T, GREY.reshape(31, 20), GREY.astype(np.uint16) * 16, -shifted]
    assert len({pixels_id(np.ascontiguousarray(image)) for image in others}) == len(others)


def test_an_image_is_decoded_once_for_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_ids", {})
    Image.fromarray(GREY).save(tmp_path / "a.png")
    data, decoded = read_file(tmp_path / "a.png"), []

    def decode() -> np.ndarray:
        decoded.append(1)
        return read_image(tmp_path / "a.png")

    assert image_id(data, decode) == image_id(data, decode) == pixels_id(GREY)
    assert len(decoded) == 1


def test_contents_come_in_order(tmp_path: Path) -> None:
    records = []
    for i in range(20):
        Image.fromarray(GREY + np.uint8(i)).save(tmp_path / f"{i:02}.png")
        records.append(Record(str(i), tmp_path / f"{i:02}.png"))
    assert list(Images.contents(records)) == [Images.content(record) for record in records]


def test_ids_tell_their_version_and_equal_numbers() -> None:
    assert values_id(GREY).startswith(identity.VERSION)
    zeros = np.array([0.0, -0.0, np.nan], np.float32)
    other = np.array([-0.0, 0.0, -np.nan], np.float32)
    assert values_id(zeros) == values_id(other)
    assert len({values_id("a", "bc"), values_id("ab", "c"), values_id(GREY), values_id(GREY, GREY)}) == 4


def test_a_recording_saved_again_is_the_same(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=(600, 2)).round(3).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "b.npy", np.asfortranarray(values))  # another header, other bytes
    np.save(tmp_path / "c.npy", values.astype(np.float64))
    np.save(tmp_path / "d.npy", values + 1)
    digests = [values_digest(tmp_path / f"{name}.npy") for name in "abcd"]
    assert digests[0] == digests[1] == digests[2] != digests[3]
    a, b = (Record(n, tmp_path / f"{n}.npy", span=(0, 300)) for n in "ab")
    assert Signals.content(a) == Signals.content(b) != Signals.content(replace(b, span=(300, 600)))
    assert Signals.file_content(a) != Signals.file_content(b)


def test_a_cloud_saved_again_is_the_same(tmp_path: Path) -> None:
    points = np.random.default_rng(4).normal(size=(200, 3)).astype(np.float32)
    write_cloud(tmp_path / "a.ply", Cloud(points))
    write_cloud(tmp_path / "b.pcd", Cloud(points))
    np.save(tmp_path / "c.npy", points.astype(np.float64))
    write_cloud(tmp_path / "d.ply", Cloud(points, fields={"intensity": np.ones(200, np.float32)}))
    write_cloud(tmp_path / "e.ply", Cloud(points * 2))
    ids = [Clouds.content(Record(path.name, path)) for path in sorted(tmp_path.iterdir())]
    assert len(set(ids[:4])) == 1
    assert ids[4] != ids[0]


def test_other_ways_to_keep_the_same_values_are_the_same_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    deep = np.random.default_rng(1).integers(0, 65536, (20, 30)).astype(np.uint16)
    for copy in (
        image.astype(np.uint16) * 256,
        image.astype(np.uint16) * 257,
        (image / 255).astype(np.float32),
        image / 255.0,
    ):
        assert pixels_id(copy) == pixels_id(image)
    assert pixels_id((deep / 65535).astype(np.float32)) == pixels_id(deep)
    assert pixels_id(image / 255.0 + 1e-4) != pixels_id(image)
    assert pixels_id(image.astype(np.uint16) * 200) != pixels_id(image)

"""Whatever lies in a folder of images: one clear error that names it, or a sound result."""

from __future__ import annotations

import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish.data import layouts
from blemish.errors import BlemishError, ConfigError, DataError
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model
from blemish.types import AnomalyResult
from tests.fakes import good_image, write_images
from tests.tiny import fit_tiny


def truncated(path: Path) -> None:
    Image.fromarray(good_image(0)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bomb(path: Path) -> None:
    """A header of 30,000 x 30,000 pixels, and hardly any behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def unreadable(path: Path) -> None:
    Image.fromarray(good_image(0)).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


def listening(path: Path) -> None:
    """What lies by its name where a program waits for others."""
    os.mknod(path, 0o600 | stat.S_IFSOCK)


def nan_tiff(path: Path) -> None:
    values = good_image(0)[:, :, 0].astype(np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(path, format="TIFF")


BAD: dict[str, Callable[[Path], object]] = {
    "truncated": truncated,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("this is no image\n"),
    "folder": lambda path: path.mkdir(),
    "bomb": bomb,
    "unreadable": unreadable,
    "nan": nan_tiff,
    "pipe": os.mkfifo,  # nobody writes to it: whoever opens it waits for ever
    "socket": listening,
    "dangling": lambda path: path.symlink_to("nowhere.png"),
    "animated": lambda path: Image.fromarray(good_image(0)).save(
        path, save_all=True, append_images=[Image.fromarray(good_image(1))]
    ),
    "pages": lambda path: Image.fromarray(good_image(0)).save(
        path, format="TIFF", save_all=True, append_images=[Image.fromarray(good_image(1))]
    ),
    "heic": lambda path: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0"),
}
ODD: dict[str, np.ndarray] = {
    "one_pixel": np.array([[[90, 120, 180]]], np.uint8),
    "one_row": good_image(0, (300, 1)).swapaxes(0, 1),
    "deep": good_image(0)[:, :, 0].astype(np.uint16) * 257,
    "grey": good_image(0)[:, :, 0],
    "large": good_image(0, (900, 1300)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return fit_tiny(tmp_path_factory.mktemp("tiny"))


def sound(result: AnomalyResult, shape: tuple[int, int]) -> None:
    assert result.anomaly_map.shape == shape
    assert np.isfinite(result.anomaly_map).all()
    assert np.isfinite(result.score)
    assert 0 < result.p_value <= 1  # type: ignore[operator]
    assert result.verdict in ("good", "anomalous")


@pytest.mark.parametrize("kind", BAD)
def test_inspect_names_a_bad_file(model: Model, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "part.png"
    BAD[kind](path)
    with pytest.raises(DataError) as caught:
        Inspector(model, threads=1).inspect(path)
    assert caught.value.path == path
    assert str(path) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("kind", BAD)
def test_a_run_goes_on_behind_a_bad_file(model: Model, tmp_path: Path, kind: str) -> None:
    good = write_images(tmp_path, 3)
    BAD[kind](tmp_path / "0005.png")
    paths = [good[0].path, tmp_path / "0005.png", good[1].path, good[2].path]
    for batch in (1, 3):
        line = Inspector(model, threads=2, batch=batch)
        first, second, *rest = line.inspect_many(paths, errors="yield")
        assert isinstance(second, DataError)
        for record, result in zip(good, (first, *rest), strict=True):
            assert result.image_path == str(record.path)
            sound(result, (48, 64))


@pytest.mark.parametrize("kind", BAD)
def test_fit_names_a_bad_file(tmp_path: Path, kind: str) -> None:
    write_images(tmp_path / "good", 3)
    BAD[kind](tmp_path / "good" / "bad.png")
    with pytest.raises(DataError, match=r"bad\.png"):
        fit_tiny(tmp_path, layouts.index(tmp_path / "good"), calibration="none")


@pytest.mark.parametrize("kind", ODD)
def test_odd_images_are_inspected(model: Model, tmp_path: Path, kind: str) -> None:
    Image.fromarray(ODD[kind]).save(tmp_path / "odd.png")
    line = Inspector(model, threads=1)
    from_file, from_array = line.inspect(tmp_path / "odd.png"), line.inspect(ODD[kind])
    sound(from_file, ODD[kind].shape[:2])
    assert from_file.score == from_array.score


@pytest.mark.parametrize("kind", ODD)
def test_odd_images_are_learned_from(tmp_path: Path, kind: str) -> None:
    (tmp_path / "good").mkdir()
    for i in range(3):
        Image.fromarray(ODD[kind]).save(tmp_path / "good" / f"{i}.png")
    with pytest.warns(UserWarning, match="2 of 3 images are copies"):
        model = fit_tiny(tmp_path, layouts.index(tmp_path / "good"), image_size="32", calibration="none")
    result = Inspector(model, threads=1).inspect(good_image(0))
    assert np.isfinite(result.score)
    assert np.isfinite(result.anomaly_map).all()


@pytest.mark.parametrize("value", [0, 120])
def test_pictures_that_show_nothing_are_not_learned_from(tmp_path: Path, value: int) -> None:
    (tmp_path / "good").mkdir()
    for i in range(3):
        Image.fromarray(np.full((48, 64 + i, 3), value, np.uint8)).save(tmp_path / "good" / f"{i}.png")
    with pytest.raises(DataError, match="the good images show nothing"):
        fit_tiny(tmp_path, layouts.index(tmp_path / "good"), image_size="32", calibration="none")


def test_a_black_picture_is_no_good_part(model: Model, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(DataError, match=r"black.png: its brightest value is 0 .* good images get \d+ of 255 bright"):
        Inspector(model, threads=1).inspect(tmp_path / "black.png")


@pytest.mark.parametrize("value", [
    np.full((8, 8), np.nan, np.float32), np.full((8, 8), np.inf), np.zeros((0, 8, 3), np.uint8), np.zeros((2, 3, 4, 5)),
    np.zeros(7), np.array([["a"]]), np.zeros((8, 8, 7), np.uint8), None, 7, object(), b"bytes",
], ids=lambda value: f"{type(value).__name__}{getattr(value, 'shape', '')}")  # fmt: skip
def test_values_that_are_no_images(model: Model, value: object) -> None:
    with pytest.raises(DataError):
        Inspector(model, threads=1).inspect(value)


@pytest.mark.parametrize("content", ["nothing", "text", "hidden"])
def test_a_folder_without_images(tmp_path: Path, content: str) -> None:
    if content != "nothing":
        (tmp_path / ("notes.txt" if content == "text" else ".photo.png")).write_text("x")
    with pytest.raises(DataError, match="no images found") as caught:
        layouts.index(tmp_path)
    assert caught.value.hint


def test_bad_sizes_of_a_line(model: Model) -> None:
    for batch in (0, -1):
        with pytest.raises(ConfigError, match="batch size"):
            Inspector(model, batch=batch)


def test_warnings_never_come_from_a_sound_image(model: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Inspector(model, threads=1).inspect(good_image(0))
    assert issubclass(DataError, BlemishError)

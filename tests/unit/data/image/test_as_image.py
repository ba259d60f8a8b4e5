"""Arrays, tensors, streams and uploads as images."""

from __future__ import annotations

import io
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish.data.image.decode import as_image, read_image, take_encoded
from blemish.errors import DataError
from tests.encoded import DEEP, GREY, RGB, RNG, encoded


class Upload:
    """A web framework's upload: a file inside, and nothing of `io`'s classes."""

    filename = "part.png"

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


class AsyncUpload(Upload):
    async def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        return self.file.read(size)


def streams(data: bytes, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "s.png"
    path.write_bytes(data)
    spooled = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    spooled.write(data)  # stands at its end
    return {
        "bytes": data, "bytearray": bytearray(data), "memoryview": memoryview(data), "BytesIO": io.BytesIO(data),
        "file": path.open("rb"), "raw": path.open("rb", buffering=0), "spooled": spooled, "upload": Upload(data),
        "async": AsyncUpload(data),
    }  # fmt: skip


def test_encoded_files_are_taken_and_left_as_they_were(tmp_path: Path) -> None:
    for name, stream in streams(encoded(RGB, "PNG"), tmp_path).items():
        np.testing.assert_array_equal(as_image(stream), RGB, err_msg=name)
        if hasattr(stream, "seek"):
            at = stream.tell()
            np.testing.assert_array_equal(as_image(stream), RGB, err_msg=name)
            assert stream.tell() == at
            assert not stream.closed
            stream.close()
    later = io.BytesIO(b"header" + encoded(RGB, "PNG"))
    later.seek(6)
    np.testing.assert_array_equal(as_image(later), RGB)


def test_streams_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "t.png"
    path.write_bytes(encoded(RGB, "PNG"))
    closed = path.open("rb")
    closed.close()
    with path.open(encoding="latin-1") as text:
        wrong: list[tuple[Any, str]] = [
            (text, "t.png: is opened as text"),
            (io.StringIO("x"), "opened as text"),
            (closed, "t.png: cannot be read"),
            (io.BytesIO(), "file is empty"),
            (b"", "file is empty"),
            (b"no image", "not an image"),
            (io.BytesIO(b"no image"), "not an image"),
        ]
        for value, message in wrong:
            with pytest.raises(DataError, match=message) as caught:
                as_image(value)
            assert caught.value.hint
    with pytest.raises(DataError, match="too large"):
        take_encoded(io.BytesIO(bytes(100)), max_bytes=99)


def test_nothing_is_detached_that_is_no_tensor() -> None:
    with socket.socket() as connection:
        with pytest.raises(DataError, match="a socket is not an image"):
            as_image(connection)
        assert connection.fileno() >= 0  # its own `detach` would have taken it away


def test_a_buffer_of_pixels_is_an_array() -> None:
    np.testing.assert_array_equal(as_image(np.asarray(memoryview(RGB))), RGB)
    with pytest.raises(DataError):
        as_image(memoryview(RGB))


def test_names_of_files_may_be_any_path(tmp_path: Path) -> None:
    class Named(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(tmp_path / "a.png")

    (tmp_path / "a.png").write_bytes(encoded(RGB, "PNG"))
    np.testing.assert_array_equal(read_image(Named()), RGB)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="is no regular file"):  # and nobody waits for who writes into it
        read_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_as_image_keeps_canonical_arrays(kind: type, shape: tuple[int, ...]) -> None:
    values = RNG.integers(0, 200, shape).astype(kind)
    np.testing.assert_array_equal(as_image(values), values)
    assert as_image(values).dtype == kind


def test_as_image_brings_others_into_shape() -> None:
    assert as_image(GREY[..., None]).shape == GREY.shape
    np.testing.assert_array_equal(as_image(GREY > 99), (GREY > 99).astype(np.uint8) * 255)
    for kind in (np.int64, np.int32, np.uint32, np.float64, np.float16):
        assert as_image(GREY.astype(kind)).dtype == np.float32
        np.testing.assert_array_equal(as_image(GREY.astype(kind)), GREY)
    big_endian = as_image(DEEP.astype(">u2"))
    assert big_endian.dtype == np.uint16
    assert big_endian.dtype.isnative
    np.testing.assert_array_equal(big_endian, DEEP)
    rgba = np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)])
    np.testing.assert_array_equal(as_image(rgba), RGB)
    assert as_image(RGB[::-1, ::-1]).flags.c_contiguous
    locked = RGB.copy()
    locked.flags.writeable = False
    assert as_image(locked).flags.writeable
    np.testing.assert_array_equal(as_image(Image.fromarray(RGB)), RGB)


class Tensor:
    """As much of a CPU tensor as the decoder may rely on."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def detach(self) -> Tensor:
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values


def test_as_image_moves_the_channels_of_tensors_only() -> None:
    for channels in (1, 3):
        planes = RNG.random((channels, 6, 7)).astype(np.float32)
        expected = planes[0] if channels == 1 else np.moveaxis(planes, 0, -1)
        np.testing.assert_array_equal(as_image(Tensor(planes)), expected)
    assert as_image(Tensor(np.ones((4, 6, 7), np.float32))).shape == (6, 7, 3)
    assert as_image(Tensor(np.ones((6, 7), np.float32))).shape == (6, 7)
    assert as_image(np.ones((3, 7, 3), np.uint8)).shape == (3, 7, 3)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((0, 5), np.uint8),
        np.zeros(5),
        np.zeros((2, 3, 4, 5)),
        np.zeros((4, 5, 2)),
        np.zeros((4, 5, 7)),
        np.full((2, 2), np.nan),
        np.full((2, 2), np.inf, np.float32),
        np.full((2, 2), 1e300),
        np.zeros((2, 2), complex),
        np.array([["a"]]),
        "text",
        None,
        [[1, 2]],
    ],
    ids=lambda value: f"{type(value).__name__}{getattr(value, 'shape', '')}",
)
def test_as_image_refuses(value: Any) -> None:
    with pytest.raises(DataError, match="the upload") as caught:
        as_image(value, "the upload")
    assert caught.value.hint


def test_as_image_refuses_a_pil_image_cut_short() -> None:
    data = encoded(RGB, "PNG")
    with pytest.raises(DataError, match="cut short"):
        as_image(Image.open(io.BytesIO(data[: len(data) // 2])))

"""Damaged, truncated and too large files are errors that name the file; no library writes to stderr."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from blemish.data.image import decode
from blemish.data.image.decode import decode_image, read_image
from blemish.errors import DataError
from blemish.system import Free
from tests.encoded import DEEP, DEEP_RGB, GREY, RGB, RNG, bomb, by_opencv, by_tifffile, chunk, decodes_to, encoded, pgm


def with_next_page(tiff: bytes, place: int) -> bytes:
    """A TIFF of one page that says where another one lies."""
    at = int.from_bytes(tiff[4:8], "little")
    after = at + 2 + 12 * int.from_bytes(tiff[at : at + 2], "little")
    return tiff[:after] + place.to_bytes(4, "little") + tiff[after + 4 :]


def test_a_tiff_whose_list_of_pages_goes_in_circles_ends() -> None:
    data = encoded(GREY, "TIFF")
    with pytest.raises(DataError, match="is circular"):
        decode_image(with_next_page(data, int.from_bytes(data[4:8], "little")), "x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"P5\n9 9\n255\n" + bytes(80), "81 bytes"),
        (b"P5\n1 1\n100\n\xff", "100 is the largest"),
        (b"P5\n1 1\n70000\n\0\0", "65535"),
        (b"P2\n2 2\n9\n1 2 3", "3 are there"),
        (b"P2\n2 1\n9\n1 x", "invalid"),
        (pgm(GREY, 255) * 2, "several pictures"),
        (b"P2\n1 1\n9\n1 P2\n1 1\n9\n1", "several pictures"),
        (b"P6\n30000 30000\n255\n", "too large"),
    ],
)
def test_bad_netpbm(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_image(data, "x.pgm")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_tiff_is_refused(bad: float, tmp_path: Path) -> None:
    values = np.zeros((4, 5), np.float32)
    values[1, 2] = bad
    (tmp_path / "f.tif").write_bytes(by_tifffile(values))
    with pytest.raises(DataError, match=r"f\.tif.*NaN or infinite") as caught:
        read_image(tmp_path / "f.tif")
    assert caught.value.hint


def tiff_broken(compression: str) -> bytes:
    """A TIFF whose pixels are damaged and whose tags are sound."""
    image = Image.fromarray(RNG.integers(0, 256, (90, 120), dtype=np.uint8))
    data = bytearray(encoded(image.convert("1") if compression == "group4" else image, "TIFF", compression=compression))
    (offset,) = Image.open(io.BytesIO(data)).tag_v2[273]  # type: ignore[attr-defined]
    data[offset + 40 : offset + 140] = bytes(byte ^ 0x5A for byte in data[offset + 40 : offset + 140])
    return bytes(data)


def bad_files(folder: Path) -> dict[str, Path]:
    png, jpeg, bmp = encoded(RGB, "PNG"), encoded(RGB, "JPEG"), encoded(RGB, "BMP")
    tiff, deep = encoded(RGB, "TIFF"), by_opencv(DEEP_RGB, ".png")
    contents = {
        "empty.png": b"",
        "text.png": b"no image at all\n",
        "half.png": png[: len(png) // 2],
        "half.jpg": jpeg[: len(jpeg) - 200],
        "half.bmp": bmp[: len(bmp) - 9],
        "half.tif": tiff[:300],
        "deep_half.tif": by_tifffile(GREY.astype(np.float64))[:-100],
        "deep_half.png": deep[: len(deep) // 2],
        "header.png": png[:20],
        "header.tif": b"II*\x00\x08\x00\x00\x00",
        "tags.tif": b"MM\x00*\x00\x00\x00\x08\x00\x01\xff",
        "half.gif": encoded(GREY, "GIF")[:-60],
        "half.ppm": pgm(RGB, 255)[:-9],
        "half.jp2": encoded(np.dstack([DEEP >> 8] * 3).astype(np.uint8).repeat(8, 0), "JPEG2000")[:200],
        "lzw.tif": encoded(RGB, "TIFF", compression="tiff_lzw")[:300] + bytes(9000),
        "deflate.tif": tiff_broken("tiff_adobe_deflate"),
        "fax.tif": tiff_broken("group4"),
        "next.tif": with_next_page(tiff, 0x7FFFFFFF),
        "flipped.png": png[:60] + bytes(byte ^ 255 for byte in png[60:90]) + png[90:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    return {name: folder / name for name in [*contents, "folder.png", "absent.png"]}


def test_every_bad_file_is_named_with_a_hint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, path in bad_files(tmp_path).items():
        with pytest.raises(DataError) as caught:
            read_image(path)
        assert name in str(caught.value)
        assert caught.value.hint
        assert caught.value.path == path
    assert capfd.readouterr() == ("", "")  # the decoders' libraries like to talk


def test_an_older_opencv_is_silenced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 4.13 the functions are in cv2 itself; what was set before is set again."""
    levels = [3]
    monkeypatch.delattr(cv2.utils, "logging", raising=False)
    monkeypatch.setattr(cv2, "getLogLevel", lambda: levels[-1], raising=False)
    monkeypatch.setattr(cv2, "setLogLevel", levels.append, raising=False)
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "a.bmp")
    assert read_image(tmp_path / "a.bmp")[0, 0].tolist() == [9, 8, 7]
    assert levels == [3, 0, 3]


_ALL_BAD = """
import random, sys
from pathlib import Path
from blemish.data.image.decode import decode_image
from blemish.errors import DataError
draw, bad = random.Random(0), 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    whole = path.read_bytes()
    for _ in range(25):
        data = bytearray(whole[: draw.randrange(30, len(whole) + 1)] if draw.random() < 0.3 else whole)
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(8, len(data))] ^= draw.randrange(1, 256)
        try:
            decode_image(bytes(data), path.name)
        except DataError:
            bad += 1
print(bad)
"""


def test_damaged_files_are_errors_and_no_library_writes_to_stderr(tmp_path: Path) -> None:
    big = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    fax = Image.fromarray(big[..., 0]).convert("1")
    for name, data in {
        "deep.png": by_opencv(big.astype(np.uint16) * 257, ".png"), "a.png": encoded(big, "PNG"),
        "fax.tif": encoded(fax, "TIFF", compression="group4"), "lzw.tif": encoded(big, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encoded(big, "TIFF", compression="tiff_adobe_deflate"), "a.gif": encoded(big[..., 0], "GIF"),
        "jpeg.tif": encoded(big, "TIFF", compression="jpeg"), "a.jpg": encoded(big, "JPEG"),
        "double.tif": by_tifffile(big[..., 0].astype(np.float64)), "a.webp": encoded(big, "WEBP"),
        "a.jp2": encoded(big, "JPEG2000"), "deep.jp2": encoded(big[..., 0].astype(np.uint16) * 200, "JPEG2000"),
        "deep.tif": by_tifffile(big.astype(np.uint16) * 257, photometric="rgb"), "a.bmp": encoded(big, "BMP"),
        "signed.tif": by_tifffile(big.astype(np.int16), photometric="rgb"), "a.ppm": pgm(big, 255),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    done = subprocess.run([sys.executable, "-c", _ALL_BAD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 100


@pytest.mark.parametrize("interlaced", [False, True])
def test_deep_png_is_checked_before_it_is_decoded(interlaced: bool) -> None:
    data = by_opencv(DEEP_RGB, ".png")
    if not interlaced:
        decodes_to(data, DEEP_RGB)
    head = bytearray(data[16:29])
    head[12] = int(interlaced)
    rows = [b"\7" + bytes(17 * 6)] * 12
    for content, message in ((b"".join(rows), "filter|bytes of pixels"), (b"\0" * 50, "bytes of pixels")):
        body = chunk(b"IHDR", bytes(head)) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
        with pytest.raises(DataError, match=message):
            decode_image(data[:8] + body, "x")


def test_a_file_larger_than_pillows_limit_is_read_where_the_caller_allows_it() -> None:
    data = bomb(20_000, 10_000)
    with pytest.raises(DataError, match="more than 100000000 pixels"):
        decode_image(data, "x")
    with pytest.raises(DataError, match="cut short|damaged"):  # it is let through, and found to have no pixels
        decode_image(data, "x", max_pixels=200_000_000)


def test_an_image_that_does_not_fit_into_memory_is_refused_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "free_memory", lambda: Free(50_000_000, "of a test"))
    with pytest.raises(DataError, match=r"too large: 8000 x 8000 needs 122 MiB, and 48 MiB of a test is free"):
        decode_image(bomb(8_000, 8_000), "x")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(encoded(GREY, "PNG"))

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"locked\.png.*permission"):
        read_image(path)


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (10_001, 10_000)])
def test_a_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"bomb\.png: image is too large") as caught:
            decode_image(bomb(width, height), "bomb.png")
        assert "max_pixels" in str(caught.value.hint)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_limit_is_the_callers_and_counts_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(GREY, "PNG"))
    assert read_image(path, max_pixels=GREY.size).shape == GREY.shape
    with pytest.raises(DataError, match="more than 203 pixels"):
        read_image(path, max_pixels=GREY.size - 1)
    with pytest.raises(DataError, match="bytes"):
        read_image(path, max_pixels=1)
    with pytest.raises(DataError, match="more than 50 pixels"):
        decode_image(by_tifffile(GREY.astype(np.float64)), "x", max_pixels=50)


def test_no_warning_of_pillows_gets_out_of_threads_either() -> None:
    large = bomb(9_600, 9_600)  # between Pillow's warning and its error
    tiff = bytearray(encoded(RGB, "TIFF"))
    errors: list[BaseException] = []

    def work() -> None:
        for data in (large, bytes(tiff[:200]), encoded(RGB, "PNG")):
            try:
                decode_image(data, "x")
            except DataError:
                pass
            except BaseException as error:
                errors.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before
    assert not errors


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_can_be_no_name_is_an_error(name: str) -> None:
    with pytest.raises(DataError, match="is no name of a file"):
        read_image(name)

"""What a file's header says, before any pixel is decoded."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from blemish.data.image import pnm as _pnm
from blemish.data.image import tiff as _tiff
from blemish.data.image.formats import FORMATS, HEAD, kind_of, unread, unread_kind
from blemish.errors import DataError
from blemish.system import undisturbed

ORIENTATION = 0x0112
_RGB = 2  # TIFF photometric interpretation
_MOST_SAMPLES = 6  # of a TIFF that Pillow takes; of more it complains in the log
_WARNINGS = threading.RLock()  # the warning filters are global to the process; the server decodes in several threads
_SPLIT = "split it into files of one picture each, or learn its pages as lightings of one sample (--lighting)"


@dataclass(frozen=True, slots=True)
class Header:
    """Size as shown (orientation applied) and what decides who decodes it."""

    format: str
    width: int
    height: int
    orientation: int = 1  # EXIF value that the decoder leaves for us to apply
    bits: int = 8  # per sample
    samples: int = 0  # channels in the file; 0 = whatever Pillow makes of it
    exact: bool = True  # Pillow yields every bit of every channel
    white_is_zero: bool = False
    unsupported: str | None = None  # why no decoder here reads it correctly
    page: _tiff.Page | None = None  # of a TIFF, the one that is the picture
    cast: str | None = None  # type of a TIFF's samples, where decoders are told that they are unsigned
    netpbm: _pnm.Header | None = None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings: an unreadable file raises an error of ours."""
    with undisturbed, _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_header(file: BinaryIO, name: str) -> tuple[Header, Image.Image | None]:
    """The header and Pillow's undecoded image; None for what Pillow does not read.

    Raises DataError naming `name` where the file is no image of a supported format, or holds several pictures.
    """
    head = file.read(HEAD)
    kind = kind_of(head)
    if (other := unread_kind(name, head)) is not None:
        raise unread(name, *other)
    if kind is None:
        hint = f"supported: {FORMATS}; the content decides, not the file's name"
        raise DataError("not an image, or damaged in its header" if head else "file is empty", path=name, hint=hint)
    file.seek(0)
    try:
        with quiet():
            if kind == "PNM":
                return _of_netpbm(file, head), None
            if kind == "TIFF":
                return _of_tiff(file, name)
            image = _PLUGINS[kind](file)
            header = _of_pillow(image, kind, file)
            frames = int(getattr(image, "n_frames", 1))
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly anything on a malformed file
        detail = " ".join(str(error).split()) or type(error).__name__
        hint = f"copy the file again; supported: {FORMATS}"
        raise DataError(f"not an image, or damaged in its header ({detail})", path=name, hint=hint) from None
    if frames > 1:
        raise several(name, f"{frames} frames")
    return header, image


def _avif(file: BinaryIO) -> Image.Image:
    from PIL.AvifImagePlugin import AvifImageFile  # not in every build of Pillow

    return AvifImageFile(file)


# Called by themselves: `Image.open` would load all of its forty plugins at the first file that none of these knows, and
# hold its own limit of pixels against the caller's. JPEG: several pictures in one file (MPO) are its first one.
_PLUGINS: dict[str, Callable[[Any], Image.Image]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "BMP": BmpImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "JPEG2000": Jpeg2KImageFile,
    "AVIF": _avif,
}


def several(name: str, what: str) -> DataError:
    """The error for a file that holds more than one picture: which one is meant is not guessed."""
    return DataError(f"holds {what}, and an image is one picture", path=name, hint=_SPLIT)


def _of_pillow(image: Image.Image, form: str, file: BinaryIO) -> Header:
    orientation = orientation_of(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    header = Header(form, width, height, orientation)
    if form == "PNG":
        # Pillow keeps the high byte only of 16-bit colour and grey-with-alpha PNG
        if image.tile[0][3] in ("RGB;16B", "RGBA;16B", "LA;16B"):  # type: ignore[attr-defined]
            samples = {"RGB": 3, "RGBA": 4, "LA": 4}[image.mode]  # OpenCV expands grey with alpha to four channels
            return replace(header, bits=16, samples=samples, exact=False)
        return header
    if form == "JPEG2000":
        return _of_jpeg2000(header, file)
    if form == "AVIF":
        file.seek(0)
        box = re.search(rb"av1C.{2}(.)", file.read(1 << 16), re.DOTALL)
        if box is not None and box[1][0] & 0x40:  # "high bit depth"; Pillow makes 8 bits of it
            return replace(header, unsupported="a depth of 10 or 12 bits in AVIF")
    return header


def _of_jpeg2000(header: Header, file: BinaryIO) -> Header:
    """Pillow keeps 8 bits of deep colour, and shifts what has another depth than 8 or 16 up to it."""
    file.seek(0)
    size = re.search(rb"\xff\x4f\xff\x51.{36}(..)(.*)", file.read(1 << 20), re.DOTALL)
    if size is None:
        raise ValueError("no size of its components")
    count = int.from_bytes(size[1], "big")
    depths = {byte for byte in size[2][: 3 * count : 3]}
    bits = max(byte & 0x7F for byte in depths) + 1
    if len(depths) > 1 or max(depths) & 0x80 or bits > 16:
        return replace(header, unsupported=f"{count} channels of {bits} bits, signed or of several depths,")
    if bits <= 8:
        return header
    return replace(header, bits=16, samples=count, exact=False)


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none."""
    if not any(key in image.info for key in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")):
        return 1
    with quiet():
        value = image.getexif().get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _of_netpbm(file: BinaryIO, head: bytes) -> Header:
    found = _pnm.header(head + file.read(_pnm.HEAD_BYTES))
    return Header("PNM", found.width, found.height, netpbm=found)


def _of_tiff(file: BinaryIO, name: str) -> tuple[Header, Image.Image | None]:
    """Of the page that is the picture; without Pillow's image where it does not know the samples, such as doubles."""
    found = _tiff.pages(file)
    try:
        number = _tiff.main_page(found)
    except ValueError as error:
        raise several(name, str(error)) from None
    page = found[number]
    image: Image.Image | None = None
    try:
        file.seek(0)
        if page.get(_tiff.SAMPLES, 1) <= _MOST_SAMPLES:
            image = TiffImageFile(file)
            image.seek(number)
    except Exception:  # one of samples that it does not know; what is damaged is found by who decodes it
        image = None
    return _describe_tiff(page, None if image is None else image.size), image


def _describe_tiff(page: _tiff.Page, size: tuple[int, int] | None) -> Header:
    """Pillow has already turned `size` and will turn the pixels, and so will OpenCV: orientation stays 1."""
    known = size is not None
    bits, samples = page.get(_tiff.BITS, 1), page.get(_tiff.SAMPLES, 1)
    kind, photometric = page.get(_tiff.FORMAT, _tiff.UNSIGNED), page.get(_tiff.PHOTOMETRIC, 1)
    alpha = any(extra in (1, 2) for extra in page.tags.get(_tiff.EXTRA, ()))
    planar = page.get(_tiff.PLANAR, 1) == 2 and samples > 1
    plain = samples in (1, 3) or (samples == 2 and alpha) or (samples == 4 and photometric != 1)
    # decoders wrap, clip or refuse these; said to be unsigned, their bits come through
    cast = {(_tiff.SIGNED, 8): "i1", (_tiff.SIGNED, 16): "i2", (_tiff.FLOAT, 16): "f2"}.get((kind, bits))
    exact = known and plain and kind != _tiff.SIGNED and cast is None
    exact = exact and not (bits == 16 and samples >= 3) and not (bits == 32 and kind == _tiff.UNSIGNED)
    unsupported = None
    if cast is not None:  # who decodes the unsigned kind decides; alpha has no sign
        unsupported = None if samples in (1, 3) else f"{samples} channels of {bits} bits, signed or real,"
    elif not exact and planar:
        unsupported = f"{samples} channels of {bits} bits in separate planes"  # OpenCV mixes the planes up, silently
    elif not exact and not (samples == 1 or (samples in (3, 4) and photometric == _RGB)):
        unsupported = f"{samples} channels of {bits} bits"  # OpenCV drops some of them, silently
    elif kind not in (_tiff.UNSIGNED, _tiff.SIGNED, _tiff.FLOAT, 4) or (bits == 64 and kind != _tiff.FLOAT):
        unsupported = f"samples of {bits} bits that are complex or whole numbers"
    if size is None:
        size = page.size
        if page.get(_tiff.ORIENTATION, 1) >= 5:
            size = size[::-1]
    # both decoders turn the 8-bit kind only
    white_is_zero = photometric == 0 and bits == 16 and samples == 1 and kind == _tiff.UNSIGNED
    return Header("TIFF", *size, 1, bits, samples, exact, white_is_zero, unsupported, page, cast)

"""What a file's header says, before any pixel is decoded."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from blemish.errors import DataError

# Their plugins are imported by name, lest Pillow load all of its forty at the first file.
FORMATS = tuple(
    str(plugin.format) for plugin in (PngImageFile, JpegImageFile, TiffImageFile, BmpImageFile, WebPImageFile)
)
MAX_PIXELS = 100_000_000
MOST_PIXELS = 178_956_970  # Pillow refuses more, whatever it is asked
ORIENTATION = 0x0112
_RGB = 2  # TIFF photometric interpretation
_WARNINGS = threading.RLock()  # the warning filters are global to the process; the server decodes in several threads


@dataclass(frozen=True, slots=True)
class Header:
    """Size as shown (orientation applied) and, for TIFF and PNG, what decides who decodes it."""

    format: str
    width: int
    height: int
    orientation: int = 1  # EXIF value that the decoder leaves for us to apply
    bits: int = 8  # per sample
    samples: int = 0  # channels in the file; 0 = whatever Pillow makes of it
    exact: bool = True  # Pillow yields every bit of every channel
    white_is_zero: bool = False
    unsupported: str | None = None  # why no decoder here reads it right


@contextmanager
def quiet() -> Iterator[None]:
    """No warning of Pillow's gets out: what is wrong with a file is said by an error of ours."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_header(file: BinaryIO, name: str) -> tuple[Header, Image.Image | None]:
    """The header and Pillow's undecoded image; None for a TIFF that Pillow does not know.

    Raises DataError naming `name` where the file is no image of a supported format.
    """
    try:
        with quiet():
            image = Image.open(file, formats=FORMATS)
            return _of_pillow(image), image
    except Image.DecompressionBombError as error:
        raise too_large(name, str(error)) from None
    except Exception as error:  # Pillow raises nearly anything on a malformed file
        file.seek(0)
        magic = file.read(4)
        if magic[:2] in (b"II", b"MM"):
            return _of_tiff(file, name), None
        hint = f"supported: {', '.join(FORMATS)}; the content decides, not the file's name"
        reason = "file is empty" if not magic else "not an image, or damaged in its header"
        detail = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise DataError(reason + detail, path=name, hint=hint) from None


def too_large(name: str, detail: str) -> DataError:
    """The error for what would not fit into memory."""
    hint = "raise --max-pixels (max_pixels in Python) if the file is trusted, or cut it into tiles"
    return DataError(f"image is too large: {detail}", path=name, hint=hint)


def _of_pillow(image: Image.Image) -> Header:
    form = str(image.format)
    if form == "TIFF":
        return _describe_tiff(image.tag_v2, image.size, known=True)  # type: ignore[attr-defined]
    orientation = orientation_of(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    # Pillow keeps the high byte only of 16-bit colour and grey-with-alpha PNG
    deep = form == "PNG" and image.tile[0][3] in ("RGB;16B", "RGBA;16B", "LA;16B")  # type: ignore[attr-defined]
    samples = {"RGB": 3, "RGBA": 4, "LA": 4}.get(image.mode, 0)  # OpenCV expands grey with alpha to four channels
    if deep:
        return Header(form, width, height, orientation, bits=16, samples=samples, exact=False)
    return Header(form, width, height, orientation)


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none."""
    if not any(key in image.info for key in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")):
        return 1
    with quiet():
        value = image.getexif().get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _of_tiff(file: BinaryIO, name: str) -> Header:
    """Of a TIFF with samples that Pillow does not know, such as 64-bit floats."""
    try:
        with quiet():
            file.seek(0)
            tags = ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
            return _describe_tiff(tags, (int(tags[256]), int(tags[257])), known=False)
    except Exception as error:
        raise DataError(f"damaged TIFF header ({error!r})", path=name, hint="save the file again as PNG") from None


def _describe_tiff(tags: ImageFileDirectory_v2, size: tuple[int, int], *, known: bool) -> Header:
    """Pillow has already turned `size` and will turn the pixels, and so will OpenCV: orientation stays 1."""
    bits = max(tags.get(258, (1,)))
    samples = int(tags.get(277, 1))
    kind = max(tags.get(339, (1,)))  # 1 unsigned, 2 signed, 3 float
    photometric = tags.get(262, 1)
    alpha = any(extra in (1, 2) for extra in tags.get(338, ()))
    planar = tags.get(284, 1) == 2 and samples > 1
    plain = samples in (1, 3) or (samples == 2 and alpha) or (samples == 4 and photometric != 1)
    exact = known and plain and kind != 2 and not (bits == 16 and samples >= 3) and not (bits == 32 and kind == 1)
    unsupported = None
    if not exact and planar:
        unsupported = f"{samples} channels of {bits} bits in separate planes"  # OpenCV mixes the planes up, silently
    elif not exact and not (samples == 1 or (samples in (3, 4) and photometric == _RGB)):
        unsupported = f"{samples} channels of {bits} bits"  # OpenCV drops some of them, silently
    if not known and tags.get(ORIENTATION, 1) >= 5:
        size = size[::-1]
    white_is_zero = photometric == 0 and bits == 16 and samples == 1  # both decoders turn the 8-bit kind only
    return Header("TIFF", *size, 1, bits, samples, exact, white_is_zero, unsupported)

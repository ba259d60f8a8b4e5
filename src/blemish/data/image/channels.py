"""One file of many channels: pages and samples of a TIFF, an array in a .npy file, or the colours of a picture."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.data.image import tiff as _tiff
from blemish.data.image.decode import as_image, decode_image
from blemish.data.image.formats import HEAD, kind_of
from blemish.data.image.header import open_header
from blemish.errors import DataError
from blemish.files import MAX_PIXELS, too_large
from blemish.system import free_memory, is_out_of_memory, size_text

NPY = ".npy"
_MAGIC = b"\x93NUMPY"
_SAVE = "save its pages uncompressed or with deflate, each channel a page, or the whole as .npy (H, W, channels)"


class Extent(NamedTuple):
    """Size and number of channels of a file, and whether its values may be deeper than 8 bits."""

    width: int
    height: int
    channels: int
    deep: bool


def extent(path: Path) -> Extent:
    """From the header alone. DataError where it is no such file."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise DataError("is no regular file", path=path, hint="name a file on disk")
        with path.open("rb") as file:
            return _extent(file, str(path))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path, hint="check path and permission") from None


def read_channels(
    data: bytes, name: str, wanted: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
) -> tuple[list[NDArray[Any]], int]:
    """The wanted channels (None = all) of an encoded file, (H, W) each as canonical grey images, and how many channels
    it has. Pages of a TIFF follow each other; a page of three samples is three channels. Transparency is none.

    DataError, naming `name`, where it cannot be read, or has no such channel.
    """
    found = _extent(BytesIO(data), name)
    if found.width * found.height > max_pixels:
        raise too_large(name, f"{found.width} x {found.height} is more than {max_pixels} pixels")
    wanted = range(found.channels) if wanted is None else wanted
    if missing := [k for k in wanted if not 0 <= k < found.channels]:
        message = f"has {found.channels} channels, numbered from 0, and no channel {missing[0]}"
        raise DataError(message, path=name, hint="name channels that each file has (--lighting)")
    needed = 4 * found.width * found.height * max(len(wanted), 1)
    if (free := free_memory()) is not None and needed > free.bytes:
        raise too_large(
            name, f"its channels need {size_text(needed)}, and {size_text(free.bytes)} {free.limit} is free"
        )
    if data.startswith(_MAGIC):
        return _of_npy(data, name, wanted), found.channels
    if kind_of(data[:HEAD]) == "TIFF":
        return _of_tiff(data, name, wanted, max_pixels), found.channels
    picture = decode_image(data, name, max_pixels=max_pixels)
    return [_plane(picture, k) for k in wanted], found.channels


def _plane(picture: NDArray[Any], channel: int) -> NDArray[Any]:
    return picture if picture.ndim == 2 else np.ascontiguousarray(picture[..., channel])


def _extent(file: BinaryIO, name: str) -> Extent:
    head = file.read(HEAD)
    file.seek(0)
    if head.startswith(_MAGIC):
        shape, dtype = _npy_header(file, name)
        return Extent(shape[1], shape[0], shape[2] if len(shape) == 3 else 1, dtype.itemsize > 1)
    if kind_of(head) == "TIFF":
        try:
            pages = _pages(file)
            sizes = {page.size for page in pages}
        except (ValueError, KeyError) as error:
            raise _damaged(name, str(error)) from None
        if len(sizes) > 1:
            each = ", ".join(f"{w} x {h}" for w, h in sorted(sizes))
            raise DataError(f"has pages of several sizes ({each})", path=name, hint="channels have one size")
        if any(page.get(_tiff.ORIENTATION, 1) != 1 for page in pages):
            raise DataError("has channels that are stored turned", path=name, hint="save it upright")
        (size,) = sizes
        return Extent(*size, sum(map(_samples, pages)), any(page.get(_tiff.BITS, 1) > 8 for page in pages))
    header, image = open_header(file, name)
    mode = "" if image is None else image.mode
    if header.netpbm is not None:
        return Extent(header.width, header.height, header.netpbm.channels, header.netpbm.most > 255)
    grey = mode in ("1", "L", "LA", "La", "F") or mode.startswith("I")
    return Extent(header.width, header.height, 1 if grey else 3, header.bits > 8 or mode == "F" or mode.startswith("I"))


def _pages(file: BinaryIO) -> list[_tiff.Page]:
    """Without previews."""
    found = _tiff.pages(file)
    return [page for page in found if not page.reduced] or found


def _samples(page: _tiff.Page) -> int:
    palette = page.get(_tiff.PHOTOMETRIC, 1) == 3
    return 3 if palette else page.get(_tiff.SAMPLES, 1)


def _of_tiff(data: bytes, name: str, wanted: Sequence[int], max_pixels: int) -> list[NDArray[Any]]:
    found: dict[int, NDArray[Any]] = {}
    first = 0
    for page in _pages(BytesIO(data)):
        count = _samples(page)
        inside = [k for k in wanted if first <= k < first + count]
        if inside and count in (1, 3):
            picture = decode_image(_tiff.alone(data, page), name, max_pixels=max_pixels)
            found |= {k: _plane(picture, k - first) for k in inside}
        elif inside:
            samples = _with_tifffile(data, page, name)
            found |= {k: as_image(samples[..., k - first], name) for k in inside}
        first += count
    return [found[k] for k in wanted]


def _with_tifffile(data: bytes, page: _tiff.Page, name: str) -> NDArray[Any]:
    """(H, W, samples) of a page whose samples are not one colour, which other decoders drop or mix with each other."""
    try:
        import tifffile
    except ModuleNotFoundError:
        hint = "pip install 'blemish[3d]', or save each channel as a page"
        raise DataError("samples beside those of a colour need tifffile", path=name, hint=hint) from None
    try:
        with tifffile.TiffFile(BytesIO(_tiff.alone(data, page))) as file:
            only = file.pages[0]
            array = np.asarray(only.asarray())
            planes = only.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    except Exception as error:  # it raises nearly anything on a malformed file
        if is_out_of_memory(error):
            raise
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"its samples cannot be read ({detail})", path=name, hint=_SAVE) from None
    array = np.moveaxis(array, 0, -1) if planes else array
    width, height = page.size
    if array.shape != (height, width, page.get(_tiff.SAMPLES, 1)):
        raise DataError(f"its samples cannot be read (shape {array.shape})", path=name, hint=_SAVE)
    return array


def _npy_header(file: BinaryIO, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, EOFError, struct.error) as error:
        raise _damaged(name, str(error)) from None
    if len(shape) not in (2, 3) or 0 in shape or dtype.kind not in "buif":
        message = f"an array of shape {shape} and type {dtype} is no picture"
        raise DataError(message, path=name, hint="save (H, W) or (H, W, channels) of uint8, uint16 or float32")
    return shape, dtype


def _of_npy(data: bytes, name: str, wanted: Sequence[int]) -> list[NDArray[Any]]:
    try:
        array = np.load(BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _damaged(name, str(error)) from None
    return [as_image(array if array.ndim == 2 else array[..., k], name) for k in wanted]


def _damaged(name: str, detail: str) -> DataError:
    return DataError(f"damaged or cut short ({detail})", path=name, hint="copy the file again")

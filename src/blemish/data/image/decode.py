"""An image file, or a value that the caller passes, becomes one canonical array.

Canonical: (H, W) grey or (H, W, 3) in RGB order; uint8, uint16 or finite float32; C-contiguous, writable.

Pillow decodes. OpenCV does where Pillow would drop bits (16-bit colour, 64-bit floats, 32-bit integers) and for plain
24-bit BMP: same bits, 5 times faster (0.2 against 1.2 ms at 1130 x 460). PNG gains 1.1 to 1.4 times only, and JPEG
(1.4 times) would depend on which libjpeg each wheel carries: both stay with Pillow. Netpbm is read here (`_pnm`).

A file is one picture. Several pages or frames are an error; previews, thumbnails and the further pictures of a
multi-picture JPEG are ignored.
"""

from __future__ import annotations

import inspect
import io
import os
import threading
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blemish.data.image import pnm as _pnm
from blemish.data.image import tiff as _tiff
from blemish.data.image.header import Header, open_header, orientation_of, quiet, several
from blemish.errors import DataError
from blemish.files import MAX_PIXELS, as_path, read_file, too_large
from blemish.system import free_memory, is_out_of_memory, size_text, undisturbed

_LARGE = 16_000_000  # pixels from which free memory is checked
_LOG_LEVEL = threading.Lock()

Array = NDArray[Any]


def read_image(path: str | os.PathLike[Any], *, max_pixels: int = MAX_PIXELS) -> Array:
    """The picture in a PNG, JPEG, TIFF, BMP, WebP, GIF, Netpbm, JPEG 2000 or AVIF file as a canonical array, in RGB
    order (see the module).

    EXIF orientation is applied, palettes become RGB, 1-bit becomes 0/255, transparency is laid over black (see
    `over_black`). 8- and 16-bit stay uint8 and uint16, every other depth becomes float32 with its values and signs.
    Raises DataError, naming the file, on anything that cannot be read correctly, on several pages or frames, and on
    more than `max_pixels` pixels before a pixel is decoded.
    """
    path = as_path(path)
    return decode_image(read_file(path, max_bytes=16 * max_pixels), str(path), max_pixels=max_pixels)


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Array:
    """As `read_image`, from the file's bytes; `name` stands for the file in errors."""
    header, image = open_header(BytesIO(data), name)
    pixels = header.width * header.height
    if pixels > max_pixels:
        raise too_large(name, f"{header.width} x {header.height} is more than {max_pixels} pixels")
    if header.unsupported is not None:
        raise _unsupported(name, header.unsupported)
    _check_memory(header, name)
    try:
        array = _decoded(data, header, image, name)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise too_large(name, f"{header.width} x {header.height}, and memory ran out") from error
    if header.white_is_zero:
        array = np.iinfo(np.uint16).max - array
    return _checked(_turn(array, header.orientation), name)


def _check_memory(header: Header, name: str) -> None:
    """An image that cannot fit into memory is refused before it is decoded; small ones are not checked."""
    pixels = header.width * header.height
    needed = 2 * pixels * max(header.samples, 1) * max(header.bits, 8) // 8  # decoded, and brought into order
    if pixels > _LARGE and (free := free_memory()) is not None and needed > free.bytes:
        left = f"{size_text(free.bytes)} {free.limit} is free"
        raise too_large(name, f"{header.width} x {header.height} needs {size_text(needed)}, and {left}")


def _decoded(data: bytes, header: Header, image: Image.Image | None, name: str) -> Array:
    if header.netpbm is not None:
        try:
            return _pnm.decode(data, header.netpbm)
        except EOFError:
            raise several(name, "several pictures") from None
        except ValueError as error:
            raise _damaged(name, str(error)) from None
    if header.page is not None and (image is None or not header.exact):
        data = _tiff.with_first(data, header.page)
        if header.cast is not None:
            data = _tiff.as_unsigned(data, header.page)
            unsigned, image = open_header(BytesIO(data), name)
            if unsigned.unsupported is not None:
                raise _unsupported(name, unsigned.unsupported)
            array = _decoded(data, unsigned, image, name)
            return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(header.cast)
    if image is None or not header.exact:
        return _with_opencv(data, header, name)
    if _is_plain_bmp(data, header, image):
        return cast(Array, cv2.cvtColor(_imdecode(data, name), cv2.COLOR_BGR2RGB))
    return _with_pillow(image, name)


class Encoded(NamedTuple):
    """The bytes of a file that the caller passed, and their name in errors."""

    data: bytes
    name: str


def is_encoded(value: object) -> bool:
    """Whether a value is an encoded file: its bytes, or a stream with `read`. Arrays never are."""
    if isinstance(value, Encoded | bytes | bytearray):
        return True
    if isinstance(value, memoryview):
        return value.ndim == 1 and value.itemsize == 1
    return not hasattr(value, "__array__") and callable(getattr(value, "read", None))


def take_encoded(value: Any, name: str = "image", *, max_bytes: int = 16 * MAX_PIXELS) -> Encoded:
    """The bytes of an encoded file: as they are, or the rest of a binary stream. A stream

    is read from its position; one at its end, as after writing, from its beginning. It is never closed, and where it
    can seek its position is restored. DataError for a stream of text, one that is closed, empty or larger than
    `max_bytes`.
    """
    if isinstance(value, Encoded):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
    else:
        for key in ("filename", "name"):
            if isinstance(given := getattr(value, key, None), str) and given:
                name = given
                break
        data = _read_stream(value, name)
    if not data:
        raise DataError("file is empty", path=name, hint="hand over the bytes of an image file")
    if len(data) > max_bytes:
        raise too_large(name, f"{len(data)} bytes")
    return Encoded(data, name)


def _read_stream(stream: Any, name: str) -> bytes:
    binary = "open it with mode 'rb', or pass its path"
    if isinstance(stream, io.TextIOBase):
        raise DataError("is opened as text", path=name, hint=binary)
    if inspect.iscoroutinefunction(stream.read):  # an upload of an asynchronous server has the file itself beside it
        stream = getattr(stream, "file", None)
        if not callable(getattr(stream, "read", None)):
            raise DataError("is an asynchronous stream", path=name, hint="await its read() and pass the bytes")
    try:
        back = stream.tell() if _seeks(stream) else None
        data = stream.read()
        if not data and back:
            stream.seek(0)
            data = stream.read()
        if back is not None:
            stream.seek(back)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({error})", path=name, hint="pass an open binary stream") from None
    if isinstance(data, str):
        raise DataError("is opened as text", path=name, hint=binary)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DataError(f"its read() gives a {type(data).__name__}", path=name, hint=binary)
    return bytes(data)


def _seeks(stream: Any) -> bool:
    seekable = getattr(stream, "seekable", None)
    return bool(seekable()) if callable(seekable) else hasattr(stream, "seek") and hasattr(stream, "tell")


def as_image(value: object, name: str = "image") -> Array:
    """A value that the caller passes as a canonical array (see the module); `name` is its name in errors.

    Takes a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), a PIL image, or anything with `__array__`; a tensor
    may also be (1 | 3 | 4, H, W). Channels are in RGB order, whereas `cv2.imread` gives BGR: turn that with
    `image[..., ::-1]`. An encoded file is taken too: its bytes, or a binary stream (`take_encoded`).
    bool becomes 0/255, a fourth channel is alpha. uint8 and uint16 stay; other integers
    and floats become float32 with their values kept, so their white level is the model's to know.
    Raises DataError on another shape or kind, an empty array, NaN and infinities.
    """
    if isinstance(value, Image.Image):
        if getattr(value, "n_frames", 1) > 1 and getattr(value, "format", None) != "MPO" and value.tell() == 0:
            raise several(name, f"{value.n_frames} frames")  # type: ignore[attr-defined]
        return _checked(_turn(_with_pillow(value, name), orientation_of(value)), name)
    if is_encoded(value):
        return decode_image(*take_encoded(value, name))
    if not hasattr(value, "__array__"):
        hint = "pass a path, a file's bytes or binary stream, a numpy array, a PIL image or a CPU tensor"
        raise DataError(f"a {type(value).__name__} is not an image", path=name, hint=hint)
    try:
        array = np.asarray(cast(Any, value.detach() if hasattr(value, "detach") else value))
    except Exception as error:  # a tensor on another device, for one
        raise DataError(f"cannot become a numpy array ({error})", path=name, hint="move it to the CPU first") from None
    if hasattr(value, "detach") and array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        hint = "use (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        raise DataError(f"an array of shape {array.shape} is not an image", path=name, hint=hint)
    if array.dtype.kind not in "buif":
        raise DataError(f"values of type {array.dtype} are not pixels", path=name, hint="use uint8, uint16 or float32")
    return _checked(array, name)


def read_mask(path: str | Path | Sequence[str | Path], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool, True where the mask (or one of several masks) is set; see `set_in`.

    Raises DataError where a file cannot be read or its size is not `shape`, the image's (H, W).
    """
    mask = np.zeros(shape, bool)
    for one in [path] if isinstance(path, (str, Path)) else path:
        array = read_image(one, max_pixels=max(MAX_PIXELS, shape[0] * shape[1]))  # its image was not too large
        if array.shape[:2] != tuple(shape):
            (h, w), (H, W) = array.shape[:2], shape
            hint = "masks have the size of their image"
            raise DataError(f"mask is {w} x {h}, its image {W} x {H} (width x height)", path=one, hint=hint)
        mask |= set_in(array, one)
    return mask


def set_in(array: Array, path: str | Path) -> NDArray[np.bool_]:
    """(H, W) where a mask that was read from a file is above 0 in any channel; in a JPEG, whose compression spreads
    noise over what was 0, above a half of white."""
    with open(path, "rb") as file:
        least = 127 if file.read(2) == b"\xff\xd8" else 0
    return np.asarray((array > least).any(axis=2) if array.ndim == 3 else array > least)


def over_black(image: Array) -> Array:
    """(H, W, 2 | 4) with alpha -> (H, W) or (H, W, 3), same type.

    Black, because there is nothing where the image is transparent: no signal, whatever colour lies hidden there.
    Alpha spans the type's range, 0 to 1 in floats.
    """
    alpha, colour = image[..., -1], image[..., :-1]
    if image.dtype.kind == "f":
        out = colour * alpha[..., None]
    else:
        white = np.iinfo(image.dtype).max
        alphas = np.repeat(alpha[..., None], colour.shape[-1], axis=2)
        out = cv2.multiply(np.ascontiguousarray(colour), alphas, scale=1 / white).reshape(colour.shape)
    return out[..., 0] if out.shape[-1] == 1 else out


def _with_pillow(image: Image.Image, name: str) -> Array:
    try:
        if image.format == "TIFF":  # only this plugin warns while it decodes
            with quiet(), _tiff.complaints() as complaints:
                image.load()
            if complaints:  # pixels that it could not decode are left as they were
                raise ValueError(complaints[0])
        return np.array(_in_known_mode(image))
    except Exception as error:  # Pillow raises nearly anything on a malformed file
        if is_out_of_memory(error):
            raise
        raise _damaged(name, str(error)) from None


def _in_known_mode(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode in ("1", "L", "P", "RGB") and "transparency" in image.info:
        return image.convert("LA" if mode in ("1", "L") else "RGBA")
    if mode in ("1", "L", "LA", "RGB", "RGBA", "I", "F") or mode.startswith("I;16"):
        return image
    return image.convert({"PA": "RGBA", "RGBa": "RGBA", "La": "LA"}.get(mode, "RGB"))


def _is_plain_bmp(data: bytes, header: Header, image: Image.Image) -> bool:
    """Uncompressed, 24 bits, and every byte there (OpenCV and Pillow then agree)."""
    if header.format != "BMP" or image.mode != "RGB" or len(data) < 54:
        return False
    start, head, bits, packed = (
        int.from_bytes(data[at : at + n], "little") for at, n in ((10, 4), (14, 4), (28, 2), (30, 4))
    )
    rows = (3 * header.width + 3) // 4 * 4 * header.height
    return head >= 40 and bits == 24 and packed == 0 and len(data) >= start + rows


def _with_opencv(data: bytes, header: Header, name: str) -> Array:
    array = _imdecode(_pixels_of_png(data, name) if header.format == "PNG" else data, name)
    channels = 1 if array.ndim == 2 else array.shape[2]
    if array.dtype.itemsize * 8 != header.bits or channels != header.samples:
        raise _unsupported(name, f"{header.samples} channels of {header.bits} bits")
    return array if channels == 1 else array[..., [2, 1, 0, 3][:channels]]


def _pixels_of_png(data: bytes, name: str) -> bytes:
    """The same PNG with no chunk but those of its pixels, unpacked: OpenCV allocates whatever length a chunk claims (up
    to 4 GB), decodes the frames of an animation and colour keys, none of which is wanted here, and prints on stderr
    errors in pixels. So they are checked here, and packed again without compression.
    """
    head, packed, at = b"", [], 8
    while at + 12 <= len(data):
        kind, body = data[at + 4 : at + 8], at + 8
        end = body + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        if kind in (b"IHDR", b"IDAT") and zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise _damaged(name, f"checksum of chunk {kind.decode()}")
        if kind == b"IHDR":
            head = data[body:end]
        elif kind == b"IDAT":
            packed.append(data[body:end])
        elif kind == b"IEND":
            return _plain_png(head, b"".join(packed), name)
        at = end + 4
    raise _damaged(name, "a chunk reaches past the end")


def _plain_png(head: bytes, packed: bytes, name: str) -> bytes:
    """A PNG of stored pixels, after a check that each row is there with a valid filter."""
    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (0, 4))
    pixel = head[8] // 8 * {2: 3, 4: 2, 6: 4}[head[9]]
    # (first column, first row, step) of each pass of an interlaced file
    seven = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    passes = (
        [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in seven] if head[12] else [(width, height)]
    )
    rows = [(1 + w * pixel, h) for w, h in passes if w > 0 and h > 0]
    size = sum(length * count for length, count in rows)
    try:
        unpacker = zlib.decompressobj()
        pixels = unpacker.decompress(packed, size + 1)
        whole = unpacker.eof or not unpacker.decompress(unpacker.unconsumed_tail, 1)
    except zlib.error as error:
        raise _damaged(name, str(error)) from None
    if len(pixels) != size or not whole or not unpacker.eof:
        raise _damaged(name, f"{len(pixels)} bytes of pixels, not {size}")
    at = 0
    for length, count in rows:
        if max(pixels[at : at + length * count : length]) > 4:
            raise _damaged(name, "a row's filter is unknown")
        at += length * count
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(pixels, 0)), (b"IEND", b""))
    return _png_of(chunks)


def _png_of(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of these chunks (kind, content)."""
    each = (
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(each)


def _imdecode(data: bytes, name: str) -> Array:
    """OpenCV's decoder as it is (BGR order), without its messages on stderr."""
    log: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV before 4.13 has its functions in cv2 itself
    with undisturbed, _LOG_LEVEL:  # the level is global: two threads must not restore each other's silence
        level = log.getLogLevel()
        log.setLogLevel(0)  # silent
        try:
            array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            if is_out_of_memory(error):
                raise
            raise _damaged(name, str(error)) from None
        finally:
            log.setLogLevel(level)
    if array is None:
        raise _damaged(name, "the decoder gave up")
    return cast(Array, array)


def _damaged(name: str, detail: str) -> DataError:
    hint = "copy the file again, or save it again as PNG"
    return DataError(f"damaged, cut short or of an unknown kind ({detail})", path=name, hint=hint)


def _unsupported(name: str, what: str) -> DataError:
    hint = "save it with 1, 3 or 4 interleaved channels, or learn its channels as lightings (--lighting)"
    return DataError(f"{what} cannot be read without loss", path=name, hint=hint)


def _turn(array: Array, orientation: int) -> Array:
    """EXIF orientations 1 to 8; axes 0 and 1 only."""
    if orientation >= 5:
        array = np.swapaxes(array, 0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _checked(array: Array, name: str) -> Array:
    """With its type, alpha and emptiness dealt with; finite."""
    if array.size == 0:
        raise DataError(f"image is empty, shape {array.shape}", path=name, hint="an image has at least one pixel")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype not in (np.uint8, np.uint16) or not array.dtype.isnative:
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, and is refused below
            array = array.astype(np.uint16 if array.dtype.newbyteorder("=") == np.uint16 else np.float32)
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise DataError("image has NaN or infinite values", path=name, hint="replace them, with 0 for example")
    if array.ndim == 3 and array.shape[2] in (2, 4):
        array = over_black(array)
    return np.require(array, requirements=["C", "W"])

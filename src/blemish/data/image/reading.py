"""What a record of images shows: its file or files as bytes, which name its features in the cache, and their pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.image.channels import extent, read_channels
from blemish.data.image.decode import decode_image
from blemish.data.image.lightings import Lit
from blemish.data.image.preprocess import size_and_depth
from blemish.errors import DataError
from blemish.files import MAX_PIXELS, read_file
from blemish.types import LightingFile, Record

Shown = NDArray[Any] | Lit
"""A canonical image (see `data.image.decode`), or of a record with lightings one for each."""


def data_of(record: Record, *, max_bytes: int = 16 * MAX_PIXELS) -> bytes:
    """The bytes of a record's file; of lightings of all of its files, behind a line that tells them apart. DataError
    where one cannot be read."""
    if not record.lightings:
        return read_file(record.path, max_bytes=max_bytes)
    files = dict.fromkeys(file.path for file in record.lightings)
    each = [read_file(path, max_bytes=max_bytes) for path in files]
    shown = [[file.name, [*files].index(file.path), file.channels] for file in record.lightings]
    return json.dumps([[len(one) for one in each], shown]).encode() + b"\n" + b"".join(each)


def shown_in(data: bytes, record: Record, *, max_pixels: int = MAX_PIXELS, of: int = 0) -> Shown:
    """The pixels in what `data_of` gave; `of` is how many channels a file has that shows all lightings, 0 = any number.
    DataError where they cannot be decoded, naming the file."""
    if not record.lightings:
        return decode_image(data, str(record.path), max_pixels=max_pixels)
    head, _, rest = data.partition(b"\n")
    if record.lightings[0].channels:
        return channels_in(rest, record.lightings, max_pixels=max_pixels, of=of)
    parts = {}
    for path, length in zip(dict.fromkeys(file.path for file in record.lightings), json.loads(head)[0], strict=True):
        parts[path], rest = rest[:length], rest[length:]
    return tuple(decode_image(parts[f.path], str(f.path), max_pixels=max_pixels) for f in record.lightings)


def channels_in(data: bytes, files: Sequence[LightingFile], *, max_pixels: int = MAX_PIXELS, of: int = 0) -> Lit:
    """The lightings that are channels of one encoded file; `of` as in `shown_in`."""
    name = str(files[0].path)
    wanted = [channel for file in files for channel in file.channels]
    channels, count = read_channels(data, name, wanted, max_pixels=max_pixels)
    check_count(count, of, name)
    return grouped(channels, files, name)


def check_count(count: int, of: int, name: str | None) -> None:
    """DataError where a sample has another number of channels than the good ones; `of` 0 = not known."""
    if of and count != of:
        hint = "give files of the kind that was learned from"
        raise DataError(f"has {count} channels, and the good images have {of}", path=name, hint=hint)


def grouped(channels: Sequence[NDArray[Any]], files: Sequence[LightingFile], name: str | None) -> Lit:
    """Channels in the order in which lightings name them, as a picture for each."""
    out, at = [], 0
    for file in files:
        part = channels[at : at + len(file.channels)]
        at += len(part)
        out.append(part[0] if len(part) == 1 else _stacked(part, file.name, name))
    return tuple(out)


def _stacked(channels: Sequence[NDArray[Any]], lighting: str, name: str | None) -> NDArray[Any]:
    if len(kinds := {str(one.dtype) for one in channels}) > 1:
        message = f"the channels of lighting '{lighting}' are of several types: {', '.join(sorted(kinds))}"
        raise DataError(message, path=name, hint="save them in one type, or name them as lightings of their own")
    return np.stack(channels, axis=2)


def read_shown(record: Record, *, max_pixels: int = MAX_PIXELS) -> Shown:
    """The pixels of a record. DataError where they cannot be read."""
    return shown_in(data_of(record, max_bytes=16 * max_pixels), record, max_pixels=max_pixels)


def first_of(shown: Shown) -> NDArray[Any]:
    """The picture that stands for a sample: its first lighting."""
    return shown[0] if isinstance(shown, tuple) else shown


def size_of(record: Record) -> tuple[tuple[int, int], bool]:
    """(W, H) of a record as shown, and whether its pixels may be deeper than 8 bits, from headers alone. DataError
    where its lightings are of several sizes."""
    if not record.lightings:
        return size_and_depth(record.path)
    found = [_size(file) for file in record.lightings]
    for file, (size, _) in zip(record.lightings, found, strict=True):
        if size != found[0][0]:
            first = record.lightings[0].name
            sizes = f"{size[0]} x {size[1]}, and '{first}' {found[0][0][0]} x {found[0][0][1]} (width x height)"
            hint = "all lightings of a sample have one size"
            raise DataError(f"lighting '{file.name}' is {sizes}", path=file.path, hint=hint)
    return found[0][0], any(deep for _, deep in found)


def _size(file: LightingFile) -> tuple[tuple[int, int], bool]:
    if not file.channels:
        return size_and_depth(file.path)
    known = extent(file.path)
    return (known.width, known.height), known.deep

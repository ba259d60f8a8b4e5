"""The pages of a TIFF: what the decoders do not report, and how to make them read the right page correctly."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, BinaryIO

_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q", 13: "I", 18: "Q"}
_MOST_VALUES = 64  # of a tag that is inspected; the longer ones are tables of places
_MOST_PAGES = 100_000
NEW_SUBFILE, OLD_SUBFILE, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, PLANAR, EXTRA, FORMAT = (
    254, 255, 258, 262, 274, 277, 284, 338, 339,
)  # fmt: skip
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # of FORMAT


@dataclass(frozen=True)
class Page:
    """One directory: where it lies, its tags of whole numbers, and where their values lie in the file."""

    offset: int
    tags: dict[int, tuple[int, ...]]
    places: dict[int, tuple[int, str]]

    def get(self, tag: int, default: int) -> int:
        """The tag's only, or largest, value."""
        return max(self.tags.get(tag, ()), default=default)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as they are stored. KeyError where they are missing."""
        return self.tags[256][0], self.tags[257][0]

    @property
    def reduced(self) -> bool:
        """A preview of another page, or its mask."""
        if NEW_SUBFILE in self.tags:
            return bool(self.get(NEW_SUBFILE, 0) & 5)
        return self.get(OLD_SUBFILE, 1) == 2


@dataclass(frozen=True)
class _Kind:
    """Byte order, and the widths of classic or BigTIFF."""

    order: str
    big: bool

    @property
    def pointer(self) -> str:
        return self.order + ("Q" if self.big else "I")


def pages(file: BinaryIO) -> list[Page]:
    """The pages of a file in their order, previews among them. ValueError where the list is damaged."""
    file.seek(0)
    kind = _kind(file.read(8))
    out: list[Page] = []
    seen: set[int] = set()
    file.seek(8 if kind.big else 4)
    at = _unpack(kind.pointer, file)
    while at:
        if at in seen or len(out) == _MOST_PAGES:
            raise ValueError("its list of pages is circular")
        seen.add(at)
        page, at = _page(file, kind, at)
        out.append(page)
    if not out:
        raise ValueError("it has no page")
    return out


def _kind(head: bytes) -> _Kind:
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) >= 4 else 0
    if order is None or version not in (42, 43):
        raise ValueError("no TIFF header")
    return _Kind(order, version == 43)


def _unpack(form: str, file: BinaryIO) -> int:
    data = file.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise ValueError("its list of pages leads past the end")
    return int(struct.unpack(form, data)[0])


def _page(file: BinaryIO, kind: _Kind, at: int) -> tuple[Page, int]:
    """A page, and where the next one lies."""
    file.seek(at)
    count = _unpack(kind.order + ("Q" if kind.big else "H"), file)
    entry = struct.Struct(kind.order + ("HHQ8s" if kind.big else "HHI4s"))
    start, inline = file.tell(), 8 if kind.big else 4
    if count > 65_536:
        raise ValueError("a page has too many tags")
    table = file.read(count * entry.size)
    after = _unpack(kind.pointer, file)
    if len(table) < count * entry.size:
        raise ValueError("a page is cut short")
    tags: dict[int, tuple[int, ...]] = {}
    places: dict[int, tuple[int, str]] = {}
    for number in range(count):
        tag, code, length, value = entry.unpack_from(table, number * entry.size)
        if code not in _TYPES or not 0 < length <= _MOST_VALUES:
            continue
        form = f"{kind.order}{length}{_TYPES[code]}"
        size = struct.calcsize(form)
        place = start + (number + 1) * entry.size - inline
        if size > inline:
            place = struct.unpack(kind.pointer, value)[0]
            file.seek(place)
            value = file.read(size)
            if len(value) < size:
                raise ValueError("a tag leads past the end")
        tags[tag], places[tag] = struct.unpack(form, value[:size]), (place, form)
    return Page(at, tags, places), after


def main_page(found: list[Page]) -> int:
    """The number of the page that is the picture. ValueError, with the number of pictures, where there is not exactly
    one."""
    full = [number for number, page in enumerate(found) if not page.reduced]
    if len(found) == 1:
        return 0
    if len(full) != 1:
        raise ValueError(f"{len(full)} pages" if full else f"{len(found)} previews")
    return full[0]


def with_first(data: bytes, page: Page) -> bytes:
    """The same file with another page in front, which is the one that decoders read."""
    kind = _kind(data[:8])
    start = 8 if kind.big else 4
    pointer = struct.pack(kind.pointer, page.offset)
    return data if data[start : start + len(pointer)] == pointer else _put(data, start, pointer)


def alone(data: bytes, page: Page) -> bytes:
    """The same file with no page but this one."""
    kind, file = _kind(data[:8]), BytesIO(data)
    file.seek(page.offset)
    count = _unpack(kind.order + ("Q" if kind.big else "H"), file)
    behind = file.tell() + count * (20 if kind.big else 12)
    return _put(with_first(data, page), behind, bytes(8 if kind.big else 4))


def as_unsigned(data: bytes, page: Page) -> bytes:
    """The same file with its samples said to be unsigned: the decoders do not change the bits of such samples."""
    place, form = page.places[FORMAT]
    return _put(data, place, struct.pack(form, *[UNSIGNED] * len(page.tags[FORMAT])))


def _put(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


# libtiff hands its complaints to one handler of the process, which prints them unless another is set.
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_complaints = threading.local()


@contextmanager
def complaints() -> Iterator[list[str]]:
    """The messages of Pillow's libtiff in this thread, instead of on stderr.

    Where its handlers cannot be reached (it is linked into Pillow itself, as on Windows), the list stays empty.
    """
    _listen()
    _complaints.lines = []
    try:
        yield _complaints.lines
    finally:
        _complaints.lines = None


@cache
def _listen() -> Any:
    """Set a handler that collects the messages of listening threads, and passes on all others."""
    import PIL._imaging

    try:
        library = ctypes.CDLL(PIL._imaging.__file__)  # a symbol is also found in the libraries it is linked with
        setter, write = library.TIFFSetErrorHandler, ctypes.CDLL(None).vsnprintf
    except (AttributeError, OSError, TypeError):
        return None
    setter.restype, setter.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    write.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]
    before: list[Any] = []

    def heard(module: bytes | None, form: bytes, values: Any) -> None:
        lines = getattr(_complaints, "lines", None)
        if lines is None:
            if before:
                before[0](module, form, values)
            return
        text = ctypes.create_string_buffer(300)
        write(text, len(text), form, values)
        lines.append(text.value.decode(errors="replace"))

    handler = _Handler(heard)
    if old := setter(ctypes.cast(handler, ctypes.c_void_p)):
        before.append(_Handler(old))
    return handler

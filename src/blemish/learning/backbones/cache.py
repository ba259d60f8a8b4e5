"""Features on disk: memory-mapped, safe under several writers and a kill at any moment, bounded in size.

One file per entry, `<root>/<2 hex digits>/<key>.feat`: a 16-byte header (magic, CRC-32 of the payload) and the levels
of one pyramid as float32, one after the other. A file appears by rename, so that it is whole or absent; two writers of
one key write the same bytes. An entry that fails its checksum is dropped and computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError, DataError
from blemish.files import write_whole
from blemish.outputs import check_writable
from blemish.types import FeatureSpec

_MAGIC = b"BLEMFEA1"
_HEADER = struct.Struct("<8sII")
_TRIM_EVERY = 512  # entries written between two looks at the total size


def default_root() -> Path:
    """`$BLEMISH_CACHE`, by default the user's cache folder."""
    if value := os.environ.get("BLEMISH_CACHE"):
        return Path(value)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "blemish"


def default_limit() -> int:
    """Bytes: `$BLEMISH_CACHE_GIB` GiB, by default 20 GiB. ConfigError where the variable is no positive number."""
    text = os.environ.get("BLEMISH_CACHE_GIB", "20")
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 0 < limit < math.inf:
        raise ConfigError(f"BLEMISH_CACHE_GIB is '{text}'", hint="give the cache's size limit in GiB, such as 20")
    return int(limit * 2**30)


def usable_cache() -> FeatureCache | None:
    """The user's cache; None, with a warning, where its folder is not there and cannot be made."""
    cache = FeatureCache()
    try:
        if not cache.root.is_dir():
            check_writable(cache.root, "BLEMISH_CACHE")
        return cache
    except (DataError, OSError) as error:
        warnings.warn(f"no feature cache: {error}; set BLEMISH_CACHE to a folder", stacklevel=2)
        return None


def feature_key(data: bytes, preprocess: dict[str, Any], identity: str, dtype: str) -> str:
    """sha256 over the file's bytes, the preprocessing, the backbone (name, weights, layers) and the number format."""
    digest = hashlib.sha256(data)
    digest.update(json.dumps([preprocess, identity, dtype], sort_keys=True).encode())
    return digest.hexdigest()


class FeatureCache:
    """A folder of features.

    Args:
        root: the folder; made when the first entry is written.
        limit: bytes, by default `default_limit()`; the entries that were used longest ago go first.
    """

    def __init__(self, root: Path | None = None, limit: int | None = None) -> None:
        self.root = (root or default_root()) / "features"
        self.limit = default_limit() if limit is None else limit
        self._written = 0
        self._failed: set[str] = set()  # what was warned of already

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.feat"

    def get(self, key: str, spec: FeatureSpec) -> tuple[NDArray[np.float32], ...] | None:
        """The maps (C_l, *grid_l) of one sample, read-only and memory-mapped; None where there is no sound entry."""
        path = self._path(key)
        try:
            mapped = np.memmap(path, dtype=np.uint8, mode="r")
        except (FileNotFoundError, ValueError):  # ValueError: an empty file cannot be mapped
            return None
        except OSError as error:
            self._warn("read", error)
            return None
        if len(mapped) != _HEADER.size + 4 * spec.values:
            self._drop(path)
            return None
        magic, crc, _ = _HEADER.unpack(mapped[: _HEADER.size].tobytes())
        payload = mapped[_HEADER.size :]
        if magic != _MAGIC or zlib.crc32(payload.data) != crc:
            self._drop(path)
            return None
        with contextlib.suppress(OSError):  # another process may have dropped it, or this one may only read here
            os.utime(path)  # the time of last use, by which entries are dropped
        values = payload.view(np.float32)
        maps, at = [], 0
        for channels, grid in zip(spec.channels, spec.grids, strict=True):
            size = channels * int(np.prod(grid))
            maps.append(np.asarray(values[at : at + size]).reshape(channels, *grid))
            at += size
        return tuple(maps)

    def put(self, key: str, maps: Sequence[NDArray[np.float32]]) -> None:
        """Write one sample's maps; atomic."""
        payload = b"".join(np.ascontiguousarray(m, dtype=np.float32).tobytes() for m in maps)
        if self._write(self._path(key), _HEADER.pack(_MAGIC, zlib.crc32(payload), 0) + payload):
            self._count()

    def _write(self, path: Path, data: bytes) -> bool:
        """Whether it could be written: a failure makes the run slower, so it is a warning and no error."""
        try:
            write_whole(path, data)
        except DataError as error:
            if not isinstance(error.__context__, FileNotFoundError):  # else another process clears: it is made again
                self._warn("written", error)
            return False
        return True

    def _warn(self, what: str, error: Exception) -> None:
        """Once for reading and once for writing, however many entries there are."""
        if what not in self._failed:
            self._failed.add(what)
            warnings.warn(f"the feature cache could not be {what}: {error}; continuing without it", stacklevel=5)

    def _drop(self, path: Path) -> bool:
        """Whether the file is gone."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._warn("written", error)
            return False
        return True

    def _count(self) -> None:
        self._written += 1
        if self._written % _TRIM_EVERY == 0:
            self.trim()

    def get_graph(self, name: str) -> bytes | None:
        """The ONNX graph kept under a name; None where there is no sound one."""
        return self._get(self._named(name, "onnx"))

    def put_graph(self, name: str, graph: bytes) -> None:
        """Keep an ONNX graph; the file ends with the digest of what stands before."""
        self._put(self._named(name, "onnx"), graph)

    def get_blob(self, name: str) -> bytes | None:
        """The bytes kept under a name: masks, snapshots, what a phase of training has learned."""
        return self._get(self._named(name, "blob"))

    def put_blob(self, name: str, data: bytes) -> None:
        """Keep bytes under a name, as graphs are kept."""
        self._put(self._named(name, "blob"), data)

    def drop_blob(self, name: str) -> None:
        """Forget them."""
        self._drop(self._named(name, "blob"))

    def _get(self, path: Path) -> bytes | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("read", error)
            return None
        return data[:-32] if hashlib.sha256(data[:-32]).digest() == data[-32:] else None

    def _put(self, path: Path, data: bytes) -> None:
        self._write(path, data + hashlib.sha256(data).digest())

    def _named(self, name: str, suffix: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self.root / digest[:2] / f"{digest}.{suffix}"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of every file, whatever another process removes meanwhile."""
        found = []
        for path in self.root.glob("??/*"):
            try:
                stat = path.stat()
            except OSError:  # gone meanwhile, or not ours to look at
                continue
            found.append((stat.st_mtime, stat.st_size, path))
        return sorted(found)

    def describe(self) -> dict[str, Any]:
        """Folder, number of entries, bytes, limit."""
        entries = self._entries()
        return {
            "folder": str(self.root),
            "entries": sum(p.suffix == ".feat" for _, _, p in entries),
            "bytes": sum(size for _, size, _ in entries),
            "limit": self.limit,
        }

    def trim(self, limit: int | None = None) -> int:
        """Drop what was used longest ago until the rest fits; returns the number of files dropped."""
        limit = self.limit if limit is None else limit
        entries = self._entries()
        total = sum(size for _, size, _ in entries)
        dropped = 0
        for _, size, path in entries:
            if total <= limit:
                break
            if self._drop(path):
                total -= size
                dropped += 1
        return dropped

    def clear(self) -> int:
        """Drop everything, left-overs of killed writers too."""
        return self.trim(0)


class Blobs:
    """The cache as a store of bytes by name (`learning.training.Store`)."""

    def __init__(self, cache: FeatureCache) -> None:
        self.get, self.put, self.drop = cache.get_blob, cache.put_blob, cache.drop_blob

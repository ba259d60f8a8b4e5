"""Paths and URLs: what there is to inspect, its bytes, and where results go. fsspec reads all but local paths."""

from __future__ import annotations

import csv
import io
import os
import posixpath
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blemish.data.image.formats import is_unread
from blemish.data.image.modality import Images
from blemish.data.listing import is_image
from blemish.data.modality import Cut, Modality
from blemish.errors import ConfigError, DataError
from blemish.files import read_file, write_whole


def is_url(place: str) -> bool:
    """Whether fsspec has to read it: `s3://bucket/key`, but no `C:\\x`."""
    return "://" in place


def _filesystem(place: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it; ConfigError where the protocol is not known or not installed.

    An S3-compatible server of one's own is named by $AWS_ENDPOINT_URL, with the usual variables for keys.
    """
    import fsspec

    if place.startswith("memory://"):
        raise ConfigError(f"{place}: workers do not see this process's memory", hint="name a folder or a bucket")
    options: dict[str, Any] = {}
    if place.startswith("s3://") and (endpoint := os.environ.get("AWS_ENDPOINT_URL")):
        options["client_kwargs"] = {"endpoint_url": endpoint}
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(place, **options)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{place}: {error}", hint="pip install 'blemish[ray]' brings s3") from None
    return found


def read(place: str) -> bytes:
    """The bytes of a file. DataError where it cannot be read."""
    if not is_url(place):
        return read_file(Path(place))
    system, path = _filesystem(place)
    try:
        data = bytes(system.cat_file(path))
    except FileNotFoundError:
        raise DataError("no such file", path=place, hint="check the path") from None
    except Exception as error:  # what object stores raise has no common base
        raise _failed("read", place, error) from None
    if not data:
        raise DataError("file is empty", path=place, hint="copy it again; it may still have been written to")
    return data


def _failed(what: str, place: str, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DataError(f"cannot be {what} ({reason})", path=place, hint="check name, rights and network")


def write(place: str, data: bytes) -> None:
    """Write a file whole or not at all: by rename here, by one upload elsewhere. DataError where it cannot be."""
    if not is_url(place):
        write_whole(place, data)
        return
    system, path = _filesystem(place)
    if "file" in system.protocol:  # fsspec would write it in place
        write_whole(path, data)
        return
    try:
        system.makedirs(posixpath.dirname(path), exist_ok=True)
        system.pipe_file(path, data)
    except Exception as error:  # what object stores raise has no common base
        raise _failed("written", place, error) from None


def names_in(place: str) -> list[str]:
    """Names of the files right in a folder, sorted; none where there is no such folder."""
    if not is_url(place):
        return sorted(p.name for p in Path(place).iterdir()) if Path(place).is_dir() else []
    system, path = _filesystem(place)
    try:
        return sorted(posixpath.basename(p) for p in system.ls(path, detail=False, refresh=True))
    except FileNotFoundError:
        return []
    except Exception as error:  # what object stores raise has no common base
        raise _failed("listed", place, error) from None


def join(place: str, name: str) -> str:
    """A file in a folder."""
    return f"{place.rstrip('/')}/{name}" if is_url(place) else str(Path(place) / name)


def files(places: list[str], kind: type[Modality[Any]] = Images, cut: Cut | None = None) -> list[str]:
    """The files of every sample that these folders, files and manifests name, in their order; folders are sorted by
    path.

    DataError where there is none in one of them, or a manifest cannot be read. ConfigError for a URL of samples that
    are read from local files only.
    """
    out = [file for place in places for file in _files(place, kind, cut)]
    if twice := len(out) - len(set(out)):
        raise DataError(f"{twice} of {len(out)} {kind.name}s are named twice", hint="name each folder or manifest once")
    if not kind.encoded and (urls := [file for file in out if is_url(file)]):
        hint = "copy them to a folder that all machines share, and name that"
        raise ConfigError(f"{urls[0]}: {kind.name}s are read from files, not from URLs", hint=hint)
    return out


def _files(place: str, kind: type[Modality[Any]], cut: Cut | None) -> list[str]:
    if _is_manifest(place, kind):
        return list(_manifest(place))
    if not is_url(place):
        found = _in_folder(Path(place), kind, cut) if Path(place).is_dir() else [place]
    elif not kind.encoded:
        return [place]
    else:
        system, path = _filesystem(place)
        below = [path] if _is_picture(Path(path)) else _find(system, path, place)
        found = [system.unstrip_protocol(p) for p in below if _is_picture(Path(p))]
    if not found:
        raise DataError(f"no {kind.name}s in this folder", path=place, hint=kind.hint)
    return found


def _is_manifest(place: str, kind: type[Modality[Any]]) -> bool:
    """By its suffix; a CSV file may hold a sample too, unless it has a column `path`."""
    if not place.lower().endswith(".csv"):
        return place.lower().endswith(".parquet")
    return kind.encoded or b"path" in read(place).splitlines()[0].replace(b'"', b"").strip(b"\xef\xbb\xbf").split(b",")


def _in_folder(folder: Path, kind: type[Modality[Any]], cut: Cut | None) -> list[str]:
    """Samples, and files that are not supported: their row holds the error. A warning counts the other files."""
    found = kind.listing(folder, cut)
    if message := found.not_inspected():
        warnings.warn(f"{folder}: {message}", stacklevel=5)
    return [str(path) for path in sorted([*found.files, *(e.path for e in found.unread if e.path is not None)])]


def _is_picture(path: Path) -> bool:
    return is_image(path) or (is_unread(path) and not path.name.startswith("."))


def _find(system: Any, path: str, place: str) -> list[str]:
    """Everything below a prefix, sorted."""
    try:
        return sorted(system.find(path, refresh=True))
    except Exception as error:  # what object stores raise has no common base
        raise _failed("listed", place, error) from None


def _manifest(place: str) -> Iterator[str]:
    """The column `path` of a CSV or Parquet file; relative paths start at the manifest's folder."""
    data = read(place)
    if place.lower().endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        try:
            paths = parquet.read_table(io.BytesIO(data), columns=["path"])["path"].to_pylist()
        except (pyarrow.ArrowException, KeyError, OSError, ValueError) as error:
            raise DataError(f"is no Parquet file with a column 'path' ({error})", path=place) from None
    else:
        try:
            rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
            if "path" not in (rows.fieldnames or ()):
                raise DataError("no column 'path' in the header", path=place, hint="a manifest has a column path")
            paths = [row["path"] for row in rows]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"is no CSV ({error})", path=place, hint="save it as UTF-8") from None
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise DataError("names no image, or has an empty path", path=place, hint="one path in each row")
    base = place.rpartition("/")[0] if is_url(place) else str(Path(place).parent)
    for path in paths:
        yield path if is_url(path) or os.path.isabs(path) else join(base, path)

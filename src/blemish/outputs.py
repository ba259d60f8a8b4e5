"""Where outputs go, checked before any work. Three rules hold for every command:

apart     an output lies in no folder that is read and in no model folder, and a folder of outputs holds nothing that is
          read; links are followed, so that another name of the same folder does not avoid the check
writable  a file can be made there
own       a file that is there is replaced only where Blemish wrote it: a report or figures are recognised by their
content,
          maps by the list that lies beside them (`MAPS`), a run of synthetic defects by its description (`RUN`)

What an earlier run drew is no input: `without_maps` leaves it out of a folder that is read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any

from blemish.errors import DataError
from blemish.files import write_whole

MAPS = ".blemish-maps.json"  # in a folder of maps: the names of those that were written
RUN = ".blemish-run.json"  # in a folder of synthetic defects: the run that made them
ELSEWHERE = "choose another {}"
_JUNK = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # what file managers leave behind

Place = str | Path


def figures(data: bytes) -> bool:
    """Whether these are figures that `evaluate`, `power` or `demo` wrote."""
    return data.startswith(b'{\n "schema": ')


def page(data: bytes) -> bool:
    """Whether this is a page in the style of the reports."""
    return data[:20].lower().startswith(b"<!doctype html") and b"Written by Blemish" in data


def ledger(data: bytes) -> bool:
    """Whether this is the page of a benchmark."""
    return b"\nMade by `blemish bench " in data


def check_file(path: Place, option: str, *, read: Iterable[Place] = (), is_ours: Callable[[bytes], bool]) -> None:
    """DataError where a file cannot or must not be written: see the module. Its folder has to be there."""
    path, hint = Path(path), ELSEWHERE.format(option)
    check_apart(path, option, read)
    if not path.parent.is_dir():
        raise DataError("its folder is not there", path=path, hint="make the folder first")
    check_writable(path, option)
    if path.is_dir():
        raise DataError("is a folder, and a file is to be written", path=path, hint=hint)
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise DataError("is there and is no regular file; not overwritten", path=path, hint=hint)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"is there and cannot be read ({error.strerror})", path=path, hint=hint) from None
    if data and not is_ours(data):
        raise DataError("is there and was not written by Blemish; not overwritten", path=path, hint=hint)


def check_files(
    files: Mapping[str, tuple[Path | None, Callable[[bytes], bool]]], *, read: Iterable[Place] = ()
) -> None:
    """`check_file` for several options, `{option: (path or None, what is Blemish's own)}`; no two may be one file."""
    read = list(read)
    taken: dict[str, str] = {}
    for option, (path, is_ours) in files.items():
        if path is None:
            continue
        check_file(path, option, read=read, is_ours=is_ours)
        other = taken.setdefault(os.path.realpath(path), option)
        if other != option:
            raise DataError(f"is named by {other} and by {option}", path=path, hint="give each a file of its own")


def check_folder(
    path: Place, option: str, *, read: Iterable[Place] = (), is_ours: Callable[[Path], bool] | None = None
) -> None:
    """DataError where a folder of outputs cannot or must not be written to; it is made, with its parents, when the
    first file is. With `is_ours`, a folder that is neither new nor empty has to satisfy it.
    """
    path = Path(path)
    check_apart(path, option, read)
    check_writable(path, option)
    if os.path.lexists(path) and not path.is_dir():
        raise DataError("is no folder", path=path, hint=ELSEWHERE.format(option))
    if is_model(path):
        raise DataError("is a model folder; nothing else is put into it", path=path, hint=ELSEWHERE.format(option))
    if is_ours is not None and (left := strays(path)) and not is_ours(path):
        message = f"holds '{left[0]}', which no earlier run wrote; nothing is put beside it"
        raise DataError(message, path=path, hint=f"{ELSEWHERE.format(option)}, or an empty folder")


def check_apart(path: Place, option: str, read: Iterable[Place]) -> None:
    """DataError where an output lies in a folder that is read, is or holds what is read, or lies in a model folder."""
    path = Path(path)
    identity, above = _identity(path), _above(path)
    hint = ELSEWHERE.format(option)
    for folder in Path(os.path.realpath(path)).parents:
        if is_model(folder):
            raise DataError(f"lies in the model folder {folder}", path=path, hint=hint)
    folders: dict[Path, Path] = {}  # of named files their folders: there may be many files in few folders
    for source in map(Path, read):
        source_identity = _identity(source)
        if source_identity is None:  # no path: the name of a packaged data set, or what will be refused as missing
            continue
        if source_identity == identity:
            raise DataError(f"is itself an input ({source})", path=path, hint=hint)
        if not source.is_dir():
            folders.setdefault(Path(os.path.realpath(source)).parent, source)
            continue
        if source_identity in above:
            raise DataError(f"lies in {source}, which is read", path=path, hint=f"{hint}, outside of what is read")
        folders.setdefault(Path(os.path.realpath(source)).parent, source)
    for folder, source in folders.items():
        if identity is not None and identity in (_identity(folder), *_above(folder)):
            raise DataError(f"holds {source}, which is read", path=path, hint=f"{hint}, apart from what is read")


def check_writable(path: Place, option: str, *, beside: bool = False) -> None:
    """DataError where nothing can be made at `path`: found out by making a file in it, or in the nearest folder above
    that is there, and removing it at once. With `beside` never in it: a model folder is written beside its place.
    """
    path = Path(path)
    inside = path.parent
    prefix = f".{path.name}." if beside else "."
    try:
        if _is_there(path) and path.is_dir() and not beside:
            inside = path
        while not _is_there(inside) and inside != inside.parent:
            inside = inside.parent
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".partial", dir=inside)
        os.close(handle)
        os.unlink(name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = f"check the path and its permissions, or {ELSEWHERE.format(option)}"
        raise DataError(f"cannot be written ({inside}: {reason})", path=path, hint=hint) from None


def _is_there(path: Path) -> bool:
    """Whether there is something by that name; OSError for names that no file can have."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise
    return True


def is_model(folder: Path) -> bool:
    """Whether a folder is one that `inspection.modelfile.save` wrote, damaged perhaps."""
    head = folder / "model.json"
    if not head.is_file():
        return False
    return (folder / "tensors.safetensors").is_file() or b'"digest"' in head.read_bytes()


def strays(folder: Path, known: Iterable[str] = ()) -> list[str]:
    """Sorted names in a folder but the known ones, and but what file managers leave there; none where it is not there.

    OSError where the folder cannot be listed.
    """
    return sorted({*os.listdir(folder)} - {*known} - _JUNK) if folder.is_dir() else []


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file or folder whatever its name; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _above(path: Path) -> set[tuple[int, int]]:
    """Identities of the folders above, links followed."""
    return {found for parent in Path(os.path.realpath(path)).parents if (found := _identity(parent)) is not None}


class MapFolder:
    """A folder of maps, with a list of those that Blemish has written: they may be replaced, and nothing else.

    Args:
        path: the folder; it is made by `begin`.
        option: by which it was named.
        names: of the maps to come, with `/`.
        read: what is inspected.

    DataError where a map cannot go there, or something by its name is there that is on no list.
    """

    def __init__(self, path: Path, option: str, names: Collection[str], *, read: Iterable[Place]) -> None:
        self.path, self.names, self.written = path, set(names), dict[str, str]()
        hint = _check_inside(path, option, self.names, read)
        self.earlier = listed(path)
        for name in sorted(self.names):
            if os.path.lexists(path / name) and not _wrote(path / name, self.earlier.get(name)):
                message = "is there and is no map of an earlier run; not overwritten"
                raise DataError(message, path=path / name, hint=hint)

    def begin(self) -> None:
        """List all maps to come, so that a run that is killed leaves none that is on no list."""
        self._list({**listed(self.path), **dict.fromkeys(self.names, "")})

    def write(self, name: str, data: bytes) -> str:
        """Write one map; its path."""
        write_whole(self.path / name, data)
        self.written[name] = hashlib.sha256(data).hexdigest()[:16]
        return str(self.path / name)

    def end(self) -> None:
        """List those that were written, and no others."""
        others = {name: mark for name, mark in listed(self.path).items() if name not in self.names}
        kept = {name: mark for name, mark in self.earlier.items() if name in self.names}
        self._list({**others, **kept, **self.written})

    def _list(self, marks: Mapping[str, str]) -> None:
        ordered = dict(sorted(marks.items()))
        write_whole(self.path / MAPS, (json.dumps({"schema": 2, "maps": ordered}, indent=0) + "\n").encode())


class NewFolder:
    """A folder of files that somebody else reads and that may hold nothing else. No list of them lies in it, so nothing
    that is there is replaced, not even of an earlier run: arguments and errors as of `MapFolder`.
    """

    def __init__(self, path: Path, option: str, names: Collection[str], *, read: Iterable[Place]) -> None:
        self.path, self.hint = path, _check_inside(path, option, names, read)
        for name in sorted(names):
            self._check(name)

    def write(self, name: str, data: bytes) -> None:
        """Write one file, which still is not there."""
        self._check(name)
        write_whole(self.path / name, data)

    def _check(self, name: str) -> None:
        if os.path.lexists(self.path / name):
            raise DataError("is there already; not overwritten", path=self.path / name, hint=self.hint)


def _check_inside(path: Path, option: str, names: Collection[str], read: Iterable[Place]) -> str:
    """DataError where files of these names, with `/`, cannot go into a folder; the hint for one that is there."""
    check_folder(path, option, read=read)
    hint, root = f"{ELSEWHERE.format(option)}, or an empty folder", os.path.realpath(path)
    for inside in {parent for name in names for parent in Path(name).parents}:
        if not os.path.lexists(path / inside):
            continue
        if not (path / inside).is_dir():
            raise DataError("is there and is no folder", path=path / inside, hint=hint)
        if not Path(os.path.realpath(path / inside)).is_relative_to(root):
            raise DataError("is a link out of the folder", path=path / inside, hint=hint)
    return hint


def _wrote(path: Path, mark: str | None) -> bool:
    """Whether a file is the map that was listed under its name: `mark` tells its bytes, "" stands for a run that did
    not end (bytes unknown), and None for a map that was not listed."""
    if mark is None or not path.is_file():
        return False
    return not mark or hashlib.sha256(path.read_bytes()).hexdigest()[:16] == mark


def stems(files: Sequence[Path], roots: Iterable[Path]) -> list[str]:
    """A name for the map of each file: its path below the folder that all `roots` lie in, with `/`, without suffix.

    `roots` are the folders that were named, and those of named files. Links are not followed and `..` is resolved, so
    that no name leads out of a folder. Names differ where files do, on any file system: files that differ by their
    suffix alone carry it (`a_png`), or a number. The same files have the same names, in whatever order.
    """
    base = _common(roots)
    inside = {file: _below(file, base) for file in sorted(set(files))}
    shared = Counter(_folded(stem) for stem in inside.values())
    folders = {_folded(str(parent)) for stem in inside.values() for parent in PurePosixPath(stem).parents}
    taken = {key for key, number in shared.items() if number == 1}
    found: dict[Path, str] = {}
    for file, stem in inside.items():
        free = chain((f"{stem}_{file.suffix[1:]}",), (f"{stem}_{number}" for number in count(2)))
        alone = shared[_folded(stem)] == 1 and folders.isdisjoint(
            _folded(stem + end) for end in (".png", ".npy", ".txt")
        )
        found[file] = stem if alone else next(name for name in free if _folded(name) not in taken)
        taken.add(_folded(found[file]))
    return [found[file] for file in files]


def below(file: Path, roots: Iterable[Path]) -> str:
    """The path of a file below the folder that all `roots` lie in, as in `stems`, with `/` and its suffix."""
    return _below(file, _common(roots)) + file.suffix


def _common(roots: Iterable[Path]) -> str | None:
    """The folder that all roots lie in; None where there is none, as on two drives."""
    try:
        return os.path.commonpath([os.path.abspath(root) for root in roots])
    except ValueError:
        return None


def _below(file: Path, base: str | None) -> str:
    whole = Path(os.path.abspath(file))
    if base is not None:
        return whole.relative_to(base).with_suffix("").as_posix()
    return PurePosixPath(re.sub(r"\W", "", whole.drive) or "root", *whole.with_suffix("").parts[1:]).as_posix()


def _folded(name: str) -> str:
    """Equal for names that are one to some file system."""
    return unicodedata.normalize("NFC", name).casefold()


def listed(folder: Path) -> dict[str, str]:
    """The maps that runs before have listed in a folder, and what tells their bytes; DataError where the list is
    damaged."""
    try:
        found = json.loads((folder / MAPS).read_text(encoding="utf-8"))["maps"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(mark, str) for mark in found.values()):
        hint = "remove it where the maps beside it are no longer needed"
        raise DataError("is no list of maps", path=folder / MAPS, hint=hint)
    return found


def without_maps(paths: Iterable[Path]) -> list[Path]:
    """Files of a folder without the maps that earlier runs have drawn there; what is left out is a warning."""
    lists: dict[Path, dict[str, str]] = {}
    above: dict[Path, list[Path]] = {}  # by folder, those from it upwards that have a list
    kept, left = [], Counter[Path]()
    for path in paths:
        if path.parent not in above:
            above[path.parent] = [up for up in (path.parent, *path.parent.parents) if (up / MAPS).is_file()]
        for folder in above[path.parent]:
            if folder not in lists:
                lists[folder] = listed(folder)
            if path.relative_to(folder).as_posix() in lists[folder]:
                left[folder] += 1
                break
        else:
            kept.append(path)
    for folder, number in left.items():
        warnings.warn(f"{folder}: {number} maps that an earlier run drew are no inputs and are left out", stacklevel=3)
    return kept


class RunFolder:
    """A folder of synthetic defects, with a description of what made them: never the outputs of two runs in one.

    Args:
        path: the folder; it is made by `begin`.
        kind: of defects; each has a folder of its own, so that several may lie beside each other, of the same inputs.
        run: all that the outputs of this kind depend on but the inputs.
        inputs: (name, file) of each; kinds beside each other have the same ones.
        read: what is read.
        form: how the untouched inputs are written, which all kinds share.

    DataError where `path` holds anything but outputs of this very run, which are made again, or other kinds of defects
    on the same inputs.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        run: Mapping[str, Any],
        inputs: Sequence[tuple[Path, str]],
        *,
        read: Iterable[Place],
        form: object = None,
    ) -> None:
        check_folder(path, "--out", read=read, is_ours=lambda folder: (folder / RUN).is_file())
        self.path, self.kinds = path, {kind: json.loads(json.dumps(run))}
        listing = "".join(f"{name}\0{_size(file)}\n" for file, name in inputs) + repr(form)
        self.inputs = hashlib.sha256(listing.encode("utf-8", "surrogatepass")).hexdigest()
        earlier: dict[str, Any] = {"inputs": self.inputs, "kinds": {}}
        if strays(path, {RUN}):
            earlier = self._earlier()
        hint = f"{ELSEWHERE.format('--out')}, or remove the folder"
        if earlier["inputs"] != self.inputs:
            raise DataError("holds defects on other inputs; nothing is mixed with them", path=path, hint=hint)
        recorded, requested = earlier["kinds"].get(kind), self.kinds[kind]
        if recorded not in (None, requested):
            known = recorded if isinstance(recorded, dict) else None
            names = [name for name in requested if known is None or known.get(name) != requested[name]]
            what = f"{kind} defects of another run ({', '.join(names)} differ)"
            raise DataError(f"holds {what}; nothing is mixed with them", path=path, hint=hint)
        self.kinds = earlier["kinds"] | self.kinds

    def _earlier(self) -> dict[str, Any]:
        try:
            found = json.loads((self.path / RUN).read_text(encoding="utf-8"))
            return {"inputs": str(found["inputs"]), "kinds": dict(found["kinds"])}
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError("describes no run", path=self.path / RUN, hint=ELSEWHERE.format("--out")) from None

    def begin(self) -> None:
        """Write down what the folder holds."""
        text = json.dumps({"schema": 1, "inputs": self.inputs, "kinds": self.kinds}, indent=1, sort_keys=True)
        write_whole(self.path / RUN, f"{text}\n".encode())


def _size(file: Path) -> int:
    """Bytes of a file; 0 where it is not there, which reading it reports."""
    return file.stat().st_size if file.exists() else 0

"""The model folder: written at once or not at all, and checked byte for byte when it is read.

    model.json           what the model is; its own digest and that of every other file
    tensors.safetensors  fitted state of the method, for continuing to learn and for the PyTorch reference
    graph.onnx           the whole chain from uint8 image, or signal, to score and map; none where `graph` is false
    parity.json          the certificate that the graph and PyTorch agree
    run.json             the options of the run, itself a valid recipe
    heads/<name>.onnx    of a model whose categories have heads of their own: the router, and a head for each category

Nothing here is executed on reading: JSON, safetensors and ONNX only.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import CalibrationError, ConfigError, ModelFileError
from blemish.inspection.categories import Categories
from blemish.inspection.conformal import Calibrator
from blemish.inspection.meta import Meta
from blemish.outputs import check_apart, check_writable, is_model, strays

SCHEMA = 1
_LEFT_OVER = 3600  # seconds; a save takes a few
_HEADS = "heads/"
_GRAPH = "graph.onnx"
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
_FILES = ("tensors.safetensors", _GRAPH, "parity.json", "run.json")


@dataclass(frozen=True)
class Model:
    """A fitted model as it lies on disk.

    `meta` holds method, config, backbone, preprocess, data (what it has learned from) and software; `calibrators` one
    entry per number format that the graph was calibrated in, none where too few good images were there. A multi-class
    model has `categories`; where each has a head of its own, `graph` ends at the features and `heads` follow.
    """

    meta: Meta
    calibrators: dict[str, Calibrator]
    tensors: bytes
    graph: bytes
    parity: dict[str, Any]
    run: dict[str, Any]
    categories: Categories | None = None
    heads: dict[str, bytes] = field(default_factory=dict)

    def with_calibrators(self, calibrators: dict[str, Calibrator], categories: Categories | None = None) -> Model:
        """The same model with another threshold, or other ones of its categories."""
        return replace(self, calibrators=calibrators, categories=categories or self.categories)

    @property
    def confidence(self) -> float | None:
        """That of its promises, or, where there are none, the one that was asked for in fit."""
        known = list(self.calibrators.values())
        for entry in self.categories.known.values() if self.categories else ():
            known += [c for c in (*entry.scores, *entry.strangeness) if c]
        return known[0].confidence if known else self.run.get("confidence")

    @property
    def promise(self) -> str | None:
        """What the thresholds promise, in one sentence; None where the model is not calibrated."""
        if self.categories is not None:
            return self.categories.promise
        return next((c.promise for c in self.calibrators.values()), None)

    @property
    def region_promise(self) -> str | None:
        """The same of the regions; of a multi-class model, of all categories as one."""
        return next((c.region_promise for c in self.calibrators.values()), None)

    def describe(self) -> dict[str, Any]:
        """What a person wants to know of a model, in one JSON object."""
        value = self.meta.to_json()
        del value["data"]["content_ids"]
        promise = {k: self.promise if self.categories else c.promise for k, c in self.calibrators.items()}
        regions = {k: c.region_promise for k, c in self.calibrators.items()}
        return {**value, "promise": promise, "region_promise": regions}


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _pretty(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_place(folder: str | Path, *, read: Iterable[str | Path] = ()) -> None:
    """Whether a model can be written there, to be asked before any work: a new or empty folder, or a model that it
    replaces, apart from all that is `read`.

    ModelFileError where anything else is there, DataError where nothing can be written or the place is an input.
    """
    folder, hint = Path(folder), "choose another folder (--out)"
    place = folder.resolve()  # a link to a model stays a link, and "." has a name
    if os.path.lexists(place) and not place.is_dir():
        raise ModelFileError(f"{folder}: is there and is no model folder; not overwritten", hint=hint)
    left = strays(place, () if not is_model(place) else (*_FILES, "model.json", _HEADS.rstrip("/")))
    if left and not is_model(place):
        raise ModelFileError(f"{folder}: is there and is no model folder; not overwritten", hint=hint)
    if left:
        raise ModelFileError(f"{folder}: holds '{left[0]}', which is no part of the model; not overwritten", hint=hint)
    if os.path.ismount(place):
        message = f"{folder}: is a mounted file system, whose root cannot be replaced"
        raise ModelFileError(message, hint=f"name a folder in it, such as {folder / 'part.blemish'}")
    check_apart(folder, "--out", read)
    check_writable(place, "--out", beside=True)


def save(model: Model, folder: str | Path) -> None:
    """Write a model folder; the folder appears whole, or the old one stays.

    ModelFileError where something that is no model folder is in the way.
    """
    check_place(folder)
    folder = Path(folder).resolve()
    contents = {
        "tensors.safetensors": model.tensors,
        **({_GRAPH: model.graph} if model.graph else {}),  # a method that cannot be one graph has none
        "parity.json": _pretty(model.parity),
        "run.json": _pretty(model.run),
        **{f"{_HEADS}{name}.onnx": data for name, data in model.heads.items()},
    }
    head = {
        "schema": SCHEMA,
        **model.meta.to_json(),
        "calibration": {k: c.to_json() for k, c in model.calibrators.items()},
        **({"categories": model.categories.to_json()} if model.categories else {}),
        "files": {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in contents.items()},
    }
    contents["model.json"] = _pretty({**head, "digest": _sha256(_canonical(head))})
    write_folder(contents, folder)


def write_folder(contents: Mapping[str, bytes], folder: Path) -> None:
    """Write files by name into a folder that appears whole, in place of one that is there; ModelFileError where it
    cannot be written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        for name, data in contents.items():
            (scratch / name).parent.mkdir(exist_ok=True)
            with (scratch / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        scratch.chmod(0o755)
        _put_in_place(scratch, folder)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise ModelFileError(
                f"{folder}: cannot be written ({reason})", hint="check permission and space"
            ) from error
        raise


def _put_in_place(scratch: Path, folder: Path) -> None:
    """Rename; an older model is swapped with the new one in one step, where the system supports that.

    Elsewhere it is moved aside first: a folder that is not empty cannot be renamed over.
    """
    if not folder.exists():
        os.rename(scratch, folder)
        return
    if _exchange(scratch, folder):
        shutil.rmtree(scratch)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
    old = aside / folder.name  # inside: not every system renames over an empty folder
    try:
        os.rename(folder, old)
    except BaseException:
        aside.rmdir()
        raise
    try:
        os.rename(scratch, folder)
    except BaseException:
        os.rename(old, folder)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders atomically (renameat2 with RENAME_EXCHANGE); False where the system does not offer it."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_cwd, exchange = -100, 2
    return rename is not None and rename(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0


def _sweep(folder: Path) -> None:
    """Remove the temporary folders of killed saves of this model, an hour after their last write."""
    for suffix in ("partial", "old"):
        for left in folder.parent.glob(f".{folder.name}.????????.{suffix}"):
            if time.time() - left.stat().st_mtime > _LEFT_OVER:
                shutil.rmtree(left, ignore_errors=True)


def load(folder: str | Path) -> Model:
    """Read a model folder; ModelFileError names the file that is missing, damaged or of another version."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelFileError(f"{folder}: no such model folder", hint="`blemish fit DATA --out MODEL` makes one")
    head = _head(folder)
    heads = [name for name in head["files"] if name.startswith(_HEADS)]
    wanted = [name for name in _FILES if name != _GRAPH or head.get("graph", True)]
    files = {name: _checked(folder / name, head["files"].get(name)) for name in (*wanted, *heads)}
    calibration, categories = head.pop("calibration"), head.pop("categories", None)
    for key in ("schema", "files", "digest"):
        del head[key]
    try:
        meta = Meta.from_json(head)
        calibrators = {k: Calibrator.from_json(v) for k, v in calibration.items()}
        several = None if categories is None else Categories.from_json(categories)
    except (KeyError, TypeError, CalibrationError, ConfigError) as error:
        raise ModelFileError(f"{folder / 'model.json'}: calibration is not understood ({error})") from None
    except ModelFileError as error:
        raise ModelFileError(f"{folder / 'model.json'}: {error}", hint="copy or fit it again") from None
    return Model(
        meta=meta,
        calibrators=calibrators,
        tensors=files["tensors.safetensors"],
        graph=files.get(_GRAPH, b""),
        parity=json.loads(files["parity.json"]),
        run=json.loads(files["run.json"]),
        categories=several,
        heads={name.removeprefix(_HEADS).removesuffix(".onnx"): files[name] for name in heads},
    )


def arrays(tensors: bytes) -> dict[str, NDArray[Any]]:
    """The tensors of a model by name, without the package that wrote them; ModelFileError where they are damaged.

    A safetensors file: length of a JSON head, the head (type, shape and place of each), the numbers.
    """
    try:
        start = 8 + int.from_bytes(tensors[:8], "little")
        head = json.loads(tensors[8:start])
        return {
            name: np.frombuffer(tensors[start:][slice(*entry["data_offsets"])], _TYPES[entry["dtype"]])
            .reshape(entry["shape"])
            .copy()
            for name, entry in head.items()
            if name != "__metadata__"
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"tensors.safetensors: is not understood ({error})") from None


def _head(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    try:
        data = path.read_bytes()
        head = json.loads(data)
    except FileNotFoundError:
        raise ModelFileError(f"{folder}: holds no model.json", hint="is this a model folder?") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ModelFileError(f"{path}: damaged: no JSON", hint="copy or fit it again") from None
    if not isinstance(head, dict) or "digest" not in head:
        raise ModelFileError(f"{path}: damaged: the digest is missing")
    if head.get("schema") != SCHEMA:
        raise ModelFileError(
            f"{path}: written in schema {head.get('schema')!r}, this Blemish reads {SCHEMA}",
            hint="use the Blemish that wrote it, or fit again",
        )
    if not _sound(head, data):
        raise ModelFileError(f"{path}: damaged: its content does not match its digest", hint="copy or fit it again")
    if missing := sorted({"files", "calibration", "preprocess", "precision", "method"} - set(head)):
        raise ModelFileError(f"{path}: says nothing of '{missing[0]}'", hint="copy or fit it again")
    return head


def _sound(head: dict[str, Any], data: bytes) -> bool:
    """Whether the digest fits, and the bytes are the very ones that `save` wrote: 1e-05 and 1E-05 are one number, but
    not one file."""
    undigested = {k: v for k, v in head.items() if k != "digest"}
    try:
        return _sha256(_canonical(undigested)) == head["digest"] and _pretty(head) == data
    except ValueError:  # NaN and infinities, which Python reads and `save` never writes
        return False


def _checked(path: Path, entry: dict[str, Any] | None) -> bytes:
    if entry is None:
        raise ModelFileError(f"{path.parent / 'model.json'}: does not list {path.name}")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"{path}: missing", hint="copy or fit the model again") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) != entry["bytes"] or _sha256(data) != entry["sha256"]:
        raise ModelFileError(f"{path}: damaged: its content does not match its digest", hint="copy or fit it again")
    return data

"""What a shared phase has learned, as a file: used in place of learning it again.

`NAME.safetensors` holds the tensors, `NAME.json` beside it how they were made: for which frozen network, under which
options of the method, and the digest of the former. A file that is not what its description says is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blemish.errors import ConfigError, DataError
from blemish.files import read_file, write_whole
from blemish.types import SHIPPED

_FOLDER = Path(__file__).parent / "teachers"


def place(name: str, backbone: str) -> Path:
    """Where a file lies: its path, or for `SHIPPED` that of the one for this frozen network that comes with the
    package. ConfigError where none does.
    """
    path = shipped(backbone) if name == SHIPPED else Path(name)
    if name == SHIPPED and not path.exists():
        raise ConfigError(f"no teacher for '{backbone}' comes with blemish", hint="teacher=scenes distils one here")
    return path


def shipped(backbone: str) -> Path:
    """Where that one lies, or would."""
    return _FOLDER / f"{backbone}.safetensors"


def write(path: Path, data: bytes, recipe: Mapping[str, Any]) -> None:
    """Keep tensors with what is to be known of them: `method`, `backbone`, `options`, and anything else."""
    described = {**recipe, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write_whole(path, data)
    write_whole(path.with_suffix(".json"), (json.dumps(described, indent=1, sort_keys=True) + "\n").encode())


def read(name: str, *, method: str, backbone: str, options: Mapping[str, Any]) -> bytes:
    """The tensors of a file, or of the one that comes with this package (`SHIPPED`), for a method behind a frozen
    network, given by its identity, with these options.

    DataError where the file or its description is missing or one does not fit the other; ConfigError where they fit,
    but were made for another method, network or option.
    """
    path = place(name, backbone.partition("@")[0])
    data, recipe = read_file(path), _described(path.with_suffix(".json"))
    if (digest := hashlib.sha256(data).hexdigest()) != recipe["sha256"]:
        message = f"sha256 is {digest[:12]}…, and its description has {recipe['sha256'][:12]}…"
        raise DataError(message, path=path, hint="it was changed or is incomplete: make or fetch it again")
    wanted = {"method": method, "backbone": backbone, **{k: _plain(options[k]) for k in recipe["options"]}}
    made = {"method": recipe["method"], "backbone": recipe["backbone"], **recipe["options"]}
    for key, value in wanted.items():
        if made[key] != value:
            hint = "make one for these options, or teacher=scenes" if key in recipe["options"] else "teacher=scenes"
            raise ConfigError(f"{path.name} was made for {key} {made[key]}, not {value}", hint=hint)
    return data


def _described(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_file(path))
        complete = isinstance(found, dict) and isinstance(found["options"], dict)
        complete = complete and all(isinstance(found[key], str) for key in ("sha256", "method", "backbone"))
    except (ValueError, KeyError):
        complete = False
    if not complete:
        raise DataError("does not describe what a phase has learned", path=path, hint="it belongs beside its tensors")
    return found  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

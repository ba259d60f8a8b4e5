"""What there is, and what this machine can do: `methods`, `backbones`, `cache`, `doctor`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def emit(value: Any) -> None:
    """One JSON value on one line of stdout."""
    typer.echo(json.dumps(value, allow_nan=False))


def console(*, stderr: bool = False) -> Any:
    """Rich output on stdout, or stderr; wide where no terminal says how wide it is: nothing is cut in a file."""
    from rich.console import Console

    out = Console(stderr=stderr)
    return out if out.is_terminal else Console(width=240, stderr=stderr)


def printable(text: str) -> str:
    """One line, with escapes for invalid characters and for terminal control codes: file names may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    console().print(table)


def methods(as_json: Json = False) -> None:
    """The methods that can be fitted."""
    from blemish.methods import describe, names

    rows = [describe(name) for name in names()]
    emit(rows) if as_json else _table(rows)


def backbones(as_json: Json = False) -> None:
    """The backbones whose weights a package brings; any other timm network by name."""
    from blemish.learning.backbones import describe

    rows = describe()
    emit(rows) if as_json else _table([{k: v for k, v in row.items() if k != "sha256"} for row in rows])


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all cached features.")] = False, as_json: Json = False
) -> None:
    """Show or clear the feature cache."""
    from blemish.learning.backbones.cache import FeatureCache

    folder = FeatureCache()
    removed = folder.clear() if clear else None
    state = folder.describe() | ({"removed": removed} if clear else {})
    if as_json:
        emit(state)
        return
    typer.echo(f"{state['entries']} entries, {state['bytes'] / 2**20:.0f} MiB of {state['limit'] / 2**30:.0f} GiB")
    typer.echo(f"in {state['folder']}" + (f", {removed} files removed" if clear else ""))


def doctor(as_json: Json = False) -> None:
    """What this machine can do, and what is missing."""
    import importlib.util
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from blemish.inspection.engines import best_precision
    from blemish.learning.backbones import describe
    from blemish.learning.backbones.cache import FeatureCache
    from blemish.learning.devices import cards
    from blemish.system import cores

    def found(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    inspecting = {name: found(name) for name in ("numpy", "pillow", "opencv-python-headless", "openvino")}
    learning = {name: found(name) for name in ("onnx", "safetensors", "pydantic")}
    training = {name: found(name) for name in ("torch", "torchvision", "timm")}
    try:
        on_cards = {f"cuda:{i}": name for i, name in enumerate(cards())}
    except (ImportError, OSError) as error:  # a PyTorch whose libraries are not there
        on_cards = {"cuda": f"not known, as PyTorch cannot be loaded: {error}"}
    weights = {b["name"]: b["installed"] for b in describe()}
    state = {
        "blemish": version("blemish"),
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cores": cores(),
        "precision": best_precision(),
        "devices": {"cpu": "yes"} | on_cards,
        "can_inspect": all(inspecting.values()),
        "can_learn": all({**inspecting, **learning}.values()),
        "can_train": all(training.values()),
        "second_engine": importlib.util.find_spec("onnxruntime") is not None,
        "packages": {**inspecting, **learning, **training},
        "weights": weights,
        "cache": FeatureCache().describe(),
    }
    if as_json:
        emit(state)
        return
    for key, value in state.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        typer.echo(f"{key:>14}  {text}")
    if not state["can_train"]:
        what = "methods that are trained by gradient, and backbones other than the default one (PyTorch, 5 GB)"
        typer.echo(f"hint: pip install 'blemish[train]' adds {what}", err=True)

"""`blemish adapt`: a model continues learning, and says which verdicts change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.cli.about import console, emit
from blemish.cli.progress import track
from blemish.errors import DataError

if TYPE_CHECKING:
    from blemish.data.modality import Modality
    from blemish.learning.adapt import Change

SHOWN = 20  # changes in the table on the terminal; the JSON has all


def run(
    model: Path,
    good: str,
    out: Path,
    earlier: list[Path],
    share: float,
    layout: str | None,
    categories: list[str],
    max_pixels: int | None = None,
    file_rate: float | None = None,
) -> None:
    """Write the adapted model and print one JSON object."""
    from blemish.data import registry
    from blemish.detector import Detector, as_records
    from blemish.inspection import modelfile
    from blemish.learning.adapt import changes

    before = Detector.load(model, max_pixels=max_pixels, file_rate=file_rate)
    modelfile.check_place(out, read=[good, *earlier])
    kind = registry.of(before.model.meta)
    # a wrong name is reported before any work
    sources = [source for path in earlier for file in _files(path, kind) for source in kind.sources(file)]
    if not earlier:
        records = as_records(good, layout=layout, categories=categories, cut=kind.cut, kind=kind.name)
        sources = [kind.source(r) for r in records if r.split == "train"]
    after = Detector.from_model(before.model)
    after.adapt(good, share=share, layout=layout, categories=categories, track=track)
    after.save(out)
    found = list(changes(before.inspector(), after.inspector(), sources, track))
    _show(found, len(sources))
    adaptation = after.model.meta.adapted[-1]
    emit(
        {
            "model": str(out),
            "learned_from": adaptation.learned_from,
            "held_out": adaptation.good_images - adaptation.learned_from,
            "promise": after.promise,
            "compared": len(sources),
            "changed": [change.to_json() for change in found],
        }
    )


def _files(path: Path, kind: Modality[Any]) -> list[Path]:
    """A file, those of a folder, or those named in the JSON lines of an earlier `inspect`, each once."""
    if path.is_dir():
        return kind.listing(path, kind.cut).files
    if path.suffix not in (".jsonl", ".json"):
        return [path]
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return list(dict.fromkeys(Path(line["image_path"]) for line in lines if not line["error"]))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from None
    except (ValueError, KeyError, TypeError):
        raise DataError("no JSON lines of `blemish inspect`", path=path) from None


def _show(found: list[Change], compared: int) -> None:
    """A table for people, on stderr."""
    from rich.markup import escape
    from rich.table import Table

    lines: Any = console(stderr=True)
    lines.print(f"{len(found)} of {compared} verdicts change")
    if not found:
        return
    table = Table("image", "before", "after", "p before", "p after", box=None, pad_edge=False)
    for change in found[:SHOWN]:
        p = ["" if value is None else f"{value:.3g}" for value in (change.p_before, change.p_after)]
        table.add_row(escape(str(change.image_path)), change.before or "none", change.after or "none", *p)
    lines.print(table)
    if len(found) > SHOWN:
        lines.print(f"and {len(found) - SHOWN} more")

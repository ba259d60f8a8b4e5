"""`blemish power`: a model and good images in, the smallest defects that it finds out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blemish.cli.about import console
from blemish.cli.progress import track
from blemish.outputs import check_files, figures, page


def run(
    model: Path,
    good: str,
    html: Path | None,
    json_file: Path | None,
    kinds: list[str],
    sizes: list[float],
    contrasts: list[float],
    images: int,
    seed: int,
    layout: str | None,
    categories: list[str],
    threads: int | None,
    max_pixels: int | None,
) -> None:
    """Prints a table to stdout and writes the files that were asked for."""
    from blemish.detector import Detector, as_records
    from blemish.evaluation.power import check_kind, power

    check_files({"--html": (html, page), "--json": (json_file, figures)}, read=[good])
    detector = Detector.load(model, max_pixels=max_pixels)
    check_kind(detector.model)
    records = as_records(good, layout=layout, categories=categories)
    tested = [r for r in records if r.split == "test" and r.label == 0]
    found = power(
        detector.inspector(threads=threads),
        tested or records,
        model=detector.model.describe(),
        kinds=kinds,
        sizes=sizes,
        contrasts=contrasts,
        images=images,
        seed=seed,
        track=track,
    )
    show(found)
    if json_file is not None:
        found.save_json(json_file)
    if html is not None:
        from blemish.evaluation.report.power_page import write_power

        write_power(html, found)


def show(found: Any) -> None:
    """A table for each kind: contrasts down, sizes across, and what is found from which size on."""
    from rich.table import Table

    from blemish.evaluation.power import FOUND

    out = console()
    out.print(
        f"{found.images} good images, {found.false_alarms} of them rejected untouched; promised: {found.promise}",
        markup=False,
    )
    for kind in dict.fromkeys(c.kind for c in found.cells):
        cells_of_kind = [c for c in found.cells if c.kind == kind]
        sizes = sorted({c.size for c in cells_of_kind})
        head = [f"{kind}, contrast", *(f"{size:g} px" for size in sizes), f"{FOUND:.0%} found from"]
        table = Table(*head, box=None, pad_edge=False)
        for contrast in sorted({c.contrast for c in cells_of_kind}):
            cells = {c.size: c for c in cells_of_kind if c.contrast == contrast}
            least = found.smallest(kind, contrast)
            rates = [f"{cells[size].found / cells[size].of:.0%}" for size in sizes]
            table.add_row(f"{contrast:.0%}", *rates, "no size tried" if least is None else f"{least:g} px")
        out.print(table)

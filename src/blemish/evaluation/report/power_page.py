"""The figures of `power` as one self-contained HTML file, in the style of the reports."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path

from blemish.evaluation.power import FOUND, Cell, Power
from blemish.evaluation.report import plots
from blemish.evaluation.report.page import write_page

WORDS = {"scratch": "Scratches", "spot": "Spots", "stain": "Stains"}


def write_power(path: str | Path, found: Power) -> None:
    """Write the page; whole or not at all."""
    height, width = found.image
    write_page(
        path,
        title="What this model would find",
        subtitle=f"Synthetic defects on {found.images} good images of {width} x {height} pixels; method "
        f"{found.model.get('method', '?')}",
        body=[_answers(found), _maps(found), _alarms(found), _examples(found), _note()],
        version=str(found.model.get("software", {}).get("blemish", "")),
    )


def answers(found: Power) -> list[str]:
    """One sentence for each kind: from which size on it is found, at which contrast."""
    out = []
    for kind in dict.fromkeys(c.kind for c in found.cells):
        contrasts = sorted({c.contrast for c in found.cells if c.kind == kind})
        least = {contrast: found.smallest(kind, contrast) for contrast in contrasts}
        seen = [f"from {size:g} px at {contrast:.0%} contrast" for contrast, size in least.items() if size is not None]
        not_seen = [f"{contrast:.0%}" for contrast, size in least.items() if size is None]
        text = f"{WORDS.get(kind, kind.capitalize())} are found in at least {FOUND:.0%} of cases "
        text += ", ".join(seen) if seen else "at no size that was tried"
        out.append(text + (f"; at no size at {', '.join(not_seen)}." if seen and not_seen else "."))
    return out


def _answers(found: Power) -> str:
    lines = "".join(f"<p>{escape(line)}</p>" for line in answers(found))
    conditions = f"Promised: {escape(found.promise)}. Each cell: {found.images} probes, one on each image."
    return f'<section class="verdict whole">{lines}<p class="note">{conditions}</p></section>'


def _maps(found: Power) -> str:
    """A heat map for each kind."""
    out = []
    for kind in dict.fromkeys(c.kind for c in found.cells):
        cells_of_kind = [c for c in found.cells if c.kind == kind]
        sizes, contrasts = sorted({c.size for c in cells_of_kind}), sorted({c.contrast for c in cells_of_kind})
        rates = {(c.size, c.contrast): c.found / c.of for c in cells_of_kind}
        svg = plots.rates(
            [[rates[size, contrast] for size in sizes] for contrast in contrasts],
            [f"{size:g}" for size in sizes],
            [f"{contrast:.0%}" for contrast in contrasts],
            f"{kind}: size in pixels",
            "contrast",
        )
        out.append(f'<section class="whole"><h2>{WORDS.get(kind, kind)}</h2>{svg}</section>')
    return f'<div class="plots">{"".join(out)}</div>'


def _alarms(found: Power) -> str:
    return (
        f'<section class="whole"><h2>Without a defect</h2><p>{found.false_alarms} of the {found.images} untouched '
        f"images were rejected; the model promises {found.promised:g}. Found and located are two things: "
        f"{_located(found)} of the probes that were found have a marked region on them.</p></section>"
    )


def _located(found: Power) -> str:
    total = sum(c.found for c in found.cells)
    return f"{sum(c.located for c in found.cells) / total:.0%}" if total else "none"


def _examples(found: Power) -> str:
    figures = "".join(_figure(cell, picture) for cell, picture in found.examples)
    text = "One image with a probe of each kind and size; the outline is the probe, the colours what the model saw."
    return f'<section><h2>Examples</h2><p class="soft">{text}</p><ul class="cases">{figures}</ul></section>'


def _figure(cell: Cell, picture: bytes) -> str:
    name = f"{cell.kind}, {cell.size:g} px, {cell.contrast:.0%}"
    chip = '<span class="chip ok">found</span>' if cell.found else '<span class="chip fail">missed</span>'
    data = b64encode(picture).decode()
    return (
        f'<li><figure><div class="frame"><img src="data:image/jpeg;base64,{data}" alt="{name}"></div>'
        f"<figcaption><b>{name}</b> {chip}</figcaption></figure></li>"
    )


def _note() -> str:
    return (
        '<section class="whole"><h2>What this means</h2><p>The defects are synthetic: strokes, blobs and clouds that '
        "no method learns from. A real scratch has other edges, lies where wear puts it, and may be easier or harder "
        "to see. The figures compare models, lights and cameras, and tell what is hopeless; whether a line finds its "
        "own defects, only its own defects tell.</p></section>"
    )

"""The ledger's page and plots, made from the tables alone: nothing in them is typed by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median

from blemish import methods
from blemish.evaluation.bench import figures
from blemish.evaluation.bench import multiclass_page as one_for_all
from blemish.evaluation.bench.markdown import figure, of, table, unique
from blemish.evaluation.bench.results import PairRow, Tables
from blemish.files import write_whole

IMAGE = ("I-AUROC", "I-AP", "I-F1max")
PIXEL = ("P-AUROC", "P-AP", "AUPRO@0.3", "AUPRO@0.05", "sPRO@0.05")
LEVEL = 0.05  # of the tests
MARK = "†"
PARTLY = "{} of its cells are not finished: some methods have fewer seeds here than others.\n\n"
EARLIER = (
    f"{MARK} of an earlier version of the method, whose cell has not been run again: not to be compared with the "
    "others, and in no paired test with them.\n\n"
)


def write(tables: Tables, page: Path, *, command: str, missing: int = 0) -> None:
    """The page, and its plots in the folder beside it that has its name; `missing` cells of the suite are not there."""
    folder = page.with_suffix("")
    plots = figures.draw(tables, folder)
    links = {name: f"{folder.name}/{file.name}" for name, file in plots.items()}
    title = page.stem.replace("_", " ").capitalize()
    write_whole(page, text(tables, links, command, missing, title).encode("utf-8"))


def text(tables: Tables, plots: dict[str, str], command: str, missing: int = 0, title: str = "Ledger") -> str:
    """The page; `plots` are links by name."""
    parts = [_head(tables, command, missing, title), _plots(plots)]
    parts += [_set(tables, where) for where in unique(row.where for row in tables.cells)]
    parts += [one_for_all.text(tables), _pairs(tables), _published(tables), _defects(tables), _cost(tables)]
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def _head(tables: Tables, command: str, missing: int, title: str) -> str:
    cells = tables.cells
    first, last = min(c.started for c in cells)[:10], max(c.started for c in cells)[:10]
    one: Callable[[str], str] = lambda key: ", ".join(str(v) for v in unique(getattr(c, key) for c in cells))  # noqa: E731
    seeds = len({c.seed for c in cells})
    return (
        f"# {title}\n\n"
        f"Made by `{command}`: {len(cells)} cells, each in a process of its own, {first} to {last}. Started again, "
        "it runs what is missing and nothing else; `--verify` runs cells again and compares every figure and every "
        "score.\n\n"
        f"{PARTLY.format(missing) if missing else ''}"
        f"{EARLIER if any(c.earlier for c in cells) else ''}"
        f"- Backbone {one('backbone').replace('|', '/')}, number format {one('precision')}, blemish {one('blemish')}, "
        f"{one('processor')} with {one('cores')} cores.\n"
        "- Methods learn from all good training images, last state; no option was chosen on these test images, "
        "unless the page of a method says so. Raw "
        "scores; pixel metrics in source pixels, pooled over the set.\n"
        f"- A figure is the mean over {seeds} seeds ± half their range; brackets hold the 95 % interval of the first "
        "seed (DeLong for I-AUROC, bootstrap over images else). [How figures are made](protocol.md).\n"
        "- ms: processor milliseconds from file to result on one thread; ×: the same over decoding and the bare "
        "backbone, measured in turns. Fit: seconds with the features in the cache. MB: largest memory of the process. "
        "M values, GMAC: what a model holds, and its multiply-adds on one image, both without the backbone.\n"
        f"- The measured line reads features from the cache; on {sum(c.checked for c in cells)} images of all cells "
        "it gave what the deployed graph gives, bit for bit.\n"
    )


def _plots(plots: dict[str, str]) -> str:
    return "\n".join(f"![{name}]({link})\n" for name, link in plots.items())


def _set(tables: Tables, where: str) -> str:
    """One data set: every method, every metric."""
    cells = [c for c in tables.cells if c.where == where]
    overall = of(tables, where=where, scope="overall")
    metrics = [m for m in IMAGE + PIXEL if any(row.metric == m for row in overall)]
    sized = all(c.values is not None for c in tables.cells)
    rows = []
    for label in unique(c.label for c in cells):
        labelled = [c for c in cells if c.label == label]
        found = {m: [r for r in overall if r.label == label and r.metric == m] for m in metrics}
        rows.append(
            [
                f"{label} {MARK}" if any(c.earlier for c in labelled) else label,
                *(figure(found[m], compact=m not in ("I-AUROC", "AUPRO@0.3", "P-AUROC")) for m in metrics),
                f"{median(c.cpu_ms for c in labelled):.1f}",
                "" if labelled[0].ratio is None else f"{median(c.ratio or 0 for c in labelled):.2f}",
                f"{median(c.fit_seconds for c in labelled):.1f}",
                f"{max(c.peak_mb for c in labelled):.0f}",
                *(
                    [f"{max(c.values or 0 for c in labelled) / 1e6:.2f}", f"{max(c.gmacs or 0 for c in labelled):.2f}"]
                    if sized
                    else []
                ),
            ]
        )
    counts = ", ".join(
        f"{' / '.join(str(v) for v in unique(getattr(c, key) for c in cells))} {name}"
        for key, name in (("learned_from", "learned from"), ("good", "good tested"), ("anomalous", "defective tested"))
    )
    setting = "one model for all categories" if cells[0].setting == "multi" else "one category"
    sizes = ", ".join(unique(c.network_input for c in cells))
    more = ["M values", "GMAC"] if sized else []
    note = f"{cells[0].note[:1].upper()}{cells[0].note[1:]}. " if cells[0].note else ""
    alone = "".join(
        f"; {label} with {options}" for label, options in unique((c.label, c.alone) for c in cells) if options
    )
    other = unique((c.label, c.effort) for c in cells if c.effort != "standard")
    efforts = "".join(f"; {label} with effort {effort}" for label, effort in other)
    intro = f"{note}{counts}; {setting}; network input {sizes}{alone}{efforts}."
    return f"## {where}\n{intro}\n\n{table(['method', *metrics, 'ms', '×', 'fit s', 'MB', *more], rows)}"


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values after Holm's correction for that many tests."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


def _shown(tables: Tables) -> list[PairRow]:
    """Pairs with a set's best method among those of default options, and those of one method's options."""
    plain = {c.label for c in tables.cells if c.label == c.method}
    best: dict[tuple[str, str], str] = {}
    for where, metric in unique((r.where, r.metric) for r in tables.pairs):
        rows = [r for r in of(tables, where=where, metric=metric, scope="overall") if r.label in plain]
        means = {n: mean(r.value for r in rows if r.label == n) for n in unique(r.label for r in rows)}
        best[where, metric] = max(means, key=lambda name: means[name]) if means else ""
    return [r for r in tables.pairs if {r.a, r.b} - plain or best[r.where, r.metric] in (r.a, r.b)]


def _pairs(tables: Tables) -> str:
    """Differences on the same images, and which of them remain after correction."""
    if not tables.pairs:
        return ""
    corrected: dict[int, float] = {}
    for family in unique((r.where, r.metric) for r in tables.pairs):
        members = [r for r in tables.pairs if (r.where, r.metric) == family]
        corrected |= dict(zip(map(id, members), holm([r.p_value for r in members]), strict=True))
    rows = []
    for key in unique((r.where, r.metric, r.a, r.b) for r in _shown(tables)):
        pairs = sorted((r for r in tables.pairs if (r.where, r.metric, r.a, r.b) == key), key=lambda r: r.seed)
        first = pairs[0]
        signs = {(r.value > 0) - (r.value < 0) for r in pairs if corrected[id(r)] < LEVEL}
        clear = all(corrected[id(r)] < LEVEL for r in pairs) and len(signs) == 1
        better = first.a if first.value > 0 else first.b
        rows.append(
            [
                *key,
                ", ".join(f"{r.value:+.3f}" for r in pairs),
                f"[{first.low:+.3f}, {first.high:+.3f}]",
                ", ".join(f"{corrected[id(r)]:.2g}" for r in pairs),
                better if clear else "none",
            ]
        )
    intro = (
        "Each row compares two methods on the same test images: DeLong's test for I-AUROC, a bootstrap over images "
        "drawn for both at once for AUPRO. p-values are corrected over all tests of one metric on one set (Holm); a "
        f"difference that does not hold at {LEVEL:g} in every seed is called none. The interval is the first seed's, "
        "without correction. Shown is the best method of each set against all others, and other options against their "
        "method's defaults; every pair stands in `pairs.parquet`."
    )
    head = ["set", "metric", "a", "b", "a − b by seed", "95 %", "p by seed", "better"]
    return f"## Paired tests\n{intro}\n\n{table(head, rows)}"


def _published(tables: Tables) -> str:
    """Figures of the papers beside ours, never in place of them."""
    rows = []
    backbone = ", ".join(unique(c.backbone.partition("@")[0] for c in tables.cells))
    for name in unique(c.method for c in tables.cells if len(methods.parts(c.method)) == 1):
        for paper in methods.get(name).published:
            ours = of(tables, where=paper.where, label=name, scope="overall", metric=paper.metric)
            shown = f"{figure(ours)}, {backbone}" if ours else "that data is not among ours"
            rows.append(
                [name, paper.data, paper.metric, f"{paper.value:.3f}, {paper.backbone} ({paper.source})", shown]
            )
    if not rows:
        return ""
    intro = "They differ in backbone, resolution and often data: no figure of one is a figure of the other."
    return f"## Published figures beside ours\n{intro}\n\n{table(['method', 'data', 'metric', 'paper', 'ours'], rows)}"


def _defects(tables: Tables) -> str:
    """I-AUROC of each defect type against all good images."""
    found = of(tables, scope="defect")
    wheres = [w for w in unique(r.where for r in found) if len({r.part for r in found if r.where == w}) > 1]
    if not wheres:
        return ""
    labels = unique(row.label for row in found)
    rows = [
        [
            where,
            part,
            *(figure([r for r in found if (r.where, r.part, r.label) == (where, part, n)]) for n in labels),
        ]
        for where in wheres
        for part in unique(r.part for r in found if r.where == where)
    ]
    return f"## Defect types: I-AUROC of each against all good images\n{table(['set', 'defect', *labels], rows)}"


def _cost(tables: Tables) -> str:
    """The cost of the cells, and what the feature cache saved."""
    cells = tables.cells
    requested, computed = sum(c.images for c in cells), sum(c.computed for c in cells)
    saved = sum((c.images - c.computed) * c.backbone_cpu_ms for c in cells) / 1000
    wall = sum(c.wall_seconds for c in cells)
    return (
        "## What it cost\n"
        f"{len(cells)} cells took {wall / 60:.0f} minutes together, {median(c.wall_seconds for c in cells):.0f} s "
        f"the usual one and {max(c.wall_seconds for c in cells):.0f} s the longest; the largest took "
        f"{max(c.peak_mb for c in cells):.0f} MB. They looked at {requested:,} images and put {computed:,} of them "
        f"through the backbone; the other {requested - computed:,} came from the feature cache, which saved about "
        f"{saved / 60:.0f} minutes of processor time. Every cell's settings, digests, figures and log stay in its "
        "folder; the tables are `results.parquet` (one row a figure), `cells.parquet` (one row a cell) and "
        "`pairs.parquet` (one row a test), beside the plots.\n"
    )

"""The ledger's part on multi-class models: one for all against one for each, and how well they tell apart."""

from __future__ import annotations

from statistics import mean

from blemish.evaluation.bench.markdown import figure, of, table, unique
from blemish.evaluation.bench.results import ROUTING, Tables

ONE_FOR_ALL = (
    "Each figure is that of the one model on the category's own test images; in brackets, where the suite has them, "
    "that of a model that learned this category alone. Means are over categories."
)


def text(tables: Tables) -> str:
    """The categories of models that learned several, beside models of each alone where the suite has them."""
    text = "".join(_one_for_all(tables, metric) for metric in ("I-AUROC", "P-AUROC", "AUPRO@0.3"))
    text += _routing(tables)
    return f"## One model for several categories\n{ONE_FOR_ALL}\n\n{text}" if text else ""


def _one_for_all(tables: Tables, metric: str) -> str:
    """A metric of each category: of the model of all, and of that of the category alone."""
    unlabelled = {c.where for c in tables.cells if not c.image_metrics} if metric == "I-AUROC" else set()
    found = [row for row in of(tables, scope="category", metric=metric) if row.part not in unlabelled]
    lines: list[list[str]] = []
    labels = unique(row.label for row in found)
    for where in unique(row.where for row in found):
        parts = unique(row.part for row in found if row.where == where)
        pairs: dict[str, list[tuple[float, float | None]]] = {label: [] for label in labels}
        for part in parts:
            cells = []
            for label in labels:
                both = [r for r in found if (r.where, r.part, r.label) == (where, part, label)]
                names = (part, f"{where.removesuffix(': all in one')}: {part}")
                alone = [r for n in names for r in of(tables, where=n, scope="overall", metric=metric, label=label)]
                cells.append(figure(both, compact=True) + (f" ({figure(alone, compact=True)})" if alone else ""))
                if both:
                    each = mean(r.value for r in alone) if alone else None
                    pairs[label].append((mean(r.value for r in both), each))
            lines.append([where, part, *cells])
        if len(parts) > 1:
            lines.append([where, "**mean**", *map(_means, pairs.values())])
    return f"{table([f'{metric}: set', 'category', *labels], lines)}\n" if lines else ""


def _means(pairs: list[tuple[float, float | None]]) -> str:
    if not pairs:
        return ""
    each = [alone for _, alone in pairs if alone is not None]
    text = f"{mean(both for both, _ in pairs):.3f}"
    return f"{text} ({mean(each):.3f})" if len(each) == len(pairs) else text


def _routing(tables: Tables) -> str:
    """How well categories are told apart."""
    found = [r for r in tables.results if r.metric in ROUTING and r.scope == "overall"]
    found = [r for r in found if any(c.where == r.where and c.setting == "multi" for c in tables.cells)]
    keys = unique((r.where, r.label) for r in found)
    metrics = [m for m in ROUTING if any(r.metric == m for r in found)]
    rows = [
        [*key, *(figure([r for r in found if (r.where, r.label, r.metric) == (*key, m)]) for m in metrics)]
        for key in keys
    ]
    return f"{table(['set', 'method', *metrics], rows)}\n" if rows else ""

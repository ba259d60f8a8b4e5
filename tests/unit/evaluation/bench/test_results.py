"""Tables and page from cells on disk: what stands in them is what the cells measured."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from blemish.errors import DataError
from blemish.evaluation.bench import figures, ledger, results, store
from blemish.evaluation.bench import multiclass_page as one_for_all
from blemish.evaluation.metrics import Difference, PixelCounts, delong, delong_paired
from blemish.evaluation.metrics.pixels import aupro_paired

LABELS = [0] * 30 + [1] * 30
NAMES = {"padim": 2.0, "patchcore": 0.5}
_marks = count()


def write_cell(folder: Path, where: str, method: str, seed: int, *, pixel: bool, image_metrics: bool = True) -> Path:
    """A cell of made scores: `NAMES` says how far its defects stand out."""
    rng = np.random.default_rng([len(where), seed, list(NAMES).index(method)])
    scores = rng.normal(size=60) + NAMES[method] * np.array(LABELS)
    area = delong(LABELS, scores)._asdict()
    image = {"auroc": area, "ap": {"value": 0.5}, "f1max": {"value": 0.5}}
    overall: dict[str, Any] = {"good": 30, "anomalous": 30, "image": image}
    by_defect = {name: {"anomalous": 15, "auroc": area} for name in ("crack", "spot")}
    arrays = {}
    if pixel:
        counts = PixelCounts(1.0)
        for label in LABELS:
            mask = np.zeros((12, 12), np.uint8)
            mask[2:6, 2:6] = label
            counts.update(rng.random((12, 12)).astype(np.float32) + np.float32(NAMES[method]) * mask / 4, mask)
        arrays = counts.to_arrays()
        one = {"value": 0.5, "low": 0.1, "high": 0.9}
        overall["pixel"] = {name: one for name in ("auroc", "aupro_0.05", "ap", "f1max")}
        overall["pixel"] |= {"aupro_0.3": {**one, "value": counts.aupro().value}}
        overall["pixel"] |= {"images": 60, "regions": 30, "clipped": 0}
    images = io.BytesIO()
    ids = [f"{i:03d}" for i in range(60)]
    parquet.write_table(pa.table({"id": ids, "label": LABELS, "score": scores}), images)
    pixels = io.BytesIO()
    np.savez_compressed(pixels, **arrays)
    record = {
        "digest": f"{next(_marks):016x}", "set": where, "where": where, "category": None, "setting": "single",
        "seed": seed, "method": method, "label": method, "image_metrics": image_metrics, "note": "made up",
        "ranked": True,
        "weights": "w", "network_input": "64x48", "precision": "f32", "started": "2026-01-01T00:00:00", "peak_mb": 9.0,
        "backbone": {"identity": "fake"}, "data": {"digest": "d", "learned_from": 5},
        "overall": overall, "by_category": {}, "by_defect": by_defect,
        "features": {"images": 70, "computed": 40 * (method == "padim"), "seconds": 1.0},
        "fit": {"seconds": 1.0, "peak_mb": 8.0}, "wall_seconds": 3.0, "checked": {"images": 4}, "unread": [],
        "size": {"values": 1000, "gmacs": 0.1, "backbone_gmacs": 0.3},
        "inspect": {"cpu_ms": 5.0, "backbone_cpu_ms": 4.0, "ratio": 1.25},
        "machine": {"cores": 2, "processor": "x"}, "software": {"blemish": "0"},
    }  # fmt: skip
    cell_folder = folder / f"{where}-{method}-{seed}"
    files = {"cell.json": json.dumps(record).encode(), "images.parquet": images.getvalue()}
    store.write(cell_folder, {**files, "pixels.npz": pixels.getvalue()})
    return cell_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("cells")
    sets = [("tiles", True, True), ("cells", False, True), ("screws", True, False)]
    return [
        write_cell(folder, where, method, seed, pixel=pixel, image_metrics=images)
        for where, pixel, images in sets
        for method in NAMES
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def _fewer_draws() -> Iterator[None]:
    """What a table says of a difference takes 10,000 draws; here a hundred tell as much."""

    def fewer(*counts: PixelCounts, replicas: int, **more: Any) -> Difference:
        assert replicas == 10_000
        return aupro_paired(*counts, replicas=100, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "aupro_paired", fewer)
        yield


@pytest.fixture(scope="module")
def tables(folders: list[Path], _fewer_draws: None) -> results.Tables:
    return results.collect(folders)


@pytest.fixture(scope="module")
def written(tables: results.Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page and its plots."""
    folder = tmp_path_factory.mktemp("written")
    ledger.write(tables, folder / "ledger.md", command="blemish bench x")
    return folder


def test_every_figure_is_a_row(tables: results.Tables, folders: list[Path]) -> None:
    assert len(tables.cells) == len(folders)
    rows = [r for r in tables.results if r.scope == "overall" and r.metric == "I-AUROC"]
    expected = {store.record(f)["digest"]: store.record(f)["overall"]["image"]["auroc"]["value"] for f in folders}
    assert {r.digest: r.value for r in rows}.items() <= expected.items()
    assert {r.where for r in rows} == {"tiles", "cells"}  # image labels of the screws say nothing
    assert {r.part for r in tables.results if r.scope == "defect"} == {"crack", "spot"}


def test_pairs_are_tests_on_the_same_images(tables: results.Tables, folders: list[Path]) -> None:
    found = {(r.where, r.metric, r.seed): r for r in tables.pairs}
    image, pixel = "I-AUROC", "AUPRO@0.3"
    assert {key[:2] for key in found} == {("tiles", image), ("tiles", pixel), ("cells", image), ("screws", pixel)}
    one, other = (store.images(f) for f in folders if f.name.startswith("cells-") and f.name.endswith("-0"))
    expected = delong_paired(one["label"], one["score"], other["score"])
    assert found["cells", "I-AUROC", 0].p_value == expected.p_value
    assert found["cells", "I-AUROC", 0].value > 0


def test_known_pairs_are_taken_over(tables: results.Tables, folders: list[Path]) -> None:
    marked = [replace(row, p_value=0.5) for row in tables.pairs if row.metric == "AUPRO@0.3"]
    again = results.collect(folders, known=results.Tables(pairs=tuple(marked)))
    assert {r.p_value for r in again.pairs if r.metric == "AUPRO@0.3"} == {0.5}


def test_a_run_goes_on_from_tables_alone(tables: results.Tables, folders: list[Path], tmp_path: Path) -> None:
    results.write(results.collect(folders[:6]), tmp_path)  # on another machine, whose folders are not here
    known, marks = results.read(tmp_path), [row.digest for row in tables.cells]
    both = results.collect(folders[6:], known, marks)
    assert both.cells == tables.cells
    assert both.results == tables.results
    assert [p for p in both.pairs if p.metric == "I-AUROC"] == [p for p in tables.pairs if p.metric == "I-AUROC"]
    assert results.collect(folders[6:], known, marks[6:]).cells == tables.cells[6:]


def test_rows_of_an_earlier_version_stay_until_their_cell_is_run_again(
    tables: results.Tables, folders: list[Path]
) -> None:
    """Marked, without paired tests against new ones; what the suite no longer has goes."""
    known, marks = results.collect(folders[:2]), [f"new {i}" for i in range(2)]
    old = known.cells[0]
    waiting = {(old.where, old.label, old.seed): 0}
    found = results.collect(folders[2:], known, [*marks, *(row.digest for row in tables.cells[2:])], waiting)
    assert [row.earlier for row in found.cells] == [True] + [False] * (len(tables.cells) - 2)
    assert found.cells[0] == replace(old, earlier=True)
    assert {row.digest for row in found.scores} == {row.digest for row in found.cells}
    assert old.digest not in {mark for pair in found.pairs for mark in (pair.digest_a, pair.digest_b)}
    page = ledger.text(found, {}, "blemish bench x", missing=2)
    assert f"| {old.label} {ledger.MARK} |" in page
    assert f"{ledger.MARK} of an earlier version" in page
    again = results.collect(folders, found, [row.digest for row in tables.cells])
    assert not any(row.earlier for row in again.cells)


def test_tables_survive_parquet(tables: results.Tables, tmp_path: Path) -> None:
    results.write(tables, tmp_path)
    assert results.read(tmp_path) == tables
    assert results.read(tmp_path / "none") == results.Tables()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, None], ids=["empty", "half", "missing"])
@pytest.mark.parametrize(
    ("name", "read"), [("cell.json", store.record), ("images.parquet", store.images), ("pixels.npz", store.pixels)]
)
def test_a_file_of_a_cell_that_was_cut_short_is_named(
    name: str, read: Any, share: float | None, tmp_path: Path
) -> None:
    folder = write_cell(tmp_path, "cells", "padim", 0, pixel=True)
    assert read(folder)
    whole = (folder / name).read_bytes()
    if share is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=rf"{name}: is no sound"):
        read(folder)


@pytest.mark.parametrize("name", results.ROWS)
def test_a_table_that_was_cut_short_is_named(tables: results.Tables, name: str, tmp_path: Path) -> None:
    results.write(tables, tmp_path)
    file = tmp_path / f"{name}.parquet"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match=rf"{name}.parquet: is no sound table"):
        results.read(tmp_path)


def test_the_page_says_what_the_tables_say(tables: results.Tables, written: Path) -> None:
    page = (written / "ledger.md").read_text(encoding="utf-8")
    assert "Made by `blemish bench x`: 12 cells" in page
    wanted = {"where": "cells", "label": "padim", "scope": "overall", "metric": "I-AUROC"}
    aurocs = [r for r in tables.results if wanted.items() <= vars(r).items()]
    a, b = (r.value for r in aurocs)
    figure = f"{(a + b) / 2:.3f} ± {abs(a - b) / 2:.3f} [{aurocs[0].low:.3f}, {aurocs[0].high:.3f}]"
    section = page.split("## cells\n")[1].split("##")[0]
    assert f"| padim | {figure} |" in section
    assert "Made up. 5 learned from, 30 good tested, 30 defective tested" in section
    assert "| cells | I-AUROC | padim | patchcore | +" in page
    assert "0.979, WideResNet-50-2 (Roth et al. 2022)" in page
    assert "looked at 840 images and put 240 of them through the backbone" in page
    for name in ("accuracy", "ranks", "defects"):
        assert f"](ledger/{name}.svg)" in page
        assert (written / "ledger" / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.slow
def test_plots_are_the_same_bytes_each_time(tables: results.Tables, written: Path, tmp_path: Path) -> None:
    ledger.write(tables, tmp_path / "ledger.md", command="x")
    files = list(written.rglob("*.svg"))
    assert files
    for file in files:
        assert file.read_bytes() == (tmp_path / "ledger" / file.name).read_bytes()


def test_a_difference_counts_only_when_every_seed_shows_it(tables: results.Tables) -> None:
    row = next(r for r in tables.pairs if r.where == "cells")
    weak = [replace(row, seed=s, p_value=p) for s, p in ((0, 1e-6), (1, 0.9))]
    strong = [replace(row, seed=s, p_value=1e-6) for s in (0, 1)]
    assert "| none |" in ledger._pairs(results.Tables((), (), tuple(weak)))
    assert "| padim |" in ledger._pairs(results.Tables((), (), tuple(strong)))


def test_holm() -> None:
    assert ledger.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert ledger.holm([]) == []


def test_one_model_stands_beside_one_each(tables: results.Tables) -> None:
    multi = replace(tables.cells[0], where="all: all in one", setting="multi", image_metrics=True)
    cells = (multi, replace(multi, where="a", setting="single"))
    row = replace(tables.results[0], label="padim", seed=0, low=None, high=None, metric="I-AUROC", part="")
    rows = (
        replace(row, where=multi.where, scope="category", part="a", value=0.75),
        replace(row, where=multi.where, scope="category", part="b", value=0.25),
        replace(row, where="a", scope="overall", value=0.875),
        replace(row, where="all: b", scope="overall", value=0.5),
        replace(row, where=multi.where, scope="overall", metric="routed right, good", value=1.0),
        replace(row, where="a", scope="overall", metric="routed right, good", value=1.0),
    )
    text = one_for_all.text(results.Tables(rows, cells))
    assert "| all: all in one | a | 0.750 (0.875) |" in text
    assert "| all: all in one | b | 0.250 (0.500) |" in text
    assert "| all: all in one | **mean** | 0.500 (0.688) |" in text
    assert "| all: all in one | padim | 1.000 |" in text
    assert text.count("| padim | 1.000 |") == 1  # a model of one product has nothing to tell apart
    assert one_for_all.text(results.Tables()) == ""
    dated = (replace(cells[1], image_metrics=False), cells[0])
    text = one_for_all.text(results.Tables(rows, dated))
    assert "| all: all in one | a |" not in text  # labels that say something else than defects
    assert "| all: all in one | b |" in text


@pytest.mark.slow
def test_options_of_models_of_one_category_are_told(tables: results.Tables, tmp_path: Path) -> None:
    shorter = [replace(c, alone="steps = 5" if c.label == "padim" else "") for c in tables.cells]
    text = ledger.text(replace(tables, cells=tuple(shorter)), {}, "x")
    assert text.count("; padim with steps = 5.") == len({c.where for c in tables.cells})
    assert "with steps" not in ledger.text(tables, {}, "x")
    results.write(tables, tmp_path)
    kept = parquet.read_table(tmp_path / "cells.parquet").drop_columns(["alone", "code", "values"])
    parquet.write_table(kept, tmp_path / "cells.parquet")
    older = tuple(replace(c, alone="", code="", values=None) for c in tables.cells)
    assert results.read(tmp_path) == replace(tables, cells=older)  # of a version that knew none of them


def test_an_effort_that_is_not_the_standard_one_is_told(tables: results.Tables) -> None:
    longer = [replace(c, effort="long" if c.label == "padim" else c.effort) for c in tables.cells]
    text = ledger.text(replace(tables, cells=tuple(longer)), {}, "make bench")
    assert "; padim with effort long" in text
    assert text.count("with effort") == len({c.where for c in longer if c.label == "padim"})
    assert "with effort" not in ledger.text(tables, {}, "make bench")


def test_names_of_near_dots_stand_apart_in_the_order_of_the_dots() -> None:
    _, (axis,) = figures._figure(4, 4)
    dots = [(0.5, 1.0, "a"), (0.5001, 2.0, "b"), (0.5002, 1.5, "c"), (0.9, 3.0, "d")]
    for y, x, _ in dots:
        axis.plot(x, y, "o")
    figures._beside(axis, dots, 0.1)
    places = {text.get_text(): text.get_position()[1] for text in axis.texts}
    assert sorted(places, key=lambda name: places[name]) == ["a", "b", "c", "d"]
    heights = sorted(places.values())
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 0.1 - 1e-9
    assert 0 <= heights[0] < heights[-1] <= 1

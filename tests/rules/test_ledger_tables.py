"""The committed tables of the ledger are those of the code: no cell of them would be run again."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'blemish[bench]'")

from blemish.evaluation.bench import cell as cells
from blemish.evaluation.bench import results, suite

ROOT = Path(__file__).resolve().parents[2]
SUITES = ["ledger", "variants", "ablations", "several", "several_ablations", "strength"]


@lru_cache
def table(name: str) -> tuple[results.CellRow, ...]:
    return results.read(ROOT / "docs" / name).cells


@lru_cache
def entries(name: str) -> dict[str, suite.Entry]:
    return {entry.label: entry for entry in suite.read(ROOT / "benchmarks" / f"{name}.toml").entries}


@pytest.mark.parametrize("name", SUITES)
def test_the_code_of_every_cell_is_the_method_s(name: str) -> None:
    """Or the row says that an earlier version was measured."""
    rows = [row for row in table(name) if row.code and not row.earlier]
    assert {row.label for row in table(name)} <= set(entries(name))
    for label, setting, code in sorted({(row.label, row.setting, row.code) for row in rows}):
        entry = entries(name)[label]
        options = {**entry.options, **(entry.alone if setting == "single" else {})}
        assert cells.method_digest(entry.name, options) == code, f"{label}: its cells would be run again"


@pytest.mark.parametrize(("name", "where"), [("ledger", "aws_aliens"), ("several", "bsdata_s")])
def test_cells_of_a_small_set_are_found_in_the_table(name: str, where: str, shared_data: Path) -> None:
    if not (shared_data / where).is_dir():
        pytest.skip(f"../shared/data/{where} is not there")
    chosen = suite.read(ROOT / "benchmarks" / f"{name}.toml", seeds=[0])
    (data,) = [data for data in chosen.data if data.name == where]
    known = {row.digest: row for row in table(name) if row.where.startswith(where) and not row.earlier}
    set_cells = list(suite.Suite(name, chosen.entries, (data,), (0,), chosen.settings, chosen.fit).cells())
    records = set_cells[0].records()
    found = [known.get(cells.digest(cell, records)) for cell in set_cells]
    assert len([row for row in found if row]) == len([row for row in known.values() if row.seed == 0])
    assert all(row is None or row.label == cell.method.label for row, cell in zip(found, set_cells, strict=True))

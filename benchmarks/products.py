"""The six products that the scripts on several categories share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blemish.data import layouts
from blemish.types import Record

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
SOURCES = {
    "mtd": (str(DATA / "mtd"), None),
    "ELPV mono": ("elpv", "mono"),
    "ELPV poly": ("elpv", "poly"),
    "bsdata_s": (str(DATA / "bsdata_s"), None),
    "deeppcb_s": (str(DATA / "deeppcb_s"), None),
    "aws_aliens": (str(DATA / "aws_aliens"), None),
}


def records_of(name: str) -> list[Record]:
    """All records of a product."""
    source, group = SOURCES[name]
    return [r for r in layouts.index(source) if group is None or r.group == group]


def as_category(name: str) -> list[Record]:
    """The same, each under the product's name as its category."""
    return [replace(r, id=f"{name}/{r.id}", group=name) for r in records_of(name)]

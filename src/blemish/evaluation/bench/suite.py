"""A suite: what is run against what, read from a small TOML file.

name = "ledger"
methods = ["all"]                          # names, "all", or tables as below
seeds = [0, 1, 2]
settings = ["single"]                      # single: one model per category; multi: one for all of them

[fit]                                      # options of the line, as in run.json
image_size = "256"

[[data]]
name = "tiles, by tile"
source = "../../shared/data/mtd"           # from the suite's folder, or a packaged set's name
split = "random80"                         # optional, as are layout, categories, settings, seeded, note, ...

[[method]]                                 # a method with other options than its defaults, beside `methods`
name = "a-method"
label = "a-method, finest grid"
options = { level = 0 }
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from blemish import config, methods
from blemish.data import layouts
from blemish.data.image.modality import Images
from blemish.errors import ConfigError, DataError
from blemish.learning.options import FitOptions
from blemish.learning.sources.base import Learning
from blemish.learning.sources.registry import learning_for
from blemish.types import Record

Setting = Literal["single", "multi"]


@dataclass(frozen=True)
class Entry:
    """One row of the tables: a method with its options."""

    name: str
    label: str = ""  # empty: the name
    options: dict[str, Any] = field(default_factory=dict)
    alone: dict[str, Any] = field(default_factory=dict)  # options instead of those, where one category is learned alone
    fit: dict[str, Any] = field(default_factory=dict)  # options of the line, before the suite's
    masks_only: bool = False  # run on the sets that have masks alone
    first_seed_only: bool = False

    def __post_init__(self) -> None:
        for options in (self.options, {**self.options, **self.alone}):
            FitOptions(method=self.name, options=options).check_parts()
        config.build(FitOptions, self.fit)
        object.__setattr__(self, "label", self.label or self.name)


@dataclass(frozen=True)
class DataSet:
    """One data set of a suite."""

    name: str
    source: str = ""
    of: tuple[str, ...] = ()  # instead of a source: names of other sets, which become the categories of this one
    layout: str | None = None
    split: str | None = None
    categories: tuple[str, ...] = ()  # none = all
    settings: tuple[Setting, ...] = ()  # none = the suite's
    seeded: bool = False  # a seed draws the split too
    image_metrics: bool = True  # False: image labels mean something other than defects here; `note` says what
    methods: tuple[str, ...] = ()  # none = all of the suite
    ranked: bool = True  # False: another set of the suite shows the same images, so it does not count in ranks
    note: str = ""

    def __post_init__(self) -> None:
        if bool(self.source) == bool(self.of):
            raise ConfigError(f"data set '{self.name}' needs either a source or a list `of` other sets")


@dataclass(frozen=True)
class Cell:
    """One job: one method learns one category (or all) of one data set with one seed."""

    data: DataSet
    parts: tuple[DataSet, ...]  # what `data.of` names
    category: str | None
    setting: Setting
    seed: int
    method: Entry
    fit: dict[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """Values for FitOptions."""
        line = {"calibration": "none", **self.fit, **self.method.fit}
        options = {**self.method.options, **self.alone}
        return {**line, "method": self.method.name, "seed": self.seed, "options": options}

    @property
    def alone(self) -> dict[str, Any]:
        """Options of the method that it has here because one category is learned alone."""
        return self.method.alone if self.setting == "single" else {}

    @property
    def learning(self) -> Learning:
        """The learning half of the modality that the method takes."""
        first = FitOptions(method=self.method.name, options=self.options["options"]).parts[0]
        cls = methods.get(first.method)
        return learning_for(cls.wants(config.build(cls.Config, first.options)))

    @property
    def where(self) -> str:
        """The set, and the category where it is one of several."""
        if self.category is not None:
            return f"{self.data.name}: {self.category}"
        return f"{self.data.name}: all in one" if self.setting == "multi" else self.data.name

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.where} · {self.method.label} · seed {self.seed}"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """What `dataclasses.asdict` made, after a way through JSON."""
        parts = tuple(config.build(DataSet, part) for part in value["parts"])
        nested = {"data": config.build(DataSet, value["data"]), "method": config.build(Entry, value["method"])}
        return cls(**{**value, **nested, "parts": parts})

    def records(self) -> list[Record]:
        """What the cell learns from and is measured on."""
        if self.parts:
            loaded = [(part.name, record) for part in self.parts for record in self._load(part)]
            found = [replace(record, id=f"{name}/{record.id}", group=name) for name, record in loaded]
        else:
            found = self._load(self.data)
        if self.category is not None:
            return [r for r in found if r.group == self.category]
        return found if self.setting == "multi" else [replace(r, group=None) for r in found]

    def _load(self, data: DataSet) -> list[Record]:
        """The records of one set, of the modality that the method takes."""
        options, seed = config.build(FitOptions, self.options), self.seed if data.seeded else 0
        kind = self.learning.modality.name
        found = layouts.index(data.source, data.layout, data.split, seed=seed, cut=options.cut, kind=kind)
        return layouts.select(found, data.categories)


@dataclass(frozen=True)
class Suite:
    """What `read` gives."""

    name: str
    entries: tuple[Entry, ...]
    data: tuple[DataSet, ...]
    seeds: tuple[int, ...] = (0,)
    settings: tuple[Setting, ...] = ("single",)
    fit: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, names in (("method", [e.label for e in self.entries]), ("data set", [d.name for d in self.data])):
            if not names:
                raise ConfigError(f"a suite needs at least one {kind}")
            if twice := sorted({n for n in names if names.count(n) > 1}):
                raise ConfigError(f"{kind} '{twice[0]}' is listed twice", hint="give it a label or name of its own")
        if unknown := sorted(set(self.fit) & {"method", "seed", "options"}):
            raise ConfigError(f"'{unknown[0]}' stands in [fit]", hint="methods, seeds and [[method]] say it")
        config.build(FitOptions, self.fit)

    def cells(self) -> Iterator[Cell]:
        """All jobs: seed by seed, so that a suite that is stopped early has every method once."""
        named = {d.name: d for d in self.data}
        for seed in self.seeds:
            for data in self.data:
                if missing := sorted(set(data.of) - set(named)):
                    raise ConfigError(f"'{data.name}' is made of '{missing[0]}', which is no data set of the suite")
                parts = tuple(named[n] for n in data.of)
                each = [Cell(data, parts, None, "multi", seed, entry, self.fit) for entry in self._entries(data, seed)]
                for alike in _by_modality(each):  # methods that see the same records
                    records = alike[0].records()
                    for setting, category in self._jobs(data, records):
                        for cell in alike:
                            if not cell.method.masks_only or any(r.mask for r in records):
                                yield replace(cell, category=category, setting=setting)

    def _entries(self, data: DataSet, seed: int) -> list[Entry]:
        """What is run on a data set with a seed."""
        return [
            entry
            for entry in self.entries
            if (seed == self.seeds[0] or not entry.first_seed_only) and (not data.methods or entry.name in data.methods)
        ]

    def _jobs(self, data: DataSet, records: Sequence[Record]) -> list[tuple[Setting, str | None]]:
        groups = sorted({r.group for r in records if r.group and r.split == "train"})
        wanted = data.settings or self.settings
        if len(groups) < 2:
            return [("single", None)]
        jobs: list[tuple[Setting, str | None]] = []
        if "single" in wanted and not data.of:  # the parts are sets of the suite themselves
            jobs += [("single", group) for group in groups]
        return jobs + ([("multi", None)] if "multi" in wanted else [])


def _by_modality(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells of one data set in groups that take the same modality, cut in the same way."""
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        options = cell.options
        cut = tuple(options.get(name) for name in ("window", "file_rate"))
        found.setdefault((cell.learning.modality.name, cut), []).append(cell)
    return list(found.values())


def read(path: Path, only_methods: Sequence[str] = (), seeds: Sequence[int] = ()) -> Suite:
    """A suite file; `only_methods` and `seeds` replace its own. ConfigError naming the file and what is wrong."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no TOML ({error})", hint="a suite is a TOML file") from None
    if only_methods:
        raw = {**raw, "methods": list(only_methods), "method": []}
    if seeds:
        raw["seeds"] = list(seeds)
    try:
        return _built(raw, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}", hint=error.hint) from None


def of_sources(sources: Sequence[str], only_methods: Sequence[str], seeds: Sequence[int], multi: bool) -> Suite:
    """The suite of some data sets given by hand: each with all its categories."""
    data = [{"name": Path(source).name or source, "source": source} for source in sources]
    settings = ["single", "multi"] if multi else ["single"]
    raw = {"methods": list(only_methods) or ["all"], "data": data, "settings": settings, "seeds": list(seeds) or [0]}
    return _built(raw, Path())


def of_images() -> list[str]:
    """The methods that learn images; those of other modalities are named."""
    return [name for name in methods.names() if learning_for(methods.get(name).needs).modality is Images]


def _built(raw: dict[str, Any], base: Path) -> Suite:
    known = {f.name for f in fields(Suite)} - {"entries"} | {"methods", "method"}
    if unknown := sorted(set(raw) - known):
        raise ConfigError(f"unknown key '{unknown[0]}'", hint=config.nearest(unknown[0], sorted(known)))
    listed = [n for name in raw.pop("methods", ["all"]) for n in (of_images() if name == "all" else [name])]
    for name in listed:
        methods.get(methods.parts(name)[0])  # says which name is meant; inside a table the hint would be lost
    tables = [{"name": name} for name in listed] + _tables(raw.pop("method", []), "method")
    entries = tuple(config.build(Entry, table) for table in tables)
    data = tuple(config.build(DataSet, _placed(table, base)) for table in _tables(raw.pop("data", []), "data"))
    return config.build(Suite, {"name": "suite", **raw, "entries": entries, "data": data})


def _tables(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise ConfigError(f"'{name}' is no list of tables", hint=f"write [[{name}]]")
    return value


def _placed(table: dict[str, Any], base: Path) -> dict[str, Any]:
    """A source is a packaged set's name, or a path from the suite's folder."""
    source = table.get("source")
    if not isinstance(source, str) or not source or source in layouts.names() and not (base / source).exists():
        return table
    return {**table, "source": str(base / source)}

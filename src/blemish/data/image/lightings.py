"""Lightings: a sample that is several pictures of one part. Each is a named group of one or three channels.

A file for each (`left`, `right`): the first lighting's file stands for the sample, and the others are found by its
name. The name of a lighting is the file's name without suffix, the end of it after `_`, `-` or `.`, or else that of the
nearest folder that is called like one: `07_left.png`, `07/left.png`, `left/07.png`. Where the others have the same path
with their own name in that place, and the same suffix or another one of pictures.

Channels of one file (`colour=0,1,2`, `nir=3`): see `data.image.channels`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from blemish.config import nearest
from blemish.data.image.formats import SUFFIXES
from blemish.data.image.levels import Levels
from blemish.errors import ConfigError, DataError
from blemish.types import LightingFile, Record

MOST = 16  # channels of all lightings
_MARKS = "_-."  # between a file's name and that of its lighting
_HINT = "left and right (a file each), or colour=0,1,2 and nir=3 (channels of one file)"

Lit = tuple[NDArray[Any], ...]
"""A canonical image (see `data.image.decode`) for each lighting, all of one size."""


@dataclass(frozen=True, slots=True)
class Lighting:
    """One lighting: its name, its channels in the one file that shows all (none = a file of its own), and which values
    are black and white in it."""

    name: str
    channels: tuple[int, ...] = ()
    levels: Levels = Levels()


@dataclass(frozen=True, slots=True)
class Lightings:
    """The lightings of a model, in order.

    Attributes:
        of: how many channels the one file has that shows all; 0 = not known yet, or a file for each.
    """

    each: tuple[Lighting, ...]
    of: int = 0

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Lightings | None:
        """From `left` or `nir=3` each; None where there is none. ConfigError naming the one that is not understood."""
        return cls(_checked([_parsed(text) for text in texts])) if texts else None

    @property
    def names(self) -> tuple[str, ...]:
        """Of each, in order."""
        return tuple(one.name for one in self.each)

    @property
    def in_one_file(self) -> bool:
        """Whether one file shows all."""
        return bool(self.each[0].channels)

    @property
    def texts(self) -> tuple[str, ...]:
        """What `parse` takes."""
        return tuple(
            f"{one.name}={','.join(map(str, one.channels))}" if one.channels else one.name for one in self.each
        )

    def at(self, path: Path) -> tuple[LightingFile, ...]:
        """The files of the sample that `path` stands for. DataError where one of them is missing, and where the file
        shows another lighting than the first."""
        if self.in_one_file:
            return tuple(LightingFile(one.name, path, one.channels) for one in self.each)
        first = self.names[0]
        if (name := self.shown_by(path)) != first:
            hint = f"name the file of '{first}', which stands for the sample: {self._expected(path, first)}"
            raise DataError(f"shows the lighting '{name}', not '{first}'", path=path, hint=hint)
        return tuple(LightingFile(other, self.beside(path, other)) for other in self.names)

    def shown_by(self, path: Path) -> str:
        """Which lighting a file shows, by its name. DataError where that says none."""
        return self._named(path)[0]

    def beside(self, path: Path, name: str) -> Path:
        """The file of another lighting of the same sample. DataError where there is none, or more than one."""
        expected = self._expected(path, name)
        if expected.is_file():
            return expected
        others = [p for p in (expected.with_name(expected.stem + suffix) for suffix in SUFFIXES) if p.is_file()]
        if len(others) == 1:
            return others[0]
        what = f"{len(others)} files may be it" if others else "there is no such file"
        hint = "each sample has a file for each lighting (--lighting), of one name but for the lighting's"
        raise DataError(f"its lighting '{name}' is missing: {expected}, {what}", path=path, hint=hint)

    def _expected(self, path: Path, name: str) -> Path:
        start, end = self._named(path)[1]
        return Path(start + name + end)

    def _named(self, path: Path) -> tuple[str, tuple[str, str]]:
        """The name of a file's lighting, and what stands before and behind it in the path."""
        folder, stem, suffix = str(path.parent / "_")[:-1], path.stem, path.suffix
        for name in sorted(self.names, key=len, reverse=True):
            if stem == name or (stem.endswith(name) and stem[-len(name) - 1] in _MARKS):
                return name, (folder + stem[: -len(name)], suffix)
        parts = path.parts
        for place in reversed(range(len(parts) - 1)):
            if parts[place] in self.names:
                start = str(Path(*parts[:place], "_"))[:-1]
                return parts[place], (start, str(Path("_", *parts[place + 1 :]))[1:])
        names = ", ".join(self.names)
        hint = f"call it {stem}_{self.names[0]}{suffix}, or put it into a folder {self.names[0]}"
        raise DataError(f"its name says none of the lightings {names}", path=path, hint=hint)

    def completed(self, records: Sequence[Record]) -> list[Record]:
        """The records of samples, with the files of their lightings; those of the other lightings are left out.

        DataError where a file is missing, and where another lighting of a sample is listed and the first is not.
        """
        out, others = [], []
        for record in records:
            if record.lightings:
                out.append(self._same(record))
            elif self.in_one_file or self.shown_by(record.path) == self.names[0]:
                out.append(replace(record, lightings=self.at(record.path)))
            else:
                others.append(record)
        if others:
            listed = {file.path for record in out for file in record.lightings}
            for record in others:
                if record.path not in listed:
                    self.beside(record.path, self.names[0])  # its error says what was expected
                    message = f"shows the lighting '{self.shown_by(record.path)}' of a sample that is not listed"
                    raise DataError(message, path=record.path, hint=f"list the file of '{self.names[0]}' too")
        return out

    def _same(self, record: Record) -> Record:
        if tuple(file.name for file in record.lightings) != self.names:
            found, wanted = ", ".join(file.name for file in record.lightings), ", ".join(self.names)
            raise DataError(f"has the lightings {found}, and {wanted} are learned", path=record.path)
        return record

    def sorted_out(self, files: Iterable[Path]) -> tuple[list[Path], list[DataError]]:
        """Of the pictures in a folder those that stand for a sample, and why others of them belong to none."""
        if self.in_one_file:
            return list(files), []
        samples, wrong = [], []
        for path in files:
            try:
                if self.shown_by(path) == self.names[0]:
                    samples.append(path)
                else:
                    self.beside(path, self.names[0])
            except DataError as error:
                wrong.append(error)
        return samples, wrong

    def check(self, lit: Lit, name: str | Path | None) -> Lit:
        """DataError where the pictures of a sample are not one for each lighting, of one size."""
        if len(lit) != len(self.each):
            message = f"{len(lit)} pictures, and the model takes {len(self.each)}: {', '.join(self.names)}"
            raise DataError(message, path=name, hint="give one for each lighting")
        for one, picture in zip(self.each, lit, strict=True):
            if picture.shape[:2] != lit[0].shape[:2]:
                (h, w), (H, W) = picture.shape[:2], lit[0].shape[:2]
                message = f"lighting '{one.name}' is {w} x {h}, and '{self.names[0]}' {W} x {H} (width x height)"
                raise DataError(message, path=name, hint="all lightings of a sample have one size")
        return lit

    def ordered(self, named: Mapping[Any, Any]) -> list[Any]:
        """The values of a mapping by the lightings' names. DataError where one is missing or not known."""
        if unknown := [key for key in named if key not in self.names]:
            hint = nearest(str(unknown[0]), list(self.names))
            raise DataError(f"the model has no lighting {unknown[0]!r}", hint=hint)
        if missing := [name for name in self.names if name not in named]:
            raise DataError(f"its lighting '{missing[0]}' is missing", hint=f"give all of {', '.join(self.names)}")
        return [named[name] for name in self.names]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        each = [
            {
                "name": one.name,
                "channels": list(one.channels),
                "uint16": list(one.levels.uint16),
                "float": list(one.levels.real),
                "darkest": one.levels.darkest,
            }
            for one in self.each
        ]
        return {"of": self.of, "each": each}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse; KeyError, TypeError, ValueError or ConfigError where it is not understood."""

        def levels(one: Mapping[str, Any]) -> Levels:
            (black, white), (dark, bright) = one["uint16"], one["float"]
            return Levels((float(black), float(white)), (float(dark), float(bright)), float(one["darkest"]))

        each = [Lighting(str(one["name"]), tuple(map(int, one["channels"])), levels(one)) for one in value["each"]]
        return cls(_checked(each), int(value["of"]))


def _parsed(text: str) -> Lighting:
    match = re.fullmatch(r"([^\W_](?:[\w-]*[^\W_])?)(?:=(\d{1,4}(?:,\d{1,4})*))?", text.strip())
    if match is None:
        raise ConfigError(f"lighting '{text}' (--lighting) is not understood", hint=_HINT)
    channels = tuple(map(int, match[2].split(","))) if match[2] else ()
    if len(channels) not in (0, 1, 3):
        message = f"lighting '{text}' (--lighting) has {len(channels)} channels, and a lighting has 1 or 3"
        raise ConfigError(message, hint="name each of two as a lighting of its own")
    return Lighting(match[1], channels)


def _checked(each: Sequence[Lighting]) -> tuple[Lighting, ...]:
    if not each:
        raise ConfigError("no lighting is named", hint=_HINT)
    names = [one.name for one in each]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"lighting '{twice[0]}' is named twice (--lighting)", hint="give each a name of its own")
    if len({bool(one.channels) for one in each}) > 1:
        plain = next(one.name for one in each if not one.channels)
        message = f"lighting '{plain}' names no channels, and others do (--lighting)"
        raise ConfigError(message, hint=f"either all or none: {_HINT}")
    if (count := sum(max(len(one.channels), 1) for one in each)) > MOST:
        raise ConfigError(f"{count} channels in all lightings (--lighting), and at most {MOST} are learned")
    return tuple(each)

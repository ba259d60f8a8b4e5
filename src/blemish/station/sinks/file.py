"""Verdicts as JSON lines, a file for each day (UTC); each line is durable before it counts as told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from blemish.errors import ConfigError
from blemish.station.place import synced
from blemish.station.sinks.base import HINT, Message, Sink, Undelivered

BLOCK = 1 << 16


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """`folder` lies in the station's folder or below one of its roots."""

    folder: str = "results"


class File(Sink[Options]):
    """A killed station leaves no line twice: messages of a batch up to the file's last line are there already."""

    OPTIONS = Options

    def check(self) -> None:
        self.folder = self.around.file(self.options.folder)
        if any(self.folder.is_relative_to(own) for own in self.around.place.folders):
            raise ConfigError(f"sink {self.around.name}: {self.options.folder} is the station's own", hint=HINT)

    def send(self, messages: Sequence[Message]) -> Iterator[int]:
        for day, group in groupby(messages, key=_day):
            some = list(group)
            try:
                self._append(self.folder / f"{day}.jsonl", some)
            except OSError as error:
                raise Undelivered(f"{self.folder}: {error.strerror}") from error
            yield from (message.id for message in some)

    def _append(self, path: Path, messages: Sequence[Message]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("ab+") as file:
            last, end, torn = _last(file, path)
            if not any(message.body.encode().startswith(torn) for message in messages):
                raise _strange(path)  # else it is what a kill has left of a line
            keys = [message.key for message in messages]
            rest = messages[keys.index(last) + 1 :] if last in keys else messages
            file.truncate(end)
            try:
                file.write(b"".join(message.body.encode() + b"\n" for message in rest))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), end)
                raise
        if new:
            synced(path.parent)


def _day(message: Message) -> str:
    return datetime.fromtimestamp(message.at / 1000, UTC).strftime("%Y-%m-%d")


def _last(file: BinaryIO, path: Path) -> tuple[str | None, int, bytes]:
    """The key of the last whole line, where it ends, and what comes after it."""
    start, tail = file.seek(0, os.SEEK_END), b""
    end = start
    while start > 0 and tail.count(b"\n") < 2:
        step = min(BLOCK, start)
        start -= step
        file.seek(start)
        tail = file.read(step) + tail
    whole, line_end, torn = tail.rpartition(b"\n")
    if not line_end:
        return None, 0, torn
    try:
        said = json.loads(whole.rpartition(b"\n")[2])
        return said.get("inspection_id") or said.get("message_id"), end - len(torn), torn
    except (ValueError, AttributeError):
        raise _strange(path) from None


def _strange(path: Path) -> Undelivered:
    return Undelivered(f"{path} is not what this station has written", hint="give the sink a folder of its own")


SINK = File

"""What a sink is: told messages in order, it says of each when the receiver has it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from blemish.errors import BlemishError, ConfigError
from blemish.station.config import Config
from blemish.station.place import Place

HINT = "docs/station/sinks.md"


class Undelivered(BlemishError):
    """The receiver cannot be reached, or does not say that it has the message: it is sent again."""


class Refused(Undelivered):
    """The receiver has said that it will not take this message: it is sent a few times more, and then kept."""


@dataclass(frozen=True)
class Message:
    """A row of the outbox."""

    id: int
    key: str  # the same however often it is sent: receivers drop repeats by it
    source: str
    at: int  # ms since 1970
    body: str  # JSON, one line


@dataclass(frozen=True)
class Around:
    """The station that a sink belongs to."""

    place: Place
    config: Config
    name: str  # of the sink

    def file(self, path: str) -> Path:
        """A path below the station's folder or one of its roots. ConfigError otherwise."""
        resolved = (self.place.root / path).resolve()
        return resolved if resolved.is_relative_to(self.place.root) else self.config.inside(resolved)

    def url(self, url: str, schemes: tuple[str, ...]) -> str:
        """An address that `station.toml` allows. ConfigError otherwise."""
        if url.split("://")[0] not in schemes:
            raise ConfigError(f"'{url}' is no URL of {' or '.join(schemes)}", hint=HINT)
        if not self.config.may_send(url):
            raise ConfigError(
                f"station.toml does not allow to send to {url}", hint="add its scheme://host:port to `allow`"
            )
        return url


Chosen = TypeVar("Chosen")


class Sink(ABC, Generic[Chosen]):
    """A receiver. One thread uses it; `send` connects where there is no connection.

    Args:
        options: of `OPTIONS`, a dataclass of pydantic; a field with the metadata `secret` is never shown.
        around: the station.
    """

    OPTIONS: ClassVar[type[Any]]

    def __init__(self, options: Mapping[str, Any], around: Around) -> None:
        self.around = around
        try:
            self.options: Chosen = TypeAdapter(self.OPTIONS).validate_python(dict(options))
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "options"
            raise ConfigError(f"sink {around.name}: {where}: {first['msg']}", hint=HINT) from None
        self.check()

    @abstractmethod
    def check(self) -> None:
        """ConfigError where the options cannot be; connects to nothing."""

    @abstractmethod
    def send(self, messages: Sequence[Message]) -> Iterator[int]:
        """Send messages in order; the id of each as soon as the receiver has it. Refused, Undelivered for the first of
        the others."""

    def idle(self) -> None:
        """There is nothing to send: keep what should stand, such as a connection that others watch. Undelivered."""
        return

    def close(self) -> None:
        """Give the connection back."""
        return

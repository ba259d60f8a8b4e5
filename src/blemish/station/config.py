"""`station.toml`: what belongs to the machine, its network and its disk. Sources, sinks, users and models are in the
ledger, where they can be changed from pages, within the limits that this file sets."""

from __future__ import annotations

import tomllib
from dataclasses import field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from blemish.errors import ConfigError

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Web:
    host: str = "127.0.0.1"
    port: int = 8040
    hosts: tuple[str, ...] = ()  # further names by which browsers may ask for it (Host header)
    certificate: str | None = None  # files for TLS
    key: str | None = None


@dataclass(frozen=True, config=_STRICT)
class Limits:
    upload_mb: int = 64
    megapixels: int = 100  # of a picture, before it is decoded
    spool_files: int = 2000  # waiting pictures, above which nothing more is taken in
    group: int = 16  # pictures in one commit
    group_ms: int = 15
    reserve_mb: int = 256
    threads: int = 2  # pictures that are judged at the same time


@dataclass(frozen=True, config=_STRICT)
class Keep:
    """Days that pictures are kept; 0 = for ever."""

    ok_days: float = 7
    ng_days: float = 730
    other_days: float = 730  # unknown, errors
    drawn_days: float = 730  # drawn and judged ones
    thumb_days: float = 90
    row_days: float = 3650


@dataclass(frozen=True, config=_STRICT)
class Config:
    """The whole file."""

    site: str = "site"
    line: str = "line"
    database: str = ""  # URL; empty: ledger.db in the station's folder
    durability: Literal["full", "process"] = "full"  # process: survives a kill, and no loss of power
    roots: tuple[str, ...] = ()  # hot folders lie in these
    allow: tuple[str, ...] = ()  # scheme://host:port that sinks may send to
    web: Web = field(default_factory=Web)
    limits: Limits = field(default_factory=Limits)
    keep: Keep = field(default_factory=Keep)

    def inside(self, path: str | Path) -> Path:
        """A folder that the file allows, resolved. ConfigError otherwise: links that lead out count as outside."""
        resolved = Path(path).resolve()
        if not any(resolved.is_relative_to(Path(root).resolve()) for root in self.roots):
            raise ConfigError(f"{path} is in none of the roots of station.toml", hint="add its folder to `roots`")
        return resolved

    def may_send(self, url: str) -> bool:
        """Whether a sink may send there."""
        asked = urlsplit(url)
        return any((asked.scheme, asked.netloc) == (a.scheme, a.netloc) for a in map(urlsplit, self.allow))


def read(path: Path) -> Config:
    """ConfigError that names the field where the file is not understood."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(Config).validate_python(values)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}: {first['msg']}", hint="docs/station/configuration.md lists all") from None


TEMPLATE = """\
# A station of Blemish: docs/station/configuration.md
site = "{site}"
line = "{line}"
database = "{database}"      # postgresql+psycopg://user@host/name; empty: ledger.db in this folder
durability = "full"          # process: survives a kill of the program, and no loss of power
roots = [{roots}]            # hot folders lie in these
allow = []                   # where sinks may send to: "https://mes.plant:8443", "mqtt://broker:1883"

[web]
host = "127.0.0.1"
port = 8040
hosts = []                   # further names of this machine

[limits]
upload_mb = 64
megapixels = 100
spool_files = 2000
threads = 2

[keep]                       # days; 0 = for ever
ok_days = 7
ng_days = 730
thumb_days = 90
"""

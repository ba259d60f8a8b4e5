"""Send pictures to a station over HTTP, each once however often it has to be tried."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blemish.errors import ConfigError, DataError
from blemish.files import read_file, walk
from blemish.station.spool import SUFFIXES

LATER = (408, 425, 429, 500, 502, 503, 504)  # answers after which it is tried again
PAUSES = (0.5, 10.0)  # seconds between tries, where the station says nothing: the first and the longest


def pictures(paths: Sequence[Path]) -> list[Path]:
    """Files, and those in folders. DataError where there are none."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(walk(path).files) if path.is_dir() else [path]
        found += [one for one in inside if not path.is_dir() or one.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError("holds no pictures", path=paths[0] if paths else ".", hint="give pictures or their folder")
    return found


def send(
    url: str,
    files: Sequence[Path],
    *,
    token: str,
    source: str,
    part_id_from_name: bool = False,
    wait: bool = False,
    patience: float = 60.0,
) -> Iterator[dict[str, Any]]:
    """The station's answer to each picture, or what it refused it for as `error`; waits for verdicts where asked.

    A picture is sent again, under the same key, until it is answered for, `patience` seconds long. ConfigError for a
    URL that is none, DataError where the station cannot be reached.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"'{url}' is no address of a station", hint="http://127.0.0.1:8040")
    for path in files:
        data = read_file(path)
        asked = {"source": source, "wait": "verdict" if wait else "accepted"}
        if part_id_from_name:
            asked["part_id"] = path.stem
        yield {"file": str(path), **_posted(url, asked, data, token, _key(path, data), patience)}


def _key(path: Path, data: bytes) -> str:
    from blemish.station.place import digest

    return digest(path.name.encode() + b"\0" + data)


def _posted(url: str, asked: dict[str, str], data: bytes, token: str, key: str, patience: float) -> dict[str, Any]:
    address = f"{url.rstrip('/')}/api/v1/inspections?{urllib.parse.urlencode(asked)}"
    head = {"Authorization": f"Bearer {token}", "Idempotency-Key": key, "Content-Type": "application/octet-stream"}
    until, pause = time.monotonic() + patience, PAUSES[0]
    while True:
        request = urllib.request.Request(address, data=data, headers=head, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return {"status": answer.status, **json.loads(answer.read())}
        except urllib.error.HTTPError as error:
            problem = _problem(error)
            if error.code not in LATER or time.monotonic() > until:
                return {"status": error.code, "error": problem}
            later = error.headers.get("Retry-After", "")
            pause = float(later) if later.isdigit() else pause
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if time.monotonic() > until:
                raise DataError(f"the station does not answer ({error})", path=url, hint="does it run?") from None
        time.sleep(min(pause, max(0.0, until - time.monotonic()) + 0.05))
        pause = min(2 * pause, PAUSES[1])


def _problem(error: urllib.error.HTTPError) -> str:
    text = error.read().decode("utf-8", "replace")
    try:
        problem = json.loads(text)
        return str(problem.get("detail") or problem.get("title") or text)
    except (ValueError, AttributeError):
        return text or error.reason

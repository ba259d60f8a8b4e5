"""What is new in the ledger: one thread looks when the worker rings, and tells everybody in this process who waits."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import func, select

from blemish.errors import BlemishError
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import inspections
from blemish.station.place import Place
from blemish.station.wake import Bell
from blemish.station.worker import web_bell

log = logging.getLogger("blemish.station.web")

LOOK = 0.25  # seconds between two looks where nobody rings
AT_ONCE = 1000  # rows


class Hub:
    """Started and stopped with the application, on its event loop.

    Args:
        seen: is called with each new row (seq, id, source_id, state and times).
    """

    def __init__(self, place: Place, ledger: Ledger, seen: Callable[[Any], None]) -> None:
        self.ledger, self._seen, self._path = ledger, seen, web_bell(place)
        self.seq = 0
        self._futures: dict[str, list[asyncio.Future[None]]] = {}
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._loop = asyncio.get_running_loop()
        with self.ledger.read() as connection:
            self.seq = connection.scalar(select(func.max(inspections.c.seq))) or 0
        self._thread = threading.Thread(target=self._look, name="hub", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 + LOOK)

    def _look(self) -> None:
        bell = Bell(self._path)
        columns = ("seq", "id", "source_id", "state", "ms_wait", "ms_infer", "ms_total")
        try:
            while not self._stop.is_set():
                bell.wait(LOOK)
                try:
                    with self.ledger.read() as connection:
                        rows = connection.execute(
                            select(*(inspections.c[name] for name in columns))
                            .where(inspections.c.seq > self.seq)
                            .order_by(inspections.c.seq)
                            .limit(AT_ONCE)
                        ).all()
                except BlemishError as error:
                    log.warning("%s", error)
                    continue
                if rows and self._loop is not None:
                    for row in rows:
                        self._seen(row)
                    self.seq = rows[-1].seq
                    self._loop.call_soon_threadsafe(self._tell, [row.id for row in rows])
        finally:
            bell.close()

    def _tell(self, ids: list[str]) -> None:
        for picture in ids:
            for future in self._futures.pop(picture, []):
                if not future.done():
                    future.set_result(None)

    def expect(self, picture: str) -> asyncio.Future[None]:
        """Done once the row of an id is there that was not when this was called."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(picture, []).append(future)
        return future

    def forget(self, picture: str, future: asyncio.Future[None]) -> None:
        """It is no longer waited for."""
        there = self._futures.get(picture, [])
        if future in there:
            there.remove(future)
        if not there:
            self._futures.pop(picture, None)

"""A byte from one process to another: look, something is new. A lost byte costs a short wait, never a picture."""

from __future__ import annotations

import os
import selectors
import socket
from pathlib import Path


class Bell:
    """Rung by others by its path; waited for by the one who owns it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        with _near(path) as name:
            self._socket.bind(name)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)

    def wait(self, seconds: float) -> bool:
        """Until it rings, so many seconds at most; whether it has."""
        if not self._selector.select(seconds):
            return False
        while True:
            try:
                self._socket.recv(64)
            except BlockingIOError:
                return True

    def close(self) -> None:
        self._selector.close()
        self._socket.close()
        self._path.unlink(missing_ok=True)


def ring(path: Path) -> None:
    """Wake whoever waits at a path; nothing where nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        try:
            with _near(path) as name:
                one.sendto(b"!", name)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            return


class _near:
    """The address of a socket: names in the file system are short, so a long one is reached through its folder."""

    def __init__(self, path: Path) -> None:
        self._path, self._handle = path, -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) < 100:
            return str(self._path)
        self._handle = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._handle}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._handle >= 0:
            os.close(self._handle)

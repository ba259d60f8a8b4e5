"""A connection to a cluster leaves this process as it was."""

from __future__ import annotations

import signal
import sys
from types import SimpleNamespace

import pytest

from blemish.inspection.ray_session import session


def test_what_ends_a_run_is_what_ended_it_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as Ray does

    ray = SimpleNamespace(init=init, shutdown=lambda: None, is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", ray)

    def ended(*_: object) -> None:
        """How whoever called wants to be ended."""

    before = signal.signal(signal.SIGTERM, ended)
    try:
        with session("auto") as connected:
            assert connected is ray
            assert signal.getsignal(signal.SIGTERM) is ended
    finally:
        signal.signal(signal.SIGTERM, before)

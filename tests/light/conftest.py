"""These tests need no PyTorch, nor what the other tests share:

python -m pytest --confcutdir tests/light tests/light
"""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLEMISH_CACHE", os.fspath(tmp_path_factory.getbasetemp() / "cache"))

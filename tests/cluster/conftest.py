"""One local cluster of two workers for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="package")  # it ends with the last test of this folder, not of the session
def ray() -> Iterator[Any]:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'blemish[ray]'")
    from blemish.inspection.ray_session import session

    with session(workers=2) as module:
        yield module

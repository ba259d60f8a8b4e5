"""What tests share is made once, in one process."""

from __future__ import annotations

import os

import pytest


def test_groups_stay_together(request: pytest.FixtureRequest) -> None:
    """pytest-xdist writes the group behind the name; where a pytest forgets it, every process fits every model."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("runs in one process")
    assert request.node.nodeid.endswith("@test_groups.py")

"""Progress for programs that run `blemish`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blemish.cli.progress import track


def test_the_state_of_a_step_goes_to_the_file_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    monkeypatch.setenv("BLEMISH_PROGRESS", str(path))
    assert list(track(iter("abc"), "learn", 3)) == ["a", "b", "c"]
    state = json.loads(path.read_text())
    assert (state["step"], state["done"], state["total"]) == ("learn", 3, 3)
    assert state["seconds"] >= 0
    assert [one.name for one in tmp_path.iterdir()] == ["state.json"]


def test_without_it_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLEMISH_PROGRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert list(track("ab", "learn", 2)) == ["a", "b"]
    assert not list(tmp_path.iterdir())

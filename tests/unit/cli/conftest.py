"""The command line, run in this process."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from blemish.cli import main
from tests.tiny import Done


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line: exit code, stdout and stderr. Warnings are shown as a user sees them."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards: `main` replaces it

    def command(*arguments: object) -> Done:
        capfd.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            with pytest.raises(SystemExit) as end:
                main([str(a) for a in arguments])
        return Done(int(end.value.code or 0), *capfd.readouterr())

    return command

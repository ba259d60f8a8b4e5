"""A timm that cannot be loaded."""

from __future__ import annotations

import importlib.abc
import sys

import pytest

from blemish.errors import BackboneError
from blemish.learning.backbones import timm_net


class Broken(importlib.abc.MetaPathFinder):
    """torchvision of another build than torch: its own code fails while timm is imported."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name: str, *_: object) -> None:
        if name == "timm":
            raise self.error


def broken(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operator torchvision::nms does not exist\nand more"),
        OSError("libcudart.so.13: cannot open shared object file"),
        ImportError("undefined symbol: _ZN3c104impl"),
        AttributeError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_torchvision_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    broken(monkeypatch, error)
    with pytest.raises(BackboneError, match="timm cannot be loaded beside this torch") as raised:
        timm_net.load("resnet18")
    assert (str(error) or "AttributeError").splitlines()[0] in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "torchvision" in str(raised.value.hint)


def test_a_timm_that_is_not_installed_is_another_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, ModuleNotFoundError("No module named 'timm'", name="timm"))
    with pytest.raises(ModuleNotFoundError):
        timm_net.load("resnet18")

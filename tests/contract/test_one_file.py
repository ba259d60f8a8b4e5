"""Adding a method is adding one file: a toy method dropped into a folder goes through the whole line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from blemish import Detector, methods
from tests.fakes import FakeBackbone, defective_image, good_image, write_images

TOY = '''
"""Toy: distance to the mean of the coarsest features.

Paper    Nobody et al., for this test only.
"""
from dataclasses import dataclass

import torch

from blemish.methods.base import Method
from blemish.types import Prediction


@dataclass(frozen=True)
class Config:
    power: float = 2.0  # exponent of the difference


class Toy(Method[Config]):
    fitted_buffers = ("mean",)

    def __init__(self, config, spec, size, seed=0):
        super().__init__(config, spec, size, seed)
        self._seen = []

    def observe(self, batch):
        self._seen.append(batch.pyramid.maps[-1])

    def conclude(self):
        self.mean = torch.cat(self._seen).mean(0)

    def predict(self, batch):
        grid = (batch.pyramid.maps[-1] - self.mean).abs().pow(self.config.power).mean(1)
        up = torch.nn.functional.interpolate(grid[:, None], size=self.size, mode="nearest")[:, 0]
        return Prediction(grid.flatten(1).amax(1), up)


METHOD = Toy
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "toy_of_this_test.py").write_text(TOY)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield "toy_of_this_test"
    sys.modules.pop("blemish.methods.toy_of_this_test", None)


def test_one_new_file_is_fitted_saved_loaded_and_inspected(toy: str, tmp_path: Path, backbone: FakeBackbone) -> None:
    assert toy in methods.names()
    assert methods.describe(toy)["title"].startswith("Toy")
    good = write_images(tmp_path / "good", 24)
    detector = Detector(toy, backbone=backbone, image_size=56, power=1.5).fit(good)
    detector.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model")
    assert loaded.model.meta.config == {"power": 1.5}
    assert loaded.inspect(defective_image(1)[0]).score > loaded.inspect(good_image(500)).score

"""Methods that restore features add their levels as z-scores of good images, and end when the held-out loss is flat."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from blemish import methods
from blemish.methods.base import HELD
from tests.fakes import SIZE, FakeBackbone, batch_of, good_image, learn

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("name", ["rd", "emmf", "rbd", "hetnet"])]


def made(backbone: FakeBackbone, name: str, **options: Any) -> Any:
    cls = methods.get(name)
    return cls(cls.Config(**{**cls.brief, "steps": 10, **options}), backbone.spec(SIZE), SIZE)


def test_maps_of_learned_images_are_zero_on_average(backbone: FakeBackbone, name: str) -> None:
    images = [good_image(i) for i in range(12)]
    means = {}
    for way in ("z", "sum"):
        method = made(backbone, name, levels=way)
        learn(method, backbone, images)
        maps = method(batch_of(backbone, images, method.wants(method.config).image)).anomaly_map
        means[way] = float(maps.mean(0).abs().max() / maps.abs().max())
        assert torch.isfinite(maps).all()
    assert means["z"] < 1e-2
    assert means["sum"] > 0.1


def test_samples_are_held_out_where_steps_end_by_them(backbone: FakeBackbone, name: str) -> None:
    for until, held in (("flat", HELD), ("steps", 0.0)):
        method = made(backbone, name, until=until)
        assert method.wants(method.config).held == held
        assert method.phases()[-1].flat == (until == "flat")

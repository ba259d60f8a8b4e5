"""Methods that restore features add their levels as z-scores of good images, and end when the held-out loss is flat."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from blemish import methods
from blemish.methods.base import HELD
from blemish.nn.scoring import peak, window_peak
from tests.fakes import SIZE, FakeBackbone, batch_of, good_image, learn

pytestmark = pytest.mark.slow
restoring = pytest.mark.parametrize("name", ["rd", "emmf", "rbd", "hetnet"])
rebuilding = pytest.mark.parametrize("name", ["uniad", "onenip"])


def made(backbone: FakeBackbone, name: str, **options: Any) -> Any:
    cls = methods.get(name)
    return cls(cls.Config(**{**cls.brief, "steps": 10, **options}), backbone.spec(SIZE), SIZE)


@restoring
def test_maps_of_learned_images_are_zero_on_average(backbone: FakeBackbone, name: str) -> None:
    images = [good_image(i) for i in range(12)]
    means = {}
    found = {}
    for way in ("z", "sum", "both"):
        method = made(backbone, name, levels=way)
        learn(method, backbone, images)
        found[way] = method(batch_of(backbone, images, method.wants(method.config).image))
        maps = found[way].anomaly_map
        means[way] = float(maps.mean(0).abs().max() / maps.abs().max())
        assert torch.isfinite(maps).all()
    assert means["z"] < 1e-2
    assert means["sum"] > 0.1
    torch.testing.assert_close(found["both"].score, found["z"].score)
    torch.testing.assert_close(found["both"].anomaly_map, found["sum"].anomaly_map)


@pytest.mark.parametrize("name", ["rd", "emmf", "rbd", "hetnet", "uniad"])
def test_samples_are_held_out_where_steps_end_by_them(backbone: FakeBackbone, name: str) -> None:
    for until, held in (("flat", HELD), ("steps", 0.0)):
        method = made(backbone, name, until=until)
        assert method.wants(method.config).held == held
        assert method.phases()[-1].flat == (until == "flat")


@rebuilding
def test_channels_count_by_what_good_images_have(backbone: FakeBackbone, name: str) -> None:
    images = [good_image(i) for i in range(12)]
    maps = {}
    for score in ("spread", "distance"):
        method = made(
            backbone, name, score=score, **({"refiner": False, "restoration": False} if name == "onenip" else {})
        )
        learn(method, backbone, images)
        batch = method.placed(batch_of(backbone, images, False))
        apart = method.apart(batch) if name == "uniad" else method._apart(batch)
        wanted = method.residuals.usual if score == "spread" else torch.ones(1, 1, 1)
        places = (apart / wanted).square().sum(1).sqrt()
        maps[score] = method(batch).anomaly_map
        assert (maps[score].amax((1, 2)) - places.amax((1, 2))).abs().max() < 0.3 * places.max()
        assert (method.residuals.usual.numel() > 1) == (score == "spread")
    assert method.residuals.usual.eq(1).all()
    assert not torch.allclose(
        maps["spread"] / maps["spread"].mean(), maps["distance"] / maps["distance"].mean(), rtol=0.05
    )


@rebuilding
def test_the_common_image_score_is_an_option(backbone: FakeBackbone, name: str) -> None:
    images = [good_image(i) for i in range(8)]
    more = {"refiner": False, "restoration": False} if name == "onenip" else {}
    for top in (0.0, 0.05):
        method = made(backbone, name, top=top, **more)
        learn(method, backbone, images)
        found = method(batch_of(backbone, images, False))
        expected = peak(found.anomaly_map, top) if top else window_peak(found.anomaly_map, method.config.stride)
        torch.testing.assert_close(found.score, expected)


def test_the_code_of_rbd_has_as_many_channels_as_asked_for(backbone: FakeBackbone) -> None:
    sizes = [sum(p.numel() for p in made(backbone, "rbd", code=code).student.parameters()) for code in (6, 24)]
    assert sizes[0] < sizes[1]

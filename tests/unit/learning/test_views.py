"""Views that the good images suggest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blemish.data.image.preprocess import Preprocess
from blemish.learning import run, views
from blemish.learning.options import FitOptions
from blemish.learning.plan import FitPlan
from blemish.learning.sources.features import FeatureSource
from blemish.learning.sources.image import VIEWS
from blemish.types import Record
from tests.fakes import FakeBackbone

SQUARE = (48, 48)


def corner(number: int, flipped: bool) -> NDArray[np.uint8]:
    """Noise with a bright corner, on the left or, where it is flipped by chance, on the right."""
    generator = np.random.default_rng(number)
    image = generator.integers(90, 130, (*SQUARE, 3)).astype(np.uint8)
    image[4:20, 4:20] = 220
    return np.ascontiguousarray(image[:, ::-1]) if flipped and generator.random() < 0.5 else image


def records(folder: Path, flipped: bool, count: int = 40) -> list[Record]:
    folder.mkdir()
    for i in range(count):
        Image.fromarray(corner(i, flipped)).save(folder / f"{i:02d}.png")
    return [Record(id=p.name, path=p) for p in sorted(folder.iterdir())]


def source(backbone: FakeBackbone) -> FeatureSource:
    return FeatureSource(backbone, Preprocess(SQUARE), None)


def test_a_part_that_always_lies_one_way_has_no_views(backbone: FakeBackbone, tmp_path: Path) -> None:
    found = views.stranger(source(backbone), records(tmp_path / "x", flipped=False), 0)
    assert set(found) == set(VIEWS) - {"same"}
    assert found["flip_h"] > 0.95
    assert views.suggested(source(backbone), records(tmp_path / "y", flipped=False), 0) == ()


def test_a_part_that_lies_either_way_may_be_flipped(backbone: FakeBackbone, tmp_path: Path) -> None:
    found = views.stranger(source(backbone), records(tmp_path / "x", flipped=True), 0)
    assert abs(found["flip_h"] - 0.5) < 0.1
    assert min(found[name] for name in ("flip_v", "turn_180")) > 0.8, "the corner is always above"


def test_few_images_say_nothing(backbone: FakeBackbone, tmp_path: Path) -> None:
    assert views.suggested(source(backbone), records(tmp_path / "x", flipped=True, count=15), 0) == ()


def test_quarter_turns_are_for_squares(backbone: FakeBackbone, tmp_path: Path) -> None:
    wide = FeatureSource(backbone, Preprocess((48, 64)), None)
    assert "turn_90" not in views.stranger(wide, records(tmp_path / "x", flipped=False, count=16), 0)


@pytest.mark.slow
def test_a_plan_asks_for_them_where_the_method_takes_views(backbone: FakeBackbone, tmp_path: Path) -> None:
    good = records(tmp_path / "x", flipped=True)

    def planned(method: str, *asked: str) -> tuple[str, ...]:
        options = FitOptions(method=method, image_size="48sq", views=asked or ("auto",))
        plan = FitPlan.of(good, options, backbone=backbone, cache=None)
        assert not plan.source.seen, "what was looked at was not learned"
        return plan.options.views

    assert planned("pbas") == ("flip_h",)
    assert planned("padim") == ()
    assert planned("pbas", "turn_180", "auto") == ("turn_180", "flip_h")
    assert planned("pbas", "same") == ("same",)


@pytest.mark.slow
def test_a_method_without_steps_observes_the_views_too(backbone: FakeBackbone, tmp_path: Path) -> None:
    good = records(tmp_path / "x", flipped=True)
    for asked, times in ((("same",), 1), (("flip_h",), 2)):
        plan = FitPlan.of(
            good, FitOptions(method="protoot", image_size="48sq", views=asked), backbone=backbone, cache=None
        )
        ids = [name for batch in run._batches(plan, good) for name in batch.ids]
        assert sorted(ids) == sorted(times * [record.id for record in good])

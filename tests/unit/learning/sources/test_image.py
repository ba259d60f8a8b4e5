"""Training samples: views and twins come from the cache, and depend on bytes and numbers alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from blemish.data.image.preprocess import Preprocess
from blemish.errors import ConfigError
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.options import seconds
from blemish.learning.sampler import OfProducts, drawn_order
from blemish.learning.sources.features import FeatureSource
from blemish.learning.sources.image import TWINS, ImageSamples, files, read_textures, scenes
from blemish.learning.splits import split_at_random
from blemish.types import Needs, Record
from tests.fakes import SIZE, FakeBackbone, good_image, write_images


@pytest.fixture
def source(tmp_path: Path, backbone: FakeBackbone) -> FeatureSource:
    return FeatureSource(backbone, Preprocess(SIZE), FeatureCache(tmp_path / "cache"), precision="f32")


def samples(source: FeatureSource, folder: Path, needs: Needs, **more: tuple[str, ...]) -> ImageSamples:
    records = write_images(folder / "good", 6)
    return ImageSamples(source, files(records, source.preprocess), needs, **more)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_clean_samples_are_what_is_observed(source: FeatureSource, tmp_path: Path) -> None:
    made = samples(source, tmp_path, Needs(image=True))
    batch = made.batch([0, 3])
    records = [Record(id=i, path=tmp_path / "good" / i) for i in batch.ids]
    for i, record in enumerate(records):
        for level, expected in zip(batch.pyramid.maps, source.maps(record), strict=True):
            assert np.array_equal(level[i], expected)
    expected = source.backbone.normalised(np.stack([good_image(0), good_image(3)]))
    assert np.array_equal(batch.x, expected)
    assert batch.twin is None


def test_twins_differ_where_the_mask_is_and_come_again(source: FeatureSource, tmp_path: Path) -> None:
    made = samples(source, tmp_path, Needs(twin="texture", image=True))
    batch = made.batch([0, 1, 2], drawn(1))
    assert batch.mask.dtype == np.bool_
    assert batch.mask.any((1, 2)).all()
    far = [(a != b).any(1) for a, b in zip(batch.twin.maps, batch.pyramid.maps, strict=True)]
    assert all(level.any() for level in far)
    before = source.computed
    again = made.batch([0, 1, 2], drawn(1))
    assert source.computed == before  # nothing is computed twice
    assert np.array_equal(batch.mask, again.mask)
    assert all(np.array_equal(a, b) for a, b in zip(batch.twin.maps, again.twin.maps, strict=True))


def test_a_cached_mask_is_the_one_that_was_made(source: FeatureSource, tmp_path: Path, backbone: FakeBackbone) -> None:
    made = samples(source, tmp_path, Needs(twin="cutpaste"))
    kept = made.batch([4], drawn(5)).mask
    fresh = FeatureSource(backbone, Preprocess(SIZE), None, precision="f32")
    other = ImageSamples(fresh, made.items, made.needs)
    assert np.array_equal(made.batch([4], drawn(5)).mask, other.batch([4], drawn(5)).mask)
    assert np.array_equal(kept, other.batch([4], drawn(5)).mask)


def test_every_twin_and_view_is_drawn(source: FeatureSource, tmp_path: Path) -> None:
    made = samples(source, tmp_path, Needs(twin="texture"), views=("flip_h", "turn_180"))
    masks = {made.batch([0], drawn(s)).mask.tobytes() for s in range(120)}
    assert len(masks) == 3 * TWINS


def test_fresh_twins_are_other_ones_in_each_step(source: FeatureSource, tmp_path: Path) -> None:
    made = samples(source, tmp_path, Needs(twin="texture", fresh=True))
    seen = [made.batch([0], drawn(s)) for s in range(3 * TWINS)]
    assert len({batch.mask.tobytes() for batch in seen}) > TWINS
    again = made.batch([0], drawn(2))
    assert np.array_equal(again.mask, seen[2].mask)
    for one, other, clean in zip(again.twin.maps, seen[2].twin.maps, again.pyramid.maps, strict=True):
        assert np.array_equal(one, other)
        assert (one != clean).any()
    twin = samples(source, tmp_path, Needs(twin="texture"))
    views = [made.batch([i], drawn(7)).pyramid.maps[0] for i in (1, 2)]
    assert all(np.array_equal(twin.batch([i], drawn(7)).pyramid.maps[0], v) for i, v in zip((1, 2), views, strict=True))


def test_views_are_turned_images_not_turned_features(source: FeatureSource, tmp_path: Path) -> None:
    made = samples(source, tmp_path, Needs(image=True), views=("flip_v",))
    seen = [made.batch([0], drawn(s)) for s in range(20)]
    plain = made.batch([0])
    flipped = next(b for b in seen if not np.array_equal(b.x, plain.x))
    assert np.array_equal(flipped.x, plain.x[:, :, ::-1])
    expected = source.backbone.maps(good_image(0)[None, ::-1])
    np.testing.assert_allclose(flipped.pyramid.maps[1], expected[1], rtol=1e-4, atol=1e-4)


def test_products_of_samples_are_those_decided(source: FeatureSource, tmp_path: Path) -> None:
    made = samples(source, tmp_path, Needs())
    assert isinstance(made, OfProducts)
    assert made.categories == []
    source.categories = {item.id: number % 2 for number, item in enumerate(made.items)}
    assert made.categories == [0, 1, 0, 1, 0, 1]
    order = drawn_order(made, True, drawn(0))
    assert [sorted(made.categories[i] for i in order[k : k + 2]) for k in (0, 2, 4)] == [[0, 1]] * 3


def test_unknown_views_are_refused(source: FeatureSource, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no view") as caught:
        samples(source, tmp_path, Needs(), views=("flip_x",))
    assert "flip" in (caught.value.hint or "")


def test_scenes_depend_on_nothing_but_their_number(source: FeatureSource) -> None:
    made = ImageSamples(source, scenes(SIZE, 3), Needs(image=True))
    assert len({x.tobytes() for x in made.batch([0, 1, 2]).x}) == 3
    assert np.array_equal(made.batch([1]).x, ImageSamples(source, scenes(SIZE, 2), Needs(image=True)).batch([1]).x)


def test_given_textures_are_another_twin(source: FeatureSource, tmp_path: Path) -> None:
    write_images(tmp_path / "textures", 2, first=50)
    textures = read_textures(str(tmp_path / "textures"))
    assert [t.shape for t in textures] == [(*SIZE, 3)] * 2
    assert read_textures(None) == []
    a = samples(source, tmp_path, Needs(twin="texture"))
    b = ImageSamples(source, a.items, a.needs, textures=textures)
    assert not np.array_equal(a.batch([0], drawn(0)).twin.maps[0], b.batch([0], drawn(0)).twin.maps[0])


def test_what_no_step_sees_is_whole_units() -> None:
    records = [Record(id=f"{u}-{i}", path=Path("x"), unit=str(u)) for u in range(10) for i in range(3)]
    steps, held = split_at_random(records, 0.2, seed=0)
    assert len(held) == 6
    assert not {r.unit for r in steps} & {r.unit for r in held}
    assert split_at_random(records, 0.2, seed=0) == (steps, held)
    assert split_at_random(records, 0.0, seed=0)[1] == []
    assert split_at_random(records[:1], 0.5, seed=0) == (records[:1], [])


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200)])
def test_times(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "m", "-3s", "0", "nan", "inf", "3 days"])
def test_no_times(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time"):
        seconds(text)

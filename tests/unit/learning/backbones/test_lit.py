"""A frozen network on several lightings: the graph gives what the network gives for each picture."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.inspection.engines import open_engine
from blemish.learning.backbones.lit import LitBackbone, for_lightings
from tests.fakes import FakeBackbone

SIZE = (32, 48)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 9)).astype(np.uint8)


def test_features_of_each_picture_stand_beside_each_other() -> None:
    inner = FakeBackbone()
    lit = LitBackbone(inner, 3)
    each = [inner.maps(np.ascontiguousarray(IMAGES[..., k : k + 3])) for k in (0, 3, 6)]
    for level, found in enumerate(lit.maps(IMAGES)):
        assert np.array_equal(found, np.concatenate([one[level] for one in each], axis=1))
    spec = lit.spec(SIZE)
    assert spec.channels == tuple(3 * count for count in inner.spec(SIZE).channels)
    assert spec.grids == inner.spec(SIZE).grids


@pytest.mark.parametrize("image", [False, True])
def test_the_graph_gives_the_same_for_any_number_of_samples(image: bool) -> None:
    lit = LitBackbone(FakeBackbone(), 3)
    graph = lit.graph(SIZE, image=image)
    expected = (*lit.maps(IMAGES), *([lit.normalised(IMAGES)] if image else []))
    for count in (2, 1):
        found = open_engine(graph, batch=count)(IMAGES[:count])
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other[:count], rtol=1e-4, atol=1e-4)


def test_from_the_normalised_image_on_it_is_the_same() -> None:
    lit = LitBackbone(FakeBackbone(), 3)
    for one, other in zip(lit.maps_of(lit.normalised(IMAGES)), lit.maps(IMAGES), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_names_tell_networks_apart_and_one_lighting_changes_nothing() -> None:
    inner = FakeBackbone()
    assert len({inner.identity, *(LitBackbone(inner, k).identity for k in (2, 3))}) == 3
    assert for_lightings(inner, 1) is inner
    lit = for_lightings(inner, 2)
    assert for_lightings(lit, 2) is lit

"""Tiles of a picture: where they lie, and one map out of theirs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from blemish.data.image.preprocess import Preprocess
from blemish.data.image.tiles import MOST, Tiles, Tiling, parse_tiles
from blemish.errors import ConfigError, DataError


@pytest.mark.parametrize("shape", [(64, 64), (64, 65), (100, 311), (200, 128), (777, 64)])
@pytest.mark.parametrize("overlap", [0, 8, 32])
def test_tiles_cover_the_picture_and_overlap_enough(shape: tuple[int, int], overlap: int) -> None:
    tiling = Tiling(64, overlap)
    places = tiling.places(shape)
    covered = np.zeros(shape, int)
    for y, x in places:
        assert 0 <= y <= shape[0] - 64
        assert 0 <= x <= shape[1] - 64
        covered[y : y + 64, x : x + 64] += 1
    assert covered.min() >= 1
    for axis in (0, 1):
        starts = sorted({place[axis] for place in places})
        assert all(b - a <= 64 - overlap for a, b in zip(starts, starts[1:], strict=False))
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("side", [64, 48])
def test_the_joined_map_has_no_seam_and_keeps_what_all_tiles_say(side: int) -> None:
    """A smooth scene cut into tiles comes back; steps between tiles fade over their overlap."""
    shape = (150, 333)
    y, x = np.mgrid[: shape[0], : shape[1]]
    scene = (np.sin(x / 40) + np.cos(y / 30)).astype(np.float32)
    tiling = Tiling(side, 16)
    places = tiling.places(shape)
    tiles = Tiles(np.zeros((len(places), side, side, 3), np.uint8), places, shape, side, list(range(len(places))))
    maps = np.stack([tiling.cut(scene, place) for place in places])
    joined = tiles.joined(maps)
    assert joined.shape == shape
    np.testing.assert_allclose(joined, scene, atol=1e-5)
    steps = np.stack([np.full((side, side), k % 2, np.float32) for k in range(len(places))])
    assert np.abs(np.diff(tiles.joined(steps), axis=1)).max() < 0.2
    smaller = np.stack([tiling.cut(scene, place)[::2, ::2] for place in places])
    half = tiles.joined(smaller)
    assert half.shape == (75, 166)
    assert np.abs(half - scene[::2, ::2][:75, :166]).max() < 0.1


def test_what_is_no_tiling_is_refused() -> None:
    assert parse_tiles("512") == Tiling(512, 64)
    assert parse_tiles("512:0") == Tiling(512, 0)
    for text in ("", "512:", "0", "16", "512:257", "512x512", "a", "512:-1"):
        with pytest.raises(ConfigError, match="tiles"):
            parse_tiles(text)
    with pytest.raises(DataError, match="has 40 x 300 pixels, a tile 64 x 64"):
        Tiling(64, 8).places((300, 40))
    with pytest.raises(DataError, match=f"at most {MOST}"):
        Tiling(32, 16).places((4000, 4000))


def test_a_plan_with_tiles_is_written_and_read() -> None:
    plan = Preprocess((32, 32), tiles=Tiling(64, 8))
    again = Preprocess.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    image = np.random.default_rng(0).integers(0, 256, (100, 170), dtype=np.uint8)
    found = plan.in_tiles(image)
    assert found.images.shape == (len(found.places), 32, 32, 3)
    for number, tile in enumerate(found.images):
        assert np.array_equal(plan(image, tile=number), tile)
    assert "tiles" not in Preprocess((32, 32)).to_json()
    assert "tiles" not in Preprocess((32, 32)).rendering()

"""Defects of graded sizes: the mask is where the picture changed, sizes are those asked for, and nothing is foreign."""

from __future__ import annotations

import ast
from pathlib import Path

import cv2
import numpy as np
import pytest

import blemish
from blemish.data.synthesis.graded import KINDS, WIDE, Graded
from blemish.data.synthesis.texture import Image, visible
from blemish.errors import ConfigError, DataError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pattern(size: tuple[int, int] = (64, 80)) -> Image:
    """Every place has its own colour, and there is noise."""
    y, x = np.mgrid[: size[0], : size[1]]
    ramps = np.stack([60 + 120 * y / size[0], 60 + 120 * x / size[1], 120 + 0 * x], 2)
    return np.clip(ramps + rng().normal(0, 20, (*size, 3)), 0, 255).astype(np.uint8)


def bars(side: int = 128) -> Image:
    """Two tones."""
    return np.repeat(np.where(np.arange(side) // 8 % 2, 230, 20).astype(np.uint8)[None, :, None], side, 0).repeat(3, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 200), (300, 4), (48, 64), (96, 64)])
def test_the_mask_is_where_the_picture_changed_and_the_change_is_seen(kind: str, size: tuple[int, int]) -> None:
    image, make = pattern(size), Graded((kind,))
    kept = image.copy()
    for seed in range(20):
        changed, mask = make(image, rng(seed))
        assert (changed.dtype, changed.shape, mask.dtype, mask.shape) == (np.uint8, image.shape, bool, size)
        assert np.array_equal((changed != image).any(2), mask)
        assert visible(image, changed, mask)
        again, same = make(image, rng(seed))
        assert np.array_equal(changed, again)
        assert np.array_equal(mask, same)
    assert np.array_equal(image, kept)


@pytest.mark.parametrize("level", [0, 3, 127, 255])
@pytest.mark.parametrize("kinds", [(kind,) for kind in KINDS] + [tuple(KINDS)])
def test_plain_images_get_one_too(level: int, kinds: tuple[str, ...]) -> None:
    image = np.full((40, 40, 3), level, np.uint8)
    for seed in range(10):
        changed, mask = Graded(kinds)(image, rng(seed))
        assert visible(image, changed, mask)


def test_no_global_state_is_read_or_changed() -> None:
    np.random.seed(3)
    cv2.setRNGSeed(3)
    before = np.random.get_state()[1].tolist()
    first = [Graded((kind,))(pattern(), rng(5))[0] for kind in KINDS]
    assert np.random.get_state()[1].tolist() == before
    np.random.seed(4)
    cv2.setRNGSeed(4)
    assert all(np.array_equal(Graded((k,))(pattern(), rng(5))[0], f) for k, f in zip(KINDS, first, strict=True))


@pytest.mark.parametrize("kind", ["spot", "chip", "gap", "moved", "bent", "uneven"])
def test_sizes_are_those_asked_for(kind: str) -> None:
    image = pattern((128, 128))
    for low, high in ((0.002, 0.004), (0.03, 0.06)):
        wide = WIDE if kind == "uneven" else 1
        shares = [Graded((kind,), (low, high))(image, rng(seed))[1].mean() for seed in range(20)]
        assert max(shares) <= high * wide * 1.03
        assert min(shares) >= low * wide / 3  # what looks as before, up to two thirds, is no part of the mask


def test_sizes_are_spread_over_the_orders_of_magnitude() -> None:
    shares = np.array([Graded(("spot",))(pattern((128, 128)), rng(seed))[1].mean() for seed in range(120)])
    thirds = np.histogram(np.log10(shares), [-3.1, -2.333, -1.667, -0.95])[0]
    assert thirds.sum() == 120
    assert thirds.min() > 20


def test_cracks_are_long_and_thin() -> None:
    for seed in range(30):
        _, mask = Graded(("crack",), (0.02, 0.1))(pattern((256, 256)), rng(seed))
        (_, _), size, _ = cv2.minAreaRect(np.argwhere(mask).astype(np.float32))
        assert max(size) > 40
        assert mask.sum() < 8 * max(size)


def test_chips_lie_at_the_border() -> None:
    for seed in range(30):
        _, mask = Graded(("chip",), (0.005, 0.1))(pattern((96, 128)), rng(seed))
        inner = mask[2:-2, 2:-2].sum()
        assert mask.sum() > inner


@pytest.mark.parametrize("kind", KINDS)
def test_a_grey_picture_stays_grey(kind: str) -> None:
    image = np.repeat(pattern((96, 96))[..., :1], 3, 2)
    for seed in range(10):
        changed, _ = Graded((kind,))(image, rng(seed))
        assert np.array_equal(changed, np.repeat(changed[..., :1], 3, 2))


def test_tones_are_between_those_of_the_picture() -> None:
    for kind in ("spot", "crack", "chip", "gap", "bent"):
        for seed in range(10):
            changed, _ = Graded((kind,))(bars(), rng(seed))
            assert 20 <= changed.min() <= changed.max() <= 230, kind


def test_what_is_moved_is_a_piece_of_the_picture() -> None:
    for seed in range(10):
        changed, mask = Graded(("moved",), (0.01, 0.1))(bars(), rng(seed))
        assert set(np.unique(changed[mask])) <= {20, 230}


def test_a_gap_has_no_fine_structure() -> None:
    image = pattern((128, 128))
    for seed in range(10):
        changed, mask = Graded(("gap",), (0.01, 0.1))(image, rng(seed))
        inner = (mask[:, 1:] & mask[:, :-1])[..., None].repeat(3, 2)
        step = np.diff(changed.astype(float), axis=1), np.diff(image.astype(float), axis=1)
        assert np.abs(step[0][inner]).mean() < 0.4 * np.abs(step[1][inner]).mean()


def test_all_kinds_come() -> None:
    assert len({Graded((kind,))(pattern(), rng(9))[0].tobytes() for kind in KINDS}) == len(KINDS)
    shares = [Graded()(pattern((128, 128)), rng(seed))[1].mean() for seed in range(80)]
    assert min(shares) < 0.003
    assert max(shares) > 0.1


@pytest.mark.parametrize("kinds", [(), ("spotty",)])
def test_unknown_kinds_are_refused(kinds: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="unknown kind"):
        Graded(kinds)


@pytest.mark.parametrize("area", [(0.0, 0.1), (0.2, 0.1), (0.1, 2.0)])
def test_other_sizes_are_refused(area: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="no shares"):
        Graded(area=area)


def test_other_images_are_refused() -> None:
    with pytest.raises(DataError, match="uint8"):
        Graded()(np.zeros((8, 8), np.uint8), rng())


def test_no_method_trains_with_what_methods_are_compared_with() -> None:
    source = Path(blemish.__file__).parent
    importing = {
        file.relative_to(source).as_posix()
        for file in source.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom) and "synthesis.graded" in ast.unparse(node)
    }
    comparing = {"evaluation/choose.py", "inspection/int8.py"}  # of which no method learns anything
    assert importing == {"data/synthesis/image_set.py", *comparing}

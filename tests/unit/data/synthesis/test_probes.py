"""Probes: only inside the mask, as large and as strong as asked, and nothing that a method could learn from."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import blemish
from blemish.data.synthesis.probes import KINDS, Probe
from blemish.errors import DataError

WHITE = {"uint8": 255.0, "uint16": 4095.0, "float32": 1.0}


def flat(dtype: str, shape: tuple[int, ...] = (120, 160), level: float = 0.5) -> np.ndarray:
    return np.full(shape, level * WHITE[dtype]).astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", WHITE)
@pytest.mark.parametrize("shape", [(120, 160), (120, 160, 3)])
def test_an_image_changes_inside_the_mask_and_nowhere_else(kind: str, dtype: str, shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(1).random(shape)
    image = (noise * 0.5 * WHITE[dtype]).astype(dtype)
    for seed in range(20):
        changed, mask = Probe(kind, 5 + 3 * seed, 0.3, WHITE[dtype])(image, np.random.default_rng(seed))
        assert (changed.dtype, changed.shape, mask.shape) == (image.dtype, shape, shape[:2])
        assert mask.any()
        assert not np.array_equal(changed, image)
        assert np.array_equal(changed[~mask], image[~mask])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", WHITE)
def test_the_core_has_the_contrast_that_was_asked_for(kind: str, dtype: str) -> None:
    image = flat(dtype)
    for seed in range(10):
        for contrast in (0.1, 0.4):
            changed, mask = Probe(kind, 40, contrast, WHITE[dtype])(image, np.random.default_rng(seed))
            most = np.abs(changed.astype(float) - image)[mask].max() / WHITE[dtype]
            assert most == pytest.approx(contrast, abs=0.006)


def test_a_side_without_room_is_avoided() -> None:
    for level, sign in ((0.95, -1), (0.05, 1)):
        for seed in range(10):
            image = flat("uint8", level=level)
            changed, mask = Probe("spot", 20, 0.3, 255)(image, np.random.default_rng(seed))
            step = changed.astype(float)[mask] - image[mask]
            assert sign * step[np.abs(step).argmax()] == pytest.approx(0.3 * 255, abs=1)


@pytest.mark.parametrize("kind", KINDS)
def test_extent_grows_with_size(kind: str) -> None:
    def extent(size: float) -> float:
        sides = []
        for seed in range(30):
            _, mask = Probe(kind, size, 0.5, 255)(flat("uint8", (300, 300)), np.random.default_rng(seed))
            rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
            sides.append(np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1))
        return float(np.mean(sides))

    small, middle, large = extent(10), extent(30), extent(90)
    assert middle / small == pytest.approx(3, rel=0.35)
    assert large / middle == pytest.approx(3, rel=0.2)
    if kind == "scratch":
        assert large == pytest.approx(90, rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_probe_at_every_contrast(kind: str) -> None:
    masks = [Probe(kind, 25, c, 255)(flat("uint8"), np.random.default_rng(3))[1] for c in (0.1, 0.1, 0.4)]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


def test_a_probe_lies_where_the_model_looks_or_says_that_it_cannot() -> None:
    inside = np.zeros((120, 160), bool)
    inside[60:110, 20:90] = True
    for seed in range(10):
        _, mask = Probe("spot", 15, 0.5, 255)(flat("uint8"), np.random.default_rng(seed), inside)
        assert inside[mask].mean() >= 0.9
    with pytest.raises(DataError, match="does not fit"):
        Probe("stain", 200, 0.5, 255)(flat("uint8"), np.random.default_rng(0))
    with pytest.raises(DataError, match="does not fit"):
        Probe("spot", 15, 0.5, 255)(flat("uint8"), np.random.default_rng(0), np.zeros((120, 160), bool))


def test_no_method_and_no_training_knows_the_probes() -> None:
    source = Path(blemish.__file__).parent
    for file in source.rglob("*.py"):
        names = [ast.unparse(n) for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Import | ast.ImportFrom)]  # fmt: skip  # noqa: E501
        if any("synthesis" in name and "probes" in name for name in names):
            assert file.relative_to(source).as_posix() == "evaluation/power.py"

"""The drawn cloth: a flaw lies inside its mask, and the same seed gives the cloth without it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.worlds.weave import FLAWS, PERIOD, weave
from blemish.errors import ConfigError


@pytest.mark.parametrize("kind", FLAWS)
def test_a_flaw_differs_from_its_clean_twin_in_the_mask_alone(kind: str) -> None:
    for seed in range(20):
        clean, nothing = weave(np.random.default_rng(seed), (40, 56))
        image, mask = weave(np.random.default_rng(seed), (40, 56), kind)
        assert not nothing.any()
        assert image.shape == (40, 56, 3)
        assert np.array_equal((image != clean).any(2) | mask, mask)
        assert 0.002 < mask.mean() < 0.15
        assert np.abs(image[mask].astype(int) - clean[mask]).mean() > 5


def test_threads_return() -> None:
    image = weave(np.random.default_rng(0), (64, 64))[0].astype(float)
    again = np.abs(image[:, 2 * PERIOD :] - image[:, : -2 * PERIOD]).mean()
    half = np.abs(image[:, PERIOD:] - image[:, :-PERIOD]).mean()
    assert again < 5 < half


def test_an_unknown_flaw_is_refused() -> None:
    with pytest.raises(ConfigError):
        weave(np.random.default_rng(0), kind="hole")

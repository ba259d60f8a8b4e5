"""Residuals by what good images have at each place."""

from __future__ import annotations

import torch

from blemish.nn.place_scores import PRIOR
from blemish.nn.residuals import Residuals


def drawn(count: int, spread: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """(count, C, h, w) of that spread (C, h, w)."""
    return spread * torch.randn(count, *spread.shape, generator=torch.Generator().manual_seed(seed))


def test_even_channels_are_the_plain_length() -> None:
    x = drawn(4, torch.ones(3, 2, 2))
    plain = Residuals(3, (2, 2), even=True)
    plain.measure([x])
    torch.testing.assert_close(plain(x), x.norm(dim=1))


def test_each_channel_counts_by_what_is_usual_at_its_place() -> None:
    spread = torch.ones(3, 2, 2)
    spread[0] = 10.0  # never rebuilt well
    spread[1, 0, 0] = 0.1  # always, at one place
    scored = Residuals(3, (2, 2), even=False)
    good = drawn(4000, spread)
    scored.measure(good.split(512))
    whole = good.square().mean((0, 2, 3))[:, None, None]
    expected = ((good.square().sum(0) + PRIOR * whole) / (4000 + PRIOR)).sqrt()
    torch.testing.assert_close(scored.usual, expected, rtol=1e-4, atol=1e-6)
    usual = scored(drawn(500, spread, seed=1)).square().mean(0)
    assert ((usual > 2) & (usual < 4)).all()  # about one for each channel, wherever
    odd = torch.zeros(1, 3, 2, 2)
    odd[0, 1, 0, 0], odd[0, 0, 1, 1] = 1.0, 5.0
    assert scored(odd)[0, 0, 0] > 3 * scored(odd)[0, 1, 1]


def test_a_channel_that_is_always_rebuilt_does_not_divide_by_zero() -> None:
    scored = Residuals(2, (1, 1), even=False)
    x = torch.zeros(50, 2, 1, 1)
    x[:, 0] = 1.0
    scored.measure([x])
    assert torch.isfinite(scored(torch.ones(1, 2, 1, 1))).all()

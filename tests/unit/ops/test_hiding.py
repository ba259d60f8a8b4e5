"""What is hidden of an image, and what stands in its place; and defects made on tensors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.nn.hiding import count_of, drawn, fixed_mask, hidden, mosaic, strangest
from blemish.nn.spoiling import spoilt


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0.02, 0.98))
def test_strangest_hides_the_highest_of_each_image(seed: int, share: float) -> None:
    values = torch.rand(3, 6, 7, generator=generator(seed))
    mask = strangest(values, share)
    assert mask.shape == (3, 1, 6, 7)
    for image_mask, image_values in zip(mask.flatten(1), values.flatten(1), strict=True):
        assert round(image_mask.sum().item(), 3) == count_of(share, 42)
        assert image_values[image_mask == 1].min() > image_values[image_mask == 0].max()


def test_a_mask_is_a_function_of_one_image_alone() -> None:
    values = torch.rand(5, 8, 8, generator=generator())
    together = strangest(values, 0.25, 0.05)
    for i in range(5):
        assert torch.equal(strangest(values[i : i + 1], 0.25, 0.05), together[i : i + 1])


def test_a_soft_step_moves_little_where_a_hard_one_turns() -> None:
    values = torch.rand(1, 16, 16, generator=generator())
    order = values.flatten().argsort(descending=True)
    swapped = values.clone().flatten()
    limit = values.flatten()[order[[63, 64]]].mean()
    swapped[order[63]], swapped[order[64]] = limit - 1e-5, limit + 1e-5  # they change places by next to nothing
    before = values.clone().flatten()
    before[order[63]], before[order[64]] = limit + 1e-5, limit - 1e-5
    a, b = before.view(1, 16, 16), swapped.view(1, 16, 16)
    assert (strangest(a, 0.25) - strangest(b, 0.25)).abs().max() > 0.9
    assert (strangest(a, 0.25, 0.05) - strangest(b, 0.25, 0.05)).abs().max() < 2e-3
    assert ((strangest(a, 0.25, 0.05) - strangest(a, 0.25)).abs() > 0.01).float().mean() < 0.05


def test_images_without_any_difference_are_hidden_in_half_alike() -> None:
    assert torch.equal(strangest(torch.zeros(1, 4, 4), 0.25, 0.05), torch.full((1, 1, 4, 4), 0.5))


def test_fixed_masks() -> None:
    checker = fixed_mask("checker", (6, 8), 0.25)[0, 0]
    assert checker.sum() == 24
    assert not (checker[:, 1:] * checker[:, :-1]).any()
    centre = fixed_mask("centre", (8, 8), 0.25)[0, 0]
    assert centre.sum() == 16
    assert centre[2:6, 2:6].all()
    a, b, c = (fixed_mask("random", (8, 8), 0.25, seed) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.sum() == c.sum() == 16


def test_lots_differ_and_hide_equally_much() -> None:
    masks = drawn(20, (6, 8), 0.25, generator())
    assert (masks.flatten(1).sum(1) == 12).all()
    assert len({tuple(m.flatten().tolist()) for m in masks}) > 15
    assert ((masks.mean(0) > 0.02) & (masks.mean(0) < 0.6)).all()


@pytest.mark.parametrize("hint", [0, 4])
def test_what_is_hidden_is_a_mosaic_or_nothing(hint: int) -> None:
    x = torch.rand(2, 3, 16, 16, generator=generator())
    mask = torch.zeros(2, 1, 2, 2)
    mask[:, :, 0, 1] = 1
    out = hidden(x, mask, 8, hint)
    covered = torch.zeros(16, 16, dtype=torch.bool)
    covered[:8, 8:] = True
    assert torch.equal(out[..., ~covered], x[..., ~covered])
    inside = out[..., :8, 8:]
    if hint:
        for y in (0, 4):
            square = inside[..., y : y + 4, 4:8]
            mean = x[..., y : y + 4, 12:16].mean((2, 3), keepdim=True)
            torch.testing.assert_close(square, mean.expand_as(square))
    else:
        assert not inside.any()
    torch.testing.assert_close(mosaic(x, 16), x.mean((2, 3), keepdim=True).expand_as(x))


def test_spoilt_images_differ_in_the_blobs_alone() -> None:
    x = torch.rand(64, 3, 32, 40, generator=generator(1))
    out, where = spoilt(x, generator(2))
    assert torch.equal(torch.where(where > 0, x, out), x)
    share = where.mean((1, 2, 3))
    assert 0.015 < share.min() < 0.05
    assert 0.1 < share.max() <= 0.151
    moved = ((out - x) * where).sum((2, 3)) / where.sum((2, 3))
    alike = moved.std(1) < 0.08  # texture moves the channels a little apart
    assert 0.2 < alike.float().mean() < 0.9
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(spoilt(x, generator(2))[0], out)

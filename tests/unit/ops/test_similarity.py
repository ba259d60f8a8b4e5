"""Edges and local statistics against slow, plain versions of themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from blemish.nn.similarity import (
    GMS_C,
    gms_map,
    gms_scales,
    gradient_magnitude,
    median3,
    msgms_loss,
    msgms_map,
    ssim,
)


def images(count: int = 2, channels: int = 3, size: tuple[int, int] = (32, 48), seed: int = 0) -> Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(5, 7), (2, 2), (1, 4), (16, 16)])
def test_median_is_that_of_the_neighbourhood(size: tuple[int, int]) -> None:
    x = images(3, 1, size).round(decimals=1)  # ties too
    plain = np.stack([ndimage.median_filter(a, 3, mode="nearest") for a in x[:, 0].numpy()])
    assert np.array_equal(median3(x)[:, 0].numpy(), plain)


def test_gradient_is_prewitts() -> None:
    x = images(2, 1)
    kernel = torch.tensor([[1.0, 0, -1]] * 3) / 3
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across, down = (F.conv2d(padded, k[None, None]) for k in (kernel, kernel.T))
    torch.testing.assert_close(gradient_magnitude(x), torch.hypot(across, down), atol=1e-3, rtol=1e-3)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert torch.allclose(gradient_magnitude(ramp)[..., 1:-1], torch.tensor(2.0), atol=1e-4)


def test_gms_is_the_formula_and_zero_for_the_same_image() -> None:
    a, b = images(2, 1), images(2, 1, seed=1)
    p, q = gradient_magnitude(median3(a)), gradient_magnitude(median3(b))
    torch.testing.assert_close(gms_map(a, b), 1 - (2 * p * q + GMS_C) / (p**2 + q**2 + GMS_C))
    assert gms_map(a, a).abs().max() < 1e-5
    assert 0 < gms_map(a, b).mean() < 1


def test_four_scales_halve_and_the_map_is_their_mean() -> None:
    a, b = images(), images(seed=1)
    scales = gms_scales(a, b)
    assert [tuple(s.shape[2:]) for s in scales] == [(32, 48), (16, 24), (8, 12), (4, 6)]
    up = [F.interpolate(s, size=(32, 48), mode="bilinear", align_corners=False)[:, 0] for s in scales]
    torch.testing.assert_close(msgms_map(a, b), torch.stack(up).mean(0))
    assert msgms_loss(a, b).item() == pytest.approx(float(np.mean([s.mean().item() for s in scales])), rel=1e-5)
    assert msgms_loss(a, a).item() < 1e-5


def test_an_edge_that_is_gone_lights_up_where_it_was() -> None:
    a = torch.zeros(1, 3, 32, 32)
    a[..., 16:] = 1
    found = msgms_map(a, torch.zeros_like(a))[0]
    assert found[:, 14:18].mean() > 0.8
    assert found[:, :4].mean() < 0.2


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    at = np.arange(11) - 5
    window = np.exp(-0.5 * (at / 1.5) ** 2)
    window = np.outer(window, window) / np.outer(window, window).sum()
    found = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            both = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = 1e-4, 9e-4
            found.append((2 * mp * mq + c1) * (2 * both + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(found))


def test_ssim_is_that_of_wang() -> None:
    a, b = images(1, 1, (16, 20)), images(1, 1, (16, 20), seed=1)
    b = 0.7 * a + 0.3 * b
    assert ssim(a, b).item() == pytest.approx(plain_ssim(a[0, 0].double().numpy(), b[0, 0].double().numpy()), abs=1e-4)
    assert ssim(a, a).item() == pytest.approx(1, abs=1e-5)


def test_losses_have_slopes_everywhere() -> None:
    """Plain images too: the length of no gradient, and the variance of no texture, still have a finite slope."""
    a = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    (msgms_loss(a, images(1, size=(32, 32))) + 1 - ssim(a, images(1, size=(32, 32)))).backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()
    assert a.grad.abs().max() > 0


@pytest.mark.parametrize("shade", [0.0, 1.0])
def test_similarity_is_exact_whatever_is_switched_on_around(shade: float) -> None:
    """A variance is a difference of squares: of white places bf16 has no digits left for it."""
    a, b = images(1, size=(32, 32)), images(1, size=(32, 32), seed=1)
    a[..., :24] = shade
    b = 0.9 * a + 0.1 * b
    slopes = []
    for on in (False, True):
        x = b.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            value = ssim(x, a)
        slopes.append(torch.autograd.grad(value, x)[0])
        assert value.dtype == torch.float32
        assert 0 < value.item() <= 1
    assert torch.equal(*slopes)
    short = ssim(b.bfloat16(), a.bfloat16())
    assert short.dtype == torch.float32
    assert short.item() == pytest.approx(ssim(b, a).item(), abs=0.02)


@pytest.mark.parametrize("shade", [0.0, 0.5, 1.0, 3.0])
def test_plain_images_are_wholly_alike(shade: float) -> None:
    plain = torch.full((2, 3, 32, 32), shade)
    assert ssim(plain, plain).item() == pytest.approx(1, abs=1e-4)
    assert np.isfinite(ssim(plain, 1 - plain).item())

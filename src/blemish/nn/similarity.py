"""How alike two images are in their edges and in their local statistics; images are (B, C, H, W) in about [0, 1].

Xue et al., Gradient Magnitude Similarity Deviation, TIP 2014; Zavrtanik et al., Reconstruction by inpainting for visual
anomaly detection, Pattern Recognition 2021 (over several scales, as loss and as map); Wang et al., Image quality
assessment, TIP 2004 (SSIM).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GMS_C = 0.0026  # keeps plain places from being judged by noise
SSIM_C = (0.01**2, 0.03**2)
SCALES = 4
WINDOW, SPREAD = 11, 1.5  # of SSIM's Gaussian, in pixels


def median3(x: Tensor) -> Tensor:
    """(B, C, H, W): the median of each 3 x 3 neighbourhood, borders repeated.

    By least and largest of two alone, which every engine has: sorted columns of three, then the median of their largest
    small, their median middle and their smallest large one.
    """
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    low, middle, high = _sorted3(x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:])
    lows, middles, highs = ((t[..., :-2], t[..., 1:-1], t[..., 2:]) for t in (low, middle, high))
    return _median(
        torch.maximum(torch.maximum(lows[0], lows[1]), lows[2]),
        _median(*middles),
        torch.minimum(torch.minimum(highs[0], highs[1]), highs[2]),
    )


def _median(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def _sorted3(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    middle = torch.minimum(high, c)
    return torch.minimum(low, middle), torch.maximum(low, middle), torch.maximum(high, c)


def gradient_magnitude(x: Tensor) -> Tensor:
    """(B, 1, H, W): length of the Prewitt gradient, kernels divided by 3, borders repeated."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    columns = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    across = (rows[..., 2:] - rows[..., :-2]) / 3
    down = (columns[:, :, 2:] - columns[:, :, :-2]) / 3
    return (across.square() + down.square() + 1e-8).sqrt()  # has a slope at 0


def gms_map(a: Tensor, b: Tensor) -> Tensor:
    """Two grey images (B, 1, H, W) -> (B, 1, H, W): 1 - gradient magnitude similarity, in [0, 1)."""
    p, q = gradient_magnitude(median3(a)), gradient_magnitude(median3(b))
    return 1 - (2 * p * q + GMS_C) / (p.square() + q.square() + GMS_C)


def gms_scales(a: Tensor, b: Tensor, scales: int = SCALES) -> list[Tensor]:
    """Two images (B, C, H, W) -> `gms_map` of their grey, (B, 1, H / 2^s, W / 2^s) of each scale, finest first."""
    a, b = a.mean(1, keepdim=True), b.mean(1, keepdim=True)
    found = [gms_map(a, b)]
    for _ in range(scales - 1):
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        found.append(gms_map(a, b))
    return found


def msgms_map(a: Tensor, b: Tensor) -> Tensor:
    """Two images (B, C, H, W) -> (B, H, W): mean over the scales, each bilinear to full size."""
    maps = gms_scales(a, b)
    height, width = int(a.shape[2]), int(a.shape[3])
    whole = [maps[0]]
    whole += [F.interpolate(m, size=(height, width), mode="bilinear", align_corners=False) for m in maps[1:]]
    return torch.cat(whole, 1).mean(1)


def msgms_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean over scales of the mean of 1 - GMS."""
    return torch.stack([m.mean() for m in gms_scales(a, b)]).mean()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of two images (B, C, H, W), over places where the window of 11 pixels fits.

    The window is separable, and a product with a banded matrix along each side: a third of the time of convolutions
    of one channel on a CPU. In float32 whatever the images were computed in: a variance is a difference of squares
    here, and of white places bf16 gets it wrong by more than the constants that keep the quotient finite.
    """
    with torch.autocast(a.device.type, enabled=False):
        return _ssim(a.float(), b.float())


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    rows, columns = _band(int(a.shape[2])), _band(int(a.shape[3])).T.contiguous()

    def local(x: Tensor) -> Tensor:
        return rows @ (x @ columns)

    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a.square(), local(b * b) - mean_b.square()
    both = local(a * b) - mean_a * mean_b
    c1, c2 = SSIM_C
    alike = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return (alike / ((mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2))).mean()


def _band(side: int) -> Tensor:
    """(side - 10, side): Gaussian means of 11 neighbours."""
    at = torch.arange(WINDOW, dtype=torch.float32) - WINDOW // 2
    kernel = torch.exp(-0.5 * (at / SPREAD) ** 2)
    kernel = kernel / kernel.sum()
    return F.conv1d(torch.eye(side)[:, None], kernel.view(1, 1, -1))[:, 0].T.contiguous()

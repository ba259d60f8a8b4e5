"""The length of a reconstruction's residual at each place, its channels alike or by what good images have there."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from blemish.nn.place_scores import PRIOR

LEAST = 1e-3  # smallest spread of a channel, as a share of that of all channels


class Residuals(nn.Module):
    """(B, C, h, w) -> (B, h, w): the length of the residual.

    Not `even`, each channel is first divided by its root mean square on good images at that place, so that a channel
    which is never rebuilt well counts no more than others (a Mahalanobis distance with a diagonal covariance). A
    place's square is drawn towards that of the whole channel, which counts as `PRIOR` images.

    Args:
        even: channels count as they are; nothing is measured, as in UniAD (You et al. 2022, Eq. 9).
    """

    usual: Tensor  # (C, h, w); (1, 1, 1) where channels are even

    def __init__(self, channels: int, grid: tuple[int, int], *, even: bool) -> None:
        super().__init__()
        self.even = even
        self.register_buffer("usual", torch.ones(1, 1, 1) if even else torch.ones(channels, *grid))

    @torch.no_grad()
    def measure(self, batches: Iterable[Tensor]) -> None:
        """Take the figures of good images' residuals (B, C, h, w)."""
        if self.even:
            return
        n, total = 0, torch.zeros(self.usual.shape, dtype=torch.float64, device=self.usual.device)
        for x in batches:
            n, total = n + len(x), total + x.double().square().sum(0)
        whole = total.mean((1, 2), keepdim=True) / n
        usual = ((total + PRIOR * whole) / (n + PRIOR)).sqrt()
        self.usual.copy_(usual.clamp_min(LEAST * float(usual.mean())))

    def forward(self, x: Tensor) -> Tensor:
        return (x / self.usual).square().sum(1).sqrt()

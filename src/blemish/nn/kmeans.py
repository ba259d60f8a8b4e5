"""Where k-means starts, on unit vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """(N, D) unit vectors -> (k,) rows, drawn one by one, each as likely as it is far from those before by 1 - cosine.

    Source  Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
    """
    chosen = [int(torch.randint(len(x), (), generator=generator))]
    far = 1 - x @ x[chosen[0]]
    while len(chosen) < k:
        chosen.append(int(torch.multinomial(far.clamp_min(1e-9), 1, generator=generator)))
        far = torch.minimum(far, 1 - x @ x[chosen[-1]])
    return torch.tensor(chosen)

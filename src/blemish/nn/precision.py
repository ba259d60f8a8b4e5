"""Which products an engine may run in a shorter number format."""

from __future__ import annotations

from torch import Tensor, nn


class CoarseProduct(nn.Module):
    """a @ b, in float32 here; an engine may run it in bf16: where the method needs an order, or a value to 3 digits.

    The name of this class's attribute in a method has to start with `coarse`: the exported nodes carry it, and the
    engine finds them by it (`runtime.engines`). Everything around stays float32.
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

"""Which products an engine may run in a shorter number format."""

from __future__ import annotations

from torch import Tensor, nn

LARGEST = 1e30


class CoarseProduct(nn.Module):
    """a @ b, in float32 here; an engine may run it in bf16: where the method needs an order, or a value to 3 digits.

    The name of this class's attribute in a method has to start with `coarse`: the exported nodes carry it, and the
    engine finds them by it (`inspection.graph_parts`). Everything around stays float32.
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


class Exact(nn.Module):
    """The border in a method behind which everything is float32; what stands before may run in bf16.

    Hand every tensor through it that the part behind uses: outputs of the networks, and the features that they are
    compared with. The name of this class's attribute in a method has to start with `exact`.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-LARGEST, LARGEST)  # changes nothing; unlike an identity, it survives the export

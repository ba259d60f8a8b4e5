"""Where an engine may compute in a shorter number format."""

from __future__ import annotations

from torch import Tensor, nn

from blemish.ops.arrays import LARGEST


class Exact(nn.Module):
    """The border in a method behind which everything is float32; what stands before may run in bf16.

    Hand every tensor through it that the part behind uses: outputs of the networks, and the features that they are
    compared with. The name of this class's attribute in a method has to start with `exact`.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-LARGEST, LARGEST)  # changes nothing; unlike an identity, it survives the export

"""A frozen backbone by name. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blemish.errors import BackboneError
from blemish.learning.backbones.base import STRIDES, Backbone
from blemish.learning.backbones.weights import PACKAGED


def load(
    name: str,
    *,
    layers: Sequence[int] | None = None,
    weights: str | Path | None = None,
    allow_download: bool = False,
    strides: tuple[int, ...] = STRIDES,
) -> Backbone:
    """A frozen backbone by name: what comes with this package without PyTorch, everything else by timm.

    Weights come from this package, from the installed package of that name, from the local file `weights`, or, only
    with `allow_download`, from timm's hub. `layers` are indices of the network's stages; by default those of `strides`,
    and of a plain transformer as many of its blocks, evenly spaced, the last among them (`timm_net.levels_of`).

    Raises BackboneError where the network is unknown, or the weights are missing, altered or do not fit.
    """
    entry = PACKAGED.get(name)
    if entry is not None and entry.graph is not None and weights is None:
        from blemish.learning.backbones.graph_net import shipped

        levels = entry.graph.strides
        wanted = tuple(layers) if layers is not None else tuple(i for i, s in enumerate(levels) if s in strides)
        if wanted and set(wanted) <= set(range(len(levels))) and (layers is not None or set(strides) <= set(levels)):
            return shipped(name, entry, wanted)
    try:
        from blemish.learning.backbones import timm_net
    except ModuleNotFoundError as error:
        which = f"'{name}' with these layers" if entry is not None and entry.graph is not None else f"'{name}'"
        raise BackboneError(
            f"{which} needs PyTorch ({error.name} is not installed)",
            hint="pip install 'blemish[train]', or leave backbone, layers and weights as they are",
        ) from None
    chosen = tuple(layers) if layers is not None else None
    return timm_net.load(name, layers=chosen, weights=weights, allow_download=allow_download, strides=strides)

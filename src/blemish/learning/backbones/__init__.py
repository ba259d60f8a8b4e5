"""Frozen backbones: what there is, and how to get one. Importing this does not import torch."""

from __future__ import annotations

from typing import Any

from blemish.learning.backbones.weights import PACKAGED

DEFAULT = "efficientnet_lite0"


def describe() -> list[dict[str, Any]]:
    """The packaged backbones and whether their weights are there; of the default one the first stages always are."""
    return [
        {
            "name": name,
            "network": entry.timm_name,
            "installed": entry.graph is not None or entry.path() is not None,
            "brought_by": entry.distribution,
            "licence": entry.licence,
            "sha256": entry.sha256,
        }
        for name, entry in PACKAGED.items()
    ]

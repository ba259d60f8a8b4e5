"""Kinds of samples. What differs between them is one object each; everything else is one line for all.

`get` finds a kind by name, `of` the one of a model. A new kind is one file here, a line in `KINDS`, and a line in
`sides.SIDES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blemish.config import nearest
from blemish.errors import ConfigError, ModelFileError
from blemish.kinds.base import SampleKind
from blemish.kinds.cloud import Clouds
from blemish.kinds.image import Images
from blemish.kinds.signal import Signals

__all__ = ["KINDS", "SampleKind", "get", "of"]

KINDS: dict[str, type[SampleKind[Any]]] = {kind.name: kind for kind in (Images, Signals, Clouds)}


def get(name: str) -> type[SampleKind[Any]]:
    """The class behind a name; ConfigError where there is none."""
    if name not in KINDS:
        raise ConfigError(f"no kind of samples '{name}'", hint=nearest(name, list(KINDS)))
    return KINDS[name]


def of(meta: Mapping[str, Any]) -> SampleKind[Any]:
    """The kind that a model was learned from, by its description; ModelFileError where it is not understood."""
    try:
        return get(meta.get("kind", Images.name)).from_json(meta["preprocess"])
    except (KeyError, ConfigError) as error:
        raise ModelFileError(f"the model's preprocessing is not understood ({error})") from None

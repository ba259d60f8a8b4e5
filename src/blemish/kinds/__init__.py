"""Kinds of samples. What differs between them is one object each; everything else is one line for all.

`get` finds a kind by name, `of` the one of a model. A new kind is one file here, a line in `KINDS`, and a line in
`sides.SIDES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from blemish.config import nearest
from blemish.errors import ConfigError, ModelFileError
from blemish.kinds.base import SampleKind
from blemish.kinds.cloud import Clouds
from blemish.kinds.image import Images
from blemish.kinds.signal import Signals
from blemish.modelfile import Model

__all__ = ["KINDS", "SampleKind", "get", "of", "reading"]

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


def reading(model: Model, *, max_pixels: int | None = None, file_rate: float | None = None) -> Model:
    """The model with other settings of how files are read, None = as it has them; no score of a file changes by them.

    max_pixels  larger images are refused
    file_rate   Hz of recordings that state none

    ConfigError for a setting that means nothing to the model's kind of samples.
    """
    preprocess = of(model.meta).preprocess
    given = {k: v for k, v in {"max_pixels": max_pixels, "file_rate": file_rate}.items() if v is not None}
    for name in given:
        if name not in {field.name for field in fields(preprocess)}:
            said = {"max_pixels": "--max-pixels", "file_rate": "--rate"}[name]
            what = model.meta.get("kind", Images.name)
            raise ConfigError(f"{said} ({name}) means nothing to a model of {what}s", hint=f"leave {said} out")
    if not given:
        return model
    return replace(model, meta={**model.meta, "preprocess": replace(preprocess, **given).to_json()})

"""What runs a model, of any modality: here, in learning and on a cluster."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from typing import Any

from blemish.data import registry
from blemish.data.image.resolution import parse_scale
from blemish.errors import ConfigError, EngineError
from blemish.inspection.cloud_engine import ENGINES
from blemish.inspection.engines import Engine, open_engine
from blemish.inspection.modelfile import Model, arrays
from blemish.inspection.routed import Heads, Routed
from blemish.inspection.rules import parse_rule
from blemish.inspection.tiled import TOGETHER, Tiled

LOCAL = ("openvino", "local")
FLAGS = {"max_pixels": "--max-pixels", "file_rate": "--rate", "scale": "--scale"}  # on the command line


def open_model(
    model: Model, name: str = "openvino", *, precision: Any = "f32", threads: int = 1, batch: int = 1
) -> Engine:
    """The engine of a model: its graph, its graph and the heads behind it, or what its method runs in without a graph.

    `precision` is the number format, `threads` the images that are worked on at the same time, `batch` the images in
    one call. EngineError where the engine `name` cannot run such a model.
    """
    if not model.meta.graph:
        if name not in (*LOCAL, "numpy"):
            message = f"'{name}' runs graphs, and {model.meta.method} is none"
            raise EngineError(message, hint="leave the engine out (--engine)")
        return ENGINES[str(model.meta.engine)](model.meta.config, arrays(model.tensors))
    if model.heads and name not in LOCAL:
        raise EngineError(f"a model with a head for each category or tile runs on openvino, not on {name}")
    tiled = model.meta.preprocess.get("tiles") is not None
    if tiled or not model.heads:
        batch = TOGETHER if tiled else batch
        engine = open_engine(model.graph, name, precision=precision, threads=threads, batch=batch)
        heads = Heads(model.heads, precision=precision, threads=threads) if model.heads else None
        return Tiled(engine, heads) if tiled else engine
    return Routed(model.graph, model.heads, precision=precision, threads=threads, batch=batch)


def reading(
    model: Model, *, max_pixels: int | None = None, file_rate: float | None = None, scale: str | None = None
) -> Model:
    """The model with other settings of how files are read, None = as it has them; no score of a file changes by them.

    max_pixels  larger images are refused
    file_rate   Hz of recordings that state none
    scale       how large a source pixel is

    ConfigError for a setting that means nothing to the model's modality.
    """
    preprocess = registry.of(model.meta).preprocess
    asked = {"max_pixels": max_pixels, "file_rate": file_rate, "scale": scale}
    given = {k: v for k, v in asked.items() if v is not None}
    for name in given:
        if name not in {field.name for field in fields(preprocess)}:
            option = f"{name} ({FLAGS[name]})"
            raise ConfigError(f"{option} means nothing to a model of {model.meta.kind}s", hint="leave it out")
    if not given:
        return model
    if scale is not None and any(parse_rule(rule).scaled for rule in model.meta.rules):
        if parse_scale(scale) != parse_scale(preprocess.scale):
            message = f"the rules' promise was made at {preprocess.scale}, and does not hold at another scale ({scale})"
            warnings.warn(message, stacklevel=3)
    return replace(model, meta=replace(model.meta, preprocess=replace(preprocess, **given).to_json()))

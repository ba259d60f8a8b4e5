"""What runs a model, of any modality: here, in learning and on a cluster."""

from __future__ import annotations

from typing import Any

from blemish.errors import EngineError
from blemish.modelfile import Model, arrays
from blemish.runtime.clouds import ENGINES
from blemish.runtime.engines import Engine, open_engine
from blemish.runtime.routed import Routed

LOCAL = ("openvino", "local")


def open_model(
    model: Model, name: str = "openvino", *, precision: Any = "f32", threads: int = 1, batch: int = 1
) -> Engine:
    """The engine of a model: its graph, its graph and the heads behind it, or what its method runs in without a graph.

    `precision` is the number format, `threads` the images that are worked on at the same time, `batch` the images in
    one call. EngineError where the engine `name` cannot run such a model.
    """
    if not model.meta.get("graph", True):
        if name not in (*LOCAL, "numpy"):
            raise EngineError(f"'{name}' runs graphs, and {model.meta['method']} is none", hint="leave --engine out")
        return ENGINES[model.meta["engine"]](model.meta["config"], arrays(model.tensors))
    if not model.heads:
        return open_engine(model.graph, name, precision=precision, threads=threads, batch=batch)
    if name not in LOCAL:
        raise EngineError(f"a model with a head for each category runs on openvino, not on {name}")
    return Routed(model.graph, model.heads, precision=precision, threads=threads, batch=batch)

"""A fitted method out of a model: for the reference engine, and to continue learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blemish import config
from blemish.data import registry
from blemish.errors import ConfigError
from blemish.inspection.modelfile import Model, arrays
from blemish.inspection.routed import head_name
from blemish.learning.backbones.lit import for_lightings
from blemish.learning.heads import Vote
from blemish.learning.options import FitOptions
from blemish.learning.plan import head_of, load_backbone
from blemish.learning.sources.registry import learning_for, learning_of
from blemish.ops.anchors import Anchors

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone
    from blemish.methods.base import Method

ANCHORS = "anchors."  # prefix of the router's tensors in a model


def restore(model: Model, backbone: Backbone | None = None, head: int = 0) -> tuple[Backbone | None, Method[Any]]:
    """Backbone (None where there is none) and fitted method of a model, for the reference engine and for continuing to
    learn.

    `head` is the number of the category, where each has a head of its own.
    """
    options = config.build(FitOptions, model.run)
    if not learning_of(model.meta.kind).backbone:
        method = empty(model, None)
        method.load_fitted(arrays(model.tensors))
        return None, method
    backbone = backbone or load_backbone(options)
    assert backbone is not None
    backbone = for_lightings(backbone, len(options.lightings))
    if backbone.identity != model.meta.backbone.identity:
        raise ConfigError(f"the model was made with {model.meta.backbone.identity}, not {backbone.identity}")
    state = arrays(model.tensors)
    method = empty(model, backbone)
    if model.heads:
        state = state_of(state, head_name(head))
    method.load_fitted(state)
    return backbone, method


def restore_vote(model: Model) -> Vote | None:
    """The router that decides on the category; None in a model of one product."""
    return None if model.categories is None else load_vote(model, arrays(model.tensors))


def state_of(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors under a prefix, without it."""
    return {k.removeprefix(f"{prefix}."): v for k, v in state.items() if k.startswith(f"{prefix}.")}


def empty(model: Model, backbone: Backbone | None) -> Method[Any]:
    """The method of a model, or of its heads, before its fitted state is loaded."""
    cls, settings = head_of(config.build(FitOptions, model.run))
    kind = registry.of(model.meta)
    spec = (
        learning_for(cls.wants(settings)).open(kind, backbone, None).spec
        if backbone is None
        else backbone.spec(kind.size)
    )
    return cls(settings, spec, kind.size, model.meta.seed)


def load_vote(model: Model, state: Mapping[str, Any]) -> Vote:
    """The anchors of a model's tensors."""
    assert model.meta.vote is not None
    anchor_state = state_of(state, ANCHORS.removesuffix("."))
    return Vote(Anchors.of(anchor_state, model.meta.vote.anchors), model.meta.vote.level)

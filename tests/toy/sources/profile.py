"""Profiles for a method that takes them as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blemish.data import registry
from blemish.learning.options import FitOptions
from blemish.learning.sources.base import Learning, PlainSamples, PlainSource
from blemish.types import FeatureSpec, Needs, Record

Profiles: Any = registry.get("profile")


def _plan(learn: Sequence[Record], options: FitOptions, backbone: Any) -> Any:  # noqa: ARG001
    """As long as the first one."""
    return Profiles.from_json({"size": Profiles.read(None, learn[0].path).shape})


def _open(kind: Any, backbone: Any, cache: Any, *, threads: int | None = None, **_: Any) -> PlainSource:  # noqa: ARG001
    return PlainSource(kind, FeatureSpec((), (), (), inputs=1), threads=threads)


def _samples(
    source: PlainSource,
    records: Sequence[Record],
    needs: Needs,  # noqa: ARG001
    options: FitOptions,  # noqa: ARG001
    textures: Sequence[Any],  # noqa: ARG001
) -> PlainSamples:
    return PlainSamples(source, records)


LEARNING = Learning(("profile",), Profiles, _plan, _open, _samples, backbone=False)

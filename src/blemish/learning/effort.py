"""How long a fit may take, `--effort`: the sizes and steps that each method states for it (`Method.efforts`)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blemish import config, methods
from blemish.learning.options import FitOptions
from blemish.methods.base import Epochs

if TYPE_CHECKING:
    from blemish.methods.base import Method

STANDARD = "standard"  # the defaults of a method


def learner(options: FitOptions) -> tuple[type[Method[Any]], Mapping[str, Any]]:
    """The method whose efforts count, and the options of it that were given: of the heads where another method is
    theirs."""
    cls = methods.get(options.method)
    routing = cls.routing(config.build(cls.Config, options.options))
    if routing is None or routing.head is None:
        return cls, options.options
    return methods.get(routing.head), routing.head_options


def stated(options: FitOptions) -> Mapping[str, Any]:
    """What the method states for this effort; nothing for the standard one, or where a method has no steps."""
    if options.fused:
        each = {part.method: dict(stated(part)) for part in options.parts}
        return {name: sizes for name, sizes in each.items() if sizes}
    return learner(options)[0].efforts.get(options.effort, {})


def applied(options: FitOptions, images: int) -> FitOptions:
    """The options with the sizes and steps of their effort, for so many images to learn from; given options win.

    A number of epochs becomes steps, never fewer than the default. A warning where the method states nothing.
    """
    if options.effort == STANDARD:
        return options
    cls, given = learner(options)
    if options.effort not in cls.efforts:
        message = f"{cls.__module__.rpartition('.')[2]} has no effort '{options.effort}': it learns as always"
        warnings.warn(message, stacklevel=3)
        return options
    sizes = {**cls.efforts[options.effort], **given}
    defaults = config.to_json(cls.Config())
    for name, value in sizes.items():
        if isinstance(value, Epochs):
            batch = value.batch if isinstance(value.batch, int) else int(sizes.get(value.batch, defaults[value.batch]))
            sizes[name] = max(-(-value.times * images // batch), defaults[name])
    if given is options.options:
        return replace(options, options=sizes)
    return replace(options, options={**options.options, "head_options": sizes})

"""`blemish fit`: recipe and options in, model folders out."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blemish.cli.about import emit
from blemish.cli.progress import track
from blemish.config import parse_assignments
from blemish.errors import ConfigError, DataError
from blemish.files import file_name

_FIELDS = (
    "method",
    "backbone",
    "weights",
    "allow_download",
    "image_size",
    "roi",
    "held_out",
    "calibration",
    "precision",
    "false_alarm_rate",
    "promise_per",
    "seed",
    "budget",
    "views",
    "textures",
    "second_backbone",
    "second_weights",
    "multi_class",
    "window",
    "file_rate",
    "resample",
    "band",
    "max_pixels",
)
_SAMPLES = {"image": "images", "signal": "windows", "cloud": "clouds"}
_RECIPE = "a recipe is the run.json of a model folder"


def run(data: str, out: Path, params: dict[str, Any]) -> None:
    """`params` holds every option; `params["given"]` those that the user typed, which win over a recipe."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when torch is first imported
    from blemish import config, methods
    from blemish.data import layouts
    from blemish.detector import Detector
    from blemish.inspection import modelfile
    from blemish.learning.backbones.cache import usable_cache
    from blemish.learning.sources.registry import learning_for

    if params["device"] != "cpu":
        raise ConfigError(f"device '{params['device']}' is not supported", hint="leave --device out")
    options = _options(params)
    cut = layouts.Cut(float(options["window"]), None if options["file_rate"] is None else float(options["file_rate"]))
    cls = methods.get(options["method"])
    settings = config.build(cls.Config, _own(options))
    kind = learning_for(cls.wants(settings)).modality.name
    found = layouts.index(data, params["layout"], params["split"], cut=cut, kind=kind)
    records = layouts.select(found, params["category"] or [])
    groups = sorted({r.group for r in records if r.group and r.split == "train"})
    jobs = {out: records}
    several = options["multi_class"] or cls.routing(settings) is not None
    if len(groups) > 1 and not several:
        jobs = {out / file_name(group): [r for r in records if r.group == group] for group in groups}
    read = [data, *(options[name] for name in ("weights", "second_weights", "roi", "textures") if options[name])]
    for folder in jobs:
        modelfile.check_place(folder, read=read)
    print(
        f"learning from {sum(r.split == 'train' for r in records)} {_SAMPLES[kind]}: {layouts.folders(records)}",
        file=sys.stderr,
    )
    cache = usable_cache() or False if params["cache"] else False
    with _spread(params["engine"], params["address"]) as spread:
        for folder, chosen in jobs.items():
            _one(Detector(**options, cache=cache).fit(chosen, track=track, spread=spread), folder)


@contextmanager
def _spread(engine: str, address: str | None) -> Iterator[Any]:
    """Who else takes part in learning: nobody, or a Ray cluster."""
    if engine == "local":
        yield None
        return
    if engine != "ray":
        raise ConfigError(f"no engine '{engine}' for fit", hint="local or ray")
    from blemish.inspection.ray_session import session
    from blemish.learning.on_ray import RaySpread

    with session(address) as ray:
        yield RaySpread(ray)


def _one(detector: Any, folder: Path) -> None:
    """Save a fitted model and print its line; what a budget has cut is said."""
    from blemish.data import registry

    detector.save(folder)
    model = detector.model
    for phase in model.meta.training:
        if phase.steps < phase.planned:
            print(
                f"warning: the budget ended phase {phase.phase} after {phase.steps} of {phase.planned} steps",
                file=sys.stderr,
            )
    inspected = model.meta.inspected
    if inspected is not None:
        print(f"region of interest: {inspected:.0%} of the picture is inspected", file=sys.stderr)
    emit(
        {
            "model": str(folder),
            "method": model.meta.method,
            "data": model.describe()["data"],
            "network_input": registry.of(model.meta).takes,
            **({} if inspected is None else {"inspected": inspected}),
            "promise": detector.promise,
            "parity": model.parity.get("engines"),
            "precision": model.meta.precision,
            "bf16": model.parity.get("formats"),
            "training": [
                {"phase": p.phase, "precision": p.precision, "steps": p.steps, "planned": p.planned}
                for p in model.meta.training
            ],
            "fit_seconds": model.meta.fit_seconds,
        }
    )


def _options(params: dict[str, Any]) -> dict[str, Any]:
    """Defaults < recipe < what was typed; the method's own options stand beside the line's."""
    options = {name: params[name] for name in _FIELDS}
    options["views"] = options["views"] or ()
    own: dict[str, Any] = {}
    if params["recipe"] is not None:
        recipe = _recipe(params["recipe"])
        own = recipe.pop("options", {})
        if not isinstance(own, dict):
            raise ConfigError(f"{params['recipe']}: 'options' are no names and values", hint=_RECIPE)
        if unknown := sorted(set(recipe) - {*_FIELDS, "layers"}):
            raise ConfigError(f"{params['recipe']}: unknown option '{unknown[0]}'", hint=_RECIPE)
        options.update(recipe)
        options.update({k: v for k, v in params["given"].items() if k in _FIELDS})
        if options["backbone"] != recipe.get("backbone", options["backbone"]):
            options["layers"] = None  # stages and weights of another network
            options["weights"] = params["given"].get("weights")
        if options["method"] != recipe.get("method", options["method"]):
            own = {}  # another method's options mean nothing to this one
    own.update(parse_assignments(params["set_"] or []))
    if clash := set(own) & _line_options():
        raise ConfigError(f"'{sorted(clash)[0]}' is an option of the line, not of the method", hint="do not --set it")
    return {**{k: getattr(v, "value", v) for k, v in options.items()}, **own}


def _own(options: dict[str, Any]) -> dict[str, Any]:
    """The method's own among the options."""
    return {k: v for k, v in options.items() if k not in _line_options()}


def _line_options() -> set[str]:
    """What `Detector` takes by name and does not hand on to the method."""
    from blemish.detector import Detector

    return set(inspect.signature(Detector.__init__).parameters)


def _recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from None
    except ValueError:
        raise ConfigError(f"{path}: no JSON", hint=_RECIPE) from None
    if not isinstance(recipe, dict):
        raise ConfigError(f"{path}: no recipe", hint=_RECIPE)
    return recipe

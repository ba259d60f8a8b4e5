"""`blemish fit`: recipe and options in, model folders out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blemish.cli.about import emit
from blemish.cli.progress import track
from blemish.config import parse_assignments
from blemish.errors import ConfigError, DataError
from blemish.files import file_name
from blemish.learning.options import AUTO, OPTIONS, by_name, probe

_OF_THE_LINE = {*OPTIONS, "cache", "options", "self"}
_RECIPE = "a recipe is the run.json of a model folder"


def run(
    data: str,
    out: Path,
    chosen: dict[str, Any],
    layout: str | None,
    split: str | None,
    categories: list[str],
    cache: bool,
    engine: str,
    address: str | None,
) -> None:
    """Learn with `chosen`, the options of the fit and the method's own by name; a model for each category, or one."""
    # threads that wait sleep; each is read once, when PyTorch or NumPy is first imported
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"} | os.environ
    from blemish import config, methods
    from blemish.data import layouts
    from blemish.detector import Detector
    from blemish.inspection import modelfile
    from blemish.learning import devices
    from blemish.learning.backbones.cache import usable_cache
    from blemish.learning.sources.registry import learning_for

    options = by_name(chosen)
    devices.chosen(options.device)
    first = probe(options)
    cls = methods.get(first.method)
    settings = config.build(cls.Config, first.options)
    modality = learning_for(cls.wants(settings)).modality
    found = layouts.index(data, layout, split, cut=options.cut, kind=modality.name)
    records = layouts.select(found, categories)
    groups = sorted({r.group for r in records if r.group and r.split == "train"})
    jobs = {out: records}
    if len(groups) > 1 and not options.multi_class and cls.routing(settings) is None:
        jobs = {out / file_name(group): [r for r in records if r.group == group] for group in groups}
    files = [getattr(options, name) for name, known in OPTIONS.items() if known.file]
    for folder in jobs:
        modelfile.check_place(folder, read=[data, *filter(None, files)])
    print(
        f"learning from {sum(r.split == 'train' for r in records)} {modality.samples}: {layouts.folders(records)}",
        file=sys.stderr,
    )
    features = usable_cache() or False if cache else False
    with _spread(engine, address) as spread:
        for folder, part in jobs.items():
            _one(Detector(**chosen, cache=features).fit(part, track=track, spread=spread), folder)


@contextmanager
def _spread(engine: str, address: str | None) -> Iterator[Any]:
    """What takes part in learning besides this process: nothing, or a Ray cluster."""
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
        if phase.steps < phase.planned and not phase.flat:
            print(
                f"warning: the budget ended phase {phase.phase} after {phase.steps} of {phase.planned} steps",
                file=sys.stderr,
            )
    inspected = model.meta.inspected
    if inspected is not None:
        print(f"region of interest: {inspected:.0%} of the picture is inspected", file=sys.stderr)
    meta = model.meta
    if meta.chosen:
        _show_chosen(meta.chosen)
    locate = meta.preprocess.get("locate")
    located = None if locate is None else locate["narrowed"]
    if located is not None:
        print(f"located: the spread of good images falls to {located:.0%}", file=sys.stderr)
    kind = registry.of(model.meta)
    places = len(kind.tile_heads)
    if places:
        print(f"pictures lie alike: each of {places} tiles has a head that knows its place", file=sys.stderr)
    where = {} if meta.device == "cpu" else {"device": meta.device, "features_device": meta.features_device}
    emit(
        {
            "model": str(folder),
            "method": model.meta.method,
            "data": model.describe()["data"],
            "backbone": model.meta.to_json()["backbone"],
            "network_input": kind.takes,
            **({"lightings": list(kind.lightings)} if kind.lightings else {}),
            **({} if inspected is None else {"inspected": inspected}),
            **({} if located is None else {"located": located}),
            **({"tile_places": places} if places else {}),
            **({"views": list(model.meta.views)} if model.meta.views else {}),
            **({} if model.run["effort"] == "standard" else {"effort": model.run["effort"]}),
            **({"chosen": list(meta.chosen)} if meta.chosen else {}),
            "promise": detector.promise,
            "region_promise": detector.region_promise,
            "parity": model.parity.get("engines"),
            "precision": model.meta.precision,
            "bf16": model.parity.get("formats"),
            "training": [
                {"phase": p.phase, "precision": p.precision, "steps": p.steps, "planned": p.planned}
                | ({"of": p.category} if p.category else {})
                for p in model.meta.training
            ],
            **where,
            "fit_seconds": model.meta.fit_seconds,
        }
    )


def _show_chosen(tried: Sequence[Mapping[str, Any]]) -> None:
    """What method auto has tried, on stderr."""
    from rich.console import Console
    from rich.table import Table

    def figure(value: Any, form: str) -> str:
        return "" if value is None else format(value, form)

    table = Table("method", "size", "located", "round", "AUROC", "found", "ms", "fit s", "", box=None, pad_edge=False)
    for each in tried:
        table.add_row(
            each["method"],
            each["image_size"],
            "yes" if each["located"] else "",
            str(each["round"] or ""),
            figure(each["auroc"], ".3f"),
            figure(each["found"], ".2f"),
            figure(each["milliseconds"], ".0f"),
            figure(each["fit_seconds"], ".0f"),
            each["out"] or "chosen",
        )
    Console(stderr=True, width=None if sys.stderr.isatty() else 140, highlight=False).print(table)


def chosen(typed: dict[str, Any], recipe: Path | None, assignments: list[str]) -> dict[str, Any]:
    """Options by name: what was typed wins over a recipe, and --set over the method's own options in it."""
    written = {} if recipe is None else _recipe(recipe)
    method_options = written.pop("options", {})
    if not isinstance(method_options, dict):
        raise ConfigError(f"{recipe}: 'options' are no names and values", hint=_RECIPE)
    if unknown := sorted(set(written) - set(OPTIONS)):
        raise ConfigError(f"{recipe}: unknown option '{unknown[0]}'", hint=_RECIPE)
    if _differs("backbone", typed, written):  # stages and weights of another network
        written = {k: v for k, v in written.items() if k not in ("layers", "weights")}
    if _differs("method", typed, written):  # another method's options mean nothing to this one
        method_options = {}
    if _differs("effort", typed, {"effort": "standard", **written}):  # nor do the sizes and steps of another effort
        from blemish import methods

        name = written.get("method", OPTIONS["method"].default)
        for part in () if name == AUTO else methods.parts(name):
            sizes = {name for stated in methods.get(part).efforts.values() for name in stated}
            group = method_options.get(part)  # of several methods that are one
            if isinstance(group, dict):
                method_options[part] = {name: value for name, value in group.items() if name not in sizes}
            else:
                method_options = {name: value for name, value in method_options.items() if name not in sizes}
    method_options |= parse_assignments(assignments)
    if clash := sorted(set(method_options) & _OF_THE_LINE):
        raise ConfigError(f"'{clash[0]}' is an option of fit, not of the method", hint="give it without --set")
    return {**written, **typed, **method_options}


def _differs(name: str, typed: dict[str, Any], written: dict[str, Any]) -> bool:
    return name in typed and name in written and typed[name] != written[name]


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

"""Learning goes on from a finished model, on good images of a new station, light or patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from blemish import config
from blemish.data import registry
from blemish.errors import ConfigError, DataError
from blemish.inspection.calibrate import Scores, agreement, calibrators, in_best_format, unit_id
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model
from blemish.learning import export
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.options import FitOptions
from blemish.learning.run import Run, head_of, tensors
from blemish.learning.splits import plan_calibration
from blemish.types import Record, Track

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone
    from blemish.methods.base import Method

RATE = 0.3  # share of the learning rate at which training goes on: what is known is to stay, about


@dataclass(frozen=True)
class Change:
    """An input that a model and its adapted successor judge differently."""

    image_path: str | None
    before: str | None
    after: str | None
    score_before: float
    score_after: float
    p_before: float | None
    p_after: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def adapt(
    model: Model,
    good: Sequence[Record],
    *,
    share: float,
    backbone: Backbone | None,
    restored: Callable[[], Method[Any]],
    cache: FeatureCache | None,
    track: Track,
) -> Model:
    """The model, with these good images learned beside what it knows, and a threshold of its own for where they come
    from.

    A method that observes takes the new images into its statistics, each with the weight of an old one; a method that
    is trained by gradient takes `share` of its steps, at a lower rate, on the new images alone. The old threshold is
    void, since scores are others: a new one is made of new images that were held out, as in fit.

    `restored` gives the method as it was fitted, a new one each time. ConfigError where the method cannot go on, or
    where the model knows several products.
    """
    options = config.build(FitOptions, model.run)
    cls, settings = head_of(options)
    if model.categories is not None:
        raise ConfigError(
            "a model of several products is not adapted", hint="`blemish extend` adds a product, fit makes a new model"
        )
    if not cls.adaptable():
        raise ConfigError(f"{options.method} cannot go on learning", hint="fit again with all images")
    if not 0 < share <= 1:
        raise ConfigError(f"the share of the steps has to lie in (0, 1], not {share}")
    kind, parts = plan_calibration(good, options, costly=bool(cls.fitted_modules) or cls.needs.costly)
    learn = parts[0][0] if kind == "split" else list(good)
    settled = registry.of(model.meta)
    run = Run(good, learn, cls, settings, options, backbone, cache, track, kind=settled)

    def gone_on(records: Sequence[Record]) -> Method[Any]:
        method = restored()
        run.go_on(method, records, model.meta["data"]["learned_from"], share, RATE)
        return method

    def frozen(method: Method[Any]) -> Model:
        graph = run.freeze(method) if run.needs.graph else b""
        state = tensors(method.fitted_state(), method.config)
        return replace(model, tensors=state, graph=graph)

    scores: list[Scores] = []
    if kind == "cross":
        scores = [run.scores(frozen(gone_on(rest)), fold) for rest, fold in parts]
    method = gone_on(learn)
    adapted = frozen(method)
    if kind == "split":
        scores = [run.scores(adapted, parts[0][1])]
    per_unit = options.promise_per == "unit"
    made = calibrators(scores, options.false_alarm_rate, kind, per_unit=per_unit) if kind else {}
    data, units = model.meta["data"], {unit_id(r) for r in learn if r.unit is not None}
    told = {"good_images": len(good), "learned_from": len(learn), "share": share, "training": run.report}
    meta = {
        **adapted.meta,
        "adapted": [*model.meta.get("adapted", []), told],
        "data": {
            **data,
            "good_images": data["good_images"] + len(good),
            "learned_from": data["learned_from"] + len(learn),
            "content_ids": sorted({*data["content_ids"], *run.learned}),
            "units": sorted({*data["units"], *units}),
        },
    }
    parity = export.certify(adapted.graph, run.features.reference(method), run.golden()) if run.needs.graph else {}
    return in_best_format(replace(adapted, meta=meta, calibrators=made, parity=parity), agreement(scores))


def changes(before: Inspector, after: Inspector, sources: Sequence[Any], track: Track) -> Iterator[Change]:
    """The sources that two models judge differently; those that cannot be read are DataErrors."""
    pairs = zip(
        before.inspect_many(sources, errors="yield"),
        after.inspect_many(track(sources, "compare", len(sources)), errors="yield"),
        strict=True,
    )
    for old, new in pairs:
        if isinstance(old, DataError):
            raise old
        if old.verdict != new.verdict:
            yield Change(old.image_path, old.verdict, new.verdict, old.score, new.score, old.p_value, new.p_value)

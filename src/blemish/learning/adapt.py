"""Learning continues from a finished model, on good images of a new station, light or patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from blemish import config
from blemish.data import registry
from blemish.errors import ConfigError, DataError
from blemish.inspection.calibrate import in_best_format
from blemish.inspection.inspector import Inspector
from blemish.inspection.meta import Adapted
from blemish.inspection.modelfile import Model
from blemish.learning import devices
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.options import ALL_LEARNED, FitOptions
from blemish.learning.plan import FitPlan, head_of
from blemish.learning.run import Taught, learn, teach_more, tensors, units_of
from blemish.learning.splits import plan_calibration
from blemish.types import Record, Track

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone
    from blemish.methods.base import Method

RATE = 0.3  # share of the learning rate in further training, so that little is forgotten


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
    """The model, with these good images learned beside what it knows, and a new threshold for the station they come
    from.

    A method that observes takes the new images into its statistics, each with the weight of an old one; a method that
    is trained by gradient takes `share` of its steps, at a lower rate, on the new images alone. The old threshold no
    longer holds, since the scores change: a new one is made from new images that were held out, as in fit.

    `restored` gives the method as it was fitted, a new one each time. ConfigError where the method cannot go on, or
    where the model knows several categories.
    """
    options = config.build(FitOptions, model.run)
    cls, _ = head_of(options)
    if model.categories is not None:
        raise ConfigError(
            "a multi-class model is not adapted", hint="`blemish extend` adds a product, fit makes a new model"
        )
    if model.heads:
        raise ConfigError("a model whose tiles know their places is not adapted", hint="fit again with all images")
    if not cls.adaptable():
        raise ConfigError(f"{options.method} cannot continue learning", hint="fit again with all images")
    if not 0 < share <= 1:
        raise ConfigError(f"the share of the steps has to lie in (0, 1], not {share}")
    if model.confidence is not None:  # calibrate may have promised it since
        held_out = "split" if options.calibration in ALL_LEARNED else options.calibration
        options = replace(options, confidence=model.confidence, calibration=held_out)
    modality = registry.of(model.meta)
    split = plan_calibration(good, options, cls, len(modality.areas))
    options = replace(options, views=model.meta.views, device=devices.of_model(options.device))
    plan = FitPlan.of(split.learn, options, backbone=backbone, cache=cache, track=track, modality=modality)
    data = model.meta.data

    def taught(records: Sequence[Record], _: float, keeps: bool) -> Taught:
        return teach_more(plan, restored(), records, data.learned_from, share, RATE, keeps=keeps)

    learned = learn(plan, split, taught)
    data = replace(
        data,
        good_images=data.good_images + len(good),
        learned_from=data.learned_from + len(split.learn),
        content_ids=tuple(sorted({*data.content_ids, *learned.seen})),
        units=tuple(sorted({*data.units, *units_of(split.learn)})),
    )
    step = Adapted(len(good), len(split.learn), share, learned.report)
    adapted = replace(
        model,
        meta=replace(model.meta, data=data, adapted=(*model.meta.adapted, step)),
        tensors=tensors(learned.method.fitted_state(), learned.method.config),
        graph=learned.graph,
        calibrators=learned.calibrators,
        parity=learned.parity,
    )
    return in_best_format(adapted, learned.agreement)


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

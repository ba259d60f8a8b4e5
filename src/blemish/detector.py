"""The facade: fit, calibrate, inspect, evaluate, save, load. Importing it, loading and inspecting need no torch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from blemish import config
from blemish.data import layouts, registry
from blemish.errors import CalibrationError, ConfigError, DataError, EngineError, NotFittedError
from blemish.inspection import modelfile
from blemish.inspection.calibrate import agreement, calibrators, deployed_model, good_scores, in_best_format, unit_id
from blemish.inspection.conformal import Calibrator, Regions, check_confidence
from blemish.inspection.engines import Engine
from blemish.inspection.inspector import Errors, Inspector
from blemish.inspection.measuring import Measuring
from blemish.inspection.modelfile import Model
from blemish.inspection.open import reading
from blemish.inspection.promises import promised
from blemish.learning.backbones.cache import FeatureCache, usable_cache
from blemish.learning.options import AUTO, OPTIONS, FitOptions, by_name, probe
from blemish.system import memory_for
from blemish.types import AnomalyResult, Record, Track, no_track

if TYPE_CHECKING:
    from blemish.evaluation.summary import Evaluation
    from blemish.learning.backbones.base import Backbone
    from blemish.learning.chunks import Spread


_LESS = "a smaller image_size (--image-size), fewer images, or a method that keeps less"


class Detector:
    """Learns from good images, then inspects.

    Args:
        method: a name from `blemish.methods.names()`, or "auto": chosen from the good images (`evaluation.choose`).
        backbone: a name from `blemish backbones`, any timm network, or a `Backbone` of your own.
        cache: where frozen features are kept; False computes them each time, True takes the default folder.
        options: those of `blemish.learning.options.FitOptions`, which says what each does (docs/options.md lists them),
            and the method's own, which its page lists. The common ones: `image_size` (256, or "320x128" = width x
            height), `seed`, `roi` (an image whose pixels > 0 are inspected), `false_alarm_rate` (share of good parts
            that may be rejected), `multi_class` (one model that tells categories apart; without it, good images of
            several categories are learned as if they were of one).

    Raises ConfigError on an unknown method or option.
    """

    def __init__(
        self,
        /,
        method: str = FitOptions.method,
        *,
        backbone: str | Backbone = FitOptions.backbone,
        cache: bool | FeatureCache = True,
        **options: Any,
    ) -> None:
        # Waiting threads must not spin beside the other engine; torch reads this once, when it is first imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._backbone = None if isinstance(backbone, str) else backbone
        self._cache = usable_cache() if cache is True else cache or None
        name = backbone if isinstance(backbone, str) else backbone.identity
        self._options: FitOptions | None = by_name({**options, "method": method, "backbone": name})
        self._model: Model | None = None
        self._inspector: Inspector | None = None

    @classmethod
    def from_model(cls, model: Model, *, backbone: Backbone | None = None) -> Self:
        """A detector around a model that is there already."""
        detector = cls.__new__(cls)
        detector._backbone, detector._cache, detector._options = backbone, None, None
        detector._model, detector._inspector = model, None
        return detector

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        max_pixels: int | None = None,
        file_rate: float | None = None,
        scale: str | None = None,
    ) -> Self:
        """Read a model folder. ModelFileError where it is missing, damaged or of another version.

        `max_pixels` and `scale` of images and `file_rate` (Hz) of recordings that state none take the place of the
        model's own.
        """
        return cls.from_model(reading(modelfile.load(folder), max_pixels=max_pixels, file_rate=file_rate, scale=scale))

    def save(self, folder: str | Path) -> None:
        """Write the model folder; whole or not at all."""
        modelfile.save(self.model, folder)

    def export(
        self,
        folder: str | Path,
        runtime: str = "onnx",
        *,
        golden: Sequence[str | Path] = (),
        int8: str | Path | Sequence[str | Path] | Sequence[Record] | None = None,
        track: Track | None = None,
    ) -> dict[str, Any]:
        """Write the model for programs without Blemish: graph, pipeline.json, golden inputs, short programs.

        `runtime` is "onnx" or "openvino"; `golden` names pictures that become golden inputs beside drawn ones; `int8`
        good images that the model has not learned from, for an int8 graph. The folder has to be new or empty. Returns
        what was written; ExportError where the int8 graph judges otherwise or is not faster. See `inspection.bundle`
        and `inspection.int8`.
        """
        from blemish.inspection import bundle
        from blemish.inspection.int8 import in_int8

        if int8 is None:
            return bundle.export(self.model, folder, runtime, golden=golden)
        bundle.check_exportable(self.model)
        good = [r for r in as_records(int8, kind=self._kind()) if r.label == 0 and r.split != "test"]
        known = len(good) - len(self._unknown(good))
        if known:
            message = f"{known} of {len(good)} good images, or their units, were learned from"
            raise DataError(f"{message}, and an int8 graph is compared on others", hint="give images of new good parts")
        model, figures = in_int8(self.model, good, runtime, track or no_track)
        return bundle.export(model, folder, runtime, golden=golden, int8=figures)

    @property
    def model(self) -> Model:
        """The fitted model; NotFittedError before fit."""
        if self._model is None:
            raise NotFittedError("this detector is not fitted", hint="call fit first, or Detector.load")
        return self._model

    @property
    def promise(self) -> str | None:
        """What the threshold promises, in one sentence; None where the model is not calibrated."""
        return self.model.promise

    @property
    def region_promise(self) -> str | None:
        """How regions are cut and what that promises; None where the model is not calibrated."""
        return self.model.region_promise

    def fit(
        self,
        source: str | Path | Sequence[str | Path] | Sequence[Record],
        *,
        layout: str | None = None,
        split: str | None = None,
        categories: Sequence[str] = (),
        track: Track | None = None,
        spread: Spread | None = None,
    ) -> Self:
        """Learn from the good training images of a folder, a data set, a manifest, a list of files or of records.

        `spread` lets other machines do a part of it, with the same result: `learning.on_ray.RaySpread`.
        """
        from blemish.learning.fit import fit

        if self._options is None:
            raise ConfigError("a loaded detector cannot be fitted again", hint="make a new Detector")
        records = as_records(
            source, layout=layout, split=split, categories=categories, cut=self._cut(), kind=self._kind()
        )
        options, chosen = self._options, None
        if options.method == AUTO:
            from blemish.evaluation.choose import choose

            with memory_for("choosing a method", _LESS):
                chosen = choose(records, options, backbone=self._backbone, cache=self._cache, track=track or no_track)
            options = chosen.options
        with memory_for("learning", _LESS):
            self._model = fit(
                records,
                options,
                backbone=self._backbone,
                cache=self._cache,
                track=track or no_track,
                spread=spread,
            )
        if chosen is not None:
            tried = tuple(each.to_json() for each in chosen.tried)
            self._model = replace(self._model, meta=replace(self._model.meta, chosen=tried))
        self._inspector = None
        return self

    def extend(
        self,
        good: str | Path | Sequence[str | Path] | Sequence[Record],
        category: str,
        *,
        track: Track | None = None,
    ) -> Self:
        """One more product for a model whose categories have heads of their own (method `dfc`), from good images of it.

        Nothing changes for the other products. ConfigError where it has one head for all.
        """
        from blemish.learning.extend import extend
        from blemish.learning.plan import load_backbone
        from blemish.learning.splits import good_training_records, without_copies

        records = without_copies(good_training_records(as_records(good, cut=self._cut(), kind=self._kind())))
        backbone = self._backbone or load_backbone(config.build(FitOptions, self.model.run))
        if backbone is None:
            raise ConfigError("the model has no categories", hint="models of images with a head for each take new ones")
        with memory_for("learning", _LESS):
            self._model = extend(
                self.model, records, category, backbone=backbone, cache=self._cache, track=track or no_track
            )
        self._inspector = None
        return self

    def adapt(
        self,
        good: str | Path | Sequence[str | Path] | Sequence[Record],
        *,
        share: float = 0.2,
        layout: str | None = None,
        categories: Sequence[str] = (),
        track: Track | None = None,
    ) -> Self:
        """Continue learning from a few more good images: of a new station, light or patient.

        Methods that observe (PaDiM, PatchCore) take them into their statistics; methods trained by gradient take
        `share` of their steps on them, and forget a little. A new threshold is made from a part of them that is held
        out. Images that the model has learned from are left out with a warning. ConfigError where the method cannot go
        on, or the model knows several categories; DataError where nothing new is left.
        """
        from blemish.learning.adapt import adapt
        from blemish.learning.fitted import restore
        from blemish.learning.plan import load_backbone
        from blemish.learning.splits import good_training_records, without_copies

        records = good_training_records(
            as_records(good, layout=layout, categories=categories, cut=self._cut(), kind=self._kind())
        )
        records = self._not_learned(without_copies(records, type(registry.of(self.model.meta))))
        if not records:
            raise DataError("the model has learned from all of these images", hint="give images that are new to it")
        model = self.model
        backbone = self._backbone or load_backbone(config.build(FitOptions, model.run))
        with memory_for("learning", _LESS):
            self._model = adapt(
                model,
                records,
                share=share,
                backbone=backbone,
                restored=lambda: restore(model, backbone)[1],
                cache=self._cache,
                track=track or no_track,
            )
        self._inspector = None
        return self

    def calibrate(
        self,
        good: str | Path | Sequence[str | Path] | Sequence[Record] | None = None,
        *,
        false_alarm_rate: float = 0.05,
        confidence: float | None = None,
        promise_per: str | None = None,
        region_rate: float | None = None,
        region_per: str | None = None,
        highest: Collection[str] = (),
        track: Track | None = None,
    ) -> Self:
        """A new threshold: from good images that the model has not learned from, or, without any, from the ones that
        `fit` held out. CalibrationError where they are too few for the rate; scores never change.

        Images that the model has learned from, recognised by their pixels, and images of units that it knows are left
        out with a warning: a promise made from them would be broken by the first new part. `confidence` (0.95 = 95 %
        sure that this very model keeps its promises), `promise_per`, `region_rate` and `region_per` are those of the
        model where they are not given. ConfigError for an unknown one.

        `highest` are ids of given images which nobody has said to be good yet: they count as good ones with the highest
        scores there are, so that leaving them open never lowers a threshold. CalibrationError where more of them are
        open than may lie above it; ConfigError for a model of several products.
        """
        for name, given in (("promise_per", promise_per), ("region_per", region_per)):
            per = OPTIONS[name].choices
            if given is not None and given not in per:
                raise ConfigError(f"no promise per '{given}' ({name})", hint=config.nearest(given, list(per)))
        check_confidence(confidence)
        certain = self.model.confidence if confidence is None else confidence
        regions = self._regions(region_rate, region_per)
        if highest and (good is None or self.model.categories is not None):
            raise ConfigError("`highest` goes with given images, and with a model of one product")
        if good is None:
            if not self.model.calibrators:
                raise ConfigError("nothing was held out in fit", hint="give good images to calibrate from")
            made = {k: c.again(false_alarm_rate, regions, certain) for k, c in self.model.calibrators.items()}
            categories = self.model.categories and self.model.categories.again(false_alarm_rate, regions, certain)
        else:
            fresh = as_records(good, cut=self._cut(), kind=self._kind())
            from blemish.learning.splits import without_copies

            records = self._not_learned([r for r in fresh if r.label == 0 and r.split != "test"])
            records = without_copies(records, type(registry.of(self.model.meta)))
            per_unit = (promise_per or self.model.run["promise_per"]) == "unit"
            kind = registry.of(self.model.meta)
            follow = track or no_track
            categories = None
            if self.model.categories is not None:
                made, categories, found = promised(
                    self.model, kind, records, false_alarm_rate, per_unit, follow, regions=regions, confidence=certain
                )
            else:
                measuring = Measuring.of(kind, regions, self.model.meta.rules)
                scores = good_scores(deployed_model(self.model, kind, measuring), records, follow, highest=highest)
                if highest:
                    self._check_open(records, highest, false_alarm_rate, certain)
                made = calibrators([scores], false_alarm_rate, per_unit=per_unit, regions=regions, confidence=certain)
                found = agreement([scores])
            self._model = in_best_format(self.model, found)  # on this processor, whose short format may be another
        self._model = self.model.with_calibrators(made, categories)
        self._inspector = None
        return self

    def _check_open(
        self, records: Sequence[Record], highest: Collection[str], rate: float, confidence: float | None
    ) -> None:
        """CalibrationError where so many images are open that the threshold would be none."""
        zeros = [0.0] * len(records)
        above = Calibrator.fit(zeros, zeros, rate, confidence=confidence).above
        left = sum(record.id in highest for record in records)
        if left > above:
            message = f"{left} of {len(records)} images are open, and {above} may lie above the threshold"
            raise CalibrationError(message, hint=f"judge {left - above} more of them")

    def _regions(self, rate: float | None, per: Any) -> Regions:
        """How the model cuts regions, with another rate or another count where they are given."""
        known = next((c.regions for c in self.model.calibrators.values()), None)
        known = known or config.build(FitOptions, self.model.run).regions
        return replace(known, rate=known.rate if rate is None else rate, per=per or known.per)

    def _not_learned(self, records: list[Record]) -> list[Record]:
        fresh = self._unknown(records)
        if len(fresh) < len(records):
            warnings.warn(
                f"{len(records) - len(fresh)} of {len(records)} images, or their units, were learned from "
                "and are left out",
                stacklevel=3,
            )
        return fresh

    def _unknown(self, records: list[Record]) -> list[Record]:
        data = self.model.meta.data
        images, units = set(data.content_ids), set(data.units)
        kind = registry.of(self.model.meta)
        return [r for r in records if unit_id(r) not in units and not kind.known(r, images)]

    def inspector(self, engine: str = "openvino", *, threads: int | None = None, batch: int = 1) -> Inspector:
        """The line from file to result on one engine; "reference" is what graphs are compared with."""
        chosen: str | Engine = engine
        if engine == "torch":
            warnings.warn("the engine 'torch' is called 'reference' now", DeprecationWarning, stacklevel=2)
            engine = "reference"
        if engine == "reference":
            from blemish.learning import export
            from blemish.learning.fitted import restore, restore_vote

            if self.model.heads:
                each = "tile" if self.model.categories is None else "category"
                raise EngineError(f"the reference runs one head, and this model has one for each {each}")
            backbone, method = restore(self.model, self._backbone)
            if backbone is None:
                chosen = export.plain_engine(method)
            else:
                chosen = export.reference_engine(backbone, method, restore_vote(self.model))
        return Inspector(self.model, chosen, threads=threads, batch=batch)

    def _cut(self) -> layouts.Cut | None:
        """How recordings are cut into windows: as in the model, or as the options say; None for images."""
        if self._model is not None:
            return registry.of(self._model.meta).cut
        if self._options is None:
            return None
        return self._options.cut

    def _kind(self) -> str | None:
        """Of the samples that the method takes."""
        if self._model is not None:
            return registry.of(self._model.meta).name
        if self._options is None:
            return None
        from blemish.learning.plan import head_of
        from blemish.learning.sources.registry import learning_for

        cls, settings = head_of(probe(self._options))
        return learning_for(cls.wants(settings)).modality.name

    def _line(self) -> Inspector:
        if self._inspector is None:
            self._inspector = self.inspector()
        return self._inspector

    def inspect(self, source: Any) -> AnomalyResult:
        """One image: a path, an encoded file's bytes or binary stream, a PIL image, a numpy array (H, W[, C]) of
        uint8, uint16 or float, or a tensor. Colours are RGB: turn what `cv2.imread` gives with `image[..., ::-1]`.
        A stream is left open, and where it can seek its position is restored. DataError where it cannot be read.
        """
        return self._line().inspect(source)

    def inspect_many(self, sources: Iterable[Any], *, errors: Errors = "raise") -> Iterator[Any]:
        """Results in order, lazily, on all cores; a path alone is one file, or the files of one folder.

        With errors="yield" a source that cannot be read gives its DataError in place of a result, and the run goes on;
        with "raise" it ends the run. See `Inspector.inspect_many`.
        """
        return self._line().inspect_many(sources, errors=errors)

    def __getstate__(self) -> dict[str, Any]:
        """Without the compiled graph, which is compiled again when needed."""
        return {**self.__dict__, "_inspector": None}

    def evaluate(
        self,
        source: str | Path | Sequence[Record],
        *,
        layout: str | None = None,
        split: str | None = None,
        categories: Sequence[str] = (),
        track: Track | None = None,
    ) -> Evaluation:
        """Metrics on the test records of a data set."""
        from blemish.evaluation.evaluate import evaluate

        records = as_records(
            source, layout=layout, split=split, categories=categories, cut=self._cut(), kind=self._kind()
        )
        name = str(source) if isinstance(source, str | Path) else f"{len(records)} records"
        return evaluate(self._line(), records, model=self.model.describe(), source=name, track=track)


def _spelled_out() -> Signature:
    """The signature of `Detector.__init__` with every option of `FitOptions` by name, for `help`."""
    init = signature(Detector.__init__)
    *parameters, options = init.parameters.values()
    named = [
        Parameter(o.name, Parameter.KEYWORD_ONLY, default=o.default, annotation=FitOptions.__annotations__[o.name])
        for o in OPTIONS.values()
        if o.name not in init.parameters
    ]
    return init.replace(parameters=[*parameters, *named, options])


Detector.__init__.__signature__ = _spelled_out()  # type: ignore[attr-defined]


def as_records(
    source: str | Path | Sequence[str | Path] | Sequence[Record],
    *,
    layout: str | None = None,
    split: str | None = None,
    categories: Sequence[str] = (),
    cut: layouts.Cut | None = None,
    kind: str | None = None,
) -> list[Record]:
    """Records of whatever a user names: a path, a list of files (all good, to learn from), or records.

    `cut` says how recordings become windows, `kind` which modality is wanted; None = any, and images of listed files.
    DataError where the folders of listed files are called bad; records say themselves what they are.
    """
    if isinstance(source, str | Path):
        return layouts.select(layouts.index(source, layout, split, cut=cut, kind=kind), categories)
    records: list[Record] = []
    items, modality = list(source), registry.get(kind or registry.DEFAULT)
    layouts.check_named([Path(item) for item in items if not isinstance(item, Record)])
    for item in items:
        if isinstance(item, Record):
            records.append(item)
        else:
            records += modality.records(Path(item), str(item), cut)
    return modality.completed(records, cut)

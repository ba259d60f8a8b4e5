"""Records in, metrics out: one pass over the test images through the deployed line. No torch."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.data.modality import Modality
from blemish.errors import DataError
from blemish.evaluation.metrics.aupro import SaturatedRegion
from blemish.evaluation.metrics.intervals import Estimate, bootstrap, delong
from blemish.evaluation.metrics.pixels import Bounded, PixelCounts
from blemish.evaluation.metrics.ranking import average_precision, f1_max
from blemish.evaluation.metrics.segmentation import SegmentedPixels
from blemish.evaluation.summary import (
    DefectSummary,
    Evaluation,
    ImageMetrics,
    Masks,
    Metric,
    PixelMetrics,
    Rate,
    Sample,
    Setting,
    Summary,
    Timing,
    Unmeasured,
)
from blemish.inspection.inspector import Inspector
from blemish.types import UNLABELLED, AnomalyResult, Record, Track, no_track

WHOLE = 0.98  # share of a part that a mask covers, above which it is probably inverted, or holds labels


def evaluate(
    inspector: Inspector,
    records: Sequence[Record],
    *,
    model: dict[str, Any],
    source: str,
    track: Track | None = None,
    keep: Callable[[Record, AnomalyResult], None] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Inspect the test records and measure.

    Image metrics need good and anomalous test images; pixel metrics take the images whose mask is known (good ones
    have none by nature) in source pixels, and are left out where no defect has a mask. `keep` sees every result, for
    reports. An image that cannot be read is listed in `unread` and left out; one whose mask cannot be used is listed in
    `unusable_masks` and left out of the pixel metrics. A warning says how many defective images have no mask, an empty
    one or one that covers them whole, and that there is no good image. DataError where there is no test record, none
    with a label, or none that can be read.
    """
    test = [r for r in records if r.split == "test"]
    if not test and (hidden := sum(r.defect == UNLABELLED for r in records)):
        hint = "inspect them: whoever keeps the labels measures the maps"
        raise DataError(f"{hidden} test images have no labels: nothing can be measured on them", path=source, hint=hint)
    if not test:
        raise DataError("there is no test image", path=source, hint="evaluate needs a data set with a test split")
    if all(r.label for r in test):
        warnings.warn(f"{source}: no test image is a good one: no AUROC, no rate of false alarms", stacklevel=2)
    seen = _Seen(type(inspector.kind), _scale(inspector))
    follow = (track or no_track)(test, "evaluate", len(test))
    kind = seen.kind
    for record, result in zip(test, inspector.inspect_many(map(kind.source, follow), errors="yield"), strict=True):
        if isinstance(result, DataError):
            seen.unread.append(Unmeasured(record.id, str(result)))
            continue
        shown = seen.add(record, result, inspector)
        if keep is not None:
            keep(shown, result)
    if not seen.samples:
        raise DataError(f"none of the {len(test)} test images can be read: {seen.unread[0].error}")
    if seen.before:
        warnings.warn(f"{seen.before} of {len(test)} test images were learned or calibrated from", stacklevel=2)
    _warn_of_masks(seen.masks, kind)
    return _measured(seen, test, inspector, model, source, seed)


class _Truth(NamedTuple):
    """Where one image is defective, as the metrics take it."""

    state: str  # good, or a field of `Masks`
    mask: NDArray[np.bool_] | None = None  # of all defects together
    places: list[SaturatedRegion] | None = None
    saturated: Sequence[SaturatedRegion] = ()


@dataclass
class _Seen:
    """What the pass over the test images has collected so far."""

    kind: type[Modality[Any]]
    scale: float | None  # of the maps' values
    before: int = 0  # images that the model was made from
    masks: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    unread: list[Unmeasured] = field(default_factory=list)
    unusable: list[Unmeasured] = field(default_factory=list)
    counts: dict[str | None, PixelCounts] = field(default_factory=dict)  # by category
    saturated: dict[str | None, PixelCounts] = field(default_factory=dict)
    segmented: dict[str | None, SegmentedPixels] = field(default_factory=dict)

    def add(self, record: Record, result: AnomalyResult, inspector: Inspector) -> Record:
        """Count one result; the record without its mask where that cannot be used."""
        self.before += self.kind.known(record, inspector.known)
        self.scale = self.scale or max(float(np.abs(result.anomaly_map).mean()), 1e-12)
        try:
            truth = _truth(self.kind, record, result)
        except DataError as error:
            self.unusable.append(Unmeasured(record.id, str(error)))
            truth, record = _Truth("unusable"), replace(record, mask=None)
        if record.label:
            self.masks[truth.state] += 1
        if truth.state not in ("missing", "unusable"):
            counts = self.counts.setdefault(record.group, PixelCounts(self.scale))
            counts.update(result.anomaly_map, truth.mask if truth.places is None else None, saturated=truth.places)
            segmented = self.segmented.setdefault(record.group, SegmentedPixels())
            segmented.update(result.anomaly_map, truth.mask, result.map_threshold)
            if record.saturation is not None:
                counts = self.saturated.setdefault(record.group, PixelCounts(self.scale))
                counts.update(result.anomaly_map, saturated=truth.saturated)
        self.samples.append(Sample.of(record, result))
        return record

    def total(self, parts: dict[str | None, PixelCounts]) -> PixelCounts:
        """The counts of all categories."""
        total = PixelCounts(self.scale or 1.0)
        for part in parts.values():
            total.merge(part)
        return total

    def cut(self) -> SegmentedPixels:
        """The pixels of all categories, cut at their thresholds."""
        total = SegmentedPixels()
        for part in self.segmented.values():
            total.merge(part)
        return total


def _truth(kind: type[Modality[Any]], record: Record, result: AnomalyResult) -> _Truth:
    """DataError where a mask cannot be used."""
    shape = result.anomaly_map.shape
    mask = kind.mask(record, shape) if record.label == 0 or record.mask is not None else None
    state = "good" if not record.label else "missing" if mask is None else "marked"
    if record.label and mask is not None:
        state = "empty" if not mask.any() else "whole" if mask.mean() > WHOLE else "marked"
    places = None if mask is None else kind.places(record, mask)
    alone = None if places is None else [SaturatedRegion(place, 1.0, relative=True) for place in places]
    regions = [SaturatedRegion(place, enough) for place, enough in kind.saturated(record, shape)]
    return _Truth(state, mask, alone, regions)


def _warn_of_masks(masks: Counter[str], kind: type[Modality[Any]]) -> None:
    """Where pixel metrics come from fewer defective images than there are, or from odd masks."""
    measured = masks["marked"] + masks["whole"] + masks["empty"]
    odd = [
        f"{masks[key]} {words}"
        for key, words in (
            ("missing", "without a mask"),
            ("unusable", "with a mask that cannot be used"),
            ("empty", "with an empty mask"),
            ("whole", f"with a mask that covers the whole {kind.part}"),
        )
        if masks[key] and not (key == "whole" and kind.marks_whole)
    ]
    if measured and odd:
        of = masks.total()
        warnings.warn(f"pixel metrics come from {measured} of {of} defective samples: {', '.join(odd)}", stacklevel=3)


def _scale(inspector: Inspector) -> float | None:
    """The median score of held-out good images: no test data in it."""
    return max(median(inspector.calibrator.scores), 1e-12) if inspector.calibrator else None


def _measured(
    seen: _Seen, test: Sequence[Record], inspector: Inspector, model: dict[str, Any], source: str, seed: int
) -> Evaluation:
    """The figures of what was seen."""
    groups = sorted({r.group for r in test if r.group})
    total, samples = seen.total(seen.counts), seen.samples
    by_category = {}
    for g in groups if len(groups) > 1 else ():
        group_samples = [s for s in samples if s.group == g]
        pixel = _pixel_metrics(seen.counts.get(g), seen.saturated.get(g), seen.segmented.get(g), seed)
        by_category[g] = _summary(group_samples, pixel, inspector, seed)
    return Evaluation(
        model=model,
        setting=_setting(inspector, seen, source, test),
        overall=_summary(samples, _pixel_metrics(total, seen.total(seen.saturated), seen.cut(), seed), inspector, seed),
        by_category=by_category,
        by_defect=_by_defect(samples),
        timing=Timing(
            milliseconds_per_image=round(1000 * median(s.seconds for s in samples), 3),
            threads=inspector.threads,
            batch=inspector.batch,
        ),
        samples=tuple(samples),
        unread=tuple(seen.unread),
        unusable_masks=tuple(seen.unusable),
        pixels=total if total.regions else None,
    )


def _setting(inspector: Inspector, seen: _Seen, source: str, test: Sequence[Record]) -> Setting:
    calibrator = inspector.calibrator
    return Setting(
        source=source,
        kind=seen.kind.name,
        network_input=inspector.kind.takes,
        pixel_metrics_in=seen.kind.map_unit,
        engine=inspector.engine.name,
        precision=inspector.engine.precision,
        good=sum(r.label == 0 for r in test),
        anomalous=sum(r.label == 1 for r in test),
        categories=len({r.group for r in test if r.group}) or 1,
        labels_used_in_learning="good only",
        promise=calibrator.promise if calibrator else None,
        promised_rate=calibrator.alpha if calibrator else None,
        threshold=calibrator.threshold if calibrator else None,
        map_threshold=calibrator.map_threshold if calibrator else None,
        seen_before=seen.before,
        masks=Masks(**seen.masks),
    )


def _summary(samples: Sequence[Sample], pixel: PixelMetrics | None, inspector: Inspector, seed: int) -> Summary:
    calibrator, categories = inspector.calibrator, inspector.categories
    judged = [
        s for s in samples if s.verdict is not None and calibrator is not None
    ]  # a category may have no threshold
    rejected = [s.verdict == "anomalous" for s in judged if s.label == 0]
    passed = [s.verdict == "good" for s in judged if s.label == 1]
    return Summary(
        good=sum(s.label == 0 for s in samples),
        anomalous=sum(s.label == 1 for s in samples),
        image=_image_metrics(samples, seed),
        pixel=pixel,
        **(_routing(samples, categories.names) if categories is not None else {}),
        false_alarms=_rate(rejected, calibrator.alpha if calibrator else None),
        escapes=_rate(passed),
        judged=calibrator is not None,
    )


def _rate(hits: Sequence[bool], promised: float | None = None) -> Rate | None:
    """The share of hits; None where there is nothing to count."""
    return Rate.measured(sum(hits), len(hits), promised) if hits else None


def _image_metrics(samples: Sequence[Sample], seed: int) -> ImageMetrics | None:
    """None where one class is absent."""
    labels = np.array([s.label for s in samples])
    scores = np.array([s.score for s in samples])
    if not 0 < labels.sum() < len(labels):
        return None
    generator = np.random.default_rng(seed)
    precision = bootstrap(average_precision, labels, scores, generator=generator, replicas=500)
    best = f1_max(labels, scores)
    return ImageMetrics(
        auroc=Metric(**delong(labels, scores)._asdict(), interval="DeLong 95 %"),
        ap=Metric(**precision._asdict(), interval="bootstrap 95 %"),
        f1max=Metric(best.value, threshold=best.threshold),
    )


def _pixel_metrics(
    counts: PixelCounts | None, saturated: PixelCounts | None, segmented: SegmentedPixels | None, seed: int
) -> PixelMetrics | None:
    """None where no defect has a mask."""
    if counts is None or not counts.regions:
        return None
    generator = np.random.default_rng(seed)
    best, spro = counts.f1_max(), None
    auroc = _bounded(counts.auroc(), counts.bootstrap_auroc(generator=generator))
    of_30 = _bounded(counts.aupro(0.3), counts.bootstrap_aupro(0.3, generator=generator))
    of_5 = _bounded(counts.aupro(0.05), counts.bootstrap_aupro(0.05, generator=generator))
    if saturated is not None and saturated.regions:
        spro = _bounded(saturated.aupro(0.05), saturated.bootstrap_aupro(0.05, generator=generator))
    return PixelMetrics(
        auroc=auroc,
        aupro_0_3=of_30,
        aupro_0_05=of_5,
        spro_0_05=spro,
        segf1=_segf1(segmented, generator) if segmented is not None else None,
        ap=Metric(counts.average_precision().value),
        f1max=Metric(best.value, threshold=best.threshold),
        images=counts.images,
        regions=counts.regions,
        clipped=counts.clipped,
    )


def _segf1(segmented: SegmentedPixels, generator: np.random.Generator) -> Metric | None:
    """With the threshold that was used, where it is one for all: categories of a multi-class model have their own."""
    found = segmented.f1(generator=generator)
    if found is None:
        return None
    one = next(iter(segmented.thresholds)) if len(segmented.thresholds) == 1 else None
    return Metric(found.value, found.low, found.high, interval="bootstrap over images 95 %", threshold=one)


def _bounded(bounded: Bounded, interval: Estimate) -> Metric:
    rounding, method = (bounded.low, bounded.high), "bootstrap over images 95 %"
    return Metric(bounded.value, interval.low, interval.high, rounding, method)


def _routing(samples: Sequence[Sample], names: Sequence[str]) -> dict[str, Any]:
    """How often the decided category is the true one, where those have the model's names, and how often it is unknown;
    of good and of defective images apart: fields of `Summary`."""
    out: dict[str, Any] = {}
    for key, label in (("good", 0), ("anomalous", 1)):
        labelled = [s for s in samples if s.label == label]
        out[f"routed_{key}"] = _rate([s.category == s.group for s in labelled if s.group in names])
        out[f"unknown_{key}"] = _rate([s.unknown for s in labelled if s.unknown is not None])
    return out


def _by_defect(samples: Sequence[Sample]) -> dict[str, DefectSummary]:
    """Each defect type against all good images."""
    good = [s for s in samples if s.label == 0]
    out = {}
    for defect in sorted({s.defect for s in samples if s.label == 1 and s.defect}):
        bad = [s for s in samples if s.label == 1 and s.defect == defect]
        labels, scores = [0] * len(good) + [1] * len(bad), [s.score for s in good + bad]
        out[defect] = DefectSummary(
            anomalous=len(bad),
            auroc=Metric(**delong(labels, scores)._asdict()) if good else None,
            detected=_rate([s.verdict != "good" for s in bad if s.verdict is not None]),
        )
    return out

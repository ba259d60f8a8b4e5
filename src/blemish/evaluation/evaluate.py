"""Records in, metrics out: one pass over the test images through the deployed line. No torch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.data.layouts.loco import has_saturation, saturated_masks
from blemish.data.modality import Modality
from blemish.errors import DataError
from blemish.evaluation.metrics.aupro import SaturatedRegion
from blemish.evaluation.metrics.intervals import bootstrap, delong, wilson
from blemish.evaluation.metrics.pixels import PixelCounts
from blemish.evaluation.metrics.ranking import average_precision, f1_max
from blemish.files import write_whole
from blemish.inspection.inspector import Inspector
from blemish.types import AnomalyResult, Record, Track, no_track

Metric = dict[str, Any]
WHOLE = 0.98  # share of a part that a mask covers, from which it may be upside down, or labels above 0
MASKS = ("marked", "missing", "unusable", "empty", "whole")
"""What is known of where a defective image is defective; `setting["masks"]` counts them."""


@dataclass(frozen=True)
class Sample:
    """What one test image came to."""

    id: str
    path: str
    label: int
    defect: str | None
    group: str | None
    score: float
    p_value: float | None
    verdict: str | None
    seconds: float
    category: str | None = None  # what a model of several products decided
    unknown: bool | None = None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model on one test set, with everything that says what they mean."""

    model: dict[str, Any]
    setting: dict[str, Any]
    overall: Metric
    by_category: dict[str, Metric]
    by_defect: dict[str, Metric]
    timing: dict[str, Any]
    samples: tuple[Sample, ...]
    unread: tuple[dict[str, str], ...] = ()  # test images that could not be read: id and error
    unusable_masks: tuple[dict[str, str], ...] = ()  # of images that count in image metrics alone: id and error
    pixels: PixelCounts | None = field(default=None, repr=False, compare=False)  # what the pixel metrics come from

    def to_json(self) -> dict[str, Any]:
        """Plain values: all but `pixels`."""
        values = asdict(replace(self, pixels=None))
        del values["pixels"]
        return {"schema": 1, **values}

    def save_json(self, path: str | Path) -> None:
        """Write `to_json` to a file, whole or not at all."""
        write_whole(path, (json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n").encode())


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
    one or one that covers them whole, and that there is no good image. DataError where there is no test record, or none
    that can be read.
    """
    test = [r for r in records if r.split == "test"]
    if not test:
        raise DataError("there is no test image", path=source, hint="evaluate needs a data set with a test split")
    if all(r.label for r in test):
        warnings.warn(f"{source}: no test image is a good one: no AUROC, no rate of false alarms", stacklevel=2)
    follow = (track or no_track)(test, "evaluate", len(test))
    kind = type(inspector.kind)
    scale = _scale(inspector)
    groups = sorted({r.group for r in test if r.group})
    counts: dict[str | None, PixelCounts] = {}
    saturates = any(map(has_saturation, test))
    saturated: dict[str | None, PixelCounts] = {}
    samples: list[Sample] = []
    unread: list[dict[str, str]] = []
    unusable: list[dict[str, str]] = []
    masks = dict.fromkeys(MASKS, 0)
    seen = 0
    for record, result in zip(test, inspector.inspect_many(map(kind.source, follow), errors="yield"), strict=True):
        if isinstance(result, DataError):
            unread.append({"id": record.id, "error": str(result)})
            continue
        seen += kind.known(record, inspector.known)
        scale = scale or max(float(np.abs(result.anomaly_map).mean()), 1e-12)
        try:
            truth = _truth(kind, record, result)
        except DataError as error:
            unusable.append({"id": record.id, "error": str(error)})
            truth, record = _Truth("unusable"), replace(record, mask=None)  # which `keep` cannot show either
        if record.label:
            masks[truth.says] += 1
        if truth.says not in ("missing", "unusable"):
            counts.setdefault(record.group, PixelCounts(scale)).update(
                result.anomaly_map, truth.mask, saturated=truth.places
            )
            if saturates:
                saturated.setdefault(record.group, PixelCounts(scale)).update(
                    result.anomaly_map, saturated=truth.saturated
                )
        samples.append(_sample(record, result))
        if keep is not None:
            keep(record, result)
    if not samples:
        raise DataError(f"none of the {len(test)} test images can be read: {unread[0]['error']}")
    if seen:
        warnings.warn(f"{seen} of {len(test)} test images were learned or calibrated from", stacklevel=2)
    _say_masks(masks, kind)
    total, total_saturated = _merged(counts, scale), _merged(saturated, scale)
    return Evaluation(
        model=model,
        setting={**_setting(inspector, kind, source, test), "seen_before": seen, "masks": masks},
        overall=_metrics(samples, total, total_saturated, inspector, seed),
        by_category={
            g: _metrics([s for s in samples if s.group == g], counts.get(g), saturated.get(g), inspector, seed)
            for g in groups
        }
        if len(groups) > 1
        else {},
        by_defect=_by_defect(samples, seed),
        timing={
            "milliseconds_per_image": round(1000 * median(s.seconds for s in samples), 3),
            "threads": inspector.threads,
            "batch": inspector.batch,
        },
        samples=tuple(samples),
        unread=tuple(unread),
        unusable_masks=tuple(unusable),
        pixels=total if total.regions else None,
    )


class _Truth(NamedTuple):
    """Where one image is defective, as the metrics take it."""

    says: str  # one of MASKS
    mask: NDArray[np.bool_] | None = None
    places: list[SaturatedRegion] | None = None
    saturated: Sequence[SaturatedRegion] = ()


def _truth(kind: type[Modality[Any]], record: Record, result: AnomalyResult) -> _Truth:
    """DataError where a mask cannot be used."""
    shape = result.anomaly_map.shape
    mask = kind.mask(record, shape) if record.label == 0 or record.mask is not None else None
    says = "good" if not record.label else "missing" if mask is None else "marked"
    if record.label and mask is not None:
        says = "empty" if not mask.any() else "whole" if mask.mean() > WHOLE else "marked"
    places = None if mask is None else kind.places(record, mask)
    alone = None if places is None else [SaturatedRegion(place, 1.0, relative=True) for place in places]
    regions = [SaturatedRegion(m, s) for m, s in saturated_masks(record, shape)]
    return _Truth(says, mask if places is None else None, alone, regions)


def _say_masks(masks: Mapping[str, int], kind: type[Modality[Any]]) -> None:
    """A warning where pixel metrics come from fewer defective images than there are, or from odd masks."""
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
        of = sum(masks.values())
        warnings.warn(f"pixel metrics come from {measured} of {of} defective samples: {', '.join(odd)}", stacklevel=3)


def _scale(inspector: Inspector) -> float | None:
    """The median score of held-out good images: no test data in it."""
    return max(median(inspector.calibrator.scores), 1e-12) if inspector.calibrator else None


def _sample(record: Record, result: AnomalyResult) -> Sample:
    return Sample(
        id=record.id,
        path=str(record.path),
        label=record.label,
        defect=record.defect,
        group=record.group,
        score=result.score,
        p_value=result.p_value,
        verdict=result.verdict,
        seconds=result.seconds,
        category=result.category,
        unknown=result.unknown,
    )


def _setting(inspector: Inspector, kind: type[Modality[Any]], source: str, test: Sequence[Record]) -> dict[str, Any]:
    calibrator = inspector.calibrator
    return {
        "source": source,
        "kind": kind.name,
        "network_input": inspector.kind.takes,
        "pixel_metrics_in": kind.map_unit,
        "engine": inspector.engine.name,
        "precision": inspector.engine.precision,
        "good": sum(r.label == 0 for r in test),
        "anomalous": sum(r.label == 1 for r in test),
        "categories": len({r.group for r in test if r.group}) or 1,
        "labels_used_in_learning": "good only",
        "promise": calibrator.promise if calibrator else None,
        "promised_rate": calibrator.alpha if calibrator else None,
        "threshold": calibrator.threshold if calibrator else None,
    }


def _ratio(part: int, whole: int) -> Metric:
    low, high = wilson(part, whole)[1:]
    return {"value": part / whole, "low": low, "high": high, "count": part, "of": whole}


def _merged(parts: dict[str | None, PixelCounts], scale: float | None) -> PixelCounts:
    total = PixelCounts(scale or 1.0)
    for part in parts.values():
        total.merge(part)
    return total


def _pixel_metrics(counts: PixelCounts, saturated: PixelCounts | None, seed: int) -> Metric:
    generator = np.random.default_rng(seed)
    found = {
        "auroc": (counts.auroc(), counts.bootstrap_auroc(generator=generator)),
        "aupro_0.3": (counts.aupro(0.3), counts.bootstrap_aupro(0.3, generator=generator)),
        "aupro_0.05": (counts.aupro(0.05), counts.bootstrap_aupro(0.05, generator=generator)),
    }
    if saturated is not None and saturated.regions:
        found["spro_0.05"] = (saturated.aupro(0.05), saturated.bootstrap_aupro(0.05, generator=generator))
    out: Metric = {
        name: {
            "value": bounded.value,
            "low": interval.low,
            "high": interval.high,
            "rounding": [bounded.low, bounded.high],
            "interval": "bootstrap over images 95 %",
        }
        for name, (bounded, interval) in found.items()
    }
    best = counts.f1_max()
    out["ap"] = {"value": counts.average_precision().value}
    out["f1max"] = {"value": best.value, "threshold": best.threshold}
    return {**out, "images": counts.images, "regions": counts.regions, "clipped": counts.clipped}


def _metrics(
    samples: Sequence[Sample],
    counts: PixelCounts | None,
    saturated: PixelCounts | None,
    inspector: Inspector,
    seed: int,
) -> Metric:
    labels = np.array([s.label for s in samples])
    scores = np.array([s.score for s in samples])
    out: Metric = {"good": int((labels == 0).sum()), "anomalous": int((labels == 1).sum())}
    if 0 < labels.sum() < len(labels):
        area = delong(labels, scores)
        generator = np.random.default_rng(seed)
        precision = bootstrap(average_precision, labels, scores, generator=generator, replicas=500)
        best = f1_max(labels, scores)
        out["image"] = {
            "auroc": {**area._asdict(), "interval": "DeLong 95 %"},
            "ap": {**precision._asdict(), "interval": "bootstrap 95 %"},
            "f1max": {"value": best.value, "threshold": best.threshold},
        }
    if counts is not None and counts.regions:
        out["pixel"] = _pixel_metrics(counts, saturated, seed)
    if inspector.categories is not None:
        out |= _routing(samples, inspector.categories.names)
    if inspector.calibrator is not None:
        judged = [s for s in samples if s.verdict is not None]  # a category may have no threshold
        good = [s.verdict == "anomalous" for s in judged if s.label == 0]
        bad = [s.verdict == "good" for s in judged if s.label == 1]
        out["false_alarms"] = {**_ratio(sum(good), len(good)), "promised": inspector.calibrator.alpha} if good else None
        out["escapes"] = _ratio(sum(bad), len(bad)) if bad else None
    return out


def _routing(samples: Sequence[Sample], names: Sequence[str]) -> Metric:
    """How often the decided category is the true one, where those have the model's names, and how often it is unknown;
    of good and of defective images apart."""
    out: Metric = {}
    for key, label in (("good", 0), ("anomalous", 1)):
        own = [s for s in samples if s.label == label]
        named = [s for s in own if s.group in names]
        if named:
            out[f"routed_{key}"] = _ratio(sum(s.category == s.group for s in named), len(named))
        if judged := [s for s in own if s.unknown is not None]:
            out[f"unknown_{key}"] = _ratio(sum(s.unknown is True for s in judged), len(judged))
    return out


def _by_defect(samples: Sequence[Sample], seed: int) -> dict[str, Metric]:
    """Each defect type against all good images."""
    good = [s for s in samples if s.label == 0]
    out = {}
    for defect in sorted({s.defect for s in samples if s.label == 1 and s.defect}):
        bad = [s for s in samples if s.label == 1 and s.defect == defect]
        entry: Metric = {"anomalous": len(bad)}
        if good:
            labels = np.array([0] * len(good) + [1] * len(bad))
            entry["auroc"] = delong(labels, np.array([s.score for s in good + bad]))._asdict()
        if judged := [s for s in bad if s.verdict is not None]:
            entry["detected"] = _ratio(sum(s.verdict != "good" for s in judged), len(judged))
        out[defect] = entry
    return out

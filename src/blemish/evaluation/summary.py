"""What an evaluation measured, as frozen values; JSON is only what a file holds."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from itertools import repeat
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from blemish.errors import DataError
from blemish.evaluation.metrics.intervals import wilson
from blemish.evaluation.metrics.pixels import PixelCounts
from blemish.files import write_whole
from blemish.types import AnomalyResult, Record

LIMITED = {"aupro_0_3": "aupro_0.3", "aupro_0_05": "aupro_0.05", "spro_0_05": "spro_0.05"}
"""Fields whose name in JSON is no name in Python; `_0_3` is the limit of the false positive rate, 0.3."""


class Figures:
    """A dataclass of figures. In JSON a field that may be left out (its default is None) is, where it is None."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            LIMITED.get(f.name, f.name): _plain(value)
            for f in fields(self)  # type: ignore[arg-type]
            if f.metadata.get("json", True)
            if (value := getattr(self, f.name)) is not None or f.default is not None
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave, of this version or an earlier one. DataError where a value is missing."""
        known = {f.name: LIMITED.get(f.name, f.name) for f in fields(cls)}  # type: ignore[arg-type]
        for f in fields(cls):  # type: ignore[arg-type]
            if known[f.name] not in values and f.default is MISSING and f.default_factory is MISSING:
                raise DataError(f"these figures have no '{known[f.name]}'", hint="measure again")
        hints = get_type_hints(cls)
        return cls(**{name: _typed(hints[name], values[key]) for name, key in known.items() if key in values})

    def __getitem__(self, key: str) -> Any:
        """The value of a JSON field, for one more version: figures are attributes. KeyError for other names."""
        return self._item(key)

    def __contains__(self, key: object) -> bool:
        return key in self.to_json()

    def get(self, key: str, default: Any = None) -> Any:
        """As `__getitem__`, or `default`."""
        return self._item(key) if key in self else default

    def _item(self, key: str) -> Any:
        name = key.replace(".", "_") if key in LIMITED.values() else key
        warnings.warn(f"['{key}'] is .{name} from now on: figures are attributes", DeprecationWarning, stacklevel=3)
        if key not in self:
            raise KeyError(key)
        return getattr(self, name)


def _plain(value: Any) -> Any:
    if isinstance(value, Figures):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as its field has it."""
    kind, args = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return None if value is None else _typed(next(each for each in args if each is not NoneType), value)
    if kind is tuple:
        return tuple(map(_typed, repeat(args[0]) if args[-1] is ... else args, value))
    if kind is dict:
        return {key: _typed(args[1], each) for key, each in value.items()}
    return hint.from_json(value) if isinstance(hint, type) and issubclass(hint, Figures) else value


@dataclass(frozen=True)
class Metric(Figures):
    """A metric of scores or of maps, in [0, 1]."""

    value: float
    low: float | None = None  # of its interval
    high: float | None = None
    rounding: tuple[float, float] | None = None  # in which it lies for the maps as they are; counted are rounded values
    interval: str | None = None  # how the interval was found
    threshold: float | None = None  # of raw scores, that reaches it


@dataclass(frozen=True)
class Rate(Figures):
    """A share of samples with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float
    count: int
    of: int
    promised: float | None = None

    @classmethod
    def measured(cls, count: int, of: int, promised: float | None = None) -> Rate:
        """`count` of `of`, which is at least 1."""
        value, low, high = wilson(count, of)
        return cls(count / of, low, high, count, of, promised)

    @property
    def complement(self) -> Rate:
        """The share of the others."""
        return Rate(1 - self.value, 1 - self.high, 1 - self.low, self.of - self.count, self.of)


@dataclass(frozen=True)
class ImageMetrics(Figures):
    """How well scores rank defective samples above good ones."""

    auroc: Metric
    ap: Metric
    f1max: Metric


@dataclass(frozen=True, kw_only=True)
class PixelMetrics(Figures):
    """How well maps show where the defects are; `_0_3` and `_0_05` are limits of the false positive rate."""

    auroc: Metric
    aupro_0_3: Metric
    aupro_0_05: Metric
    spro_0_05: Metric | None = None  # where the data set says how much of each defect has to be found
    segf1: Metric | None = None  # of maps cut at the model's own thresholds; `threshold` names it where it is one
    ap: Metric
    f1max: Metric
    images: int
    regions: int
    clipped: int  # values beyond what the counts hold


@dataclass(frozen=True)
class Summary(Figures):
    """What was measured on a test set, or on one category of it."""

    good: int
    anomalous: int
    image: ImageMetrics | None = None  # where there are good and defective samples
    pixel: PixelMetrics | None = None  # where a mask is known
    routed_good: Rate | None = None  # good samples whose category was decided correctly
    routed_anomalous: Rate | None = None
    unknown_good: Rate | None = None  # good samples whose category was called unknown
    unknown_anomalous: Rate | None = None
    false_alarms: Rate | None = None  # good samples that were rejected
    escapes: Rate | None = None  # defective samples that passed
    judged: bool = field(default=True, metadata={"json": False})  # by a threshold: both rates are stated, if as null

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values, rates = super().to_json(), ("false_alarms", "escapes")
        stated = {key: values.pop(key, None) for key in rates} if self.judged else {}
        return {**values, **stated}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """As `Figures.from_json`."""
        return super().from_json({**values, "judged": "false_alarms" in values})

    @property
    def found(self) -> Rate | None:
        """Defective samples that were rejected."""
        return self.escapes.complement if self.escapes else None


@dataclass(frozen=True)
class DefectSummary(Figures):
    """One type of defect against all good samples."""

    anomalous: int
    auroc: Metric | None = None
    detected: Rate | None = None

    @property
    def found(self) -> Rate | None:
        """As `Summary.found`."""
        return self.detected


@dataclass(frozen=True)
class Masks(Figures):
    """What is known of where defective samples are defective: how many of them are of each sort."""

    marked: int = 0
    missing: int = 0
    unusable: int = 0
    empty: int = 0
    whole: int = 0

    @property
    def total(self) -> int:
        """All defective samples."""
        return self.marked + self.missing + self.unusable + self.empty + self.whole


@dataclass(frozen=True, kw_only=True)
class Setting(Figures):
    """What was measured, and how."""

    source: str
    kind: str = "image"  # files of earlier versions name no other
    network_input: str
    pixel_metrics_in: str = "source pixels"
    engine: str
    precision: str
    good: int
    anomalous: int
    categories: int
    labels_used_in_learning: str
    promise: str | None
    promised_rate: float | None
    threshold: float | None
    map_threshold: float | None = None  # of a model with one for all; earlier versions did not state it
    seen_before: int = 0  # test samples that were learned or calibrated from
    masks: Masks | None = None  # not counted by earlier versions


@dataclass(frozen=True)
class Timing(Figures):
    """Milliseconds of a sample (median), and of each stage of the line where they were measured."""

    milliseconds_per_image: float
    threads: int
    batch: int
    stage_milliseconds_decode: float | None = None
    stage_milliseconds_resize: float | None = None
    stage_milliseconds_graph: float | None = None
    stage_milliseconds_map_to_source: float | None = None


@dataclass(frozen=True)
class Unmeasured(Figures):
    """A test sample that could not be measured, or not in pixels, and why."""

    id: str
    error: str


@dataclass(frozen=True)
class Sample(Figures):
    """Score and verdict of one test sample."""

    id: str
    path: str
    label: int
    defect: str | None
    group: str | None
    score: float
    p_value: float | None
    verdict: str | None
    seconds: float
    category: str | None  # that a multi-class model decided
    unknown: bool | None
    alarm: str | None = None  # why it is anomalous although nothing was scored

    @classmethod
    def of(cls, record: Record, result: AnomalyResult) -> Sample:
        """The result for the record."""
        return cls(
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
            alarm=result.alarm,
        )


@dataclass(frozen=True)
class Evaluation(Figures):
    """Metrics of one model on one test set, with everything that says what they mean."""

    model: dict[str, Any]
    setting: Setting
    overall: Summary
    by_category: dict[str, Summary]
    by_defect: dict[str, DefectSummary]
    timing: Timing
    samples: tuple[Sample, ...]
    unread: tuple[Unmeasured, ...] = ()  # test images that could not be read
    unusable_masks: tuple[Unmeasured, ...] = ()  # of images that count in image metrics alone
    pixels: PixelCounts | None = field(  # what the pixel metrics come from
        default=None, repr=False, compare=False, metadata={"json": False}
    )

    def to_json(self) -> dict[str, Any]:
        """Plain values: all but `pixels`."""
        return {"schema": 1, **super().to_json()}

    def save_json(self, path: str | Path) -> None:
        """Write `to_json` to a file, whole or not at all."""
        write_whole(path, (json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n").encode())


def cut_at(evaluation: Evaluation) -> str | None:
    """At which threshold maps were cut for SegF1, for people; None where there is no such figure."""
    pixel = evaluation.overall.pixel
    if pixel is None or pixel.segf1 is None:
        return None
    cut = pixel.segf1.threshold
    where = "each category's own map threshold" if cut is None else f"the model's own map threshold, {cut:.6g}"
    return f"SegF1: maps are cut at {where}, which comes from good images alone"


OfSummary = Callable[[Summary], Metric | None]
IMAGE: dict[str, OfSummary] = {
    "I-AUROC": lambda each: each.image.auroc if each.image else None,
    "I-AP": lambda each: each.image.ap if each.image else None,
    "I-F1max": lambda each: each.image.f1max if each.image else None,
}
PIXEL: dict[str, OfSummary] = {
    "P-AUROC": lambda each: each.pixel.auroc if each.pixel else None,
    "P-AP": lambda each: each.pixel.ap if each.pixel else None,
    "P-F1max": lambda each: each.pixel.f1max if each.pixel else None,
    "AUPRO@0.3": lambda each: each.pixel.aupro_0_3 if each.pixel else None,
    "AUPRO@0.05": lambda each: each.pixel.aupro_0_05 if each.pixel else None,
    "sPRO@0.05": lambda each: each.pixel.spro_0_05 if each.pixel else None,
    "SegF1": lambda each: each.pixel.segf1 if each.pixel else None,
}
"""The names of metrics in tables."""

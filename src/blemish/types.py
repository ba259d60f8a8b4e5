"""The values that the steps exchange: records, features, predictions, results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError

SHIPPED = "shipped"
"""Name of the artefact that comes with this package (`Needs.artefact`)."""

ALARM = float(np.finfo(np.float32).max)
"""The score of a sample that is anomalous whatever a method would say: above all others, and finite."""

Split = Literal["train", "test", "held"]
"""`held` marks samples that a data set keeps apart: offered neither to fit nor to evaluate."""

UNLABELLED = "unlabelled"
"""The defect of a held test sample whose label its publisher keeps; its `label` is 1, so that nothing takes it for a
good one."""


class LightingFile(NamedTuple):
    """One lighting of a sample: its name, and the file that shows it, whole or in some of its channels."""

    name: str
    path: Path
    channels: tuple[int, ...] = ()  # none = the picture that the file is


@dataclass(frozen=True, slots=True)
class Record:
    """One sample of a data set: paths only, nothing decoded.

    `unit` names the physical thing (tile, module, patient) that several samples show; samples of one
    unit never stand on both sides of a split. None = the sample is a unit of its own.
    """

    id: str
    path: Path
    split: Split = "train"
    label: int = 0  # 0 good, 1 anomalous
    mask: Path | tuple[Path, ...] | None = None  # several where a data set keeps one mask file per defect
    defect: str | None = None
    group: str | None = None  # category, product
    unit: str | None = None
    view: str | None = None
    span: tuple[int, int] | None = None  # of a recording: first sample of a window, and the one behind its last
    tile: int | None = None  # of a picture that is learned in tiles: its number
    saturation: Path | None = None  # the file that says how much of each defect has to be found, where there is one
    lightings: tuple[LightingFile, ...] = ()  # of a sample that is several pictures of one part; `path` is the first's

    @property
    def whole(self) -> str:
        """Identifies what is never split: the unit within its group, or this sample alone."""
        return f"\0{self.id}" if self.unit is None else f"{self.group}\0{self.unit}"


@dataclass(frozen=True, slots=True, eq=False)
class Cloud:
    """Points of a surface as a file holds them, and what it says of each of them.

    A row that holds NaN or infinity is no point. Nor is (0, 0, 0), which scanners write where they saw nothing: in an
    organised cloud, and in another one that is no mesh where several rows are so. See `valid`.
    """

    points: NDArray[Any]  # (N, 3) float32 or float64, in the file's own unit
    normals: NDArray[Any] | None = None  # (N, 3), of length 1
    faces: NDArray[np.int64] | None = None  # (F, 3), rows of `points`, where it is a mesh
    shape: tuple[int, int] | None = None  # (H, W) of an organised cloud: N = H * W, row by row
    viewpoint: tuple[float, float, float] | None = None  # where the camera stood
    fields: dict[str, NDArray[Any]] = field(default_factory=dict)  # all else, (N,) each: colours, intensity, label

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(N,) which rows are points."""
        there: NDArray[np.bool_] = np.isfinite(self.points).all(1)
        zero = ~self.points.any(1)
        repeated = self.faces is None and int(zero.sum()) > 1
        return there & ~zero if self.shape is not None or repeated else there


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """What a backbone yields for one input size: channels and grid of each level, finest first."""

    layers: tuple[int, ...]
    channels: tuple[int, ...]
    grids: tuple[tuple[int, ...], ...]
    second: int = 0  # how many of the levels, the last ones, come from a second network
    inputs: int = 3  # channels of a sample itself: colours of an image, leads of a signal
    spacing: float = 0.0  # of a cloud: between neighbouring points, where the typical part is 1 across

    @property
    def first(self) -> int:
        """Number of levels of the first network."""
        return len(self.channels) - self.second

    @property
    def values(self) -> int:
        """Number of scalars in one sample's pyramid."""
        return sum(c * int(np.prod(g)) for c, g in zip(self.channels, self.grids, strict=True))


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method needs for learning and inspection, declared in its file."""

    source: str = "pyramid"  # or image, signal, points: what a file of `learning.sources` takes
    axes: int = 2  # spatial axes of one sample
    strides: tuple[int, ...] = (8, 16)  # of the pyramid's levels, where the options name no layers
    image: bool = False  # the normalised image too, in `Batch.x`
    again: bool = (
        False  # with `image`: features of an image that it makes (`Method.remade`) in `Batch.again`; in PyTorch
    )
    twin: str | None = None  # a damaged twin of each training sample, by a maker of `data.synthesis.MAKERS`
    fresh: bool = False  # a new twin in each step; else a few of each view, whose features are kept
    category: bool = False  # the decided category of each sample too, in `Batch.category`
    views: bool = False  # of a method without steps: observes further views of the images too
    second: bool = False  # uses a second frozen network where the options name one
    apart: bool = False  # where one model for several categories is asked for: a head for each of them
    costly: bool = False  # learns for minutes without phases: a split is preferred to folds, as with phases
    artefact: str = ""  # file of what its shared phase would learn (`learning.artefacts`), in place of learning it
    held: float = 0.0  # share of what is learned from that no step sees: for `settle`, and to end a flat phase by
    graph: bool = True  # False: cannot be one graph; say why in `reason`
    reason: str | None = None
    engine: str | None = None  # what runs its models then, a name of `inspection.cloud_engine.ENGINES`


@dataclass(frozen=True, slots=True)
class Routing:
    """How a multi-class model learns the categories, and how it uses them."""

    shots: int = 8  # good images of each category whose names are read, at most 15 % of them
    anchors: int = 16  # of each category
    labels: Literal["few", "none"] = "few"  # none: no name is read, categories are clusters of images
    count: int = 0  # categories, where no name is read; 0 = as many as the silhouette says
    reliable: bool = True  # anchors that several categories share count less
    separate: bool = False  # a head for each category, which learns from its images alone
    head: str | None = None  # the method of the heads, where it is another one
    head_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.shots, self.anchors) < 1 or self.count < 0:
            raise ConfigError("shots and anchors have to be 1 or more, and count cannot be negative")


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Frozen features: maps[l] is (B, C_l, *grid_l), finest first; those of a second network stand behind."""

    maps: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a method sees: the features of B samples and, where it asked, the samples themselves.

    Arrays of numpy, or tensors for a method in PyTorch (`Method.converted`).
    """

    size: tuple[int, ...]  # spatial shape of the network's input, the shape of the anomaly map
    pyramid: Pyramid | None = None
    x: Any | None = None  # (B, C, *size), normalised as the backbone wants it; signals (B, K leads, L); clouds
    # (B, N, 6), the typical part 1 across: points, and what points out of the material; rows of NaN fill up to N
    ids: tuple[str, ...] = ()
    again: Pyramid | None = None  # of what the method made of them; in `predict`, `measure` and `settle` alone
    twin: Pyramid | None = None  # the same samples, damaged
    mask: Any | None = None  # (B, *size) bool, where the twins are damaged
    category: Any | None = None  # (B,) int64, as the router decided; None where there is one product


@dataclass(frozen=True, slots=True)
class Prediction:
    """Raw float32, LARGER = MORE ANOMALOUS, never rescaled in place."""

    score: Any  # (B,)
    anomaly_map: Any  # (B, *size)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a part lies in its picture.

    Attributes:
        x, y: its centre, in pixels; the first pixel's middle is 0.
        angle: by which the learned pose is turned, in radians, from x to y.
        match: correlation with the mean good part, at most 1.
    """

    x: float
    y: float
    angle: float
    match: float


@dataclass(frozen=True, slots=True)
class Region:
    """One connected area above the map threshold, in the map's own places: pixels; samples of a signal; of a cloud
    without a grid the rows of its file, from the first to the last that belongs to it.

    Attributes:
        bbox: x0, y0, x1, y1; x1 and y1 exclusive.
        area_px: how many pixels (samples, points).
        peak: highest value of the map inside.
        score: mean of the map inside.
        interval: of a signal: from when to when, in seconds of its recording.
        box: of a cloud: x0, y0, z0, x1, y1, z1 in its own unit.
        points: of a cloud: how many.
        length_px, width_px: of an image, where regions are measured (`data.image.measures`): in source pixels.
        length_mm, width_mm, area_mm2: the same and the area, where the size of a pixel is known.
        position_mm: x, y of its centre, from the picture's upper left corner.
        area: name of the area that it lies in, where the region of interest has several.
    """

    bbox: tuple[int, int, int, int]
    area_px: int
    peak: float
    score: float
    interval: tuple[float, float] | None = None
    box: tuple[float, ...] | None = None
    points: int | None = None
    length_px: float | None = None
    width_px: float | None = None
    length_mm: float | None = None
    width_mm: float | None = None
    area_mm2: float | None = None
    position_mm: tuple[float, float] | None = None
    area: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without what is not known of it."""
        values = asdict(self)
        known = {k: v for k, v in values.items() if k in _ALWAYS or v is not None}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()}


_ALWAYS = ("bbox", "area_px", "peak", "score")


@dataclass(frozen=True, slots=True)
class AreaScore:
    """The largest value of the map in one named area, and the value above which the part is anomalous."""

    name: str
    score: float
    threshold: float

    @property
    def label(self) -> Literal["good", "anomalous"]:
        """As `AnomalyResult.verdict`, of this area."""
        return "anomalous" if self.score > self.threshold else "good"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "label": self.label}


@dataclass(frozen=True, slots=True)
class LightingScore:
    """What one of several lightings shows by itself, on the scale that all share."""

    name: str
    score: float
    anomaly_map: NDArray[np.float32] = field(repr=False)  # (H, W) of the source

    def to_json(self) -> dict[str, Any]:
        """Plain values; of the map its largest one."""
        return {"name": self.name, "score": self.score, "peak": float(self.anomaly_map.max())}


@dataclass(frozen=True, slots=True)
class RuleResult:
    """Whether an acceptance rule fired, and by what: a number of regions, or the quantity that it names first of the
    region that decided; None where there was no such region."""

    rule: str
    fired: bool
    value: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


Decider = Literal["score", "rules", "both"]


@dataclass(frozen=True, slots=True)
class AnomalyResult:
    """The verdict on one input, in its own pixels; `verdict` is the word for it.

    Attributes:
        image_path: the input's file; None where it was none.
        score: raw, larger is more anomalous.
        anomaly_map: raw float32, (H, W) of the source; (N,) of a signal's window or a cloud.
        p_value: share of held-out good samples at least as unusual (conformal); None where the model is not calibrated.
        threshold: the score above which a sample is anomalous; None where the model is not calibrated.
        map_threshold: the value of the map above which a place belongs to a region; None as there.
        regions: connected places of the map above its own threshold, highest peak first.
        seconds: from file to result.
        category: of a multi-class model: what the sample was routed to.
        category_confidence: how far that category is ahead of the second, in [0, 1].
        unknown: stranger than the good samples of every category that the model knows.
        span: of a signal: the window, in seconds of its recording.
        pose: where the part lies, where the model looks for it.
        alarm: why the sample is anomalous although nothing was scored (no part found); its score is then `ALARM`.
        map_threshold_per: what its promise counts: good images that show a region, or good area that lies in one.
        areas: of a region of interest with names: what was found in each; they decide in place of `score`.
        rules: of a model with acceptance rules, which of them fired.
        decided_by: what the verdict comes from: the score (or the areas'), the rules, or both.
        lightings: of a model of several pictures of one part, their names; map and overlay are those of the first.
        by_lighting: where each lighting was learned by itself, its own score and map.
    """

    image_path: str | None
    score: float
    anomaly_map: NDArray[np.float32] = field(repr=False)
    p_value: float | None = None
    threshold: float | None = None
    map_threshold: float | None = None
    regions: tuple[Region, ...] = ()
    seconds: float = 0.0
    category: str | None = None
    category_confidence: float | None = None
    unknown: bool | None = None
    span: tuple[float, float] | None = None
    pose: Pose | None = None
    alarm: str | None = None
    map_threshold_per: str | None = None
    areas: tuple[AreaScore, ...] = ()
    rules: tuple[RuleResult, ...] = ()
    decided_by: Decider = "score"
    lightings: tuple[str, ...] = ()
    by_lighting: tuple[LightingScore, ...] = ()

    @property
    def verdict(self) -> Literal["good", "anomalous", "unknown"] | None:
        """None where the model is not calibrated. What is not anomalous by its score is unknown rather than good where
        the model does not know the product."""
        if self._rejected:
            return "anomalous"
        if self.unknown:
            return "unknown"
        return None if self.threshold is None else "good"

    @property
    def _rejected(self) -> bool:
        if self.alarm is not None:
            return True
        if self.decided_by != "score" and any(rule.fired for rule in self.rules):
            return True
        if self.decided_by == "rules":
            return False
        if self.areas:
            return any(area.label == "anomalous" for area in self.areas)
        return self.threshold is not None and self.score > self.threshold

    def to_json(self, map_path: str | None = None, raw_map: str | None = None) -> dict[str, Any]:
        """The JSON line of one inspected input; where its overlay and its raw map lie."""
        return {
            "image_path": self.image_path,
            **({"lightings": list(self.lightings)} if self.lightings else {}),
            **({"by_lighting": [one.to_json() for one in self.by_lighting]} if self.by_lighting else {}),
            **({} if self.span is None else {"span": list(self.span)}),
            **({} if self.pose is None else {"pose": asdict(self.pose)}),
            **({} if self.alarm is None else {"alarm": self.alarm}),
            "pred_score": self.score if self.alarm is None else None,
            "p_value": self.p_value,
            "threshold": self.threshold,
            "pred_label": self.verdict,
            "category": self.category,
            "category_confidence": self.category_confidence,
            "unknown": self.unknown,
            "map_threshold": self.map_threshold,
            "map_threshold_per": self.map_threshold_per,
            **({"areas": [area.to_json() for area in self.areas]} if self.areas else {}),
            **({"rules": [r.to_json() for r in self.rules], "decided_by": self.decided_by} if self.rules else {}),
            "regions": [region.to_json() for region in self.regions],
            "map": map_path,
            "raw_map": raw_map,
            "seconds": round(self.seconds, 6),
            "error": None,
            "hint": None,
        }


@dataclass(frozen=True, slots=True)
class PhaseReport:
    """How one phase of training went; `first` and `last` are the terms of its loss at its first and last step."""

    phase: str
    planned: int  # steps
    steps: int = 0
    precision: str | None = None  # number format of the networks that learned
    kept: bool = False  # it was learned before, and found in the cache
    resumed: bool = False  # an earlier run had finished it
    flat: bool = False  # it ended before its maximum since the loss on held-out samples had stopped falling
    seconds: float | None = None
    first: dict[str, float] | None = None
    last: dict[str, float] | None = None
    category: str | None = None  # where each has a head of its own

    def to_json(self) -> dict[str, Any]:
        """Plain values, without fields that hold their empty default."""
        silent = {
            "resumed": False,
            "flat": False,
            "seconds": None,
            "first": None,
            "last": None,
            "category": None,
            "precision": None,
        }
        return {k: v for k, v in asdict(self).items() if k not in silent or v != silent[k]}


Track = Callable[[Iterable[Any], str, int | None], Iterable[Any]]
"""Shows progress over an iterable: (items, what is being done, how many there are) -> the same items."""


def no_track(items: Iterable[Any], _: str, __: int | None = None) -> Iterable[Any]:
    """Shows nothing."""
    return items

"""Scores of good images through a graph, for calibration, and what they say about the graph itself:

two checks and one choice. A model whose held-out images all score the same distinguishes nothing, and a model that
accepts a plain grey picture does not look at the part: neither gets a promise. Which number format a model runs in is
chosen by comparing the scores of the held-out images in both (`agreement`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.modality import Modality
from blemish.errors import CalibrationError, OutOfRange, PartNotFound
from blemish.files import content_id
from blemish.inspection.categories import Row, calibrator_of
from blemish.inspection.conformal import Calibrator, Kind, Regions
from blemish.inspection.engines import Engine, Outputs, Precision, best_precision
from blemish.inspection.measuring import Measuring
from blemish.inspection.modelfile import Model
from blemish.inspection.open import open_model
from blemish.types import ALARM, Record, Track, no_track

MOVED = 0.01  # of the spread of the held-out scores, that the short number format may move any of them by
RANK = 0.999  # least rank correlation between the scores in both formats
EQUAL = 1e-6  # of the largest score: scores that differ by less are the same

_WRONG = "do all good images show the part, lit and in focus? one that does not among the held-out ones is enough"

More = dict[str, tuple[float, float]]
"""By record id: what is added to its score, and to the largest value of its map."""


@dataclass
class Scores:
    """What a model makes of good images, by number format, float32 first.

    rows   of each image
    blank  outputs of a sample that shows nothing, where the modality has such
    """

    rows: dict[str, list[Row]] = field(default_factory=dict)
    blank: dict[str, Outputs] = field(default_factory=dict)


def unit_id(record: Record) -> str:
    """16 hex digits for a record's unit, so that a model knows units again without carrying their names."""
    return content_id(record.whole.encode("utf-8", "surrogateescape"))


def deployed_model(model: Model, kind: Modality[Any], measuring: Measuring | None = None) -> Deployed:
    """A model in every number format of this machine, float32 always among them."""
    return Deployed(lambda p: open_model(model, precision=p), kind, measuring)


def good_scores(
    deployed: Deployed,
    records: Sequence[Record],
    track: Track = no_track,
    more: Mapping[Precision, More] | None = None,
    highest: Collection[str] = (),
) -> Scores:
    """Run each sample through a model as it will run.

    `more` by number format is added to the score and to the largest value of the map: what a sample that the model has
    learned would get more if it had not. Samples of the ids in `highest` get the highest score and peak there are.
    """
    found = Scores({p: [] for p in deployed.engines}, deployed.blank())
    for record, precision, _, row in deployed.scored(records, track):
        if record.id in highest:
            found.rows[precision].append(row._replace(score=ALARM, peak=ALARM))
            continue
        score, peak = (0.0, 0.0) if more is None else more[precision][record.id]
        found.rows[precision].append(row._replace(score=row.score + score, peak=row.peak + peak))
    return found


class Deployed:
    """A model as it will run, in every number format of this machine."""

    def __init__(
        self, open_in: Callable[[Precision], Engine], kind: Modality[Any], measuring: Measuring | None = None
    ) -> None:
        self.kind, self.measuring = kind, measuring
        # by what they compute in: an engine that has one format is asked once
        self.engines = {engine.precision: engine for engine in map(open_in, formats())}

    def scored(self, records: Sequence[Record], track: Track) -> Iterator[tuple[Record, Precision, Outputs, Row]]:
        """(record, number format, outputs of the engine, row of the score) of each image in each format.

        Copies of one image count once: the same image twice carries no new information. A sample that the model
        refuses to judge, as it would at inspection, has no score and makes no promise; a warning counts them. One whose
        part is not found is rejected at inspection, and counts as such.
        """
        seen: set[str] = set()
        refused: list[OutOfRange] = []
        lost: list[PartNotFound] = []
        for record in track(records, "calibrate", len(records)):
            try:
                content, raw, sample = self.kind.loaded(record)
            except OutOfRange as error:
                refused.append(error)
                continue
            except PartNotFound as error:
                if (content := self.kind.content(record)) not in seen:
                    seen.add(content)
                    lost.append(error)
                    row = Row(ALARM, -ALARM, record.whole, content)
                    if self.measuring is not None:
                        row = row._replace(further=self.measuring.lost())
                    nothing = np.zeros((1, *self.kind.size), np.float32)
                    for precision in self.engines:
                        yield record, precision, (np.full(1, ALARM, np.float32), nothing), row
                continue
            if content in seen:
                continue
            seen.add(content)
            prepared = self.kind.stack([sample])
            for precision, engine in self.engines.items():
                outputs = engine(prepared)
                row = Row(float(outputs[0][0]), float(outputs[1].max()), record.whole, content)
                if self.measuring is not None:
                    row = row._replace(further=self.measuring.further(outputs[1][0], raw, self.kind.source(record)))
                yield record, precision, outputs, row
        if refused:
            message = f"{len(refused)} of {len(records)} held-out good {self.kind.part}s are refused"
            warnings.warn(f"{message} and make no promise, first {refused[0]}", stacklevel=3)
        if lost:
            message = f"in {len(lost)} of {len(records)} held-out good {self.kind.part}s no part is found"
            warnings.warn(f"{message}: they count as rejected, first {lost[0]}", stacklevel=3)

    def blank(self) -> dict[str, Outputs]:
        """By number format the outputs for a sample that shows nothing; empty where the modality has no such sample."""
        sample = self.kind.blank()
        return {} if sample is None else {p: engine(self.kind.stack([sample])) for p, engine in self.engines.items()}


def formats() -> tuple[Precision, ...]:
    """float32, and the short format where this machine computes in one."""
    return tuple(dict.fromkeys(("f32", best_precision())))


def calibrators(
    parts: Sequence[Scores],
    alpha: float,
    kind: Kind = "split",
    *,
    per_unit: bool = False,
    blind: bool = False,
    regions: Regions = Regions(),  # noqa: B008 (frozen)
    confidence: float | None = None,
) -> dict[str, Calibrator]:
    """One calibrator per number format from the pooled parts.

    CalibrationError where there are too few images and, without `blind`, where their scores do not vary or a plain
    picture would pass.
    """
    out = {}
    for precision in parts[0].rows:
        rows = [row for part in parts for row in part.rows[precision]]
        if not blind:
            check_varied([row.score for row in rows])
        out[precision] = calibrator_of(rows, alpha, kind, per_unit=per_unit, regions=regions, confidence=confidence)
        if out[precision].threshold >= ALARM:
            lost = sum(row.score >= ALARM for row in rows)
            message = f"no part is found in {lost} of {len(rows)} good images, more than a share of {alpha:g}"
            raise CalibrationError(message, hint="do they show the part, on the background that was learned?")
        for part in parts:
            if precision in part.blank and not blind:
                check_blank(float(part.blank[precision][0][0]), out[precision])
    return out


def check_varied(scores: Sequence[float]) -> None:
    """CalibrationError where several different images all have one score."""
    scores = [score for score in scores if score < ALARM]
    if len(scores) > 1 and np.ptp(scores) <= EQUAL * np.abs(scores).max():
        message = f"the {len(scores)} held-out images all have the score {scores[0]:g}: the model distinguishes nothing"
        raise CalibrationError(message, hint=_WRONG)


def check_blank(score: float, calibrator: Calibrator | None) -> None:
    """CalibrationError where a sample that shows nothing would be called good."""
    if calibrator is not None and score <= calibrator.threshold:
        message = f"a plain grey picture passes: its score is {score:.4g}, and the threshold {calibrator.threshold:.4g}"
        raise CalibrationError(f"{message}; the model does not see the part", hint=_WRONG)


def agreement(parts: Sequence[Scores]) -> dict[str, Any]:
    """How far the short number format changes the scores of the held-out images; empty where there is none.

    moved      the largest difference of a score, as a share of their spread (largest - smallest, in float32)
    rank       rank correlation (Spearman) between both formats
    images     how many were compared
    harmless   whether both are within the limits, which are stated beside
    """
    return compared([[row[0] for part in parts for row in part.rows[p]] for p in (parts[0].rows if parts else ())])


def compared(scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """`agreement` of the scores of the same images, [float32] or [float32, short format]."""
    if len(scores) < 2 or not scores[0]:
        return {}
    pairs = np.array([pair for pair in zip(*scores, strict=True) if max(pair) < ALARM], float)
    if not len(pairs):
        return {}
    exact, short = pairs.T
    moved = float(np.abs(short - exact).max() / max(np.ptp(exact), 1e-12))
    rank = float(np.corrcoef(_ranks(exact), _ranks(short))[0, 1]) if min(np.ptp(exact), np.ptp(short)) > 0 else 0.0
    return {
        "moved": moved,
        "rank": rank,
        "images": len(exact),
        "limit": {"moved": MOVED, "rank": RANK},
        "harmless": moved <= MOVED and rank >= RANK,
    }


def chosen_format(requested: str, found: dict[str, Any]) -> str:
    """The number format that a model runs in: as requested; with auto the short one where it was shown to be harmless
    for this model, otherwise float32."""
    return "bf16" if requested == "bf16" or (requested == "auto" and found.get("harmless")) else "f32"


def in_best_format(model: Model, found: dict[str, Any]) -> Model:
    """The model in the number format that `agreement` allows; what was compared stands in its certificate."""
    precision = chosen_format(model.run["precision"], found)
    return replace(model, meta=replace(model.meta, precision=precision), parity={**model.parity, "formats": found})


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of equal values the mean of their ranks."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2

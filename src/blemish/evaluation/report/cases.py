"""Examples for the report: while an evaluation runs, a few images of each kind are kept as small pictures."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from blemish.data.drawing import Scale, encode
from blemish.data.modality import Modality
from blemish.evaluation.summary import Sample
from blemish.inspection.conformal import Calibrator
from blemish.inspection.scale import scale_of
from blemish.types import AnomalyResult, Record


@dataclass(frozen=True)
class Case:
    """One inspected image as the report shows it; `picture` is a JPEG of image and overlay side by side."""

    name: str
    sample: Sample
    masked: bool  # the marked defect is outlined on the image
    picture: bytes
    found: str = ""  # what was measured, for people


KINDS = ("found", "missed", "false_alarms", "just_above", "just_below", "good")


class Cases:
    """Collects cases: `evaluate(..., keep=cases.see)`. Memory is that of `each` pictures for each kind.

    found         defective and rejected, highest scores first (without a threshold: the highest-scoring defective)
    missed        defective and passed, lowest scores first (without a threshold: the lowest-scoring defective)
    false_alarms  good and rejected, highest scores first (without a threshold: the highest-scoring good)
    just_above, just_below   nearest to the threshold on either side, half as many each
    good          good images at random: by a checksum of their id, whatever their score

    `calibrator` is the inspector's; it gives the scale of the heat maps. Without one each map has a scale of its own.
    `kind` is the inspector's too, which reads the samples.
    """

    def __init__(self, calibrator: Calibrator | None, kind: Modality[Any], *, each: int = 6) -> None:
        self.calibrator = calibrator
        self.kind = kind
        self.each = each
        self.scale: Scale | None = scale_of(calibrator) if calibrator is not None else None
        self._best: dict[str, list[tuple[float, int, Case]]] = {kind: [] for kind in KINDS}
        self._seen = 0

    def see(self, record: Record, result: AnomalyResult) -> None:
        """Keep this result where it is among the first of its kind so far; the image is read again only then."""
        self._seen += 1
        case: Case | None = None
        for kind, rank in _ranks(record, result).items():
            best = self._best[kind]
            if len(best) >= self._most(kind) and rank <= best[0][0]:
                continue
            case = case or self._case(record, result)
            entry = (rank, -self._seen, case)
            if len(best) < self._most(kind):
                heapq.heappush(best, entry)
            else:
                heapq.heapreplace(best, entry)

    def of(self, kind: str) -> list[Case]:
        """The kept cases of a kind, most typical of it first; ties in the order they were seen."""
        return [case for _, _, case in sorted(self._best[kind], key=lambda entry: entry[:2], reverse=True)]

    def _most(self, kind: str) -> int:
        return (self.each + 1) // 2 if kind.startswith("just_") else self.each

    def _case(self, record: Record, result: AnomalyResult) -> Case:
        mask = self.kind.mask(record, result.anomaly_map.shape)
        scale = self.scale or scale_of(None, result.anomaly_map)
        raw = self.kind.read(self.kind.source(record))
        picture = self.kind.thumbnail(raw, result.anomaly_map, scale=scale, regions=result.regions, mask=mask)
        return Case(
            name=Path(record.id).name if record.group is None else record.id,
            sample=Sample.of(record, result),
            masked=mask is not None and bool(mask.any()),
            picture=encode(picture, ".jpg"),
            found=measured(result),
        )


def measured(result: AnomalyResult) -> str:
    """The longest region in millimetres, where regions are measured in them; areas and rules that reject."""
    known = [region for region in result.regions if region.length_mm is not None]
    said = []
    if known:
        longest = max(known, key=lambda region: region.length_mm or 0.0)
        x, y = longest.position_mm or (0.0, 0.0)
        said.append(f"longest region {longest.length_mm:.3g} × {longest.width_mm:.3g} mm at {x:.3g}, {y:.3g} mm")
    said += [f"area {area.name}" for area in result.areas if area.label == "anomalous"]
    return "; ".join([*said, *(rule.rule for rule in result.rules if rule.fired)])


def _ranks(record: Record, result: AnomalyResult) -> dict[str, float]:
    """The kinds that a result belongs to, with its rank in each: larger is kept."""
    verdict, score = result.verdict, result.score
    out: dict[str, float] = {}
    if record.label:
        if verdict != "good":
            out["found"] = score
        if verdict != "anomalous":
            out["missed"] = -score
    else:
        out["good"] = float(crc32(record.id.encode("utf-8", "surrogatepass")))
        if verdict != "good":
            out["false_alarms"] = score
    if result.threshold is not None:
        out["just_above" if verdict == "anomalous" else "just_below"] = -abs(score - result.threshold)
    return out

"""What is measured of a sample beside its score, the same way of the good images that promises are made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from blemish.data.modality import Modality
from blemish.inspection.conformal import TAIL, Calibrator, Further, Regions
from blemish.inspection.limits import limit_of
from blemish.inspection.rules import Rule, check_rules, parse_rule
from blemish.types import ALARM, AnomalyResult, AreaScore

MOST = 50  # regions of one result


@dataclass(frozen=True)
class Measuring:
    """For samples of one modality; `tails`: how much of their area lies above each value of the map."""

    kind: Modality[Any]
    rules: tuple[Rule, ...] = ()
    tails: bool = False

    @classmethod
    def of(cls, kind: Modality[Any], regions: Regions, rules: Sequence[str] = ()) -> Self | None:
        """Of good images; None where nothing is measured of them. ConfigError where a rule asks for what they do not
        have."""
        made = cls(kind, tuple(map(parse_rule, rules)), tails=regions.per == "area" and not rules)
        check_rules(made.rules, scaled=kind.scaled, areas=kind.areas)
        return made if made.tails or kind.areas or rules else None

    @classmethod
    def at_inspection(cls, kind: Modality[Any], rules: Sequence[str] = ()) -> Self | None:
        """None where nothing is measured at inspection."""
        return cls(kind, tuple(map(parse_rule, rules))) if kind.measures or rules else None

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields of regions beside those of all."""
        scaled = ("length_mm", "width_mm", "area_mm2", "position_mm") if self.kind.scaled else ()
        return ("length_px", "width_px", *scaled, *(("area",) if self.kind.areas else ()))

    def completed(
        self, result: AnomalyResult, small: NDArray[np.float32], calibrator: Calibrator | None, raw: Any, source: Any
    ) -> AnomalyResult:
        """The result with all that is measured; `small` is the map as the graph gave it."""
        if calibrator is None:
            return result
        regions = self.kind.measured(result.anomaly_map, calibrator.map_threshold, raw, source)
        scores = zip(self.kind.areas, self.kind.area_scores(small), calibrator.area_thresholds, strict=True)
        return replace(
            result,
            regions=regions[:MOST],
            areas=tuple(AreaScore(*each) for each in scores),
            rules=tuple(rule.judge(regions) for rule in self.rules),
            decided_by=calibrator.regions.decide,
        )

    def lost(self) -> Further:
        """Of a good sample in which no part is found: no area of its map is unusual, and it is rejected by all else."""
        tails = (-ALARM,) * len(TAIL) if self.tails else ()
        return Further(tails, (ALARM,) * len(self.kind.areas), ALARM if self.rules else None)

    def further(self, small: NDArray[np.float32], raw: Any, source: Any) -> Further:
        """Of a good sample and the map that the graph gives for it."""
        areas = self.kind.area_scores(small)
        if not (self.tails or self.rules):
            return Further(areas=areas)
        anomaly_map = self.kind.back(small, raw)
        if self.tails:
            return Further(tail(anomaly_map, self.kind.inspected(raw)), areas)

        def fires(threshold: float) -> bool:
            regions = self.kind.measured(anomaly_map, threshold, raw, source)
            return any(rule.judge(regions).fired for rule in self.rules)

        return Further((), areas, limit_of(anomaly_map, fires))


def tail(anomaly_map: NDArray[np.float32], inside: NDArray[np.bool_] | None = None) -> tuple[float, ...]:
    """For each share of TAIL the value that at most this share of the map's places exceeds."""
    values = np.sort(anomaly_map.ravel() if inside is None else anomaly_map[inside])[::-1]
    return tuple(float(values[min(math.floor(share * len(values)), len(values) - 1)]) for share in TAIL)

"""What stands behind the features besides a method: the router in front of its heads, and a scale that heads share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from blemish.ops.anchors import Anchors

if TYPE_CHECKING:
    from blemish.methods.base import Method

CATEGORY = "category"  # of a head that goes by it: its input, which the router gives


class Vote(NamedTuple):
    """The router that decides on the category, and by which level of the features."""

    anchors: Anchors
    level: int


class Scaled(NamedTuple):
    """A method whose scores and maps are rescaled: a middle is subtracted, and a span divided by."""

    method: Method[Any]
    score_middle: float
    score_span: float
    map_middle: float
    map_span: float

    def rescaled(self, score: Any, anomaly_map: Any) -> tuple[Any, Any]:
        """What the method gave, on the other scale."""
        return (score - self.score_middle) / self.score_span, (anomaly_map - self.map_middle) / self.map_span

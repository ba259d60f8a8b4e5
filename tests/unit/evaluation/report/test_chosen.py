"""A report tells how a method was chosen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from blemish.evaluation.choose import Tried
from blemish.evaluation.report.tables import candidates


def test_all_candidates_stand_in_the_report_and_nothing_where_a_method_was_named() -> None:
    tried = [Tried("padim", "256", True, 1, 40, 0.9, 0.5, 12.3, 1.0), Tried("rd", "256", False, out="no <time> left")]
    chosen: Any = SimpleNamespace(model={"chosen": [each.to_json() for each in tried]})
    text = candidates(chosen)
    assert "256, located" in text
    assert "0.900" in text
    assert "<td>chosen</td>" in text
    assert "no &lt;time&gt; left" in text
    named: Any = SimpleNamespace(model={})
    assert candidates(named) == ""

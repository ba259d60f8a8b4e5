"""Scores of good images for a threshold, and what two number formats make of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from blemish.data import registry
from blemish.inspection.calibrate import MOVED, chosen_format, compared, deployed_model, good_scores
from tests.fakes import write_images
from tests.tiny import fit_tiny

EXACT = [float(k) for k in range(40)]


def test_copies_of_an_image_count_once_whatever_they_are_called(tmp_path: Path) -> None:
    model = fit_tiny(tmp_path / "model", calibration="none")
    good = write_images(tmp_path / "good", 3, first=500)
    copies = [replace(record, id=f"copy of {record.id}", group="another") for record in good]
    found = good_scores(deployed_model(model, registry.of(model.meta)), [*good, *copies])
    assert {precision: len(rows) for precision, rows in found.rows.items()} == dict.fromkeys(found.rows, 3)


@pytest.mark.parametrize(
    ("short", "harmless"),
    [
        (EXACT, True),
        ([score + 0.9 * MOVED * 39 for score in EXACT], True),
        ([score + 1.1 * MOVED * 39 for score in EXACT], False),  # one order, and too far
        ([1e3 * score for score in EXACT], False),
        ([5.0] * 40, False),  # it tells nothing apart
    ],
)
def test_the_short_format_is_harmless_where_no_score_moves_and_none_overtakes(
    short: list[float], harmless: bool
) -> None:
    found = compared([EXACT, short])
    assert found["harmless"] is harmless
    assert chosen_format("auto", found) == ("bf16" if harmless else "f32")
    assert (chosen_format("bf16", found), chosen_format("f32", found)) == ("bf16", "f32")


def test_a_short_format_in_which_scores_overtake_each_other_is_not_harmless() -> None:
    close = [1e-6 * k for k in range(39)] + [1.0]
    found = compared([close, [*reversed(close[:-1]), 1.0]])
    assert found["moved"] < MOVED
    assert not found["harmless"]


def test_without_a_short_format_there_is_nothing_to_compare() -> None:
    for scores in ([EXACT], [[], []], []):
        assert chosen_format("auto", compared(scores)) == "f32"


def test_what_a_learned_image_would_get_more_is_added_in_its_number_format(tmp_path: Path) -> None:
    model = fit_tiny(tmp_path / "model", calibration="none")
    good = write_images(tmp_path / "good", 3, first=500)
    deployed = deployed_model(model, registry.of(model.meta))
    plain = good_scores(deployed, good)
    more = {p: {r.id: (k + 10.0 * i, 100.0 + i) for i, r in enumerate(good)} for k, p in enumerate(deployed.engines)}
    found = good_scores(deployed, good, more=more)
    for k, (precision, rows) in enumerate(found.rows.items()):
        for i, ((score, peak, *of), (before, peak_before, *same)) in enumerate(
            zip(rows, plain.rows[precision], strict=True)
        ):
            assert (score, peak) == (before + k + 10.0 * i, peak_before + 100.0 + i)
            assert of == same

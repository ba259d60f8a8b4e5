"""Leads that do not move, or hardly: windows that show them are refused, and no other."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.data.signal.preprocess import (
    SignalPlan,
    Window,
    as_signal,
    least_movement,
    prepare,
    read_window,
)
from blemish.data.signal.recordings import Recording
from blemish.errors import DataError, OutOfRange
from tests.recordings import PLAN, RATE, STRETCHES, beats, flat, write_record


def errors(values: NDArray[np.float64], plan: SignalPlan = PLAN) -> list[str]:
    """What is said of each window of a recording; "" where it can be judged."""
    from blemish.data.signal.preprocess import cut

    recording = Recording(np.round(values.T / 0.005).astype(np.float32) * np.float32(0.005), RATE, ("I", "II"))
    prepared, found = prepare(recording, plan), []
    for first in range(0, len(values) - 999, 1000):
        try:
            cut(recording, prepared, (first, first + 1000), plan)
            found.append("")
        except DataError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("lead", [0, 1])
@pytest.mark.parametrize("shape", STRETCHES)
def test_a_window_in_which_a_lead_does_not_move_is_refused(shape: str, lead: int) -> None:
    """Of forty seconds in windows of four, the third and half of the fourth are flat: they are refused, no other is."""
    messages = errors(flat(beats(40), 8, 14, shape, lead))
    assert [bool(s) for s in messages] == [k in (2, 3) for k in range(10)]
    name = ("lead 1 (I)", "lead 2 (II)")[lead]
    assert f"{name} does not move from 8.0" in messages[2]
    assert f" to 14.0{'0' if shape != 'rail' else ''}" in messages[3]


@pytest.mark.parametrize("shape", [*STRETCHES, "not a number"])
def test_a_flat_half_does_not_change_the_scale_of_the_other(shape: str) -> None:
    """Nor do two thirds: the beats that are left look as they do in a whole recording."""
    values = beats(60)
    whole, part = (
        prepare(Recording(v.T.astype(np.float32), RATE, ("I", "II")), PLAN).values[0, :2000]
        for v in (values, flat(values, 20, 60, shape))
    )
    np.testing.assert_allclose(part[200:], whole[200:], atol=0.1)  # a beat is some 10 high


def test_a_lead_of_noise_alone_is_refused_and_leaves_the_scale_alone() -> None:
    """An electrode that is off, with hum of the mains at a hundredth of the beats' height."""
    values = beats(60)
    at = np.arange(len(values)) / RATE
    values[5000:, 0] = 0.01 * np.sin(2 * np.pi * 50 * at[5000:]) + np.random.default_rng(0).normal(0, 2e-3, 10_000)
    messages = errors(values)
    assert not any(messages[:5])
    assert all("lead 1 (I)" in s for s in messages[5:])
    whole, part = (
        prepare(Recording(v.T.astype(np.float32), RATE, ("I", "II")), PLAN).values[0, 200:2000]
        for v in (beats(60), values)
    )
    np.testing.assert_allclose(part, whole, atol=0.1)


def test_what_moves_less_than_anything_that_was_learned_from_is_refused(tmp_path: Path) -> None:
    """A pause of three seconds, in which noise goes on as before, is no flat line; good windows have no such pause."""
    good = [write_record(tmp_path, f"g{k}", beats(20, seed=k)) for k in range(2)]
    windows = [Window(path, (first, first + 1000)) for path in good for first in range(0, 5000, 1000)]
    plan = replace(PLAN, least=least_movement(windows, PLAN))
    assert SignalPlan.from_json(plan.to_json()) == plan
    assert plan.least is not None
    assert min(plan.least) > 0.2
    values = beats(20, seed=9)
    values[2000:2750] = [0, 0.1] + np.random.default_rng(2).normal(0, 0.02, (750, 2))
    assert not any(errors(values)), "an older model knows no least movement"
    messages = errors(values, plan)
    assert [bool(s) for s in messages] == [False, False, True, False, False]
    assert re.search(r"lead 1 \(I\) hardly moves .* windows that were learned from 0\.\d+ or more", messages[2])
    with pytest.raises(OutOfRange, match=r"p\.hea: lead 1"):
        read_window(Window(write_record(tmp_path, "p", values), (2000, 3000)), plan)


def test_an_array_that_is_half_flat_is_refused() -> None:
    plan = replace(PLAN, leads=(None, None), file_rate=RATE)
    values = beats(4)
    as_signal(values.T, plan)
    with pytest.raises(DataError, match=r"lead 2 does not move from 2.00 to 4.00 s"):
        as_signal(flat(values, 2, 4, "zero", 1).T, plan)
    with pytest.raises(DataError, match="is flat"):
        as_signal(flat(values, 0, 4, "one step").T.round(3), plan)


def test_slow_hearts_coarse_converters_and_gaps_are_no_flat_leads() -> None:
    at = np.arange(10_000) / RATE
    slow = np.exp(-((((at % 1.8) - 0.4) ** 2) / 2e-4)) + np.random.default_rng(0).normal(0, 0.01, len(at))
    coarse = np.round(beats(40)[:, 1] / 0.04) * 0.04  # twenty steps high
    assert not any(errors(np.stack([slow, coarse], 1)))
    values = beats(40)
    values[np.arange(0, 10_000, 97)] = np.nan  # short gaps, which are bridged between the converter's steps
    assert not any(errors(values))

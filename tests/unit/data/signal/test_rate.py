"""The sampling rate of a recording: stated, read off a column of times, or missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blemish.data import layouts
from blemish.data.layouts import Cut
from blemish.data.signal.modality import Signals
from blemish.data.signal.preprocess import CLIP, Window, read_window
from blemish.data.signal.recordings import read_recording
from blemish.errors import DataError
from tests.recordings import PLAN, RATE, beats, write_csv, write_record

wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'blemish[ecg]'")


def test_rate_filter_and_scale_are_those_of_the_recording(tmp_path: Path) -> None:
    """A tall beat keeps its height beside the usual ones, a drift is gone, and another rate gives the same window."""
    values = beats(40)
    values[int(18.4 * RATE) - 10 : int(18.4 * RATE) + 10, 0] *= 1.4
    values[:, 0] += np.linspace(0, 30, len(values))
    slow = read_window(Window(write_record(tmp_path, "a", values), (4000, 5000)), PLAN).x
    usual = read_window(Window(tmp_path / "a.hea", (2000, 3000)), PLAN).x
    assert slow[0].max() > 1.25 * usual[0].max()
    assert abs(np.median(slow[0])) < 0.2
    from scipy.signal import resample_poly

    twice = resample_poly(values, 2, 1, axis=0, padtype="line")
    other = read_window(Window(write_record(tmp_path, "b", twice, 2 * RATE), (8000, 10000)), PLAN).x
    assert np.corrcoef(slow[0], other[0])[0, 1] > 0.999
    assert np.abs(slow).max() <= CLIP


def test_unknown_rate_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", beats(10))
    with pytest.raises(DataError, match="x.csv.* sampling rate") as caught:
        read_window(Window(path, (0, 1000)), PLAN)
    assert "--rate" in str(caught.value.hint)
    with pytest.raises(DataError, match="x.csv.* sampling rate"):
        layouts.index(tmp_path, cut=Cut(4.0))
    assert len(layouts.index(tmp_path, cut=Cut(4.0, RATE))) == 2


@pytest.mark.parametrize("start", [0, 20 * 3600, 1_700_000_000])
@pytest.mark.parametrize(
    ("name", "unit"), [("time", 1), (" Time ", 1), ("time [s]", 1), ("time (ms)", 1e3), ("time_ms", 1e3)]
)
def test_times_are_read_in_double_precision(start: int, name: str, unit: float, tmp_path: Path) -> None:
    rows = [f"{(start + k / 250) * unit:.3f},{v:.4f}" for k, v in enumerate(beats(4)[:, 0])]
    (tmp_path / "t.csv").write_text("\n".join([f"{name},II", *rows]))
    found = read_recording(tmp_path / "t.csv")
    assert (found.rate, found.leads, found.values.shape) == (250.0, ("II",), (1, 1000))


def test_times_in_milliseconds_are_one_error_that_says_so(tmp_path: Path) -> None:
    values = beats(60)[:, 0]
    for name, step in (("a", 4), ("b", 1), ("c", 0.5)):
        rows = [f"{k * step},{v:.4f}" for k, v in enumerate(values)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["time,II", *rows]))
        plan = replace(PLAN, leads=("II",), window=9.6)
        with pytest.raises(DataError, match=rf"{name}.csv: .*Hz") as caught:
            Signals(plan).sources(tmp_path / f"{name}.csv")
        assert "milliseconds" in str(caught.value.hint)
        with pytest.raises(DataError, match="Hz"):
            read_window(Window(tmp_path / f"{name}.csv", (0, round(9.6 / step))), plan)


@pytest.mark.parametrize(
    ("head", "message"),
    [("timestamp_utc,II", "column 'timestamp_utc' is not understood"), ("time,time (ms),II", "2 columns of times")],
)
def test_columns_of_times_that_are_not_understood_are_no_leads(head: str, message: str, tmp_path: Path) -> None:
    extra = ",4" if head.count(",") == 2 else ""
    (tmp_path / "t.csv").write_text("\n".join([head, *(f"{k / 250}{extra},{k % 7}" for k in range(500))]))
    with pytest.raises(DataError, match=message):
        read_recording(tmp_path / "t.csv")


def test_a_column_that_rises_evenly_is_no_lead(tmp_path: Path) -> None:
    values = np.column_stack([np.arange(1000) / RATE, beats(4)])
    write_csv(tmp_path / "bare.csv", values)
    write_csv(tmp_path / "index.csv", np.column_stack([np.arange(1000), beats(4)]), ",I,II")
    np.save(tmp_path / "x.npy", values)
    for name in ("bare.csv", "index.csv", "x.npy"):
        with pytest.raises(DataError, match=rf"{name}: column 1 rises evenly"):
            read_recording(tmp_path / name)

"""Recordings: every format to the same window, what is refused and how it says so, layouts, masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.data import layouts
from blemish.data.beats import beat_mask, ectopic
from blemish.data.layouts import Cut
from blemish.data.recordings import Recording, extent, read_recording
from blemish.data.signals import (
    CLIP,
    SignalPlan,
    Window,
    as_signal,
    chosen,
    parse_band,
    plan_leads,
    prepare,
    read_window,
    spans,
    window_content,
)
from blemish.errors import ConfigError, DataError
from blemish.types import Record

wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'blemish[ecg]'")

RATE = 250.0
PLAN = SignalPlan(("I", "II"), window=4.0)


def beats(seconds: float, rate: float = RATE, seed: int = 0) -> NDArray[np.float64]:
    """(N, 2) in mV: a sharp wave each second, on a slow drift."""
    at = np.arange(round(seconds * rate)) / rate
    wave = np.exp(-(((at % 1) - 0.4) ** 2) / 2e-4)
    noise = np.random.default_rng(seed).normal(0, 0.02, (len(at), 2))
    return np.stack([1.2 * wave + 0.3 * np.sin(at / 3), -0.6 * wave + 0.1], 1) + noise


def write_record(
    folder: Path, name: str, values: NDArray[Any], rate: float = RATE, leads: tuple[str, ...] = ("I", "II")
):
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name, rate, ["mV"] * values.shape[1], list(leads), values, fmt=["16"] * values.shape[1], write_dir=str(folder)
    )
    return folder / f"{name}.hea"


def write_beats(folder: Path, name: str, samples: list[int], symbols: list[str]) -> Path:
    wfdb.wrann(name, "atr", np.array(samples), symbols, write_dir=str(folder))
    return folder / f"{name}.atr"


def write_csv(path: Path, values: NDArray[Any], header: str = "") -> Path:
    np.savetxt(path, values, delimiter=",", header=header, comments="", fmt="%.6f")
    return path


def test_every_format_gives_the_same_window(tmp_path: Path) -> None:
    values = beats(20)
    record = write_record(tmp_path, "r", values)
    given = replace(PLAN, file_rate=RATE)
    times = np.arange(len(values)) / RATE
    files = [
        write_csv(tmp_path / "named.csv", values, "I,II"),
        write_csv(tmp_path / "turned.csv", values[:, ::-1], "II,I"),
        write_csv(tmp_path / "bare.csv", values),
        write_csv(tmp_path / "timed.csv", np.column_stack([times, values]), "time,I,II"),
    ]
    np.save(tmp_path / "wide.npy", values.T)
    np.save(tmp_path / "tall.npy", values)
    first = read_window(Window(record, (1000, 2000)), PLAN)
    assert first.x.shape == (2, 500)
    assert (first.start, first.rate, first.values.shape) == (4.0, RATE, (2, 1000))
    for path in [*files, tmp_path / "wide.npy", tmp_path / "tall.npy"]:
        plan = PLAN if path.name == "timed.csv" else given
        np.testing.assert_allclose(read_window(Window(path, (1000, 2000)), plan).x, first.x, atol=2e-3)


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


@pytest.mark.parametrize(
    ("have", "want", "order"),
    [
        (("I", "II"), ("I", "II"), (0, 1)),
        (("II", "I"), ("I", "II"), (1, 0)),
        (("V5", "MLII"), ("MLII", None), (1, 0)),
        (("a", "b", "c"), ("b",), (1,)),
        ((None, None), ("I", "II"), (0, 1)),
    ],
)
def test_leads_are_found_by_name(
    have: tuple[str | None, ...], want: tuple[str | None, ...], order: tuple[int, ...]
) -> None:
    assert chosen(have, want) == order


@pytest.mark.parametrize(
    ("have", "want", "error"),
    [
        (("I",), ("I", "II"), "1 leads, and the model takes 2"),
        (("I", "V1"), ("I", "II"), "no lead II"),
        ((None, None, None), (None, None), "3 leads without names"),
    ],
)
def test_leads_that_do_not_fit(have: tuple[str | None, ...], want: tuple[str | None, ...], error: str) -> None:
    with pytest.raises(DataError, match=error):
        chosen(have, want)


def test_leads_are_planned_from_what_recordings_share(tmp_path: Path) -> None:
    paths = [write_record(tmp_path, "a", beats(5), leads=("MLII", "V1"))]
    paths.append(write_record(tmp_path, "b", beats(5), leads=("V5", "MLII")))
    assert plan_leads(paths) == ("MLII", None)
    assert plan_leads(paths[:1]) == ("MLII", "V1")
    with pytest.raises(DataError, match="1 leads, others have 2"):
        plan_leads([*paths, write_record(tmp_path, "c", beats(5)[:, :1], leads=("MLII",))])


def test_short_gaps_are_bridged_and_long_ones_refused() -> None:
    values = beats(20).T.astype(np.float32)
    whole = as_signal(values[:, :1000], replace(PLAN, leads=(None, None), file_rate=RATE)).x
    values[0, 500:520] = np.nan  # 80 ms
    values[1, 3000:3100] = np.nan  # 400 ms
    recording = Recording(values, RATE, ("I", "II"))
    from blemish.data.signals import cut

    prepared = prepare(recording, PLAN)
    got = cut(recording, prepared, (0, 1000), PLAN)
    assert np.isfinite(got.x).all()
    assert np.isnan(got.values[0, 500:520]).all()
    assert whole.shape == got.x.shape
    with pytest.raises(DataError, match="nothing was recorded from 12.00 to 12.40 s"):
        cut(recording, prepared, (2500, 3500), PLAN)


def test_a_flat_or_empty_lead_is_an_error() -> None:
    values = beats(20).T.astype(np.float32)
    values[1] = 0.7
    with pytest.raises(DataError, match=r"lead 2 \(II\) is flat"):
        prepare(Recording(values, RATE, ("I", "II")), PLAN)
    values[1] = np.nan
    with pytest.raises(DataError, match=r"lead 2 \(II\) holds no number"):
        prepare(Recording(values, RATE, ("I", "II")), PLAN)


def test_windows_lie_side_by_side_and_one_more_ends_with_the_recording(tmp_path: Path) -> None:
    path = write_record(tmp_path, "r", beats(14))
    assert spans(extent(path), 4.0, None) == [(0, 1000), (1000, 2000), (2000, 3000)]
    assert spans(extent(path), 4.0, None, whole=True)[-1] == (2500, 3500)
    with pytest.raises(DataError, match="less than a window of 20 s"):
        spans(extent(path), 20.0, None)


@pytest.mark.parametrize(
    ("span", "error"),
    [((0, 900), "3.6 s, and a window has 4 s"), ((0, 1500), "6 s, and a window has 4 s"), ((4500, 5500), "outside")],
)
def test_a_window_of_another_length_is_refused(tmp_path: Path, span: tuple[int, int], error: str) -> None:
    path = write_record(tmp_path, "r", beats(20))
    with pytest.raises(DataError, match=f"r.hea: .*{error}"):
        read_window(Window(path, span), PLAN)


@pytest.mark.parametrize("broken", ["nothing.hea", "text.csv", "object.npy", "cut.hea", "image.hea", "empty.csv"])
def test_what_cannot_be_read_names_the_file(broken: str, tmp_path: Path) -> None:
    path = tmp_path / broken
    if broken == "text.csv":
        path.write_text("a,b\n1,2\nx,3\n")
    if broken == "empty.csv":
        path.write_text("I,II\n")
    if broken == "object.npy":
        np.save(path, np.array([{}, {}], dtype=object))
    if broken == "cut.hea":
        write_record(tmp_path, "cut", beats(5))
        (tmp_path / "cut.dat").write_bytes(b"abc")
    if broken == "image.hea":
        path.write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(DataError, match=broken.split(".")[0]):
        read_recording(path)


def test_damaged_annotations_name_the_file(tmp_path: Path) -> None:
    write_record(tmp_path, "r", beats(20))
    (tmp_path / "r.atr").write_bytes(b"\x01")
    with pytest.raises(DataError, match="r.atr"):
        layouts.index(tmp_path, cut=Cut(4.0))


def test_content_is_named_by_bytes_and_span(tmp_path: Path) -> None:
    a = write_record(tmp_path / "a", "r", beats(20))
    b = write_record(tmp_path / "b", "r", beats(20))
    c = write_record(tmp_path / "c", "r", beats(20, seed=1))
    assert window_content(Window(a, (0, 1000))) == window_content(Window(b, (0, 1000)))
    others = {window_content(Window(p, s)) for p, s in [(a, (0, 1000)), (a, (1000, 2000)), (c, (0, 1000))]}
    assert len(others) == 3


@pytest.mark.parametrize(("text", "band"), [("0.5-40", (0.5, 40.0)), ("none", None), (" 1 - 25 ", (1.0, 25.0))])
def test_bands(text: str, band: tuple[float, float] | None) -> None:
    assert parse_band(text) == band


@pytest.mark.parametrize("text", ["", "40", "a-b", "1-2-3"])
def test_no_bands(text: str) -> None:
    with pytest.raises(ConfigError, match="band"):
        parse_band(text)


def test_a_plan_survives_json() -> None:
    for plan in (PLAN, replace(PLAN, band=None, leads=("MLII", None), file_rate=360.0)):
        assert SignalPlan.from_json(plan.to_json()) == plan
    with pytest.raises(ConfigError, match="not understood"):
        SignalPlan.from_json({**PLAN.to_json(), "colour": 3})


def annotated(root: Path, names: list[str], seconds: int = 40) -> Path:
    """Recordings of a beat each second: window 1 holds an ectopic beat, window 2 bundle branch beats, window 3 two."""
    for k, name in enumerate(names):
        write_record(root, name, beats(seconds, seed=k), leads=("MLII", "V1"))
        samples = [round((s + 0.4) * RATE) for s in range(seconds)]
        symbols = ["N"] * seconds
        symbols[5], symbols[9] = "V", "L"
        keep = [i for i in range(seconds) if not 12 <= i < 14]
        write_beats(root, name, [samples[i] for i in keep], [symbols[i] for i in keep])
    return root


def sides(records: list[Record]) -> dict[tuple[str, int], int]:
    return dict(Counter((record.split, record.label) for record in records))


def test_labels_come_from_the_beats(tmp_path: Path) -> None:
    records = layouts.index(annotated(tmp_path, ["101", "100", "102"]), cut=Cut(4.0))
    assert sides(records) == {("train", 0): 7, ("held", 1): 5, ("test", 0): 7, ("test", 1): 1}
    assert {r.path.stem for r in records} == {"100", "101"}, "paced recordings stay out"
    bad = next(r for r in records if r.split == "test" and r.label)
    assert (bad.span, bad.defect, bad.unit) == ((1000, 2000), "ventricular", "100")
    assert isinstance(bad.mask, Path)
    mask = beat_mask(bad.mask, bad.path, bad.span, 1000)
    peak = round(5.4 * RATE) - 1000
    assert np.flatnonzero(mask).tolist() == list(range(peak - round(0.25 * RATE), peak + round(0.35 * RATE)))


def test_patient_calibrated_learns_the_first_ten_minutes(tmp_path: Path) -> None:
    records = layouts.index(annotated(tmp_path, ["101", "100"], 640), "wfdb", "patient-calibrated", cut=Cut(4.0))
    own = [r for r in records if r.path.stem == "100" and r.label == 0 and r.split != "held"]
    assert all((r.split == "train") == (r.span is not None and r.span[1] <= 600 * RATE) for r in own)
    assert {r.split for r in own} == {"train", "test"}


def test_other_annotated_recordings_are_halved_by_recording(tmp_path: Path) -> None:
    records = layouts.index(annotated(tmp_path, ["p1", "p2", "p3"]), cut=Cut(4.0))
    units = {side: {r.unit for r in records if r.split == side and not r.label} for side in ("train", "test")}
    assert len(units["train"]) == 2
    assert not units["train"] & units["test"]
    with pytest.raises(ConfigError, match="no split"):
        layouts.index(tmp_path, split="inter-patient")


def test_a_beat_that_reaches_into_the_window_is_marked(tmp_path: Path) -> None:
    annotated(tmp_path, ["r"])
    peak = round(5.4 * RATE)
    mask = beat_mask(tmp_path / "r.atr", tmp_path / "r.hea", (peak + 20, peak + 1020), 1000)
    assert np.flatnonzero(mask).tolist() == list(range(round(0.35 * RATE) - 20))


def test_masks_as_arrays(tmp_path: Path) -> None:
    marked = np.zeros(5000, bool)
    marked[1200:1300] = True
    np.save(tmp_path / "m.npy", marked.astype(np.uint8))
    mask = beat_mask(tmp_path / "m.npy", tmp_path / "r.hea", (1000, 2000), 1000)
    assert np.flatnonzero(mask).tolist() == list(range(200, 300))
    with pytest.raises(DataError, match="m.npy"):
        beat_mask(tmp_path / "m.npy", tmp_path / "r.hea", (4500, 5500), 1000)


@pytest.mark.parametrize(
    ("symbols", "kind"), [(["N", "N"], None), (["L", "e"], None), (["A", "V", "V"], "ventricular"), (["Q"], "other")]
)
def test_classes_of_beats(symbols: list[str], kind: str | None) -> None:
    assert ectopic(symbols) == kind


def test_folders_of_recordings_are_good_ones(tmp_path: Path) -> None:
    write_record(tmp_path / "ward" / "a", "r", beats(9))
    np.save(tmp_path / "s.npy", beats(9))
    records = layouts.index(tmp_path, cut=Cut(4.0, RATE))
    assert [(r.id, r.unit) for r in records] == [
        ("s.npy#0000", "s.npy"),
        ("s.npy#0001", "s.npy"),
        ("ward/a/r.hea#0000", "ward/a/r.hea"),
        ("ward/a/r.hea#0001", "ward/a/r.hea"),
    ]
    assert sides(records) == {("train", 0): 4}
    write_record(tmp_path / "bad", "r", beats(9))
    with pytest.raises(DataError, match="'bad'"):
        layouts.index(tmp_path, cut=Cut(4.0, RATE))


@pytest.mark.parametrize("form", ["csv", "txt"])
def test_single_beats_in_a_table(form: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(100, 140)) + np.sin(np.arange(140) / 9)
    classes = [1 + (k >= 95) for k in range(100)]
    if form == "csv":
        lines = ["split,class," + ",".join(f"t{k}" for k in range(140))]
        lines += [f"TRAIN,{c}," + ",".join(f"{v:.5f}" for v in row) for c, row in zip(classes, rows, strict=True)]
        (tmp_path / "beats.csv").write_text("\n".join(lines))
    else:
        lines = ["  ".join([f"{c:.7e}", *(f"{v:.7e}" for v in row)]) for c, row in zip(classes, rows, strict=True)]
        (tmp_path / "ECG5000_TRAIN.txt").write_text("\n".join(lines))
    records = layouts.index(tmp_path)
    assert sides(records) == {("train", 0): 5, ("test", 0): 90, ("test", 1): 5}
    plan = SignalPlan((None,), rate=125.0, window=1.12, band=None, file_rate=125.0)
    whole = read_window(Window(records[7].path, records[7].span), plan)
    np.testing.assert_allclose(np.corrcoef(whole.x[0], rows[7])[0, 1], 1, atol=1e-5)


@pytest.mark.real
def test_the_published_halves_have_the_counts_of_the_protocol(shared_data: Path) -> None:
    if not (shared_data / "mitbih").is_dir():
        pytest.skip("the MIT-BIH recordings are not beside the repository")
    counts = sides(layouts.index(shared_data / "mitbih"))
    assert (counts["train", 0], counts["test", 0], counts["test", 1]) == (2093, 2102, 1521)
    calibrated = sides(layouts.index(shared_data / "mitbih", split="patient-calibrated"))
    assert calibrated["train", 0] == 2797

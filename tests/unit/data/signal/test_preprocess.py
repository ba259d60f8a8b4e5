"""Recordings: every format to the same window, what is refused and how it says so, layouts, masks."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blemish.data import layouts
from blemish.data.layouts import Cut
from blemish.data.signal.beats import beat_mask, ectopic
from blemish.data.signal.preprocess import (
    SignalPlan,
    Window,
    as_signal,
    chosen,
    least_movement,
    parse_band,
    plan_leads,
    prepare,
    read_window,
    spans,
    window_content,
)
from blemish.data.signal.recordings import Recording, extent, read_recording, recordings_in
from blemish.errors import ConfigError, DataError
from blemish.types import Record
from tests.recordings import PLAN, RATE, annotated, beats, flat, write_beats, write_csv, write_record

wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'blemish[ecg]'")


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


@pytest.mark.parametrize(
    ("have", "want", "order"),
    [
        (("I", "II"), ("I", "II"), (0, 1)),
        (("II", "I"), ("I", "II"), (1, 0)),
        (("V5", "MLII"), ("MLII", None), (1, 0)),
        (("a", "b", "c"), ("b",), (1,)),
        (("V5", "MLII"), ("MLII",), (1,)),
        (("V1", "II", "II"), ("II", "II"), (1, 2)),
        (("II", "V1", "II"), ("II", None, None), (0, 1, 2)),
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
        (("II", "V1", "II"), ("II",), "2 leads II, and the model takes 1"),
        (("II", "V1", "II"), ("V1", "II"), "2 leads II"),
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
    from blemish.data.signal.preprocess import cut

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


def sides(records: list[Record]) -> dict[tuple[str, int], int]:
    return dict(Counter((record.split, record.label) for record in records))


def test_labels_come_from_the_beats(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"left out are 1 paced recordings \(102\)"):
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
    patient_100 = [r for r in records if r.path.stem == "100" and r.label == 0 and r.split != "held"]
    assert all((r.split == "train") == (r.span is not None and r.span[1] <= 600 * RATE) for r in patient_100)
    assert {r.split for r in patient_100} == {"train", "test"}


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


def test_wanted_leads_are_taken_by_name_in_every_recording(tmp_path: Path) -> None:
    """Wherever they stand, and however many others there are."""
    values = beats(5)
    paths = [
        write_record(tmp_path, "first", values, leads=("MLII", "V1")),
        write_record(tmp_path, "second", values[:, ::-1], leads=("V5", "MLII")),
        write_record(tmp_path, "alone", values[:, :1], leads=("MLII",)),
        write_csv(tmp_path / "table.csv", values, "V1,MLII"),
    ]
    assert plan_leads(paths, ("MLII",)) == ("MLII",)
    assert plan_leads([*paths[:2], paths[3]]) == ("MLII", None)
    assert plan_leads(paths[::3], ("V1", "MLII")) == ("V1", "MLII")
    plan = replace(PLAN, leads=("MLII",), file_rate=RATE)
    first, second, alone = (read_window(Window(path, (0, 1000)), plan) for path in paths[:3])
    assert first.leads == second.leads == alone.leads == ("MLII",)
    np.testing.assert_allclose(second.x, first.x, atol=1e-4)
    np.testing.assert_allclose(alone.x, first.x, atol=1e-4)
    table = read_window(Window(paths[3], (0, 1000)), plan)
    assert not np.allclose(table.x, first.x, atol=0.1), "there V1 holds what is MLII in the others"
    np.testing.assert_array_equal(table.values[0], read_recording(paths[3]).values[1, :1000])


@pytest.mark.parametrize(
    ("leads", "wanted", "error"),
    [
        (("V5", "V2"), ("MLII",), "no lead MLII"),
        (("mlii", "V2"), ("MLII",), "no lead MLII"),
        (("MLII", "MLII"), ("MLII",), "2 leads MLII"),
        (("MLII", "V1"), ("MLII", "MLII"), "too few leads MLII"),
        (("MLII", "V1"), ("MLII", "V1", "V5"), "2 leads, and the model takes 3"),
    ],
)
def test_a_recording_without_a_wanted_lead_is_named(
    leads: tuple[str, ...], wanted: tuple[str, ...], error: str, tmp_path: Path
) -> None:
    good = write_record(tmp_path, "good", np.repeat(beats(5), 2, 1)[:, :3], leads=("MLII", "V1", "V5"))
    lacking = write_csv(tmp_path / "lacking.csv", beats(5), ",".join(leads))
    with pytest.raises(DataError, match=error) as caught:
        plan_leads([lacking] if wanted[1:2] == ("MLII",) else [good, lacking], wanted)
    assert "lacking" in str(caught.value.path)
    assert caught.value.hint


def test_leads_without_names_are_never_taken_for_a_wanted_one(tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", beats(5)[:, :1].T)
    with pytest.raises(DataError, match="no names, and MLII was asked for"):
        plan_leads([tmp_path / "bare.npy"], ("MLII",))


@pytest.mark.real
def test_the_published_halves_have_the_counts_of_the_protocol(shared_data: Path) -> None:
    if not (shared_data / "mitbih").is_dir():
        pytest.skip("the MIT-BIH recordings are not beside the repository")
    with pytest.warns(UserWarning, match="left out are 4 paced recordings"):
        counts = sides(layouts.index(shared_data / "mitbih"))
    assert (counts["train", 0], counts["test", 0], counts["test", 1]) == (2093, 2102, 1521)
    with pytest.warns(UserWarning, match="left out are 4 paced recordings"):
        calibrated = sides(layouts.index(shared_data / "mitbih", split="patient-calibrated"))
    assert calibrated["train", 0] == 2797
    morphology = sides(layouts.index(shared_data / "mitbih", split="morphology"))
    assert (morphology["train", 0], morphology["test", 0], morphology["test", 1]) == (2028, 2173, 1094)


def test_a_recording_of_one_window_is_learned_from(tmp_path: Path) -> None:
    write_record(tmp_path, "whole", beats(4))
    assert [r.span for r in layouts.index(tmp_path, cut=Cut(4.0))] == [(0, extent(tmp_path / "whole.hea").samples)]


def test_learning_leaves_flat_and_empty_windows_out_and_says_so(tmp_path: Path) -> None:
    write_record(tmp_path, "a", flat(beats(20), 4, 7, "zero"))
    write_record(tmp_path, "b", flat(beats(20), 8.5, 9.5, "not a number", 1))
    write_record(tmp_path, "short", beats(2))
    (tmp_path / "RECORDS").write_text("a\nb\nshort\nlost\nsub/\n")
    message = (
        r"left out are 1 records that RECORDS names and that are not there \(lost\); "
        r"1 windows in which a lead does not move \(a.hea#0001\); "
        r"1 windows in which nothing was recorded \(b.hea#0002\); "
        r"1 recordings shorter than a window of 4 s \(short.hea\)"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        records = layouts.index(tmp_path, cut=Cut(4.0))
    assert len(caught) == 1
    assert len(records) == 8
    assert not {"a.hea#0001", "b.hea#0002"} & {r.id for r in records}
    plan = replace(PLAN, least=least_movement([Window(r.path, r.span) for r in records], PLAN))
    assert min(plan.least or ()) > 0.1
    for name in "ab":
        (tmp_path / f"{name}.hea").unlink()
    with pytest.raises(DataError, match="holds no window to learn from"):
        layouts.index(tmp_path, cut=Cut(4.0))


def test_annotated_recordings_say_what_they_leave_out(tmp_path: Path) -> None:
    annotated(tmp_path, ["101", "100"])
    write_record(tmp_path, "101", flat(beats(40), 24, 27, "rail"), leads=("MLII", "V1"))
    write_record(tmp_path, "109", beats(20), leads=("MLII", "V1"))
    write_csv(tmp_path / "other.csv", beats(20), "MLII,V1")
    write_record(tmp_path, "105", beats(2), leads=("MLII", "V1"))
    write_beats(tmp_path, "105", [10], ["N"])
    message = (
        r"left out are 1 recordings without annotations \(.atr\) \(109\); 1 recordings of other kinds \(other.csv\); "
        r"1 windows in which a lead does not move \(101.hea#0006\); 1 recordings shorter than a window of 4 s \(105\)"
    )
    with pytest.warns(UserWarning, match=message):
        records = layouts.index(tmp_path, cut=Cut(4.0))
    held = next(r for r in records if r.id == "101.hea#0006")
    assert (held.split, held.label, held.defect) == ("held", 1, "a lead does not move")


def test_a_folder_without_the_beats_own_folder_says_that_they_are_not_read(tmp_path: Path) -> None:
    annotated(tmp_path / "ward", ["p1"])
    with pytest.warns(UserWarning, match=r"1 files of beats \(.atr\): .* \(p1\)"):
        assert {r.split for r in layouts.index(tmp_path, cut=Cut(4.0))} == {"train"}


def test_small_waves_on_a_large_offset_stay(tmp_path: Path) -> None:
    """An amplifier without a filter for the electrodes' voltage, or numbers of a 32-bit converter."""
    values = beats(20)
    plan = replace(PLAN, file_rate=RATE)
    expected = read_window(Window(write_csv(tmp_path / "a.csv", values, "I,II"), (0, 1000)), plan).x
    np.save(tmp_path / "b.npy", (values.T + 5e6))
    np.save(tmp_path / "c.npy", np.round(values.T * 1e4).astype(np.int64) + 2**40)
    for path in (tmp_path / "b.npy", tmp_path / "c.npy"):
        assert read_recording(path).values.dtype == np.float64
        np.testing.assert_allclose(read_window(Window(path, (0, 1000)), plan).x, expected, atol=5e-3)
    assert read_recording(tmp_path / "a.csv").values.dtype == np.float32
    bare = replace(plan, leads=(None, None), window=20.0)
    np.testing.assert_allclose(as_signal(values.T + 5e6, bare).x, as_signal(values.T, bare).x, atol=5e-3)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_decimal_commas_are_read_where_they_are_clear(mark: str, tmp_path: Path) -> None:
    values = beats(20)
    rows = [mark.join(f"{v:.6f}".replace(".", ",") for v in row) for row in values]
    (tmp_path / "de.csv").write_text("\n".join([mark.join(["I", "II"]), *rows]))
    found, expected = (
        read_recording(tmp_path / "de.csv"),
        read_recording(write_csv(tmp_path / "en.csv", values, "I,II")),
    )
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.leads == ("I", "II")
    (tmp_path / "bad.csv").write_text("\n".join(f"{v:.3f}".replace(".", ",") for v in values[:, 0]))
    with pytest.raises(DataError, match=r"bad\.csv: .* decimal commas"):
        read_recording(tmp_path / "bad.csv")


def test_segments_of_a_record_are_read_as_one(tmp_path: Path) -> None:
    """With a missing segment, and one that lacks a lead; the segments are not inspected a second time."""
    values = beats(24)
    write_record(tmp_path, "s1", values[:2000])
    write_record(tmp_path, "s2", values[3000:6000, 1:], leads=("II",))
    (tmp_path / "m.hea").write_text("m/3 2 250 6000\n# Dr. X\ns1 2000\n~ 1000\ns2 3000\n")
    found = read_recording(tmp_path / "m.hea")
    assert (found.leads, found.rate, found.values.shape) == (("I", "II"), 250.0, (2, 6000))
    assert extent(tmp_path / "m.hea") == (6000, 250.0, None)
    recorded = np.isfinite(found.values)
    assert recorded[0].tolist() == [k < 2000 for k in range(6000)]
    assert recorded[1].tolist() == [k < 2000 or k >= 3000 for k in range(6000)]
    np.testing.assert_allclose(found.values[1, 3000:], values[3000:, 1], atol=1e-3)
    assert recordings_in(tmp_path) == [tmp_path / "m.hea"]
    before = window_content(Window(tmp_path / "m.hea", (0, 1000)))
    write_record(tmp_path, "s2", values[2000:5000, 1:], leads=("II",))
    assert window_content(Window(tmp_path / "m.hea", (0, 1000))) != before, "its segments' bytes are its own"
    with pytest.raises(DataError, match="nothing was recorded"):
        read_window(Window(tmp_path / "m.hea", (2000, 3000)), PLAN)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("m/2 2 250 3000\ns1 2000\ngone 1000\n", "gone.hea: no such file"),
        ("m/2 2 250 3000\ns1 2000\n", "states 2 segments"),
        ("m/1 2 250 3000\ns1 3000\n", "s1 has 2000 samples at 250 Hz, not 3000"),
        ("m/1 2 360 2000\ns1 2000\n", "at 250 Hz, not 2000 at 360"),
        ("m/1 2 250 2000\n~ 2000\n", "holds no signal"),
    ],
)
def test_segments_that_do_not_fit_are_errors(head: str, message: str, tmp_path: Path) -> None:
    write_record(tmp_path, "s1", beats(8))
    (tmp_path / "m.hea").write_text(head)
    with pytest.raises(DataError, match=message):
        read_recording(tmp_path / "m.hea")


def test_a_variable_layout_names_its_leads_first(tmp_path: Path) -> None:
    write_record(tmp_path, "s1", beats(8)[:, :1], leads=("I",))
    write_record(tmp_path, "s2", beats(8))
    lead = "~ 0 200/mV 16 0 0 0 0"
    (tmp_path / "m_layout.hea").write_text(f"m_layout 2 250 0\n{lead} I\n{lead} II\n")
    (tmp_path / "m.hea").write_text("m/3 2 250 4000\nm_layout 0\ns1 2000\ns2 2000\n")
    assert recordings_in(tmp_path) == [tmp_path / "m.hea"]
    found = read_recording(tmp_path / "m.hea")
    assert np.isfinite(found.values).sum(1).tolist() == [4000, 2000]


def test_leads_of_one_name_are_each_looked_at(tmp_path: Path) -> None:
    paths = [write_csv(tmp_path / f"{name}.csv", beats(8), "ECG,ECG") for name in "ab"]
    assert plan_leads(paths) == ("ECG", "ECG")
    assert chosen(("ECG", "ECG"), ("ECG", "ECG")) == (0, 1)
    with pytest.raises(DataError, match="too few leads ECG"):
        chosen(("ECG", "V1"), ("ECG", "ECG"))


def test_an_open_file_is_no_signal_and_stays_open(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 500)))
    with (tmp_path / "a.npy").open("rb") as file:
        for stream in (file, io.BytesIO(b"x"), b"x"):
            with pytest.raises(DataError, match="is no signal"):
                as_signal(stream, SignalPlan((None,)))
        assert file.read(6) == b"\x93NUMPY"

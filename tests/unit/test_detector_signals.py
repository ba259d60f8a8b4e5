"""Signals through the whole line: detector, model folder, promise, results, evaluation, report and commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'blemish[train]'")

from blemish import Detector
from blemish.cli import main
from blemish.data import layouts
from blemish.data.drawing import Scale, write_png
from blemish.data.layouts import Cut
from blemish.data.signal import picture as strips
from blemish.data.signal.preprocess import Window
from blemish.errors import ConfigError, DataError
from blemish.inspection import modelfile
from blemish.inspection.inspector import Inspector
from blemish.inspection.meta import BackboneMeta
from blemish.types import Record, Region
from tests.recordings import RATE, annotated, beats, write_csv, write_record

pytestmark = [pytest.mark.numeric, pytest.mark.slow]
METHOD = "mmae_ecg"
OPTIONS: dict[str, Any] = {
    "method": METHOD, "window": 4.0, "resample": 50.0, "band": "0.5-20", "false_alarm_rate": 0.2, "cache": False,
    "segment": 10, "local": 4, "width": 16, "depth": 1, "heads": 2, "steps": 60, "batch": 16, "rate": 5e-3,
    "calibration": "split", "held_out": 0.3,
}  # fmt: skip


def detector(**more: Any) -> Detector:
    return Detector(**{**OPTIONS, **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings to learn from, two of them to test on, and one without marks."""
    root = tmp_path_factory.mktemp("signals")
    annotated(root / "set", ["101", "106", "108", "109", "100", "103"], 60)
    write_record(root / "new", "r", beats(14, seed=9), leads=("MLII", "V1"))
    return root


@pytest.fixture(scope="module")
def fitted(folder: Path) -> Detector:
    return detector().fit(folder / "set")


def test_a_model_of_signals_says_what_it_is(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    meta = Detector.load(tmp_path / "model").model.meta
    assert meta.kind == "signal"
    assert meta.preprocess["leads"] == ["MLII", "V1"]
    assert (meta.preprocess["size"], meta.preprocess["rate"]) == ([200], 50.0)
    assert meta.backbone == BackboneMeta("none", "none")
    assert fitted.model.parity["engines"]["openvino-f32"]["score"] < 1e-3
    assert fitted.model.parity["golden"]["count"] == 5
    assert str(fitted.promise).startswith("about 0.2 of good")


def test_a_model_of_one_lead_finds_it_by_name(folder: Path, tmp_path: Path) -> None:
    """In a recording of other order too; one that has none is an error line, not a good part."""
    model, place = exact(detector(leads="MLII", steps=5).fit(folder / "set")), tmp_path / "new"
    assert model.model.meta.preprocess["leads"] == ["MLII"]
    values = beats(4, seed=9)
    same = [
        write_record(place, "a", values, leads=("MLII", "V1")),
        write_record(place, "b", values[:, ::-1], leads=("V5", "MLII")),
        write_record(place, "c", values[:, :1], leads=("MLII",)),
    ]
    one, *others = (model.inspect(path).score for path in same)
    assert others == pytest.approx([one, one], rel=1e-3, abs=1e-3)
    with pytest.raises(DataError, match="no lead MLII"):
        model.inspect(write_record(place, "d", values, leads=("V5", "V2")))
    write_record(tmp_path / "set", "x", beats(40), leads=("V5", "V2"))
    with pytest.raises(DataError, match="no lead MLII") as caught:
        detector(leads="MLII", calibration="none").fit(tmp_path / "set")
    assert str(caught.value.path).endswith("x.hea")


def test_results_are_in_the_recording_s_own_time(fitted: Detector, folder: Path) -> None:
    window = Window(folder / "set" / "100.hea", (1000, 2000))
    result = fitted.inspect(window)
    assert result.anomaly_map.shape == (1000,)
    line = json.loads(json.dumps(result.to_json()))
    assert line["span"] == [4.0, 8.0]
    assert line["image_path"].endswith("100.hea")
    for region in line["regions"]:
        x0, y0, x1, y1 = region["bbox"]
        assert (y0, y1) == (0, 1)
        assert region["area_px"] == x1 - x0
        assert region["interval"] == pytest.approx([4 + x0 / RATE, 4 + x1 / RATE])


def test_arrays_windows_and_files_give_one_score(fitted: Detector, folder: Path, tmp_path: Path) -> None:
    """A recording of one window's length is that window, whatever it comes as.

    In float32: each source rounds the values in its own way, and in bf16 that alone may turn a digit of every product.
    """
    values = beats(4, seed=9)
    path = write_record(tmp_path, "w", values, leads=("MLII", "V1"))
    np.save(tmp_path / "w.npy", values.T.astype(np.float32))
    given = Inspector(with_rate(exact(fitted)), threads=1)
    scores = [given.inspect(s).score for s in (path, str(path), Window(path), tmp_path / "w.npy", values.T)]
    assert max(scores) - min(scores) < 1e-2 * max(map(abs, scores))
    assert given.inspect(values.T).image_path is None
    assert given.inspect(values.T).span == (0.0, 4.0)
    with pytest.raises(DataError, match="14 s, and a window has 4 s"):
        given.inspect(folder / "new" / "r.hea")


def exact(fitted: Detector) -> Detector:
    """The same model in float32, whose last digits alone differ with the processor."""
    return Detector.from_model(replace(fitted.model, meta=replace(fitted.model.meta, precision="f32")))


def with_rate(fitted: Detector) -> modelfile.Model:
    preprocess = {**fitted.model.meta.preprocess, "file_rate": RATE}
    return replace(fitted.model, meta=replace(fitted.model.meta, preprocess=preprocess))


def test_engines_agree(fitted: Detector, folder: Path) -> None:
    window = Window(folder / "set" / "100.hea", (1000, 2000))
    results = [exact(fitted).inspector(name).inspect(window) for name in ("openvino", "onnxruntime", "reference")]
    for other in results[1:]:
        assert other.score == pytest.approx(results[0].score, rel=1e-3, abs=1e-3)
        np.testing.assert_allclose(other.anomaly_map, results[0].anomaly_map, rtol=1e-3, atol=1e-2)


def test_batches_and_threads_change_nothing(fitted: Detector, folder: Path) -> None:
    windows = [Window(folder / "set" / "100.hea", (1000 * k, 1000 * k + 1000)) for k in range(7)]
    line = exact(fitted)
    one = [r.score for r in line.inspector(threads=1).inspect_many(windows)]
    many = [r.score for r in line.inspector(threads=2, batch=3).inspect_many(windows)]
    np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-4)


def test_held_out_windows_are_of_other_recordings(fitted: Detector, folder: Path) -> None:
    """The promise is made from recordings that the model has not learned from."""
    data = fitted.model.meta.data
    calibrator = fitted.model.calibrators["f32"]
    assert len(data.units) == 2
    learned, held = set(data.content_ids), set(calibrator.ids)
    assert len(learned) == data.learned_from
    assert held
    assert not learned & held


def test_units_that_were_learned_from_make_no_promise(fitted: Detector, folder: Path) -> None:
    copy = Detector.from_model(fitted.model)
    with pytest.warns(UserWarning, match="were learned from"):
        copy.calibrate(folder / "set", false_alarm_rate=0.3)
    assert copy.model.calibrators["f32"].n == fitted.model.calibrators["f32"].n
    copy.calibrate(folder / "new", false_alarm_rate=0.4)
    assert copy.model.calibrators["f32"].n == 3


def test_evaluation_measures_windows_and_moments(fitted: Detector, folder: Path) -> None:
    found = fitted.evaluate(folder / "set")
    assert found.overall.good == 24
    assert found.overall.anomalous == 2
    assert found.overall.pixel.regions == 2
    assert set(found.by_defect) == {"ventricular"}
    assert (found.setting.kind, found.setting.network_input) == ("signal", "200")
    assert found.setting.seen_before == 0
    mixed = [replace(r, split="test") for r in layouts.index(folder / "set", cut=Cut(4.0)) if r.split == "train"]
    with pytest.warns(UserWarning, match="were learned or calibrated from"):
        fitted.evaluate(mixed)


def test_scores_do_not_need_annotations(fitted: Detector, folder: Path, tmp_path: Path) -> None:
    """No R peak is used: without the file of beats the scores are the same bits."""
    for suffix in (".hea", ".dat"):
        (tmp_path / f"100{suffix}").write_bytes((folder / "set" / f"100{suffix}").read_bytes())
    with_notes = fitted.inspect(Window(folder / "set" / "100.hea", (1000, 2000)))
    without = fitted.inspect(Window(tmp_path / "100.hea", (1000, 2000)))
    assert with_notes.score == without.score
    assert np.array_equal(with_notes.anomaly_map, without.anomaly_map)


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def model(fitted: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m"
    fitted.save(path)
    return path


def test_inspect_gives_a_line_for_each_window(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--maps", tmp_path / "maps", "--raw-maps", tmp_path / "raw")
    assert run("inspect", model, folder / "new", *where) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["span"] for line in lines] == [[0.0, 4.0], [4.0, 8.0], [8.0, 12.0], [10.0, 14.0]]
    assert [Path(line["map"]).name for line in lines] == [f"r_{k:04}.png" for k in range(4)]
    assert np.load(tmp_path / "raw" / "r_0003.npy").shape == (1000,)
    assert all(Path(line["map"]).read_bytes().startswith(b"\x89PNG") for line in lines)


def test_inspect_goes_on_where_a_recording_cannot_be_read(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_csv(tmp_path / "a.csv", beats(9))
    assert run("inspect", model, bad, folder / "new" / "r.hea", "--format", "csv") == 1
    header, first, *others = capsys.readouterr().out.splitlines()
    assert header.startswith("image_path,span,pred_score")
    assert "sampling rate" in first
    assert len(others) == 4


@pytest.mark.parametrize("form", ["table", "jsonl"])
def test_other_forms(model: Path, folder: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", model, folder / "new", "--format", form) == 0
    assert "r.hea" in capsys.readouterr().out


def test_a_folder_without_recordings_says_what_is_read(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", model, tmp_path) == 1
    stderr = capsys.readouterr().err
    assert "no signals in this folder" in stderr
    assert "hea (WFDB)" in stderr


def test_report_shows_windows_with_their_curves(model: Path, folder: Path, tmp_path: Path) -> None:
    assert run("evaluate", model, folder / "set", "--report", tmp_path / "r.html", "--json", tmp_path / "r.json") == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Each lead as it was recorded" in page
    assert len(re.findall("data:image/jpeg", page)) >= 6
    assert "photographed" not in page
    assert '<ul class="cases wide">' in page, "a strip in a third of the page could not be read"


@pytest.mark.filterwarnings("default")
def test_fit_and_inspect_by_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = ("segment", "local", "width", "depth", "heads", "batch")
    method_options = [f"{k}={OPTIONS[k]}" for k in OPTIONS if k in shape]
    words = [w for pair in [*method_options, "steps=3"] for w in ("--set", pair)]
    np.save(tmp_path / "x.npy", beats(120))
    fit_options = ("--window", 4, "--rate", RATE, "--resample", 50, "--band", "0.5-20", "--calibration", "none")
    assert run("fit", tmp_path / "x.npy", "--method", METHOD, "--out", tmp_path / "m", *fit_options, *words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["network_input"] == "200"
    assert printed["data"]["good_images"] == 30
    assert run("inspect", tmp_path / "m", tmp_path / "x.npy") == 0
    results, warned = capsys.readouterr()
    assert len(results.splitlines()) == 30
    assert "no threshold" in warned
    assert run("inspect", tmp_path / "m", tmp_path / "x.npy", "--rate", 2 * RATE) == 0
    assert len(capsys.readouterr().out.splitlines()) == 15  # twice the rate: half as long
    assert run("inspect", tmp_path / "m", tmp_path / "x.npy", "--rate", -1) == 2
    assert "rate -1 Hz" in capsys.readouterr().err


def test_what_belongs_to_images_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="learns no images"):
        detector(multi_class=True).fit(folder / "set")
    with pytest.raises(ConfigError, match="for images"):
        detector(views=("flip_h",)).fit(folder / "set")


def test_images_for_a_method_of_signals_are_refused(tmp_path: Path) -> None:
    from tests.fakes import write_images

    with pytest.raises(DataError, match=r"000\.png.*recording"):
        detector(calibration="none").fit(write_images(tmp_path, 3))


@pytest.mark.parametrize("change", ["gap", "short", "one lead", "flat"])
def test_a_window_that_cannot_be_used_says_why(fitted: Detector, change: str, tmp_path: Path) -> None:
    values = beats(8, seed=3)
    leads = ("MLII", "V1")
    error = {"gap": "nothing was recorded", "short": "has 4 s", "one lead": "1 leads", "flat": "flat"}[change]
    if change == "gap":
        values[300:400, 1] = np.nan
    if change == "one lead":
        values, leads = values[:, :1], leads[:1]
    if change == "flat":
        values[:, 1] = 0.5
    path = write_record(tmp_path, "r", values, leads=leads)
    last = 500 if change == "short" else 1000
    with pytest.raises(DataError, match=f"r.hea: .*{error}"):
        fitted.inspect(Window(path, (0, last)))


def test_the_cache_holds_windows(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from blemish.data.signal.modality import Signals
    from blemish.learning.backbones.cache import FeatureCache
    from blemish.learning.sources.signal import WindowSource

    records = [r for r in layouts.index(folder / "set", cut=Cut(4.0)) if r.split == "train"][:5]
    kind = Signals.from_json(detector_plan())
    first = [b.x for b in WindowSource(kind, FeatureCache(tmp_path)).batches(records)]
    monkeypatch.setattr(kind, "read", refuse("read again"))
    again = [b.x for b in WindowSource(kind, FeatureCache(tmp_path)).batches(records)]
    assert all(bool((a == b).all()) for a, b in zip(first, again, strict=True))


def test_windows_that_no_longer_fit_in_memory_are_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from blemish.data.signal.modality import Signals
    from blemish.learning.sources import signal as windows

    records = [r for r in layouts.index(folder / "set", cut=Cut(4.0)) if r.split == "train"][:4]
    source = windows.WindowSource(Signals.from_json(detector_plan()), None)
    monkeypatch.setattr(windows, "HELD", 2 * 2 * 200 * 4)  # two windows
    samples = windows.WindowSamples(source, records)
    first, again = samples.batch([0, 1, 2, 3]), samples.batch([3, 2, 1, 0])
    assert first.x is not None
    assert again.x is not None
    assert bool((first.x == again.x[::-1]).all())
    assert len({tuple(x.flatten().tolist()) for x in first.x}) == 4
    assert first.ids == again.ids[::-1]
    count = []
    monkeypatch.setattr(source, "prepared", lambda r, read=source.prepared: (count.append(r.id), read(r))[1])
    samples.batch([0, 1, 2, 3])
    assert count == [records[2].id, records[3].id]


def detector_plan() -> dict[str, Any]:
    plan = {"leads": ["MLII", None], "rate": 50.0, "window": 4.0, "band": [0.5, 20.0], "file_rate": None}
    return {**plan, "size": [200]}


def refuse(message: str) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError(message)

    return fail


def test_pictures_mark_what_was_found(tmp_path: Path) -> None:
    values = beats(4).T.astype(np.float32)
    anomaly_map = np.zeros(1000, np.float32)
    calm = strips.strip(values, anomaly_map, RATE, 0.0, ("I", None), Scale(1.0, 5.0))
    anomaly_map[400:600] = 4.0
    bare = strips.strip(values, anomaly_map, RATE, 0.0, ("I", None), Scale(1.0, 5.0))
    at = strips.LEFT + strips.WIDTH // 2
    changed = np.flatnonzero((calm[:, at].astype(int) != bare[:, at]).any(axis=1))
    assert changed.min() <= strips.TOP + 1, "it is tinted behind the leads"
    assert changed.max() > len(calm) - strips.BOTTOM - strips.CURVE, "and the curve below rises"
    mask = np.zeros(1000, bool)
    mask[450:550] = True
    region = Region((400, 0, 600, 1), 200, 4.0, 4.0)
    loud = strips.strip(values, anomaly_map, RATE, 0.0, ("I", None), Scale(1.0, 5.0), [region], mask)
    assert calm.shape == loud.shape
    columns = np.flatnonzero((calm.astype(int) != loud).any(axis=(0, 2)))
    inside = strips.LEFT + np.array([400, 600]) * strips.WIDTH / 1000
    assert columns[columns > strips.LEFT].min() == pytest.approx(inside[0], abs=2)
    assert columns.max() == pytest.approx(inside[1], abs=2)
    values[:, 100:300] = np.nan
    write_png(tmp_path / "gap.png", strips.strip(values, anomaly_map, RATE, 3.3, ("I", None), Scale(1.0, 5.0)))


def test_records_of_one_recording_are_not_one_file() -> None:
    spans = [(0, 1000), (1000, 2000)]
    records = [
        Record(f"r#{k}", Path("r.hea"), s, span=span)
        for k, (s, span) in enumerate(zip(["train", "test"], spans, strict=True))
    ]
    layouts.check_disjoint(records)
    with pytest.raises(DataError, match="the file is in train and in test"):
        layouts.check_disjoint([records[0], replace(records[1], span=spans[0])])


def spoilt(folder: Path, name: str, damage: str) -> Path:
    """A recording of forty seconds; in one lead or both something is wrong from 8 to 20 s."""
    values = beats(40, seed=11)
    part = slice(2000, 5000)
    if damage == "one lead":
        values[part, 1] = values[2000, 1]
    if damage == "both leads at a rail":
        values[part] = values.max(0) + 1
    if damage == "zero":
        values[part] = 0
    if damage == "noise alone":
        values[part] = np.random.default_rng(0).normal(0, 0.002, (3000, 2))
    if damage == "gap":
        values[part] = np.nan
    return write_record(folder, name, values, leads=("MLII", "V1"))


@pytest.mark.parametrize("damage", ["one lead", "both leads at a rail", "zero", "noise alone", "gap"])
def test_what_was_not_recorded_is_never_good(
    model: Path, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its windows are error lines, exit 1; all others get the scores that they have in the whole recording."""
    spoilt(tmp_path / "new", "r", damage)
    assert run("inspect", model, tmp_path / "new", "--fail-on-anomaly") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["error"] is not None for line in lines] == [k in (2, 3, 4) for k in range(10)]
    message = {"gap": "nothing was recorded", "noise alone": "move"}.get(damage, "does not move")
    assert all(message in line["error"] and line["pred_label"] is None for line in lines[2:5])
    whole = write_record(tmp_path, "whole", beats(40, seed=11), leads=("MLII", "V1"))
    run("inspect", model, whole)
    expected = [json.loads(line)["pred_score"] for line in capsys.readouterr().out.splitlines()]
    for k in (0, 7, 8, 9) if damage == "noise alone" else (0, 1, 6, 7, 8, 9):  # a new level rings in the next window
        assert lines[k]["pred_score"] == pytest.approx(expected[k], abs=0.1 * np.ptp(expected))


def test_a_recording_that_is_flat_from_end_to_end_is_an_error(fitted: Detector, tmp_path: Path) -> None:
    values = beats(8)
    values[:, 0] = 0.3 + np.random.default_rng(0).integers(0, 2, len(values)) * 1e-3
    write_record(tmp_path, "r", values, leads=("MLII", "V1"))
    with pytest.raises(DataError, match="lead 1 .* is flat"):
        fitted.inspect(Window(tmp_path / "r.hea", (0, 1000)))


def test_flat_recordings_are_not_learned_from(folder: Path, tmp_path: Path) -> None:
    """A lead that came off, among the good ones: its windows are left out, and the model refuses such windows."""
    good = tmp_path / "good"
    for k in range(3):
        write_record(good, f"g{k}", beats(40, seed=k), leads=("MLII", "V1"))
    spoilt(good, "off", "one lead")
    with pytest.warns(UserWarning, match=r"3 windows in which a lead does not move \(off.hea#0002, "):
        made = detector(calibration="none", steps=3).fit(good)
    assert made.model.meta.data.learned_from == 37
    assert min(made.model.meta.preprocess["least"]) > 0.1


def test_held_out_windows_that_are_refused_make_no_promise(fitted: Detector, tmp_path: Path) -> None:
    """A pause, which nothing learned from has: the threshold comes of the others, and that is said."""
    values = beats(40, seed=21)
    values[2100:2900] = np.random.default_rng(0).normal(0, 0.02, (800, 2))
    write_record(tmp_path, "r", values, leads=("MLII", "V1"))
    copy = Detector.from_model(fitted.model)
    with pytest.warns(UserWarning, match=r"1 of 10 held-out good windows are refused .*r\.hea: lead 1 \(MLII\) hardly"):
        copy.calibrate(tmp_path, false_alarm_rate=0.3)
    assert copy.model.calibrators["f32"].n == 9


def test_older_models_of_signals_open(fitted: Detector, folder: Path, tmp_path: Path) -> None:
    plan = {k: v for k, v in fitted.model.meta.preprocess.items() if k != "least"}
    old = Detector.from_model(replace(fitted.model, meta=replace(fitted.model.meta, preprocess=plan)))
    window = Window(folder / "set" / "100.hea", (1000, 2000))
    assert old.inspect(window).score == fitted.inspect(window).score
    with pytest.raises(DataError, match="does not move"):
        old.inspect(Window(spoilt(tmp_path, "r", "one lead"), (2000, 3000)))


def test_records_that_a_list_names_in_vain_are_error_lines(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(tmp_path / "db", "a", beats(8), leads=("MLII", "V1"))
    (tmp_path / "db" / "RECORDS").write_text("a\nsub/b\n")
    assert run("inspect", model, tmp_path / "db") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["image_path"]).name for line in lines] == ["a.hea", "a.hea", "b.hea"]
    assert [line["error"] is not None for line in lines] == [False, False, True]


def test_milliseconds_are_one_error_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.column_stack([np.arange(5000) * 4, beats(20)])
    write_csv(tmp_path / "ms.csv", values, "time,MLII,V1")
    assert run("inspect", model, tmp_path / "ms.csv") == 1
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "0.25 Hz" in line["error"]
    write_csv(tmp_path / "ms.csv", values, "time (ms),MLII,V1")
    assert run("inspect", model, tmp_path / "ms.csv") == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_segments_are_inspected_as_one_recording(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = beats(16, seed=4)
    write_record(tmp_path / "db", "s1", values[:2000], leads=("MLII", "V1"))
    write_record(tmp_path / "db", "s2", values[2000:], leads=("MLII", "V1"))
    (tmp_path / "db" / "m.hea").write_text("m/2 2 250 4000\ns1 2000\ns2 2000\n")
    (tmp_path / "db" / "RECORDS").write_text("m\n")
    assert run("inspect", model, tmp_path / "db") == 0
    printed = capsys.readouterr()
    assert "not" not in printed.err, "its segments and the list are no files that were passed over"
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert {Path(line["image_path"]).name for line in lines} == {"m.hea"}
    assert [line["span"] for line in lines] == [[0, 4], [4, 8], [8, 12], [12, 16]]

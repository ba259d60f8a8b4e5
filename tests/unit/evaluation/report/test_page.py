"""The report, the cases it shows, its plots, and the figures and pictures of the demo."""

from __future__ import annotations

import contextlib
import html
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from blemish.cli import demo
from blemish.data.drawing import write_png
from blemish.data.image.modality import Images
from blemish.data.image.preprocess import Preprocess
from blemish.errors import DataError
from blemish.evaluation.evaluate import evaluate
from blemish.evaluation.report import plots
from blemish.evaluation.report.cases import Cases
from blemish.evaluation.report.page import chances, judge, write_report
from blemish.evaluation.report.tables import PRODUCT, table
from blemish.evaluation.summary import Evaluation, Rate, Summary
from blemish.inspection.conformal import Calibrator
from blemish.types import AnomalyResult, Record, Region

NASTY = "<img src=x onerror=alert(1)>\"&' $title.png"
VOID = {"meta", "img", "br", "line", "circle", "path", "polygon", "polyline", "link"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps them with their attributes and the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


class Line:
    """Stands for an Inspector: the score of an image is written into its record."""

    def __init__(self, records: list[Record], calibrator: Calibrator | None, shape: tuple[int, int] = (24, 32)) -> None:
        self.calibrator, self.categories = calibrator, None
        self.known: set[str] = set()
        self.preprocess = Preprocess((256, 256))
        self.kind = Images(self.preprocess)
        self.engine = SimpleNamespace(name="openvino", precision="f32")
        self.threads, self.batch, self.shape = 2, 1, shape
        self.scores = {str(r.path): float(r.view or 0) for r in records}

    def inspect(self, path: Any) -> AnomalyResult:
        score = self.scores[str(path)]
        anomaly_map = np.zeros(self.shape, np.float32)
        anomaly_map[4:9, 5:12] = score
        known = self.calibrator
        return AnomalyResult(
            image_path=str(path),
            score=score,
            anomaly_map=anomaly_map,
            p_value=known.p_value(score) if known else None,
            threshold=known.threshold if known else None,
            map_threshold=known.map_threshold if known else None,
            regions=(Region((5, 4, 12, 9), 35, score, score),) if score > 19 else (),
            seconds=0.01,
        )

    def inspect_many(self, paths: Any, errors: bool = False) -> Any:
        return (self.inspect(p) for p in paths)


CALIBRATOR = Calibrator.fit([float(v) for v in range(1, 20)], [float(v) for v in range(1, 20)], 0.05)


def data_set(folder: Path, good: int, bad: int, *, masks: bool = False) -> list[Record]:
    """Records whose score is in `view`; the score of a good one is below 12, of a bad one between 8 and 30."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (24, 32), dtype=np.uint8)
    write_png(folder / NASTY, image)
    mask = np.zeros((24, 32), np.uint8)
    mask[4:9, 5:12] = 255
    write_png(folder / "mask" / "m.png", mask)
    records = []
    for k in range(good + bad):
        label = int(k >= good)
        path = folder / f"{k:03}.png"
        write_png(path, image)
        score = rng.uniform(8, 30) if label else rng.uniform(0, 12)
        truth = folder / "mask" / "m.png" if masks and label else None
        defect = ("scratch", "<u>hole</u>")[k % 2] if label else None
        records.append(Record(path.name, path, "test", label, truth, defect, f"type {k % 2}", view=str(score)))
    if records:
        records[-1] = replace(records[-1], id=NASTY, path=folder / NASTY, view="31")
    return records


def run(records: list[Record], calibrator: Calibrator | None = CALIBRATOR) -> tuple[Evaluation, Cases]:
    cases = Cases(calibrator, Images(Preprocess((256, 256))), each=4)
    model = {
        "method": "m<i>",
        "config": {"k": 9},
        "seed": 0,
        "training": [{"phase": "one", "precision": "f32"}, {"phase": "two", "precision": "f32"}, {"phase": "older"}],
        "backbone": {"name": "net", "identity": "net@123/2,3", "licence": "its own"},
        "data": {"learned_from": 19, "ids_sha256": "abc123"},
        "software": {"blemish": "0.1.0", "numpy": "2"},
    }
    line: Any = Line(records, calibrator)
    return evaluate(line, records, model=model, source="set & <co>", keep=cases.see), cases


def written(tmp_path: Path, evaluation: Evaluation, cases: Cases, **more: Any) -> str:
    write_report(tmp_path / "out" / "r.html", evaluation, cases=cases, **more)
    return (tmp_path / "out" / "r.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Record], Evaluation, Cases]:
    records = data_set(tmp_path_factory.mktemp("data"), 40, 30, masks=True)
    return (records, *run(records))


def test_the_report_needs_nothing_but_itself(tmp_path, example):
    source = written(tmp_path, *example[1:])
    page = Page(source)
    assert len(source) < 3_000_000
    assert not re.search(r"https?://|@import|<script|url\(", source)
    for tag, attributes in page.tags:
        assert tag != "link"
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/jpeg;base64,")
            assert attributes["alt"]
    assert "$" not in page.text.replace("$title.png", "")


def test_names_of_files_defects_and_data_are_only_text(tmp_path, example):
    source = written(tmp_path, *example[1:])
    page = Page(source)
    assert NASTY in page.text
    assert "<u>hole</u>" in page.text
    assert html.escape(NASTY) in source
    assert not {"u", "i", "co"} & {tag for tag, _ in page.tags}
    assert not any(tag == "img" and attributes.get("src") == "x" for tag, attributes in page.tags)
    assert "set & <co>" in page.text
    assert "m<i>" in page.text


def test_the_report_says_what_the_model_was_trained_in(tmp_path, example):
    assert "<dt>Trained in</dt><dd>f32</dd>" in written(tmp_path, *example[1:])


def test_the_report_says_what_is_known_of_the_licence(tmp_path, example):
    assert "<dt>Licence of its weights</dt><dd>its own</dd>" in written(tmp_path, *example[1:])


def test_the_report_says_what_was_measured(tmp_path, example):
    _, evaluation, cases = example
    text = Page(written(tmp_path, evaluation, cases, others={"apart": evaluation})).text
    missed, area = evaluation.overall.escapes, evaluation.overall.image.auroc
    assert f"Of 30 defective parts, {30 - missed.count} were found: {100 - 100 * missed.value:.1f}%" in text
    assert f"(interval {100 - 100 * missed.high:.1f}% to {100 - 100 * missed.low:.1f}%)" in text
    assert "Of 40 good parts that the model had never seen, 0 were rejected: 0.0%" in text
    assert "Promised: at most 5%, from 19 held-out good images" in text
    assert f"{area.value:.3f}{area.low:.3f} to {area.high:.3f}" in text
    assert f"{evaluation.overall.pixel.aupro_0_3.value:.3f}" in text
    for word in ("abc123", "net@123/2,3", "k=9", "numpy 2", "apart", "type 1", "scratch", "256x256", "f32"):
        assert word in text
    assert text.count("By type of defect") == 1


@pytest.mark.parametrize(("kind", "source"), [("cross", " in folds"), ("leave_one_out", ", each left out once")])
def test_what_was_learned_is_no_promise(tmp_path, kind, source):
    folds = replace(CALIBRATOR, kind=kind)
    text = Page(written(tmp_path, *run(data_set(tmp_path / "d", 6, 5), folds))).text
    assert f"Aimed at: about 5%, from 19 good images{source}." in text
    assert "promise was kept" not in text


def test_a_model_without_threshold_gets_a_report_that_says_so(tmp_path):
    records = data_set(tmp_path / "d", 6, 5)
    text = Page(written(tmp_path, *run(records, None))).text
    assert "The model has no threshold" in text
    assert "Lowest-scoring defective parts" in text
    assert "rejected:" not in text
    assert "Nearest to the threshold" not in text
    assert "Good rejected" not in text


@pytest.mark.parametrize(("good", "bad"), [(5, 0), (0, 5), (1, 1)])
def test_one_class_or_one_image_of_each_is_enough(tmp_path, good, bad):
    records = data_set(tmp_path / "d", good, bad)
    with contextlib.nullcontext() if good else pytest.warns(UserWarning, match="no test image is a good one"):
        evaluation, cases = run(records)
    assert "inspection" in Page(written(tmp_path, evaluation, cases, title="An inspection")).text


def test_cases_are_the_ones_their_names_promise(example):
    records, evaluation, cases = example
    threshold, samples = CALIBRATOR.threshold, evaluation.samples
    bad, good = ([s for s in samples if s.label == label] for label in (1, 0))
    expected = {
        "found": sorted((s for s in bad if s.score > threshold), key=lambda s: -s.score)[:4],
        "missed": sorted((s for s in bad if s.score <= threshold), key=lambda s: s.score)[:4],
        "false_alarms": [],
        "just_above": sorted((s for s in samples if s.score > threshold), key=lambda s: s.score)[:2],
        "just_below": sorted((s for s in samples if s.score <= threshold), key=lambda s: -s.score)[:2],
    }
    for kind, chosen in expected.items():
        assert [case.sample.score for case in cases.of(kind)] == [s.score for s in chosen]
        assert not chosen or chosen[0].id == cases.of(kind)[0].name
    assert len(cases.of("good")) == 4
    assert all(case.masked for case in cases.of("found"))


def test_good_parts_are_drawn_by_lot_in_any_order(tmp_path):
    records = data_set(tmp_path, 30, 1)
    names = [{case.name for case in run(part)[1].of("good")} for part in (records, records[::-1])]
    assert names[0] == names[1]
    scores = sorted(float(r.view or 0) for r in records if not r.label)
    kept = sorted(case.sample.score for case in run(records)[1].of("good"))
    assert kept not in (scores[:4], scores[-4:])


def test_only_the_cases_kept_are_drawn(tmp_path, monkeypatch):
    records = data_set(tmp_path, 200, 0)
    drawn = []
    real = Cases._case
    monkeypatch.setattr(Cases, "_case", lambda self, r, x: drawn.append(r.id) or real(self, r, x))
    run(records)
    assert len(drawn) < 60


def test_chances_are_those_of_conformal_prediction():
    assert chances(CALIBRATOR, 1, 1) == pytest.approx((0.05, 1.0))
    rng = np.random.default_rng(0)
    held, new = np.sort(rng.random((20000, 19)), axis=1), rng.random((20000, 30))
    rejected = (new > held[:, 18:]).sum(axis=1)
    for count in (0, 2, 5):
        at_least, at_most = chances(CALIBRATOR, count, 30)
        assert at_least == pytest.approx((rejected >= count).mean(), abs=0.01)
        assert at_most == pytest.approx((rejected <= count).mean(), abs=0.01)


@pytest.mark.parametrize(
    ("count", "status", "word"),
    [
        (0, "warn", "stricter than needed"),
        (40, "ok", "was kept"),
        (70, "ok", "chance"),
        (120, "fail", "More good parts"),
    ],
)
def test_a_promise_is_judged_with_what_chance_allows(count, status, word):
    values = [float(v) for v in range(400)]
    overall = Summary(1000, 0, false_alarms=Rate.measured(count, 1000, 0.05))
    given, sentence = judge(overall, Calibrator.fit(values, values, 0.05))
    assert given == status
    assert word in sentence


def test_the_histogram_holds_every_image_and_cuts_a_long_tail():
    drawn = plots.histogram([1.0, 2.0, 2.0], [3.0, 4.0], 2.5)
    assert "threshold 2.5" in drawn
    assert "and above" not in drawn
    values = [float(v) for v in np.linspace(0, 1, 200)]
    assert "and above" in plots.histogram(values, [1e6], 0.9)
    assert "nan" not in plots.histogram([1.0, 1.0], [], None)


def test_the_roc_curve_keeps_its_area_without_the_points_between():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 300)
    scores = np.concatenate([rng.normal(0, 1, 300), rng.normal(1, 1, 300)])
    curve = plots.roc_curve(labels, scores)
    xs, ys = map(np.asarray, plots._corners(curve.fpr, curve.tpr))
    assert len(xs) < 0.8 * len(curve.fpr)
    area, whole = ((np.diff(x) * (y[1:] + y[:-1])).sum() / 2 for x, y in ((xs, ys), (curve.fpr, curve.tpr)))
    assert area == pytest.approx(whole)
    drawn = plots.roc(labels.tolist(), scores.tolist(), (0.04, 0.7), (0.05, "at most 5%"))
    assert "70% found" in drawn
    assert "at most 5%" in drawn


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 17), (1e-7, 3e-7), (0.999, 1.001)])
def test_ticks_are_few_and_inside(low, high):
    ticks = plots._ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_the_demo_shows_a_middling_good_part_and_each_type_of_defect(example):
    records, evaluation, _ = example
    chosen = demo.choose(records, evaluation, 4)
    good = sorted(float(r.view or 0) for r in records if not r.label)
    assert [r.label for r in chosen] == [0, 1, 1, 1]
    assert float(chosen[0].view or 0) == good[20]
    assert {r.defect for r in chosen[1:3]} == {"scratch", "<u>hole</u>"}
    assert all(float(r.view or 0) > CALIBRATOR.threshold for r in chosen[1:])


def test_a_contact_sheet_has_room_for_every_picture(example):
    records, _, _ = example
    line: Any = Line(records, CALIBRATOR)
    two, four = (demo.heatmap_sheet(line, records[:n]) for n in (2, 4))
    assert four.shape[0] > two.shape[0]
    assert two.dtype == np.uint8
    assert (two == 255).mean() < 0.9
    with pytest.raises(DataError):
        demo.heatmap_sheet(line, [])


def test_the_demo_prints_a_line_for_each_model(example):
    _, evaluation, _ = example
    timing = replace(evaluation.timing, **dict.fromkeys(demo.STAGES, 1.0))
    made = demo.Demo(
        "set", "m", replace(evaluation, timing=timing), {"mono": evaluation}, "Kept.", {"report": Path("r")}
    )
    out = StringIO()
    demo.show(made, Console(file=out, width=160))
    for word in (
        "mono",
        "all",
        "5.0%",
        "Kept.",
        "graph 1 ms",
        "report: r",
        f"{evaluation.overall.image.auroc.value:.3f}",
    ):
        assert word in out.getvalue()
    assert made.to_json()["others"]["mono"]["overall"]["good"] == 40


def test_a_demo_needs_test_images(tmp_path):
    write_png(tmp_path / "good" / "a.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match="no test images") as error:
        demo.run_demo(tmp_path / "good", tmp_path / "out")
    assert error.value.hint
    assert not (tmp_path / "out").exists()


def test_the_inspecting_side_of_it_loads_no_torch():
    code = "import sys, blemish.cli.demo, blemish.evaluation.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_how_well_products_are_told_apart() -> None:
    share = Rate(0.75, 0.5, 0.9, 3, 4)
    text = table([("All", Summary(4, 4, routed_good=share, unknown_anomalous=share))], PRODUCT)
    assert "Told right, good" in text
    assert "75.0%" in text
    assert "Told right, defective" not in text

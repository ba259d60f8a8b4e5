"""An evaluation as one self-contained HTML file: no network, no script, to be read on screen or printed."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from blemish.data.drawing import colours
from blemish.evaluation.report import plots
from blemish.evaluation.report.cases import Case, Cases
from blemish.evaluation.report.tables import (
    DEFECT,
    IMAGE,
    PIXEL,
    PRODUCT,
    candidates,
    interval,
    percent,
    settings,
    share,
    table,
)
from blemish.evaluation.summary import DefectSummary, Evaluation, Masks, Summary, cut_at
from blemish.files import write_whole
from blemish.inspection.conformal import Calibrator


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    *,
    cases: Cases,
    title: str | None = None,
    others: Mapping[str, Evaluation] | None = None,
) -> None:
    """Write the report of an evaluation; the file appears whole or not at all.

    `cases` has seen the same run (`evaluate(..., keep=cases.see)`). `others` are evaluations of further models, by
    name, shown in one table beside this one. Everything that comes from file names is escaped. DataError where the
    file cannot be written.
    """
    model, setting, overall = evaluation.model, evaluation.setting, evaluation.overall
    shown = title or f"Inspection report: {Path(str(setting.source)).name}"
    tested = overall.good + overall.anomalous
    subtitle = (
        f"Method {model.get('method', '?')} on {model.get('backbone', {}).get('name', '?')}, network input "
        f"{setting.network_input}, learned from good images only; {tested:,} test images"
    )
    body = [
        _tiles(evaluation, cases.calibrator),
        _headline(overall, cases.calibrator, setting.seen_before),
        _plots(evaluation, _promised(cases.calibrator)),
        _results(evaluation),
        _others(others or {}),
        _by_defect(evaluation.by_defect),
        _galleries(cases),
        candidates(evaluation),
        settings(evaluation),
    ]
    write_page(path, shown, subtitle, body, str(model.get("software", {}).get("blemish", "")))


def write_page(path: str | Path, title: str, subtitle: str, body: Sequence[str], version: str) -> None:
    """A self-contained page in the style of the reports; `body` are sections of HTML. DataError as `write_report`."""
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = Template(files(__package__).joinpath("template.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        body="\n".join(body),
        footer=f"Written by Blemish {escape(version)} on {written}.",
    )
    write_whole(path, page.encode("utf-8", "backslashreplace"))  # a file's name may be no text


def chances(calibrator: Calibrator, rejected: int, good: int) -> tuple[float, float]:
    """(P(at least), P(at most) `rejected` of `good` new good parts) where they are exchangeable with the held-out ones.

    Beta-binomial: the rate of one threshold scatters with the n held-out scores it came from, the count about the rate.
    """
    a, b = calibrator.above + 1, calibrator.n - calibrator.above

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    def chance(k: int) -> float:
        choose = -math.log(good + 1) - log_beta(k + 1, good - k + 1)
        return math.exp(choose + log_beta(k + a, good - k + b) - log_beta(a, b))

    most = math.fsum(chance(k) for k in range(rejected + 1))
    return max(0.0, 1 - most + chance(rejected)), min(1.0, most)


def judge(overall: Summary, calibrator: Calibrator | None, seen: int = 0) -> tuple[str, str]:
    """Whether the promise held: ("ok" | "warn" | "fail", the sentence for people); `seen` test images were known."""
    alarms = overall.false_alarms
    if calibrator is None or not alarms:
        what = "The model has no threshold" if calibrator is None else "The test set holds no good part"
        return "warn", f"{what}, so no promise about false alarms could be checked."
    if seen:
        return "warn", (
            f"{seen:,} of the test images were learned or calibrated from: what follows says nothing about new parts."
        )
    if not calibrator.exact:  # folds and units scatter differently from images, so no probability is computed
        kept = alarms.value <= calibrator.alpha
        return ("ok", "The rate aimed at was kept.") if kept else ("warn", "The rate aimed at was exceeded.")
    at_least, at_most = chances(calibrator, alarms.count, alarms.of) if not calibrator.units else (1.0, 1.0)
    if at_least < 0.025 and alarms.value > calibrator.alpha:
        return "fail", (
            "More good parts were rejected than promised, and chance does not explain it: these good parts "
            "differ from the ones that the threshold came from. Calibrate again with good parts of this station."
        )
    if at_most < 0.025:
        return "warn", (
            "The rate was kept, but the threshold is stricter than needed: far fewer good parts were rejected than "
            "allowed, because held-out good parts scored higher than these. This costs missed defects. Calibrate "
            "again with good parts of this station."
        )
    if alarms.value <= calibrator.alpha:
        return "ok", "The promise was kept."
    return "ok", "The rate is a little above the promised one, within what chance allows for this number of images."


def _headline(overall: Summary, calibrator: Calibrator | None, seen: int) -> str:
    status, sentence = judge(overall, calibrator, seen)
    parts = [f"<p><strong>{sentence}</strong></p>"]
    alarms, found = overall.false_alarms, overall.found
    if alarms:
        origin = ""
        if calibrator is not None:
            origin = f" {_promised(calibrator).capitalize()}, from {calibrator.source}."
        parts.append(
            f"<p>Of {alarms.of:,} good parts{'' if seen else ' that the model had never seen'}, "
            f"{alarms.count:,} were rejected: "
            f"{share(alarms)}.{origin}</p>"
        )
    if found:
        passed = found.of - found.count
        parts.append(
            f"<p>Of {found.of:,} defective parts, {found.count:,} were found: {share(found)}. "
            f"{passed:,} passed as good.</p>"
        )
    parts.append('<p class="note">Intervals in this report hold the true value with 95% confidence.</p>')
    return f'<section class="whole verdict {status}">{"".join(parts)}</section>'


def _promised(calibrator: Calibrator | None) -> str:
    """Without a theorem nothing is guaranteed."""
    if calibrator is None:
        return ""
    words = "promised: at most" if calibrator.exact else "aimed at: about"
    certain = "" if calibrator.confidence is None else f"{100 * calibrator.confidence:.6g}% sure, "
    return f"{certain}{words} {100 * calibrator.alpha:.3g}%"


def _tiles(evaluation: Evaluation, calibrator: Calibrator | None) -> str:
    overall, milliseconds = evaluation.overall, evaluation.timing.milliseconds_per_image
    tiles = []
    if alarms := overall.false_alarms:
        tiles.append(("Good parts rejected", percent(alarms.value), _promised(calibrator)))
    if found := overall.found:
        tiles.append(("Defects found", percent(found.value), f"{found.count:,} of {found.of:,} parts"))
    if image := overall.image:
        area = image.auroc
        tiles.append(("Image AUROC", f"{area.value:.3f}", f"interval {interval(area)}; 1 is perfect, 0.5 is chance"))
    threads = evaluation.timing.threads
    beside = f"median, {threads} at a time on {threads} CPU cores" if threads > 1 else "median on one CPU core"
    tiles.append(("Time per image", f"{milliseconds:.3g} ms", beside))
    cells = [f'<div class="tile"><h2>{n}</h2><p class="big">{v}</p><p class="soft">{s}</p></div>' for n, v, s in tiles]
    return f'<div class="tiles">{"".join(cells)}</div>'


def _plots(evaluation: Evaluation, promise: str) -> str:
    samples, overall = evaluation.samples, evaluation.overall
    threshold = evaluation.setting.threshold
    good = [s.score for s in samples if s.label == 0]
    bad = [s.score for s in samples if s.label == 1]
    out = [
        "<section><h2>Scores</h2>"
        '<p class="note"><span class="key good"></span>good parts &nbsp; <span class="key bad"></span>defective parts'
        + ("" if threshold is None else f"; {_right(evaluation)}")
        + "</p>"
        + plots.histogram(good, bad, threshold)
        + "</section>"
    ]
    if overall.image is not None:
        alarms, found, area = overall.false_alarms, overall.found, overall.image.auroc
        rate = evaluation.setting.promised_rate
        point = (alarms.value, found.value) if alarms and found else None
        promised = None if point is None or rate is None else (rate, promise)
        labels, scores = [s.label for s in samples], [s.score for s in samples]
        out.append(
            f'<section><h2>What each threshold would do</h2><p class="note">ROC curve; area {area.value:.3f}, '
            f"interval {interval(area)}</p>{plots.roc(labels, scores, point, promised)}</section>"
        )
    return f'<div class="plots">{"".join(out)}</div>'


def _right(evaluation: Evaluation) -> str:
    """What lies right of the threshold."""
    preprocess, calibration = evaluation.model.get("preprocess", {}), evaluation.model.get("rules")
    if preprocess.get("areas") or calibration:
        return "the threshold is that of the score alone, and areas or rules decide"
    return "what lies right of the threshold is rejected"


def _results(evaluation: Evaluation) -> str:
    rows = [("All", evaluation.overall), *evaluation.by_category.items()]
    pixels = [(name, each) for name, each in rows if each.pixel is not None]
    parts = [table(rows, IMAGE)]
    if pixels:
        parts.append(table(pixels, PIXEL, "Where the defects are"))
    if any(cell(each) for _, each in rows for _, cell in PRODUCT):
        parts.append(table(rows, PRODUCT, "Which product it is"))
    note = (
        "F1max takes the threshold that is best on these very images: an upper limit, not a promise. Interval of "
        "AUROC: DeLong, of AP and of pixel metrics: bootstrap, of shares: Wilson."
    )
    if (said := cut_at(evaluation)) is not None:
        note += f" {escape(said)}."
    if pixels:
        note += f" Pixel metrics: {escape(evaluation.setting.pixel_metrics_in)}."
        masks = evaluation.setting.masks or Masks()
        if out := masks.missing + masks.unusable:
            note += f" They leave out {out:,} of {masks.total:,} defective parts, whose masks are not known."
    return f'<section class="whole"><h2>Results</h2>{"".join(parts)}<p class="note">{note}</p></section>'


def _others(others: Mapping[str, Evaluation]) -> str:
    if not others:
        return ""
    return (
        "<section><h2>One model for each product</h2><p>The same method, learned apart for "
        f"each.</p>{table([(name, e.overall) for name, e in others.items()], IMAGE)}</section>"
    )


def _by_defect(by_defect: Mapping[str, DefectSummary]) -> str:
    if len(by_defect) < 2:
        return ""
    rows = table(list(by_defect.items()), DEFECT)
    return f"<section><h2>By type of defect</h2><p>Each type against all good parts.</p>{rows}</section>"


GALLERIES = (
    (("found",), "Found defects", "Defective parts that were rejected, highest scores first."),
    (("missed",), "Missed defects", "Defective parts that passed, those that look most like good parts first."),
    (("false_alarms",), "False alarms", "Good parts that were rejected, highest scores first."),
    (("just_above", "just_below"), "Nearest to the threshold", "The closest decisions, first above it, then below."),
    (("good",), "Good parts", "Chosen at random, whatever their score."),
)
WITHOUT_THRESHOLD = {
    "Missed defects": ("Lowest-scoring defective parts", "Those that look most like good parts."),
    "False alarms": ("Highest-scoring good parts", "Those that look most like defective ones."),
    "Found defects": ("Highest-scoring defective parts", "The model has no threshold, so nothing was rejected."),
}


def _galleries(cases: Cases) -> str:
    out = [_legend(cases)]
    for kinds, heading, text in GALLERIES:
        if cases.calibrator is None:
            if "just_above" in kinds:
                continue
            heading, text = WITHOUT_THRESHOLD.get(heading, (heading, text))
        shown = [case for kind in kinds for case in cases.of(kind)]
        figures = "".join(map(_figure, shown))
        inner = (
            f'<ul class="cases{" wide" if cases.kind.wide else ""}">{figures}</ul>'
            if shown
            else '<p class="soft">None.</p>'
        )
        out.append(f'<section class="whole"><h2>{heading}</h2><p class="soft">{text}</p>{inner}</section>')
    return "".join(out)


def _legend(cases: Cases) -> str:
    kind = cases.kind
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in colours(np.linspace(0, 1, 9)))
    bar = f'<div class="bar" style="background:linear-gradient(90deg,{stops})"></div>'
    if cases.scale is not None and cases.calibrator is not None:
        low, high = cases.scale
        middle, threshold = cases.calibrator.colour_threshold, cases.calibrator.map_threshold
        ends = f"<span>{low:.3g}</span><span>{middle:.3g}</span><span>{high:.3g}</span>"
        text = (
            f"All heat maps share one scale, so a calm picture is a calm {kind.part}: colour starts at {low:.3g}, the "
            f"highest value in the map of an average good {kind.part}. {kind.found} above the map threshold of "
            f"{threshold:.3g}: {cases.calibrator.region_promise}."
        )
    else:
        ends = "<span>median of the map</span><span></span><span>its highest value</span>"
        text = "The model is not calibrated: each heat map has a scale of its own, so colours do not compare."
    text += f" {kind.marked}" if _outlined(cases) else ""
    return (
        '<section class="whole"><h2>How to read the pictures</h2>'
        f'<p>{kind.legend} {text}</p>{bar}<div class="ends">{ends}</div></section>'
    )


def _outlined(cases: Cases) -> bool:
    return any(case.masked for kinds, _, _ in GALLERIES for kind in kinds for case in cases.of(kind))


def _figure(case: Case) -> str:
    sample = case.sample
    truth = "good" if not sample.label else "defective"
    kind = f" ({escape(sample.defect)})" if sample.defect and sample.defect != "defective" else ""
    p = "" if sample.p_value is None else f", p-value {sample.p_value:.2g}"
    scored = f"score {sample.score:.4g}" if sample.alarm is None else escape(sample.alarm)
    chip = ""
    if sample.verdict is not None:
        right = (sample.verdict != "good") == bool(sample.label)
        outcome = {"anomalous": "rejected", "unknown": "unknown product", "good": "passed"}[sample.verdict]
        chip = f' <span class="chip {"ok" if right else "fail"}">{outcome}</span>'
    name, found = escape(case.name), f"<br>{escape(case.found)}" if case.found else ""
    caption = f"<b>{name}</b><br>{truth}{kind}{chip}<br>{scored}{p}{found}"
    alt = f"{name}: the part and its heat map; {truth}{kind}, {scored}"
    data = b64encode(case.picture).decode()
    return (
        f'<li><figure><div class="frame"><img src="data:image/jpeg;base64,{data}" alt="{alt}"></div>'
        f"<figcaption>{caption}</figcaption></figure></li>"
    )

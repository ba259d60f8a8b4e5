"""What a fit refuses to promise, and how it chooses the number format: by what the model makes of held-out images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish.config import build
from blemish.detector import Detector
from blemish.errors import CalibrationError
from blemish.inspection import calibrate as scores
from blemish.inspection import inspector, modelfile
from blemish.inspection.calibrate import MOVED, RANK, chosen_format, compared
from blemish.inspection.engines import Outputs
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model
from blemish.inspection.open import open_model
from blemish.learning.fit import fit
from blemish.learning.options import FitOptions
from blemish.types import Record
from tests.fakes import FakeBackbone, write_images
from tests.tiny import RATE, fit_tiny

pytestmark = pytest.mark.numeric
Change = Callable[[Any, Outputs, str], Outputs]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return write_images(tmp_path_factory.mktemp("refusals"), 24)


def changed(patch: pytest.MonkeyPatch, change: Change, formats: tuple[str, ...] = ("f32", "bf16")) -> None:
    """As on a processor with these formats whose engines give something else; float32 arithmetic behind all of them."""

    class Engine:
        name = "openvino"

        def __init__(self, inner: Any, precision: str) -> None:
            self.inner, self.precision = inner, precision

        def __call__(self, samples: Any) -> Outputs:
            return change(samples, self.inner(samples), self.precision)

    def open_(model: Model, name: str = "openvino", *, precision: Any = "f32", **more: Any) -> Any:
        return Engine(open_model(model, name, **more), precision)

    for module in (scores, inspector):
        patch.setattr(module, "open_model", open_)
    patch.setattr(scores, "formats", lambda: formats)


def moved(by: float) -> Change:
    """In bf16 scores are off by a share, up and down by what the image shows."""

    def change(samples: Any, outputs: Outputs, precision: str) -> Outputs:
        sign = 1 if int(np.asarray(samples).sum()) % 2 else -1
        factor = np.float32(1 + sign * by) if precision == "bf16" else np.float32(1)
        return (outputs[0] * factor, *outputs[1:])

    return change


def test_two_formats_are_compared_by_score_and_by_rank() -> None:
    exact = list(np.linspace(1, 3, 101))
    assert compared([exact]) == {}
    assert compared([[], []]) == {}
    same = compared([exact, exact])
    assert (same["moved"], same["rank"], same["images"], same["harmless"]) == (0, pytest.approx(1), 101, True)
    assert compared([exact, [s + 0.9 * MOVED * 2 for s in exact]])["harmless"]
    far = compared([exact, [*exact[:-1], exact[-1] + 1.1 * MOVED * 2]])
    assert far["moved"] == pytest.approx(1.1 * MOVED)
    assert not far["harmless"]
    tight = [1 + i * 1e-6 for i in range(100)]  # near scores that change places: no score moves far
    swapped = compared([[*tight, 3.0], [*tight[::-1], 3.0]])
    assert swapped["moved"] < MOVED
    assert swapped["rank"] < RANK
    assert not swapped["harmless"]
    assert swapped["limit"] == {"moved": MOVED, "rank": RANK}


def test_ranks_are_spearmans() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = np.random.default_rng(0).integers(0, 9, (2, 50)).astype(float)
    assert compared([list(a), list(b)])["rank"] == pytest.approx(stats.spearmanr(a, b)[0])


def test_scores_that_do_not_vary_agree_in_nothing() -> None:
    assert not compared([[1.0, 1.0], [1.0, 1.0]])["harmless"]


@pytest.mark.parametrize(("requested", "harmless", "taken"), [
    ("auto", True, "bf16"), ("auto", False, "f32"), ("auto", None, "f32"), ("f32", True, "f32"),
    ("bf16", False, "bf16"), ("bf16", None, "bf16"),
])  # fmt: skip
def test_the_format_that_is_taken(requested: str, harmless: bool | None, taken: str) -> None:
    assert chosen_format(requested, {} if harmless is None else {"harmless": harmless}) == taken


@pytest.mark.parametrize(("by", "taken"), [(1e-6, "bf16"), (0.2, "f32")])
@pytest.mark.parametrize("calibration", ["split", "folds"])
def test_auto_takes_the_short_format_where_it_is_harmless(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch, by: float, taken: str, calibration: str
) -> None:
    changed(monkeypatch, moved(by))
    model = fit_tiny(tmp_path, records, calibration=calibration)
    assert model.meta.precision == taken
    formats = model.parity["formats"]
    assert formats["harmless"] == (taken == "bf16")
    assert formats["images"] == model.calibrators["f32"].n
    assert set(model.calibrators) == {"f32", "bf16"}
    modelfile.save(model, tmp_path / "m")
    assert modelfile.load(tmp_path / "m").parity["formats"] == formats


def test_without_evidence_it_stays_float32(tmp_path: Path, records: list[Record]) -> None:
    model = fit_tiny(tmp_path, records, calibration="none")
    assert model.meta.precision == "f32"
    assert model.parity["formats"] == {}


def test_calibrating_on_another_processor_chooses_anew(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = write_images(tmp_path / "fresh", 12, first=400)
    changed(monkeypatch, moved(1e-6))
    detector = Detector.from_model(fit_tiny(tmp_path, records))
    assert detector.model.meta.precision == "bf16"
    with pytest.MonkeyPatch.context() as patch:
        changed(patch, moved(0.2))
        assert detector.calibrate(fresh, false_alarm_rate=RATE).model.meta.precision == "f32"
    forced = replace(detector.model, run={**detector.model.run, "precision": "bf16"})
    assert Detector.from_model(forced).calibrate(fresh, false_alarm_rate=RATE).model.meta.precision == "bf16"


def flat(_: Any, outputs: Outputs, __: str) -> Outputs:
    return (np.full_like(outputs[0], 3.5), *outputs[1:])


def blind_to_grey(samples: Any, outputs: Outputs, _: str) -> Outputs:
    plain = np.ptp(samples, axis=(1, 2, 3)) == 0
    score, anomaly_map, *vote = outputs
    if vote:  # and it is no stranger than good ones
        vote[1] = np.where(plain, np.float32(0), vote[1])
    return (np.where(plain, np.float32(-1), score), anomaly_map, *vote)


@pytest.mark.parametrize(
    ("change", "message"), [(flat, "all have the score 3.5"), (blind_to_grey, "plain grey picture")]
)
@pytest.mark.parametrize("options", [
    {"calibration": "split"}, {"calibration": "folds"}, {"multi_class": True},
    {"method": "dfc", "options": {"head": "padim", "shots": 4, "anchors": 4}},
])  # fmt: skip
def test_a_model_that_sees_nothing_gets_no_promise(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch, change: Change, message: str, options: Any
) -> None:
    changed(monkeypatch, change, ("f32",))
    monkeypatch.setattr("blemish.learning.export.certify", lambda *_: {})  # the reference would be as blind
    with pytest.raises(CalibrationError, match=message) as caught:
        fit_tiny(tmp_path, records, **options)
    assert caught.value.hint


@pytest.mark.parametrize("change", [flat, blind_to_grey])
def test_nor_does_one_that_leaves_images_out(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    """Left-out scores come from the method; what runs is asked for a plain picture."""
    changed(monkeypatch, change, ("f32",))
    monkeypatch.setattr("blemish.learning.export.certify", lambda *_: {})
    with pytest.raises(CalibrationError, match="plain grey picture"):
        fit_tiny(tmp_path, records, calibration="leave_one_out")


@pytest.mark.parametrize(
    ("change", "message"), [(flat, "all have the score 3.5"), (blind_to_grey, "plain grey picture")]
)
def test_nor_does_it_get_one_afterwards(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch, change: Change, message: str
) -> None:
    detector = Detector.from_model(fit_tiny(tmp_path, records))
    before = detector.promise
    changed(monkeypatch, change, ("f32",))
    with pytest.raises(CalibrationError, match=message):
        detector.calibrate(write_images(tmp_path / "fresh", 12, first=400), false_alarm_rate=RATE)
    assert detector.promise == before


def test_a_good_model_calls_a_plain_picture_anomalous(tmp_path: Path, records: list[Record]) -> None:
    line = Inspector(fit_tiny(tmp_path, records), threads=1)
    blank = line.kind.blank()
    assert isinstance(blank, np.ndarray)
    assert line.inspect(blank).verdict == "anomalous"
    assert blank.shape == (*line.kind.size, 3)


def test_the_ledger_measures_a_weak_model_all_the_same(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(monkeypatch, blind_to_grey, ("f32",))
    options = build(
        FitOptions, {"method": "padim", "backbone": "fake", "image_size": "64x48", "false_alarm_rate": RATE}
    )
    assert fit(records, options, backbone=FakeBackbone(), blind=True).promise

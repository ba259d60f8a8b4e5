"""A confidence on its way: fit, calibrate, adapt, several products, the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blemish.cli.app import app
from blemish.detector import Detector
from blemish.errors import CalibrationError, ConfigError
from blemish.inspection.modelfile import Model
from blemish.learning.options import FitOptions
from blemish.learning.splits import hold_out, plan_calibration
from blemish.methods import get
from blemish.types import Record
from tests.fakes import FakeBackbone, write_images
from tests.tiny import RATE, fit_tiny

SURE = 0.8  # at the rate 0.2 it takes 8 good images: 1 - 0.8 ** 8 = 0.83
SENTENCE = "80 % sure: at most 20 % of good parts rejected, from"


@pytest.fixture(scope="module")
def certain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return fit_tiny(tmp_path_factory.mktemp("certain"), confidence=SURE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return fit_tiny(tmp_path_factory.mktemp("plain"))


def detector(model: Model) -> Detector:
    return Detector.from_model(model, backbone=FakeBackbone())


def records(count: int, *, unit: int = 1) -> list[Record]:
    return [
        Record(f"{i}", Path(f"{i}.png"), split="train", unit=f"u{i // unit}" if unit > 1 else None)
        for i in range(count)
    ]


def options(**given: object) -> FitOptions:
    return FitOptions(**{"method": "padim", "false_alarm_rate": RATE, "confidence": SURE, **given})  # type: ignore[arg-type]


def test_fit_holds_out_what_it_takes(certain: Model, plain: Model) -> None:
    calibrators = list(certain.calibrators.values())
    assert {(c.kind, c.n, c.confidence) for c in calibrators} == {("split", 8, SURE)}
    assert certain.promise == f"{SENTENCE} 8 held-out good images"
    assert plain.promise == "at most 0.2 of good parts rejected, from 4 held-out good images"
    assert certain.run["confidence"] == SURE


def test_auto_holds_out_where_half_as_many_are_left_and_never_folds() -> None:
    for count, held in ((12, 8), (30, 8), (50, 10)):
        split = plan_calibration(records(count), options(), get("padim"))
        assert (split.kind, len(split.held), len(split.learn)) == ("split", held, count - held)
    with pytest.warns(UserWarning, match=r"confidence 0.8.* 8 good images that are held out beside 4"):
        split = plan_calibration(records(11), options(), get("padim"))
    assert (split.kind, len(split.learn)) == (None, 11)
    with pytest.raises(CalibrationError, match=r"confidence 0.8 by split"):
        plan_calibration(records(30), options(calibration="split"), get("padim"))  # a fifth are 6
    assert plan_calibration(records(11), options(confidence=None), get("padim")).kind == "leave_one_out"


def test_several_thresholds_and_a_lower_region_rate_take_more() -> None:
    alone, areas, regions = options(), options(), options(region_rate=0.1)
    assert (alone.needed(), areas.needed(3), regions.needed()) == (8, 21, 16)
    assert (replace(alone, confidence=None).needed(), replace(alone, confidence=None).needed(3)) == (4, 14)


@pytest.mark.parametrize("calibration", ["leave_one_out", "folds"])
def test_what_learns_from_all_images_is_refused(calibration: str) -> None:
    with pytest.raises(ConfigError, match="learns from all images") as raised:
        options(calibration=calibration)
    assert "split" in str(raised.value.hint)


def test_a_confidence_out_of_its_range_is_refused(plain: Model) -> None:
    with pytest.raises(ConfigError, match="confidence has to be"):
        options(confidence=95)
    with pytest.raises(ConfigError, match="confidence has to be"):
        detector(plain).calibrate(confidence=95)


@pytest.mark.parametrize("of_several", [False, True])
def test_images_of_units_are_refused_before_anything_is_learned(of_several: bool) -> None:
    good = records(60, unit=2)

    def plan(given: FitOptions) -> int:
        part = hold_out(good, [], given) if of_several else plan_calibration(good, given, get("padim"))
        return len({r.unit for r in part.held})

    with pytest.raises(CalibrationError, match="several show one thing") as raised:
        plan(options())
    assert "--promise-per unit" in str(raised.value.hint)
    assert plan(options(promise_per="unit")) == 8


def test_without_a_confidence_the_digest_of_a_result_is_what_it_was() -> None:
    from blemish.learning.options import OPTIONS

    assert OPTIONS["confidence"].later


def test_calibrate_promises_it_and_later_ones_keep_it(plain: Model, tmp_path: Path) -> None:
    write_images(tmp_path / "new", 12, first=300)
    made = detector(plain).calibrate(tmp_path / "new", false_alarm_rate=RATE, confidence=SURE)
    assert made.promise == f"{SENTENCE} 12 held-out good images"
    assert str(made.region_promise).startswith("80 % sure: at most 20 % of good images show a region")
    made.save(tmp_path / "m")
    read = Detector.load(tmp_path / "m")
    assert read.promise == made.promise
    assert read.calibrate(false_alarm_rate=0.3).promise == "80 % sure: at most 30 % of good parts rejected, from " + (
        "12 held-out good images"
    )
    assert read.calibrate(tmp_path / "new", false_alarm_rate=RATE).promise == made.promise
    with pytest.raises(CalibrationError, match=r"12 good images cannot promise .* with confidence 0.99"):
        read.calibrate(tmp_path / "new", false_alarm_rate=RATE, confidence=0.99)
    assert read.promise == made.promise  # as it was


def test_what_was_held_out_in_fit_can_be_made_certain(certain: Model, plain: Model) -> None:
    assert detector(certain).calibrate(false_alarm_rate=0.25, confidence=0.85).model.confidence == 0.85
    with pytest.raises(CalibrationError, match="4 good images cannot promise"):
        detector(plain).calibrate(false_alarm_rate=RATE, confidence=SURE)


@pytest.mark.parametrize("calibration", ["auto", "leave_one_out"])
def test_an_adapted_model_keeps_what_calibrate_promised(calibration: str, plain: Model, tmp_path: Path) -> None:
    """Although fit promised on average; from images that are held out, whatever fit did."""
    write_images(tmp_path / "calibrate", 12, first=300)
    write_images(tmp_path / "adapt", 50 if calibration == "leave_one_out" else 20, first=600)
    asked = replace(plain, run={**plain.run, "calibration": calibration})
    made = detector(asked).calibrate(tmp_path / "calibrate", false_alarm_rate=RATE, confidence=SURE)
    assert str(made.adapt(tmp_path / "adapt").promise).startswith(SENTENCE)
    assert "sure" not in str(detector(plain).adapt(tmp_path / "adapt").promise)


def test_a_model_without_thresholds_still_knows_what_was_asked(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="confidence 0.8"):
        model = fit_tiny(tmp_path, write_images(tmp_path / "good", 9), confidence=SURE)
    assert (model.promise, model.confidence) == (None, SURE)
    write_images(tmp_path / "new", 12, first=300)
    assert detector(model).calibrate(tmp_path / "new", false_alarm_rate=RATE).promise == (
        f"{SENTENCE} 12 held-out good images"
    )


def products(root: Path, count: int, first: int = 0) -> list[Record]:
    """Of two products: in the usual light and turned upside down, in negative."""
    from PIL import Image, ImageOps

    out = []
    for name in ("a", "b"):
        for record in write_images(root / name, count, first=first):
            if name == "b":
                ImageOps.invert(Image.open(record.path).convert("RGB")).save(record.path)
            out.append(replace(record, id=f"{name}/{record.id}", group=name))
    return out


def test_each_of_several_products_has_its_own(tmp_path: Path) -> None:
    model = fit_tiny(tmp_path, products(tmp_path / "good", 16), multi_class=True, confidence=SURE)
    assert model.categories is not None
    known = next(iter(model.categories.known.values()))
    assert {(c.n, c.confidence) for c in known.scores if c} == {(8, SURE)}
    assert {c.confidence for c in known.strangeness if c} == {SURE}
    assert str(model.promise).startswith(
        "80 % sure of each: at most 20 % of good parts rejected in each category, from 8 held-out good images of each; "
        "80 % sure of each: at most 20 % of good parts called unknown in each category"
    )
    again = detector(model).calibrate(products(tmp_path / "new", 12, 500), false_alarm_rate=RATE, confidence=0.9)
    assert str(again.promise).startswith("90 % sure of each")
    assert again.model.confidence == 0.9


def test_command(plain: Model, tmp_path: Path) -> None:
    detector(plain).save(tmp_path / "m")
    write_images(tmp_path / "new", 12, first=300)
    arguments = ["calibrate", str(tmp_path / "m"), str(tmp_path / "new"), "--false-alarm-rate", str(RATE)]
    done = CliRunner().invoke(app, [*arguments, "--confidence", str(SURE), "--out", str(tmp_path / "sure")])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["promise"] == f"{SENTENCE} 12 held-out good images"
    written = json.loads((tmp_path / "sure" / "model.json").read_text(encoding="utf-8"))
    assert {c["confidence"] for c in written["calibration"].values()} == {SURE}
    before = json.loads((tmp_path / "m" / "model.json").read_text(encoding="utf-8"))
    assert all("confidence" not in c for c in before["calibration"].values())

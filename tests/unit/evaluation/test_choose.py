"""Method auto: candidates race on synthetic defects of good images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish import Detector
from blemish.errors import ConfigError, DataError
from blemish.evaluation import choose as module
from blemish.evaluation.choose import Choice, Tried, candidates, choose
from blemish.inspection.modelfile import load
from blemish.learning.options import FitOptions, by_name
from tests.fakes import FakeBackbone, write_images
from tests.parts import ARROW, at_any_angle, write

ASKED: dict[str, Any] = {"method": "auto", "image_size": "64x48", "false_alarm_rate": 0.2}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRAINED", ())
    monkeypatch.setattr(module, "DEFECTS", 28)


def chosen(tmp_path: Path, **options: Any) -> Choice:
    records = write_images(tmp_path / "good", 24)
    return choose(records, by_name({**ASKED, **options}), backbone=FakeBackbone())


def test_the_winner_has_found_most_and_all_candidates_are_told(tmp_path: Path) -> None:
    found = chosen(tmp_path)
    best, *others = found.tried
    assert found.options.method == best.method
    alone = {each.method for each in found.tried if "+" not in each.method}
    assert alone == {"padim", "patchcore"}
    assert len({each.method for each in found.tried}) == 3  # and both as one
    assert best.out == ""
    assert all(each.out for each in others)
    assert best.auroc is not None
    assert best.auroc > 0.5
    assert best.auroc >= max(each.auroc or 0 for each in others) - module.TIE
    assert f"{len(found.tried)} candidates" in found.why
    assert by_name({**ASKED}).method == "auto"
    again = chosen(tmp_path)
    # in any order: of candidates that find as much, the one that was faster this time comes first
    each, before = (sorted((t.name, t.auroc, t.found) for t in one.tried) for one in (again, found))
    assert each == before


def scripted(monkeypatch: pytest.MonkeyPatch, figures: dict[str, tuple[float, float]]) -> list[tuple[str, int]]:
    """Methods that come out as they are told to: AUROC and milliseconds. The calls."""
    calls: list[tuple[str, int]] = []

    def measured(race: Any, candidate: Tried, number: int, most: int, options: FitOptions) -> Tried:
        calls.append((candidate.method, number))
        auroc, milliseconds = figures.get(candidate.method, (0.1, 99.0))  # of two as one, where nothing is said
        if auroc < 0:
            raise DataError("it cannot be learned")
        slow = race.max_ms is not None and milliseconds > race.max_ms
        done = replace(
            candidate, round=number, learned_from=most, auroc=auroc, milliseconds=milliseconds, fit_seconds=1.0
        )
        return replace(done, out="slower than that" if slow else "")

    monkeypatch.setattr(module, "_measured", measured)
    monkeypatch.setattr(module, "CHEAP", tuple(name for name in figures if "+" not in name))
    monkeypatch.setattr(module, "ROUNDS", (4, 8, 400))
    return calls


def test_the_better_half_goes_on_and_time_decides_between_equals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = scripted(
        monkeypatch, {"patchcore": (0.9, 30.0), "padim": (0.895, 10.0), "rd": (0.7, 5.0), "dfc": (0.6, 5.0)}
    )
    found = chosen(tmp_path)
    assert found.options.method == "padim"  # within the tie, and faster
    assert [number for method, number in calls if method == "rd"] == [1]
    assert [number for method, number in calls if method == "padim"] == [1, 2, 3]
    assert "lower half of round 1" in next(t.out for t in found.tried if t.method == "rd")
    assert "faster than" in found.why


def test_the_best_is_tried_with_each_of_the_two_next_ones_as_one_and_taken_where_that_is_worth_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {"patchcore": (0.9, 30.0), "padim": (0.88, 10.0), "rd": (0.85, 20.0), "dfc": (0.6, 5.0)}
    calls = scripted(monkeypatch, {**alone, "patchcore+padim": (0.93, 40.0), "patchcore+rd": (0.935, 45.0)})
    found = chosen(tmp_path)
    assert [method for method, _ in calls][-2:] == ["patchcore+padim", "patchcore+rd"]
    assert found.options.method == "patchcore+padim"  # within the tie of the better pair, and faster
    assert found.tried[1].method == "patchcore+rd"
    scripted(monkeypatch, {**alone, "patchcore+padim": (0.905, 40.0), "patchcore+rd": (0.7, 45.0)})
    assert chosen(tmp_path).options.method == "patchcore"  # no better by more than a tie


def test_what_is_too_slow_or_fails_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {"patchcore": (0.9, 30.0), "padim": (0.6, 10.0), "rd": (-1, 0.0)})
    found = chosen(tmp_path, max_ms=20.0)
    assert found.options.method == "padim"
    assert found.options.max_ms is None
    reasons = {t.method: t.out for t in found.tried}
    assert reasons == {
        "padim": "",
        "patchcore": "slower than that",
        "rd": "failed: it cannot be learned",
    }
    with pytest.raises(ConfigError, match="no candidate can be taken.*patchcore"):
        chosen(tmp_path, max_ms=1.0)


def test_a_budget_ends_the_race_with_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = scripted(monkeypatch, {"patchcore": (0.6, 30.0), "padim": (0.9, 10.0)})
    found = chosen(tmp_path, budget="0.001")
    assert calls == [("patchcore", 1)]
    assert found.options.method == "patchcore"
    assert found.options.budget is None
    assert "no time left" in next(t.out for t in found.tried if t.method == "padim")


def test_candidates_follow_what_was_asked_for() -> None:
    options = by_name({"method": "auto"})
    assert {c.image_size for c in candidates(options, False)} == {"256", "384"}
    assert {c.located for c in candidates(options, False)} == {False}
    assert {c.located for c in candidates(options, True)} == {False, True}
    assert {c.located for c in candidates(replace(options, locate="on"), True)} == {True}
    assert {c.located for c in candidates(replace(options, locate="auto"), True)} == {False, True}
    assert {c.located for c in candidates(replace(options, locate="auto"), False)} == {False}
    for asked, located, wanted in (("off", True, "on"), ("auto", False, "off"), ("several", True, "several")):
        tried = Tried("padim", "256", located)
        assert module._options(replace(options, locate=asked), tried).locate == wanted
    assert {c.image_size for c in candidates(replace(options, image_size="200"), False)} == {"200"}


def test_defects_lie_on_the_part_where_it_can_be_found(tmp_path: Path) -> None:
    from blemish.learning.sources.image import suggested_locator

    records = write(tmp_path / "good", [at_any_angle(ARROW, seed)[0] for seed in range(16)], split="train")
    locator = suggested_locator(records, by_name({"method": "auto"}))
    assert locator is not None
    defects = module._drawn(records, 0, 28, locator)
    on_part = []
    for defect in defects:
        good = module.read_image(records[defect.number].path)
        changed = (defect.on(good) != good).any(2)
        assert changed.any()
        on_part.append(locator.covered(good)[changed].mean())
        assert defect.changed.size < good.size / 4  # whole pictures are not kept
    assert np.median(on_part) > 0.7
    assert len({defect.number for defect in defects}) == 16


def test_too_few_images_and_options_of_a_method_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few to choose"):
        choose(write_images(tmp_path / "few", 6), by_name(ASKED), backbone=FakeBackbone())
    with pytest.raises(ConfigError, match="takes no options of a method, such as 'coreset_ratio'"):
        by_name({**ASKED, "coreset_ratio": 0.1})
    with pytest.raises(ConfigError, match="one product"):
        by_name({**ASKED, "multi_class": True})
    with pytest.raises(ConfigError, match="max_ms"):
        by_name({"method": "padim", "max_ms": 20.0})
    with pytest.raises(ConfigError, match="max_ms"):
        by_name({"method": "auto", "max_ms": -1.0})


def test_the_model_says_what_was_tried_and_its_recipe_names_the_winner(tmp_path: Path) -> None:
    good = tmp_path / "good"
    write_images(good, 24)
    detector = Detector(**{**ASKED, "backbone": FakeBackbone(), "cache": False}).fit(good)
    detector.save(tmp_path / "part.blemish")
    model = load(tmp_path / "part.blemish")
    first = model.meta.chosen[0]
    assert model.meta.method == first["method"] == model.run["method"]
    assert first["out"] == ""
    assert len(model.meta.chosen) == 3
    plain = Detector(**{**ASKED, "method": first["method"], "backbone": FakeBackbone(), "cache": False}).fit(good)
    image = np.full((48, 64, 3), 90, np.uint8)
    assert plain.inspect(image).score == detector.inspect(image).score
    assert "chosen" not in plain.model.meta.to_json()

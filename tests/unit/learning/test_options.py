"""Options of a fit: told from the method's own by name, read from what users give, refused with the nearest name."""

from __future__ import annotations

import inspect
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish import Detector, methods
from blemish.errors import ConfigError
from blemish.learning.options import OPTIONS, FitOptions, by_name


@pytest.mark.parametrize(("name", "given", "kept"), [
    ("image_size", 256, "256"), ("image_size", np.int64(64), "64"), ("image_size", "320x128", "320x128"),
    ("roi", Path("a/roi.png"), str(Path("a/roi.png"))), ("weights", Path("w.pt"), "w.pt"), ("textures", None, None),
    ("layers", [2, 3], (2, 3)), ("layers", np.array([1, 2]), (1, 2)), ("views", ["flip_h"], ("flip_h",)),
    ("views", "flip_h,turn_180", ("flip_h", "turn_180")),
    ("leads", ["MLII"], ("MLII",)), ("leads", "V1,MLII", ("V1", "MLII")), ("leads", None, None),
    ("seed", "7", 7), ("held_out", np.float64(0.25), 0.25),
    ("multi_class", "true", True), ("budget", 90, "90"), ("max_pixels", np.int32(9), 9),
])  # fmt: skip
def test_values_as_users_give_them(name: str, given: object, kept: object) -> None:
    got = getattr(by_name({name: given}), name)
    assert got == kept
    assert type(got) is type(kept)


@pytest.mark.parametrize(("given", "named"), [
    ({"views": 5}, "views"), ({"layers": 2}, "layers"), ({"image_size": True}, "image_size"),
    ({"calibration": "some"}, "calibration"), ({"promise_per": "thing"}, "promise_per"), ({"roi": 5.5j}, "roi"),
    ({"seed": -1}, "seed"), ({"max_pixels": 0}, "max_pixels"), ({"budget": "soon"}, "soon"),
    ({"method": "padim", "channels": "many"}, "channels"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        by_name(given)


def test_the_methods_own_stand_apart() -> None:
    options = by_name({"method": "padim", "channels": 5, "seed": 3})
    assert (options.method, options.seed, options.options) == ("padim", 3, {"channels": 5})
    assert by_name({}) == FitOptions()


@pytest.mark.parametrize(("name", "nearest"), [
    ("imagesize", "image_size"), ("channel", "channels"), ("false_alarms_rate", "false_alarm_rate"),
])  # fmt: skip
def test_an_unknown_name_is_told_the_nearest_of_both(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown option '{name}'") as caught:
        Detector("padim", **{name: 1})
    assert caught.value.hint == f"did you mean '{nearest}'?"


@pytest.mark.parametrize("name", ["options", "self", "x"])
def test_a_name_that_is_near_to_none_is_told_all(name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown option '{name}'") as caught:
        Detector("padim", **{name: 1})
    assert {"channels", "image_size"} <= set(str(caught.value.hint).removeprefix("known: ").split(", "))


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_every_option_says_what_it_does(option: Any) -> None:
    assert option.help.endswith(".")
    assert option.flag.startswith("--")
    assert option.default == getattr(FitOptions(), option.name)


def test_options_of_a_group_stand_together() -> None:
    groups = [group for group, _ in groupby(option.group for option in OPTIONS.values())]
    assert len(groups) == len(set(groups))
    assert len({option.flag for option in OPTIONS.values()}) == len(OPTIONS)


def test_help_of_a_detector_lists_every_option() -> None:
    listed = inspect.signature(Detector).parameters
    assert set(listed) == {*OPTIONS, "cache", "options"}
    assert {name: listed[name].default for name in OPTIONS} == {name: o.default for name, o in OPTIONS.items()}


def test_lightings_take_no_name_of_a_method_s_own_option() -> None:
    own = {field.name for name in methods.names() for field in fields(methods.get(name).Config)}
    assert own.isdisjoint({name for name in OPTIONS if "lighting" in name})
    assert by_name({"method": "padim", "channels": 50}).options == {"channels": 50}

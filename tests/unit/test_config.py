"""Options: read from text, refused by name, and the same after a round trip through JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from blemish import methods
from blemish.config import build, nearest, override, parse_assignments, to_json
from blemish.errors import ConfigError
from blemish.learning.options import FitOptions


@dataclass(frozen=True)
class Config:
    ratio: float = 0.1
    count: int = 3
    on: bool = False
    name: str = "x"
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ConfigError(f"ratio has to be in (0, 1], not {self.ratio}")


CONFIGS = [methods.get(name).Config for name in methods.names()] + [FitOptions, Config]


@pytest.mark.parametrize(("text", "value"), [
    ({"ratio": "0.25"}, 0.25), ({"count": "7"}, 7), ({"on": "true"}, True), ({"on": "0"}, False), ({"name": "7"}, "7"),
    ({"kind": "b"}, "b"), ({"sizes": [1, 2]}, (1, 2)), ({"ratio": 1}, 1.0), ({"sizes": None}, None),
])  # fmt: skip
def test_text_becomes_values(text: dict[str, Any], value: object) -> None:
    got = getattr(build(Config, text), next(iter(text)))
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(("options", "named"), [
    ({"ratio": "much"}, "ratio"), ({"count": "1.5"}, "count"), ({"count": ""}, "count"), ({"on": "perhaps"}, "on"),
    ({"kind": "c"}, "kind"), ({"ratio": "0"}, "ratio"), ({"ratio": 2}, "ratio"), ({"sizes": "abc"}, "sizes"),
    ({"ratio": "nan"}, "ratio"), ({"ratio": math.inf}, "ratio"), ({"name": None}, "name"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build(Config, options)


@pytest.mark.parametrize("cls", CONFIGS)
def test_an_unknown_option_names_the_nearest(cls: type[Any]) -> None:
    name = dataclasses.fields(cls)[0].name
    with pytest.raises(ConfigError, match=f"unknown option '{name}s'") as caught:
        build(cls, {f"{name}s": 1})
    assert caught.value.hint == f"did you mean '{name}'?"


def test_nothing_near_lists_all() -> None:
    assert nearest("qqq", ["alpha", "beta"]) == "known: alpha, beta"
    assert nearest("qqq", []) == "known: none"


@pytest.mark.parametrize("cls", CONFIGS)
def test_round_trip_through_json(cls: type[Any]) -> None:
    config = cls()
    text = json.dumps(to_json(config), allow_nan=False)
    assert build(cls, json.loads(text)) == config
    assert set(json.loads(text)) == {f.name for f in dataclasses.fields(cls)}


@pytest.mark.parametrize("cls", CONFIGS)
def test_text_of_every_default_is_read(cls: type[Any]) -> None:
    plain = {k: str(v) for k, v in to_json(cls()).items() if isinstance(v, (int, float, str)) and v is not None}
    assert build(cls, plain) == cls()


@pytest.mark.parametrize("cls", CONFIGS)
def test_no_number_may_be_nan(cls: type[Any]) -> None:
    for field in dataclasses.fields(cls):
        if isinstance(field.default, float):
            for bad in ("nan", "inf", "-inf"):
                with pytest.raises(ConfigError):
                    build(cls, {field.name: bad})


@pytest.mark.parametrize("cls", CONFIGS)
def test_frozen(cls: type[Any]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), dataclasses.fields(cls)[0].name, 1)


def test_override_keeps_the_rest() -> None:
    config = Config(ratio=0.5, sizes=(4, 5))
    assert override(config, {"count": "9"}) == Config(ratio=0.5, sizes=(4, 5), count=9)
    assert override(config, {}) == config
    with pytest.raises(ConfigError, match="unknown option"):
        override(config, {"counts": 1})


def test_assignments() -> None:
    assert parse_assignments(["a=1", " b = x=y ", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    assert parse_assignments(["a=b.c", "h.x=1.5", "h.y=", "h.z.w=2"]) == {
        "a": "b.c",
        "h": {"x": "1.5", "y": "", "z": {"w": "2"}},
    }
    for bad in ("a", "=1", "", ".a=1", "a.=1"):
        with pytest.raises(ConfigError, match="key=value"):
            parse_assignments([bad])
    for clash in (["a=1", "a.b=2"], ["a.b=2", "a=1"]):
        with pytest.raises(ConfigError, match="a has a value already|parts of a are set already"):
            parse_assignments(clash)


@pytest.mark.parametrize("options", [
    {"held_out": 0}, {"held_out": 1}, {"false_alarm_rate": 0}, {"false_alarm_rate": 1}, {"calibration": "some"},
    {"seed": -1}, {"seed": 2**63}, {"options": 5},
])  # fmt: skip
def test_options_of_the_line(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(FitOptions, options)

"""Options of `fit` on the command line: what is typed, what a recipe says, and which of both wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blemish.cli import fit
from blemish.learning.options import OPTIONS
from tests.unit.cli.test_cli_commands import failed

RECIPE = {"method": "padim", "backbone": "a", "weights": "a.pt", "layers": [1], "seed": 7, "options": {"top": 2}}
VALUES = {int: "3", float: "0.5", str: "text", bool: True}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "r.json").write_text(json.dumps(RECIPE), encoding="utf-8")
    return tmp_path / "r.json"


@pytest.mark.parametrize(("typed", "changed"), [
    ({}, {}),
    ({"seed": 8}, {"seed": 8}),
    ({"backbone": "a"}, {}),
    ({"backbone": "b"}, {"backbone": "b", "weights": None, "layers": None}),
    ({"backbone": "b", "weights": "b.pt"}, {"backbone": "b", "weights": "b.pt", "layers": None}),
    ({"backbone": "b", "layers": [2, 3]}, {"backbone": "b", "weights": None, "layers": [2, 3]}),
    ({"method": "rd"}, {"method": "rd", "top": None}),
    ({"method": "padim"}, {}),
])  # fmt: skip
def test_what_is_typed_wins_over_a_recipe(recipe: Path, typed: dict[str, Any], changed: dict[str, Any]) -> None:
    plain = {**{k: v for k, v in RECIPE.items() if k != "options"}, "top": 2}
    expected = {k: v for k, v in {**plain, **changed}.items() if v is not None}
    assert fit.chosen(typed, recipe, []) == expected


def test_set_wins_over_the_methods_own_options_in_a_recipe(recipe: Path) -> None:
    assert fit.chosen({}, recipe, ["top=3", "sigma=2"])["top"] == "3"
    assert fit.chosen({"method": "rd"}, recipe, ["x=1"]) == {**fit.chosen({"method": "rd"}, recipe, []), "x": "1"}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_taken_by_its_flag(run: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """And only what is typed is handed on: what is not is left to a recipe, and then to the defaults."""
    passed: list[dict[str, Any]] = []
    monkeypatch.setattr(fit, "run", lambda *given: passed.append(given[2]))
    option = OPTIONS[name]
    value = option.choices[-1] if option.choices else VALUES[option.item or option.type]
    words = [option.flag] if value is True else [option.flag, value] * (2 if option.item else 1)
    assert run("fit", "good", "--out", "m", *words).code == 0
    [given] = passed
    kind = Path if option.file else option.item or option.type if not option.choices else str
    assert given == {name: [kind(value)] * 2 if option.item else kind(value)}


@pytest.mark.parametrize(("words", "error"), [
    (("--calibration", "some"), "'some' is not one of 'auto', 'split', 'leave_one_out', 'folds', 'none'"),
    (("--promise-per", "part"), "'part' is not one of 'image', 'unit'"),
    (("--max-pixels", "0"), "0 is not in the range 1<=x<=178956970"),
    (("--layer", "two"), "'two' is not a valid int"),
    (("--seed", "-1"), "seed has to lie between 0 and 2**63 - 1, not -1"),
    (("--method", "padin"), "no method 'padin'"),
    (("--held-out", "1"), "held_out has to lie between 0 and 1"),
])  # fmt: skip
def test_values_that_do_not_fit(run: Any, tmp_path: Path, words: tuple[str, ...], error: str) -> None:
    failed(run("fit", tmp_path, "--out", tmp_path / "m", *words), 2, error)
    assert not (tmp_path / "m").exists()

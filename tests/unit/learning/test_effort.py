"""How long a fit may take: what methods state for it, and where it counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blemish import config, methods
from blemish.cli.fit import chosen
from blemish.errors import ConfigError
from blemish.evaluation.bench import cell as cells
from blemish.evaluation.bench import suite
from blemish.learning import effort, fit
from blemish.learning.options import FitOptions
from blemish.methods.base import Epochs
from tests.fakes import write_images
from tests.tiny import fit_tiny

TRAINED = [name for name in methods.names() if methods.get(name).arrays == "torch"]


def resolved(method: str, chosen: str, images: int = 200, **options: Any) -> Any:
    """The method's options, as they are learned with."""
    found = effort.applied(FitOptions(method, effort=chosen, options=options), images)  # type: ignore[arg-type]
    return config.build(methods.get(method).Config, found.options)


def steps(settings: Any) -> dict[str, int]:
    return {name: value for name, value in config.to_json(settings).items() if name.endswith("steps")}


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_states_quick_and_long(name: str) -> None:
    """Options that it has, in ranges that it takes, for the same samples; fewer steps, and no fewer."""
    cls = methods.get(name)
    assert {*cls.efforts} == {"quick", "long"}
    images = 4000 if cls.needs.source == "signal" else 200  # windows of recordings are many
    standard, quick, long = (resolved(name, chosen, images) for chosen in ("standard", "quick", "long"))
    assert standard == cls.Config()
    assert any(isinstance(value, Epochs) for value in cls.efforts["long"].values()), "a paper counts epochs"
    few, usual, many = steps(quick), steps(standard), steps(long)
    assert sum(few.values()) <= 0.2 * sum(usual.values())
    assert all(0 < few[key] <= usual[key] <= many[key] for key in usual)
    assert sum(many.values()) > sum(usual.values())
    for other in (quick, long):
        needs, theirs = cls.wants(standard), cls.wants(other)
        assert (needs.source, needs.strides, needs.image, needs.second, needs.twin) == (
            theirs.source, theirs.strides, theirs.image, theirs.second, theirs.twin
        )  # fmt: skip


def test_epochs_become_steps_by_the_number_of_images() -> None:
    assert resolved("rd", "long", 160).steps == 2000  # 200 epochs of 160 images, 16 a step
    assert resolved("rd", "long", 161).steps == 2013  # the last batch is a batch
    assert resolved("rd", "long", 160, batch=32).steps == 1000
    assert resolved("rd", "long", 1).steps == resolved("rd", "standard").steps, "never fewer than always"


def test_given_options_win() -> None:
    found = resolved("rd", "long", steps=7)
    assert (found.steps, found.widths) == (7, (40, 112, 320))
    assert resolved("rd", "quick", steps="9").steps == 9


@pytest.mark.parametrize("name", [name for name in methods.names() if name not in TRAINED])
def test_where_there_are_no_steps_it_is_said(name: str) -> None:
    with pytest.warns(UserWarning, match=f"{name} has no effort 'quick'"):
        assert resolved(name, "quick") == methods.get(name).Config()


def test_an_effort_that_is_none() -> None:
    with pytest.raises(ConfigError, match="effort"):
        config.build(FitOptions, {"effort": "longer"})


def test_heads_of_another_method_take_its_efforts() -> None:
    found = resolved("dfc", "quick", head="rd", head_options={"sigma": 2.0})
    assert found.head_options == {"steps": methods.get("rd").efforts["quick"]["steps"], "sigma": 2.0}
    assert found.steps == methods.get("dfc").Config().steps


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ({"method": "rd", "calibration": "split"}, 16),
        ({"method": "dfc"}, 10),
        ({"method": "rd", "multi_class": True}, 20),
    ],
)
def test_the_images_of_one_learning_count(
    options: dict[str, Any], images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what is held out; where each category has a head of its own, its share of them."""

    def applied(_: FitOptions, count: int) -> FitOptions:
        raise Stopped(count)

    monkeypatch.setattr(fit.effort, "applied", applied)
    records = [replace(r, group="ab"[i % 2]) for i, r in enumerate(write_images(tmp_path / "good", 20))]
    with pytest.raises(Stopped, match=f"^{images}$"):
        fit_tiny(tmp_path, records, **options)


@pytest.mark.slow
def test_a_model_says_what_it_was_made_with(tmp_path: Path) -> None:
    """The recipe has the effort, and what it came to: it makes the same model again."""
    records = write_images(tmp_path / "good", 4)
    model = fit_tiny(tmp_path, records, method="pbas", effort="long", calibration="none", options={"steps": 2})
    assert model.run["effort"] == "long"
    wanted = {"steps": 2, "share": 1.0, "exact_assign": True}
    assert {key: model.run["options"][key] for key in wanted} == wanted
    assert {key: model.meta.config[key] for key in wanted} == wanted
    assert fit_tiny(tmp_path, records, **json.loads(json.dumps(model.run))).tensors == model.tensors


def test_another_effort_than_the_recipes_has_sizes_of_its_own(tmp_path: Path) -> None:
    recipe = tmp_path / "run.json"
    recipe.write_text(json.dumps({"method": "rd", "options": {"steps": 600, "sigma": 3.0}}))
    assert chosen({}, recipe, [])["steps"] == 600
    assert chosen({"effort": "long"}, recipe, []) == {"method": "rd", "effort": "long", "sigma": 3.0}
    assert chosen({"effort": "long"}, recipe, ["steps=5"])["steps"] == "5"
    recipe.write_text(json.dumps({"method": "rd", "effort": "long", "options": {"steps": 2000}}))
    assert chosen({"effort": "long"}, recipe, [])["steps"] == 2000


def test_a_digest_holds_the_effort_and_what_it_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "set" / "train" / "good", 2)

    def mark(fit_options: str, method: str = "rd") -> str:
        text = f'methods = ["{method}"]\n[fit]\n{fit_options}\n[[data]]\nname = "a"\nsource = "set"\n'
        (tmp_path / "suite.toml").write_text(text)
        [cell] = suite.read(tmp_path / "suite.toml").cells()
        return cells.digest(cell, cell.records())

    plain, quick = mark(""), mark('effort = "quick"')
    assert plain == mark('effort = "standard"') != quick
    monkeypatch.setattr(methods.get("rd"), "efforts", {"quick": {"steps": 61}})
    assert mark('effort = "quick"') != quick
    assert mark("") == plain

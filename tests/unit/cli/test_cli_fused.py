"""Several methods as one, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blemish.inspection.modelfile import load
from tests.fakes import write_images


def test_a_model_is_made_again_from_its_recipe_and_goes_no_further(tmp_path: Path, run: Any) -> None:
    good = tmp_path / "good"
    write_images(good, 24)
    asked = ["fit", good, "--method", "padim+patchcore", "--image-size", "64", "--false-alarm-rate", "0.2"]
    first, again = tmp_path / "m", tmp_path / "again"
    done = run(*asked, "--set", "padim.sigma=3", "--out", first)
    assert (done.code, done.rows[0]["method"]) == (0, "padim+patchcore")
    model = load(first)
    assert model.run["options"]["padim"]["sigma"] == 3
    assert model.run["options"]["combine"] == "z"
    assert model.meta.config["parts"] == ["padim", "patchcore"]
    assert run("fit", good, "--recipe", first / "run.json", "--out", again).code == 0
    scores = [[row["pred_score"] for row in run("inspect", path, good).rows] for path in (first, again)]
    assert scores[0] == scores[1]
    changed = run("fit", good, "--recipe", first / "run.json", "--effort", "quick", "--out", tmp_path / "quick")
    assert changed.code == 0  # efforts of parts that state none are said
    refused = run("adapt", first, good, "--out", tmp_path / "b")
    assert (refused.code, "several methods as one" in refused.err) == (2, True)


def test_what_cannot_be_one_is_said_before_anything_is_written(tmp_path: Path, run: Any) -> None:
    write_images(tmp_path / "good", 24)
    for method, why in (("padim+padin", "no method 'padin'"), ("padim+fpfh", "no head behind a frozen network")):
        done = run("fit", tmp_path / "good", "--method", method, "--out", tmp_path / "m")
        assert (done.code, why in done.err) == (2, True)
    assert not (tmp_path / "m").exists()

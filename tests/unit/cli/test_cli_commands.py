"""Every command on tiny images with real weights: what it prints, writes and exits with."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish import methods
from blemish.cli import main
from blemish.config import to_json
from blemish.learning import backbones
from tests.fakes import defective_image, good_image, write_images, write_mvtec
from tests.tiny import SAMPLE, Done, python

_INSTALLED = {row["name"]: row["installed"] for row in backbones.describe()}
real = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not _INSTALLED[backbones.DEFAULT], reason=f"no weights of {backbones.DEFAULT} are installed"),
]
KEYS = {
    "image_path", "pred_score", "p_value", "threshold", "pred_label", "category",
    "category_confidence", "unknown", "map_threshold", "map_threshold_per",
    "regions", "map", "raw_map", "seconds", "error", "hint",
}  # fmt: skip


def lines(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def failed(done: Done, code: int, error: str, hint: str = "") -> None:
    """An error as promised: one `error:` line, at most one `hint:` line, nothing on stdout."""
    assert done.code == code, done.err
    assert done.out == ""
    first, *hints = [line for line in done.err.splitlines() if not line.startswith("learning from ")]
    assert first.startswith("error: ")
    assert error in first
    assert len(hints) <= 1
    assert all(line.startswith("hint: ") for line in hints)
    assert hint in "".join(hints)


FIT = ("--method", "padim", "--image-size", "64")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `good/`, a data set `set/` and a model `model` of it."""
    folder = tmp_path_factory.mktemp("cli")
    write_images(folder / "good", 12)
    (folder / "empty").mkdir()
    write_mvtec(folder / "set", train=20, test=3)
    arguments = ["fit", folder / "set", "--out", folder / "model", *FIT, "--false-alarm-rate", "0.2", "--no-cache"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLEMISH_CACHE", str(folder / "cache"))
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
    assert end.value.code == 0
    return folder


class TestReal:
    pytestmark = real

    def test_fit_says_what_it_made(self, run: Any, tmp_path: Path) -> None:
        write_images(tmp_path / "good", 8)
        done = run("fit", tmp_path / "good", "--out", tmp_path / "m", *FIT, "--false-alarm-rate", 0.2)
        assert (done.code, done.err) == (0, "learning from 8 images: good 8\n")
        [printed] = lines(done)
        assert set(printed) == {
            "model", "method", "data", "backbone", "network_input", "promise", "region_promise", "parity",
            "precision", "bf16", "training", "fit_seconds",
        }  # fmt: skip
        assert printed["training"] == []
        assert printed["model"] == str(tmp_path / "m")
        assert printed["data"]["good_images"] == 8
        assert printed["backbone"]["licence"] == "Apache-2.0"
        assert len(printed["backbone"]["weights_sha256"]) == 64
        assert (tmp_path / "m" / "model.json").is_file()

    def test_an_effort_is_said_and_that_it_changes_nothing(self, run: Any, tmp_path: Path) -> None:
        write_images(tmp_path / "good", 8)
        done = run(
            "fit", tmp_path / "good", "--out", tmp_path / "m", *FIT, "--false-alarm-rate", 0.2, "--effort", "quick"
        )
        assert done.code == 0
        assert "padim has no effort 'quick'" in done.err
        assert lines(done)[0]["effort"] == json.loads((tmp_path / "m" / "run.json").read_text())["effort"] == "quick"

    def test_a_warning_goes_to_stderr(self, run: Any, tmp_path: Path) -> None:
        write_images(tmp_path / "good", 3)
        done = run("fit", tmp_path / "good", "--out", tmp_path / "m", *FIT)
        assert done.code == 0
        assert len(lines(done)) == 1
        _, warning = done.err.splitlines()
        assert warning.startswith("warning: 3 good images cannot promise")

    def test_one_model_per_category_or_one_for_all(self, run: Any, tmp_path: Path) -> None:
        for name in ("cap", "nut"):
            write_images(tmp_path / "set" / name / "train" / "good", 3)
        options = (*FIT, "--calibration", "none")
        printed = lines(run("fit", tmp_path / "set", "--out", tmp_path / "each", *options))
        assert [s["model"] for s in printed] == [str(tmp_path / "each" / name) for name in ("cap", "nut")]
        [printed] = lines(run("fit", tmp_path / "set", "--out", tmp_path / "all", "--multi-class", *options))
        assert printed["data"]["categories"] == ["cap", "nut"]

    def test_recipe_and_what_wins_over_it(self, run: Any, tmp_path: Path) -> None:
        write_images(tmp_path / "good", 3)
        recipe = tmp_path / "recipe.json"
        recipe.write_text(json.dumps({
            "method": "padim", "image_size": "64", "seed": 7, "calibration": "none",
            "options": {"channels": 9, "top": 0.2},
        }))  # fmt: skip
        arguments = ("fit", tmp_path / "good", "--out", tmp_path / "m", "--recipe", recipe)
        assert run(*arguments).code == 0
        made = json.loads((tmp_path / "m" / "run.json").read_text())
        assert (made["seed"], made["image_size"]) == (7, "64")
        assert (made["options"]["channels"], made["options"]["top"]) == (9, 0.2)
        assert run(*arguments, "--seed", 8, "--set", "top=0.3").code == 0
        made = json.loads((tmp_path / "m" / "run.json").read_text())
        config = json.loads((tmp_path / "m" / "model.json").read_text())["config"]
        assert (made["seed"], made["image_size"]) == (8, "64")
        assert (config["channels"], config["top"]) == (9, 0.3)
        others = [name for name in SAMPLE if name != "padim" and not methods.get(name).fitted_modules]
        assert run(*arguments, "--method", others[0]).code == 0  # the recipe's own options mean nothing to it
        made = json.loads((tmp_path / "m" / "run.json").read_text())
        assert made["options"] == to_json(methods.get(others[0]).Config())

    def test_layers_by_number(self, run: Any, tmp_path: Path) -> None:
        write_images(tmp_path / "good", 3)
        arguments = ("fit", tmp_path / "good", "--out", tmp_path / "m", *FIT, "--calibration", "none")
        assert run(*arguments, "--layer", 2, "--layer", 3).code == 0
        assert json.loads((tmp_path / "m" / "run.json").read_text())["layers"] == [2, 3]

    def test_a_models_run_json_is_a_recipe(self, run: Any, work: Path, tmp_path: Path) -> None:
        done = run("fit", work / "set", "--out", tmp_path / "m", "--recipe", work / "model" / "run.json")
        assert done.code == 0
        names = ("run.json", "tensors.safetensors")
        assert all((tmp_path / "m" / n).read_bytes() == (work / "model" / n).read_bytes() for n in names)

    @pytest.mark.parametrize(("recipe", "error"), [
        ("no json", "no JSON"), ("[]", "no recipe"), ('{"method": "padim", "options": 5}', "options"),
        ('{"metod": "padim"}', "metod"), ('{"cache": true}', "cache"),
    ])  # fmt: skip
    def test_recipes_that_are_none(self, run: Any, work: Path, tmp_path: Path, recipe: str, error: str) -> None:
        (tmp_path / "r.json").write_text(recipe)
        arguments = ("fit", work / "good", "--out", tmp_path / "m", "--recipe", tmp_path / "r.json")
        failed(run(*arguments), 2, error, "run.json")

    @pytest.mark.parametrize(("assignment", "error"), [
        ("ridgee=1", "ridgee"), ("ridge=much", "ridge"), ("ridge", "key=value"), ("ridge=nan", "ridge"),
        ("seed=1", "option of fit"), ("cache=0", "option of fit"), ("layers=1", "option of fit"),
        ("self=1", "option of fit"), ("options=1", "option of fit"),
    ])  # fmt: skip
    def test_set_options_that_are_none(self, run: Any, work: Path, tmp_path: Path, assignment: str, error: str) -> None:
        failed(run("fit", work / "good", "--out", tmp_path / "m", *FIT, "--set", assignment), 2, error)
        assert not (tmp_path / "m").exists()

    def test_inspect_prints_one_line_each(self, run: Any, work: Path) -> None:
        done = run("inspect", work / "model", work / "set" / "test")
        printed = lines(done)
        assert (done.code, done.err, len(printed)) == (0, "", 6)
        for line in printed:
            assert set(line) == KEYS
            assert line["error"] is line["hint"] is line["map"] is line["raw_map"] is line["category"] is None
            assert line["pred_label"] == ("anomalous" if line["pred_score"] > line["threshold"] else "good")
            assert line["seconds"] > 0
            for region in line["regions"]:
                assert set(region) == {"bbox", "area_px", "peak", "score"}
        rejected = [Path(line["image_path"]) for line in printed if line["pred_label"] == "anomalous"]
        assert "spot" in {path.parent.name for path in rejected}

    def test_a_bad_file_in_the_middle(self, run: Any, work: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.png").write_text("no image")
        first, last = work / "good" / "000.png", work / "good" / "001.png"
        arguments = ("inspect", work / "model", first, tmp_path / "bad.png", tmp_path / "absent.png", last)
        done = run(*arguments)
        printed = lines(done)
        assert done.code == 1
        why = "1 x not an image, or damaged in its header, 1 x no such file"
        assert done.err == f"warning: 2 of 4 inputs could not be inspected: {why}\n"
        assert all(set(line) == KEYS for line in printed)
        assert [line["hint"] is None for line in printed] == [True, False, False, True]
        assert [line["error"] is None for line in printed] == [True, False, False, True]
        assert str(tmp_path / "bad.png") in printed[1]["error"]
        assert (printed[1]["pred_score"], printed[1]["regions"]) == (None, [])
        for form in ("csv", "table"):
            done = run(*arguments, "--format", form)
            assert done.code == 1
            assert done.out.count("bad.png") >= 1

    def test_csv(self, run: Any, work: Path) -> None:
        done = run("inspect", work / "model", work / "good" / "000.png", "--format", "csv")
        header, row = csv.reader(done.out.splitlines())
        assert set(header) == KEYS - {"regions"}
        assert row[header.index("pred_label")] in ("good", "anomalous")
        assert float(row[header.index("pred_score")]) > 0

    def test_table(self, run: Any, work: Path) -> None:
        done = run("inspect", work / "model", work / "good", "--format", "table")
        assert len(done.out.splitlines()) == 13
        assert "verdict" in done.out.splitlines()[0]

    def test_fail_on_anomaly(self, run: Any, work: Path, tmp_path: Path) -> None:
        Image.fromarray(defective_image(5)[0]).save(tmp_path / "bad.png")
        assert run("inspect", work / "model", tmp_path / "bad.png").code == 0
        assert run("inspect", work / "model", tmp_path / "bad.png", "--fail-on-anomaly").code == 3
        (tmp_path / "none.png").write_text("")
        assert run("inspect", work / "model", tmp_path, "--fail-on-anomaly").code == 1

    def test_maps_of_equal_stems_do_not_overwrite(self, run: Any, work: Path, tmp_path: Path) -> None:
        for i, name in enumerate(("x/a.png", "y/a.png", "z/a_2.png", "z/a.tif")):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.fromarray(good_image(i, (40 + i, 50))).save(tmp_path / name)
        files = [tmp_path / n for n in ("x/a.png", "y/a.png", "z/a_2.png", "z/a.tif")]
        done = run("inspect", work / "model", *files, "--maps", tmp_path / "m", "--raw-maps", tmp_path / "r")
        assert done.code == 0, done.err
        printed = lines(done)
        named = [Path(line["map"]).relative_to(tmp_path / "m").as_posix() for line in printed]
        assert named == ["x/a.png", "y/a.png", "z/a_2.png", "z/a.png"]
        for i, line in enumerate(printed):
            with Image.open(line["map"]) as overlay:
                assert overlay.size == (50, 40 + i)
            assert Path(line["raw_map"]).relative_to(tmp_path / "r").with_suffix("") == (
                Path(line["map"]).relative_to(tmp_path / "m").with_suffix("")
            )
            raw = np.load(line["raw_map"])
            assert raw.shape == (40 + i, 50)
            assert raw.dtype == np.float32

    def test_maps_keep_the_folders_below(self, run: Any, work: Path, tmp_path: Path) -> None:
        done = run("inspect", work / "model", work / "set" / "test", "--raw-maps", tmp_path / "raw")
        assert done.code == 0
        names = {path.relative_to(tmp_path / "raw").as_posix() for path in (tmp_path / "raw").rglob("*.npy")}
        assert names == {
            f"{kind}/{n}.npy"
            for kind, first in (("good", 1000), ("spot", 0))
            for n in (f"{first + i:03d}" for i in range(3))
        }

    def test_engines(self, run: Any, work: Path) -> None:
        part = work / "set" / "test" / "spot" / "000.png"
        scores = {}
        for engine in ("local", "openvino", "onnxruntime", "reference"):
            done = run("inspect", work / "model", part, "--engine", engine, "--batch-size", 2)
            assert done.err == ""
            scores[engine] = lines(done)[0]["pred_score"]
        assert scores["local"] == scores["openvino"]
        assert scores["onnxruntime"] == pytest.approx(scores["reference"], rel=1e-4)  # both in float32

    def test_evaluate(self, run: Any, work: Path, tmp_path: Path) -> None:
        figures, report = tmp_path / "m.json", tmp_path / "r.html"
        done = run("evaluate", work / "model", work / "set", "--json", figures, "--report", report)
        assert (done.code, done.err) == (0, "")
        assert "I-AUROC" in done.out
        written = json.loads(figures.read_text())
        assert written["overall"]["image"]["auroc"]["value"] == 1
        assert written["setting"]["good"] == written["setting"]["anomalous"] == 3
        assert report.read_text(encoding="utf-8").lower().startswith("<!doctype html>")

    def test_calibrate(self, run: Any, work: Path, tmp_path: Path) -> None:
        write_images(tmp_path / "fresh", 12, first=300)
        arguments = ("calibrate", work / "model", tmp_path / "fresh", "--out", tmp_path / "m", "--false-alarm-rate")
        [printed] = lines(run(*arguments, 0.1))
        assert printed == {
            "model": str(tmp_path / "m"), "promise": "at most 0.1 of good parts rejected, from 12 held-out good images",
            "region_promise": "at most 0.1 of good images show a region, from 12 held-out good images",
        }  # fmt: skip
        failed(run(*arguments, 0.01), 1, "12 good images cannot promise", "at least 99")
        failed(run(*arguments, 1.5), 2, "between 0 and 1")

    def test_calibrate_takes_no_test_images(self, run: Any, work: Path, tmp_path: Path) -> None:
        out = ("--out", tmp_path / "m", "--false-alarm-rate", 0.2)
        write_images(tmp_path / "set" / "train" / "good", 20, first=400)
        write_images(tmp_path / "set" / "test" / "good", 3, first=900)
        [printed] = lines(run("calibrate", work / "model", tmp_path / "set", *out))
        assert "from 20 held-out" in printed["promise"]

    @pytest.mark.parametrize(("arguments", "code", "error", "hint"), [
        (("inspect", "absent", "good"), 1, "no such model folder", "blemish fit"),
        (("inspect", "good", "good"), 1, "holds no model.json", "model folder"),
        (("inspect", "model", "empty"), 1, "no images in this folder", "png"),
        (("inspect", "model", "good", "--engine", "openvin"), 1, "no engine 'openvin'", "openvino"),
        (("inspect", "model", "good", "--format", "xml"), 2, "xml", "--help"),
        (("inspect", "model", "good", "--batch-size", "0"), 2, "--batch-size", "--help"),
        (("inspect", "model"), 2, "argument", "inspect --help"),  # by its name, small or in capitals
        (("evaluate", "model", "good"), 1, "no test image", "test split"),
        (("evaluate", "model", "set", "--category", "st"), 2, "no category 'st'", "did you mean 'set'?"),
        (("fit", "absent", "--out", "m"), 1, "absent", "check the path"),
        (("fit", "good", "--out", "m", "--method", "padimm"), 2, "no method 'padimm'", "did you mean 'padim'?"),
        (("fit", "good", "--out", "m", "--image-size", "big"), 2, "image size 'big'", "256"),
        (("fit", "good", "--out", "m", "--layout", "mvtek"), 2, "mvtek", "did you mean 'mvtec'?"),
        (("fit", "good", "--out", "m", "--backbone", "resnet18"), 1, "no weights for 'resnet18'", "--weights"),
        (("fit", "good", "--out", "m", "--device", "cuda"), 2, "cuda", "--device"),
        (("fit", "good", "--out", "m", "--held-out", "2", *FIT), 2, "held_out", ""),
        (("fit", "good", "--out", "m", "--calibration", "split", *FIT), 1, "by split", "19 good images"),
        (("fit", "good", "--out", "m", "--seed", "-1", *FIT), 2, "seed", ""),
        (("fit", "good", "--out", "good", "--calibration", "none", *FIT), 1, "no model folder", "--out"),
        (("fit", "good"), 2, "--out", "fit --help"),
        (("calibrat", "model", "good"), 2, "calibrat", "--help"),
    ])  # fmt: skip
    def test_errors(
        self, run: Any, work: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, error: str,
        hint: str,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(work)
        failed(run(*arguments), code, error, hint)
        assert not (work / "m").exists()


@pytest.mark.parametrize("command", ["methods", "backbones", "cache", "doctor"])
def test_what_there_is(run: Any, command: str) -> None:
    plain, as_json = run(command), run(command, "--json")
    assert plain.code == as_json.code == 0
    assert plain.out
    [value] = lines(as_json)
    if command == "methods":
        assert [row["name"] for row in value] == methods.names()
        assert all(row["title"] and row["paper"] for row in value)


def test_the_doctor_names_the_devices(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from blemish.learning import devices

    def missing() -> list[str]:
        raise OSError("libcudart.so: cannot open shared object file")

    for cards, there in ((lambda: ["one"], {"cuda:0": "one"}), (list, {})):
        monkeypatch.setattr(devices, "cards", cards)
        assert lines(run("doctor", "--json"))[0]["devices"] == {"cpu": "yes", **there}
    monkeypatch.setattr(devices, "cards", missing)
    [state] = lines(run("doctor", "--json"))
    assert "libcudart" in state["devices"]["cuda"]


def test_cache_is_cleared(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    (tmp_path / "features" / "ab").mkdir(parents=True)
    (tmp_path / "features" / "ab" / "left.tmp").write_text("x")
    [state] = lines(run("cache", "--clear", "--json"))
    assert state["removed"] == 1
    assert (state["entries"], state["bytes"]) == (0, 0)


def test_version_and_help(run: Any) -> None:
    from blemish import __version__

    assert run("--version").out == f"{__version__}\n"
    help_text = run("--help").out
    assert run("--help").code == 0
    for command in ("fit", "inspect", "evaluate", "calibrate", "methods", "backbones", "doctor", "cache", "demo"):
        assert f"  {command} " in help_text


def test_a_reader_that_goes_away_is_no_crash() -> None:
    code = "import sys; from blemish.cli import main; sys.stdout.close = lambda: None; main(['methods', '--json'])"
    done = python("-c", f"import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1); {code}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), OSError(28, "No space left on device", "x.npy")])
def test_what_comes_from_outside(run: Any, monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> None:
    def broken(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("blemish.methods.names", broken)
    done = run("methods")
    if isinstance(raised, OSError):
        assert (done.code, done.err) == (
            1, "error: x.npy: No space left on device\nhint: check path, permission and free space\n"
        )  # fmt: skip
    else:
        assert done.code == 130
        assert done.err == "" or done.err.startswith("error: interrupted\n")  # some releases of Typer keep quiet

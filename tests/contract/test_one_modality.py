"""A modality is one package in `data` and one file in `learning.sources`: a toy of each goes through the whole line.

It lies in `tests/toy`: profiles, text files of heights, and a method for them. Nothing of the package names it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish import Detector, data, methods
from blemish.cli import main, method_tables
from blemish.data import layouts, registry
from blemish.data import storage as places
from blemish.errors import ConfigError, DataError
from blemish.inspection import modelfile
from blemish.learning import sources
from blemish.learning.sources.registry import learning_of
from tests.tiny import Done

TOY = Path(__file__).resolve().parents[1] / "toy"
METHOD = "mean_profile"
LENGTH = 60


@pytest.fixture(scope="module", autouse=True)
def _toy() -> Iterator[None]:
    """The toy's folders beside those of the package."""
    with pytest.MonkeyPatch.context() as patch:
        for package, folder in ((data, "data"), (sources, "sources"), (methods, "methods")):
            patch.setattr(package, "__path__", [*package.__path__, str(TOY / folder)])
        yield
    for name in [name for name in sys.modules if name.startswith("blemish.") and "profile" in name]:
        del sys.modules[name]


def write(path: Path, seed: int, *, dent: bool = False) -> Path:
    values = np.sin(np.arange(LENGTH) / 6) + np.random.default_rng(seed).normal(0, 0.05, LENGTH)
    values[30:35] -= 2.0 * dent
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(f"{value:.4f}" for value in values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good profiles, fresh ones, and a data set with masks, told by a manifest."""
    root = tmp_path_factory.mktemp("profiles")
    for i in range(40):
        write(root / "good" / f"{i:02}.prof", i)
    for i in range(30):
        write(root / "fresh" / f"{i:02}.prof", 100 + i)
    rows = ["path,split,label,mask"]
    for i in range(6):
        rows.append(f"{write(root / 'set' / f'g{i}.prof', 200 + i).name},test,good,")
        rows.append(f"{write(root / 'set' / f'b{i}.prof', 300 + i, dent=True).name},test,anomalous,mask.txt")
    (root / "set" / "mask.txt").write_text("\n".join(str(int(30 <= i < 35)) for i in range(LENGTH)), encoding="utf-8")
    (root / "set" / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.blemish"
    Detector(METHOD, false_alarm_rate=0.2, cache=False).fit(folder / "good").save(path)
    return path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Any:
    def command(*words: object) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        return Done(int(end.value.code or 0), *capfd.readouterr())

    return command


def test_it_is_found_by_its_folder() -> None:
    assert "profile" in registry.names()
    assert learning_of("profile").takes == ("profile",)
    assert f"[{METHOD}](docs/methods/{METHOD}.md) | how far heights lie" in method_tables.table("docs/methods")
    assert "| profiles |" in method_tables.table("docs/methods")


def test_its_models_are_certified_calibrated_and_read_back(model: Path) -> None:
    loaded = modelfile.load(model)
    assert (loaded.meta.kind, loaded.meta.preprocess) == ("profile", {"size": [LENGTH]})
    assert loaded.parity["engines"]["openvino-f32"]["score"] < 1e-3
    assert str(loaded.promise).startswith("at most 0.2 of good parts rejected")


def test_results_say_where(model: Path, folder: Path) -> None:
    detector = Detector.load(model)
    good, bad = (detector.inspect(folder / "set" / f"{name}.prof") for name in ("g0", "b0"))
    assert (good.verdict, bad.verdict) == ("good", "anomalous")
    x0, _, x1, _ = bad.regions[0].bbox
    assert 28 <= x0 < x1 <= 37
    assert detector.inspect(np.loadtxt(folder / "set" / "b0.prof")).score == pytest.approx(bad.score, rel=1e-5)
    assert [r.score for r in detector.inspect_many(folder / "fresh")] == [
        detector.inspect(path).score for path in sorted((folder / "fresh").iterdir())
    ]
    with pytest.raises(DataError, match="has 3 heights, and the model looks at 60"):
        detector.inspect(np.zeros(3))


def test_engines_agree(model: Path, folder: Path) -> None:
    detector = Detector.load(model)
    path = folder / "set" / "b0.prof"
    scores = [detector.inspector(name).inspect(path).score for name in ("openvino", "onnxruntime", "reference")]
    assert scores == pytest.approx([scores[2]] * 3, rel=1e-2)


def test_it_is_calibrated_from_fresh_samples(model: Path, folder: Path) -> None:
    detector = Detector.load(model).calibrate(folder / "fresh", false_alarm_rate=0.1)
    assert str(detector.promise).startswith("at most 0.1")
    with pytest.warns(UserWarning, match="were learned from and are left out"):
        detector.calibrate([*(folder / "fresh").iterdir(), *(folder / "good").iterdir()], false_alarm_rate=0.1)


def test_evaluation_measures_samples_and_places(model: Path, folder: Path) -> None:
    found = Detector.load(model).evaluate(folder / "set")
    assert found.overall.image.auroc.value == 1
    assert found.overall.pixel.auroc.value > 0.95
    assert found.setting.pixel_metrics_in == "rows of the file"


def test_commands_take_it(folder: Path, tmp_path: Path, run: Any) -> None:
    done = run("fit", folder / "good", "--method", METHOD, "--out", tmp_path / "m", "--false-alarm-rate", 0.2)
    assert done.code == 0, done.err
    assert "learning from 40 profiles: good 40" in done.err
    words = ["inspect", tmp_path / "m", folder / "set", "--maps", tmp_path / "maps", "--fail-on-anomaly"]
    done = run(*words)
    assert done.code == 3, done.err
    judged = {Path(row["image_path"]).stem: row["pred_label"] for row in done.rows}
    assert len(judged) == 12
    assert all(judged[f"b{i}"] == "anomalous" for i in range(6))
    assert len(list((tmp_path / "maps").glob("*.png"))) == 12
    assert "note: 2 other files were not inspected: 1 .csv, 1 .txt" in done.err
    done = run(
        "evaluate", tmp_path / "m", folder / "set", "--report", tmp_path / "r.html", "--json", tmp_path / "r.json"
    )
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "r.json").read_text())["setting"]["kind"] == "profile"
    assert "map, from left to right." in (tmp_path / "r.html").read_text()
    assert run("calibrate", tmp_path / "m", folder / "fresh", "--false-alarm-rate", 0.1).code == 0


def test_what_it_cannot_do_is_said(model: Path, folder: Path, tmp_path: Path, run: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no profiles found") as caught:
        layouts.index(tmp_path / "empty", kind="profile")
    assert "prof is read" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="learns no images"):
        Detector(METHOD, multi_class=True).fit(folder / "good")
    done = run("inspect", model, folder / "fresh", "--max-pixels", 100)
    assert "means nothing to a model of profiles" in done.err
    with pytest.raises(ConfigError, match="profiles are read from files, not from URLs"):
        places.files(["s3://bucket/new"], registry.get("profile"))
    with pytest.raises(DataError, match="does not sound like good profiles: 'nok'"):
        layouts.index(write(tmp_path / "mixed" / "nok" / "a.prof", 1).parents[1], kind="profile")

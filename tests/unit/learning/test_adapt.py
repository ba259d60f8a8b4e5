"""Going on from a finished model: what it knew stays, what is new is learned, the threshold is the new station's."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist
from typer.testing import CliRunner

from blemish import methods
from blemish.cli.app import app
from blemish.data.identity import pixels_id
from blemish.data.image.decode import read_image
from blemish.detector import Detector
from blemish.errors import ConfigError, DataError
from blemish.evaluation.bench.cell import method_digest
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model
from blemish.learning.fitted import restore
from blemish.learning.observing import train
from blemish.methods.base import Method
from blemish.methods.padim import Config as PadimConfig
from blemish.methods.padim import PaDiM
from blemish.methods.patchcore import Config as PatchCoreConfig
from blemish.methods.patchcore import PatchCore
from blemish.types import Record
from tests.fakes import SIZE, FakeBackbone, arrays_of, batch_of, good_image
from tests.tiny import GRADIENT, fit_tiny

ADAPTABLE = [name for name in methods.names() if methods.get(name).adaptable()]


def station(folder: Path, count: int, *, first: int = 1000, dark: int = 60) -> Path:
    """Good images in another light."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = np.clip(good_image(first + i).astype(int) - dark, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


def detector(model: Model) -> Detector:
    return Detector.from_model(model, backbone=FakeBackbone())


@pytest.fixture(scope="module")
def padim(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return fit_tiny(tmp_path_factory.mktemp("padim"), method="padim")


def observed(method: Method, images: range, backbone: FakeBackbone) -> None:
    for i in images:
        method.observe(batch_of(backbone, [good_image(i)]))


@pytest.mark.parametrize("first", [1, 2, 7])
def test_gaussians_of_two_lots_are_those_of_one_pass(first: int) -> None:
    backbone = FakeBackbone()
    whole, method, again = (PaDiM(PadimConfig(), backbone.spec(SIZE), SIZE) for _ in range(3))
    train(whole, [batch_of(backbone, [good_image(i)]) for i in range(12)])
    train(method, [arrays_of(backbone, [good_image(i)]) for i in range(first)])
    again.load_fitted(method.fitted_state())
    again.recall(first)
    observed(again, range(first, 12), backbone)
    again.conclude()
    torch.testing.assert_close(again.mean, whole.mean, rtol=1e-4, atol=1e-3)
    batch = batch_of(backbone, [good_image(77)])
    torch.testing.assert_close(again(batch).score, whole(batch).score, rtol=2e-3, atol=1e-3)


def test_gaussians_that_do_not_vary_are_recalled_as_such() -> None:
    backbone = FakeBackbone()
    method, again = (PaDiM(PadimConfig(), backbone.spec(SIZE), SIZE) for _ in range(2))
    train(method, [arrays_of(backbone, [good_image(0)] * 4)])
    again.load_fitted(method.fitted_state())
    again.recall(4)
    assert float(np.abs(again._statistics.covariance()).max()) == 0


def test_a_bank_goes_on_and_covers_both_lots() -> None:
    backbone = FakeBackbone()
    method, again = (PatchCore(PatchCoreConfig(coreset_ratio=0.5), backbone.spec(SIZE), SIZE) for _ in range(2))
    lots = [arrays_of(backbone, [good_image(i) for i in lot]) for lot in (range(8), range(50, 58))]
    train(method, lots[:1])
    again.load_fitted(method.fitted_state())
    again.recall(8)
    again.observe(lots[1])
    again.conclude()
    bank = again.memory + again.centre
    assert len(bank) == round(0.5 * 16 * again.grid[0] * again.grid[1]), "each old image weighs as much as a new one"
    for lot in lots:
        patches = again._descriptors(lot).reshape(-1, bank.shape[1])
        assert float(cdist(patches, bank).min(1).max()) <= float(again.radius) * (1 + 1e-3) + 1e-3


def test_what_is_recalled_or_left_out_has_no_part_in_the_digest_of_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    name, options = ADAPTABLE[0], {}
    whole = inspect.getsource(inspect.getmodule(methods.get(name)))
    marks = []
    for text in (
        whole,
        whole.replace("def recall(self", "def recall(self, *_").replace("def left_out(self", "def left_out(self, *_"),
        whole.replace("def predict(", "def other("),
    ):
        monkeypatch.setattr(inspect, "getsource", lambda _, text=text: text)
        marks.append(method_digest(name, options))
    assert marks[0] == marks[1] != marks[2]


@pytest.mark.parametrize("name", ["padim", "patchcore", GRADIENT])
@pytest.mark.learns
def test_a_new_station_is_learned_and_promised(name: str, tmp_path: Path) -> None:
    model = fit_tiny(tmp_path, method=name)
    new = station(tmp_path / "new", 20)
    fresh = sorted(station(tmp_path / "fresh", 12, first=3000).iterdir())
    old = detector(model)
    before = sum(r.verdict == "anomalous" for r in old.inspect_many(fresh))
    after = Detector.from_model(model, backbone=FakeBackbone()).adapt(new)
    rejected = sum(r.verdict == "anomalous" for r in after.inspect_many(fresh))
    assert before >= 10, "the old model takes the other light for a defect"
    assert rejected <= 6
    meta = after.model.meta
    assert meta.adapted[0].good_images == 20
    assert meta.data.learned_from == model.meta.data.learned_from + meta.adapted[0].learned_from
    assert set(model.meta.data.content_ids) < set(meta.data.content_ids)
    held = set(next(iter(after.model.calibrators.values())).ids)
    assert held
    assert not held & set(meta.data.content_ids)
    assert after.model.graph != model.graph
    after.save(tmp_path / "m")
    assert Detector.load(tmp_path / "m").inspect(fresh[0]).score == after.inspect(fresh[0]).score


@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_each_image_of_a_small_new_station_is_left_out_once(name: str, tmp_path: Path) -> None:
    """Of what is known and new together: as if it had not been among the new ones."""
    model = fit_tiny(tmp_path, method=name, options={"coreset_ratio": 1.0} if name == "patchcore" else {})
    new = sorted(station(tmp_path / "new", 10).iterdir())
    adapted = detector(model).adapt(new).model
    assert adapted.meta.adapted[0].learned_from == 10
    calibrator = adapted.calibrators["f32"]
    assert (calibrator.kind, calibrator.n) == ("leave_one_out", 10)
    for path in new[:3]:
        without = detector(replace(model, run={**model.run, "calibration": "none"})).adapt(
            [p for p in new if p != path]
        )
        score = Inspector(replace(without.model, meta=replace(without.model.meta, precision="f32"))).inspect(path).score
        assert min(abs(score - s) for s in calibrator.scores) < 0.02 * score


@pytest.mark.learns
def test_a_trained_method_takes_a_share_of_its_steps_from_what_it_knows(tmp_path: Path) -> None:
    model = fit_tiny(tmp_path, method=GRADIENT)
    adapted = detector(model).adapt(station(tmp_path / "new", 20), share=0.1).model
    steps = {p.phase: p.steps for p in model.meta.training}
    assert {p.phase: p.steps for p in adapted.meta.adapted[0].training} == {
        name: max(round(0.1 * count), 1) for name, count in steps.items()
    }
    again = detector(model).adapt(station(tmp_path / "new", 20), share=0.1).model
    assert again.tensors == adapted.tensors, "the same images give the same bits"


def test_what_was_learned_from_is_left_out(tmp_path: Path) -> None:
    model = fit_tiny(tmp_path, method="padim")
    known = set(model.meta.data.content_ids)
    learned = [p for p in sorted((tmp_path / "good").iterdir()) if pixels_id(read_image(p)) in known]
    assert learned
    with pytest.warns(UserWarning, match="learned from"), pytest.raises(DataError, match="learned from all"):
        detector(model).adapt(learned)


def test_units_of_the_new_station_are_remembered(padim: Model, tmp_path: Path) -> None:
    files = sorted(station(tmp_path / "new", 20).iterdir())
    new = [Record(path.name, path, unit=f"part {k // 2}") for k, path in enumerate(files)]
    after = detector(padim).adapt(new).model
    step = after.meta.adapted[0]
    assert set(padim.meta.data.units) < set(after.meta.data.units)
    assert len(after.meta.data.units) - len(padim.meta.data.units) == -(-step.learned_from // 2)


def test_what_is_known_weighs_as_much_as_the_images_that_it_came_from(padim: Model, tmp_path: Path) -> None:
    asked = []
    cls = methods.get("padim")
    recall = cls.recall
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "recall", lambda self, samples: (asked.append(samples), recall(self, samples))[1])
        detector(padim).adapt(station(tmp_path / "new", 20))
    assert set(asked) == {padim.meta.data.learned_from}


def test_errors(padim: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = station(tmp_path / "new", 8)
    with pytest.raises(ConfigError, match="share"):
        detector(padim).adapt(new, share=0)
    monkeypatch.setattr(PaDiM, "recall", Method.recall)
    with pytest.raises(ConfigError, match="padim cannot continue learning"):
        detector(padim).adapt(new)


def test_every_method_says_whether_it_can_be_adapted() -> None:
    for name in methods.names():
        cls = methods.get(name)
        assert cls.adaptable() == (bool(cls.fitted_modules) or "recall" in vars(cls)), name


@pytest.mark.slow
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fit_tiny(tmp_path, method="padim")
    detector(model).save(tmp_path / "m")
    new = station(tmp_path / "new", 20)
    monkeypatch.setattr("blemish.learning.plan.load_backbone", lambda _: FakeBackbone())
    done = CliRunner().invoke(app, ["adapt", str(tmp_path / "m"), str(new), "--out", str(tmp_path / "m2")])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["compared"] == 20
    assert printed["learned_from"] + printed["held_out"] == 20
    assert "rejected" in printed["promise"]
    assert all(c["before"] == "anomalous" and c["after"] == "good" for c in printed["changed"])
    assert len(printed["changed"]) >= 14
    assert f"{len(printed['changed'])} of 20 verdicts change" in done.stderr
    lines = "".join(json.dumps({"image_path": str(p), "error": None}) + "\n" for p in sorted(new.iterdir())[:3])
    (tmp_path / "lines.jsonl").write_text(lines)
    arguments = ["adapt", str(tmp_path / "m"), str(new), "--out", str(tmp_path / "m3"), "--earlier"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "lines.jsonl")])
    assert json.loads(done.stdout)["compared"] == 3
    (tmp_path / "lines.jsonl").write_text("nothing\n")
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "lines.jsonl")])
    assert isinstance(done.exception, DataError)


def test_restoring_gives_a_new_method_each_time(padim: Model) -> None:
    first, second = (restore(padim, FakeBackbone())[1] for _ in range(2))
    assert first is not second

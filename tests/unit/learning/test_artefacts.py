"""What a shared phase has learned, as a file: made, read, refused, used by a fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blemish import Detector
from blemish.errors import ConfigError, DataError
from blemish.evaluation.bench.cell import weights_digest
from blemish.learning import artefacts, training
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.options import FitOptions
from blemish.learning.plan import FitPlan
from blemish.learning.run import _schedule, teach
from blemish.learning.training import Plan
from blemish.methods.mudenet import Config, MuDeNet
from blemish.types import SHIPPED
from tests.fakes import SIZE, FakeBackbone, FakeSamples, good_image, write_images
from tests.unit.learning.test_training import Killed, Memory

OPTIONS = {**MuDeNet.brief, "distil_steps": 3, "steps": 2, "logical_steps": 2, "batch": 4, "distil_batch": 4}
OPTIONS["logical_batch"] = 4
NAMES = ("scale", "width", "channels", "znorm", "stratified")


def distilled(backbone: FakeBackbone, plan: Plan | None = None, **options: Any) -> bytes:
    method = MuDeNet(Config(**{**OPTIONS, **options}), backbone.spec(SIZE), SIZE)
    scenes = FakeSamples(backbone, [good_image(i) for i in range(8)], method.needs)
    return training.learned(method, method.phases()[0], scenes, plan or Plan())


def recipe(backbone: FakeBackbone, changed: dict[str, Any] | None = None) -> dict[str, Any]:
    options = {name: getattr(Config(**OPTIONS), name) for name in NAMES}
    return {"method": "mudenet", "backbone": backbone.identity, "options": options, "steps": 3} | (changed or {})


@pytest.fixture
def teacher(backbone: FakeBackbone, tmp_path: Path) -> Path:
    path = tmp_path / "kept" / "teacher.safetensors"
    artefacts.write(path, distilled(backbone), recipe(backbone))
    return path


def read(path: Path | str, backbone: FakeBackbone, **options: Any) -> bytes:
    given = {name: getattr(Config(**{**OPTIONS, **options}), name) for name in NAMES}
    return artefacts.read(str(path), method="mudenet", backbone=backbone.identity, options=given)


def test_what_was_learned_comes_back_as_it_was(backbone: FakeBackbone, teacher: Path) -> None:
    assert read(teacher, backbone) == teacher.read_bytes() == distilled(backbone)
    described = json.loads(teacher.with_suffix(".json").read_text())
    assert described["bytes"] == teacher.stat().st_size
    assert described["steps"] == 3


@pytest.mark.parametrize("place", [0, 400, -1])
def test_a_changed_file_is_an_error(backbone: FakeBackbone, teacher: Path, place: int) -> None:
    data = bytearray(teacher.read_bytes())
    data[place] ^= 1
    teacher.write_bytes(data)
    with pytest.raises(DataError, match="sha256"):
        read(teacher, backbone)


def test_a_cut_file_is_an_error(backbone: FakeBackbone, teacher: Path) -> None:
    teacher.write_bytes(teacher.read_bytes()[:-7])
    with pytest.raises(DataError, match="sha256"):
        read(teacher, backbone)


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"sha256": 1, "method": "", "backbone": "", "options": {}}'])
def test_a_description_that_says_nothing_is_an_error(backbone: FakeBackbone, teacher: Path, text: str) -> None:
    teacher.with_suffix(".json").write_text(text)
    with pytest.raises(DataError, match=r"teacher\.json"):
        read(teacher, backbone)


def test_missing_files_are_errors(backbone: FakeBackbone, teacher: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read("nowhere.safetensors", backbone)
    teacher.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"teacher\.json"):
        read(teacher, backbone)


def test_one_for_something_else_is_an_error(backbone: FakeBackbone, teacher: Path) -> None:
    with pytest.raises(ConfigError, match="width 8, not 12"):
        read(teacher, backbone, width=12)
    for changed in ({"backbone": "other@1/0,1,2"}, {"method": "hetnet"}):
        artefacts.write(teacher, teacher.read_bytes(), recipe(backbone, changed))
        with pytest.raises(ConfigError, match=next(iter(changed.values()))):
            read(teacher, backbone)


def test_no_other_network_gets_the_one_that_is_shipped(backbone: FakeBackbone) -> None:
    with pytest.raises(ConfigError, match="'fake'"):
        read(SHIPPED, backbone)


def test_a_killed_making_goes_on_to_the_same_file(backbone: FakeBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Memory()
    step = training._PhaseRun._step

    def dying(self: Any, batch: Any) -> dict[str, float]:
        if self.step == 2:
            raise Killed
        return step(self, batch)

    plan = {"store": store, "name": "teacher", "snapshot_every": 0}
    monkeypatch.setattr(training._PhaseRun, "_step", dying)
    with pytest.raises(Killed):
        distilled(backbone, Plan(**plan), distil_steps=5)  # type: ignore[arg-type]
    assert store.get("teacher") is not None
    monkeypatch.undo()
    again = distilled(backbone, Plan(**plan), distil_steps=5)  # type: ignore[arg-type]
    assert again == distilled(backbone, distil_steps=5)


def fitted(plan: FitPlan, records: Any) -> tuple[MuDeNet, list[str]]:
    method, _, report = teach(plan, records)
    assert isinstance(method, MuDeNet)
    return method, [phase.phase for phase in report if phase.kept]


def test_a_fit_takes_it_and_draws_no_scene(backbone: FakeBackbone, teacher: Path, tmp_path: Path) -> None:
    """Teacher and target are those of the file, bit for bit; what the students learn from it is their own."""
    records = write_images(tmp_path / "good", 12)
    options = FitOptions(method="mudenet", image_size="64x48", options={**OPTIONS, "teacher": str(teacher)})
    plan = FitPlan.of(records, options, backbone=backbone, cache=FeatureCache(tmp_path / "cache"))
    method, kept = fitted(plan, records)
    assert kept == ["distil"]
    wanted = MuDeNet(Config(**OPTIONS), backbone.spec(SIZE), SIZE)
    training._load(wanted, wanted.phases()[0], teacher.read_bytes())
    for name in ("teacher", "target"):
        for key, value in getattr(wanted, name).state_dict().items():
            assert torch.equal(getattr(method, name).state_dict()[key], value), key


def test_a_fit_with_a_changed_file_ends_before_anything_is_learned(
    backbone: FakeBackbone, teacher: Path, tmp_path: Path
) -> None:
    records = write_images(tmp_path / "good", 4)
    teacher.write_bytes(teacher.read_bytes() + b" ")
    options = FitOptions(method="mudenet", image_size="64x48", options={**OPTIONS, "teacher": str(teacher)})
    cache = FeatureCache(tmp_path / "cache")
    with pytest.raises(DataError, match="sha256"):
        FitPlan.of(records, options, backbone=backbone, cache=cache)
    assert cache.describe()["entries"] == 0


def test_another_teacher_is_another_run(backbone: FakeBackbone, teacher: Path, tmp_path: Path) -> None:
    """For the snapshots of a fit, and for the results of the bench: the file's content counts, not its name."""
    records = write_images(tmp_path / "good", 4)
    options = FitOptions(method="mudenet", image_size="64x48", options={**OPTIONS, "teacher": str(teacher)})

    def names() -> tuple[str, str]:
        plan = FitPlan.of(records, options, backbone=backbone, cache=FeatureCache(tmp_path / "cache"))
        return _schedule(plan, plan.chunk.method(plan.source), set(), 1.0).name, weights_digest(options)

    first = names()
    assert names() == first
    artefacts.write(teacher, distilled(backbone, distil_steps=4), recipe(backbone))
    assert all(a != b for a, b in zip(first, names(), strict=True))
    assert first[1] != weights_digest(FitOptions(method="mudenet", options={"teacher": "scenes"}))


@pytest.mark.real
def test_the_one_that_comes_with_the_package_is_what_it_says(tmp_path: Path) -> None:
    path = artefacts.shipped("efficientnet_lite0")
    assert path.stat().st_size < 1_000_000
    described = json.loads(path.with_suffix(".json").read_text())
    assert not described["pool"]["folders"], "of free pictures alone"
    detector = Detector("mudenet", calibration="none", steps=1, logical_steps=1, until="steps", image_size="64sq")
    detector.fit(write_images(tmp_path / "good", 4))
    assert [phase.kept for phase in detector.model.meta.training] == [True, False, False]

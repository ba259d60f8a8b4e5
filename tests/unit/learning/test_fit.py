"""From records to a model: what is held out, what is never touched, and that a run can be repeated."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish.config import build
from blemish.data.image.preprocess import Preprocess
from blemish.errors import CalibrationError, ConfigError, DataError
from blemish.inspection.calibrate import formats
from blemish.inspection.conformal import images_needed
from blemish.inspection.engines import best_precision
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model
from blemish.learning import run as learning
from blemish.learning import splits as holdout
from blemish.learning import training
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.fit import fit
from blemish.learning.fitted import restore
from blemish.learning.options import FitOptions
from blemish.learning.sources.features import FeatureSource
from blemish.learning.sources.image import plan_geometry
from blemish.learning.training import Plan
from blemish.methods.base import Method, Phase
from blemish.methods.padim import PaDiM
from blemish.types import Record
from tests.fakes import FakeBackbone, defective_image, good_image, write_images
from tests.tiny import GRADIENT, SAMPLE, TRAINED, fit_tiny

pytestmark = pytest.mark.slow


def records_of(count: int, units: int | None = None) -> list[Record]:
    """Records without files: planning reads none."""
    unit = [None if units is None else f"u{i % units}" for i in range(count)]
    return [Record(f"{i:03d}.png", Path(f"{i:03d}.png"), unit=unit[i]) for i in range(count)]


Parts = list[tuple[set[str], set[str]]]


class Folding(PaDiM):
    """One that cannot leave images out of what it has learned."""

    left_out = Method.left_out


class Costly(Folding):
    """One that learns for minutes, too."""

    needs = replace(PaDiM.needs, costly=True)


class CostlyOnce(PaDiM):
    """One that learns for minutes, but once."""

    needs = Costly.needs


def plan(
    records: Sequence[Record], rate: float, method: type[Method[Any]] = Folding, **options: object
) -> tuple[str | None, Parts]:
    with_rate = build(FitOptions, {"false_alarm_rate": rate, **options})
    split = holdout.plan_calibration(records, with_rate, method)
    parts = [(split.learn, split.held)] if split.kind == "split" else split.folds
    return split.kind, [({r.id for r in learn}, {r.id for r in held}) for learn, held in parts]


@pytest.mark.filterwarnings("ignore:.*saved without a threshold")
@pytest.mark.parametrize(("count", "rate", "kind"), [
    (95, 0.05, "split"), (92, 0.05, "cross"), (19, 0.05, "cross"), (18, 0.05, None), (1, 0.05, None),
    (20, 0.2, "split"), (17, 0.2, "cross"), (4, 0.2, "cross"), (3, 0.2, None), (2, 0.4, "cross"), (495, 0.01, "split"),
    (1, 0.5, None), (2, 0.5, "cross"), (5, 0.5, "split"),
])  # fmt: skip
def test_what_is_chosen(count: int, rate: float, kind: str | None) -> None:
    chosen, parts = plan(records_of(count), rate)
    assert chosen == kind
    assert len(parts) == {"split": 1, "cross": min(5, count), None: 0}[kind]


@pytest.mark.parametrize(("count", "kind", "held"), [
    (37, "cross", None), (38, "split", 19), (60, "split", 19), (94, "split", 19), (200, "split", 40),
])  # fmt: skip
def test_where_learning_is_costly_half_may_be_held_out(count: int, kind: str, held: int | None) -> None:
    chosen, parts = plan(records_of(count), 0.05, Costly)
    assert chosen == kind
    assert held is None or len(parts[0][1]) == held
    assert plan(records_of(count), 0.05, Costly, calibration="folds")[0] == "cross"


@pytest.mark.parametrize("method", [PaDiM, CostlyOnce])
@pytest.mark.parametrize(
    ("count", "kind"),
    [(19, "leave_one_out"), (38, "leave_one_out"), (92, "leave_one_out"), (95, "split"), (200, "split")],
)
def test_a_method_that_can_leaves_each_image_out_once(method: type[Method[Any]], count: int, kind: str) -> None:
    """It holds none out where a fifth is too few, and learns no folds unless the pool proves too small."""
    assert plan(records_of(count), 0.05, method)[0] == kind
    split = holdout.plan_calibration(records_of(count), build(FitOptions, {}), method)
    assert len(split.learn) == (count if kind == "leave_one_out" else count - round(0.2 * count))
    assert len(split.folds) == (holdout.FOLDS if kind == "leave_one_out" else 0)
    assert plan(records_of(count), 0.05, method, calibration="folds")[0] == "cross"
    asked = holdout.plan_calibration(records_of(count), build(FitOptions, {"calibration": "leave_one_out"}), method)
    assert (asked.kind, len(asked.learn), asked.folds) == ("leave_one_out", count, ())


@pytest.mark.parametrize(("count", "units", "per"), [(18, None, "image"), (60, 18, "unit"), (60, 1, "image")])
def test_too_few_to_leave_out(count: int, units: int | None, per: str) -> None:
    with pytest.raises(CalibrationError, match=r"0\.05 by leave_one_out"):
        plan(records_of(count, units), 0.05, PaDiM, calibration="leave_one_out", promise_per=per)


def test_what_cannot_leave_out_says_so() -> None:
    with pytest.raises(ConfigError, match="rd cannot leave images out") as caught:
        holdout.plan_calibration(
            records_of(100), build(FitOptions, {"calibration": "leave_one_out", "method": "rd"}), Folding
        )
    assert "--calibration" in str(caught.value.hint)


@pytest.mark.parametrize(("count", "kept", "held"), [(100, 8, 20), (38, 5, 19), (28, 5, 19), (27, 8, 0), (20, 1, 0)])
def test_what_is_held_out_of_one_category(count: int, kept: int, held: int) -> None:
    records = records_of(count)
    options = build(FitOptions, {})
    learn, out = holdout.hold_out(records, records[:kept], options)
    assert len(out) == held
    assert {r.id for r in learn} | {r.id for r in out} == {r.id for r in records}
    assert not {r.id for r in out} & {r.id for r in records[:kept]}
    assert holdout.hold_out(records, records[:kept], replace(options, calibration="none"))[1] == []
    few_units = records_of(count, 10)  # images of ten units: enough by images, too few by units
    assert holdout.hold_out(few_units, few_units[:1], replace(options, promise_per="unit"))[1] == []
    learn, out = holdout.hold_out(few_units, few_units[:1], options)
    assert not {r.unit for r in learn} & {r.unit for r in out}
    assert (len(out) >= 19) == (count >= 38)
    if not held:
        with pytest.raises(CalibrationError, match=f"{count} good images cannot promise"):
            holdout.hold_out(records, records[:kept], replace(options, calibration="split"))


def test_strangeness_is_told_by_all_units_that_the_vote_has_not_learned() -> None:
    options = build(FitOptions, {"false_alarm_rate": 0.2})  # four are needed, forty taken
    records = records_of(400, 10)
    held = [r for r in records if r.unit == "u0"][:8]
    anchors = {r.id for r in records[50:70]}
    more = holdout.new_to_the_router(records, held, anchors, options)
    assert len(held) + len(more) == 40
    assert not {r.id for r in more} & ({r.id for r in held} | anchors)
    counts = Counter(r.unit for r in more).values()
    assert sorted(counts) == [3] * 8 + [4] * 2  # in turns
    assert more == holdout.new_to_the_router(list(reversed(records)), held, anchors, options)
    assert len(holdout.new_to_the_router(records[:30], [], set(), options)) == 30
    assert holdout.new_to_the_router(records, held, anchors, replace(options, calibration="none")) == []


@pytest.mark.parametrize(("count", "rate"), [(95, 0.05), (30, 0.05), (50, 0.1), (7, 0.2)])
def test_parts_are_disjoint_and_whole(count: int, rate: float) -> None:
    kind, parts = plan(records_of(count), rate)
    everything = {r.id for r in records_of(count)}
    for learn, held in parts:
        assert learn
        assert held
        assert learn | held == everything
        assert not learn & held
    pooled = [i for _, held in parts for i in held]
    assert len(pooled) == len(set(pooled))
    if kind == "cross":
        assert set(pooled) == everything
    else:
        assert len(pooled) >= images_needed(rate)


@pytest.mark.parametrize(("count", "units"), [(190, 95), (120, 40), (40, 20)])
def test_units_stay_whole(count: int, units: int) -> None:
    records = records_of(count, units)
    kind, parts = plan(records, 0.05)
    assert kind is not None
    unit = {r.id: r.unit for r in records}
    for learn, held in parts:
        assert not {unit[i] for i in learn} & {unit[i] for i in held}


def test_one_unit_cannot_be_split() -> None:
    with pytest.warns(UserWarning, match="without a threshold"):
        assert plan(records_of(200, 1), 0.05) == (None, [])


@pytest.mark.parametrize(
    ("calibration", "count"), [("split", 92), ("split", 19), ("split", 1), ("folds", 18), ("folds", 1)]
)
def test_what_was_asked_for_and_cannot_be(calibration: str, count: int) -> None:
    with pytest.raises(CalibrationError, match=f"{count} good images .* 0.05 by {calibration}") as caught:
        plan(records_of(count), 0.05, calibration=calibration)
    assert "19 good images that are all learned from or about 95 with 20% held out" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("calibration", "kind"), [("split", "split"), ("folds", "cross"), ("none", None), ("auto", "split")]
)
def test_what_was_asked_for(calibration: str, kind: str | None) -> None:
    assert plan(records_of(100), 0.05, calibration=calibration)[0] == kind


def test_the_warning_says_how_many_are_needed() -> None:
    with pytest.warns(
        UserWarning, match="10 good images cannot promise .* 0.05: .* 19 good images that are all learned from .* 95 "
    ):
        plan(records_of(10), 0.05)


def test_seeds_choose_what_is_held_out() -> None:
    records = records_of(100)
    assert plan(records, 0.05, seed=3) == plan(records, 0.05, seed=3)
    assert plan(records, 0.05, seed=3) != plan(records, 0.05, seed=4)
    assert plan(records[::-1], 0.05, seed=3) == plan(records, 0.05, seed=3)


def scores(model: Model) -> list[float]:
    line = Inspector(model, threads=1)
    return [line.inspect(image).score for image in (good_image(90), defective_image(91)[0], good_image(92, (70, 50)))]


@pytest.fixture(scope="module", params=SAMPLE)
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.slow
def test_a_recipe_repeats_a_run(method: str, tmp_path: Path) -> None:
    first = fit_tiny(tmp_path, method=method, seed=5, calibration="split")
    recipe = json.loads(json.dumps(first.run))
    again = fit_tiny(tmp_path, **recipe)
    assert scores(again) == scores(first)
    assert again.calibrators == first.calibrators
    assert again.tensors == first.tensors
    assert again.run == first.run


@pytest.mark.slow
def test_cached_features_give_the_same_bits(method: str, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "features")
    records = write_images(tmp_path / "good", 12)
    models = [
        fit_tiny(tmp_path, records, method=method, cache=chosen, calibration="none") for chosen in (None, cache, cache)
    ]
    assert cache.describe()["entries"] >= 12  # and the twins of those that want some
    assert len({model.tensors for model in models}) == 1
    assert scores(models[0]) == scores(models[1]) == scores(models[2])


def test_a_second_run_computes_nothing_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    records = write_images(tmp_path / "good", 5)
    counts = []
    for _ in range(2):
        source = learning.FeatureSource(FakeBackbone(), Preprocess((48, 64)), FeatureCache(tmp_path))
        assert [r.id for r, _ in source.stream(records)] == [r.id for r in records]
        counts.append(source.computed)
    assert counts == [5, 0]


def test_only_good_training_records_are_touched(tmp_path: Path) -> None:
    absent = tmp_path / "absent.png"
    others = [
        Record("test", absent, split="test"), Record("bad", absent, split="test", label=1),
        Record("held", absent, split="held"), Record("odd", absent, split="train", label=1),
    ]  # fmt: skip
    good = write_images(tmp_path / "good", 8)
    plain = fit_tiny(tmp_path, good, calibration="none")
    mixed = fit_tiny(tmp_path, [*others, *good, *others], calibration="none")
    assert mixed.tensors == plain.tensors
    assert mixed.meta.data == plain.meta.data
    with pytest.raises(DataError, match="no good image"):
        fit_tiny(tmp_path, others)


def test_what_is_held_out_is_not_learned(tmp_path: Path) -> None:
    """The method of a split is the method of the part that it learns from, alone."""
    records = write_images(tmp_path / "good", 10)
    options = build(FitOptions, {"false_alarm_rate": 0.4, "calibration": "split"})
    split = holdout.plan_calibration(records, options, PaDiM)
    learn, held = split.learn, split.held
    split = fit_tiny(tmp_path, records, false_alarm_rate=0.4, calibration="split")
    alone = fit_tiny(tmp_path, learn, calibration="none")
    assert split.tensors == alone.tensors
    assert split.meta.data.learned_from == len(learn) == 10 - len(held)
    assert {c.n for c in split.calibrators.values()} == {len(held)}
    line = Inspector(split, threads=1)
    expected = sorted(line.inspect(r.path).score for r in held)
    assert list(split.calibrators[line.engine.precision].scores) == pytest.approx(expected, rel=1e-6)


def test_folds_learn_from_all(tmp_path: Path) -> None:
    records = write_images(tmp_path / "good", 8)
    folds = fit_tiny(tmp_path, records, false_alarm_rate=0.2, calibration="folds")
    assert folds.tensors == fit_tiny(tmp_path, records, calibration="none").tensors
    assert folds.meta.data.learned_from == 8
    assert {(c.kind, c.n) for c in folds.calibrators.values()} == {("cross", 8)}


@pytest.mark.parametrize("units", [None, 5])
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_left_out_scores_are_those_of_models_without(tmp_path: Path, units: int | None, precision: str) -> None:
    """In each number format as its graph gives them; of the whole unit's images, none was learned."""
    records = [replace(r, unit=units and f"u{i % units}") for i, r in enumerate(write_images(tmp_path / "good", 10))]
    given = {"false_alarm_rate": 0.2, "precision": precision}
    model = fit_tiny(tmp_path, records, calibration="leave_one_out", **given)
    whole = fit_tiny(tmp_path, records, calibration="none", **given)
    assert (model.tensors, model.graph) == (whole.tensors, whole.graph)
    assert model.meta.data.learned_from == 10
    assert set(model.calibrators) == set(formats())
    expected: dict[str, list[tuple[float, float]]] = {p: [] for p in model.calibrators}
    for unit in {r.whole for r in records}:
        without = fit_tiny(tmp_path, [r for r in records if r.whole != unit], calibration="none", **given)
        for p, values in expected.items():
            line = Inspector(replace(without, meta=replace(without.meta, precision=p)), threads=1)
            results = [line.inspect(r.path) for r in records if r.whole == unit]
            values += [(r.score, float(r.anomaly_map.max())) for r in results]
    for p, calibrator in model.calibrators.items():
        scores, peaks = zip(*sorted(expected[p]), strict=True)
        assert calibrator.kind == "leave_one_out"
        assert list(calibrator.scores) == pytest.approx(scores, rel=2e-3 if p == "f32" else 0.02)
        assert list(calibrator.peaks) == pytest.approx(peaks, rel=2e-3 if p == "f32" else 0.02)
        assert len(set(calibrator.units)) == (units or 0)
    assert model.parity.get("formats", {}).get("images", 10) == 10


def test_a_pool_that_was_condensed_gets_folds(tmp_path: Path) -> None:
    """Or an error, where nothing else was asked for."""
    records = write_images(tmp_path / "good", 24)  # two batches
    small = {"bank": 10, "pool": 60}
    model = fit_tiny(tmp_path, records, method="patchcore", held_out=0.1, options=small)
    assert {c.kind for c in model.calibrators.values()} == {"cross"}
    assert model.meta.data.learned_from == 24
    enough = fit_tiny(tmp_path, records, method="patchcore", held_out=0.1)
    assert {c.kind for c in enough.calibrators.values()} == {"leave_one_out"}
    with pytest.raises(CalibrationError, match="24 parts do not fit into the pool") as caught:
        fit_tiny(tmp_path, records, method="patchcore", calibration="leave_one_out", options=small)
    assert "pool" in str(caught.value.hint)


def test_folds_build_no_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the graph of the whole model is compared with PyTorch."""
    references: list[object] = []
    reference = FeatureSource.reference

    def counted(self: FeatureSource, *arguments: Any) -> Any:
        references.append(reference(self, *arguments))
        return references[-1]

    monkeypatch.setattr(FeatureSource, "reference", counted)
    folds = fit_tiny(tmp_path, write_images(tmp_path / "good", 8), false_alarm_rate=0.2, calibration="folds")
    assert {c.kind for c in folds.calibrators.values()} == {"cross"}
    assert len(references) == 1


def test_a_model_without_threshold(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="3 good images cannot promise"):
        model = fit_tiny(tmp_path, write_images(tmp_path / "good", 3), false_alarm_rate=0.05)
    result = Inspector(model, threads=1).inspect(good_image(0))
    assert (result.verdict, result.p_value, result.threshold, result.regions) == (None, None, None, ())


@pytest.mark.parametrize(("sizes", "image_size", "size"), [
    ([(40, 160)] * 3, "64", (32, 128)), ([(160, 40)] * 3, "64", (128, 32)), ([(64, 64)] * 3, "64", (64, 64)),
    ([(40, 160), (40, 160), (64, 64)], "64", (32, 128)), ([(40, 160)] * 3, "64sq", (64, 64)),
    ([(40, 160)] * 3, "96x32", (32, 96)),
])  # fmt: skip
def test_the_aspect_is_kept(
    tmp_path: Path, sizes: list[tuple[int, int]], image_size: str, size: tuple[int, int]
) -> None:
    records = [
        replace(record, path=tmp_path / f"{i}{one}" / record.path.name)
        for i, one in enumerate(sizes)
        for record in write_images(tmp_path / f"{i}{one}", 1, one)
    ]
    assert plan_geometry(records, image_size, 16).size == size


def test_maps_come_back_in_source_pixels(tmp_path: Path) -> None:
    records = [r for i in range(4) for r in write_images(tmp_path / "good", 4, (40, 150))]
    model = fit_tiny(tmp_path, records[:4], image_size="64", calibration="none")
    assert model.meta.preprocess["size"] == [32, 128]
    for shape in ((40, 150), (33, 77), (200, 20)):
        result = Inspector(model, threads=1).inspect(good_image(0, shape))
        assert result.anomaly_map.shape == shape


def test_deep_images_get_a_white_level(tmp_path: Path) -> None:
    records = []
    for i in range(6):
        path = tmp_path / f"{i}.png"
        Image.fromarray(good_image(i)[:, :, 0].astype(np.uint16) * 16).save(path)
        records.append(Record(path.name, path))
    model = fit_tiny(tmp_path, records, calibration="none")
    assert 2000 < model.meta.preprocess["white_uint16"] < 4096
    score = Inspector(model, threads=1).inspect(records[0].path).score
    assert np.isfinite(score)


@pytest.mark.parametrize(("options", "named"), [
    ({"method": "padimm"}, "no method 'padimm'"), ({"options": {"no_such": 1}}, "unknown option 'no_such'"),
    ({"image_size": "big"}, "image size 'big'"), ({"views": ("flip_h",)}, "is not trained, and takes no further views"),
    ({"textures": "some/folder"}, "takes no textures"), ({"method": GRADIENT, "textures": "some"}, "takes no textures"),
])  # fmt: skip
def test_bad_options_come_before_any_work(tmp_path: Path, options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        fit_tiny(tmp_path, write_images(tmp_path / "good", 2), **options)


def test_restore_refuses_another_backbone(tmp_path: Path) -> None:
    model = fit_tiny(tmp_path, calibration="none")
    other = FakeBackbone()
    other.identity = "fake@1/0,1,2"
    with pytest.raises(ConfigError, match="fake@1"):
        restore(model, other)


def test_no_warning_where_all_is_well(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit_tiny(tmp_path, calibration="split")
    assert model.calibrators
    assert fit.__doc__


def plan_of(folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> tuple[Plan, Model]:
    """How the phases of a tiny model were carried out, and the model."""
    plans: list[Plan] = []

    class Kept(Plan):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            plans.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(training, "Plan", Kept)
        model = fit_tiny(folder, method=TRAINED[0], precision=precision, options={"steps": 1})
    return plans[-1], model


def test_training_is_float32_on_every_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the processor computes in bf16 changes no weight, and the model says what it was trained in."""
    auto, model = plan_of(tmp_path / "a", monkeypatch, "auto")
    plain, same = plan_of(tmp_path / "b", monkeypatch, "f32")
    assert (auto.bf16, plain.bf16) == (False, False)
    assert model.tensors == same.tensors
    assert {phase.precision for phase in model.meta.training} == {"f32"}


@pytest.mark.skipif(best_precision() != "bf16", reason="features are not computed in bf16 on this processor")
def test_bf16_is_trained_in_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short, model = plan_of(tmp_path / "a", monkeypatch, "bf16")
    plain, _ = plan_of(tmp_path / "b", monkeypatch, "f32")
    assert short.bf16
    assert {phase.precision for phase in model.meta.training} == {"bf16"}
    phase = Phase("p", 1, ())
    assert short.shared is not None
    assert plain.shared is not None
    assert short.name != plain.name
    assert short.shared(phase) != plain.shared(phase), "what was learned in one format is not found in the other"

"""One model of several categories: names, votes, promises for each, heads that do not know each other."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import signal
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray
from PIL import Image

from blemish import methods
from blemish.data import layouts
from blemish.detector import Detector
from blemish.errors import ConfigError, DataError, EngineError
from blemish.evaluation.evaluate import evaluate
from blemish.inspection import graph_parts, modelfile
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model
from blemish.learning import run
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.fitted import restore, restore_vote
from blemish.learning.heads import Vote
from blemish.learning.multiclass import construct, decided, few_of_each_group, voting_level, worse_parity
from blemish.learning.options import FitOptions
from blemish.learning.plan import FitPlan
from blemish.ops.arrays import as_float
from blemish.types import Batch, Prediction, Record, Routing
from tests.fakes import SIZE, FakeBackbone, good_image
from tests.tiny import fit_tiny

pytestmark = pytest.mark.slow
KINDS = ("stripes", "checks", "dots")
RATE = 0.2


def image_of(kind: str, seed: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng([seed, len(kind)])
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    if kind == "stripes":
        return good_image(seed)
    if kind == "checks":
        plain = 60.0 + 120 * ((x // 6 + y // 6) % 2)
    elif kind == "dots":
        plain = 200.0 - 150 * (((x % 12 - 6) ** 2 + (y % 12 - 6) ** 2) < 9)
    else:
        plain = 128 + 100 * np.sin(x / 1.5) * np.cos(y / 2.0)  # a product that nobody has seen
    return (plain[..., None] + generator.normal(0, 6, (*SIZE, 3))).clip(0, 255).astype(np.uint8)


def write(root: Path, kind: str, count: int, first: int = 0, split: str = "train", **more: Any) -> list[Record]:
    folder = root / kind / split
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for seed in range(first, first + count):
        path = folder / f"{seed:03d}.png"
        Image.fromarray(image_of(kind, seed)).save(path)
        out.append(Record(f"{kind}/{split}/{seed:03d}.png", path, split=split, group=kind, **more))  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    root = tmp_path_factory.mktemp("several")
    return [record for kind in KINDS for record in write(root, kind, 16)]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Good and spoilt test images of each kind."""
    root = tmp_path_factory.mktemp("fresh")
    out = []
    for kind in KINDS:
        out += write(root, kind, 6, 100, "test")
        for record in write(root, kind, 4, 200, "test", label=1, defect="spot"):
            image = np.array(Image.open(record.path))
            image[20:30, 20:36] = (255, 0, 255)
            Image.fromarray(image).save(record.path)
            out.append(record)
    return out


class Made(dict[str, Model]):
    """Models by how they were made, each made when it is first asked for."""

    def __init__(self, data: list[Record], folder: Path, **more: Any) -> None:
        self.data, self.folder, self.more = data, folder, more

    def __missing__(self, name: str) -> Model:
        options: dict[str, Any] = {
            "pooled": {"method": "padim", "multi_class": True},
            "routed": {"method": "dfc", "options": {"head": "padim", "shots": 4}},
            "own": {"method": "dfc", "options": methods.get("dfc").brief},  # learned to its end
            "unlabelled": {"method": "dfc", "options": {"head": "padim", "labels": "none", "count": 3}},
        }[name]
        if options.get("options", {}).get("head") == "padim":
            options["options"] |= {"anchors": 4}
        self[name] = fit_model(self.folder / name, self.data, **options, **self.more)
        return self[name]


def fit_model(folder: Path, records: list[Record], **options: Any) -> Model:
    brief = methods.get(options["method"]).brief
    if options.get("options", {}).get("head"):
        options["options"] = {**{k: brief[k] for k in ("shots", "anchors")}, **options["options"]}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(methods.get(options["method"]), "brief", {})
            return fit_tiny(folder, records, false_alarm_rate=RATE, **options)
    return fit_tiny(folder, records, false_alarm_rate=RATE, **options)


@pytest.fixture(scope="module")
def made(data: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(data, tmp_path_factory.mktemp("made"))


def test_heads_are_compiled_again_in_a_forked_child_and_after_unpickling(made: Made, fresh: list[Record]) -> None:
    line = Inspector(made["routed"], threads=2)
    paths = [r.path for r in fresh]
    expected = [(r.score, r.category) for r in line.inspect_many(paths)]
    for other in (pickle.loads(pickle.dumps(line)), copy.deepcopy(line)):
        assert [(r.score, r.category) for r in other.inspect_many(paths)] == expected
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
        pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # it must not outlive the test
        try:
            os._exit(0 if [(r.score, r.category) for r in line.inspect_many(paths)] == expected else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("variant", ["pooled", "routed", "own"])
@pytest.mark.numeric
def test_each_image_gets_its_category_and_threshold(made: Made, fresh: list[Record], variant: str) -> None:
    line = Inspector(made[variant], threads=2)
    results = list(line.inspect_many(r.path for r in fresh))
    assert [r.category for r in results] == [r.group for r in fresh]
    assert len({(r.category, r.threshold) for r in results}) == len(KINDS)
    for result in results:
        assert 0 <= (result.category_confidence or -1) <= 1
        values = result.to_json()
        assert values["category"] == result.category
        assert values["unknown"] is result.unknown
        json.dumps(values)
    good, bad = ([r for r, record in zip(results, fresh, strict=True) if record.label == k] for k in (0, 1))
    assert np.mean([r.verdict == "anomalous" for r in bad]) > 0.8
    assert np.mean([r.verdict == "anomalous" for r in good]) < 0.5


@pytest.mark.parametrize("variant", ["pooled", "routed"])
def test_a_product_never_seen_raises_its_own_alarm(
    made: Made, fresh: list[Record], variant: str, tmp_path: Path
) -> None:
    line = Inspector(made[variant])
    strangers = write(tmp_path, "waves", 6)
    results = list(line.inspect_many(r.path for r in strangers))
    assert all(r.unknown for r in results)
    assert not [r for r in results if r.verdict == "good"]
    assert replace(results[0], threshold=results[0].score + 1).verdict == "unknown"
    assert replace(results[0], threshold=None).to_json()["pred_label"] == "unknown"
    known = [r.unknown for r in line.inspect_many(r.path for r in fresh if r.label == 0)]
    assert np.mean(known) < 0.5


def test_the_saved_model_is_the_model(made: Made, fresh: list[Record], tmp_path: Path) -> None:
    for variant in ("pooled", "routed"):
        modelfile.save(made[variant], tmp_path / variant)
        again = modelfile.load(tmp_path / variant)
        assert again.categories == made[variant].categories
        assert again.heads == made[variant].heads
        a, b = (Inspector(m).inspect(fresh[0].path) for m in (made[variant], again))
        assert a.score == b.score
        assert a.category == b.category
    damaged = tmp_path / "routed" / "heads" / "0001.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(Exception, match=r"heads/0001.onnx: damaged"):
        modelfile.load(tmp_path / "routed")


def test_promises_are_of_decided_categories(made: Made) -> None:
    model = made["pooled"]
    assert model.categories is not None
    assert model.categories.names == tuple(sorted(KINDS))
    for known in model.categories.known.values():
        assert [c.n for c in known.scores if c] == [4, 4, 4]
        assert [c.n for c in known.strangeness if c] == [14, 14, 14]  # all but the two that anchors are made of
        assert all(set(c.ids) < set(s.ids) for c, s in zip(known.scores, known.strangeness, strict=True) if c and s)
    assert model.promise == (
        "at most 0.2 of good parts rejected in each category, from 4 held-out good images of each; "
        "at most 0.2 of good parts called unknown in each category, from 14 good images of each"
    )
    assert model.meta.data.learned_from == 36


def plan_of(data: list[Record], folder: Path) -> FitPlan:
    options = FitOptions(method="padim", backbone="fake", image_size="64x48")
    return FitPlan.of(data, options, backbone=FakeBackbone(), cache=FeatureCache(folder / "cache"))


def test_names_of_the_subset_alone_are_read(data: list[Record], made: Made, tmp_path: Path) -> None:
    assert made["routed"].meta.vote.names_read == 3 * 2  # 15 % of 16 images of each
    subset = few_of_each_group(data, 4, Random(0))
    chosen = {r.id for records in subset.values() for r in records}
    assert {len(records) for records in subset.values()} == {2}
    plan = plan_of(data, tmp_path)
    names, anchors, ids = construct(plan, data, Routing(shots=4))
    assert set(ids) == chosen
    assert {names[k] == i.split("/")[0] for i, k in ids.items()} == {True}
    assert names == sorted(KINDS)
    # the rest of the images may be gone, or carry any name
    alone = construct(plan, [r for r in data if r.id in chosen], Routing(shots=99, anchors=16))
    vote = Vote(anchors, voting_level(plan.source.spec, SIZE))
    lying = [r if r.id in chosen else replace(r, group="stripes") for r in data]
    assert decided(plan, vote, lying) == decided(plan, vote, data)
    assert len(alone[2]) <= len(chosen)


def test_without_any_name_categories_are_clusters(made: Made, data: list[Record], fresh: list[Record]) -> None:
    model = made["unlabelled"]
    assert model.meta.vote.names_read == 0
    assert model.categories is not None
    assert len(model.categories.names) == 3
    line = Inspector(model)
    pairs = {(r.group, line.inspect(r.path).category) for r in fresh}
    assert len(pairs) == 3  # each kind is one cluster


def test_heads_do_not_know_each_other(data: list[Record], made: Made, tmp_path: Path) -> None:
    both = made["routed"]
    alone = fit_model(
        tmp_path,
        [r for r in data if r.group != "stripes"],
        method="dfc",
        options={"head": "padim", "shots": 4, "anchors": 4},
    )
    # the same images, so the same head: what was learned of checks does not depend on stripes
    assert alone.heads["0000"] == both.heads["0000"]


def test_a_head_is_the_method_alone(data: list[Record], made: Made, fresh: list[Record], tmp_path: Path) -> None:
    model = made["routed"]
    backbone, method = restore(model, FakeBackbone(), head=2)
    assert type(method).__name__ == "PaDiM"
    assert backbone.identity == FakeBackbone().identity
    vote = restore_vote(model)
    assert vote is not None
    assert len(vote.anchors) == 3


def test_evaluation_says_how_well_it_routes(made: Made, fresh: list[Record]) -> None:
    model = made["routed"]
    found = evaluate(Inspector(model), fresh, model=model.describe(), source="x")
    assert found.overall.routed_good.value == 1
    assert found.overall.routed_anomalous.of == 12
    assert set(found.by_category) == set(KINDS)
    assert found.overall.unknown_good.of == 18


def test_calibrating_again_makes_new_thresholds(made: Made, data: list[Record], tmp_path: Path) -> None:
    detector = Detector.from_model(made["pooled"], backbone=FakeBackbone())
    good = [r for kind in KINDS for r in write(tmp_path, kind, 9, 500)]
    detector.calibrate(good, false_alarm_rate=0.1)
    assert detector.model.categories is not None
    for known in detector.model.categories.known.values():
        assert [c.n for c in known.scores if c] == [9, 9, 9]
    detector.calibrate(false_alarm_rate=0.2)
    assert detector.promise is not None
    assert detector.promise.startswith("at most 0.2")


@pytest.mark.parametrize(("heads", "count"), [("own", len(KINDS) + 1), ("shared", 0)])
def test_a_method_may_ask_for_heads_of_its_own(data: list[Record], tmp_path: Path, heads: str, count: int) -> None:
    model = fit_model(tmp_path, data, method="protoot", multi_class=True, options={"heads": heads, "steps": 4})
    assert len(model.heads) == count  # the router is one of them
    assert model.categories is not None
    assert model.categories.names == tuple(sorted(KINDS))
    assert Inspector(model).inspect(data[0].path).category == data[0].group
    alone = [r for r in data if r.group == "dots"]
    assert not fit_model(tmp_path / "alone", alone, method="protoot", options={"steps": 4}).heads


def test_a_category_with_few_images_is_named(data: list[Record], tmp_path: Path) -> None:
    with_few_dots = [r for r in data if r.group != "dots"] + [r for r in data if r.group == "dots"][:4]
    with pytest.warns(UserWarning, match=r"too few held-out good images for a promise of 0.2: dots"):
        model = fit_model(tmp_path, with_few_dots, method="padim", multi_class=True)
    result = Inspector(model).inspect(with_few_dots[-1].path)
    assert result.category == "dots"
    assert result.verdict is None
    assert model.promise is not None
    assert "2 of 3 categories" in model.promise


def test_where_no_category_gets_a_threshold_it_is_told_how_many_images_would_do(
    data: list[Record], tmp_path: Path
) -> None:
    def first(count: int) -> list[Record]:
        return [r for kind in KINDS for r in [d for d in data if d.group == kind][:count]]

    with pytest.warns(UserWarning, match="15 good images .* without thresholds; it takes about 6 good images of a cat"):
        model = fit_model(tmp_path, first(5), method="padim", multi_class=True)
    assert not model.calibrators
    assert model.promise == "at most 0.2 of good parts called unknown in each category, from 4 good images of each"
    with pytest.warns(UserWarning, match="12 good images"):
        assert fit_model(tmp_path, first(4), method="padim", multi_class=True).promise is None
    assert fit_model(tmp_path, first(6), method="padim", multi_class=True).promise is not None


def test_folders_of_good_images_are_products(data: list[Record], tmp_path: Path) -> None:
    for record in data:
        assert record.group is not None
        folder = tmp_path / "line" / record.group / "monday"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(record.path, folder)
    found = layouts.index(tmp_path / "line")
    assert {r.group for r in found} == {None}
    model = fit_model(tmp_path, found, method="padim", multi_class=True)
    assert model.categories is not None
    assert model.categories.names == tuple(sorted(KINDS))
    assert model.meta.data.categories == tuple(sorted(KINDS))
    alone = [r for r in found if r.id.startswith("dots")]
    assert {r.group for r in layouts.by_folder(alone)} == {None}  # there is nothing to tell apart
    assert layouts.by_folder(data) == data  # who names categories means them,
    with pytest.raises(DataError, match=rf"{len(found)} good images have no category"):  # and names all of them
        layouts.by_folder([*data, *found])


def test_a_picture_beside_the_products_is_no_product(data: list[Record], tmp_path: Path) -> None:
    for record in data:
        (tmp_path / "line" / str(record.group)).mkdir(parents=True, exist_ok=True)
        shutil.copy(record.path, tmp_path / "line" / str(record.group))
    shutil.copy(data[0].path, tmp_path / "line" / "stray.png")
    found = layouts.index(tmp_path / "line")
    with pytest.raises(DataError, match=r"1 images lie beside the folders of the products, first stray\.png") as caught:
        fit_model(tmp_path, found, method="padim", multi_class=True)
    assert caught.value.hint


def test_what_cannot_be_is_said(data: list[Record], made: Made, tmp_path: Path) -> None:
    for way in ("folds", "leave_one_out"):
        with pytest.raises(ConfigError, match=way):
            fit_model(tmp_path, data, method="padim", multi_class=True, calibration=way)
    with pytest.raises(ConfigError, match="routes by itself"):
        fit_model(tmp_path, data, method="dfc", options={"head": "dfc"})
    with pytest.raises(EngineError, match="runs on openvino"):
        Inspector(made["routed"], "onnxruntime")


@pytest.mark.numeric
def test_the_engines_agree(made: Made, fresh: list[Record]) -> None:
    pooled = Detector.from_model(made["pooled"], backbone=FakeBackbone())
    image = fresh[0].path
    ours, reference = (pooled.inspector(engine).inspect(image) for engine in ("onnxruntime", "reference"))
    assert ours.score == pytest.approx(reference.score, rel=1e-3)
    assert ours.category == reference.category
    assert ours.category_confidence == pytest.approx(reference.category_confidence or 0, abs=1e-3)


def test_a_method_may_go_by_the_decided_category(data: list[Record], fresh: list[Record], tmp_path: Path) -> None:
    """A method that adds 1,000 times the category to its score: learning and inspecting tell it the same numbers."""
    padim = methods.get("padim")
    seen: dict[str, int] = {}

    def observe(self: Any, batch: Batch) -> None:
        assert batch.category is not None
        seen.update(zip(batch.ids, batch.category.tolist(), strict=True))
        original(self, batch)

    def predict(self: Any, batch: Batch) -> Prediction:
        found = plain(self, batch)
        assert batch.category is not None
        return Prediction(found.score + 1000.0 * as_float(batch.category), found.anomaly_map)

    original, plain = padim.observe, padim.predict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(padim, "observe", observe)
        patch.setattr(padim, "predict", predict)
        model = fit_model(tmp_path, data, method="padim", multi_class=True)
    assert model.categories is not None
    assert {model.categories.names[k] == i.split("/")[0] for i, k in seen.items()} == {True}
    line = Inspector(model)
    for record in fresh[::5]:
        assert record.group is not None
        assert int(line.inspect(record.path).score // 1000) == model.categories.names.index(record.group)


@pytest.mark.numeric
def test_a_later_category_leaves_the_others_alone(made: Made, fresh: list[Record], tmp_path: Path) -> None:
    before = made["routed"]
    modelfile.save(before, tmp_path / "model")
    detector = Detector.from_model(modelfile.load(tmp_path / "model"), backbone=FakeBackbone())
    waves = write(tmp_path, "waves", 16)
    after = detector.extend(waves, "waves").model
    assert after.categories is not None
    assert before.categories is not None
    assert after.categories.names == (*before.categories.names, "waves")
    assert after.meta.vote is not None
    known, new = set(before.meta.data.content_ids), set(after.meta.data.content_ids)
    assert known < new
    assert len(new - known) == after.meta.vote.learned_from[3]
    inspector = detector.inspector()
    assert all(inspector.kind.known(r, inspector.known) for r in waves), "held out is seen before, too"
    for name, head in before.heads.items():
        assert name == "votes" or after.heads[name] == head
    for precision, known in before.categories.known.items():
        assert after.categories.known[precision].scores[:3] == known.scores
        assert after.categories.known[precision].scores[3] is not None
    results = [detector.inspect(r.path) for r in write(tmp_path, "waves", 8, 300, "test")]
    assert {r.category for r in results} == {"waves"}
    assert sum(r.unknown is False for r in results) >= 4  # a fifth may be called unknown, by four held-out images
    assert sum(r.verdict == "good" for r in results) >= 4
    good = [r.path for r in fresh if r.label == 0]
    old, new = (list(Inspector(m).inspect_many(good)) for m in (before, after))
    assert [(r.category, r.score) for r in old] == [(r.category, r.score) for r in new]
    with pytest.raises(ConfigError, match="has a category 'waves'"):
        detector.extend(write(tmp_path, "waves", 8), "waves")
    with pytest.raises(ConfigError, match="is no name of a category"):
        detector.extend(write(tmp_path, "waves", 8), " ")
    with pytest.raises(ConfigError, match="one head learned all"):
        Detector.from_model(made["pooled"], backbone=FakeBackbone()).extend(write(tmp_path, "waves", 8), "waves")


def test_a_later_category_is_calibrated_without_the_units_that_it_has_learned(made: Made, tmp_path: Path) -> None:
    detector = Detector.from_model(made["routed"], backbone=FakeBackbone())
    detector.extend([r for k in range(8) for r in write(tmp_path, "waves", 2, 2 * k, unit=f"unit {k}")], "waves")
    learned = detector.model.meta.data.units
    assert 0 < len(learned) < 8
    other_pictures = [r for k in range(8) for r in write(tmp_path, "waves", 1, 300 + k, unit=f"unit {k}")]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        detector.calibrate(other_pictures, false_alarm_rate=RATE)
    assert any(f"{len(learned)} of 8 images, or their units, were learned from" in str(w.message) for w in told)


def test_a_certificate_of_heads_from_several_machines_names_the_engines_that_all_were_compared_in() -> None:
    first = {"golden": {}, "engines": {"openvino-f32": {"score": 1e-6, "map": 3e-6}}}
    other = {"golden": {}, "engines": {"openvino-f32": {"score": 2e-6, "map": 1e-6}, "openvino-bf16": {"score": 0.1}}}
    for a, b in ((first, other), (other, first)):
        assert worse_parity(a, b)["engines"] == {"openvino-f32": {"score": 2e-6, "map": 3e-6}}


def test_heads_share_one_budget(data: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    whole = run.teach

    def noted(plan: FitPlan, records: Sequence[Record], share: float, *, keeps: bool) -> Any:
        shares.append(share)
        return whole(plan, records, share, keeps=keeps)

    monkeypatch.setattr(run, "teach", noted)
    model = fit_model(tmp_path, data, method="dfc", budget="1h")
    assert shares == [1 / 3] * 3
    assert [phase.category for phase in model.meta.training] == sorted(KINDS)


@pytest.mark.parametrize("variant", ["routed", "own"])
@pytest.mark.numeric
def test_heads_that_learned_apart_score_on_one_scale(data: list[Record], tmp_path: Path, variant: str) -> None:
    categories = Made(data, tmp_path, precision="f32")[variant].categories  # the scale is one of float32
    assert categories is not None
    for calibrator in categories.known["f32"].scores:
        assert calibrator is not None
        low, high = np.quantile(calibrator.scores, [0.5, 0.995])
        assert low == pytest.approx(0, abs=1e-2)
        assert high == pytest.approx(1, abs=1e-2)


def test_the_router_lies_behind_the_border_that_a_method_draws(data: list[Record], tmp_path: Path) -> None:
    """Where its networks do not go by it: what they compute in a short format must not turn a vote."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'blemish[train]'")
    model = fit_model(tmp_path, data, method="rd", multi_class=True)
    core = openvino.Core()
    _, head = graph_parts.cut_at_features(core.read_model(model.graph))
    (short, short_format), (exact, exact_format) = graph_parts.short_and_exact(head)
    assert (short_format, exact_format) == ("bf16", "f32")

    def of_the_router(part: openvino.Model) -> list[str]:
        return [n.get_friendly_name() for n in part.get_ordered_ops() if "vote/MatMul" in n.get_friendly_name()]

    assert of_the_router(exact)
    assert not of_the_router(short)

"""Each lighting learned by itself: the most anomalous decides, in one graph, with one promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish import Detector, methods
from blemish.errors import ConfigError
from blemish.learning.options import FitOptions
from tests.fakes import FakeBackbone
from tests.lit import ASKED, SIDES, part, write
from tests.tiny import GRADIENT, shortened

MAX = {**ASKED, "combine_lightings": "max"}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("by") / "good"
    for seed in range(30):
        write(folder, f"{seed:02}", part(seed))
    return folder


@pytest.mark.parametrize("method", ["padim", "patchcore"])
def test_the_most_anomalous_lighting_decides(good: Path, tmp_path: Path, method: str) -> None:
    detector = Detector(method, backbone=FakeBackbone(), **MAX).fit(good)
    assert detector.promise is not None
    assert detector.model.parity["engines"]["openvino-f32"]["map"] < 1e-3
    clean, left, right = (detector.inspect(part(100, defect)) for defect in (None, 0, 1))
    assert (left.verdict, right.verdict) == ("anomalous", "anomalous")
    both = part(100, 0)
    both[..., 1] = part(100, 1)[..., 1]
    # with a defect in each, the score is that of the worse one, not more
    assert detector.inspect(both).score == pytest.approx(max(left.score, right.score), rel=1e-4)
    assert clean.score < min(left.score, right.score)
    for result, worse in ((left, "left"), (right, "right")):
        own = {one.name: one for one in result.by_lighting}
        assert max(own, key=lambda name: own[name].score) == worse
        assert result.score == pytest.approx(own[worse].score, rel=1e-5)
        highest = np.maximum(*(one.anomaly_map for one in result.by_lighting))
        np.testing.assert_allclose(result.anomaly_map, highest, rtol=1e-3, atol=1e-3)
        assert [one["name"] for one in result.to_json()["by_lighting"]] == list(SIDES)
    detector.save(tmp_path / "model")
    assert Detector.load(tmp_path / "model").inspect(both).score == detector.inspect(both).score
    assert detector.model.run["combine_lightings"] == "max"


def test_lightings_are_brought_to_one_scale(tmp_path: Path) -> None:
    """A restless lighting does not decide alone: each is measured by what its own good pictures do."""

    def sample(seed: int, defect: int | None = None) -> np.ndarray[Any, Any]:
        values = part(seed, defect).astype(np.float64)
        values[..., 0] += np.random.default_rng(seed + 500).normal(0, 25, values.shape[:2])
        return np.clip(values, 0, 255).astype(np.uint8)

    for seed in range(40):
        write(tmp_path, f"{seed:02}", sample(seed))
    detector = Detector("padim", backbone=FakeBackbone(), **MAX).fit(tmp_path)
    assert detector.inspect(sample(100, 1)).verdict == "anomalous"
    state = detector.model.tensors
    assert b"scale.left.score" in state
    assert b"scale.right.map" in state


def test_a_method_that_is_trained_learns_each_lighting(good: Path) -> None:
    pytest.importorskip("torch")
    brief = shortened(methods.get(GRADIENT).brief, 4)
    detector = Detector(GRADIENT, backbone=FakeBackbone(), **MAX, **brief).fit(good)
    assert detector.model.parity["engines"]["openvino-f32"]["map"] < 1e-3
    assert {phase.category for phase in detector.model.meta.training} == set(SIDES)
    assert detector.inspect(part(102, 1)).score > detector.inspect(part(100)).score


@pytest.mark.parametrize(
    "options",
    [
        {"lightings": ()},
        {"lightings": ("left",)},
        {"method": "padim+patchcore"},
        {"multi_class": True},
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="max \\(--channels\\) compares two lightings"):
        FitOptions(**{"method": "padim", "lightings": SIDES, "combine_lightings": "max", **options})


def test_it_is_not_learned_further(good: Path, tmp_path: Path) -> None:
    detector = Detector("padim", backbone=FakeBackbone(), **MAX).fit(good)
    for seed in range(200, 220):
        write(tmp_path, f"{seed}", part(seed))
    with pytest.raises(ConfigError, match="learned further"):
        Detector.from_model(detector.model).adapt(tmp_path)
    with pytest.raises(ConfigError, match="taken apart"):
        detector.inspector("reference")


def test_several_methods_as_one_learn_lightings(good: Path) -> None:
    detector = Detector("padim+patchcore", image_size="64x48", false_alarm_rate=0.2, cache=False, lightings=SIDES)
    detector.fit(good)
    assert detector.model.parity["engines"]["openvino-f32"]["map"] < 1e-3
    assert [detector.inspect(part(100, defect)).verdict for defect in (0, 1)] == ["anomalous", "anomalous"]

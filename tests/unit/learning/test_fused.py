"""Several methods as one: one graph, one scale, one promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish import Detector
from blemish.config import build
from blemish.errors import ConfigError
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import arrays
from blemish.inspection.open import open_model
from blemish.learning import fusing
from blemish.learning.fit import fit
from blemish.learning.fused import Scale
from blemish.learning.options import FitOptions, by_name
from tests.fakes import FakeBackbone, good_image, write_images
from tests.tiny import GRADIENT, HERE, RATE

PAIR = {"method": "padim+patchcore", "backbone": "fake", "image_size": "64x48", "false_alarm_rate": RATE}


def fitted(folder: Path, **options: Any) -> Any:
    records = write_images(folder / "good", 24)
    return fit(records, build(FitOptions, {**PAIR, **options}), backbone=FakeBackbone())


def test_z_is_zero_at_the_mean_and_one_a_deviation_above() -> None:
    good = np.random.default_rng(0).normal(3, 2, 4000).astype(np.float32)
    scale = Scale.z(good)
    assert scale(np.float32([good.mean(), good.mean() + good.std()])) == pytest.approx([0, 1], abs=1e-4)
    constant = Scale.z(np.full(9, 2.0, np.float32))
    assert np.isfinite(constant(np.float32([1, 2, 3]))).all()


def test_p_is_the_share_above_on_a_log_scale_and_goes_on_as_an_exponential_tail() -> None:
    good = np.random.default_rng(1).exponential(1, 20000).astype(np.float32)  # whose tail is one
    scale = Scale.p(good)
    for share in (0.5, 0.1, 0.01, 0.001):
        at = np.float32([np.quantile(good, 1 - share)])
        assert scale(at)[0] == pytest.approx(-np.log10(2 * share), abs=0.02)
    assert scale(np.float32([20.0]))[0] == pytest.approx(20 / np.log(10) - np.log10(2), rel=0.15)
    line = scale(np.linspace(-1, 30, 500, dtype=np.float32))
    assert (np.diff(line) > 0).all()


@pytest.mark.parametrize("good", [np.zeros(5), np.r_[np.zeros(50), 1.0], np.arange(3.0)])
def test_p_of_few_or_equal_scores_rises_nevertheless(good: Any) -> None:
    values = Scale.p(good)(np.linspace(-1, 3, 50, dtype=np.float32))
    assert np.isfinite(values).all()
    assert (np.diff(values) >= 0).all()
    assert values[-1] > values[0]


@pytest.mark.parametrize("combine", ["z", "p"])
def test_the_graph_gives_the_mean_of_the_parts_on_their_scales(tmp_path: Path, combine: str) -> None:
    model = fitted(tmp_path, options={"combine": combine}, calibration="none")
    assert model.parity["engines"]["openvino-f32"]["score"] < 1e-3
    image = good_image(77)[None]
    score, anomaly_map = open_model(model)(image)[:2]
    state = arrays(model.tensors)
    total, maps = 0.0, 0.0
    for name in ("padim", "patchcore"):
        alone = fit(
            write_images(tmp_path / "good", 24),
            build(FitOptions, {**PAIR, "method": name, "calibration": "none"}),
            backbone=FakeBackbone(),
        )
        own = open_model(alone)(image)
        scale_of_score, scale_of_map = (
            Scale(tuple(state[f"scale.{name}.{what}"][0]), tuple(state[f"scale.{name}.{what}"][1]))
            for what in ("score", "map")
        )
        total += scale_of_score(own[0]) / 2
        maps = maps + scale_of_map(own[1]) / 2
    assert score == pytest.approx(total, rel=1e-3)
    np.testing.assert_allclose(anomaly_map, maps, rtol=1e-3, atol=1e-3)


def test_the_scale_comes_from_images_that_a_part_has_not_learned(tmp_path: Path) -> None:
    """PatchCore finds an image that it has learned in its bank: on that scale all new good images would look odd."""
    model = fitted(tmp_path, calibration="none")
    line = Inspector(model, threads=1)
    new = [line.inspect(good_image(seed)).score for seed in range(500, 530)]
    assert abs(np.mean(new)) < 1.5
    assert np.max(new) < 6


def test_the_promise_is_that_of_the_whole_and_defects_are_found(tmp_path: Path) -> None:
    model = fitted(tmp_path)
    assert model.calibrators["f32"].alpha == RATE
    assert not model.calibrators["f32"].exact or model.calibrators["f32"].kind == "split"
    image = good_image(900)
    spoilt = image.copy()
    spoilt[20:32, 20:40] = [250, 20, 20]
    line = Inspector(model, threads=1)
    result = line.inspect(spoilt)
    assert result.verdict == "anomalous"
    x0, y0, x1, y1 = result.regions[0].bbox
    assert x0 < 40
    assert x1 > 20
    assert y0 < 32
    assert y1 > 20


@pytest.mark.slow
@pytest.mark.skipif(GRADIENT not in HERE, reason="PyTorch is not installed")
def test_parts_take_their_own_levels_of_one_network_and_say_how_they_were_trained(tmp_path: Path) -> None:
    """The trained one wants a level more, and has a border between number formats that the other one has not."""
    records = write_images(tmp_path / "good", 24)
    detector = Detector(
        f"padim+{GRADIENT}", image_size="64", calibration="none", cache=False, **{GRADIENT: {"steps": 3}}
    )
    detector.fit(records)
    model = detector.model
    assert len(model.meta.backbone.layers) > 2
    assert {phase.category for phase in model.meta.training} == {GRADIENT}
    assert set(model.parity["engines"]) >= {"openvino-f32"}
    from blemish.inspection import graph_parts

    core = graph_parts.openvino_module().Core()
    head = graph_parts.cut_at_features(core.read_model(model.graph))[1]
    (short, first), (exact, second) = graph_parts.short_and_exact(head)
    assert (first, second) == ("bf16", "f32")
    assert len(short.outputs) == len(exact.inputs)
    with pytest.raises(ConfigError, match="several methods as one"):
        detector.inspector("reference")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "padim+padin"}, "no method 'padin'"),
        ({"method": "padim+padim"}, "different methods"),
        ({"method": "padim+patchcore+rd+emmf+rbd"}, "2 to 4 different"),
        ({"method": "padim+patchcore", "sigma": 3}, "unknown option 'sigma'"),
        ({"method": "padim+patchcore", "padim": 3}, "under its name"),
        ({"method": "padim+patchcore", "padim": {"sigmo": 3}}, "unknown option 'sigmo'"),
        ({"method": "padim+patchcore", "combine": "max"}, "option 'combine'"),
        ({"method": "padim+patchcore", "multi_class": True}, "one product"),
        ({"method": "padim+patchcore", "second_backbone": "resnet18"}, "one backbone"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        by_name(options)


def test_methods_that_are_no_head_behind_one_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fpfh is no head behind a frozen network"):
        fusing.check(build(FitOptions, {"method": "padim+fpfh"}))
    if "dfc" in HERE:
        with pytest.raises(ConfigError, match="dfc tells categories apart"):
            fusing.check(build(FitOptions, {"method": "padim+dfc"}))
        with pytest.raises(ConfigError, match="fader makes an image"):
            fusing.check(build(FitOptions, {"method": "padim+fader"}))
    with pytest.raises(ConfigError, match="cannot leave images out"):
        fitted(tmp_path, calibration="leave_one_out")


def test_views_and_textures_go_to_the_parts_that_take_them() -> None:
    if GRADIENT not in HERE:
        pytest.skip("PyTorch is not installed")
    plain, trained = fusing.own_options(build(FitOptions, {"method": f"padim+{GRADIENT}", "views": ["flip_h"]}))
    assert plain.views == FitOptions.views
    assert trained.views == ("flip_h",)
    each = fusing.own_options(build(FitOptions, {"method": "padim+patchcore", "views": ["flip_h"]}))
    assert {part.views for part in each} == {("flip_h",)}  # nobody takes them, and that is said


def test_fused_stands_for_two() -> None:
    assert [part.method for part in build(FitOptions, {"method": "fused"}).parts] == ["padim", "protoot"]

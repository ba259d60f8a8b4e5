"""Whoever's names a file has, the features are the same; and a file of another network is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from blemish.errors import BackboneError
from blemish.learning.backbones.loading import load
from tests import publishers, tiny_networks

State = dict[str, Tensor]
FILES: list[tuple[str, Callable[[State], State]]] = [
    ("vit_tinytest_patch16", publishers.vit_of_transformers),
    ("vit_tinytest_patch14_dinov2", publishers.dinov2),
    ("vit_tinytest_patch14_dinov2", publishers.dinov2_of_transformers),
    ("vit_tinytest_patch14_reg4_dinov2", publishers.dinov2),
    ("vit_tinytest_patch14_reg4_dinov2", publishers.dinov2_of_transformers),
    ("vit_tinytest_giant_patch14_dinov2", publishers.dinov2),
    ("vit_tinytest_giant_patch14_dinov2", publishers.dinov2_of_transformers),
    ("vit_tinytest_patch16_dinov3", publishers.dinov3),
    ("vit_tinytest_patch16_dinov3", publishers.dinov3_of_transformers),
    ("vit_tinytest_patch16_dinov3_qkvb", publishers.dinov3),
    ("vit_tinytest_patch16_dinov3_qkvb", publishers.dinov3_of_transformers),
    ("vit_tinytest_patch16_dinov3_qkvb", publishers.dinov3_of_transformers_5),
    ("vit_tinytest_plus_patch16_dinov3_qkvb", publishers.dinov3),
    ("vit_tinytest_plus_patch16_dinov3_qkvb", publishers.dinov3_of_transformers),
    ("convnext_tinytest", publishers.convnext),
    ("convnext_tinytest", publishers.convnext_of_transformers),
    ("convnext_tinytest", publishers.dinov3_convnext_of_transformers),
    ("convnextv2_tinytest", publishers.convnext),
    ("convnextv2_tinytest", publishers.convnext_of_transformers),
]
FILES = [(name, change) for name, change in FILES if name in (*tiny_networks.NAMES, *tiny_networks.OTHERS)]


def features(name: str, file: Path, stride: int) -> tuple[np.ndarray, ...]:
    size = 3 * stride, 4 * stride
    images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    return load(name, weights=file, strides=(8, 16, 32)).maps(images)


def other(folder: Path, timm_file: Path, change: Callable[[State], State]) -> Path:
    path = folder / "other.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(timm_file)).items()}, path)
    return path


@pytest.mark.parametrize(("name", "change"), FILES, ids=[f"{name}-{change.__name__}" for name, change in FILES])
def test_the_same_features_by_whatever_names(name: str, change: Callable[[State], State], tmp_path: Path) -> None:
    file = tiny_networks.written(tmp_path, name)
    theirs = other(tmp_path, file, change)
    if name != "wide_resnet_tinytest":
        assert set(load_file(theirs)) != set(load_file(file))
    stride = 14 if "patch14" in name else 32
    for ours, found in zip(features(name, file, stride), features(name, theirs, stride), strict=True):
        assert np.allclose(ours, found, atol=1e-5 * np.ptp(ours))


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_a_publishers_pth_file_holds_its_tensors_in_a_wrapper(wrapper: str, tmp_path: Path) -> None:
    file = tiny_networks.written(tmp_path, "convnext_tinytest")
    path = tmp_path / "theirs.pth"
    torch.save({wrapper: publishers.convnext(load_file(file)), "epoch": 3}, path)
    for ours, theirs in zip(
        features("convnext_tinytest", file, 32), features("convnext_tinytest", path, 32), strict=True
    ):
        assert np.array_equal(ours, theirs)


def test_a_prefix_of_parallel_training_is_left_out(tmp_path: Path) -> None:
    file = tiny_networks.written(tmp_path, "wide_resnet_tinytest")
    path = other(tmp_path, file, lambda state: {f"module.{k}": v for k, v in state.items()})
    assert np.array_equal(features("wide_resnet_tinytest", file, 32)[0], features("wide_resnet_tinytest", path, 32)[0])


def refused(name: str, file: Path) -> tuple[str, str]:
    with pytest.raises(BackboneError) as caught:
        load(name, weights=file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    return message, caught.value.hint or ""


@pytest.mark.parametrize("change", [publishers.dinov2, publishers.dinov2_of_transformers], ids=["hub", "transformers"])
def test_registers_that_a_network_has_no_place_for(change: Callable[[State], State], tmp_path: Path) -> None:
    """They change every patch: left out, the features would be others."""
    file = other(tmp_path, tiny_networks.written(tmp_path, "vit_tinytest_patch14_reg4_dinov2"), change)
    message, hint = refused("vit_tinytest_patch14_dinov2", file)
    assert "has register tokens, and vit_tinytest_patch14_dinov2 has none" in message
    assert "without registers" in hint
    file = other(tmp_path, tiny_networks.written(tmp_path, "vit_tinytest_patch14_dinov2"), change)
    message, hint = refused("vit_tinytest_patch14_reg4_dinov2", file)
    assert "reg_token" in message
    assert "with registers" in hint


@pytest.mark.skipif(not set(tiny_networks.DINOV3) & set(tiny_networks.OTHERS), reason="this timm has no DINOv3")
def test_biases_that_a_network_has_no_place_for(tmp_path: Path) -> None:
    """timm has DINOv3 without them, as those that were published are 0; others are not left out in silence."""
    file = tiny_networks.written(tmp_path, "vit_tinytest_patch16_dinov3_qkvb")
    for change in (publishers.dinov3, publishers.dinov3_of_transformers):
        message, hint = refused("vit_tinytest_patch16_dinov3", other(tmp_path, file, change))
        assert "blocks.0.attn.qkv.bias is not 0" in message
        assert "vit_tinytest_patch16_dinov3_qkvb" in hint


def test_patches_of_another_size(tmp_path: Path) -> None:
    """timm would resample them."""
    file = tiny_networks.written(tmp_path, "vit_tinytest_patch16")
    message, _ = refused("vit_tinytest_patch14_dinov2", file)
    assert "has patches of 16 x 16 pixels" in message


def test_a_deeper_network_of_the_same_kind(tmp_path: Path) -> None:
    """Its first blocks would fit."""

    def deeper(state: State) -> State:
        return {
            **state,
            **{k.replace("blocks.3.", "blocks.4."): v.clone() for k, v in state.items() if "blocks.3." in k},
        }

    file = other(tmp_path, tiny_networks.written(tmp_path, "vit_tinytest_patch16"), deeper)
    message, hint = refused("vit_tinytest_patch16", file)
    assert "blocks.4." in message
    assert "another network" in message
    assert "timm's model.safetensors of vit_tinytest_patch16" in hint


@pytest.mark.parametrize("name", tiny_networks.NAMES)
@pytest.mark.parametrize("of", tiny_networks.NAMES)
def test_a_file_of_another_family(name: str, of: str, tmp_path: Path) -> None:
    if name == of:
        return
    message, hint = refused(name, tiny_networks.written(tmp_path, of))
    assert f"does not fit {name}" in message
    assert f"timm's model.safetensors of {name}" in hint


@pytest.mark.parametrize("name", [*tiny_networks.NAMES, *tiny_networks.OTHERS])
def test_the_first_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    file = tiny_networks.written(tmp_path, name)
    lost = next(k for k in load_file(file) if k.startswith(("blocks.0.", "stages.0.", "layer1.")))
    path = other(tmp_path, file, lambda state: {k: v for k, v in state.items() if k != lost})
    message, _ = refused(name, path)
    assert f"does not fit {name}: " in message
    assert "is missing" in message
    assert lost.rpartition(".")[2] in message


def test_a_file_without_its_classifier_is_enough(tmp_path: Path) -> None:
    file = tiny_networks.written(tmp_path, "convnext_tinytest")
    path = other(tmp_path, file, lambda state: {k: v for k, v in state.items() if not k.startswith("head.")})
    assert np.array_equal(features("convnext_tinytest", file, 32)[0], features("convnext_tinytest", path, 32)[0])


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    file = tiny_networks.written(tmp_path, "vit_tinytest_patch16")
    path = other(tmp_path, file, lambda state: {k: v.bfloat16() for k, v in state.items()})
    ours, theirs = features("vit_tinytest_patch16", file, 16)[0], features("vit_tinytest_patch16", path, 16)[0]
    assert theirs.dtype == np.float32
    assert np.allclose(ours, theirs, atol=0.05 * np.ptp(ours))

"""Tiny random networks of each family, by name for timm: what somebody with weights of the real ones would use.

`written` makes a network's weights file; `NAMES` are the networks. The real ones differ in nothing but width and depth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from timm.models import convnext, eva, generate_default_cfgs, register_model, resnet, vision_transformer

PLAIN = {"embed_dim": 32, "depth": 4, "num_heads": 2}
NAMES = ("vit_tinytest_patch16", "vit_tinytest_patch14_reg4_dinov2", "convnext_tinytest", "wide_resnet_tinytest")
"""One of each family."""
DINOV3 = ("vit_tinytest_patch16_dinov3", "vit_tinytest_patch16_dinov3_qkvb", "vit_tinytest_plus_patch16_dinov3_qkvb")
OTHERS = (
    "vit_tinytest_patch14_dinov2",
    "vit_tinytest_giant_patch14_dinov2",
    "convnextv2_tinytest",
    *(DINOV3 if timm.is_model("vit_small_patch16_dinov3") else ()),  # not in the oldest timm that is allowed
)
HUB = "https://tests.invalid/wide_resnet_tinytest"
default_cfgs = generate_default_cfgs(
    {
        **{f"{name}.random": {"license": "apache-2.0", "url": HUB} for name in (*NAMES[:3], *OTHERS[:3], *DINOV3)},
        "wide_resnet_tinytest.ours": {"license": "apache-2.0", "url": f"{HUB}-00000000.pth", "classifier": "fc"},
        "wide_resnet_tinytest.tv": {"license": "bsd-3-clause", "url": f"{HUB}-11111111.pth", "classifier": "fc"},
    }
)


def _dino(**options: Any) -> dict[str, Any]:
    return {"patch_size": 14, "img_size": 70, "init_values": 1e-5, **PLAIN, **options}


def _dinov3(**options: Any) -> dict[str, Any]:
    return {
        "patch_size": 16,
        "img_size": 64,
        "init_values": 1e-5,
        "rope_type": "dinov3",
        "rope_temperature": 100,
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "rope_rotate_half": True,
        "num_reg_tokens": 4,
        "use_fc_norm": False,
        "dynamic_img_size": True,
        **PLAIN,
        **options,
    }


@register_model
def vit_tinytest_patch16(**options: Any) -> Any:
    own = {"patch_size": 16, "img_size": 64, **PLAIN}
    return vision_transformer._create_vision_transformer("vit_tinytest_patch16", **{**own, **options})


@register_model
def vit_tinytest_patch14_dinov2(**options: Any) -> Any:
    return vision_transformer._create_vision_transformer("vit_tinytest_patch14_dinov2", **{**_dino(), **options})


@register_model
def vit_tinytest_giant_patch14_dinov2(**options: Any) -> Any:
    own = _dino(mlp_layer=SwiGLUPacked, act_layer=torch.nn.SiLU)
    return vision_transformer._create_vision_transformer("vit_tinytest_giant_patch14_dinov2", **{**own, **options})


@register_model
def vit_tinytest_patch14_reg4_dinov2(**options: Any) -> Any:
    own = _dino(reg_tokens=4, no_embed_class=True)
    return vision_transformer._create_vision_transformer("vit_tinytest_patch14_reg4_dinov2", **{**own, **options})


@register_model
def vit_tinytest_patch16_dinov3(**options: Any) -> Any:
    return eva._create_eva("vit_tinytest_patch16_dinov3", **{**_dinov3(qkv_bias=False), **options})


@register_model
def vit_tinytest_patch16_dinov3_qkvb(**options: Any) -> Any:
    return eva._create_eva("vit_tinytest_patch16_dinov3_qkvb", **{**_dinov3(), **options})


@register_model
def vit_tinytest_plus_patch16_dinov3_qkvb(**options: Any) -> Any:
    own = _dinov3(swiglu_mlp=True)
    return eva._create_eva("vit_tinytest_plus_patch16_dinov3_qkvb", **{**own, **options})


@register_model
def convnext_tinytest(**options: Any) -> Any:
    return convnext._create_convnext("convnext_tinytest", depths=(1, 1, 2, 1), dims=(8, 12, 16, 24), **options)


@register_model
def convnextv2_tinytest(**options: Any) -> Any:
    own = {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 24), "use_grn": True, "ls_init_value": None}
    return convnext._create_convnext("convnextv2_tinytest", **{**own, **options})


@register_model
def wide_resnet_tinytest(**options: Any) -> Any:
    own = {"block": resnet.Bottleneck, "layers": (1, 1, 1, 1), "base_width": 128, "channels": (8, 8, 12, 16)}
    return resnet._create_resnet("wide_resnet_tinytest", **{**own, **options})


def made(name: str, seed: int = 0) -> Any:
    """A network of timm whose every tensor is random, biases and scales too, which timm starts at 0 or 1; what goes in
    is not lost on the way through it."""
    torch.manual_seed(seed)
    network = timm.create_model(name).eval()
    for key, value in network.state_dict().items():
        if key.endswith(("running_var", "gamma", "gamma_1", "gamma_2")) or value.ndim == 1 and key.endswith("weight"):
            value.uniform_(0.5, 1.5)
        elif key in ("pos_embed", "cls_token", "reg_token"):
            value.normal_(0, 0.3)
        elif value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif value.is_floating_point():
            value.normal_(0, 0.05)
    return network


def written(folder: Path, name: str, seed: int = 0) -> Path:
    """The weights file of such a network, with timm's names."""
    path = folder / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in made(name, seed).state_dict().items()}, path)
    return path

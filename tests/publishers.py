"""The same tensors as other publishers name them: from timm's names to theirs, written from their conversion scripts.

Each function takes a state dict and gives another one.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

State = dict[str, Tensor]


def renamed(state: State, *rules: tuple[str, str]) -> State:
    def one(key: str) -> str:
        for pattern, text in rules:
            key = re.sub(pattern, text, key)
        return key

    return {one(key): value.clone() for key, value in state.items()}


def dinov2(state: State) -> State:
    """facebook's file of a DINOv2: torch hub."""
    state = renamed(state, (r"\.mlp\.fc1\.", ".mlp.w12."), (r"\.mlp\.fc2\.", ".mlp.w3.")) if gated(state) else {**state}
    state = {k: v for k, v in state.items() if not k.startswith("head.")}
    if "reg_token" in state:  # positions of theirs hold the class token's
        first = torch.full_like(state["pos_embed"][:, :1], 0.25)
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
        state["cls_token"] = state["cls_token"] - first
    return {**state, "mask_token": torch.zeros(1, state["cls_token"].shape[2])}


def gated(state: State) -> bool:
    """Whether the perceptrons have a gate: one tensor of both halves, twice as wide as what comes out of them."""
    return state["blocks.0.mlp.fc1.weight"].shape[0] != state["blocks.0.mlp.fc2.weight"].shape[1]


def vit_of_transformers(state: State) -> State:
    """transformers' file of a plain ViT or a DINO."""
    split = _split(state, ".attention.attention.", ("query", "key", "value"))
    return renamed(
        split,
        (r"^blocks\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
        (r"^blocks\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
        (r"^blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
        (r"^blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
        *_EMBEDDINGS,
        (r"^(embeddings|encoder|layernorm)\.", r"vit.\1."),
        (r"^head\.", "classifier."),
    )


def dinov2_of_transformers(state: State) -> State:
    """transformers' file of a DINOv2, with registers or without."""
    split = _split(dinov2(state), ".attention.attention.", ("query", "key", "value"))
    return renamed(
        split,
        (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
        (r"\.mlp\.w12\.", ".mlp.weights_in."),
        (r"\.mlp\.w3\.", ".mlp.weights_out."),
        *_EMBEDDINGS,
        (r"^register_tokens$", "embeddings.register_tokens"),
        (r"^mask_token$", "embeddings.mask_token"),
    )


_EMBEDDINGS = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"^norm\.", "layernorm."),
)


def dinov3(state: State) -> State:
    """facebook's file of a DINOv3 transformer: a bias of the keys that a mask takes out again."""
    width = state["cls_token"].shape[2]
    found = renamed(
        {k: v for k, v in state.items() if not k.startswith("head.")},
        (r"^reg_token$", "storage_tokens"),
        (r"\.gamma_(\d)$", r".ls\1.gamma"),
        (r"\.mlp\.fc1_g\.", ".mlp.w1."),
        (r"\.mlp\.fc1_x\.", ".mlp.w2."),
        *([(r"\.mlp\.fc2\.", ".mlp.w3.")] if "blocks.0.mlp.fc1_g.weight" in state else []),
    )
    for block in sorted({k.rpartition(".attn.")[0] for k in found if ".attn." in k}):
        query, value = (found.pop(f"{block}.attn.{name}_bias", torch.zeros(width)) for name in "qv")
        found[f"{block}.attn.qkv.bias"] = torch.cat([query, torch.zeros(width), value])
        found[f"{block}.attn.qkv.bias_mask"] = torch.ones(3 * width)
    return {**found, "mask_token": torch.zeros(1, width), "rope_embed.periods": torch.ones(4)}


def dinov3_of_transformers(state: State) -> State:
    """transformers' file of a DINOv3 transformer: the keys have no bias."""
    found = {k: v for k, v in dinov3(state).items() if not k.endswith("bias_mask") and not k.startswith("rope")}
    split = _split(found, ".attention.", ("q_proj", "k_proj", "v_proj"))
    split = {k: v for k, v in split.items() if not k.endswith("k_proj.bias")}
    plain = ((r"\.mlp\.fc1\.", ".mlp.up_proj."), (r"\.mlp\.fc2\.", ".mlp.down_proj."))
    swiglu = (
        (r"\.mlp\.w1\.", ".mlp.gate_proj."),
        (r"\.mlp\.w2\.", ".mlp.up_proj."),
        (r"\.mlp\.w3\.", ".mlp.down_proj."),
    )
    return renamed(
        split,
        (r"^(cls_token|mask_token)$", r"embeddings.\1"),
        (r"^storage_tokens$", "embeddings.register_tokens"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
        *(plain + swiglu),
        (r"^blocks\.", "layer."),
    )


def dinov3_of_transformers_5(state: State) -> State:
    """The same with the prefix that later versions write."""
    return renamed(dinov3_of_transformers(state), (r"^(layer|embeddings|norm)\.", r"model.\1."))


def convnext(state: State) -> State:
    """facebook's file of a ConvNeXt or a ConvNeXt V2."""
    found = renamed(
        state,
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
        (r"\.mlp\.grn\.weight$", ".grn.gamma"),
        (r"\.mlp\.grn\.bias$", ".grn.beta"),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    )
    return {k: v[None, None, None] if ".grn." in k else v for k, v in found.items()}


def convnext_of_transformers(state: State) -> State:
    """transformers' file of them."""
    found = convnext(state)
    return renamed(
        found,
        (r"^downsample_layers\.0\.0\.", "embeddings.patch_embeddings."),
        (r"^downsample_layers\.0\.1\.", "embeddings.norm."),
        (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsampling_layer."),
        (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.layers.\2."),
        (r"\.grn\.gamma$", ".grn.weight"),
        (r"\.grn\.beta$", ".grn.bias"),
        (r"\.gamma$", ".layer_scale_parameter"),
        (r"^stages\.", "encoder.stages."),
        (r"(^|\.)norm\.", r"\1layernorm."),
        (
            r"^(embeddings|encoder|layernorm)\.",
            ("convnextv2" if any(".grn." in k for k in found) else "convnext") + r".\1.",
        ),
        (r"^head\.", "classifier."),
    )


def dinov3_convnext_of_transformers(state: State) -> State:
    """transformers' file of DINOv3's ConvNeXt, which has no classifier."""
    return renamed(
        {k: v for k, v in convnext(state).items() if not k.startswith("head.")},
        (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample_layers."),
        (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.layers.\2."),
        (r"\.dwconv\.", ".depthwise_conv."),
        (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
        (r"(^|\.)norm\.", r"\1layer_norm."),
    )


def _split(state: State, to: str, names: tuple[str, str, str]) -> State:
    """Query, key and value of one tensor each."""
    found: State = {}
    for key, value in state.items():
        if ".attn.qkv." not in key:
            found[key] = value
            continue
        for name, part in zip(names, value.chunk(3), strict=True):
            found[key.replace(".attn.qkv.", f"{to}{name}.")] = part.clone()
    return found

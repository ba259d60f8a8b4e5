"""The tensors of other publishers' files under timm's names.

A file may have timm's own names (its hub files), those of the original publishers (DINO, DINOv2, DINOv3, ConvNeXt,
ConvNeXt V2, torchvision's ResNets), or those of transformers for the same networks. transformers' names become the
publishers' here, and timm's own conversion (`checkpoint_filter_fn` of the network's module) does the rest, positions of
another grid included. What would be converted into another network without a word is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from blemish.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]

WRAPPED = re.compile(
    r"^(?:module\.|_orig_mod\.)*(?:(?:vit|dinov2|dinov2_with_registers|dinov3|convnext|convnextv2|model)\.)?"
)
TRANSFORMER = (  # plain transformers: ViT, DINO, DINOv2 with and without registers, DINOv3
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(?:encoder\.)?layer\.", "blocks."),
    (r"\.attention\.attention\.(q)uery\.|\.attention\.(q)_proj\.", ".attn.q."),
    (r"\.attention\.attention\.(k)ey\.|\.attention\.(k)_proj\.", ".attn.k."),
    (r"\.attention\.attention\.(v)alue\.|\.attention\.(v)_proj\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale(\d)\.(?:lambda1|gamma)$", r".ls\1.gamma"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
)
GATED = ((r"\.mlp\.gate_proj\.", ".mlp.w1."), (r"\.mlp\.up_proj\.", ".mlp.w2."), (r"\.mlp\.down_proj\.", ".mlp.w3."))
PLAIN = ((r"\.mlp\.up_proj\.", ".mlp.fc1."), (r"\.mlp\.down_proj\.", ".mlp.fc2."))
CONVNEXT = (  # ConvNeXt, ConvNeXt V2, and DINOv3's ConvNeXt
    (r"^embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
    (r"^embeddings\.layernorm\.", "downsample_layers.0.1."),
    (r"^encoder\.", ""),
    (r"^stages\.(\d+)\.downsampl(?:ing_layer|e_layers)\.", r"downsample_layers.\1."),
    (r"^stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.\2."),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv(\d)\.", r".pwconv\1."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"\.grn\.weight$", ".grn.gamma"),
    (r"\.grn\.bias$", ".grn.beta"),
    (r"(^|\.)layer_?norm\.", r"\1norm."),
    (r"^classifier\.", "head."),
)
TOKENS = ("cls_token", "reg_token", "dist_token", "pos_embed")  # what a network without them would leave out


def timm_names(state: Mapping[str, Tensor], network: Any, name: str, source: str) -> State:
    """A file's tensors under the names of `network`, which is timm's whole network `name`; `source` is for messages.

    BackboneError where the file is of another network: another patch, more blocks, tokens or biases that this network
    has no place for.
    """
    state = {WRAPPED.sub("", key): value for key, value in state.items()}
    state = _publishers(state)
    _check_registers(state, network, name, source)
    _check_patch(state, network, name, source)
    _check_biases(state, network, name, source)
    convert: Callable[..., State] | None = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            state = convert(state, network)
        except Exception as error:  # timm's conversions stop anywhere at names and shapes that they do not know
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BackboneError(f"{source}: does not fit {name} ({reason})", hint=expected(name)) from error
    known = network.state_dict()
    outside = {key.partition(".")[0] for key in known} - _heads(network)
    if strange := [k for k in state if k not in known and (k in TOKENS or "." in k and k.partition(".")[0] in outside)]:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise BackboneError(
            f"{source}: does not fit {name}, which has no {strange[0]}{more}: it is of another network",
            hint=expected(name),
        )
    return state


def expected(name: str) -> str:
    """Which files fit a network."""
    family = next((text for part, text in _FAMILIES if part in name), "")
    return f"expected: timm's model.safetensors of {name.partition('.')[0]}{family}"


_FAMILIES = (  # the first that the name holds
    ("convnext", ", or the publisher's or transformers' file of the same ConvNeXt"),
    ("reg4_dinov2", ", or facebook's or transformers' file of the DINOv2 with registers of that size"),
    ("dinov2", ", or facebook's or transformers' file of the DINOv2 without registers of that size"),
    ("dinov3", ", or facebook's or transformers' file of the DINOv3 of that size"),
    ("resne", ", or torchvision's file of it"),
    ("vit_", ", or transformers' file of the same ViT"),
)


def _publishers(state: State) -> State:
    """transformers' names as the original publishers'; other names as they are."""
    if any(re.search(r"stages\.0\.layers\.0\.", key) for key in state):
        return {_renamed(key, CONVNEXT): value for key, value in state.items()}
    if "embeddings.cls_token" not in state:
        return _marked(state)
    gated = any(".gate_proj." in key for key in state)
    rules = (*TRANSFORMER, *(GATED if gated else PLAIN))
    state = _joined({_renamed(key, rules): value for key, value in state.items()})
    if "register_tokens" in state and "pos_embed" not in state:  # DINOv3 has rotary positions
        state["storage_tokens"] = state.pop("register_tokens")
    return _marked(state)


def _marked(state: State) -> State:
    """DINOv2 with the token by which timm knows it, where a file was saved without that."""
    if "register_tokens" in state and "mask_token" not in state:
        state["mask_token"] = state["cls_token"][0]
    return state


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, text in rules:
        key = re.sub(pattern, text, key)
    return key


def _joined(state: State) -> State:
    """Query, key and value as one tensor; a bias that is not there, as of DINOv3's keys, is 0."""
    import torch

    whole = {key: value for key, value in state.items() if not re.search(r"\.attn\.[qkv]\.", key)}
    for key, query in state.items():
        if not key.endswith((".attn.q.weight", ".attn.q.bias")):
            continue
        parts = [state.get(key.replace(".attn.q.", f".attn.{part}."), torch.zeros_like(query)) for part in "qkv"]
        whole[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return whole


def _check_registers(state: State, network: Any, name: str, source: str) -> None:
    """With registers and without are two networks: each patch has seen them."""
    theirs = any(key in state for key in ("reg_token", "register_tokens", "storage_tokens"))
    ours = "reg_token" in network.state_dict()
    if theirs != ours and "patch_embed.proj.weight" in state:
        has, lacks = ("register tokens", "none") if theirs else ("no register tokens", "some (reg_token)")
        raise BackboneError(f"{source}: does not fit {name}: has {has}, and {name} has {lacks}", hint=expected(name))


def _check_patch(state: State, network: Any, name: str, source: str) -> None:
    """timm resamples the patches of other sizes, which makes another network."""
    found, wanted = state.get("patch_embed.proj.weight"), network.state_dict().get("patch_embed.proj.weight")
    if found is None or wanted is None or found.ndim < 4 or found.shape[2:] == wanted.shape[2:]:
        return
    ours, theirs = (" x ".join(map(str, shape[2:])) for shape in (wanted.shape, found.shape))
    raise BackboneError(
        f"{source}: does not fit {name}: has patches of {theirs} pixels, and {name} of {ours}", hint=expected(name)
    )


def _check_biases(state: State, network: Any, name: str, source: str) -> None:
    """timm leaves DINOv3's biases out where its network has none: right if they are 0, and only then."""
    known = network.state_dict()
    if "storage_tokens" not in state or "blocks.0.attn.q_bias" in known:
        return
    for key in [key for key in state if key.endswith(".attn.qkv.bias") and key not in known]:
        query, _, value = state[key].chunk(3)
        if query.any() or value.any():
            plain, _, tag = name.partition(".")
            other = f"{plain}_qkvb" + (f".{tag}" if tag else "")
            raise BackboneError(f"{source}: {key} is not 0, and {name} has no such bias", hint=f"try {other}")
        del state[key]


def _heads(network: Any) -> set[str]:
    """Parts behind the features, of which a file may have others."""
    named = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    named = (named,) if isinstance(named, str) else named
    return {str(part).partition(".")[0] for part in named} | {"head", "fc_norm", "norm", "pre_logits"}

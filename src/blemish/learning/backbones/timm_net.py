"""Any timm network as a frozen backbone."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blemish.config import nearest
from blemish.errors import BackboneError
from blemish.learning.backbones.base import STRIDES, UNKNOWN
from blemish.learning.backbones.tensor_names import expected, timm_names
from blemish.learning.backbones.torch_base import TorchBackbone
from blemish.learning.backbones.weights import PACKAGED, packaged_state, read_state, sha256_of
from blemish.system import is_out_of_memory

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TimmBackbone(TorchBackbone):
    """See `load`, which finds the weights.

    A transformer that learned its positions for images of one size is brought to another one by timm's resampling
    before it is run or traced, always from the positions that it came with.
    """

    def __init__(
        self,
        network: Any,
        *,
        name: str,
        digest: str,
        layers: tuple[int, ...],
        mean: Tensor,
        std: Tensor,
        licence: str = UNKNOWN,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.layers, self.digest, self.licence = layers, digest, licence
        self._channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        made = ",norm" if getattr(network, "norm", False) is True else ",nhwc" if self._channels_last else ""
        self.identity = f"{name}@{digest[:16]}/{','.join(map(str, layers))}{made}"
        self.stride = int(max(network.feature_info.reduction()))
        inner: Any = getattr(network, "model", None)  # in a list below: it is registered already
        self._sized = [(inner, inner.patch_embed.img_size, inner.pos_embed)] if _has_positions(inner) else []
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)
        self.eval()

    @property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        return self.get_buffer("_mean"), self.get_buffer("_std")

    def prepare(self, size: tuple[int, int]) -> None:
        for inner, native, positions in self._sized:
            if any(side % self.stride for side in size):
                high, wide = size
                raise BackboneError(
                    f"{self.identity} takes no images of {wide} x {high} (width x height)",
                    hint=f"both sides have to be multiples of {self.stride}",
                )
            if tuple(inner.patch_embed.img_size) != size:
                inner.patch_embed.set_input_size(img_size=native)
                inner.pos_embed = positions
                inner.set_input_size(img_size=size)

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        try:
            maps = tuple(self.network(x))
        except (AssertionError, RuntimeError) as error:  # a network with windows, say, that are cut for one size
            if is_out_of_memory(error):
                raise
            _, high, wide = self.network.pretrained_cfg.get("input_size") or (3, 224, 224)
            raise BackboneError(
                f"{self.identity} takes no images of {x.shape[3]} x {x.shape[2]} (width x height): {error}",
                hint=f"choose the image size that it was made for (--image-size {wide}x{high})",
            ) from error
        return tuple(level.permute(0, 3, 1, 2) for level in maps) if self._channels_last else maps


def levels_of(reductions: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Which stages of a network serve a method that wants features of these strides.

    Of a pyramid the last stage of each wanted stride. Of a plain transformer, whose blocks all have one grid, as many
    blocks as strides are wanted, evenly spaced, the last one among them, as dense prediction (Ranftl et al., DPT, 2021)
    and anomaly detection (Chen et al., APRIL-GAN, 2023; Li et al., MuSc, 2024) take them: of 12 blocks the 6th and the
    12th for two, the 4th, 8th and 12th for three. Where no stage has a wanted stride, stages in the same way.
    """
    last = {reduction: i for i, reduction in enumerate(reductions)}
    chosen = sorted(last[stride] for stride in set(strides) if stride in last) if len(last) > 1 else []
    depth, count = len(reductions), len(strides)
    return tuple(chosen) or tuple(sorted({max((i + 1) * depth // count - 1, 0) for i in range(count)}))


def load(
    name: str,
    *,
    layers: tuple[int, ...] | None = None,
    weights: str | Path | None = None,
    allow_download: bool = False,
    strides: tuple[int, ...] = STRIDES,
) -> TimmBackbone:
    """As `backbones.load`, always by timm; layers by `levels_of` where none are given."""
    entry = PACKAGED.get(name)
    timm_name = entry.timm_name if entry else name
    _check_known(timm_name)
    if entry is None and weights is None and not allow_download:
        raise BackboneError(
            f"no weights for '{name}' on this machine",
            hint="give a local file as weights (--weights), or allow_download (--allow-download) to ask timm's hub",
        )
    if weights is not None:
        path = Path(weights)
        digest, source = sha256_of(path), str(path)
        whole = _whole(timm_name)
        state = timm_names(read_state(path), whole, timm_name, source)
    elif entry is not None:
        found, digest = packaged_state(name)
        source, whole = name, _whole(timm_name)
        state = _in_order(whole, found)
    else:
        source, whole = timm_name, _whole(timm_name, pretrained=True)
        state = whole.state_dict()
        digest = _digest_of(state)
    network, chosen = _features(timm_name, whole, layers, strides)
    _fill(network, state, timm_name, source)
    if entry is not None and weights is None:
        return TimmBackbone(
            network,
            name=name,
            digest=digest,
            layers=chosen,
            mean=torch.full((3,), entry.mean),
            std=torch.full((3,), entry.std),
            licence=entry.licence,
        )
    return TimmBackbone(
        network,
        name=timm_name,
        digest=digest,
        layers=chosen,
        mean=torch.tensor(whole.pretrained_cfg.get("mean") or IMAGENET_MEAN) * 255,
        std=torch.tensor(whole.pretrained_cfg.get("std") or IMAGENET_STD) * 255,
        licence=licence_of(timm_name, digest if weights is not None else None),
    )


def licence_of(name: str, digest: str | None) -> str:
    """What timm says of the licence of a network's weights, a note and no promise.

    Of those that the name states (`wide_resnet50_2.tv_in1k`), or, by the start of its digest in their address, of those
    that a file holds; where neither is known of all that timm knows for the network, if they agree. `digest` of a file
    is None where timm itself chose the weights.
    """
    timm = _timm()
    network, _, tag = name.partition(".")
    known = {each: timm.models.get_pretrained_cfg(each) for each in timm.list_models(f"{network}.*", pretrained=True)}
    if digest is None:
        chosen = timm.models.get_pretrained_cfg(name)
        known = {f"{network}.{chosen.tag}" if chosen.tag else name: chosen}
    elif tag:
        known = {each: config for each, config in known.items() if each == name}
    else:
        known = {each: c for each, c in known.items() if c.url and f"-{digest[:8]}." in c.url} or known
    licences = {config.license for config in known.values()}
    if len(licences) != 1 or None in licences:
        return UNKNOWN
    return f"{licences.pop()}, as timm says of {' and '.join(sorted(known)) if len(known) < 3 else network}"


def _timm() -> Any:
    """timm; BackboneError where torchvision, on which it stands, does not fit the torch that is installed."""
    try:
        import timm
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a torchvision of another build fails in its own code, in one of many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(
            f"timm cannot be loaded beside this torch ({reason})",
            hint="install torch and torchvision in one command from one index, the CPU builds or the others",
        ) from error
    return timm


def _check_known(name: str) -> None:
    timm = _timm()
    if not timm.is_model(name):
        raise BackboneError(f"timm has no network '{name}'", hint=nearest(name, [*PACKAGED, *timm.list_models()]))


def _has_positions(network: Any) -> bool:
    """Whether it is a plain transformer that timm brings to another size exactly."""
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(network, Eva | VisionTransformer) and hasattr(network, "set_input_size")  # older Evas have not


def _whole(name: str, *, pretrained: bool = False) -> Any:
    """A network with its classifier; a plain transformer for images of one size, as a graph is."""
    network = _made(name, pretrained=pretrained)
    if _has_positions(network) and network.dynamic_img_size:
        return _made(name, pretrained=pretrained, dynamic_img_size=False)
    return network


def _made(name: str, **options: Any) -> Any:
    """A network of timm."""
    timm = _timm()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm warns of its own deprecated names
        try:
            return timm.create_model(name, **options)
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, AttributeError, OSError) as error:
            what = f"no features at layers {options['out_indices']}" if "out_indices" in options else "no network"
            raise BackboneError(f"'{name}' gives {what}: {error}") from error


def _features(
    name: str, whole: Any, layers: tuple[int, ...] | None, strides: Sequence[int]
) -> tuple[Any, tuple[int, ...]]:
    """What gives a network's features, and its layers; of a plain transformer with its last norm on each of them, as
    the publishers of DINO, DINOv2 and DINOv3 give their own intermediate features: maps of patches alone, without
    class and register tokens.
    """
    from timm.models._features import FeatureGetterNet

    reductions = [stage["reduction"] for stage in getattr(whole, "feature_info", ())]
    chosen = layers or levels_of(reductions, strides)
    if not reductions or not all(0 <= layer < len(reductions) for layer in chosen):
        raise BackboneError(f"'{name}' gives no features at layers {chosen}: it has {len(reductions)}, from 0 on")
    if _has_positions(whole):
        network = FeatureGetterNet(whole, out_indices=list(chosen), norm=True)
        network.pretrained_cfg = whole.pretrained_cfg
        return network, chosen
    return _made(name, features_only=True, out_indices=chosen), chosen


def _in_order(network: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The packaged tensors under timm's names: same tensors, same order, other names."""
    names = network.state_dict()
    if [v.shape for v in names.values()] != [v.shape for v in state.values()]:
        raise BackboneError(f"the packaged tensors do not line up with {type(network).__name__}")
    return dict(zip(names, state.values(), strict=True))


def _fill(network: Any, state: Mapping[str, Tensor], name: str, source: str) -> None:
    """Load strictly in the direction that matters: every tensor of the network has to come from the file.

    A features-only network has no classifier and may lack the last blocks, so the file may hold more.
    """
    wanted = network.state_dict()
    renamed = {_feature_name(key, wanted): value for key, value in state.items()}
    missing = [k for k in wanted if k not in renamed]
    if missing:
        more = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        first = missing[0].removeprefix("model.")
        raise BackboneError(f"{source}: does not fit {name}: {first}{more} missing", hint=expected(name))
    wrong = [k for k in wanted if wanted[k].shape != renamed[k].shape]
    if wrong:
        found, ours = (tuple(tensors[wrong[0]].shape) for tensors in (renamed, wanted))
        raise BackboneError(
            f"{source}: does not fit {name}: {wrong[0].removeprefix('model.')} is {found}, not {ours}",
            hint=expected(name),
        )
    network.load_state_dict({k: renamed[k] for k in wanted})


def _feature_name(key: str, wanted: Mapping[str, Tensor]) -> str:
    """timm flattens the top modules of some features-only networks: `layer1.0.x` may be `layer1_0.x` or `model.…`."""
    for candidate in (key, f"model.{key}", key.replace(".", "_", 1)):
        if candidate in wanted:
            return candidate
    return key


def _digest_of(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()

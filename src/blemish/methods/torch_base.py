"""A method in PyTorch: every one that is trained by gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from blemish.methods.base import Method, Phase, in_arrays
from blemish.types import Batch, FeatureSpec, Prediction

C = TypeVar("C")


class TorchMethod(nn.Module, Method[C]):
    """Base of every method in PyTorch; see `Method`.

    Initial weights are drawn under the seed; what a step draws comes from `generator`, which is set anew for each step.
    """

    arrays: ClassVar[Literal["numpy", "torch"]] = "torch"

    def __init__(self, config: C, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        nn.Module.__init__(self)
        self.generator = torch.Generator().manual_seed(seed)
        self.trained = not self.fitted_modules
        for name in self.fitted_buffers:
            self.register_buffer(name, None)
        Method.__init__(self, config, spec, size, seed)

    @contextmanager
    def seeded(self, seed: int | None = None) -> Iterator[None]:
        """Weights of modules that are made inside come from the method's seed, or another; torch's own state stays."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed if seed is None else seed)
            yield

    @classmethod
    @contextmanager
    def computing(cls) -> Iterator[None]:
        """Without gradients, and nothing in a shorter format, whatever is switched on around."""
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            yield

    @classmethod
    def converted(cls, batch: Batch) -> Batch:
        return in_arrays(batch, _tensor)

    def begin(self, phase: Phase, batches: Iterable[Batch]) -> None:  # noqa: B027
        """Called before a phase, without gradients; `batches` are the samples to learn from, undamaged, in order."""

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The terms of one step's loss, which is their sum; `progress` of the phase lies in [0, 1)."""
        raise NotImplementedError

    def after(self, phase: Phase, progress: float) -> None:  # noqa: B027
        """Called after a step, without gradients."""

    def measure(self, batches: Iterable[Batch]) -> None:  # noqa: B027
        """Called after the last step, without gradients, with all samples: those that steps have seen, then others."""

    def settle(self, batches: Iterable[Batch]) -> None:  # noqa: B027
        """Called last, without gradients, with the samples that no step has seen (`Needs.held`)."""

    @property
    def fitted(self) -> bool:
        return self.trained and all(getattr(self, name) is not None for name in self.fitted_buffers)

    def forward(self, batch: Batch) -> Prediction:
        """`predict`, or NotFittedError."""
        self.check_fitted()
        return self.predict(self.converted(batch))

    def fitted_state(self) -> dict[str, Tensor]:
        state = {name: cast(Tensor, getattr(self, name)) for name in self.fitted_buffers}
        for name in self.fitted_modules:
            state |= {f"{name}.{key}": value for key, value in getattr(self, name).state_dict().items()}
        return state

    def load_fitted(self, state: Mapping[str, Any]) -> None:
        tensors = {name: _tensor(value) for name, value in state.items()}
        for name in self.fitted_buffers:
            setattr(self, name, tensors[name])
        for name in self.fitted_modules:
            inside = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            getattr(self, name).load_state_dict(inside)
        self.trained = True
        self.eval()


def _tensor(value: Any) -> Tensor:
    """A tensor as it is; of an array that is only to be read, a copy."""
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    return torch.from_numpy(array if array.flags.writeable else array.copy())

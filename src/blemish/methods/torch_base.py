"""A method in PyTorch: every one that is trained by gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from blemish.methods.base import Method, Phase, in_arrays
from blemish.nn.device import OnDevice, float32, moved
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
        cards = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=cards):
            torch.manual_seed(self.seed if seed is None else seed)
            yield

    def move(self, device: str) -> None:
        """Everything that it holds lies on the device from now on, and so does what it makes in `on_device`."""
        if device != self.device:
            self.device = device
            moved(self, torch.device(device))

    def on_device(self) -> AbstractContextManager[Any]:
        """Inside, what the method makes or draws is put on its device."""
        return nullcontext() if self.device == "cpu" else OnDevice(torch.device(self.device))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Without gradients, and nothing in a shorter format, whatever is switched on around."""
        with torch.no_grad(), exactly(self.device), self.on_device():
            yield

    @classmethod
    def converted(cls, batch: Batch) -> Batch:
        return in_arrays(batch, _tensor)

    def placed(self, batch: Batch) -> Batch:
        batch = self.converted(batch)
        return batch if self.device == "cpu" else in_arrays(batch, lambda tensor: tensor.to(self.device))

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
        return self.predict(self.placed(batch))

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


@contextmanager
def exactly(device: str = "cpu") -> Iterator[None]:
    """Inside, nothing is computed in a shorter format, whatever autocast is active outside."""
    with ExitStack() as stack:
        for kind in {"cpu", torch.device(device).type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if device != "cpu":
            stack.enter_context(float32())
        yield


def _tensor(value: Any) -> Tensor:
    """A tensor as it is; of an array that is only to be read, a copy."""
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    return torch.from_numpy(array if array.flags.writeable else array.copy())

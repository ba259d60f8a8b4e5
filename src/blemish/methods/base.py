"""What a method is: options, what it needs, and three calls: observe, conclude, predict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from blemish.errors import NotFittedError
from blemish.types import Batch, FeatureSpec, Needs, Prediction

C = TypeVar("C")


class Method(nn.Module, ABC, Generic[C]):
    """Base of every method.

    A method gets features and nothing else: it opens no file, names no backbone, picks no device. What `fit` learns
    lives in the buffers named in `fitted_buffers`; together with the config they are the whole model.

    Args:
        config: the method's frozen dataclass.
        spec: channels and grids of the pyramid it will see.
        size: (H, W) of the network's input, the shape of the anomaly map.
        seed: for whatever it draws; the same seed gives the same scores.
    """

    Config: ClassVar[type[Any]]  # the C of Method[C]
    needs: ClassVar[Needs] = Needs()
    fitted_buffers: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.Config = get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]

    def __init__(self, config: C, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.size = size
        self.generator = torch.Generator().manual_seed(seed)
        for name in self.fitted_buffers:
            self.register_buffer(name, None)

    def observe(self, batch: Batch) -> None:  # noqa: B027  (a method may have nothing to do here)
        """See one batch of good samples; called once per batch, in order."""

    @abstractmethod
    def conclude(self) -> None:
        """Turn what was observed into the fitted buffers."""

    @abstractmethod
    def predict(self, batch: Batch) -> Prediction:
        """Scores and maps of a batch; changes no state. Call the method itself, which checks that it is fitted."""

    @property
    def fitted(self) -> bool:
        """True once every fitted buffer is there."""
        return all(getattr(self, name) is not None for name in self.fitted_buffers)

    def forward(self, batch: Batch) -> Prediction:
        """`predict`, or NotFittedError."""
        if not self.fitted:
            raise NotFittedError(f"{type(self).__name__} is not fitted", hint="call fit first")
        return self.predict(batch)

    def fitted_state(self) -> dict[str, Tensor]:
        """The fitted buffers by name: all that `fit` learned."""
        return {name: cast(Tensor, getattr(self, name)) for name in self.fitted_buffers}

    def load_fitted(self, state: dict[str, Tensor]) -> None:
        """Put back what `fitted_state` gave."""
        for name in self.fitted_buffers:
            setattr(self, name, state[name])

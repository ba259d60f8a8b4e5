"""What a method is: options, what it needs, and three calls: observe, conclude, predict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from blemish.errors import NotFittedError
from blemish.types import Batch, FeatureSpec, Needs, Prediction

C = TypeVar("C")


class Published(NamedTuple):
    """A figure of somebody's paper, to stand beside ours and never in place of it."""

    data: str
    metric: str  # as in the ledger: I-AUROC, P-AUROC, AUPRO@0.3
    value: float  # a share, as in the ledger
    backbone: str
    source: str
    where: str = ""  # the set of ours that is split in the same way; empty where we do not have the data


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
    published: ClassVar[tuple[Published, ...]] = ()

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

    def merge(self, other: Self) -> None:
        """Take over what another instance of the same config has observed; the order of merging is the caller's.

        A method that has this is learned in chunks when there are many images, on one machine or several; one that
        has not sees every batch itself.
        """
        raise NotImplementedError

    def condense(self) -> None:  # noqa: B027
        """Shrink what was observed, where that can be done with a stated loss; called at the end of each chunk."""

    @classmethod
    def mergeable(cls) -> bool:
        """Whether the method says how to merge."""
        return cls.merge is not Method.merge

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

"""What a method is: options, what it needs, and what it does.

A statistical method has observe, conclude, predict, in numpy; its `predict` draws the graph too (`ops.arrays`). One
that is trained by gradient is a `methods.torch_base.TorchMethod`: it names its networks in `fitted_modules`, its
phases in `phases`, and gives the terms of each step's loss; `learning.training` does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar, get_args

import numpy as np

from blemish.errors import NotFittedError
from blemish.ops import coreset
from blemish.ops.drawing import is_drawn
from blemish.types import Batch, FeatureSpec, Needs, Prediction, Pyramid, Routing

C = TypeVar("C")

HELD = 0.1
"""Share of the good images that no step sees, where a phase ends by their loss."""


class Published(NamedTuple):
    """A published figure, shown beside ours and never in its place."""

    data: str
    metric: str  # as in the ledger: I-AUROC, P-AUROC, AUPRO@0.3
    value: float  # a share, as in the ledger
    backbone: str
    source: str
    where: str = ""  # the set of ours that is split in the same way; empty where we do not have the data


class Epochs(NamedTuple):
    """In `Method.efforts` instead of a number of steps: how often each image is seen, whatever their number."""

    times: int
    batch: int | str = "batch"  # images in a step, or the option that says how many


class Pace(NamedTuple):
    """Of a part that learns at a rate of its own."""

    part: str  # one of those that learn
    rate: float  # at the start; it falls along the phase's cosine
    decay: float


@dataclass(frozen=True)
class Phase:
    """A stretch of training: which parts learn, for how long, and how.

    Everything that `learns` does not name is frozen and in eval mode. The rate falls along a cosine to `floor` of
    itself. Of a `flat` phase `steps` is the maximum: the rate stays as it is until the loss on samples that no step
    sees (`Needs.held`) has stopped falling, then it falls along the cosine for a third as many steps again.
    """

    name: str
    steps: int
    learns: tuple[str, ...]  # attributes of the method: modules, or parameters
    batch: int = 16
    rate: float = 1e-3
    floor: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 1e-4  # AdamW's; 0 makes it Adam
    paces: tuple[Pace, ...] = ()  # of parts that do not learn at this rate and decay
    clip: float = 0.0  # largest norm of the gradient; 0 = any
    balanced: bool = False  # all categories are drawn equally often; else all samples are
    data: Literal["good", "scenes"] = "good"  # scenes: synthetic images that are the same for every data set
    flat: bool = False  # ends earlier where the loss on held-out samples stops falling
    shared: bool = False  # what was learned is kept in the cache, for every fit that would learn the same, of any seed
    depends: tuple[str, ...] = ()  # options of the method that a shared phase depends on


class Method(ABC, Generic[C]):
    """Base of every method.

    A method gets batches and nothing else: it opens no file, names no backbone, names no device. What `fit` learns
    lives in the buffers named in `fitted_buffers` and the modules named in `fitted_modules`; together with the config
    they are the whole model.

    Args:
        config: the method's frozen dataclass.
        spec: channels and grids of the pyramid it will see.
        size: (H, W) of the network's input, the shape of the anomaly map.
        seed: for whatever it draws; the same seed gives the same scores.
    """

    Config: ClassVar[type[Any]]  # the C of Method[C]
    arrays: ClassVar[Literal["numpy", "torch"]] = "numpy"  # what it computes with
    needs: ClassVar[Needs] = Needs()
    brief: ClassVar[dict[str, Any]] = {}  # options under which tests try the method in a second: fewer steps, say
    efforts: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # options by effort: quick, long (standard: the defaults)
    fitted_buffers: ClassVar[tuple[str, ...]] = ()
    fitted_modules: ClassVar[tuple[str, ...]] = ()
    published: ClassVar[tuple[Published, ...]] = ()
    keeps = False  # whether `conclude` keeps what `left_out` needs
    device = "cpu"  # where it computes, as far as it can there; set by `move`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.Config = next(get_args(b)[0] for b in cls.__orig_bases__ if get_args(b))  # type: ignore[attr-defined]

    def __init__(self, config: C, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.size = size
        self.seed = seed
        for name in self.fitted_buffers:
            setattr(self, name, None)

    def move(self, device: str) -> None:
        """Compute on this device from now on. In numpy that is the choice of coresets alone."""
        self.device = device

    def computing(self) -> AbstractContextManager[Any]:
        """Entered around `observe`, `merge`, `conclude` and `predict`."""
        return coreset.chosen_on(self.device)

    @classmethod
    def converted(cls, batch: Batch) -> Batch:
        """A batch in the arrays that the method computes with."""
        return in_arrays(batch, np.asarray)

    def placed(self, batch: Batch) -> Batch:
        """The same where the method computes."""
        return self.converted(batch)

    @classmethod
    def wants(cls, config: C) -> Needs:  # noqa: ARG003  (options may change what a method needs)
        """What a method with these options needs; `needs` unless it says otherwise."""
        return cls.needs

    @classmethod
    def routing(cls, config: C) -> Routing | None:  # noqa: ARG003  (options may say how)
        """How a method of several categories tells them apart; None where it learns one, or all alike."""
        return None

    def observe(self, batch: Batch) -> None:  # noqa: B027  (a method may have nothing to do here)
        """See one batch of good samples; called once per batch, in order."""

    def merge(self, other: Self) -> None:
        """Take over what another instance of the same config has observed; the order of merging is the caller's.

        A method that has this is learned in chunks when there are many images, on one machine or several; otherwise
        it sees every batch itself.
        """
        raise NotImplementedError

    @classmethod
    def takes_views(cls) -> bool:
        """Whether further views of good images are learned from: by steps, or by looking at them as well."""
        return bool(cls.fitted_modules) or cls.needs.views

    def condense(self) -> None:  # noqa: B027
        """Condense what was observed, where that is possible with a stated loss; called at the end of each chunk."""

    @classmethod
    def mergeable(cls) -> bool:
        """Whether the method says how to merge."""
        return cls.merge is not Method.merge

    def recall(self, samples: int) -> None:
        """Turn the fitted buffers, which came from so many samples, back into what was observed: the inverse of
        `conclude`, so that `observe` can continue from a finished model. A method with neither phases nor this cannot
        be adapted.
        """
        raise NotImplementedError

    @classmethod
    def adaptable(cls) -> bool:
        """Whether learning can continue from a finished model: by gradient, or by `recall`."""
        return bool(cls.fitted_modules) or cls.recall is not Method.recall

    def conclude(self) -> None:  # noqa: B027
        """Turn the observed statistics into the fitted buffers; where `keeps` is set, keep what `left_out` needs, or
        unset it where too much was condensed for that.
        """

    def left_out(self, learned: Batch, judged: Batch) -> Prediction:
        """What the images of `judged` would get if those of `learned` had not been learned.

        `learned` are all images of one unit as `observe` has seen them, with their ids, of a method whose `conclude`
        was asked to keep what is needed (`keeps`); `judged` are mostly the same, perhaps in another number format. No
        learning again: the statistics of all give those of the others. A method that has this learns from all images
        and makes its threshold from all.
        """
        raise NotImplementedError

    @classmethod
    def leaves_out(cls) -> bool:
        """Whether the method says how images are left out."""
        return cls.left_out is not Method.left_out

    def phases(self) -> tuple[Phase, ...]:
        """What is trained by gradient, in order; nothing where `conclude` does everything."""
        return ()

    def remade(self, batch: Batch) -> Any:
        """(B, 3, *size), normalised as `Batch.x`: the image that the frozen network sees after the sample itself, where
        the method asks for that (`Needs.again`).
        """
        raise NotImplementedError

    @abstractmethod
    def predict(self, batch: Batch) -> Prediction:
        """Scores and maps of a batch; changes no state. Call the method itself, which checks that it is fitted."""

    @property
    def fitted(self) -> bool:
        """True once every fitted buffer is there, and every phase of a trained method is done."""
        return all(getattr(self, name) is not None for name in self.fitted_buffers)

    def __call__(self, batch: Batch) -> Prediction:
        """`predict` of any batch, or NotFittedError."""
        self.check_fitted()
        return self.predict(self.placed(batch))

    def check_fitted(self) -> None:
        """NotFittedError where it is not."""
        if not self.fitted:
            raise NotFittedError(f"{type(self).__name__} is not fitted", hint="call fit first")

    def fitted_state(self) -> dict[str, Any]:
        """Fitted buffers and the state of fitted modules, by name: all that `fit` learned."""
        return {name: getattr(self, name) for name in self.fitted_buffers}

    def load_fitted(self, state: Mapping[str, Any]) -> None:
        """Put back what `fitted_state` gave."""
        for name in self.fitted_buffers:
            setattr(self, name, np.asarray(state[name]))


def in_arrays(batch: Batch, convert: Callable[[Any], Any]) -> Batch:
    """A batch with everything converted that is there; drawn arrays stay as they are."""

    def one(value: Any) -> Any:
        return value if value is None or is_drawn(value) else convert(value)

    def levels(pyramid: Pyramid | None) -> Pyramid | None:
        return None if pyramid is None else Pyramid(tuple(map(one, pyramid.maps)))

    changed: dict[str, Any] = {name: levels(getattr(batch, name)) for name in ("pyramid", "again", "twin")}
    return replace(batch, **changed, x=one(batch.x), mask=one(batch.mask), category=one(batch.category))

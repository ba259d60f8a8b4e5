"""A second device without a card: its tensors say that they lie on `DEVICE` and keep their values on the processor.

As with a card, an operation of tensors of both devices is an error unless it is a transfer, the one on the processor is
a single number, or it is an index. So is drawing on the device: what is drawn has to be the same on every device. What
runs here in full, backward and optimiser too, mixes no devices on a card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = "ipu:0"  # a name that PyTorch knows, has autocast for, and does not look for a driver of

_TRANSFERS = {"aten::_to_copy", "aten::copy_", "aten::_foreach_copy_"}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
_JOINED = {"aten::cat", "aten::stack"}  # which take no number from the processor either


class Mixed(RuntimeError):
    """What PyTorch says of tensors on two devices."""


class Elsewhere(Tensor):
    """A tensor on the second device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        found = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="meta",  # what PyTorch's own code, below Python, takes it for
        )
        found.held = held
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:
        return torch.device(DEVICE)

    @property
    def is_meta(self) -> bool:
        return False

    def tolist(self) -> Any:
        return self.held.tolist()  # PyTorch has it for its own tensors alone

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """Inside, there is `DEVICE`."""

    def __enter__(self) -> Any:
        self.before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes its tensor, and then brings it over
        return super().__enter__()

    def __exit__(self, *given: Any) -> None:
        super().__exit__(*given)
        torch._C._set_only_lift_cpu_tensors(self.before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func._schema.name
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    away = [v for v in tensors if isinstance(v, Elsewhere)]
    wanted = kwargs.get("device")
    target = bool(away) if wanted is None else torch.device(wanted).type in ("meta", torch.device(DEVICE).type)
    if away and name not in _TRANSFERS:
        # the indices of what lies here may lie on the processor
        compared = [args[0], *args[2:3]] if name in _INDEXED and isinstance(args[0], Elsewhere) else tensors
        near = [v for v in compared if isinstance(v, Tensor) and not isinstance(v, Elsewhere)]
        if near := [v for v in near if v.dim() > 0 or name in _JOINED]:
            raise Mixed(f"{name}: {tuple(away[0].shape)} on {DEVICE} and {tuple(near[0].shape)} on the processor")
    if target and torch.Tag.nondeterministic_seeded in func.tags and "attention" not in name:
        raise Mixed(f"{name} draws on {DEVICE}")
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = func(*_each(_held, args), **{key: _each(_held, value) for key, value in kwargs.items()})
    own = {id(_held(v)): v for v in tensors}

    def out(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return own[id(value)] if id(value) in own else Elsewhere(value) if target else value  # own: in place

    return _each(out, found)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """What an operation takes or gives, changed."""
    return type(value)(_each(change, v) for v in value) if isinstance(value, list | tuple) else change(value)

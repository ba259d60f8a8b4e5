"""Computing on another device than the processor, without a line about it in any method or block.

What a method makes and draws while it computes is put on its device here (`OnDevice`), and so is what it holds
(`moved`). Numbers are drawn on the processor, by the generator that they would come from there: so a step draws the
same on every device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

MAKE = frozenset(
    {
        torch.arange, torch.as_tensor, torch.asarray, torch.empty, torch.eye, torch.full, torch.linspace,
        torch.logspace, torch.ones, torch.scalar_tensor, torch.tensor, torch.tril_indices, torch.triu_indices,
        torch.zeros,
    }
)  # fmt: skip
DRAW = frozenset({torch.normal, torch.rand, torch.randint, torch.randn, torch.randperm})


class OnDevice(TorchFunctionMode):
    """Inside, tensors that are made or drawn lie on the device, unless the call names another.

    Whatever takes a generator, and dropout, is computed on the processor and brought over.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func is F.dropout:
            return _dropout(*args, **named)
        if named.get("device") is not None:
            return func(*args, **named)
        if func in DRAW or named.get("generator") is not None:
            return self._drawn(func, args, named)
        if func in MAKE:
            return func(*args, **named, device=self.device)
        return func(*args, **named)

    def _drawn(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        here = func(*map(_on_cpu, args), **{name: _on_cpu(value) for name, value in named.items()})
        if func.__name__.endswith("_"):  # in place
            return args[0].copy_(here)
        return here.to(self.device)


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As PyTorch drops out on a processor: the same draws, applied where the input lies."""
    if not training or not p:
        return input
    kept = torch.empty_like(input, device="cpu").bernoulli_(1 - p).div_(1 - p).to(input.device)
    return input.mul_(kept) if inplace else input * kept


@contextmanager
def float32() -> Iterator[None]:
    """Inside, products and convolutions of float32 are computed in float32 on a card too, by the same algorithm each
    time: it would shorten them otherwise (TF32)."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before


def moved(value: Any, device: torch.device, known: dict[int, Any] | None = None) -> Any:
    """The value with every tensor in it on the device: modules, lists, dicts and other objects are changed in place,
    tensors and tuples replaced. Plain attributes of modules too, which PyTorch itself leaves behind.
    """
    known = {} if known is None else known
    if isinstance(value, nn.Parameter):
        return value  # its module moves it
    if id(value) in known:
        return known[id(value)][1]

    def there(tensor: Tensor) -> Any:
        return known[id(tensor)][1] if id(tensor) in known else _note(tensor, tensor.to(device), known)

    if isinstance(value, Tensor):
        return there(value)
    if isinstance(value, tuple):
        parts = [moved(part, device, known) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return _note(value, type(value)(*parts) if hasattr(value, "_fields") else tuple(parts), known)
    _note(value, value, known)
    if isinstance(value, list | dict):
        _replace(value, enumerate(value) if isinstance(value, list) else value.items(), device, known)
    elif isinstance(value, nn.Module):
        value._apply(there, recurse=False)  # type: ignore[no-untyped-call]
        own = ((name, part) for name, part in vars(value).items() if name not in ("_parameters", "_buffers"))
        _replace(vars(value), own, device, known)
    elif _descends(value):
        _replace(vars(value), vars(value).items(), device, known)
    return value


def _note(old: Any, new: Any, known: dict[int, Any]) -> Any:
    known[id(old)] = (old, new)  # the old one is kept alive, or its number might be given to another
    return new


def _replace(holder: Any, parts: Iterable[tuple[Any, Any]], device: torch.device, known: dict[int, Any]) -> None:
    for key, part in list(parts):
        new = moved(part, device, known)
        if new is not part:
            holder[key] = new


def _descends(value: Any) -> bool:
    """Whether an object may hold tensors: one of a class of ours, or of whoever wrote the method."""
    if isinstance(value, type | ModuleType | FunctionType | MethodType) or not hasattr(value, "__dict__"):
        return False
    package = type(value).__module__.partition(".")[0]
    return package not in sys.stdlib_module_names and package not in ("torch", "numpy")

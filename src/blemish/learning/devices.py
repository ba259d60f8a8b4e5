"""Where a fit computes what it can compute elsewhere than on the processor."""

from __future__ import annotations

import re
import warnings
from importlib.util import find_spec

from blemish.errors import ConfigError

FORM = re.compile(r"cpu|auto|cuda(:\d+)?")


def check_form(name: str) -> None:
    """ConfigError for what is no name of a device."""
    if not FORM.fullmatch(name):
        raise ConfigError(f"no device '{name}'", hint="cpu, cuda, cuda:1 for the second card, or auto")


def cards() -> list[str]:
    """The names of the CUDA cards that PyTorch sees here; none without PyTorch."""
    if find_spec("torch") is None:
        return []
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(i) for i in range(count)]


def chosen(name: str) -> str:
    """`cpu`, or a card as `cuda:0`, of the `device` of a fit. ConfigError where there is no such card."""
    check_form(name)
    if name == "cpu":
        return name
    found = cards()
    if name == "auto":
        return "cuda:0" if found else "cpu"
    number = int(name.partition(":")[2] or 0)
    if number >= len(found):
        there = f"there are {len(found)}" if found else "PyTorch sees no CUDA card here"
        if find_spec("torch") is None:
            there = "PyTorch is not installed"
        raise ConfigError(f"no device '{name}': {there}", hint="--device cpu, or auto; `blemish doctor` lists devices")
    return f"cuda:{number}"


def of_model(name: str) -> str:
    """The device on which a model goes on learning: the one that it was learned on, else, with a warning, the
    processor."""
    try:
        return chosen(name)
    except ConfigError as error:
        warnings.warn(f"{error}: the model goes on learning on the processor", stacklevel=3)
        return "cpu"


def title(device: str) -> str:
    """For people: `cuda:0 (name of the card)`."""
    return device if device == "cpu" else f"{device} ({cards()[int(device.partition(':')[2])]})"

"""The options of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from blemish.errors import ConfigError
from blemish.inspection.conformal import check_rate
from blemish.learning import backbones


@dataclass(frozen=True)
class FitOptions:
    """All options of a run but the data; written to run.json, which is a recipe for the next one."""

    method: str = "patchcore"
    backbone: str = backbones.DEFAULT
    layers: tuple[int, ...] | None = None  # backbone stages, finest first; None = those of stride 8 and 16
    weights: str | None = None  # a local file, for backbones that no package brings
    allow_download: bool = False
    image_size: str = "256"  # 256 = 256² pixels with the aspect kept, 320x128 = width x height, 256sq = square
    roi: str | None = None  # image file whose pixels > 0 are looked at; brought to the size of the network's input
    held_out: float = 0.2  # share of the good images kept for the threshold, where it is a split
    calibration: Literal["auto", "split", "folds", "none"] = "auto"  # auto: split, else folds, else none and a warning
    precision: Literal["auto", "bf16", "f32"] = "auto"  # auto: learned in f32, run in bf16 where shown harmless
    false_alarm_rate: float = 0.05  # share of good parts that may be rejected
    promise_per: Literal["image", "unit"] = "image"  # unit: exact for several images of one thing, and stricter
    seed: int = 0
    budget: str | None = None  # most time for training by gradient, such as 90s, 10m or 2h; what is cut is said
    views: tuple[str, ...] = ()  # flip_h, flip_v, turn_180: views of a good part that are good parts too
    textures: str | None = None  # folder of images that made defects take their texture from; None = drawn ones
    second_backbone: str | None = None  # a second frozen network, for methods that have a use for one
    second_weights: str | None = None  # its local weights file
    multi_class: bool = False  # one model that tells the categories apart, with promises for each
    window: float = 9.6  # of signals: seconds that are looked at together
    file_rate: float | None = None  # of signals: sampling rate in Hz of files that state none
    resample: float = 125.0  # of signals: the rate in Hz that recordings are brought to
    band: str = "0.5-40"  # of signals: filter in Hz, or none
    max_pixels: int = 100_000_000  # of images: larger ones are refused; the model keeps the limit
    options: dict[str, Any] = field(default_factory=dict)  # the method's own

    def __post_init__(self) -> None:
        check_rate(self.false_alarm_rate)
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out has to lie between 0 and 1, not {self.held_out}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed has to lie between 0 and 2**63 - 1, not {self.seed}")
        if min(self.window, self.resample, self.file_rate or 1.0) <= 0:
            raise ConfigError("window, file_rate and resample have to be positive")
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels has to be at least 1, not {self.max_pixels}")
        if self.budget is not None:
            seconds(self.budget)


def seconds(text: str) -> float:
    """`90`, `90s`, `10m` or `2h` in seconds; ConfigError where it is none of them."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        value = float(number) * _UNITS[unit]
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise ConfigError(f"'{text}' is no time", hint="90s, 10m or 2h")
    return value


_UNITS = {"s": 1, "m": 60, "h": 3600}

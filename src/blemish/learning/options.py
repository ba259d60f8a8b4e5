"""The options of a fit, each declared once: the command line, `Detector` and docs/options.md are made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_type_hints

from blemish import config, methods
from blemish.data.image.resolution import parse_scale
from blemish.errors import ConfigError
from blemish.files import MAX_PIXELS, MOST_PIXELS
from blemish.inspection.conformal import Decide, RegionPer, Regions, check_confidence, check_rate, images_needed
from blemish.inspection.rules import parse_rule
from blemish.learning import backbones
from blemish.learning.devices import check_form

if TYPE_CHECKING:
    from blemish.data.modality import Cut

AUTO = "auto"
"""Stands for the method that `evaluation.choose` finds."""

PromisePer = Literal["image", "unit"]

ALL_LEARNED = ("leave_one_out", "folds")
"""Calibrations that hold nothing out; no theorem gives their threshold a confidence."""


@dataclass(frozen=True)
class Fusion:
    """The options of several methods as one, beside those of each, which stand under its name (`padim.sigma`)."""

    combine: Literal["z", "p"] = "z"  # by mean and deviation of good images' scores, or by their p-values (-log10)


@dataclass(frozen=True)
class Option:
    """What is known of an option; `name`, `type` (without None) and `default` are those of its field."""

    help: str
    group: str  # heading in docs/options.md
    flag: str = ""  # on the command line, where it is not made from the name
    file: bool = False  # path of what is read
    least: int | None = None
    most: int | None = None
    later: bool = False  # no digest of a result holds it while it has its default: set it for every new option
    name: str = ""
    type: Any = None
    default: Any = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The values there are to choose from; empty where there are others."""
        return get_args(self.type) if str in map(type, get_args(self.type)) else ()

    @property
    def item(self) -> Any:
        """Type of one of several values, as `int` of `tuple[int, ...]`; None where the option has one value."""
        return None if self.choices else next(iter(get_args(self.type)), None)


def option(default: Any, text: str, group: str, **known: Any) -> Any:
    """A field with all that is said of it; `known` as in `Option`."""
    return field(default=default, metadata={"option": Option(text, group, **known)})


@dataclass(frozen=True)
class FitOptions:
    """All options of a fit but the data; written to run.json, which is a recipe for the next one.

    Raises ConfigError on a value out of its range.
    """

    __pydantic_config__: ClassVar[dict[str, bool]] = {"coerce_numbers_to_str": True}  # image_size=256

    method: str = option(
        "patchcore",
        "A name from `blemish methods`; several as one, as padim+protoot (fused is these two); or auto: the one that "
        "finds most synthetic defects on your good images.",
        "Method",
    )
    max_ms: float | None = option(
        None, "Of method auto: maximum milliseconds an image on one core.", "Method", flag="--max-ms", later=True
    )
    multi_class: bool = option(
        False, "One model that tells the categories apart, with a threshold for each.", "Method", later=True
    )

    backbone: str = option(backbones.DEFAULT, "A name from `blemish backbones`, or any timm network.", "Backbone")
    layers: tuple[int, ...] | None = option(
        None,
        "Feature stages of the backbone, by timm's numbers; those of the strides that the method wants if not given.",
        "Backbone",
        flag="--layer",
    )
    weights: str | None = option(None, "Local weights file for the backbone.", "Backbone", file=True)
    allow_download: bool = option(False, "Let timm download weights.", "Backbone")
    second_backbone: str | None = option(None, "A second frozen network, for methods that use two.", "Backbone")
    second_weights: str | None = option(None, "Its local weights file.", "Backbone", file=True)

    image_size: str = option(
        "256", "Pixels: 256 = 256² with the aspect kept; 320x128 = width x height; 256sq = square.", "Images"
    )
    lightings: tuple[str, ...] = option(
        (),
        "A picture of those that one sample is: left (a file for each lighting, found by its name), or nir=3, "
        "colour=0,1,2 (channels of one file); docs/howto/lightings.md.",
        "Images",
        flag="--lighting",
        later=True,
    )
    combine_lightings: Literal["fuse", "max"] = option(
        "fuse",
        "Of several lightings: fuse, features of all are learned together; max, each is learned by itself, and the "
        "most anomalous decides.",
        "Images",
        flag="--channels",
        later=True,
    )
    roi: str | None = option(
        None,
        "Region of interest: an image whose pixels > 0 are inspected, or JSON polygons; several colours or names are "
        "areas with a threshold each.",
        "Images",
        file=True,
    )
    locate: Literal["off", "auto", "on", "several"] = option(
        "off",
        "Find the part on its background, turn and crop it; auto: where that makes good images more alike; several: "
        "inspect each part of a picture.",
        "Images",
        later=True,
    )
    template: str | None = option(
        None,
        "Find the part by this picture of it, cut out of a good one, on any background; what is black or transparent "
        "in it is inspected, and not looked for.",
        "Images",
        file=True,
        later=True,
    )
    tiles: str | None = option(
        None,
        "Inspect in overlapping tiles: 512 = of 512 source pixels, 512:64 = overlapping by 64; image_size is a tile's.",
        "Images",
        later=True,
    )
    tile_places: Literal["auto", "on", "off"] = option(
        "auto",
        "With tiles, a head for each tile's place; auto: where good pictures lie alike and learning is one pass.",
        "Images",
        later=True,
    )
    scale: str | None = option(
        None,
        "How large a source pixel is: 0.05mm, 50um, 20px/mm, or file (what each file states); regions are measured.",
        "Images",
        later=True,
    )
    max_pixels: int = option(
        MAX_PIXELS,
        "Larger images are refused before they are decoded; the model keeps the limit.",
        "Images",
        least=1,
        most=MOST_PIXELS,
        later=True,
    )

    window: float = option(9.6, "Signals: seconds that are inspected together.", "Signals", later=True)
    file_rate: float | None = option(
        None, "Signals: sampling rate in Hz of files that state none.", "Signals", flag="--rate", later=True
    )
    resample: float = option(125.0, "Signals: the rate in Hz that recordings are brought to.", "Signals", later=True)
    band: str = option("0.5-40", "Signals: band-pass filter in Hz, or none.", "Signals", later=True)
    leads: tuple[str, ...] | None = option(
        None, "Signals: a lead to look at, by its name; all of them if not given.", "Signals", flag="--lead", later=True
    )

    seed: int = option(0, "The same seed gives the same scores.", "Training")
    effort: Literal["quick", "standard", "long"] = option(
        "standard",
        "How much time: quick, about a tenth of standard; long, the steps and sizes of the method's paper.",
        "Training",
        later=True,
    )
    device: str = option(
        "cpu",
        "Where to learn: cpu, cuda, cuda:1 for the second card, or auto: a card where there is one.",
        "Training",
        later=True,
    )
    budget: str | None = option(
        None,
        "Maximum time for training by gradient: 90s, 10m, 2h; a warning says what was cut. Of method auto: for "
        "choosing, 10m if not given.",
        "Training",
    )
    precision: Literal["auto", "bf16", "f32"] = option(
        "auto",
        "Number format of the network; auto: learned in f32, run in bf16 where that is shown to be harmless.",
        "Training",
    )
    views: tuple[str, ...] = option(
        ("auto",),
        "Views of a good part that are good parts too: flip_h, flip_v, turn_90, turn_180, turn_270, tilt_left, "
        "tilt_right (by 10 degrees), same; auto: those in which good images score like good images.",
        "Training",
        flag="--view",
    )
    textures: str | None = option(
        None, "Folder of images that synthetic defects take their texture from.", "Training", file=True
    )

    false_alarm_rate: float = option(0.05, "Share of good parts that may be rejected.", "Promise")
    calibration: Literal["auto", "split", "leave_one_out", "folds", "none"] = option(
        "auto",
        "How the threshold is made: split (an exact promise), leave_one_out or folds (all images are learned from; no "
        "exact promise), none; auto: split where enough can be held out, else leave_one_out where the method has it, "
        "else folds, else none with a warning.",
        "Promise",
    )
    held_out: float = option(0.2, "Share of the good images kept for the threshold, where it is a split.", "Promise")
    promise_per: PromisePer = option(
        "image", "unit: an exact promise where several images show one thing, and a stricter threshold.", "Promise"
    )
    confidence: float | None = option(
        None,
        "How sure each promise is to hold for this very model: 0.95 = 95 % sure, from a split; on average over models "
        "if not given.",
        "Promise",
        later=True,
    )
    region_rate: float | None = option(
        None,
        "Share of good images that may show a region, or of good area in regions; the false-alarm rate if not given.",
        "Promise",
        later=True,
    )
    region_per: RegionPer = option("image", "What the region rate counts: image or area.", "Promise", later=True)

    rules: tuple[str, ...] = option(
        (),
        "A part is rejected if one of its regions breaks a rule: 'length > 0.3mm', 'count > 3' (docs/measures.md).",
        "Promise",
        flag="--rule",
        later=True,
    )
    decide: Literal["auto", "score", "rules", "both"] = option(
        "auto",
        "What rejects a part: its score (with named areas, theirs), the rules, or both together; auto: rules if any.",
        "Promise",
        later=True,
    )

    options: dict[str, Any] = field(default_factory=dict)  # the method's own

    def __post_init__(self) -> None:
        check_rate(self.false_alarm_rate)
        check_confidence(self.confidence)
        if self.confidence is not None and self.calibration in ALL_LEARNED:
            message = f"{self.calibration} learns from all images, and no theorem gives its threshold a confidence"
            raise ConfigError(message, hint="calibration auto or split (--calibration), or no confidence")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out has to lie between 0 and 1, not {self.held_out}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed has to lie between 0 and 2**63 - 1, not {self.seed}")
        if min(self.window, self.resample, self.file_rate or 1.0) <= 0:
            raise ConfigError("window, file_rate and resample have to be positive")
        if self.combine_lightings == "max" and (len(self.lightings) < 2 or self.fused or self.multi_class):
            message = "max (--channels) compares two lightings or more, of one product and by one method"
            raise ConfigError(message, hint="leave channels out, or name lightings (--lighting) and one method")
        if self.tiles is not None:
            from blemish.data.image.tiles import parse_tiles

            parse_tiles(self.tiles)
            if self.method == AUTO:
                raise ConfigError("method auto tries no tiles", hint="leave out tiles (--tiles), or name a method")
        elif self.tile_places == "on":
            raise ConfigError("there are no tiles whose places could be known", hint="give tiles (--tiles)")
        if self.lightings:
            from blemish.data.image.lightings import Lightings

            Lightings.parse(self.lightings)
            if self.method == AUTO:
                message = "lightings are learned by a named method, and method auto chooses for one picture"
                raise ConfigError(message, hint="name a method (--method)")
        if self.locate == "off" and self.template is not None:
            raise ConfigError("a template is for parts that are located", hint="say so (--locate on)")
        if self.locate != "off" and self.roi is not None:
            message = "a region of interest is drawn on the picture, and a located part lies anywhere in it"
            raise ConfigError(message, hint="leave out roi (--roi) or locate (--locate)")
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels has to be at least 1, not {self.max_pixels}")
        if self.max_ms is not None and (self.max_ms <= 0 or self.method != AUTO):
            raise ConfigError("max_ms is a positive limit for method auto", hint="leave it out (--max-ms)")
        self._check_rules()
        if self.scale is not None:
            parse_scale(self.scale)
        if self.budget is not None:
            seconds(self.budget)
        check_form(self.device)

    @property
    def cut(self) -> Cut:
        """How files become samples."""
        from blemish.data.modality import Cut

        return Cut(self.window, self.file_rate, self.lightings)

    @property
    def fused(self) -> bool:
        """Whether the method is several as one."""
        return len(methods.parts(self.method)) > 1

    @property
    def parts(self) -> tuple[FitOptions, ...]:
        """The options of each of the methods that are one; themselves where it is one method, as of one lighting where
        each is learned by itself."""
        names = methods.parts(self.method)
        if len(names) == 1:
            return (self if self.combine_lightings == "fuse" else replace(self, combine_lightings="fuse"),)
        return tuple(replace(self, method=name, options=dict(self.options.get(name, {}))) for name in names)

    def check_parts(self) -> None:
        """ConfigError on an unknown option of a method, or a bad value."""
        if self.fused:
            _ = self.fusion
        for part in self.parts:
            config.build(methods.get(part.method).Config, part.options)

    @property
    def fusion(self) -> Fusion:
        """How several methods are one. ConfigError on an unknown name, or options of a part that are no group."""
        names = methods.parts(self.method)
        if alone := [name for name in names if not isinstance(self.options.get(name, {}), Mapping)]:
            raise ConfigError(f"options of a part stand under its name, not {alone[0]} itself", hint=f"{alone[0]}.NAME")
        own = {name: value for name, value in self.options.items() if name not in names}
        return config.build(Fusion, own, also=names)

    @property
    def regions(self) -> Regions:
        """How regions are cut, and what decides."""
        decide: Decide = self.decide if self.decide != "auto" else "rules" if self.rules else "score"
        return Regions(self.region_rate, self.region_per, decide)

    def _check_rules(self) -> None:
        for rule in self.rules:
            parse_rule(rule)
        if self.decide in ("rules", "both") and not self.rules:
            raise ConfigError(f"{self.decide} decide, and there is no rule", hint="give one (--rule), or decide score")
        if self.rules and self.region_per == "area":
            raise ConfigError("with rules, regions are cut where rules keep their promise", hint="leave region_per out")
        _ = self.regions

    @property
    def of_images(self) -> str:
        """What only images have of what is asked for, for people; empty where nothing is."""
        asked = {"a region of interest": self.roi, "a scale": self.scale, "a rule": self.rules}
        asked |= {"a lighting": self.lightings}
        return " and ".join(name for name, value in asked.items() if value)

    def needs_maps(self, areas: int = 0) -> str:
        """What needs more of the good images' maps than the largest value, for people; empty where nothing does."""
        asked = {"a threshold by area (region_per)": self.region_per == "area", "each area (roi)": areas > 0}
        asked["a rule"] = bool(self.rules)
        return " and ".join(name for name, wanted in asked.items() if wanted)

    def together(self, areas: int = 0) -> int:
        """How many thresholds keep one promise."""
        return max(areas, 1) + (self.decide == "both")

    def strictest_rate(self, together: int = 1) -> float:
        """The rate that takes the most good images to promise: of several thresholds together, that of one alone by
        Bonferroni's inequality, with which there are always enough."""
        return min(self.false_alarm_rate / together, self.region_rate or 1.0)

    def needed(self, areas: int = 0) -> int:
        """The fewest held-out good images (or units) that can keep every promise."""
        alone = images_needed(self.strictest_rate(), self.confidence)
        return max(alone, images_needed(self.false_alarm_rate, self.confidence, self.together(areas)))


def _known(name: str, option: Option, kind: Any, default: Any) -> Option:
    if NoneType in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    plain = name.replace("_", "-")
    flag = option.flag or (f"--{plain}/--no-{plain}" if default is True else f"--{plain}")
    return replace(option, name=name, type=kind, default=default, flag=flag)


_TYPES = get_type_hints(FitOptions)
OPTIONS: dict[str, Option] = {
    f.name: _known(f.name, f.metadata["option"], _TYPES[f.name], f.default)
    for f in fields(FitOptions)
    if f.name != "options"
}


def by_name(given: Mapping[str, Any]) -> FitOptions:
    """The options from names and values: those that are not in `OPTIONS` are the method's own.

    ConfigError on an unknown method, an unknown name (naming the nearest of both) or a bad value.
    """
    method_options = {name: value for name, value in given.items() if name not in OPTIONS}
    options = config.build(FitOptions, {**{k: v for k, v in given.items() if k in OPTIONS}, "options": method_options})
    if options.fused:
        options.check_parts()
        if options.tile_places == "on":
            raise ConfigError("several methods as one have no heads for tiles", hint="leave tile_places out")
        if options.multi_class or options.second_backbone:
            raise ConfigError("several methods as one learn one product by one backbone", hint="name one (--method)")
    elif options.method != AUTO:
        config.build(methods.get(options.method).Config, method_options, also=list(OPTIONS))
    elif method_options:
        raise ConfigError(f"method auto takes no options of a method, such as '{next(iter(method_options))}'")
    elif options.multi_class or options.second_backbone:
        raise ConfigError("method auto chooses for one product and one backbone", hint="name a method (--method)")
    return options


def probe(options: FitOptions) -> FitOptions:
    """The options by which data is read, where the method is still to be chosen or they are several."""
    return replace(options, method=FitOptions.method) if options.method == AUTO else options.parts[0]


def seconds(text: str) -> float:
    """`90`, `90s`, `10m` or `2h` in seconds; ConfigError for anything else."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        value = float(number) * _UNITS[unit]
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise ConfigError(f"'{text}' is no time", hint="90s, 10m or 2h")
    return value


_UNITS = {"s": 1, "m": 60, "h": 3600}

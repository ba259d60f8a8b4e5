"""Which records a model learns from, and which ones its threshold is made from."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from blemish.data.image.modality import Images
from blemish.data.layouts import by_folder
from blemish.data.modality import Modality
from blemish.errors import CalibrationError, ConfigError, DataError
from blemish.inspection.conformal import Kind, images_needed, uncertain
from blemish.learning.options import FitOptions
from blemish.types import Record

if TYPE_CHECKING:
    from blemish.methods.base import Method

FOLDS = 5
STRANGE = 10  # times as many images as a rate needs tell how strange good ones look: a limit on time only


class Part(NamedTuple):
    """Records that are learned, and others that are held out of it."""

    learn: list[Record]
    held: list[Record]


@dataclass(frozen=True)
class Split:
    """What a model learns from, and how its threshold is made: of what is held out, of all, or not at all."""

    learn: list[Record]
    kind: Kind | None = None
    held: list[Record] = field(default_factory=list)
    folds: tuple[Part, ...] = ()  # each learned without its held-out records, beside the whole, where none is left out


def good_training_records(records: Iterable[Record]) -> list[Record]:
    """The only records that fit may see; DataError where there are none."""
    good = [r for r in records if r.split == "train" and r.label == 0]
    if not good:
        raise DataError("there is no good image to learn from", hint="give a folder with at least one")
    return good


def choose(records: Iterable[Record], modality: type[Modality[Any]], *, by_category: bool) -> list[Record]:
    """The good training records, each content once; with `by_category` their folders are categories where they have
    none. DataError where there are none."""
    good = good_training_records(records)
    return without_copies(by_folder(good) if by_category else good, modality)


def without_copies(records: Sequence[Record], kind: type[Modality[Any]] = Images) -> list[Record]:
    """The first of each content (see `data.identity`), with a warning where others are left out: copies carry no new
    information, and copies on both sides of a split would invalidate the promise."""
    first: dict[tuple[str | None, str], Record] = {}
    for record, content in zip(records, kind.contents(records), strict=True):
        first.setdefault((record.group, content), record)
    if len(first) < len(records):
        warnings.warn(f"{len(records) - len(first)} of {len(records)} images are copies and are left out", stacklevel=3)
    return list(first.values())


def plan_calibration(good: Sequence[Record], options: FitOptions, method: type[Method[Any]], areas: int = 0) -> Split:
    """How to calibrate, and what is held out for it.

    A split where enough images can be held out; otherwise, where all together are enough, each left out once by a
    method that can do that, or folds; otherwise nothing and a warning. Or what the options ask for, or
    CalibrationError. Units stay whole: pictures of one thing are never on both sides. `areas` is the number of named
    areas that get a threshold each.

    Where learning is costly (training by gradient), folds do it six times over. Then as many as a promise needs are
    held out instead, if necessary more than `held_out`, up to half of them. With a confidence, which only a split has,
    so are they for every method, where half as many are left to learn from.

    ConfigError where images are to be left out by a method that cannot, or where more of their maps is needed than what
    leaving them out tells.
    """
    rate = options.strictest_rate(options.together(areas))
    requested, needed = options.calibration, options.needed(areas)
    alone = images_needed(options.strictest_rate(), options.confidence)  # for one threshold
    # which tiles are left out would have to be told for each picture
    leaves_out = (
        method.leaves_out() and options.tiles is None and not options.fused and options.combine_lightings == "fuse"
    )
    costly = bool(method.fitted_modules) or method.needs.costly
    if requested == "leave_one_out" and (needs_maps := options.needs_maps(areas)):
        message = f"{needs_maps} needs whole maps of good images, and leaving one out gives a score"
        raise ConfigError(message, hint="calibration auto, split or folds (--calibration)")
    leaves_out = leaves_out and not options.needs_maps(areas)
    if requested == "leave_one_out" and not leaves_out:
        message = f"{options.method} cannot leave images out of what it has learned"
        raise ConfigError(message, hint="calibration auto, split or folds (--calibration)")
    if requested == "none":
        return Split(list(good))
    units = by_unit(good)
    _check_certain(units, options)
    order = sorted(units)
    random.Random(options.seed).shuffle(order)
    if requested in ("auto", "split"):
        held: list[Record] = []
        taken = 0
        half = costly and not leaves_out and len(order) >= 2 * needed
        certain = options.confidence is not None and len(order) >= needed + max(needed // 2, 1)
        least = needed if requested == "auto" and (half or certain) else 0  # units
        while taken < len(order) - 1 and (len(held) < round(options.held_out * len(good)) or taken < least):
            held += units[order[taken]]  # at least one unit is left to learn from
            taken += 1
        # a few units represent new ones poorly, however many images they have: auto prefers folds over all units.
        # Several thresholds take more of what is counted, and not more units than one of them
        enough = (taken if options.promise_per == "unit" else len(held)) >= needed
        if enough and (taken >= alone or (requested == "split" and options.promise_per == "image")):
            return Split(_without(good, held), "split", held)
    counted = len(order) if options.promise_per == "unit" else len(good)
    sure = options.confidence is not None
    if requested != "split" and counted >= needed and len(order) > 1 and not sure:
        parts = [[r for name in order[k::FOLDS] for r in units[name]] for k in range(min(FOLDS, len(order)))]
        folds = tuple(Part(_without(good, part), part) for part in parts)
        if requested == "leave_one_out":
            return Split(list(good), requested)
        return Split(list(good), "leave_one_out" if leaves_out and requested == "auto" else "cross", folds=folds)
    what = "good images" if options.promise_per == "image" else "units of good images"
    share = f"about {math.ceil(needed / options.held_out)} with {options.held_out:.0%} held out"
    all_learned = f"{needed} {what} that are all learned from"
    if sure:  # nothing is left out in turn; auto holds out what it takes
        all_learned = f"{needed} {what} that are held out beside {max(needed // 2, 1)} that are learned from"
    advice = f"it takes {all_learned} or {share}"
    certainly = f" with confidence {options.confidence:g}" if sure else ""
    message = f"{counted} {what} cannot promise a false-alarm rate of {rate:g}{certainly}"
    if requested != "auto":
        raise CalibrationError(f"{message} by {requested}", hint=advice)
    warnings.warn(f"{message}: the model is saved without a threshold; {advice}", stacklevel=3)
    return Split(list(good))


def hold_out(category_records: Sequence[Record], kept: Sequence[Record], options: FitOptions, areas: int = 0) -> Part:
    """What is learned and held out of one of several categories; nothing is held where that supports no promise.

    Whole units, as many (of images, or of units where those are promised) as the rate needs, where half as many images
    are left to learn from. Folds are not possible here, so a few units are enough where images are counted: the promise
    then says "about". `kept` are learned from.

    Raises CalibrationError where a requested split is not possible, ConfigError for folds and leave_one_out.
    """
    if options.calibration in ("folds", "leave_one_out"):
        raise ConfigError(
            f"{options.calibration} calibrates a model of one product", hint="calibration auto, split or none"
        )
    _check_certain(by_unit(category_records), options)
    needed, fixed = options.needed(areas), {r.whole for r in kept}
    units = by_unit(r for r in category_records if r.whole not in fixed)
    order = sorted(units)
    random.Random(options.seed).shuffle(order)
    held: list[Record] = []
    taken = counted = 0
    while taken < len(order) and (len(held) < round(options.held_out * len(category_records)) or counted < needed):
        held += units[order[taken]]
        taken += 1
        counted = taken if options.promise_per == "unit" else len(held)
    left = len(category_records) - len(held)
    if options.calibration != "none" and counted >= needed and left >= max(needed // 2, 1):
        return Part(_without(category_records, held), held)
    if options.calibration == "split":
        count = len(category_records)
        raise CalibrationError(f"{count} good images cannot promise a rate of {options.false_alarm_rate:g} by split")
    return Part(list(category_records), [])


def new_to_the_router(
    category_records: Sequence[Record], held: Sequence[Record], anchors: Container[str], options: FitOptions
) -> list[Record]:
    """Records of a category, besides the held-out ones, that show how strange its good images look.

    The router has learned the records of `anchors` (ids) alone, so the records of the heads are as new to it as the
    held-out ones, and have far more units: a few held-out units represent new ones poorly. Taken in turn from each
    unit, until there are `STRANGE` times as many images as the rate needs.
    """
    if options.calibration == "none":
        return []
    out = {r.id for r in held}
    units = by_unit(r for r in sorted(category_records, key=lambda r: r.id) if r.id not in out and r.id not in anchors)
    draw = random.Random(options.seed)
    order = [draw.sample(units[name], len(units[name])) for name in draw.sample(sorted(units), len(units))]
    turns = [record for turn in zip_longest(*order) for record in turn if record is not None]
    return turns[: max(STRANGE * images_needed(options.false_alarm_rate, options.confidence) - len(held), 0)]


def _check_certain(units: Mapping[str, Sequence[Record]], options: FitOptions) -> None:
    """CalibrationError where images of one unit would be counted one by one, and a confidence is asked for."""
    several = any(len(images) > 1 for images in units.values())
    if several and options.confidence is not None and options.promise_per == "image" and options.calibration != "none":
        raise uncertain(options.confidence, by_units=True)


def by_unit(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each unit."""
    units: dict[str, list[Record]] = {}
    for record in records:
        units.setdefault(record.whole, []).append(record)
    return units


def split_at_random(records: Sequence[Record], share: float, seed: int) -> Part:
    """The records that training steps see, and the others: about `share` at random, one unit at least where there is a
    share, whole units, never the last one."""
    units = by_unit(records)
    order = sorted(units)
    random.Random(seed).shuffle(order)
    held: list[Record] = []
    for name in order[:-1]:
        if len(held) >= (max(round(share * len(records)), 1) if share else 0):
            break
        held += units[name]
    return Part(_without(records, held), held)


def _without(records: Sequence[Record], excluded: Sequence[Record]) -> list[Record]:
    ids = {r.id for r in excluded}
    return [r for r in records if r.id not in ids]

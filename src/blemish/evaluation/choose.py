"""Which method, input size and pose: chosen from good images alone, by a race on synthetic defects.

candidates   methods x input sizes x located or not, cheap ones first
race         each learns from some of the good images and judges others, as they are and with graded synthetic defects;
             the better half learns from more (successive halving; Jamieson and Talwalkar, AISTATS 2016)
fused        the best method with each of the two next ones, as one (`learning.fused`), where time is left
winner       the largest AUROC of the defects; of those within `TIE` of it the fastest

AUROC, not the share found at the promised rate, decides: of all rules that were tried it orders methods most nearly as
real defects do (docs/results/ranks.md); the share stands beside it. No test image is read.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.drawing import display
from blemish.data.image.decode import read_image
from blemish.data.image.modality import Images
from blemish.data.image.posing import Posing
from blemish.data.synthesis.graded import KINDS
from blemish.data.synthesis.image_set import StudioOptions, damage, maker
from blemish.data.synthesis.seeding import generator_for
from blemish.errors import CalibrationError, ConfigError, DataError
from blemish.evaluation.synthetic import Trial, separation
from blemish.inspection.inspector import Inspector
from blemish.learning.fit import fit
from blemish.learning.options import FitOptions, seconds
from blemish.learning.sources.image import suggested_locator
from blemish.learning.splits import good_training_records, split_at_random, without_copies
from blemish.methods import parts
from blemish.types import Record, Track, no_track

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone
    from blemish.learning.backbones.cache import FeatureCache

CHEAP = ("padim", "patchcore")  # learned in one pass
TRAINED = ("rd", "protoot", "hetnet")
LARGER = 1.5  # times the input's side, as a further candidate
ROUNDS = (60, 160, 400)  # good images that a candidate learns from, at most
DEFECTS = 84  # on the judged images of all splits
HELD = 0.25  # of the good images, that are judged
JUDGED = (20, 100)  # of them: fewer are held out anew, more are not judged
SPLITS = 3  # at most
LEAST = 12  # good images
ON_PART = 0.5  # of a defect's area, at least
TRIES = 5  # of drawing one so
TIE = 0.01  # of AUROC
BUDGET = "10m"
ALWAYS = ("on", "several")  # of `locate`: every candidate locates


@dataclass(frozen=True)
class Tried:
    """How a candidate did in the last round that it took part in."""

    method: str
    image_size: str
    located: bool
    round: int = 0  # from 1
    learned_from: int = 0
    auroc: float | None = None  # of synthetic defects against good images
    found: float | None = None  # share of the defects at the promised rate of false alarms
    milliseconds: float | None = None  # an image, one at a time
    fit_seconds: float | None = None
    out: str = ""  # why it went no further; empty for the winner

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method} {self.image_size}{' located' if self.located else ''}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Choice:
    """The options to learn with, and all candidates, best first."""

    options: FitOptions
    tried: tuple[Tried, ...]

    @property
    def why(self) -> str:
        """One sentence."""
        best = self.tried[0]
        assert best.auroc is not None
        near = [t for t in self.tried[1:] if t.auroc is not None and t.round == best.round and t.auroc > best.auroc]
        faster = f", and is faster than what has up to {max(t.auroc or 0 for t in near):.3f}" if near else ""
        return (
            f"{best.name}: AUROC {best.auroc:.3f} on synthetic defects, {best.milliseconds:.0f} ms an image{faster}; "
            f"{len(self.tried)} candidates, no defect seen"
        )


class _Defect(NamedTuple):
    """What was drawn on a judged image: only where it lies, since whole pictures of all would not fit into memory."""

    number: int  # of the image
    rows: slice
    columns: slice
    changed: NDArray[Any]

    def on(self, image: NDArray[Any]) -> NDArray[Any]:
        """The image with the defect."""
        out = image.copy()
        out[self.rows, self.columns] = self.changed
        return out


class _Part(NamedTuple):
    """Good images of one split, and what was drawn on those that are judged."""

    learn: list[Record]
    judged: list[Record]
    defects: list[_Defect]

    def spoilt(self) -> Iterator[NDArray[Any]]:
        """The judged images with each of the defects, one after the other."""
        return (defect.on(read_image(self.judged[defect.number].path)) for defect in self.defects)


@dataclass
class _Race:
    options: FitOptions
    parts: list[_Part]
    backbone: Backbone | None
    cache: FeatureCache | None
    until: float  # of `perf_counter`
    max_ms: float | None
    done: dict[Tried, Tried] = field(default_factory=dict)  # by candidate

    def left(self) -> float:
        """Seconds."""
        return self.until - perf_counter()

    def fast(self, tried: Tried) -> bool:
        """Whether an image takes no longer than asked for."""
        return self.max_ms is None or (tried.milliseconds or 0) <= self.max_ms


def choose(
    records: Sequence[Record],
    options: FitOptions,
    *,
    backbone: Backbone | None = None,
    cache: FeatureCache | None = None,
    track: Track = no_track,
) -> Choice:
    """Run the race for options whose method is "auto"; `budget` and `max_ms` limit its time, and an image's.

    DataError for fewer than `LEAST` good images; ConfigError where no candidate is fast enough.
    """
    start = perf_counter()
    good = without_copies(good_training_records(records), Images)
    if len(good) < LEAST:
        message = f"{len(good)} good images are too few to choose a method by"
        raise DataError(message, hint=f"give {LEAST}, or name a method (--method)")
    locator = suggested_locator(good, options)
    race = _Race(
        options,
        _parts(good, options.seed, locator),
        backbone,
        cache,
        start + seconds(options.budget or BUDGET),
        options.max_ms,
    )
    alive = candidates(options, locator is not None)
    everyone = tuple(alive)
    for number, most in enumerate(ROUNDS, start=1):
        before = ROUNDS[number - 2] if number > 1 else 0
        if number > 1 and before >= max(len(part.learn) for part in race.parts):
            break  # there is no more to learn from
        for candidate in track(alive, f"choose, round {number}", len(alive)):
            _try(race, candidate, number, most, [c for c in alive if c not in race.done or race.done[c].round < number])
        alive = _better(race, alive, number)
        if len(alive) < 2:
            break
    pairs = _pairs(race, everyone)
    for candidate in track(pairs, "choose, fused", len(pairs)):
        alone = race.done[_leader(race, everyone)]
        _try(race, candidate, alone.round, ROUNDS[alone.round - 1], pairs[pairs.index(candidate) :])
    alive += [pair for pair in pairs if not race.done[pair].out]
    return _choice(race, (*everyone, *pairs), alive)


def candidates(options: FitOptions, locatable: bool) -> list[Tried]:
    """Cheap ones first; located where that makes good images more alike, larger where no size is asked for."""
    trained = TRAINED if all(find_spec(module) for module in ("torch", "timm")) else ()
    if options.locate in ALWAYS:
        poses: tuple[bool, ...] = (True,)
    else:
        poses = (False, True) if options.roi is None and locatable else (False,)
    usual = options.image_size
    sizes = (usual, str(round(LARGER * int(usual)))) if usual == FitOptions.image_size else (usual,)
    cheap = [Tried(m, s, pose) for s in sizes for m in CHEAP for pose in poses]
    return cheap + [Tried(m, usual, poses[-1]) for m in trained]


def _ranked(race: _Race, everyone: Sequence[Tried]) -> list[Tried]:
    """Candidates that were judged and are fast enough: those of the last rounds first, of a round the best."""
    judged = [c for c in everyone if race.done[c].auroc is not None and race.fast(race.done[c])]
    return sorted(judged, key=lambda c: (-race.done[c].round, -(race.done[c].auroc or 0)))


def _leader(race: _Race, everyone: Sequence[Tried]) -> Tried:
    return _ranked(race, everyone)[0]


def _pairs(race: _Race, everyone: Sequence[Tried]) -> list[Tried]:
    """The best candidate, as one with each of the two next methods, at its input size and pose."""
    names = list(dict.fromkeys(c.method for c in _ranked(race, everyone)))
    if len(names) < 2:
        return []
    best = _leader(race, everyone)
    return [replace(best, method=f"{best.method}+{name}") for name in names[1:3]]


def _parts(good: list[Record], seed: int, locator: Posing | None) -> list[_Part]:
    """Splits of the good images, until enough are judged."""
    divided: list[tuple[list[Record], list[Record]]] = []
    for k in range(SPLITS):
        learn, judged = split_at_random(good, HELD, seed + 1000 * k)
        judged = judged[: JUDGED[1]]
        divided.append((learn, judged))
        if sum(len(each) for _, each in divided) >= JUDGED[0]:
            break
    each = -(-DEFECTS // len(divided))
    return [_Part(learn, judged, _drawn(judged, k, each, locator)) for k, (learn, judged) in enumerate(divided)]


def _drawn(judged: Sequence[Record], repeat: int, count: int, locator: Posing | None) -> list[_Defect]:
    """Each image and each kind of graded defect as often as the others; on the part, where that can be told."""
    kinds, out = tuple(KINDS), []
    for k in range(count):
        number = k % len(judged)
        kind = kinds[(k + k // len(judged)) % len(kinds)]
        make = maker("graded", StudioOptions(variant=(kind,)))
        image = read_image(judged[number].path)
        generator = generator_for(repeat, "choose", judged[number].id, k)
        rows, columns, covered = _part(image, locator)
        for _ in range(TRIES):
            changed, mask = damage(image[rows, columns], make, generator)
            if covered[mask].mean() >= ON_PART:
                break
        x, y, wide, high = cv2.boundingRect(mask.astype(np.uint8))
        top, left = y + (rows.start or 0), x + (columns.start or 0)
        box = slice(top, top + high), slice(left, left + wide)
        out.append(_Defect(number, *box, changed[y : y + high, x : x + wide].copy()))
    return out


def _part(image: NDArray[Any], locator: Posing | None) -> tuple[slice, slice, NDArray[np.bool_]]:
    """The rows and columns that hold the part, and which of their pixels show it; everything without a locator."""
    if locator is None:
        return slice(None), slice(None), np.ones(image.shape[:2], np.bool_)
    covered = locator.covered(display(image))
    x, y, wide, high = cv2.boundingRect(covered.view(np.uint8))
    return slice(y, y + high), slice(x, x + wide), covered[y : y + high, x : x + wide]


def _options(options: FitOptions, candidate: Tried, **more: Any) -> FitOptions:
    asked = options.locate if options.locate in ALWAYS else "on"
    locate = asked if candidate.located else "off"
    changes = {"method": candidate.method, "image_size": candidate.image_size, "locate": locate, "max_ms": None}
    return replace(options, **{**changes, **more})


def _try(race: _Race, candidate: Tried, number: int, most: int, waiting: Sequence[Tried]) -> None:
    """Learn and judge; why not, where there is no time or it fails."""
    known = race.done.get(candidate, candidate)
    expected = (known.fit_seconds or 0) * len(race.parts) * (most / known.learned_from if known.learned_from else 1)
    anyone = any(t.auroc is not None for t in race.done.values())
    if anyone and (race.left() <= 0 or expected > race.left()):
        race.done[candidate] = replace(known, out="no time left" if race.left() <= 0 else "takes longer than is left")
        return
    trained = any(name in TRAINED for name in parts(candidate.method))
    limit = f"{max(race.left() / (len(waiting) + 1) / len(race.parts), 5):.0f}s" if trained else None
    options = _options(race.options, candidate, calibration="none", budget=limit)
    try:
        race.done[candidate] = _measured(race, candidate, number, most, options)
    except (DataError, ConfigError, CalibrationError, MemoryError) as error:
        race.done[candidate] = replace(known, out=f"failed: {error}")


def _measured(race: _Race, candidate: Tried, number: int, most: int, options: FitOptions) -> Tried:
    good: list[float] = []
    defects: list[float] = []
    source: list[int] = []
    times, learning, count = [], [], 0
    for k, part in enumerate(race.parts):
        learn = part.learn
        if len(learn) > most:
            learn, _ = split_at_random(learn, 1 - most / len(learn), race.options.seed + k)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the final fit they are shown
            model = fit(learn, options, backbone=race.backbone, cache=race.cache)
        line = Inspector(model, threads=1)
        results = [line.inspect(record.path) for record in part.judged]
        times += [result.seconds for result in results]
        source += [len(good) + defect.number for defect in part.defects]
        good += [result.score for result in results]
        defects += [result.score for result in line.inspect_many(part.spoilt())]
        learning.append(model.meta.fit_seconds)
        count = max(count, len(learn))
    trial = Trial.of(good, defects, source)
    above = np.quantile(trial.good, 1 - race.options.false_alarm_rate, method="higher")
    tried = replace(
        candidate,
        round=number,
        learned_from=count,
        auroc=separation(trial),
        found=float((trial.defects > above).mean()),
        milliseconds=1e3 * median(times),
        fit_seconds=max(learning),
    )
    return tried if race.fast(tried) else replace(tried, out=f"slower than {race.max_ms:g} ms")


def _better(race: _Race, alive: Sequence[Tried], number: int) -> list[Tried]:
    """Of those that can go on the better half, and what equals the best."""
    fit_for = [c for c in alive if not race.done[c].out]
    ranked = sorted(fit_for, key=lambda c: -(race.done[c].auroc or 0))
    equal = sum((race.done[c].auroc or 0) >= (race.done[ranked[0]].auroc or 0) - TIE for c in ranked)
    kept = ranked[: max(math.ceil(len(ranked) / 2), equal)]
    for candidate in ranked[len(kept) :]:
        race.done[candidate] = replace(race.done[candidate], out=f"in the lower half of round {number}")
    return kept


def _choice(race: _Race, everyone: Sequence[Tried], alive: Sequence[Tried]) -> Choice:
    if not alive:
        alive = [c for c in everyone if race.done[c].auroc is not None and race.fast(race.done[c])]
    if not alive:
        reasons = "; ".join(f"{race.done[c].name}: {race.done[c].out}" for c in everyone)
        raise ConfigError(f"no candidate can be taken: {reasons}", hint="a larger max_ms (--max-ms), or name a method")
    last = max(race.done[c].round for c in alive)
    final = [c for c in alive if race.done[c].round == last]
    best = max(race.done[c].auroc or 0 for c in final)
    near = [c for c in final if (race.done[c].auroc or 0) >= best - TIE]
    winner = min(near, key=lambda c: race.done[c].milliseconds or math.inf)
    others = [
        race.done[c] if race.done[c].out else replace(race.done[c], out="not the winner")
        for c in everyone
        if c != winner
    ]
    others.sort(key=lambda t: (-t.round, -(t.auroc or 0)))
    return Choice(_options(race.options, winner, budget=None), (replace(race.done[winner], out=""), *others))

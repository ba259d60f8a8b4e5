"""Windows that are cut from recordings: leads chosen, filtered, brought to one rate and scale.

Filter, rate and scale are those of the whole recording: a window that was scaled by itself would hide a tall beat.

A stretch in which a lead does not move (see `movement`) counts for no scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from blemish.data.image.decode import is_encoded
from blemish.data.modality import WINDOW
from blemish.data.signal.movement import (
    ELECTRODE,
    Stretch,
    bridged,
    check_movement,
    filled_in,
    lacks_of,
    long_gaps,
    movement,
    names_of,
    patience,
    step_of,
    still_in,
)
from blemish.data.signal.recordings import (
    EXTRA,
    KEPT,
    Extent,
    Recording,
    Stamp,
    Values,
    digest,
    kept,
    read_recording,
    read_stamped,
    stamp,
)
from blemish.errors import ConfigError, DataError
from blemish.files import content_id
from blemish.types import Record

CLIP = 12.0  # of the scaled values, in standard deviations of a usual window
FAINT = 0.1  # of the deviation of a lively window (the 90 % quantile): windows below count for no scale
DIGITS = 1e-10  # share of a constant lead's values that remains after the filter
FEWEST = 16  # samples of a window
APART = 20.0  # times that a recording's rate may be below the model's


@dataclass(frozen=True, eq=False)
class Signal:
    """One window as it is inspected."""

    values: Values  # (K, N) at the recording's own rate, in its own unit: for people
    x: NDArray[np.float32]  # (K, L), filtered, at the model's rate, scaled: for the graph
    rate: float  # of `values`, in Hz
    start: float  # seconds in the recording
    leads: tuple[str | None, ...]


@dataclass(frozen=True)
class Window:
    """A part of a recording on disk: `span` is its first sample and one past its last, None = all of it."""

    path: Path
    span: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SignalPlan:
    """How a recording becomes the input of a graph: leads, rate, filter, scale, length of a window.

    `leads` names those that every recording has to have; None takes the place of any other. `file_rate` is the rate of
    files that state none. `least` is in deviations of a usual window (see `movement`); None where it was not learned.
    """

    leads: tuple[str | None, ...]
    rate: float = 125.0  # Hz, after resampling
    window: float = WINDOW  # seconds
    band: tuple[float, float] | None = (0.5, 40.0)  # Hz; None leaves the filter out
    file_rate: float | None = None
    least: tuple[float, ...] | None = None  # by lead: the least movement of a part of a window that was learned from

    def __post_init__(self) -> None:
        if not (0 < self.rate < math.inf and 0 < self.window < math.inf and self.leads):
            raise ConfigError(f"rate {self.rate:g} Hz and window {self.window:g} s have to be positive, with a lead")
        if self.file_rate is not None and not 0 < self.file_rate < math.inf:
            raise ConfigError(f"rate {self.file_rate:g} Hz has to be positive")
        if self.band is not None and not 0 < self.band[0] < self.band[1] < math.inf:
            raise ConfigError(f"band {self.band[0]:g}-{self.band[1]:g} Hz is none", hint="0.5-40, or none")
        if self.least is not None and not (len(self.least) == len(self.leads) and all(v >= 0 for v in self.least)):
            raise ConfigError(f"least movements {self.least} are not one for each of {len(self.leads)} leads")
        if self.size[0] < 2:
            raise ConfigError(f"a window of {self.window:g} s at {self.rate:g} Hz has less than two samples")

    @property
    def size(self) -> tuple[int]:
        """(L,), samples of a window."""
        return (round(self.window * self.rate),)

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name, and the size."""
        band = None if self.band is None else list(self.band)
        least = None if self.least is None else list(self.least)
        return {**asdict(self), "leads": list(self.leads), "band": band, "least": least, "size": list(self.size)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SignalPlan:
        """The inverse of `to_json`; ConfigError on a missing, unknown or ill-typed value."""
        try:
            given = {k: v for k, v in values.items() if k != "size"}
            band = None if given["band"] is None else (float(given["band"][0]), float(given["band"][1]))
            least = None if given.get("least") is None else tuple(float(v) for v in given["least"])
            return cls(**{**given, "leads": tuple(given["leads"]), "band": band, "least": least})
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"preprocess {dict(values)} is not understood ({error})") from None


def parse_band(text: str) -> tuple[float, float] | None:
    """`0.5-40` in Hz, or `none`; otherwise ConfigError."""
    if text.strip().lower() == "none":
        return None
    match = re.fullmatch(r"\s*([\d.]+)\s*-\s*([\d.]+)\s*", text)
    try:
        if match is None:
            raise ValueError
        return float(match[1]), float(match[2])
    except ValueError:
        raise ConfigError(f"band '{text}' is not understood", hint="0.5-40 in Hz, or none") from None


_SLOW = "are its times in milliseconds? call the column time (ms)"


def check_rate(rate: float, plan: SignalPlan) -> None:
    """DataError for a recording whose rate is so low for the model that its times may be in another unit."""
    if rate * APART < plan.rate:
        message = f"a rate of {rate:g} Hz is far below the {plan.rate:g} Hz that the model looks at"
        raise DataError(message, hint=f"{_SLOW}; is file_rate (--rate) right?")


def spans(of: Extent, window: float, rate: float | None, *, whole: bool = False) -> list[tuple[int, int]]:
    """Windows side by side, in samples of the recording; the rest is left out, or, with `whole`, one more window ends
    with the recording. DataError where the recording is shorter than a window or its rate is unknown."""
    n = of.samples
    if of.piece is not None:
        return [(start, start + of.piece) for start in range(0, n, of.piece)]
    hertz = _known(of.rate or rate)
    length = window * hertz
    if length < FEWEST:
        raise DataError(f"{window:g} s are {length:.3g} samples at {hertz:g} Hz", hint=_SLOW)
    count = math.floor(n / length + 1e-9)
    if not count:
        raise DataError(
            f"{n} samples are less than a window of {window:g} s", hint="a smaller window (--window) makes shorter ones"
        )
    found = [(round(k * length), round(k * length) + round(length)) for k in range(count)]
    found = [(a, b) for a, b in found if b <= n]
    if whole and found[-1][1] < n:
        found.append((n - round(length), n))
    return found


def window_content(window: Window) -> str:
    """16 hex digits for the bytes of the recording's files and the span."""
    return content_id(f"{digest(window.path)} {window.span}".encode())


def plan_leads(paths: Iterable[str | Path], wanted: tuple[str, ...] | None = None) -> tuple[str | None, ...]:
    """Leads that recordings have in common, by name, in the order of the first; None for each that varies. Or those
    that are `wanted`, which each recording has to have.

    DataError, naming the file, where their numbers of leads differ, or where it does not say which is a wanted one.
    """
    if wanted:
        for path in dict.fromkeys(map(str, paths)):
            check_named(path, wanted)
        return wanted
    known: list[tuple[str | None, ...]] = []
    for path in dict.fromkeys(map(str, paths)):
        leads = read_recording(path).leads
        if known and len(leads) != len(known[0]):
            message = f"has {len(leads)} leads, others have {len(known[0])}"
            raise DataError(message, path=path, hint="learn from recordings with the same leads")
        known.append(leads)
    common = [name for name in known[0] if name is not None and all(name in leads for leads in known)]
    return (*common, *[None] * (len(known[0]) - len(common)))


def check_named(path: str | Path, wanted: Sequence[str]) -> None:
    """DataError, naming the recording, where it does not have these leads by name, each of them once."""
    leads = read_recording(path).leads
    if not any(leads):
        message = f"its leads have no names, and {', '.join(wanted)} was asked for"
        raise DataError(message, path=path, hint="leave --lead out, or name the columns of a CSV")
    try:
        chosen(leads, wanted)
    except DataError as error:
        raise error.at(path) from None


def read_window(window: Window, plan: SignalPlan) -> Signal:
    """One window, filtered and scaled with its recording. DataError where it cannot be used."""
    key = stamp(window.path)
    recording = read_stamped(window.path, key)
    try:
        return cut(recording, _prepared(window.path, key, replace(plan, least=None)), window.span, plan)
    except DataError as error:
        raise error.at(window.path) from None


def as_signal(value: Any, plan: SignalPlan) -> Signal:
    """An array (K, N) or (N,) of the caller's, at the rate that the model takes files to have, else at its own."""
    if is_encoded(value):  # open files have a `detach` too, which is not a tensor's
        raise DataError(f"a {type(value).__name__} is no signal", hint="pass a path, or an array (K, N)")
    is_tensor = hasattr(value, "detach") and hasattr(value, "__array__")
    array = np.asarray(value.detach() if is_tensor else value)
    if array.ndim not in (1, 2) or array.dtype.kind not in "iuf" or array.size == 0:
        raise DataError(f"an array of shape {array.shape}, type {array.dtype} is no signal", hint="pass (K, N) numbers")
    values = kept(np.atleast_2d(array))
    recording = Recording(values, plan.file_rate or plan.rate, (None,) * len(values))
    return cut(recording, prepare(recording, plan), None, plan)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A whole recording at the model's rate: (K, M) scaled values, the order of its leads, and what it lacks."""

    values: NDArray[np.float32]
    order: tuple[int, ...]
    lacks: tuple[Stretch, ...]


def prepare(recording: Recording, plan: SignalPlan) -> Prepared:
    """Choose leads, bridge short gaps, filter (zero phase), resample; then, for each lead, subtract the median and
    divide by the standard deviation of a usual window. DataError where a lead is missing, empty or flat."""
    rate = _known(recording.rate or plan.file_rate)
    check_rate(rate, plan)
    order = chosen(recording.leads, plan.leads)
    values = recording.values[list(order)].astype(np.float64)
    names = names_of(recording, order)
    missing = [long_gaps(lead, rate) for lead in values]
    steps = [step_of(lead) for lead in values]
    values = np.stack([bridged(lead, name) for lead, name in zip(values, names, strict=True)])
    still = [still_in(lead, patience(plan.window, rate), step) for lead, step in zip(values, steps, strict=True)]
    # from a rail back to the beats is a step, with which a filter would ring into windows that are good
    filled = np.stack(
        [filled_in(lead, ~flat) if not flat.all() else lead for lead, flat in zip(values, still, strict=True)]
    )
    pieces = filled[:, None] if recording.piece is None else filled.reshape(len(filled), -1, recording.piece)
    pieces = _resampled(_filtered(pieces, rate, plan.band), rate, plan.rate)
    flat = pieces.reshape(len(values), -1)
    empty = np.stack([_at_rate(a | b, flat.shape[1]) for a, b in zip(missing, still, strict=True)])
    middle, scale = _usual(flat, empty, plan.size[0])
    for name, one, whole, still_at in zip(names, scale[:, 0], np.abs(values).max(axis=1), still, strict=True):
        if still_at.all() or one <= DIGITS * whole:
            raise DataError(f"{name} is flat: it never moves", hint=ELECTRODE)
    scaled = np.clip((flat - middle) / scale, -CLIP, CLIP)
    return Prepared(scaled.astype(np.float32), order, lacks_of(missing, still, names, rate))


def _at_rate(marks: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """A row of marks at another rate: (count,)."""
    at = (np.arange(count) * (len(marks) / count)).astype(np.int64)
    return marks[np.minimum(at, len(marks) - 1)]


def least_movement(windows: Iterable[Window], plan: SignalPlan) -> tuple[float, ...]:
    """By lead, over these windows; DataError, naming the file, for one that cannot be used."""
    found = np.full(len(plan.leads), np.inf)
    for window in windows:
        found = np.minimum(found, movement(read_window(window, plan).x))
    return tuple(float(f"{value:.4g}") for value in found)


def cut(recording: Recording, prepared: Prepared, span: tuple[int, int] | None, plan: SignalPlan) -> Signal:
    """One window of a prepared recording. DataError where it is too short, too long, or lies in a gap."""
    rate = _known(recording.rate or plan.file_rate)
    first, last = span or (0, recording.values.shape[1])
    length = plan.size[0]
    if not 0 <= first < last <= recording.values.shape[1]:
        raise DataError(f"samples {first} to {last} lie outside of the recording")
    if abs((last - first) / rate - plan.window) > max(1.5 / rate, 1.5 / plan.rate):
        longer = (last - first) / rate > plan.window
        hint = "cut it into windows" if longer else "the model was learned from longer windows"
        raise DataError(f"{(last - first) / rate:.3g} s, and a window has {plan.window:g} s", hint=hint)
    start, stop = first / rate, last / rate
    for lack in prepared.lacks:
        if lack.spoils(start, stop):
            hint = ELECTRODE if lack.lead else "inspect what lies around the gap"
            raise DataError(f"{lack.why} from {lack.start:.2f} to {lack.stop:.2f} s", hint=hint)
    at = round(start * plan.rate)
    if recording.piece is not None:  # each piece was resampled by itself
        pieces = recording.values.shape[1] // recording.piece
        at = first // recording.piece * (prepared.values.shape[1] // pieces)
    x = prepared.values[:, at : at + length]
    if x.shape[1] < length:  # rates that divide to no whole number: at most two samples at the end
        x = np.pad(x, ((0, 0), (0, length - x.shape[1])), mode="edge")
    check_movement(x, recording, prepared.order, plan.least, (start, stop))
    names = tuple(recording.leads[i] for i in prepared.order)
    return Signal(recording.values[list(prepared.order), first:last], np.ascontiguousarray(x), rate, start, names)


def chosen(leads: Sequence[str | None], wanted: Sequence[str | None]) -> tuple[int, ...]:
    """Which leads of a recording stand for those of a model: by name, the others in order. DataError where they do
    not fit; leads without names are taken in order."""
    if len(leads) < len(wanted):
        raise DataError(f"{len(leads)} leads, and the model takes {len(wanted)}", hint="record all of them")
    if not any(leads):
        if len(leads) > len(wanted):
            raise DataError(f"{len(leads)} leads without names, and the model takes {len(wanted)}", hint="choose them")
        return tuple(range(len(wanted)))
    missing = [name for name in wanted if name is not None and name not in leads]
    if missing:
        raise DataError(f"there is no lead {missing[0]}", hint=f"it has {', '.join(map(str, leads))}")
    for name in wanted:  # one more of that name than the model takes, where no place is for any other
        if None not in wanted and (count := leads.count(name)) > wanted.count(name):
            hint = f"it has {', '.join(map(str, leads))}: rename those that are not meant"
            raise DataError(f"has {count} leads {name}, and the model takes {wanted.count(name)}", hint=hint)
    unassigned = list(range(len(leads)))
    named: list[int | None] = []
    for name in wanted:  # of leads of one name, the first of the model is the first of the recording
        index = next((i for i in unassigned if name is not None and leads[i] == name), None)
        if name is not None and index is None:
            raise DataError(f"has too few leads {name}", hint=f"it has {', '.join(map(str, leads))}")
        named.append(index)
        if index is not None:
            unassigned.remove(index)
    return tuple(i if i is not None else unassigned.pop(0) for i in named)


def _known(rate: float | None) -> float:
    if rate is None:
        raise DataError("does not state its sampling rate", hint="file_rate (--rate) gives it, in Hz")
    return rate


def _scipy() -> Any:
    try:
        from scipy import signal
    except ImportError:
        raise DataError("signals need the package scipy", hint=EXTRA) from None
    return signal


def _filtered(values: NDArray[np.float64], rate: float, band: tuple[float, float] | None) -> NDArray[np.float64]:
    """Butterworth of third order, forwards and backwards; without an upper edge where the rate has none."""
    if band is None:
        return values
    signal = _scipy()
    low, high = band
    if low >= rate / 2:
        raise DataError(f"at {rate:g} Hz there is nothing above {low:g} Hz", hint="give another band")
    kind = ("bandpass", [low, high]) if high < 0.95 * rate / 2 else ("highpass", low)
    sections = signal.butter(3, kind[1], kind[0], fs=rate, output="sos")
    pad = 3 * (2 * len(sections) + 1)
    if values.shape[-1] <= pad:
        raise DataError(f"{values.shape[-1]} samples are too few for a filter", hint="a longer recording, or band none")
    return cast(NDArray[np.float64], signal.sosfiltfilt(sections, values, axis=-1, padlen=pad))


def _resampled(values: NDArray[np.float64], rate: float, wanted: float) -> NDArray[np.float64]:
    ratio = Fraction(wanted / rate).limit_denominator(1000)
    if ratio == 1:
        return values
    if ratio == 0:
        raise DataError(f"a rate of {rate:g} Hz cannot become {wanted:g} Hz", hint="is file_rate (--rate) right?")
    resampled = _scipy().resample_poly(values, ratio.numerator, ratio.denominator, axis=-1, padtype="line")
    return cast(NDArray[np.float64], resampled)


def _usual(
    values: NDArray[np.float64], empty: NDArray[np.bool_], length: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(K, 1) each: the median, and the median over windows of their standard deviation.

    Stretches without a recording (`empty`, (K, M)) do not count, nor do faint windows, which hold noise alone:
    otherwise a recording of which half is flat would have the level and scale of its flat half. Where every window has
    such a stretch, all of them count.
    """
    count = max(values.shape[1] // length, 1)
    used = count * length
    windows = values[:, :used].reshape(len(values), count, -1).std(axis=2)
    flat = np.asarray(empty[:, :used].reshape(len(values), count, -1).any(axis=2))
    middles, scales = [], []
    for lead, deviation, spoilt, nothing in zip(values, windows, flat, empty, strict=True):
        moving = deviation[~spoilt] if not spoilt.all() else deviation
        faint = deviation < FAINT * np.quantile(moving, 0.9)
        scales.append(np.median(moving[moving >= FAINT * np.quantile(moving, 0.9)]))
        shown = ~nothing
        shown[:used] &= np.repeat(~faint, len(lead[:used]) // count)
        middles.append(np.median(lead[shown] if shown.any() else lead))
    return np.array(middles)[:, None], np.array(scales)[:, None]


@lru_cache(KEPT)
def _prepared(path: Path, key: Stamp, plan: SignalPlan) -> Prepared:
    return prepare(read_stamped(path, key), plan)


def window_of(record: Record) -> Window:
    """The window that a record names."""
    return Window(record.path, record.span)

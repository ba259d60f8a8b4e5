"""Power without defects: what a model would find, measured with synthetic defects on good images. No torch.

For each kind, size and contrast, probes are pasted on good images and judged by the deployed line at the model's own
threshold. The share that is found says how small a defect may be; it is measured at the rate of false alarms that the
model promises, so two models compare fairly.
"""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.config import nearest
from blemish.data import drawing
from blemish.data import registry as modalities
from blemish.data.image.decode import decode_image
from blemish.data.image.levels import kind_of
from blemish.data.image.modality import Images
from blemish.data.image.picture import thumbnail
from blemish.data.image.preprocess import Preprocess
from blemish.data.modality import Modality
from blemish.data.synthesis.probes import KINDS, Probe
from blemish.errors import ConfigError, DataError
from blemish.evaluation.summary import Rate
from blemish.files import read_file, write_whole
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model
from blemish.inspection.scale import scale_of
from blemish.types import AnomalyResult, Record, Track, no_track

SHARES = (0.02, 0.04, 0.08, 0.16, 0.32)  # of an image's short side: the sizes that are tried where none are given
CONTRASTS = (0.05, 0.1, 0.2, 0.4)
FOUND = 0.9  # share of probes that has to be found before a size is said to be


def check_kind(model: Model) -> None:
    """ConfigError for a model of anything but images: probes are drawn into pictures."""
    _of_images(modalities.of(model.meta))


def _of_images(kind: Modality[Any]) -> None:
    if not isinstance(kind, Images):
        message = f"power is measured with defects drawn into images, and this is a model of {kind.name}s"
        raise ConfigError(message, hint="`blemish evaluate` measures on defects that people have marked")
    if kind.lightings:
        message = f"power draws its defects into one picture, and a sample of this model is {len(kind.lightings)}"
        raise ConfigError(message, hint="`blemish evaluate` measures on defects that people have marked")


class Cell(NamedTuple):
    """How many probes of one kind, size and contrast were found."""

    kind: str
    size: float  # pixels of the image
    contrast: float  # share of white
    found: int  # judged anomalous
    located: int  # of those, with a region on the defect
    of: int


@dataclass(frozen=True)
class Power:
    """What a model finds; `examples` are pictures of probes, found ones and missed ones."""

    model: dict[str, Any]
    promised: float
    promise: str
    image: tuple[int, int]  # (H, W) of the first image
    images: int
    false_alarms: int  # untouched images that were judged anomalous
    cells: tuple[Cell, ...]
    seed: int
    examples: tuple[tuple[Cell, bytes], ...] = ()

    def rate(self, cell: Cell) -> Rate:
        """Share found."""
        return Rate.measured(cell.found, cell.of)

    def smallest(self, kind: str, contrast: float) -> float | None:
        """The smallest size of which, and of all larger ones, at least `FOUND` were found; None where there is none."""
        answer = None
        matching = (c for c in self.cells if (c.kind, c.contrast) == (kind, contrast))
        for cell in sorted(matching, key=lambda c: -c.size):
            if cell.found < FOUND * cell.of:
                break
            answer = cell.size
        return answer

    def to_json(self) -> dict[str, Any]:
        """Plain values: all but the pictures."""
        values = asdict(self)
        del values["examples"]
        rates = [(cell, self.rate(cell)) for cell in self.cells]
        cells = [c._asdict() | {"rate": r.value, "low": r.low, "high": r.high} for c, r in rates]
        answers = [
            {"kind": kind, "contrast": contrast, "size": self.smallest(kind, contrast)}
            for kind, contrast in dict.fromkeys((c.kind, c.contrast) for c in self.cells)
        ]
        return {"schema": 1, **values, "image": list(self.image), "cells": cells, "found_from": answers}

    def save_json(self, path: str | Path) -> None:
        """Write `to_json` to a file, whole or not at all."""
        write_whole(path, (json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n").encode())


class _Job(NamedTuple):
    """One image on its way through the line: which probe, on which image, and where it lies."""

    number: int
    probe: Probe | None
    image: NDArray[Any] | None  # kept where it may become an example
    mask: NDArray[np.bool_] | None


def power(
    line: Inspector,
    records: Sequence[Record],
    *,
    model: dict[str, Any],
    kinds: Sequence[str] = (),
    sizes: Sequence[float] = (),
    contrasts: Sequence[float] = (),
    images: int = 50,
    seed: int = 0,
    track: Track = no_track,
) -> Power:
    """Measure on at most `images` good images that the model has not seen, one probe of each cell on each of them.

    A probe's shape and place are the same at every contrast. Nothing given: every kind, `SHARES` and `CONTRASTS`.
    ConfigError for a model without a threshold and for values that make no sense; DataError where no image is left.
    """
    _of_images(line.kind)
    if line.calibrator is None:
        raise ConfigError("power is measured at a threshold, and this model has none", hint="`blemish calibrate` it")
    kinds, contrasts = tuple(dict.fromkeys(kinds or KINDS)), sorted(set(contrasts or CONTRASTS))
    _check(kinds, sizes, contrasts, images)
    chosen = _unseen(records, line, images, seed)
    limit = line.preprocess.max_pixels
    first = decode_image(read_file(chosen[0].path), str(chosen[0].path), max_pixels=limit)
    short = min(first.shape[:2])
    sizes = sorted({float(size) for size in sizes} or {float(max(2, round(share * short))) for share in SHARES})
    grid = [(kind, size, contrast) for kind in kinds for size in sizes for contrast in contrasts]
    found, located = dict.fromkeys(grid, 0), dict.fromkeys(grid, 0)
    false_alarms = 0
    examples: list[tuple[Cell, bytes]] = []
    waiting: deque[_Job] = deque()
    jobs = _jobs(track(chosen, "power", len(chosen)), grid, line.preprocess, seed)
    for result in line.inspect_many(_handed(jobs, waiting)):
        job = waiting.popleft()
        alarm = result.verdict == "anomalous"
        if job.probe is None:
            false_alarms += alarm
            continue
        key = (job.probe.kind, job.probe.size, job.probe.contrast)
        found[key] += alarm
        located[key] += alarm and _touches(result, job.mask)
        if job.image is not None:
            cell = Cell(*key, int(alarm), int(alarm and _touches(result, job.mask)), 1)
            examples.append((cell, _picture(job, result, line)))
    return Power(
        model=model,
        promised=line.calibrator.alpha,
        promise=line.calibrator.promise,
        image=(first.shape[0], first.shape[1]),
        images=len(chosen),
        false_alarms=false_alarms,
        cells=tuple(Cell(*key, found[key], located[key], len(chosen)) for key in grid),
        seed=seed,
        examples=tuple(examples),
    )


def _check(kinds: Sequence[str], sizes: Sequence[float], contrasts: Sequence[float], images: int) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"no kind of probe '{kind}'", hint=nearest(kind, sorted(KINDS)))
    if any(not size >= 1 for size in sizes):
        raise ConfigError(f"sizes are pixels, at least 1, not {min(sizes):g}")
    if any(not 0 < contrast <= 1 for contrast in contrasts):
        raise ConfigError("contrasts are shares of white, above 0 and at most 1")
    if images < 1:
        raise ConfigError(f"at least one image is needed, not {images}")


def _unseen(records: Sequence[Record], line: Inspector, images: int, seed: int) -> list[Record]:
    """Some good images at random, without those that the model knows."""
    good = [r for r in records if r.label == 0]
    fresh = [r for r in good if not Images.known(r, line.known)]
    if len(fresh) < len(good):
        warnings.warn(
            f"{len(good) - len(fresh)} of {len(good)} good images were learned or calibrated from and are left out",
            stacklevel=3,
        )
    if not fresh:
        raise DataError("no good image is left that the model has not seen", hint="give images of new good parts")
    order = np.random.default_rng(seed).permutation(len(fresh))
    return [fresh[i] for i in order[:images]]


def _jobs(
    chosen: Any, grid: list[tuple[str, float, float]], preprocess: Preprocess, seed: int
) -> Iterator[tuple[NDArray[Any], _Job]]:
    """Each image untouched and with every probe; one decoded image is held at a time."""
    for number, record in enumerate(chosen):
        image = decode_image(read_file(record.path), str(record.path), max_pixels=preprocess.max_pixels)
        inside = preprocess.inspected_pixels((image.shape[0], image.shape[1]))
        yield image, _Job(number, None, None, None)
        shown = sorted({contrast for _, _, contrast in grid})[-2:][0]
        for kind, size, contrast in grid:
            generator = np.random.default_rng([seed, number, sorted(KINDS).index(kind), round(1000 * size)])
            black, white = preprocess.levels.of(kind_of(image.dtype))
            probe = Probe(kind, size, contrast, white, black)
            changed, mask = probe(image, generator, inside)
            keep = number == 0 and contrast == shown
            yield changed, _Job(number, probe, changed if keep else None, mask)


def _handed(jobs: Iterator[tuple[NDArray[Any], _Job]], waiting: deque[_Job]) -> Iterator[NDArray[Any]]:
    """The images; what they are waits until their results come, in the same order."""
    for image, job in jobs:
        waiting.append(job)
        yield image


def _touches(result: AnomalyResult, mask: NDArray[np.bool_] | None) -> bool:
    """Whether one of the regions that a person is shown lies on the defect."""
    assert mask is not None
    return any(mask[y0:y1, x0:x1].any() for x0, y0, x1, y1 in (region.bbox for region in result.regions))


def _picture(job: _Job, result: AnomalyResult, line: Inspector) -> bytes:
    assert job.image is not None
    scale = scale_of(line.calibrator)
    shown = thumbnail(job.image, result.anomaly_map, scale=scale, regions=result.regions, mask=job.mask, longest=220)
    return drawing.encode(shown, ".jpg")

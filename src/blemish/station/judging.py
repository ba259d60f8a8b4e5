"""A claimed picture and the model of its source -> what the ledger will say of it. Nothing here writes."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.drawing import display
from blemish.inspection.inspector import Inspector
from blemish.station.ids import now_ms
from blemish.station.place import digest
from blemish.station.spool import Claim
from blemish.types import AnomalyResult

HEALTH = 256  # pixels of the longer side that the state of a picture is measured on
THUMB = 320
REGIONS = 8  # in a row of the ledger; the rest are in the picture


@dataclass(frozen=True)
class Judged:
    """What is known of a claim once it was judged, or could not be."""

    claim: Claim
    state: str  # judged, unreadable, failed
    verdict: str  # good, anomalous, unknown, error
    result: dict[str, Any]  # the line of `blemish inspect`
    sha256: str
    length: int  # bytes
    judged_at: int
    deployment_id: int | None = None
    size: tuple[int, int] | None = None  # width, height
    score: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    health: dict[str, float] = field(default_factory=dict)
    ms: dict[str, float] = field(default_factory=dict)
    thumb: bytes = b""  # JPEG
    map: bytes = b""  # PNG of 8 bits; 128 is the threshold
    error: str | None = None


class Line(Inspector):
    """An inspector that lets the caller see the picture that it has read."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seen = threading.local()

    def read(self, source: Any) -> tuple[Any, Any]:
        raw, prepared = super().read(source)
        self._seen.raw = raw
        return raw, prepared

    def seen(self, source: bytes) -> tuple[AnomalyResult, NDArray[Any]]:
        """The result of an encoded picture, and its pixels."""
        result = self.inspect(source)
        raw = self._seen.raw
        self._seen.raw = None
        return result, raw.pixels


def judge(claim: Claim, data: bytes, line: Line, deployment_id: int, *, pictures: bool = True) -> Judged:
    """The verdict on a picture's bytes.

    DataError where it cannot be read, which may be because it is still being written; any other error is the engine's.
    """
    start = perf_counter()
    result, pixels = line.seen(data)
    inferred = perf_counter()
    height, width = pixels.shape[:2]
    reduced = small(display(pixels), HEALTH)
    written = result.to_json()
    written["regions"] = written["regions"][:REGIONS]
    out = Judged(
        claim,
        "judged",
        result.verdict or "unknown",  # of a model without a threshold nothing is good
        written,
        digest(data),
        len(data),
        now_ms(),
        deployment_id,
        (width, height),
        None if result.alarm is not None else result.score,
        result.p_value,
        result.threshold,
        health(reduced),
        {"infer": 1e3 * (inferred - start), "wait": float(now_ms() - claim.at) - 1e3 * (perf_counter() - start)},
        *(drawn(pixels, result) if pictures else (b"", b"")),
    )
    out.ms["total"] = 1e3 * (perf_counter() - start)
    return out


def unjudged(claim: Claim, data: bytes, state: str, why: str, hint: str | None = None) -> Judged:
    """Of a picture that cannot be read (unreadable), or that the engine has failed on (failed): a reject."""
    result = {"image_path": None, "pred_label": "error", "error": why, "hint": hint}
    return Judged(claim, state, "error", result, digest(data), len(data), now_ms(), error=why)


def health(picture: NDArray[np.uint8]) -> dict[str, float]:
    """How a picture came out, whatever it shows: brightness and contrast in grey levels, focus as the logarithm of the
    variance of its Laplacian, colour as the mean difference of red and blue."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    edges = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "focus": float(np.log10(edges + 1e-3)),
        "colour": float(picture[..., 0].mean(dtype=np.float64) - picture[..., 2].mean(dtype=np.float64)),
    }


def drawn(pixels: NDArray[Any], result: AnomalyResult) -> tuple[bytes, bytes]:
    """A picture's thumbnail, and its map in 8 bits with 128 at the threshold, which browsers colour."""
    thumb = cv2.imencode(".jpg", small(display(pixels), THUMB)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()
    limit = result.map_threshold
    if limit is None or limit <= 0 or not np.isfinite(limit):
        return thumb, b""
    grey = np.clip(result.anomaly_map * np.float32(128 / limit), 0, 255).astype(np.uint8)
    return thumb, cv2.imencode(".png", small(grey, HEALTH))[1].tobytes()


def small(picture: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """A picture (H, W[, 3]) with its longer side at most so many pixels."""
    height, width = picture.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def as_text(value: Any) -> str:
    """JSON as the ledger keeps it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

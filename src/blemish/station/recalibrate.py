"""A new threshold for the model that is live, from drawn parts alone: a candidate, and an open change.

Only parts that were drawn before their verdict may calibrate; those that people happen to review would break the
promise, or blind the model. What nobody has judged counts as a good part with the highest score, unsure ones count as
good, and a defect is left out only where two people have said so, blind: no answer left open lowers the threshold.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import Connection, select

from blemish.detector import Detector
from blemish.errors import BlemishError, CalibrationError, ConfigError, DataError
from blemish.inspection.conformal import images_needed
from blemish.station import changes, config
from blemish.station.audit import Actor
from blemish.station.ids import new_id
from blemish.station.judgements import standing
from blemish.station.judging import as_text
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import deployments, inspections, models, reviews
from blemish.station.models import folder_of, import_model
from blemish.station.place import Place
from blemish.station.reading import iso
from blemish.types import Record

REFUSED = 3  # exit code: too few parts, or nothing to calibrate
SECONDS = 1.5  # of a judgement, where none is known


@dataclass(frozen=True)
class Window:
    """The drawn parts of a source in a stretch of time: what people have said of them."""

    parts: list[Any]  # rows of inspections, without defects that two people have found
    unjudged: frozenset[str]  # ids
    unsure: int
    defects: int  # left out
    seconds: float  # that a judgement has taken, in the middle


def gathered(connection: Connection, source_id: int, start: int, end: int) -> Window:
    """Drawn parts that were judged by a model from `start` up to `end`, ms."""
    drawn = select(inspections).where(
        inspections.c.source_id == source_id,
        inspections.c.drawn,
        inspections.c.state == "judged",
        inspections.c.judged_at >= start,
        inspections.c.judged_at < end,
    )
    rows = connection.execute(drawn.order_by(inspections.c.seq)).all()
    said: dict[int, Counter[str]] = {row.seq: Counter() for row in rows}
    times = []
    blind = standing().where(reviews.c.blind, reviews.c.seq.in_(drawn.with_only_columns(inspections.c.seq)))
    for review in connection.execute(blind):
        said[review.seq][review.truth] += 1
        times.append(review.ms_shown / 1000)
    lost = {seq for seq, counts in said.items() if counts["defect"] >= 2 and not counts["good"] + counts["unsure"]}
    kept = [row for row in rows if row.seq not in lost]
    unjudged = frozenset(row.id for row in kept if not said[row.seq])
    unsure = sum(said[row.seq]["unsure"] > 0 for row in kept)
    return Window(kept, unjudged, unsure, len(lost), median(times) if times else SECONDS)


def made(
    place: Place, ledger: Ledger, source_id: int, start: int, end: int, rate: float | None, confidence: float, to: Path
) -> dict[str, Any]:
    """Write the recalibrated model to a folder; how many parts it stands on, plain values. As `recalibrate` raises."""
    with ledger.read() as connection:
        live, window = _live(connection, source_id), gathered(connection, source_id, start, end)
    alpha = rate or live.alpha
    if alpha is None:
        raise ConfigError("the live model has no promise", hint="say which rate is meant")
    least = images_needed(alpha, confidence)
    if len(window.parts) < least:
        message = f"{len(window.parts)} drawn parts are too few for a rate of {alpha:g}, {100 * confidence:g} % sure"
        raise CalibrationError(message, hint=f"{least} are needed: {least - len(window.parts)} more have to be drawn")
    records = []
    for row in window.parts:
        path = place.kept(row.id, row.suffix, row.state)
        if not path.is_file():
            path = place.spool / str(row.source_id) / f"{row.id}{row.suffix}"
        if not path.is_file():
            raise CalibrationError(f"the picture of {row.id} is not kept any more", hint="take a later window")
        records.append(Record(row.id, path))
    detector = Detector.load(folder_of(place, live.digest))
    try:
        detector.calibrate(records, false_alarm_rate=alpha, confidence=confidence, highest=window.unjudged)
    except CalibrationError as error:
        left = len(window.unjudged)
        takes = f"; all {left} that are open take about {window.seconds * left:.0f} s" if left else ""
        raise CalibrationError(str(error), hint=f"{error.hint}{takes}") from None
    detector.save(to)
    counts = {"drawn": len(window.parts), "unjudged": len(window.unjudged), "unsure": window.unsure}
    return {"from": iso(start), "to": iso(end), **counts, "defects_left_out": window.defects}


def _live(connection: Connection, source_id: int) -> Any:
    asked = select(models).join(deployments, deployments.c.model_id == models.c.id)
    row = connection.execute(asked.where(deployments.c.source_id == source_id, deployments.c.until.is_(None))).first()
    if row is None:
        raise ConfigError("no model is live for this source", hint="approve one")
    return row


def recalibrate(
    place: Place,
    ledger: Ledger,
    actor: Actor,
    source_id: int,
    start: int,
    end: int,
    *,
    rate: float | None = None,
    confidence: float = 0.95,
) -> int:
    """The number of an open change, whose model has the new threshold; it is made in a process of its own.

    start, end: ms, when the parts were judged by the station. rate: false-alarm rate; that of the live model where it
    is not given. ConfigError where nothing is live. CalibrationError where too few parts were drawn or judged, with how
    many, and how long they take.
    """
    with ledger.read() as connection:
        live = _live(connection, source_id)
    folder = place.jobs / f".{new_id()}.recalibrated"
    told = [str(place.root), *map(str, (source_id, start, end, rate or 0.0, confidence)), str(folder)]
    command = [sys.executable, "-m", "blemish.station.recalibrate", *told]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode not in (0, REFUSED):
            said = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
            raise DataError(f"it could not be recalibrated: {said[-1][:500]}")
        found = json.loads(done.stdout)
        if done.returncode == REFUSED:
            raise CalibrationError(found["error"], hint=found["hint"])
        name = f"{live.name}, recalibrated"
        number = import_model(place, ledger, folder, name=name, parent=live.id, actor=actor)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    effect = changes.effect_apart(place, ledger, source_id, number)
    with ledger.write() as connection:
        return changes.add(connection, actor, source_id, number, {**effect, "window": found}, kind="calibration")


def main(arguments: Sequence[str]) -> int:
    """`DIR SOURCE START END RATE CONFIDENCE TO`: what it stands on as JSON on stdout."""
    os.nice(10)
    place = Place.of(arguments[0])
    ledger = Ledger.of(place, config.read(place.config))
    source_id, start, end = map(int, arguments[1:4])
    rate, confidence = map(float, arguments[4:6])
    try:
        found = made(place, ledger, source_id, start, end, rate or None, confidence, Path(arguments[6]))
    except BlemishError as error:
        print(as_text({"error": str(error), "hint": error.hint}))
        return REFUSED
    finally:
        ledger.close()
    print(as_text(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""The one door to what is live: a change is made with what it would have done, and is signed, or dropped.

Where the candidate scores as the model before it does, and only its threshold is another one, the ledger itself says
what flips. Any other candidate looks at pictures again: at all confirmed defects, and at the newest parts for as long
as `SECONDS` allow; what it could not look at is counted, not guessed. Golden pictures are looked at in any case.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, update

from blemish.errors import BlemishError, ConfigError, DataError
from blemish.files import read_file
from blemish.inspection import modelfile
from blemish.inspection.conformal import Calibrator
from blemish.station import audit, config
from blemish.station.audit import Actor
from blemish.station.ids import now_ms
from blemish.station.judgements import standing
from blemish.station.judging import Line, as_text
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import changes, deployments, inspections, jobs, models, reviews, sources
from blemish.station.models import NotEqual, check_golden, deploy, folder_of, rollback
from blemish.station.place import Place, digest
from blemish.station.reading import iso
from blemish.station.retention import setting

LAST = 5000  # inspections of the source that a change is compared on
SECONDS = 10.0  # for looking at parts again, beside the known defects
SHOWN = 12  # parts that are named of each kind
FOUR_EYES = "changes.four_eyes"  # setting: who has made a change does not approve it


class Refuses(BlemishError):
    """A change that cannot be approved as it is."""


class _NeedsEngine(Exception):
    """Pictures have to be looked at."""


class _Parts(NamedTuple):
    """What a candidate is compared on."""

    before: Any  # row of the model that is live, None where none is
    candidate: Any
    recent: list[Any]
    defects: list[Any]
    deployment: int | None
    same: frozenset[int]  # deployments that score as the candidate does
    power: dict[str, Any]


def effect(place: Place, ledger: Ledger, source_id: int, model_id: int, *, engine: bool = True) -> dict[str, Any]:
    """What a model would have said of the past of a source; plain values. ConfigError where there is no such model."""
    parts = _gathered(place, ledger, source_id, model_id)
    same = parts.deployment in parts.same
    limits = _limits(place, parts) if parts.same else None
    opened: list[Line] = []

    def line() -> Line:
        if not engine:
            raise _NeedsEngine
        if not opened:
            opened.append(Line(modelfile.load(folder_of(place, parts.candidate.digest)), threads=1))
        return opened[0]

    verdicts: dict[int, str | None] = {}
    if limits is not None:
        for row in (*parts.defects, *parts.recent):
            if row.score is not None and row.deployment_id in parts.same:
                verdicts[row.seq] = "anomalous" if row.score > limits[1] else "good"
    scored = len(verdicts)
    for row in parts.defects:
        if row.seq not in verdicts:
            verdicts[row.seq] = _again(place, row, line)
    until = monotonic() + SECONDS
    for row in parts.recent:
        if row.state == "judged" and row.seq not in verdicts and row.purged_at is None:
            if monotonic() > until:
                break
            verdicts[row.seq] = _again(place, row, line)
    return {
        "measured_at": iso(now_ms()),
        "basis": _basis(parts.deployment, parts.defects),
        "promise": {"before": parts.before and parts.before.promise, "after": parts.candidate.promise},
        "threshold": dict(zip(("before", "after"), limits, strict=True)) if limits is not None and same else None,
        "by_score": scored,  # parts that the ledger's scores were enough for
        "power": parts.power,
        **_flips(parts.recent, verdicts),
        "defects": _lost(parts.defects, verdicts),
        "golden": _golden(place, parts.candidate, line),
    }


def _gathered(place: Place, ledger: Ledger, source_id: int, model_id: int) -> _Parts:
    with ledger.read() as connection:
        candidate = connection.execute(select(models).where(models.c.id == model_id)).first()
        if candidate is None or connection.scalar(select(sources.c.id).where(sources.c.id == source_id)) is None:
            raise ConfigError(f"there is no model {model_id}, or no source {source_id}")
        live = connection.scalar(_live(source_id))
        before = connection.execute(
            select(models).join(deployments, deployments.c.model_id == models.c.id).where(deployments.c.id == live)
        ).first()
        asked = _rows().where(inspections.c.source_id == source_id).order_by(inspections.c.seq.desc()).limit(LAST)
        recent, defects = list(connection.execute(asked).all()), confirmed(connection, source_id)
        own = (
            select(deployments.c.id, models.c.digest)
            .join(models, models.c.id == deployments.c.model_id)
            .where(deployments.c.source_id == source_id)
        )
        of = {row.id: row.digest for row in connection.execute(own)}
        power = {"after": _power(connection, model_id), "before": before and _power(connection, before.id)}
    used = {row.deployment_id for row in (*recent, *defects)} | {live}
    scorer = {name: _scorer(place, name) for name in {candidate.digest, *(of[one] for one in used if one in of)}}
    same = frozenset(one for one in used if one in of and scorer[of[one]] == scorer[candidate.digest])
    return _Parts(before, candidate, recent, defects, live, same, power)


def _live(source_id: int) -> Any:
    return select(deployments.c.id).where(deployments.c.source_id == source_id, deployments.c.until.is_(None))


def _rows() -> Any:
    names = "seq id source_id suffix state verdict score threshold deployment_id purged_at part_id".split()
    return select(*(inspections.c[name] for name in names)).where(inspections.c.repeats.is_(None))


def confirmed(connection: Connection, source_id: int) -> list[Any]:
    """Parts of a source that somebody has judged a defect, and not taken back; the oldest first."""
    said = standing().where(reviews.c.truth == "defect").with_only_columns(reviews.c.seq)
    rows = _rows().where(inspections.c.source_id == source_id, inspections.c.seq.in_(said))
    return list(connection.execute(rows.order_by(inspections.c.seq)).all())


def _head(place: Place, name: str) -> dict[str, Any]:
    head: dict[str, Any] = json.loads(read_file(folder_of(place, name) / "model.json"))
    return head


def _scorer(place: Place, name: str) -> str:
    """What two models share that give every picture the same score: all but their thresholds."""
    head = _head(place, name)
    files = {key: value for key, value in head["files"].items() if key.endswith(".onnx")}
    return digest(as_text([files, head["preprocess"], head["precision"]]).encode())


def _limits(place: Place, parts: _Parts) -> tuple[float, float] | None:
    """The thresholds of both, in the number format that the line has run in; None where it isn't the score alone that
    decides, or nobody knows which format that is."""
    if parts.before is None:
        return None
    before, after = (_thresholds(place, row.digest) for row in (parts.before, parts.candidate))
    pairs = [(before[name], after[name]) for name in sorted(before.keys() & after.keys())]
    if len(pairs) == 1:
        return pairs[0]
    seen = {row.threshold for row in parts.recent}
    used = [pair for pair in pairs if pair[0] in seen]
    return used[0] if len(used) == 1 else None


def _thresholds(place: Place, name: str) -> dict[str, float]:
    """Of a model whose score alone decides, by number format."""
    head = _head(place, name)
    if head.get("categories") is not None:
        return {}
    made = {key: Calibrator.from_json(value) for key, value in head["calibration"].items()}
    areas = any(each.regions.decide != "score" or (each.further and each.further[0].areas) for each in made.values())
    return {} if areas else {key: each.threshold for key, each in made.items()}


def _again(place: Place, row: Any, line: Any) -> str | None:
    """The candidate's verdict; None where the picture is not kept, or cannot be read."""
    waiting = place.spool / str(row.source_id) / f"{row.id}{row.suffix}"
    for path in (place.kept(row.id, row.suffix, row.state), waiting):
        if path.is_file():
            try:
                return line().inspect(read_file(path)).verdict or "unknown"
            except DataError:
                return None
    return None


def _flips(rows: Sequence[Any], verdicts: Mapping[int, str | None]) -> dict[str, Any]:
    known = [(row, verdicts[row.seq]) for row in rows if verdicts.get(row.seq) is not None]
    to_ok = [row.id for row, new in known if row.verdict != "good" and new == "good"]
    to_ng = [row.id for row, new in known if row.verdict == "good" and new != "good"]
    count = {"of": len(rows), "looked_at": len(known), "to_ok": len(to_ok), "to_ng": len(to_ng)}
    return {"parts": count, "examples": {"to_ok": to_ok[:SHOWN], "to_ng": to_ng[:SHOWN]}}


def _lost(rows: Sequence[Any], verdicts: Mapping[int, str | None]) -> dict[str, Any]:
    """Defects that were rejected, and would not be; those that nobody can look at any more are not known to be safe."""
    lost = [row.id for row in rows if row.verdict != "good" and verdicts.get(row.seq) == "good"]
    unseen = [row.id for row in rows if verdicts.get(row.seq) is None]
    return {"of": len(rows), "lost": len(lost), "unseen": len(unseen), "examples": [*lost, *unseen][:SHOWN]}


def _golden(place: Place, row: Any, line: Any) -> dict[str, Any]:
    of = len(json.loads(row.golden))
    try:
        return {"equal": check_golden(place, row, line()) if of else 0, "of": of, "why": None}
    except (NotEqual, DataError) as error:
        return {"equal": None, "of": of, "why": str(error)}


def _power(connection: Connection, model_id: int) -> list[dict[str, Any]] | None:
    """What the last measurement of a model has found: [{kind, contrast, size}]; None where there is none."""
    done = select(jobs).where(jobs.c.kind == "power", jobs.c.state == "done").order_by(jobs.c.id.desc())
    for row in connection.execute(done):
        if json.loads(row.args)["model"] == model_id:
            found: list[dict[str, Any]] = json.loads(row.result)["power"]["found_from"]
            return found
    return None


def _basis(deployment: int | None, defects: Iterable[Any]) -> dict[str, Any]:
    """What an effect holds for: another model, or another known defect, and it has to be measured anew."""
    return {"deployment": deployment, "defects": digest(as_text([row.seq for row in defects]).encode())}


def effect_apart(place: Place, ledger: Ledger, source_id: int, model_id: int) -> dict[str, Any]:
    """As `effect`; where it takes an engine, in a process of its own. DataError says why that has failed."""
    try:
        return effect(place, ledger, source_id, model_id, engine=False)
    except _NeedsEngine:
        pass
    command = [sys.executable, "-m", "blemish.station.changes", str(place.root), str(source_id), str(model_id)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        raise DataError(f"the change could not be measured: {said[-1][:500]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def add(
    connection: Connection,
    actor: Actor,
    source_id: int,
    model_id: int,
    found: Mapping[str, Any],
    *,
    kind: str = "model",
    note: str = "",
) -> int:
    """An open change with its effect: its number. Audited."""
    values = {
        "kind": kind,
        "source_id": source_id,
        "model_id": model_id,
        "before_id": connection.scalar(_live(source_id)),
    }
    said = {**found, **({"note": note} if note else {})}
    key = connection.execute(
        insert(changes).values(**values, made_by=actor.name, made_at=now_ms(), effect=as_text(said))
    ).inserted_primary_key
    assert key is not None
    audit.append(connection, actor, "change.add", f"change {key[0]}", after={**values, "effect": said}, reason=note)
    return int(key[0])


def measured(connection: Connection, actor: Actor, change: int, found: Mapping[str, Any]) -> None:
    """Keep what was measured anew of an open change; what else its effect says stays. Audited."""
    row = _open_one(connection, change)
    said = {**json.loads(row.effect), **found}
    values = {"effect": as_text(said), "before_id": connection.scalar(_live(row.source_id))}
    connection.execute(update(changes).where(changes.c.id == change).values(**values))
    audit.append(connection, actor, "change.measure", f"change {change}", before=row.effect, after=said)


def is_current(connection: Connection, row: Any) -> bool:
    """Whether the effect of a change was measured against what is live and known now."""
    now = _basis(connection.scalar(_live(row.source_id)), confirmed(connection, row.source_id))
    return bool(json.loads(row.effect).get("basis") == now)


def approve(connection: Connection, actor: Actor, change: int, reason: str, *, lost_accepted: bool = False) -> int:
    """Put the model of an open change live: the number of the deployment. Audited.

    Refuses where the effect was measured against something else, golden pictures differ, known defects would be lost
    and nobody says that this is meant, or the station asks for another person than the one who made it.
    """
    row = _open_one(connection, change)
    if setting(connection, FOUR_EYES, False) and row.made_by == actor.name:
        raise Refuses("who has made a change does not approve it", hint="ask another engineer")
    if not is_current(connection, row):
        raise Refuses(
            "another model is live, or other defects are known, since it was measured", hint="measure it anew"
        )
    found = json.loads(row.effect)
    if found["golden"]["why"]:
        raise Refuses(found["golden"]["why"], hint="a model that computes differently here does not go live here")
    defects = found["defects"]
    if (defects["lost"] or defects["unseen"]) and not lost_accepted:
        raise Refuses(
            f"{defects['lost']} of {defects['of']} known defects would be lost, {defects['unseen']} could not be "
            "looked at",
            hint="say that this is accepted, and why, or drop the change",
        )
    number = deploy(connection, row.source_id, row.model_id, actor.name, reason)
    _decided(connection, row, actor, "approved", reason, after_id=number)
    after = {"change": change, "deployment": number, "model": row.model_id, "lost_defects_accepted": lost_accepted}
    name = str(connection.scalar(select(sources.c.name).where(sources.c.id == row.source_id)))
    before = {"deployment": row.before_id}
    audit.append(connection, actor, "deployment.add", name, before=before, after=after, reason=reason)
    return number


def drop(connection: Connection, actor: Actor, change: int, reason: str) -> None:
    """Nothing comes of an open change. Audited."""
    row = _open_one(connection, change)
    _decided(connection, row, actor, "dropped", reason)
    audit.append(connection, actor, "change.drop", f"change {change}", reason=reason)


def put_live(
    place: Place,
    ledger: Ledger,
    actor: Actor,
    source_id: int,
    model_id: int,
    reason: str,
    *,
    lost_accepted: bool = False,
    apart: bool = False,
) -> tuple[int, dict[str, Any]]:
    """Make a change and approve it at once: the number of the deployment, and the effect. As `approve` it refuses, and
    then the change stays open."""
    found = (effect_apart if apart else effect)(place, ledger, source_id, model_id)
    with ledger.write() as connection:
        change = add(connection, actor, source_id, model_id, found, note=reason)
    with ledger.write() as connection:
        return approve(connection, actor, change, reason, lost_accepted=lost_accepted), found


def roll_back(connection: Connection, actor: Actor, source_id: int, reason: str) -> int:
    """Put the model live again that was so before: the number of the deployment. Nothing is measured, since it was
    approved once. Audited. ConfigError where there is none."""
    before = connection.scalar(_live(source_id))
    number = rollback(connection, source_id, actor.name, reason)
    model = connection.scalar(select(deployments.c.model_id).where(deployments.c.id == number))
    values = {"kind": "rollback", "source_id": source_id, "model_id": model, "before_id": before}
    now = now_ms()
    decided = {"state": "approved", "decided_by": actor.name, "decided_at": now, "reason": reason, "after_id": number}
    connection.execute(insert(changes).values(**values, **decided, made_by=actor.name, made_at=now))
    name = str(connection.scalar(select(sources.c.name).where(sources.c.id == source_id)))
    told = {"deployment": number, "model": model}
    was = {"deployment": before}
    audit.append(connection, actor, "deployment.rollback", name, before=was, after=told, reason=reason)
    return number


def _open_one(connection: Connection, change: int) -> Any:
    row = connection.execute(select(changes).where(changes.c.id == change)).first()
    if row is None:
        raise ConfigError(f"there is no change {change}")
    if row.state != "open":
        raise Refuses(f"change {change} is {row.state} already", hint="make another one")
    return row


def _decided(connection: Connection, row: Any, actor: Actor, state: str, reason: str, **more: Any) -> None:
    values = {"state": state, "decided_by": actor.name, "decided_at": now_ms(), "reason": reason, **more}
    connection.execute(update(changes).where(changes.c.id == row.id).values(**values))


def main(arguments: Sequence[str]) -> int:
    """`DIR SOURCE MODEL`: the effect as JSON on stdout."""
    os.nice(10)
    place = Place.of(arguments[0])
    ledger = Ledger.of(place, config.read(place.config))
    try:
        print(as_text(effect(place, ledger, int(arguments[1]), int(arguments[2]))))
    except BlemishError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        ledger.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Pages for those who look after a line: models, changes, trend, alarms, maintenance, audit trail, users, jobs.

Each page `/x` has its figures at `/x.json`, and its table at `/x.csv`; forms work without a script.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from sqlalchemy import func, select

import blemish
from blemish.errors import BlemishError
from blemish.station import audit as trail
from blemish.station import auth, disk
from blemish.station.auth import Identity
from blemish.station.ids import new_id, now_ms
from blemish.station.ledger.schema import alarms as alarm_rows
from blemish.station.ledger.schema import audit, jobs, models, outbox, products, sinks, sources, users
from blemish.station.promise import promises
from blemish.station.reading import VERDICTS, alarm, all_alarms, iso, milliseconds, trend
from blemish.station.retention import DISK, REMOVED, setting
from blemish.station.sources.http import beat
from blemish.station.web import approving, changing, deciding, people, working
from blemish.station.web.changing import RowId
from blemish.station.web.chart import by_hour, chart
from blemish.station.web.deciding import Approval, ChangeBody, Dropping
from blemish.station.web.intake import HUGE
from blemish.station.web.pages import TEMPLATES, page
from blemish.station.web.people import Password, Role
from blemish.station.web.problems import Problem, of_error
from blemish.station.web.state import (
    COOKIE,
    Asking,
    Here,
    Name,
    Number,
    Text,
    Time,
    as_table,
    etag,
    identify,
    ip_of,
    needs,
    web_of,
)

KEPT = ("judged", "unreadable", "failed", "repeat")
PARTS = ("blemish", "fastapi", "sqlalchemy", "alembic", "uvicorn", "jinja2", "paho-mqtt", "openvino", "numpy")


class Told(APIRoute):
    """Whoever asks for a page is told what is wrong on a page; twins for machines answer as the interface does."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """See `APIRoute`."""
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                answer: Response = await handle(request)
                return answer
            except (Problem, BlemishError, RequestValidationError) as error:
                machine = request.url.path.endswith((".json", ".csv"))
                if machine or (isinstance(error, Problem) and error.status_code < 400):
                    raise
                return await run_in_threadpool(_problem, request, error)

        return told


def _problem(request: Request, error: Problem | BlemishError | RequestValidationError) -> Response:
    web = web_of(request)
    who = identify(web, ip_of(request), None, request.cookies.get(COOKIE))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        status, says, hint = 422, f"{first['loc'][-1]}: {first['msg']}", None
    elif isinstance(error, Problem):
        status, says, hint = error.status_code, str(error.detail), error.hint
    else:
        status, says, hint = of_error(error).status_code, str(error), error.hint
    return page(request, web, "problem", who, status=status, says=says, hint=hint)


router = APIRouter(include_in_schema=False, route_class=Told)


def seen(right: str) -> Callable[..., Identity]:
    """A dependency of pages: who asks, and may see that; others are led to the log-in."""

    def allowed(who: Asking) -> Identity:
        if who is None:
            raise Problem(303, "log in", headers={"Location": "/login"})
        return needs(right)(who)

    return allowed


def sent(right: str) -> Callable[..., Identity]:
    """A dependency of forms: who sends one, from a page of the own session, and may do that."""

    def allowed(web: Here, who: Asking, form_token: Annotated[str, Form(max_length=100)] = "") -> Identity:
        who = seen(right)(who)
        if who.session is None or form_token != auth.form_token(web.place, who.session):
            raise Problem(403, "this form is not of your session", "load the page again")
        return who

    return allowed


def to(path: str) -> Response:
    """The page to look at after a form was done."""
    return RedirectResponse(path, 303)


def offer(
    path: str, template: str, right: str, load: Callable[..., Any], *, table: str = "", columns: Any = ()
) -> None:
    """A page with its twins: `load` is a dependency that gives the figures, `table` names the rows among them."""
    Figures = Annotated[dict[str, Any], Depends(load)]  # noqa: N806

    @router.get(f"{path}.json", dependencies=[Depends(needs(right))])
    def as_json(figures: Figures) -> Any:
        return JSONResponse(figures)

    if table:

        @router.get(f"{path}.csv", dependencies=[Depends(needs(right))])
        def as_csv(figures: Figures) -> Response:
            rows = [deciding.flat(row) if "effect" in row else row for row in figures[table]]
            return as_table(table, rows, [*columns])

    @router.get(path)
    def as_page(
        request: Request, web: Here, figures: Figures, who: Annotated[Identity, Depends(seen(right))]
    ) -> Response:
        twin, query = request.url.path, f"?{request.url.query}" if request.url.query else ""
        twins = [("JSON", f"{twin}.json{query}"), *([("CSV", f"{twin}.csv{query}")] if table else [])]
        return page(request, web, template, who, twins=twins, config=web.config, may=who.rights, here=path, **figures)


# ------------------------------------------------------------------------------------------------ models


def load_models(web: Here) -> dict[str, Any]:
    """Models, where each is live, and what was live before."""
    with web.ledger.read() as connection:
        rows = connection.execute(select(models).order_by(models.c.id.desc())).mappings().all()
        past = connection.execute(approving.all_deployments().limit(100)).mappings().all()
        names = list(connection.scalars(select(sources.c.name).order_by(sources.c.name)))
    live = [row for row in past if row["until"] is None]
    out = []
    for row in rows:
        own = approving.model_view(row)
        own["golden"] = len(own["golden"])
        here = [each for each in live if each["model_id"] == row["id"]]
        own["live"] = [{"source": d["source"], "since": iso(d["since"]), "by": d["approved_by"]} for d in here]
        out.append(own)
    before = {
        d["source"]: any(p["model_id"] != d["model_id"] and p["source"] == d["source"] for p in past) for d in live
    }
    return {
        "models": out,
        "deployments": [approving.deployment_view(row) for row in past],
        "sources": names,
        "can_roll_back": sorted(name for name, there in before.items() if there),
    }


offer(
    "/models",
    "models",
    "read",
    load_models,
    table="models",
    columns="id name digest method promise alpha confidence calibrated_on parent_id status golden live".split(),
)


@router.post("/models/import", max_body_size=HUGE)
def import_zip(
    web: Here,
    who: Annotated[Identity, Depends(sent("models"))],
    name: Annotated[Name, Form()],
    zip: Annotated[UploadFile, File()],
) -> Response:
    """A model's folder, zipped."""
    packed = web.place.jobs / f".{new_id()}.zip.partial"
    try:
        with packed.open("xb") as file:
            shutil.copyfileobj(zip.file, file, approving.CHUNK)
        approving.imported(web, packed, name, who)
    finally:
        packed.unlink(missing_ok=True)
    return to("/models")


@router.post("/rollback")
def roll_back(
    web: Here,
    who: Annotated[Identity, Depends(sent("deploy"))],
    source: Annotated[Name, Form()],
    reason: Annotated[approving.Reason, Form()],
) -> Response:
    """The model before is live again."""
    approving.back(web, approving.RollingBack(source=source, reason=reason), who)
    return to("/models")


# ------------------------------------------------------------------------------------------------ changes


def load_changes(web: Here, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    """All of them, the newest first."""
    with web.ledger.read() as connection:
        return {"changes": deciding.listed(connection, limit=limit), **_candidates(connection)}


def _candidates(connection: Any) -> dict[str, Any]:
    named = select(models.c.id, models.c.name, models.c.promise).order_by(models.c.id.desc())
    return {
        "models": [dict(row) for row in connection.execute(named).mappings()],
        "sources": list(connection.scalars(select(sources.c.name).order_by(sources.c.name))),
    }


offer(
    "/changes",
    "changes",
    "read",
    load_changes,
    table="changes",
    columns=[*deciding.COLUMNS, *deciding.COUNTED, "defects_lost"],
)


def load_change(web: Here, id: RowId) -> dict[str, Any]:
    """One of them."""
    return {"change": deciding.one(web, id)}


offer("/changes/{id}", "change", "read", load_change)
Engineer = Annotated[Identity, Depends(sent("deploy"))]
Why = Annotated[approving.Reason, Form()]


@router.post("/changes")
def make_change(
    web: Here,
    who: Engineer,
    source: Annotated[Name, Form()],
    model: Annotated[int, Form(ge=1, le=2**53)],
    reason: Annotated[Text, Form()] = "",
) -> Response:
    """Measure a candidate; then its page."""
    return to(f"/changes/{deciding.make(web, who, ChangeBody(source=source, model=model, reason=reason))}")


@router.post("/changes/{id}/measure")
def measure(web: Here, id: RowId, who: Engineer) -> Response:
    """Measure it anew."""
    deciding.measure(web, who, id)
    return to(f"/changes/{id}")


@router.post("/changes/{id}/approve")
def approve(
    web: Here,
    id: RowId,
    who: Engineer,
    reason: Why,
    password: Annotated[Password, Form()],
    lost_defects_accepted: Annotated[bool, Form()] = False,
) -> Response:
    """Sign it."""
    signed = Approval(reason=reason, password=password, lost_defects_accepted=lost_defects_accepted)
    deciding.approve(web, who, id, signed)
    return to(f"/changes/{id}")


@router.post("/changes/{id}/drop")
def drop(web: Here, id: RowId, who: Engineer, reason: Why) -> Response:
    """Nothing comes of it."""
    deciding.drop(web, who, id, Dropping(reason=reason))
    return to(f"/changes/{id}")


# ------------------------------------------------------------------------------------------------ trend


def load_trend(
    web: Here,
    source: Name | None = None,
    start: Annotated[Time, Query(alias="from")] = None,
    end: Annotated[Time, Query(alias="to")] = None,
    days: Annotated[int, Query(ge=1, le=366)] = 7,
) -> dict[str, Any]:
    """By hour, of the last days unless the query says from when."""
    since = now_ms() - days * 24 * 3_600_000 if start is None else milliseconds(start)
    with web.ledger.read() as connection:
        rows = trend(connection, source=source, start=since, end=None if end is None else milliseconds(end))
        names = list(connection.scalars(select(sources.c.name).order_by(sources.c.name)))
        promised = promises(connection)
    return {
        "trend": rows,
        "hours": by_hour(rows),
        "sources": names,
        "source": source,
        "since": iso(since),
        "days": days,
        "promises": promised,
    }


offer(
    "/trend",
    "trend",
    "read",
    load_trend,
    table="trend",
    columns=[
        "hour",
        "source",
        "product",
        "deployment",
        *VERDICTS,
        "total",
        "ms_mean",
        "ms_max",
        "brightness",
        "focus",
        "scores",
    ],
)
TEMPLATES.env.globals["chart"] = chart
if "_" not in TEMPLATES.env.globals:
    TEMPLATES.env.globals["_"] = str


# ------------------------------------------------------------------------------------------------ alarms


def load_alarms(web: Here, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    """Open ones first, then the newest."""
    opened = all_alarms().order_by(None).order_by(alarm_rows.c.cleared_at.is_not(None), alarm_rows.c.id.desc())
    with web.ledger.read() as connection:
        return {"alarms": [alarm(row) for row in connection.execute(opened.limit(limit)).mappings()]}


offer(
    "/alarms",
    "alarms",
    "read",
    load_alarms,
    table="alarms",
    columns=[*(column.name for column in alarm_rows.c if column.name != "source_id"), "source"],
)


@router.post("/alarms/{id}/ack")
def acknowledge(
    web: Here, id: RowId, who: Annotated[Identity, Depends(sent("alarms"))], note: Annotated[Text, Form()] = ""
) -> Response:
    """Seen, with a note."""
    changing.acknowledge(web, id, changing.Ack(note=note), who)
    return to("/alarms")


# ------------------------------------------------------------------------------------------------ maintenance


def load_maintenance(web: Here) -> dict[str, Any]:
    """What waits, what failed, what fills."""
    families = {family.name: family for family in web.metrics.collect()}

    def of(name: str, **labels: str) -> float:
        rows = families[name].samples
        return sum(
            row.value for row in rows if labels.items() <= row.labels.items() and not row.name.endswith("_created")
        )

    with web.ledger.read() as connection:
        asked = select(sources, products.c.name.label("product")).outerjoin(
            products, products.c.id == sources.c.product_id
        )
        known = connection.execute(asked.order_by(sources.c.id)).mappings().all()
        removed = setting(connection, REMOVED, {})
        forecast = setting(connection, DISK, {}).get("days")
        silent, says = beat(connection)
        pending = select(
            sinks.c.id,
            sinks.c.name,
            sinks.c.kind,
            sinks.c.active,
            func.count(outbox.c.id).filter(outbox.c.done_at.is_(None) & outbox.c.failed_at.is_(None)).label("waiting"),
            func.count(outbox.c.id).filter(outbox.c.failed_at.is_not(None)).label("refused"),
            func.min(outbox.c.at).filter(outbox.c.done_at.is_(None) & outbox.c.failed_at.is_(None)).label("since"),
        ).outerjoin(outbox, outbox.c.sink_id == sinks.c.id)
        backlog = connection.execute(pending.group_by(sinks.c.id).order_by(sinks.c.id)).mappings().all()
        running = connection.execute(
            select(jobs).where(jobs.c.state.in_(("running", "waiting"))).order_by(jobs.c.id)
        ).all()
        head = trail.head(connection)
    rows = []
    for row in known:
        name = row["name"]
        ends = {state: int(of("blemish_ended", source=name, state=state)) for state in KEPT}
        claimed, waits = int(of("blemish_claimed", source=name)), int(of("blemish_waiting", source=name))
        gone = removed.get(str(row["id"]), (0, 0))[0]
        missing = claimed - sum(ends.values()) - waits
        config = json.loads(row["config"])
        own = {"source": name, "kind": row["kind"], "active": row["active"], "product": row["product"]}
        law = {"claimed": claimed, **ends, "waiting": waits, "removed": gone, "missing": max(0, missing - gone)}
        rows.append({**own, "folder": config.get("path"), **law})
    level, share = disk.level(web.place)
    return {
        "law": rows,
        "worker": {"silent_ms": silent, "live": says.get("live", []), "oldest_s": of("blemish_oldest_seconds")},
        "disk": {"level": level.name, "free_share": share, "full_in_days": forecast},
        "sinks": [{**row, "since": iso(row["since"])} for row in backlog],
        "jobs": [working.job_view(row) for row in running],
        "audit": {"entries": head[0], "head": head[1]},
        "versions": [_version(name) for name in PARTS],
        "keep_days": vars(web.config.keep),
    }


def _version(name: str) -> dict[str, str]:
    try:
        told = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return {"name": name, "version": blemish.__version__ if name == "blemish" else "not installed", "licence": ""}
    said = [*(told.get_all("License-Expression") or ()), *(told.get_all("License") or ())]
    kinds = [each.rpartition(" :: ")[2] for each in told.get_all("Classifier") or () if each.startswith("License")]
    licence = said[0].split("\n")[0][:60] if said else ", ".join(kinds)
    return {"name": name, "version": told["Version"], "licence": licence}


offer(
    "/maintenance",
    "maintenance",
    "read",
    load_maintenance,
    table="law",
    columns="source kind active product folder claimed judged unreadable failed repeat waiting removed missing".split(),
)


@router.post("/sinks/{id}/again")
def send_again(web: Here, id: RowId, who: Annotated[Identity, Depends(sent("sinks"))]) -> Response:
    """Send once more what was refused."""
    working.send_again(web, id, who)
    return to("/maintenance")


# ------------------------------------------------------------------------------------------------ audit trail


def load_audit(
    web: Here,
    before_seq: Number | None = None,
    actor: Name | None = None,
    action: Name | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Entries, the newest first; the chain is checked where it is asked for on the page of its own."""
    rows = select(audit).order_by(audit.c.seq.desc()).limit(limit)
    for column, value in ((audit.c.actor, actor), (audit.c.action, action)):
        if value is not None:
            rows = rows.where(column == value)
    if before_seq is not None:
        rows = rows.where(audit.c.seq < before_seq)
    with web.ledger.read() as connection:
        found = [{**row, "at": iso(row["at"])} for row in connection.execute(rows).mappings()]
        seq, sha256 = trail.head(connection)
    return {"audit": found, "head": {"seq": seq, "hash": sha256}, "actor": actor, "action": action}


offer("/audit", "audit", "audit", load_audit, table="audit", columns=[column.name for column in audit.c])


def load_check(web: Here) -> dict[str, Any]:
    """Whether each entry follows from the one before it."""
    with web.ledger.read() as connection:
        seq, sha256 = trail.head(connection)
        return {"check": {"broken": trail.broken(connection)}, "head": {"seq": seq, "hash": sha256}}


offer("/audit/check", "audit", "audit", load_check)


# ------------------------------------------------------------------------------------------------ users


def load_users(web: Here) -> dict[str, Any]:
    """All of them, without what is secret."""
    with web.ledger.read() as connection:
        rows = connection.execute(select(users).order_by(users.c.id)).all()
    locked = now_ms()
    own = [{**people.user_view(row), "locked": row.locked_until > locked} for row in rows]
    return {"users": own, "roles": {name: sorted(rights) for name, rights in auth.ROLES.items()}}


offer(
    "/users", "users", "users", load_users, table="users", columns="id name role locale active locked version".split()
)
Admin = Annotated[Identity, Depends(sent("users"))]


@router.post("/users")
def add_user(
    web: Here,
    who: Admin,
    name: Annotated[Name, Form()],
    role: Annotated[Role, Form()],
    password: Annotated[Password, Form()],
) -> Response:
    """Add one."""
    people.add_user(web, people.NewUser(name=name, role=role, password=password), who)
    return to("/users")


@router.post("/users/{id}")
def change_user(
    web: Here,
    id: RowId,
    who: Admin,
    role: Annotated[Role, Form()],
    version: Annotated[int, Form()],
    active: Annotated[bool, Form()] = False,
    password: Annotated[Password, Form()] = "",
) -> Response:
    """Role, whether the user may log in, and a new password where one is given."""
    with web.ledger.read() as connection:
        row = changing.row_of(connection, users, id)
    if row.version != version:
        raise Problem(412, "it was changed by somebody else meanwhile", "load the page again")
    body = people.UserChange(role=role, active=active, locale=row.locale, password=password or None)
    people.change_user(web, id, body, who, etag(people.user_view(row)))
    return to("/users")


# ------------------------------------------------------------------------------------------------ jobs


def load_jobs(web: Here, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    """The newest first."""
    with web.ledger.read() as connection:
        rows = connection.execute(select(jobs).order_by(jobs.c.id.desc()).limit(limit)).all()
        found = [working.job_view(row) for row in rows]
        return {"jobs": found, **_candidates(connection)}


offer(
    "/jobs",
    "jobs",
    "read",
    load_jobs,
    table="jobs",
    columns="id kind state by progress eta asked_at started_at ended_at args result".split(),
)

"""The way from a folder of good pictures to a model that is live, step by step.

What was answered lies in the ledger: a reload, another browser, or a kill goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Annotated, Any, Literal

import cv2
from fastapi import APIRouter, Depends, Form
from fastapi.responses import Response
from sqlalchemy import Connection, insert, select

from blemish.errors import DataError
from blemish.files import read_file
from blemish.inspection.conformal import images_needed
from blemish.station import audit, judging
from blemish.station.auth import Identity
from blemish.station.config import Config
from blemish.station.jobs import ask
from blemish.station.ledger.schema import changes, jobs, models, products, sources
from blemish.station.place import digest
from blemish.station.retention import set_setting, setting
from blemish.station.spool import SUFFIXES
from blemish.station.web import approving, changing, deciding, working
from blemish.station.web.office import Told, offer, sent, to
from blemish.station.web.pages import TEMPLATES
from blemish.station.web.problems import Problem
from blemish.station.web.state import Here, Name, Web, etag

router = APIRouter(include_in_schema=False, route_class=Told)

STATE = "commission"  # setting: what was answered
STEPS = ("product", "folder", "quality", "learn", "promise", "power", "golden", "source", "live")
DEEP = 3  # folders below a root that are offered
MOST = 200  # folders
SECONDS = 20.0  # for looking at pictures
APART = 5.0  # median absolute deviations from the median, from where on a picture is named
NAMED = 12
RATES = (0.1, 0.05, 0.02, 0.01, 0.005, 0.001)
Engineer = Annotated[Identity, Depends(sent("models"))]


def folders(config: Config, *, empty: bool = False) -> dict[str, tuple[Path, int]]:
    """Folders with pictures below the roots of station.toml, by a name that a browser may send, and how many each
    has; empty ones too where they are wanted."""
    found: dict[str, tuple[Path, int]] = {}
    for root in map(Path, config.roots):
        for folder in _below(root, DEEP):
            count = sum(1 for _ in _pictures(folder))
            if (count or empty) and len(found) < MOST:
                found[digest(os.fsencode(folder))[:16]] = (folder, count)
    return found


def _below(folder: Path, deep: int) -> Iterator[Path]:
    """A folder and those in it; links are not followed."""
    yield folder
    if deep:
        try:
            inner = sorted(each.path for each in os.scandir(folder) if each.is_dir(follow_symlinks=False))
        except OSError:
            return
        for path in inner:
            if not Path(path).name.startswith("."):
                yield from _below(Path(path), deep - 1)


def _pictures(folder: Path) -> Iterator[Path]:
    try:
        for each in os.scandir(folder):
            if each.is_file(follow_symlinks=False) and Path(each.name).suffix.lower() in SUFFIXES:
                yield Path(each.path)
    except OSError:
        return


def chosen(config: Config, name: str) -> Path:
    """The folder that a browser has named. 422."""
    known = folders(config, empty=True)
    if name not in known:
        raise Problem(422, "there is no such folder below the roots of station.toml", "load the page again")
    return config.inside(known[name][0])


def quality(folder: Path) -> dict[str, Any]:
    """What strikes one about the pictures of a folder: copies, sizes, and those unlike the others in focus or light.

    DataError where there is none.
    """
    until, seen, values = monotonic() + SECONDS, dict[str, str](), list[tuple[str, dict[str, float]]]()
    out: dict[str, Any] = {"unreadable": [], "copies": [], "sizes": {}}
    each = sorted(_pictures(folder))
    for count, path in enumerate(each):
        if monotonic() > until:
            break
        out["looked_at"] = count + 1
        data = read_file(path)
        first = seen.setdefault(digest(data), path.name)
        if first != path.name:
            out["copies"].append([first, path.name])
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            out["unreadable"].append(path.name)
            continue
        size = f"{picture.shape[1]} x {picture.shape[0]}"
        out["sizes"][size] = out["sizes"].get(size, 0) + 1
        small = judging.small(picture[..., ::-1].copy(), judging.HEALTH)  # type: ignore[arg-type]
        values.append((path.name, judging.health(small)))
    if not values:
        raise DataError("no picture in it can be read", path=folder)
    out["pictures"] = len(each)
    out["blurred"] = _apart(values, "focus", 0.05, below=True)
    out["light"] = _apart(values, "brightness", 2.0)
    return out


def _apart(values: list[tuple[str, dict[str, float]]], name: str, least: float, *, below: bool = False) -> list[str]:
    """Pictures whose value lies far from the median; `least` is a spread that is never too much."""
    middle = median(each[name] for _, each in values)
    spread = max(least, 1.4826 * median(abs(each[name] - middle) for _, each in values))
    far = [(file, each[name] - middle) for file, each in values]
    return [file for file, by in far if (-by if below else abs(by)) > APART * spread]


def stricter(n: int | None, confidence: float | None) -> list[dict[str, Any]]:
    """How many more held-out good pictures it takes to promise each rate."""
    sure = confidence if confidence is not None else None
    rows = [(rate, images_needed(rate, sure)) for rate in RATES]
    return [{"rate": rate, "needed": needed, "missing": max(0, needed - (n or 0))} for rate, needed in rows]


def load(web: Here) -> dict[str, Any]:
    """Where the way has come to, and what the step that is next has to show."""
    with web.ledger.read() as connection:
        state = setting(connection, STATE, {})
        fit, power = (_job(connection, state.get(name)) for name in ("fit", "power"))
        model = None
        if fit is not None and fit["state"] == "done":
            row = connection.execute(select(models).where(models.c.id == fit["result"]["model"])).mappings().one()
            model = approving.model_view(row)
        change = None
        if state.get("change"):
            change = connection.execute(select(changes.c.state).where(changes.c.id == state["change"])).scalar()
        names = {
            "products": list(connection.scalars(select(products.c.name).order_by(products.c.name))),
            "sources": list(connection.scalars(select(sources.c.name).order_by(sources.c.name))),
        }
    step = next(
        name
        for name, done in (
            ("product", "product" in state),
            ("folder", "folder" in state),
            ("quality", state.get("accepted")),
            ("learn", model is not None),
            ("promise", state.get("promised")),
            ("power", state.get("measured")),
            ("golden", state.get("golden")),
            ("source", "source" in state),
            ("live", change == "approved"),
            ("done", True),
        )
        if not done or name == "done"
    )
    out: dict[str, Any] = {"step": step, "steps": STEPS, "state": state, "fit": fit, "power": power, "model": model}
    if model is not None:
        out["stricter"] = stricter(model["calibrated_on"], model["confidence"])
    return {
        **out,
        **names,
        "change_state": change,
        "needed": {f"{rate:g}": images_needed(rate, 0.95) for rate in RATES},
    }


def _job(connection: Connection, number: int | None) -> dict[str, Any] | None:
    row = connection.execute(select(jobs).where(jobs.c.id == number)).first()
    return None if row is None else working.job_view(row)


offer("/setup", "setup", "read", load)


def offered(config: Config, empty: bool = False) -> list[dict[str, Any]]:
    """Folders, for a form."""
    return [{"id": key, "path": str(path), "pictures": n} for key, (path, n) in folders(config, empty=empty).items()]


TEMPLATES.env.globals["folders_of"] = offered


def keep(web: Web, who: Identity, **values: Any) -> Response:
    """Keep answers, and show the next step."""
    with web.ledger.write() as connection:
        answer(connection, who, values)
    return to("/setup")


def answer(connection: Connection, who: Identity, values: dict[str, Any]) -> None:
    """In a transaction of the caller's."""
    state = setting(connection, STATE, {})
    set_setting(connection, STATE, {**state, **values})
    audit.append(connection, who.actor, "commission", state.get("product", values.get("product", "")), after=values)


@router.post("/setup/product")
def set_product(web: Here, who: Engineer, name: Annotated[Name, Form()]) -> Response:
    """Of a new name, or one that is there."""
    with web.ledger.write() as connection:
        if connection.scalar(select(products.c.id).where(products.c.name == name)) is None:
            connection.execute(insert(products).values(name=name))
            audit.append(connection, who.actor, "product.add", name)
        answer(connection, who, {"product": name})
    return to("/setup")


@router.post("/setup/folder")
def set_folder(web: Here, who: Engineer, folder: Annotated[str, Form(max_length=100)]) -> Response:
    """Look at its pictures."""
    path = chosen(web.config, folder)
    return keep(web, who, folder=str(path), quality=quality(path))


@router.post("/setup/quality")
def accept_quality(web: Here, who: Engineer) -> Response:
    """The pictures are as they should be."""
    return keep(web, who, accepted=True)


@router.post("/setup/learn")
def learn(
    web: Here,
    who: Engineer,
    method: Annotated[str, Form(pattern=r"^[a-z0-9_+]{1,60}$")],
    rate: Annotated[float, Form(gt=0, lt=1)],
    confidence: Annotated[Literal["0.95", "mean"], Form()] = "mean",
    image_size: Annotated[str, Form(pattern=r"^([0-9]{1,4}(x[0-9]{1,4})?)?$")] = "",
) -> Response:
    """Ask for the job."""
    options: dict[str, Any] = {"method": method, "false-alarm-rate": rate}
    if confidence != "mean":
        options["confidence"] = confidence
    if image_size:
        options["image-size"] = image_size
    with web.ledger.write() as connection:
        state = setting(connection, STATE, {})
        _asked(state, "folder")
        args = {"good": {"folder": state["folder"], "part": "most"}, "options": options, "name": state["product"]}
        answer(connection, who, {"fit": ask(connection, who.actor, "fit", args)})
    return to("/setup")


@router.post("/setup/promise")
def accept_promise(web: Here, who: Engineer) -> Response:
    """It is enough."""
    return keep(web, who, promised=True)


@router.post("/setup/power")
def measure_power(
    web: Here,
    who: Engineer,
    what: Annotated[Literal["measure", "on"], Form()],
    images: Annotated[int, Form(ge=1, le=200)] = 8,
) -> Response:
    """Ask for the job, or go on."""
    if what == "on":
        return keep(web, who, measured=True)
    told = load(web)
    if told["model"] is None:
        raise Problem(409, "there is no model yet", "learn one first")
    with web.ledger.write() as connection:
        state = setting(connection, STATE, {})
        good = {"folder": state["folder"], "part": "rest"}
        args = {"good": good, "model": told["model"]["id"], "options": {"images": images}}
        answer(connection, who, {"power": ask(connection, who.actor, "power", args)})
    return to("/setup")


@router.post("/setup/golden")
def accept_golden(web: Here, who: Engineer) -> Response:
    """They are good pictures."""
    return keep(web, who, golden=True)


@router.post("/setup/source")
def set_source(
    web: Here,
    who: Engineer,
    source: Annotated[Name, Form()],
    kind: Annotated[Literal["known", "folder", "http"], Form()] = "known",
    folder: Annotated[str, Form(max_length=100)] = "",
) -> Response:
    """One that is there, or a new one, for which it takes the right to change sources."""
    with web.ledger.read() as connection:
        state = setting(connection, STATE, {})
        _asked(state, "folder")
        row = connection.execute(select(sources).where(sources.c.name == source)).first()
        before = None if row is None else changing.source_view(connection, row)
    if kind == "known" and before is None:
        raise Problem(422, f"there is no source '{source}'")
    if kind == "known" and before is not None and before["product"] == state["product"]:
        return keep(web, who, source=source)
    if "sources" not in who.rights:
        raise Problem(403, f"{who.name} ({who.role}) does not change sources", "maintenance gives it this product")
    if before is not None:
        body = changing.SourceBody(
            **{**{k: before[k] for k in ("name", "kind", "config", "active")}, "product": state["product"]}
        )
        with web.ledger.write() as connection:
            changing.changed(web, connection, "source", before["id"], body, who, etag(before))
    else:
        config = {"path": str(chosen(web.config, folder))} if kind == "folder" else {}
        if config and Path(state["folder"]).is_relative_to(config["path"]):
            raise Problem(422, "pictures that were learned would be taken out of their folder", "choose another folder")
        body = changing.SourceBody(
            name=source, kind="folder" if config else "http", config=config, product=state["product"]
        )
        with web.ledger.write() as connection:
            changing.added(web, connection, "source", body, who)
    changing.tell(web)
    return keep(web, who, source=source)


@router.post("/setup/live")
def make_change(web: Here, who: Annotated[Identity, Depends(sent("deploy"))]) -> Response:
    """Make the change; its page is the door."""
    told = load(web)
    if told["model"] is None or "source" not in told["state"]:
        raise Problem(409, "there is no model yet, or no source", "go through the steps before")
    body = deciding.ChangeBody(source=told["state"]["source"], model=told["model"]["id"], reason="commissioned")
    number = deciding.make(web, who, body)
    keep(web, who, change=number)
    return to(f"/changes/{number}")


@router.post("/setup/back")
def go_back(web: Here, who: Engineer, step: Annotated[Literal[STEPS], Form()]) -> Response:  # type: ignore[valid-type]
    """Answer again from a step on; what jobs have made stays."""
    kept = {
        "product": ("product",),
        "folder": ("folder", "quality"),
        "quality": ("accepted",),
        "learn": ("fit",),
        "promise": ("promised",),
        "power": ("power", "measured"),
        "golden": ("golden",),
        "source": ("source",),
        "live": ("change",),
    }
    gone = {name for each in STEPS[STEPS.index(step) :] for name in kept[each]}
    with web.ledger.write() as connection:
        state = setting(connection, STATE, {})
        set_setting(connection, STATE, {name: value for name, value in state.items() if name not in gone})
        audit.append(connection, who.actor, "commission.back", step)
    return to("/setup")


def _asked(state: dict[str, Any], name: str) -> None:
    if name not in state:
        raise Problem(409, f"the {name} was not chosen yet", "go through the steps in their order")


# ------------------------------------------------------------------------------------------------ jobs


@router.post("/jobs")
def add_job(
    web: Here,
    who: Engineer,
    kind: Annotated[Literal["fit", "adapt", "calibrate", "power"], Form()],
    folder: Annotated[str, Form(max_length=100)],
    model: Annotated[int | Literal[""], Form()] = "",
    name: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Ask for one with a folder of good pictures."""
    path = chosen(web.config, folder)
    args = {"good": {"folder": str(path)}, "model": model or None, "name": name}
    with web.ledger.write() as connection:
        ask(connection, who.actor, kind, {key: value for key, value in args.items() if value is not None})
    return to("/jobs")


@router.post("/jobs/{id}/stop")
def stop_job(web: Here, id: changing.RowId, who: Engineer) -> Response:
    """Stop one."""
    working.stop(web, id, who)
    return to("/jobs")

"""Pages for judging: one picture after the other, and twelve at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import select

from blemish.station.judgements import LANES
from blemish.station.ledger.schema import users
from blemish.station.retention import setting
from blemish.station.web.pages import page
from blemish.station.web.problems import Problem
from blemish.station.web.reviewing import Lane
from blemish.station.web.state import Asking, Here, Web

router = APIRouter(include_in_schema=False)

TYPES = ["scratch", "dent", "stain", "dirt", "missing", "other"]
KINDS = "review.defect_types"  # setting: six at most, one for each key
USUAL: dict[str, list[str]] = json.loads((Path(__file__).parent / "static" / "keys.json").read_text(encoding="utf-8"))
ACTIONS = [
    ("good", "OK, next"),
    ("unsure", "unsure, next: a second person judges"),
    ("defect", "NG, next"),
    ("undo", "take the last one back, any number of times"),
    ("later", "later, without judging"),
    ("earlier", "earlier"),
    ("map", "map on and off; in blind lanes there is none"),
    ("plain", "held: without the map"),
    ("closer", "closer"),
    ("farther", "farther"),
    ("fit", "whole picture, or pixel by pixel"),
    ("comment", "comment"),
    ("grid", "twelve drawn parts at once"),
    ("leave", "leave"),
]


def _judging(request: Request, web: Web, who: Asking, template: str, **values: Any) -> Response:
    if who is None:
        return RedirectResponse("/login", 303)
    if who.user_id is None or "judge" not in who.rights:
        raise Problem(403, f"{who.name} ({who.role}) judges no parts", "ask for the role of an inspector")
    with web.ledger.read() as connection:
        keys = connection.scalar(select(users.c["keys"]).where(users.c.id == who.user_id))
        types = setting(connection, KINDS, TYPES)[:6]
    return page(request, web, template, who, keys=keys, types=types, usual={**USUAL, **json.loads(keys)}, **values)


@router.get("/review")
def review(request: Request, web: Here, who: Asking, lane: Lane = "mixed") -> Response:
    """One picture after the other."""
    return _judging(request, web, who, "review", lane=lane, lanes=LANES, actions=ACTIONS)


@router.get("/review/grid")
def grid(request: Request, web: Here, who: Asking) -> Response:
    """Twelve drawn parts at once."""
    return _judging(request, web, who, "grid")

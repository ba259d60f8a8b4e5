"""Pages: log-in, what happens now, and one inspection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from blemish.errors import BlemishError
from blemish.station import auth
from blemish.station.reading import WORDS
from blemish.station.web.intake import found
from blemish.station.web.people import Password, give_session
from blemish.station.web.problems import Problem, of_error
from blemish.station.web.reading import Id
from blemish.station.web.state import COOKIE, Address, Asking, Here, Name, Web

router = APIRouter(include_in_schema=False)
TEMPLATES = Jinja2Templates(Path(__file__).parent / "templates")
SIGNS = {"good": "●", "anomalous": "✕", "unknown": "◆", "error": "▲"}

FACTS = (
    "part_id lot source product score threshold p_value state seq deployment name judged_at model sha256 error".split()
)


def page(request: Request, web: Web, template: str, who: Asking, /, *, status: int = 200, **values: Any) -> Response:
    """A template, filled."""
    token = auth.form_token(web.place, who.session) if who is not None and who.session else ""
    common = {"site": web.config.site, "line": web.config.line, "who": who, "form_token": token}
    return TEMPLATES.TemplateResponse(request, f"{template}.html", {**common, **values}, status_code=status)


@router.get("/")
def live(request: Request, web: Here, who: Asking) -> Response:
    """What happens now."""
    return page(request, web, "live", who) if who is not None else RedirectResponse("/login", 303)


@router.get("/inspections/{id}")
def inspection(request: Request, web: Here, who: Asking, id: Id) -> Response:
    """One part."""
    if who is None:
        return RedirectResponse("/login", 303)
    row = found(web, id)
    if row is None:
        raise Problem(404, f"there is no inspection {id}")
    word, sign = WORDS[row["verdict"]], SIGNS[row["verdict"]]
    facts = [(name.replace("_", " "), row[name]) for name in FACTS]
    return page(request, web, "inspection", who, row=row, word=word, sign=sign, facts=facts)


@router.get("/login")
def log_in_page(request: Request, web: Here, who: Asking) -> Response:
    """Name and password."""
    return page(request, web, "login", who)


@router.post("/login")
def log_in(
    request: Request,
    web: Here,
    who: Asking,
    ip: Address,
    name: Annotated[Name, Form()],
    password: Annotated[Password, Form()],
) -> Response:
    """Open a session."""
    try:
        text, _ = auth.log_in(web.ledger, name, password, ip)
    except BlemishError as error:
        return page(request, web, "login", None, status=of_error(error).status_code, error=str(error), name=name)
    if who is not None and who.session is not None:
        auth.log_out(web.ledger, who)
    response = RedirectResponse("/", 303)
    give_session(web, response, text)
    return response


@router.post("/logout")
def log_out(web: Here, who: Asking, form_token: Annotated[str, Form(max_length=100)]) -> Response:
    """End it."""
    if who is not None and who.session is not None:
        if form_token != auth.form_token(web.place, who.session):
            raise Problem(403, "this form is not of your session", "load the page again")
        auth.log_out(web.ledger, who)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response


def no_admin(web: Here) -> None:
    """404 once the station has an administrator."""
    if auth.has_admin(web.ledger):
        raise Problem(404, "this station has an administrator", "log in")


@router.get("/first", dependencies=[Depends(no_admin)])
def first_page(request: Request, web: Here, code: str = "") -> Response:
    """The form for the first administrator."""
    return page(request, web, "first", None, code=code)


@router.post("/first", dependencies=[Depends(no_admin)])
def first(
    request: Request,
    web: Here,
    ip: Address,
    code: Annotated[str, Form(max_length=100)],
    name: Annotated[Name, Form()],
    password: Annotated[Password, Form()],
) -> Response:
    """Make the first administrator, by the code that the station shows where it is started."""
    try:
        auth.make_first(web.place, web.ledger, code, name, password, ip)
    except BlemishError as error:
        status = of_error(error).status_code
        return page(request, web, "first", None, status=status, error=str(error), code=code, name=name)
    return RedirectResponse("/login", 303)

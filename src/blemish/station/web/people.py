"""Who may use the station: log-in, users, and tokens of machines."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from pydantic import Field, StringConstraints
from sqlalchemy import Connection, delete, func, select, update

from blemish.station import audit, auth
from blemish.station.auth import Identity
from blemish.station.ids import now_ms
from blemish.station.ledger.schema import sessions, tokens, users
from blemish.station.place import digest
from blemish.station.reading import iso, milliseconds
from blemish.station.web.changing import Body, IfMatch, RowId, name_is_free, row_of
from blemish.station.web.problems import Problem
from blemish.station.web.state import COOKIE, Address, Asking, Here, Name, Web, etag, needs, shown, unchanged

router = APIRouter()

Password = Annotated[str, StringConstraints(max_length=1000)]
Role = Literal["viewer", "inspector", "engineer", "maintenance", "auditor", "admin"]
Admin = Annotated[Identity, Depends(needs("users"))]


class LogIn(Body):
    """Name and password."""

    name: Name
    password: Password


def give_session(web: Web, response: Response, text: str) -> None:
    """The cookie of a new session."""
    secure = web.config.web.certificate is not None
    response.set_cookie(COOKIE, text, httponly=True, samesite="strict", secure=secure, path="/")


@router.post("/session", tags=["session"], status_code=201)
def log_in(web: Here, body: LogIn, who: Asking, ip: Address) -> Any:
    """Open a session; one that the browser had before ends."""
    text, new = auth.log_in(web.ledger, body.name, body.password, ip)
    if who is not None and who.session is not None:
        auth.log_out(web.ledger, who)
    answer = JSONResponse({"name": new.name, "role": new.role, "rights": sorted(new.rights)}, 201)
    give_session(web, answer, text)
    return answer


@router.get("/session", tags=["session"])
def get_session(who: Annotated[Identity, Depends(needs("read"))]) -> Any:
    """Who asks."""
    return JSONResponse({"name": who.name, "role": who.role, "rights": sorted(who.rights)})


@router.delete("/session", tags=["session"], status_code=204)
def log_out(web: Here, who: Asking) -> Response:
    """End it."""
    if who is not None and who.session is not None:
        auth.log_out(web.ledger, who)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response


class NewPassword(Body):
    """The old one, and the new."""

    old: Password
    new: Password


@router.put("/session/password", tags=["session"], status_code=204)
def change_password(web: Here, body: NewPassword, who: Annotated[Identity, Depends(needs("read"))]) -> Response:
    """One's own; all other sessions of the user end."""
    if who.user_id is None:
        raise Problem(403, "a machine has no password")
    text, _ = auth.log_in(web.ledger, who.name, body.old, who.ip)
    with web.ledger.write() as connection:
        values = {"password_hash": auth.hashed(body.new), "version": users.c.version + 1}
        connection.execute(update(users).where(users.c.id == who.user_id).values(**values))
        mine = (sessions.c.user_id == who.user_id) & (sessions.c.sha256 != digest(text.encode()))
        connection.execute(delete(sessions).where(mine))
        audit.append(connection, who.actor, "user.password", who.name)
    response = Response(status_code=204)
    give_session(web, response, text)
    return response


class NewUser(Body):
    """A user."""

    name: Name
    role: Role
    password: Password


class UserChange(Body):
    """What an administrator changes of a user."""

    role: Role
    active: bool = True
    locale: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[A-Za-z]{2,4})?$")] = "en"
    password: Password | None = None


def user_view(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("id", "name", "role", "locale", "active", "version")}


@router.get("/users", tags=["users"])
def list_users(web: Here, _: Admin) -> Any:
    """All of them."""
    with web.ledger.read() as connection:
        rows = [user_view(row) for row in connection.execute(select(users).order_by(users.c.id))]
    return JSONResponse({"users": [{**row, "etag": etag(row)} for row in rows]})


@router.get("/users/{id}", tags=["users"])
def get_user(web: Here, id: RowId, _: Admin) -> Any:
    """One of them."""
    with web.ledger.read() as connection:
        return shown(user_view(row_of(connection, users, id)))


@router.post("/users", tags=["users"], status_code=201)
def add_user(web: Here, body: NewUser, who: Admin) -> Any:
    """Add one."""
    with web.ledger.write() as connection:
        name_is_free(connection, users, body.name)
        number = auth.add_user(connection, who.actor, body.name, body.role, body.password)
        return shown(user_view(row_of(connection, users, number)), 201)


@router.put("/users/{id}", tags=["users"])
def change_user(web: Here, id: RowId, body: UserChange, who: Admin, if_match: IfMatch = None) -> Any:
    """Role, language, password, or whether the user may log in; all sessions of the user end."""
    with web.ledger.write() as connection:
        row = row_of(connection, users, id)
        before = user_view(row)
        unchanged(before, if_match)
        values: dict[str, Any] = {"role": body.role, "active": body.active, "locale": body.locale}
        if body.password is not None:
            values |= {"password_hash": auth.hashed(body.password), "failed": 0, "locked_until": 0}
        connection.execute(update(users).where(users.c.id == id).values(**values, version=row.version + 1))
        _someone_is_left(connection)
        connection.execute(delete(sessions).where(sessions.c.user_id == id))
        after = user_view(row_of(connection, users, id))
        changed = {**after, "password": "new"} if body.password is not None else after
        audit.append(connection, who.actor, "user.change", row.name, before=before, after=changed)
    return shown(after)


def _someone_is_left(connection: Connection) -> None:
    admins = select(func.count()).select_from(users).where(users.c.role == "admin", users.c.active)
    if not connection.scalar(admins):
        raise Problem(409, "nobody would be left who administers the station", "make another administrator first")


class NewToken(Body):
    """A machine's token."""

    name: Name
    scopes: list[Literal["send", "read", "admin"]] = Field(min_length=1, max_length=3)
    expires_at: datetime | None = None


def _token(row: Any) -> dict[str, Any]:
    times = {name: iso(getattr(row, name)) for name in ("expires_at", "revoked_at")}
    return {"id": row.id, "name": row.name, "scopes": row.scopes.split(), **times}


@router.get("/tokens", tags=["tokens"])
def list_tokens(web: Here, _: Admin) -> Any:
    """All of them, without their texts, which are kept nowhere."""
    with web.ledger.read() as connection:
        rows = [_token(row) for row in connection.execute(select(tokens).order_by(tokens.c.id))]
    return JSONResponse({"tokens": [{**row, "etag": etag(row)} for row in rows]})


@router.get("/tokens/{id}", tags=["tokens"])
def get_token(web: Here, id: RowId, _: Admin) -> Any:
    """One of them."""
    with web.ledger.read() as connection:
        return shown(_token(row_of(connection, tokens, id)))


@router.post("/tokens", tags=["tokens"], status_code=201)
def add_token(web: Here, body: NewToken, who: Admin) -> Any:
    """Make one; its text is in this answer alone."""
    with web.ledger.write() as connection:
        name_is_free(connection, tokens, body.name)
        ends = None if body.expires_at is None else milliseconds(body.expires_at)
        number, text = auth.add_token(connection, who.actor, body.name, [*body.scopes], ends)
        made = _token(row_of(connection, tokens, number))
    return JSONResponse({**made, "token": text}, 201, {"ETag": etag(made)})


@router.delete("/tokens/{id}", tags=["tokens"], status_code=204)
def revoke_token(web: Here, id: RowId, who: Admin, if_match: IfMatch = None) -> Response:
    """It is worth nothing from now on."""
    with web.ledger.write() as connection:
        before = _token(row_of(connection, tokens, id))
        unchanged(before, if_match)
        if before["revoked_at"] is None:
            connection.execute(update(tokens).where(tokens.c.id == id).values(revoked_at=now_ms()))
            audit.append(connection, who.actor, "token.revoke", before["name"], before=before)
    return Response(status_code=204)

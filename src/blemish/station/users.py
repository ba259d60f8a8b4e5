"""People and machines that may do something: users with a role, tokens with scopes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

from argon2 import PasswordHasher
from sqlalchemy import Connection, insert, select, update

from blemish.errors import ConfigError
from blemish.station import audit
from blemish.station.audit import Actor
from blemish.station.ledger.schema import sessions, tokens, users

ROLES = ("viewer", "inspector", "engineer", "maintenance", "auditor", "admin")
SCOPES = ("send", "read", "admin")
LEAST = 8  # characters of a password


def add_user(connection: Connection, actor: Actor, name: str, role: str, password: str) -> int:
    """A new user; the number. ConfigError for a name that is taken, an unknown role or too short a password."""
    if role not in ROLES:
        raise ConfigError(f"there is no role '{role}'", hint=f"one of {', '.join(ROLES)}")
    if not name.strip() or len(name) > 200:
        raise ConfigError("a user's name has 1 to 200 characters")
    if len(password) < LEAST:
        raise ConfigError(f"a password has at least {LEAST} characters")
    if connection.scalar(select(users.c.id).where(users.c.name == name)) is not None:
        raise ConfigError(f"there is a user '{name}' already", hint="give another name")
    values = {"name": name, "role": role, "password_hash": PasswordHasher().hash(password)}
    key = connection.execute(insert(users).values(**values)).inserted_primary_key
    audit.append(connection, actor, "user.add", name, after={"role": role})
    assert key is not None
    return int(key[0])


def disable_user(connection: Connection, actor: Actor, name: str) -> None:
    """Nobody can log in by that name any more, and who is logged in is logged out. ConfigError where there is none."""
    user = connection.execute(select(users).where(users.c.name == name)).first()
    if user is None:
        raise ConfigError(f"there is no user '{name}'", hint="blemish station user list names them")
    connection.execute(sessions.delete().where(sessions.c.user_id == user.id))
    changed = update(users).where(users.c.id == user.id)
    connection.execute(changed.values(active=False, version=users.c.version + 1))
    audit.append(connection, actor, "user.disable", name, before={"active": user.active}, after={"active": False})


def listed(connection: Connection) -> list[dict[str, Any]]:
    """All users, without what is secret."""
    columns = (users.c.name, users.c.role, users.c.active, users.c.failed, users.c.locked_until)
    return [dict(row) for row in connection.execute(select(*columns).order_by(users.c.id)).mappings()]


def has_admin(connection: Connection) -> bool:
    """Whether somebody can change users."""
    asked = select(users.c.id).where(users.c.role == "admin", users.c.active)
    return connection.scalar(asked.limit(1)) is not None


def add_token(connection: Connection, actor: Actor, name: str, scopes: Sequence[str]) -> str:
    """A new token of a machine, which is told now and never again. ConfigError for a taken name, unknown scopes."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ConfigError(f"there is no scope '{' '.join(unknown)}'", hint=f"of {', '.join(SCOPES)}")
    if connection.scalar(select(tokens.c.id).where(tokens.c.name == name)) is not None:
        raise ConfigError(f"there is a token '{name}' already", hint="give another name")
    token = secrets.token_urlsafe(32)
    said = " ".join(scope for scope in SCOPES if scope in scopes)
    connection.execute(insert(tokens).values(name=name, sha256=hashlib.sha256(token.encode()).hexdigest(), scopes=said))
    audit.append(connection, actor, "token.add", name, after={"scopes": said})
    return token

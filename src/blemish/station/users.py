"""What an administrator does with users beside adding them, which is in `auth`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, select, update

from blemish.errors import ConfigError
from blemish.station import audit
from blemish.station.ledger.schema import sessions, users


def disable_user(connection: Connection, actor: audit.Actor, name: str) -> None:
    """Nobody can log in by that name any more, and who is logged in is logged out. ConfigError where there is none."""
    user = connection.execute(select(users).where(users.c.name == name)).first()
    if user is None:
        raise ConfigError(f"there is no user '{name}'", hint="blemish station user list names them")
    connection.execute(delete(sessions).where(sessions.c.user_id == user.id))
    changed = update(users).where(users.c.id == user.id)
    connection.execute(changed.values(active=False, version=users.c.version + 1))
    audit.append(connection, actor, "user.disable", name, before={"active": user.active}, after={"active": False})


def listed(connection: Connection) -> list[dict[str, Any]]:
    """All users, without what is secret."""
    columns = (users.c.name, users.c.role, users.c.active, users.c.failed, users.c.locked_until)
    return [dict(row) for row in connection.execute(select(*columns).order_by(users.c.id)).mappings()]

"""Who may do what: people with a password and a session, machines with a token.

Passwords are kept as argon2id hashes, sessions and tokens as sha256; five wrong passwords lock an account, for longer
with each further one.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import threading
from dataclasses import dataclass
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, delete, func, insert, select, update

from blemish.errors import BlemishError, ConfigError
from blemish.station import audit
from blemish.station.ids import now_ms
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import sessions, tokens, users
from blemish.station.place import Place, digest

READ = frozenset({"read"})
INSPECT = READ | {"judge", "alarms", "lots"}
ENGINEER = INSPECT | {"products", "models", "deploy", "export"}
MAINTAIN = READ | {"alarms", "sources", "sinks", "settings", "export"}
AUDIT = READ | {"audit", "export"}
EVERYTHING = ENGINEER | MAINTAIN | AUDIT | {"send", "users"}
ROLES = {
    "viewer": READ,
    "inspector": INSPECT,
    "engineer": ENGINEER,
    "maintenance": MAINTAIN,
    "auditor": AUDIT,
    "admin": EVERYTHING,
}
SCOPES = {"send": frozenset({"send"}), "read": READ, "admin": EVERYTHING}  # of tokens
SHORTEST = 10  # characters of a password
TRIES = 5  # wrong passwords in a row, after which an account is locked
LOCK_S = (30, 3600)  # the first lock, and the longest; it doubles
IDLE_S = {"inspector": 8 * 3600}
IDLE_OTHERS_S = 1800
DAY_S = 24 * 3600  # the longest session
_HASHER = PasswordHasher()
_NOBODY = _HASHER.hash(secrets.token_hex())  # as long a check for a name that does not exist
_TRYING = threading.Lock()  # one password at a time: tries cannot overtake their counter, nor fill the memory


class Refused(BlemishError):
    """A name, password, session or token that is not known; locked for so many seconds, where it says so."""

    def __init__(self, message: str, *, seconds: int = 0) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True)
class Identity:
    """Who asks."""

    name: str
    role: str
    rights: frozenset[str]
    ip: str = ""
    user_id: int | None = None
    session: str | None = None  # its sha256

    @property
    def actor(self) -> audit.Actor:
        return audit.Actor(self.name, self.role, self.ip)


def hashed(password: str) -> str:
    """ConfigError where it is too short to withstand guessing."""
    if len(password) < SHORTEST:
        raise ConfigError(f"a password has {SHORTEST} characters or more")
    return _HASHER.hash(password)


def _matches(kept: str, password: str) -> bool:
    try:
        return _HASHER.verify(kept, password)
    except (VerificationError, InvalidHashError):
        return False


def add_user(connection: Connection, actor: audit.Actor, name: str, role: str, password: str) -> int:
    """A new user's number, audited. ConfigError where the role is unknown, the name taken, or the password short."""
    if role not in ROLES:
        raise ConfigError(f"there is no role '{role}'", hint=f"one of {', '.join(ROLES)}")
    if connection.scalar(select(users.c.id).where(users.c.name == name)) is not None:
        raise ConfigError(f"there is a user '{name}' already")
    key = connection.execute(insert(users).values(name=name, role=role, password_hash=hashed(password)))
    audit.append(connection, actor, "user.add", name, after={"name": name, "role": role})
    assert key.inserted_primary_key is not None
    return int(key.inserted_primary_key[0])


def add_token(
    connection: Connection, actor: audit.Actor, name: str, scopes: list[str], expires_at: int | None = None
) -> tuple[int, str]:
    """A new machine token's number and its text, which is kept nowhere; audited."""
    if not scopes or not set(scopes) <= SCOPES.keys():
        raise ConfigError("a token has scopes", hint=f"of {', '.join(SCOPES)}")
    if connection.scalar(select(tokens.c.id).where(tokens.c.name == name)) is not None:
        raise ConfigError(f"there is a token '{name}' already")
    text = secrets.token_urlsafe(32)
    values = {"name": name, "scopes": " ".join(sorted(set(scopes))), "expires_at": expires_at}
    key = connection.execute(insert(tokens).values(**values, sha256=digest(text.encode())))
    audit.append(connection, actor, "token.add", name, after=values)
    assert key.inserted_primary_key is not None
    return int(key.inserted_primary_key[0]), text


def log_in(ledger: Ledger, name: str, password: str, ip: str = "") -> tuple[str, Identity]:
    """A new session's text, and who it belongs to. Refused where name and password are not known, or locked."""
    return _opened(ledger, _proven(ledger, name, password, ip), now_ms(), ip)


def sign(ledger: Ledger, who: Identity, password: str | None) -> None:
    """Whoever decides gives the password once more; a machine has signed by its token. Refused where it is wrong."""
    if who.user_id is not None:
        if not password:
            raise Refused("a signature needs your password")
        _proven(ledger, who.name, password, who.ip)


def _proven(ledger: Ledger, name: str, password: str, ip: str) -> Any:
    """The row of a user whose password it is. Refused."""
    if not _TRYING.acquire(timeout=0.5):
        raise Refused("too many log in at the same time", seconds=1)
    try:
        now = now_ms()
        with ledger.read() as connection:
            row = connection.execute(select(users).where(users.c.name == name)).first()
        if row is not None and row.locked_until > now:
            seconds = -(-(row.locked_until - now) // 1000)
            raise Refused(f"locked for {seconds} s after too many tries", seconds=seconds)
        right = _matches(row.password_hash if row is not None else _NOBODY, password)
        if row is None or not right or not row.active:
            if row is not None and not right:
                _failed(ledger, row, now, ip)
            raise Refused("name or password is wrong")
        return row
    finally:
        _TRYING.release()


def _failed(ledger: Ledger, row: Any, now: int, ip: str) -> None:
    failed = row.failed + 1
    seconds = min(LOCK_S[0] << min(failed - TRIES, 20), LOCK_S[1]) if failed >= TRIES else 0
    with ledger.write() as connection:
        values = {"failed": failed, "locked_until": now + 1000 * seconds if seconds else 0}
        connection.execute(update(users).where(users.c.id == row.id).values(**values))
        if seconds:
            audit.append(connection, audit.Actor(row.name, row.role, ip), "user.locked", row.name, after=values)


def _opened(ledger: Ledger, row: Any, now: int, ip: str) -> tuple[str, Identity]:
    text = secrets.token_urlsafe(32)  # 256 bits
    who = Identity(row.name, row.role, ROLES.get(row.role, READ), ip, row.id, digest(text.encode()))
    with ledger.write() as connection:
        connection.execute(update(users).where(users.c.id == row.id).values(failed=0, locked_until=0))
        connection.execute(delete(sessions).where(sessions.c.expires_at < now))
        connection.execute(
            insert(sessions).values(
                sha256=who.session, user_id=row.id, used_at=now, expires_at=now + 1000 * max(DAY_S, idle_of(row.role))
            )
        )
        audit.append(connection, who.actor, "session.open", row.name)
    return text, who


def idle_of(role: str) -> int:
    """Seconds after which an unused session ends."""
    return IDLE_S.get(role, IDLE_OTHERS_S)


def by_session(ledger: Ledger, text: str, ip: str = "") -> Identity | None:
    """Whose session it is; None where it has ended."""
    now, sha256 = now_ms(), digest(text.encode())
    with ledger.read() as connection:
        row = connection.execute(
            select(users.c.id, users.c.name, users.c.role, sessions.c.used_at)
            .join(users, users.c.id == sessions.c.user_id)
            .where(sessions.c.sha256 == sha256, users.c.active, sessions.c.expires_at > now)
        ).first()
    if row is None or now - row.used_at > 1000 * idle_of(row.role):
        return None
    if now - row.used_at > 60_000:
        with ledger.write() as connection:
            connection.execute(update(sessions).where(sessions.c.sha256 == sha256).values(used_at=now))
    return Identity(row.name, row.role, ROLES.get(row.role, READ), ip, row.id, sha256)


def by_token(ledger: Ledger, text: str, ip: str = "") -> Identity | None:
    """Whose machine token it is; None where it is unknown, revoked, or out of date."""
    with ledger.read() as connection:
        row = connection.execute(select(tokens).where(tokens.c.sha256 == digest(text.encode()))).first()
    if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at < now_ms()):
        return None
    rights = frozenset[str]().union(*(SCOPES.get(scope, frozenset()) for scope in row.scopes.split()))
    return Identity(f"token:{row.name}", "machine", rights, ip)


def log_out(ledger: Ledger, who: Identity) -> None:
    """End a session."""
    with ledger.write() as connection:
        connection.execute(delete(sessions).where(sessions.c.sha256 == who.session))
        audit.append(connection, who.actor, "session.close", who.name)


def form_token(place: Place, session: str) -> str:
    """What a form of a page sends back: only pages of that session know it."""
    return hmac.new(place.secret.read_bytes(), f"form {session}".encode(), "sha256").hexdigest()


def has_admin(ledger: Ledger) -> bool:
    """Whether anybody can administer the station."""
    with ledger.read() as connection:
        return bool(connection.scalar(select(func.count()).select_from(users).where(users.c.role == "admin")))


def first_code(place: Place, ledger: Ledger) -> str | None:
    """What a new station asks from whoever makes its first administrator, shown where it is started; None once there
    is one, from when on it is worth nothing."""
    if has_admin(ledger):
        return None
    return hmac.new(place.secret.read_bytes(), b"the first administrator", "sha256").hexdigest()[:40]


def make_first(place: Place, ledger: Ledger, code: str, name: str, password: str, ip: str = "") -> None:
    """The first administrator, by the code that was shown. Refused where it is wrong or was used."""
    expected = first_code(place, ledger)
    if expected is None or not hmac.compare_digest(expected.encode(), code.encode()):
        raise Refused("the code is wrong, or was used already")
    with ledger.write() as connection:
        if connection.scalar(select(func.count()).select_from(users).where(users.c.role == "admin")):
            raise Refused("the code was used already")
        add_user(connection, audit.Actor(name, "admin", ip), name, "admin", password)


def check_bind(ledger: Ledger, host: str) -> None:
    """ConfigError where a station would be reached from other machines before anybody administers it."""
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    if not own and not has_admin(ledger):
        raise ConfigError(
            f"{host} is reached from other machines, and this station has no administrator",
            hint="start it on 127.0.0.1 first and open the address that it shows, or: blemish station user add",
        )

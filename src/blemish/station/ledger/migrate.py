"""The ledger's schema, brought up to date step by step (Alembic); the same steps for both databases."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config as Alembic
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine

from blemish.errors import ConfigError
from blemish.station.ledger.database import APPLICATION

HERE = Path(__file__).parent / "migrations"


def _steps() -> Alembic:
    steps = Alembic()
    steps.set_main_option("script_location", str(HERE).replace("%", "%%"))
    return steps


def upgrade(url: str) -> None:
    """Make the tables, or bring older ones up to date. ConfigError where a newer version has made them."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({APPLICATION})")  # one process makes them
            steps = _steps()
            now = MigrationContext.configure(connection).get_current_revision()
            known = {script.revision for script in ScriptDirectory.from_config(steps).walk_revisions()}
            if now is not None and now not in known:
                message = f"the ledger was made by a newer version (step {now})"
                raise ConfigError(message, hint="install that version of blemish")
            steps.attributes["connection"] = connection
            command.upgrade(steps, "head")
    finally:
        engine.dispose()


def pending(engine: Engine) -> bool:
    """Whether the tables are older than this version."""
    with engine.connect() as connection:
        now = MigrationContext.configure(connection).get_current_revision()
    return now != ScriptDirectory.from_config(_steps()).get_current_head()

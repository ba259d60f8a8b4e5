"""Run by Alembic on the connection that `migrate.upgrade` hands over; imported otherwise it does nothing."""

from __future__ import annotations

from alembic import context

from blemish.station.ledger.schema import metadata

config = getattr(context, "config", None)  # is there while Alembic runs
if config is not None:
    context.configure(connection=config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()

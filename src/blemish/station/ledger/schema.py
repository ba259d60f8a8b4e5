"""Tables. Times are whole milliseconds since 1970, UTC; JSON is text, so that both databases hold the same bytes."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
)

metadata = MetaData()

# SQLite counts rows up only in an INTEGER primary key
Sequence = BigInteger().with_variant(Integer, "sqlite")


def _seq() -> Column[int]:
    return Column("seq", Sequence, primary_key=True, autoincrement=True)


def _id() -> Column[int]:
    return Column("id", Sequence, primary_key=True, autoincrement=True)


products = Table(
    "products",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("config", Text, nullable=False, default="{}"),  # defect types, retention, sampling
    Column("version", Integer, nullable=False, default=1),
    sqlite_autoincrement=True,
)

sources = Table(
    "sources",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("kind", String(20), nullable=False),  # folder, http
    Column("config", Text, nullable=False, default="{}"),
    Column("product_id", ForeignKey("products.id")),
    Column("active", Boolean, nullable=False, default=True),
    Column("version", Integer, nullable=False, default=1),
    sqlite_autoincrement=True,
)

lots = Table(
    "lots",
    metadata,
    _id(),
    Column("name", String(200), nullable=False),
    Column("source_id", ForeignKey("sources.id"), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    sqlite_autoincrement=True,
)

models = Table(
    "models",
    metadata,
    _id(),
    Column("digest", String(64), nullable=False, unique=True),
    Column("name", String(200), nullable=False),
    Column("method", String(100), nullable=False),
    Column("promise", Text),
    Column("alpha", Float),
    Column("confidence", Float),
    Column("calibrated_on", Integer),
    Column("parent_id", ForeignKey("models.id")),
    Column("status", String(20), nullable=False, default="candidate"),  # approved, retired
    Column("golden", Text, nullable=False, default="[]"),  # [{picture, score}] of the machine that made it
    Column("added_at", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

deployments = Table(
    "deployments",
    metadata,
    _id(),
    Column("source_id", ForeignKey("sources.id"), nullable=False),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger),
    Column("approved_by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Index("ix_deployments_source", "source_id", "until"),
    sqlite_autoincrement=True,
)

inspections = Table(
    "inspections",
    metadata,
    _seq(),
    Column("id", String(36), nullable=False, unique=True),
    Column("source_id", ForeignKey("sources.id"), nullable=False),
    Column("claim", BigInteger, nullable=False),  # the number of the claim, counted by source: a gap is a loss
    Column("source_key", String(400)),  # Idempotency-Key, or path, size and time on a share that nothing is moved from
    Column("name", Text),  # as the file was called
    Column("at", BigInteger, nullable=False),  # claimed
    Column("judged_at", BigInteger),
    Column("lot_id", ForeignKey("lots.id")),
    Column("part_id", String(200)),
    Column("product_id", ForeignKey("products.id")),
    Column("deployment_id", ForeignKey("deployments.id")),
    Column("state", String(12), nullable=False),  # judged, unreadable, failed, repeat
    Column("verdict", String(12), nullable=False),  # good, anomalous, unknown, error
    Column("repeats", ForeignKey("inspections.seq")),  # the inspection that this one is a repeat of
    Column("score", Float),
    Column("p_value", Float),
    Column("threshold", Float),
    Column("result", Text, nullable=False),  # the line of `blemish inspect`, as JSON
    Column("width", Integer),
    Column("height", Integer),
    Column("bytes", BigInteger, nullable=False),
    Column("suffix", String(8), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("brightness", Float),
    Column("contrast", Float),
    Column("focus", Float),
    Column("colour", Float),
    Column("shift_x", Float),  # of the part from where it lies in good pictures, pixels; none where it isn't located
    Column("shift_y", Float),
    Column("ms_wait", Float),
    Column("ms_infer", Float),
    Column("ms_total", Float),
    Column("drawn", Boolean, nullable=False, default=False),
    Column("draw_prob", Float, nullable=False, default=0.0),
    Column("hold", Boolean, nullable=False, default=False),  # never purged
    Column("purged_at", BigInteger),  # since when its picture is not kept; at once for a repeat
    Column("error", Text),
    UniqueConstraint("source_id", "claim", name="uq_inspections_claim"),
    UniqueConstraint("source_id", "source_key", name="uq_inspections_key"),
    Index("ix_inspections_judged_at", "judged_at"),
    Index("ix_inspections_lot", "lot_id"),
    Index("ix_inspections_part", "part_id"),
    Index("ix_inspections_sha256", "sha256"),
    Index("ix_inspections_deployment", "deployment_id", "seq"),
    sqlite_autoincrement=True,
)
Index(
    "ix_inspections_bad",
    inspections.c.verdict,
    inspections.c.judged_at,
    sqlite_where=inspections.c.verdict != "good",
    postgresql_where=inspections.c.verdict != "good",
)
Index(  # of the pictures that are kept
    "ix_inspections_kept",
    inspections.c.drawn,
    inspections.c.verdict,
    inspections.c.judged_at,
    sqlite_where=inspections.c.purged_at.is_(None),
    postgresql_where=inspections.c.purged_at.is_(None),
)
Index(
    "ix_inspections_repeats",
    inspections.c.repeats,
    sqlite_where=inspections.c.repeats.is_not(None),
    postgresql_where=inspections.c.repeats.is_not(None),
)

queue = Table(
    "queue",
    metadata,
    Column("seq", ForeignKey("inspections.seq"), primary_key=True),
    Column("lane", String(12), primary_key=True),  # reject, drawn, unknown, error, second
    Column("state", String(12), nullable=False, default="waiting"),
    Column("claimed_by", String(200)),
    Column("claimed_at", BigInteger),
    Column("claimed_in", String(12)),  # the lane that it was handed out in: mixed is one of its own
    Index("ix_queue_state", "state", "seq"),
)

reviews = Table(  # what people say; a later one supersedes an earlier one, nothing is changed
    "reviews",
    metadata,
    _id(),
    Column("seq", ForeignKey("inspections.seq"), nullable=False),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("lane", String(12), nullable=False),
    Column("truth", String(12), nullable=False),  # good, defect, unsure; withdrawn takes one back
    Column("type", String(60)),  # of the defect
    Column("comment", Text),
    Column("boxes", Text, nullable=False, default="[]"),  # [[x0, y0, x1, y1]], source pixels
    Column("ms_shown", Integer, nullable=False),
    Column("blind", Boolean, nullable=False),  # neither verdict nor map was in view
    Column("client_key", String(64), nullable=False, unique=True),
    Column("supersedes", ForeignKey("reviews.id"), unique=True),
    Index("ix_reviews_seq", "seq"),
    Index("ix_reviews_user", "user_id", "id"),
    sqlite_autoincrement=True,
)

blocks = Table(  # of accepted parts: what the drift test counts
    "blocks",
    metadata,
    Column("source_id", ForeignKey("sources.id"), primary_key=True),
    Column("product_id", Integer, primary_key=True),
    Column("monitor", String(20), primary_key=True),
    Column("epoch", Integer, primary_key=True),  # the deployment since which references are counted
    Column("number", Integer, primary_key=True),
    Column("from_seq", BigInteger, nullable=False),
    Column("to_seq", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("lot_id", ForeignKey("lots.id")),
    Column("n", Integer, nullable=False),
    Column("value", Float, nullable=False),
    Column("rank_p", Float, nullable=False),
    Column("evidence", Text, nullable=False),  # {bet: Shiryaev-Roberts sum}
    Index("ix_blocks_ended", "ended_at"),
)

changes = Table(  # the one door to what is live
    "changes",
    metadata,
    _id(),
    Column("kind", String(20), nullable=False),  # model, calibration, rollback
    Column("source_id", ForeignKey("sources.id"), nullable=False),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("before_id", ForeignKey("deployments.id")),
    Column("state", String(12), nullable=False, default="open"),  # shadow, approved, dropped
    Column("made_by", String(200), nullable=False),
    Column("made_at", BigInteger, nullable=False),
    Column("effect", Text, nullable=False, default="{}"),  # what it would have changed among past pictures
    Column("decided_by", String(200)),
    Column("decided_at", BigInteger),
    Column("reason", Text),
    Column("after_id", ForeignKey("deployments.id")),
    Index("ix_changes_state", "state", "id"),
    sqlite_autoincrement=True,
)

hourly = Table(
    "hourly",
    metadata,
    Column("source_id", Integer, primary_key=True),
    Column("product_id", Integer, primary_key=True),
    Column("deployment_id", Integer, primary_key=True),
    Column("hour", BigInteger, primary_key=True),
    *(Column(name, Integer, nullable=False, default=0) for name in ("good", "anomalous", "unknown", "error")),
    Column("scores", Text, nullable=False, default="[]"),  # histogram of score over threshold, 64 logarithmic bins
    *(Column(name, Float, nullable=False, default=0.0) for name in ("ms_sum", "ms_max", "brightness_sum", "focus_sum")),
    Index("ix_hourly_hour", "hour"),
)

sinks = Table(
    "sinks",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("kind", String(20), nullable=False),  # webhook, mqtt, file
    Column("config", Text, nullable=False, default="{}"),
    Column("active", Boolean, nullable=False, default=True),
    Column("version", Integer, nullable=False, default=1),
    sqlite_autoincrement=True,
)

outbox = Table(
    "outbox",
    metadata,
    _id(),
    Column("sink_id", ForeignKey("sinks.id"), nullable=False),
    Column("seq", BigInteger),  # of the inspection; none for other messages
    Column("payload", Text, nullable=False),
    Column("at", BigInteger, nullable=False),  # since when it waits
    Column("tries", Integer, nullable=False, default=0),
    Column("done_at", BigInteger),
    Column("failed_at", BigInteger),  # refused again and again: not sent any more, until somebody says so
    Column("last_error", Text),
    sqlite_autoincrement=True,
)
Index(
    "ix_outbox_waiting",
    outbox.c.sink_id,
    outbox.c.id,
    sqlite_where=and_(outbox.c.done_at.is_(None), outbox.c.failed_at.is_(None)),
    postgresql_where=and_(outbox.c.done_at.is_(None), outbox.c.failed_at.is_(None)),
)
Index(
    "ix_outbox_failed",
    outbox.c.sink_id,
    sqlite_where=outbox.c.failed_at.is_not(None),
    postgresql_where=outbox.c.failed_at.is_not(None),
)
Index("ix_outbox_done", outbox.c.done_at)

alarms = Table(
    "alarms",
    metadata,
    _id(),
    Column("kind", String(40), nullable=False),
    Column("level", String(8), nullable=False),  # amber, red
    Column("source_id", ForeignKey("sources.id")),
    Column("raised_at", BigInteger, nullable=False),
    Column("about_at", BigInteger),  # since when it has been so, probably
    Column("evidence", Float),
    Column("text", Text, nullable=False),
    Column("remedy", Text, nullable=False, default=""),
    Column("acked_by", String(200)),
    Column("acked_at", BigInteger),
    Column("note", Text),
    Column("cleared_at", BigInteger),
    Index("ix_alarms_open", "cleared_at"),
    sqlite_autoincrement=True,
)

users = Table(
    "users",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("role", String(20), nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("pin_hash", Text),
    Column("badge_sha256", String(64)),
    Column(
        "keys", Text, nullable=False, default="{}", server_default="{}"
    ),  # {action: key}, where they differ from the usual ones
    Column("locale", String(8), nullable=False, default="en"),
    Column("failed", Integer, nullable=False, default=0),
    Column("locked_until", BigInteger, nullable=False, default=0),
    Column("active", Boolean, nullable=False, default=True),
    Column("version", Integer, nullable=False, default=1),
    Index("ix_users_badge", "badge_sha256", unique=True),
    sqlite_autoincrement=True,
)

sessions = Table(
    "sessions",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("scopes", String(200), nullable=False),  # send read admin
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    _id(),
    Column("kind", String(20), nullable=False),  # fit, adapt, calibrate, power
    Column("args", Text, nullable=False),
    Column("state", String(12), nullable=False, default="waiting"),  # running, done, failed, stopped
    Column("by", String(200), nullable=False),
    Column("asked_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("progress", Float),
    Column("eta", Float),
    Column("result", Text),
    sqlite_autoincrement=True,
)

settings = Table(
    "settings",
    metadata,
    Column("key", String(100), primary_key=True),
    Column("value", Text, nullable=False),
    Column("version", Integer, nullable=False, default=1),
)

audit = Table(
    "audit",
    metadata,
    _seq(),
    Column("at", BigInteger, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("role", String(20), nullable=False),
    Column("ip", String(64), nullable=False, default=""),
    Column("action", String(60), nullable=False),
    Column("object", String(200), nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("reason", Text),
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    sqlite_autoincrement=True,
)

health = Table(  # what a process says of itself
    "health",
    metadata,
    Column("process", String(20), primary_key=True),  # worker, web
    Column("at", BigInteger, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("value", Text, nullable=False, default="{}"),
)

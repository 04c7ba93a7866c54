"""The tables of the notes, and the words for how far something is."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

VERSION: Final = 2
"""Of the tables below."""
SINCE_1: Final = (
    "ALTER TABLE pushes ADD COLUMN owner VARCHAR(160)",
    "ALTER TABLE pushes ADD COLUMN lease_until FLOAT",
)
"""What brings version 1 up to date."""

METADATA: Final = sa.MetaData()
META: Final = sa.Table(
    "meta", METADATA, sa.Column("name", sa.String(32), primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
BEGUN, UNSURE, FINISHED, FAILED = "begun", "unsure", "finished", "failed"
ACTIONS: Final = sa.Table(
    "actions",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("key", sa.String(200), unique=True),
    sa.Column("body", sa.String(64), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("reader", sa.String(64), nullable=False),
    sa.Column("params", sa.Text),
    sa.Column("chosen", sa.Text),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("owner", sa.String(160), nullable=False),
    sa.Column("lease_until", sa.Float, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
    sa.Column("finished_at", sa.Float),
)
sa.Index(
    "one_at_a_time",
    ACTIONS.c.reader,
    unique=True,
    sqlite_where=ACTIONS.c.state == BEGUN,
    postgresql_where=ACTIONS.c.state == BEGUN,
)
CODES: Final = sa.Table(
    "codes",
    METADATA,
    sa.Column("promotion_id", sa.String(64), primary_key=True),
    sa.Column("reader", sa.String(64), primary_key=True),
    sa.Column("code", sa.String(200), nullable=False),
    sa.Column("reserved_at", sa.Float, nullable=False),
    sa.UniqueConstraint("promotion_id", "code"),
)
PUSHES: Final = sa.Table(
    "pushes",
    METADATA,
    sa.Column("reader", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("wish", sa.Integer, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Column("problem", sa.Text),
    sa.Column("owner", sa.String(160)),
    sa.Column("lease_until", sa.Float),
)
"""Readers of whom Engage has to be told; with an owner while somebody is at it."""

WAITING, IGNORED, LEFT = "waiting", "ignored", "left"
EVENTS: Final = sa.Table(
    "events",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("event", sa.String(64)),
    sa.Column("aid", sa.String(64), nullable=False),
    sa.Column("reader", sa.String(64), index=True),
    sa.Column("user_id", sa.Text),
    sa.Column("subscription_id", sa.String(64)),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("word", sa.String(32)),
    sa.Column("received_at", sa.Float, nullable=False, index=True),
    sa.Column("last_at", sa.Float, nullable=False),
    sa.Column("worked_at", sa.Float),
    sa.Column("times", sa.Integer, nullable=False),
)
"""Webhooks that could be read: what is needed of them, never the payload, which holds addresses."""
QUARANTINE: Final = sa.Table(
    "quarantine",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("reason", sa.String(32), nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("data", sa.Text),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("last_at", sa.Float, nullable=False, index=True),
    sa.Column("times", sa.Integer, nullable=False),
)
"""Webhooks that could not be used, as they came: encrypted with Piano's private key."""
ERASED: Final = sa.Table(
    "erased",
    METADATA,
    sa.Column("reader", sa.String(64), primary_key=True),
    sa.Column("receipt", sa.Text, nullable=False),
)
"""Readers who were erased, and of whom nothing is kept or told any more."""


def upsert(dialect: sa.Dialect, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Begin an insert that may say what becomes of a row that is there; rows go in their order, so sort them.

    SQLAlchemy makes the SQL of such an insert anew each time, which takes longer than to run it: compile it once.
    """
    make = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    return make(table)

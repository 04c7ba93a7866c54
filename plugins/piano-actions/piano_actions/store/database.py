"""The database of the notes: SQLite or PostgreSQL, its tables, its version, and the salt that hides who readers are."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import uuid
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from piano_engage_common.stops import ConfigRefused, StorageFailed
from sqlalchemy.exc import SQLAlchemyError

from piano_actions.store.leases import me
from piano_actions.tables import META, METADATA, SINCE_1, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY_SECONDS: Final = 10
"""How long one waits for another process to let the file go."""

SILENT_SECONDS: Final = 10
"""So long a PostgreSQL that says nothing is waited for; else it would be for a quarter of an hour."""
_TABLES_LOCK: Final = 7_091_226
"""Of PostgreSQL, for processes that begin at the same time; a number nobody else uses."""


class Database:
    """Where notes are kept; used by many threads.

    Args:
        url: of SQLAlchemy, such as ``sqlite:///piano-actions.db`` or ``postgresql+psycopg://…``.

    Raises:
        ConfigRefused: the URL is none.
        StorageFailed: the database cannot be opened, or belongs to a newer version.
    """

    def __init__(self, url: str) -> None:
        """Open it, and make the tables where there are none."""
        try:
            # As many connections as threads ask for: none of them waits for another one's.
            self._engine = sa.create_engine(
                url, pool_pre_ping=not url.startswith("sqlite"), max_overflow=-1, connect_args=_patience(url)
            )
        except (SQLAlchemyError, ImportError) as e:
            msg = (
                "store_url: cannot be used. Write it like sqlite:///piano-actions.db or postgresql+psycopg://host/name."
            )
            raise ConfigRefused(msg) from e
        if self._engine.dialect.name == "sqlite":
            _prepare_sqlite(self._engine)
        self._writing = threading.RLock() if self._engine.dialect.name == "sqlite" else nullcontext()
        self.owner = f"{me()}/{uuid.uuid4().hex[:8]}"
        try:
            with self.transaction() as connection:
                version = _make_tables(connection)
                self._salt = bytes.fromhex(_meta(connection, "salt", secrets.token_hex(16)))
        except SQLAlchemyError as e:
            self._engine.dispose()
            msg = (
                f"store_url: the database cannot be opened: {str(e.__cause__ or e).splitlines()[0]}. "
                "Is its folder, or its server, there, and may this user write to it?"
            )
            raise StorageFailed(msg) from e
        if version != VERSION:
            self._engine.dispose()
            msg = f"store_url: the notes have version {version}, this program knows {VERSION}. Install the newer one."
            raise StorageFailed(msg)

    @property
    def engine(self) -> sa.Engine:
        """The database, for :class:`piano_actions.inbox.Inbox`."""
        return self._engine

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Give a connection whose transaction ends with the ``with`` block.

        SQLite has one writer at a time, and who waits for it looks again and again at growing distances, up to a tenth
        of a second. So threads of one process wait for each other here, and only other processes are waited for there.
        """
        with self._writing, self._engine.begin() as connection:
            yield connection

    def hash_of(self, user_id: str) -> str:
        """Name a reader without naming him."""
        return hmac.new(self._salt, user_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def answers(self) -> bool:
        """Ask the database for something.

        Raises:
            SQLAlchemyError: it does not answer.
        """
        with self.transaction() as connection:
            return bool(connection.execute(sa.select(META.c.value).where(META.c.name == "version")).scalar_one())

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _patience(url: str) -> dict[str, Any]:
    """Say how long a server is waited for that does not answer; what the URL says stands above it."""
    given = sa.make_url(url)
    if given.get_driver_name() != "psycopg":
        return {}
    mine = {
        "connect_timeout": SILENT_SECONDS, "keepalives_idle": SILENT_SECONDS, "keepalives_interval": 5,
        "keepalives_count": 3, "tcp_user_timeout": SILENT_SECONDS * 1000,
    }  # fmt: skip
    return {name: value for name, value in mine.items() if name not in given.query}


def _prepare_sqlite(engine: sa.Engine) -> None:
    """Have SQLite keep what it confirmed, and let processes wait for each other."""

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:  # noqa: ANN401 - of sqlite3
        connection.isolation_level = None  # transactions begin below, not where the driver thinks
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _make_tables(connection: sa.Connection) -> int:
    """Make the tables where there are none, bring older ones up to date, and give their version."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TABLES_LOCK)))
    METADATA.create_all(connection)
    version = int(_meta(connection, "version", str(VERSION)))
    if version == 1:
        for statement in SINCE_1:
            connection.execute(sa.text(statement))
        connection.execute(sa.update(META).where(META.c.name == "version").values(value=str(VERSION)))
        version = VERSION
    return version


def _meta(connection: sa.Connection, name: str, value: str) -> str:
    """Give a value that all processes share; the first one sets it."""
    query = sa.select(META.c.value).where(META.c.name == name)
    found = connection.execute(query).scalar_one_or_none()
    if found is None:
        connection.execute(META.insert().values(name=name, value=value))
    return str(value if found is None else found)

"""A DuckDB connection with bounded memory, and SQL text made safely from names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import duckdb

from piano_engage_common.engine import installed_complaint
from piano_engage_common.stops import ConfigRefused

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_MEMORY_LIMIT = "320MB"
"""DuckDB's own limit. With it a whole process stays below 600 MB; what does not fit is spilled to disk."""

MAX_THREADS = 4
"""More threads need more memory each and bring little: reading is bound by the disk soon."""


def connect(
    database: Path | None = None, *, spill: Path, memory_limit: str = DEFAULT_MEMORY_LIMIT
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB database that never fetches extensions, works in UTC and spills into *spill*.

    Args:
        database: the file, made when it does not exist; None for a database in memory.
        spill: folder for what does not fit in memory; made when something is spilled.
        memory_limit: DuckDB's ``memory_limit``, such as ``"320MB"``.

    Raises:
        ConfigRefused: the DuckDB that is installed must not be used.
        duckdb.IOException: the file is not a database, is locked by another process, or cannot be written.
    """
    if complaint := installed_complaint():
        raise ConfigRefused(complaint)
    connection = duckdb.connect(
        str(database) if database else ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": memory_limit,
            "temp_directory": str(spill),
            "threads": str(min(os.cpu_count() or 1, MAX_THREADS)),
            "async_threads": "0",  # a COPY that fails, of a full disk for one, may wait for these for ever
        },
    )
    connection.execute("SET enable_progress_bar = true")
    connection.execute("SET enable_progress_bar_print = false")
    return session(connection)


def session(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Make *connection* work in UTC; a cursor of one that does so does not, until it is asked to."""
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def name(identifier: str) -> str:
    """Quote *identifier* for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def text(value: str) -> str:
    """Quote *value* as an SQL string, for the places where DuckDB takes no parameter."""
    return "'" + value.replace("'", "''") + "'"

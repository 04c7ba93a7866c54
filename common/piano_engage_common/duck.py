"""A DuckDB connection with bounded memory, and SQL text made safely from names and file paths."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import duckdb

from piano_engage_common.engine import installed_complaint
from piano_engage_common.stops import ConfigRefused, InputRefused

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_MEMORY_LIMIT = "320MB"
"""DuckDB's own limit. With it a whole process stays below 600 MB; what does not fit is spilled to disk."""

_WILDCARDS = frozenset("*?[")

MAX_THREADS = 4
"""More threads need more memory each and bring little: reading is bound by the disk soon."""


def connect(
    database: Path | None = None,
    *,
    spill: Path | None = None,
    memory_limit: str = DEFAULT_MEMORY_LIMIT,
    read_only: bool = False,
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB database that never fetches extensions, works in UTC and spills into *spill*.

    Args:
        database: the file, made when it does not exist; None for a database in memory.
        spill: folder for what does not fit in memory, made when something is spilled; None to spill nothing.
        memory_limit: DuckDB's ``memory_limit``, such as ``"320MB"``.
        read_only: nothing is written; others may read at the same time.

    Raises:
        ConfigRefused: the DuckDB that is installed must not be used.
        duckdb.IOException: the file is not a database, is locked by another process, or cannot be written.
    """
    if complaint := installed_complaint():
        raise ConfigRefused(complaint)
    connection = duckdb.connect(
        str(database) if database else ":memory:",
        read_only=read_only,
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": memory_limit,
            "temp_directory": str(spill) if spill else "",
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


def file_source(path: Path) -> str:
    """Return the first arguments of ``read_csv``, ``read_parquet`` and ``read_json`` that read exactly the file *path*.

    DuckDB takes the name of a file to read for a pattern, and a folder ``user_id=7`` for a column. No other code may
    name a file to a reader.

    Raises:
        InputRefused: the path holds a wildcard and a backslash, which DuckDB cannot take as they are.
    """
    place = str(path.absolute())
    wild = not _WILDCARDS.isdisjoint(place)
    if wild and "\\" in place:
        msg = f"{place}: a path with a backslash and one of * ? [ in it cannot be read. Rename the file or folder."
        raise InputRefused(msg)
    pattern = "".join(f"[{character}]" if character in _WILDCARDS else character for character in place)
    return f"{text(pattern)}, hive_partitioning = false"


def file_target(path: Path) -> str:
    """Return the file *path* for ``COPY … TO`` and ``ATTACH``, which take it as it is; no other code may."""
    return text(str(path.absolute()))

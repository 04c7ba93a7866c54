"""A PostgreSQL of the tests' own: Debian's package, a folder that is thrown away, a socket in it, no port."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES: Final = Path("/usr/lib/postgresql")
NOBODY: Final = "postgres"
"""Who runs it where the tests run as root, which PostgreSQL refuses; the package makes him."""
FAST: Final = "fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses="


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server that runs.

    Attributes:
        folder: where its socket is.
    """

    folder: Path

    def database(self, of: object) -> str:
        """Give the URL of the database of something, such as a test's folder; it is made when first asked for."""
        name = "t" + hashlib.sha256(str(of).encode()).hexdigest()[:20]
        with psycopg.connect(host=str(self.folder), user=NOBODY, dbname="postgres", autocommit=True) as connection:
            there = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
            if not there:
                connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://{NOBODY}@/{name}?host={self.folder}"


def programs() -> Path | None:
    """Where Debian puts the programs; the newest version, if there is one."""
    found = sorted(PACKAGES.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def running() -> Iterator[Postgres]:
    """Run a server; skips the test where none is installed."""
    place = programs()
    if place is None:
        pytest.skip(f"no PostgreSQL in {PACKAGES}: apt install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # a short path, for its socket
    try:
        yield from _run(place, folder)
    finally:
        shutil.rmtree(folder)


def _run(place: Path, folder: Path) -> Iterator[Postgres]:
    other = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    if other:
        shutil.chown(folder, NOBODY, NOBODY)
    cluster = folder / "cluster"
    made = [place / "initdb", "-D", cluster, "-U", NOBODY, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(made, check=True, capture_output=True, cwd=folder, **other)  # type: ignore[call-overload]
    options = " ".join(f"-c {one}" for one in (*FAST, f"unix_socket_directories={folder}", "max_connections=200"))
    control = [place / "pg_ctl", "-D", cluster, "-w", "-l", folder / "log"]
    start = [*control, "-o", options, "start"]
    subprocess.run(start, check=True, capture_output=True, cwd=folder, **other)  # type: ignore[call-overload]
    try:
        yield Postgres(folder)
    finally:
        stop = [*control, "-m", "immediate", "stop"]
        subprocess.run(stop, check=True, capture_output=True, cwd=folder, **other)  # type: ignore[call-overload]

"""Meltano's system database in PostgreSQL, for folders on several machines: state and running jobs are those of all."""

from __future__ import annotations

import os
import subprocess
import time
import tomllib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
import pytest

from tests.actions import postgres
from tests.project.test_two_folders import MELTANO, ROOT, STATE_ID, export, linked, newest
from tests.target.conftest import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
PAIR = ("run", "--no-install", "tap-piano", "target-recurly-engage")


SLOW = pytest.mark.skipif(ROUNDS == 1, reason="takes a minute and more: make fault-test")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """An empty database, as `MELTANO_DATABASE_URI` names it."""
    with postgres.running() as server:
        yield server.database(tmp_path)


class Checkout:
    """A fresh folder with the project file; the database and the ledger are those of all folders."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self.ledger = linked(folder), folder.parent / "ledger.duckdb"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("MELTANO")} | {
            "MELTANO_ENVIRONMENT": "demo",
            "MELTANO_DATABASE_URI": database,
            "NO_COLOR": "1",
            "TAP_PIANO_REJECTS_PATH": str(folder / "rejects"),
            "TARGET_RECURLY_ENGAGE_LEDGER": str(self.ledger),
            "TARGET_RECURLY_ENGAGE_OUTPUT_PATH": str(folder / "ingest"),
            "TARGET_RECURLY_ENGAGE_RUNS_PATH": str(folder / "runs"),
        }

    def start(self, *command: str, **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [MELTANO, *command], cwd=self.folder, env=self.environment | settings, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def meltano(self, *command: str, **settings: str) -> tuple[int, str]:
        """Run Meltano; gives its code and what it said."""
        with self.start(*command, **settings) as process:
            said = process.communicate()[0]
        return process.returncode, said

    def run(self, path: Path) -> dict[str, Any]:
        code, said = self.meltano(*PAIR, TAP_PIANO_EXPORT_PATH=str(path))
        assert code == 0, said
        return newest(self.folder / "runs")


@contextmanager
def asking(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.replace("postgresql+psycopg", "postgresql")) as connection:
        yield connection


@SLOW
def test_the_state_of_one_folder_is_that_of_the_other(database: str, tmp_path: Path) -> None:
    first, second = (Checkout(tmp_path / name, database) for name in ("first", "second"))
    code, said = first.meltano("schedule", "list")  # makes the tables, so that two first runs may come at once
    assert code == 0, said
    with asking(database) as base:
        assert base.execute("SELECT count(*) FROM runs").fetchall() == [(0,)]
    days = [export(tmp_path / f"log-{changed}.csv", changed) for changed in (0, 2)]
    assert first.run(days[0])["rows"]["read"] == 30
    day_2 = second.run(days[1])  # a folder that knows nothing
    assert day_2["rows"]["read"] == 2 + 2, "by the bookmark of the first: what changed, and the last two before"
    assert (day_2["users"]["new"], day_2["users"]["changed"]) == (0, 2)
    with asking(database) as base:
        assert base.execute("SELECT state_id FROM state").fetchall() == [(STATE_ID,)]
        assert base.execute("SELECT job_name, state FROM runs").fetchall() == [(STATE_ID, "SUCCESS")] * 2
    assert list(tmp_path.rglob("meltano.db")) == []


@SLOW
def test_a_job_that_runs_in_one_folder_is_refused_in_the_other(database: str, tmp_path: Path) -> None:
    first, second = (Checkout(tmp_path / name, database) for name in ("first", "second"))
    log = export(tmp_path / "log.csv", 0)
    first.run(log)
    with duckdb.connect(str(first.ledger)):  # so the run of the first folder waits for it
        waits = {"TAP_PIANO_EXPORT_PATH": str(log), "TARGET_RECURLY_ENGAGE_LEDGER_WAIT": "120"}
        process = first.start(*PAIR, **waits)
        deadline = time.monotonic() + 60
        while running(database) == 0:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        code, said = second.meltano(*PAIR, TAP_PIANO_EXPORT_PATH=str(log))
        assert (code, "already running" in said) == (1, True), said
    said = process.communicate()[0]
    assert process.returncode == 0, said
    second.run(log)


def running(database: str) -> int:
    with asking(database) as base:
        return int(base.execute("SELECT count(*) FROM runs WHERE state = 'RUNNING'").fetchall()[0][0])


def test_what_meltano_needs_for_it_is_what_make_shared_brings() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (plain,) = [one for one in project["project"]["dependencies"] if one.startswith("meltano")]
    assert project["dependency-groups"]["shared"] == [plain.replace("meltano", "meltano[postgres,s3]")]
    assert "--group shared" in (ROOT / "Makefile").read_text(encoding="utf-8")

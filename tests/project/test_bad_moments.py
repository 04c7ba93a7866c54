"""Signals to Meltano and to its whole group while the target delivers to the sandbox; the next run makes it good."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import duckdb
import pytest
from piano_engage_sandbox.testing import serving

from tests.project.test_meltano import DAY_1, MELTANO, ROOT, Project, readers
from tests.target.conftest import PLACES, ROUNDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from piano_engage_sandbox.server import Server

LATENCY, SOME, ROWS = 0.05, 20, 600
WHOM = {"meltano": os.kill, "group": os.killpg}
MOMENTS = list(itertools.product(WHOM, (signal.SIGTERM, signal.SIGINT), ("ingest", "s3")))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(rows=5, s3_port=0, switches={"engage.csv_delay": 0}) as one:
        yield one


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """The first rows of the first day: enough that a signal comes long before the last request."""
    path = tmp_path / "export.csv"
    path.write_bytes(b"\n".join(DAY_1.read_bytes().split(b"\n")[: ROWS + 1]) + b"\n")
    return path


def environment(server: Server, delivery: str) -> dict[str, str]:
    lines = server.environment()
    names = [f"TARGET_RECURLY_ENGAGE_{name.upper()}" for name in PLACES]
    return {name: lines[name] for name in names} | {
        "TARGET_RECURLY_ENGAGE_DELIVERY": delivery,
        "TARGET_RECURLY_ENGAGE_REQUESTS_PER_SECOND": "0",
        "TARGET_RECURLY_ENGAGE_RETRY_WAIT": "0",
        "TARGET_RECURLY_ENGAGE_CSV_INGEST_HOURS": "0",
    }


def working(server: Server, project: Project, delivery: str) -> bool:
    """Whether the target is in the middle of its requests; with a file, whether it is at work at all."""
    if delivery == "ingest":
        return requests(server) >= SOME
    return (project.folder / "ledger.duckdb.work").exists()


def requests(server: Server) -> int:
    return sum(one["path"] == "/ingest/property" for one in server.control("GET", "requests"))


@pytest.mark.slow
@pytest.mark.parametrize(("whom", "signum", "delivery"), MOMENTS if ROUNDS > 1 else MOMENTS[:1])
def test_a_signal_in_the_middle_of_a_delivery_loses_and_repeats_nothing(
    whom: str, signum: int, delivery: str, server: Server, project: Project, export: Path, tmp_path: Path
) -> None:
    server.control("POST", "faults", {"part": "engage", "latency": LATENCY})
    given = environment(server, delivery)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [MELTANO, "run", "--no-install", "tap-piano", "target-recurly-engage"],
            cwd=ROOT, env=project.environment(TAP_PIANO_EXPORT_PATH=str(export), **given), stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 90
        while not working(server, project, delivery):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        time.sleep(0.0 if delivery == "ingest" else random.uniform(0, 0.6))  # noqa: S311 - a moment, no secret
        WHOM[whom](process.pid, signum)
        process.wait(timeout=90)
    wait_for_the_target(project)
    first = requests(server)
    server.control("DELETE", "faults")
    everybody = readers(export)
    again = project.run(export, "--force", **given)
    assert again.returncode == 0, again.stderr
    with duckdb.connect(str(project.folder / "ledger.duckdb"), read_only=True) as ledger:
        told: dict[str, dict[str, str]] = {}
        for user, trait, value in ledger.execute("SELECT user_id, trait, value FROM delivered_traits").fetchall():
            told.setdefault(user, {})[trait] = value
    assert set(told) == everybody
    deadline = time.monotonic() + 60
    while delivery == "s3" and {file["status"] for file in server.control("GET", "engage")["files"]} != {"done"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for user in sorted(everybody)[::10]:
        assert server.control("GET", f"engage/user/{user}")["traits"] == told[user]
    if delivery == "ingest":
        assert SOME <= first < len(everybody)
        assert requests(server) <= len(everybody) + 8, "no more than what was in flight is sent again"
    third = project.run(export, "--force", **given)
    assert "0 changes" in third.stdout + third.stderr


def wait_for_the_target(project: Project) -> None:
    """Wait until nobody has the ledger open: what was in flight may land after Meltano has gone."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with duckdb.connect(str(project.folder / "ledger.duckdb")):
                return
        except duckdb.Error:
            assert time.monotonic() < deadline
            time.sleep(0.05)

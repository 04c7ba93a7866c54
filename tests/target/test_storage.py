"""Ledgers that cannot be used and disks that are full: one clear line, exit code 74, and nothing half-written."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import duckdb
import pytest
from piano_engage_sandbox.testing import serving

from tests.target.conftest import PATIENCE, all_held, places

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.target.conftest import Engage

STORAGE_FAILED = 74


def refused(engage: Engage) -> str:
    run = engage.run(engage.snapshot(engage.subscriptions(2)))
    assert (run.code, run.states, engage.files) == (STORAGE_FAILED, [], [])
    assert "Traceback" not in run.log
    assert len(run.errors.splitlines()) == 1
    return run.errors


def test_garbage_is_no_ledger_and_is_left_as_it_is(engage: Engage) -> None:
    engage.ledger.write_bytes(b"garbage " * 2000)
    said = refused(engage)
    assert "cannot be opened" in said
    assert "backup" in said
    assert engage.ledger.read_bytes() == b"garbage " * 2000


def test_an_empty_file_is_no_ledger_for_a_ledger_may_have_been_there(engage: Engage) -> None:
    engage.ledger.touch()
    assert "cannot be opened" in refused(engage)


def test_a_ledger_cut_in_half_is_refused(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(50)))
    engage.ledger.write_bytes(engage.ledger.read_bytes()[: engage.ledger.stat().st_size // 2])
    for path in engage.files:
        path.unlink()
    assert str(engage.ledger) in refused(engage)


def test_a_directory_is_no_ledger(engage: Engage) -> None:
    engage.ledger.mkdir()
    assert str(engage.ledger) in refused(engage)


def test_a_file_in_the_way_of_the_folder_is_named(engage: Engage) -> None:
    (engage.folder / "file").touch()
    engage.config["ledger"] = str(engage.folder / "file" / "ledger.duckdb")
    assert str(engage.folder / "file") in refused(engage)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write all files")
def test_a_ledger_without_permission_is_refused(engage: Engage) -> None:
    engage.run(engage.messages([]))
    engage.ledger.chmod(0)
    assert str(engage.ledger) in refused(engage)


def test_another_database_is_no_ledger_and_is_left_as_it_is(engage: Engage) -> None:
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute("CREATE TABLE subscriptions AS SELECT 1 AS mine")
    assert "is a DuckDB file, but not a ledger" in refused(engage)
    assert engage.query("FROM subscriptions") == [(1,)]


def test_a_ledger_in_use_names_who_holds_it(engage: Engage) -> None:
    engage.run(engage.messages([]))
    script = (
        f"import duckdb, sys; c = duckdb.connect({str(engage.ledger)!r}); print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        said = refused(engage)
        assert "is in use by another run" in said
        assert str(holder.pid) in said
    finally:
        holder.communicate()
    assert engage.run(engage.snapshot(engage.subscriptions(2))).code == 0


@pytest.mark.parametrize("delivery", ["file", "s3", "ingest", "auto"])
def test_a_second_run_says_who_holds_the_ledger_and_leaves(delivery: str, engage: Engage) -> None:
    with serving(rows=1, s3_port=0) as server:
        settings = places(server) | {"delivery": delivery, "requests_per_second": 0}
        start, *rest = engage.snapshot(engage.subscriptions(5))
        taken, given = os.pipe()
        with (engage.folder / "first").open("w+b") as first:
            holder = engage.start(taken, first, **settings)
            os.close(taken)
            os.write(given, engage.lines([start]))
            wait_until(lambda: engage.ledger.with_name("ledger.duckdb.work").exists())
            second = engage.run(engage.snapshot(engage.subscriptions(9)), **settings)
            assert (second.code, second.states) == (STORAGE_FAILED, [])
            assert "is in use by another run" in second.errors
            assert str(holder.pid) in second.errors
            asked = [one["path"] for one in server.control("GET", "requests") if one["path"] == "/ingest/property"]
            assert (asked, server.control("GET", "engage")["files"], engage.files) == ([], [], [])
            os.write(given, engage.lines(rest))
            os.close(given)
            assert holder.wait(PATIENCE) == 0
            assert first.tell() > 0 or first.seek(0, os.SEEK_END) > 0, "its STATE"
        assert engage.query("SELECT count(*) FROM delivered") == [(5,)]


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


FULL = """
import resource
from target_recurly_engage.delivery import ingest
ingest.GROUP = 50
def send(self, done, original=ingest.IngestDelivery._send_all):
    self._ledger.connection.execute("CHECKPOINT")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    original(self, done)
ingest.IngestDelivery._send_all = send
"""
"""From the first request on no file may grow beyond what is less than a group of acknowledgements takes."""


def test_a_disk_that_is_full_while_answers_are_noted_ends_the_run_and_the_next_makes_it_good(
    engage: Engage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)  # it writes too, and so would a process that forks
    with serving(rows=1, s3_port=0) as server:
        settings = places(server) | {"delivery": "ingest", "requests_per_second": 0}
        messages = engage.snapshot(engage.subscriptions(400, term_id="TM1", term_name="T" * 200))
        given = engage.lines(messages)
        run = subprocess.run(engage.command(FULL, **settings), input=given, capture_output=True, check=False)
        assert (run.returncode, run.stdout) == (STORAGE_FAILED, b""), run.stderr
        assert b"Traceback" not in run.stderr
        first = sum(one["path"] == "/ingest/property" for one in server.control("GET", "requests"))
        assert 0 < first <= 50 + 4 * 16, "nothing more is sent once answers cannot be noted"
        again = engage.run(messages, **settings)
        assert (again.code, len(again.states)) == (0, 1), again.log
        assert all_held(server).keys() >= {f"u{n}" for n in range(1, 401)}
        assert {user: all_held(server)[user] for user in engage.told_all()} == engage.told_all()
        asked = sum(one["path"] == "/ingest/property" for one in server.control("GET", "requests"))
        assert 400 <= asked <= 400 + first


def limited(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@pytest.mark.parametrize(("what", "limit"), [("output", 60_000), ("ledger", 1_500_000)])
def test_a_file_that_may_not_grow(engage: Engage, what: str, limit: int) -> None:
    """The limit of the file size stands for a full disk where no small disk may be mounted."""
    engage.config["brake_max_change_fraction"] = 1  # all known users change
    engage.run(engage.snapshot(engage.subscriptions(30)))
    before = engage.told()
    values = {"output": {}, "ledger": {"term_name": os.urandom(30).hex()}}[what]
    count = {"output": 400, "ledger": 40_000}[what]
    records = [
        record | {name: f"{value}{number}" for name, value in values.items()}
        for number, record in enumerate(engage.subscriptions(count))
    ]
    given = engage.lines(engage.snapshot(records))
    full = subprocess.run(
        engage.command(),
        input=given,
        capture_output=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},  # it writes too
        preexec_fn=lambda: limited(limit),
    )
    assert (full.returncode, full.stdout) == (STORAGE_FAILED, b""), full.stderr
    assert b"Traceback" not in full.stderr
    assert len(engage.files) == 1
    assert engage.query("SELECT count(*) FROM delivered") == [(30,)]
    assert engage.told()["delivered"] == before["delivered"]
    again = engage.run(given)
    assert (again.code, len(again.states), len(engage.files)) == (0, 1, 2)
    assert len(engage.sent()) == count - (0 if values else 30)


def may_mount() -> bool:
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(
    not may_mount(), reason="unshare -rm is not permitted here; test_a_file_that_may_not_grow stands in"
)
@pytest.mark.parametrize(("what", "size"), [("ingest", "64k"), ("ledger", "1200k"), ("runs", "4k")])
def test_a_full_disk(engage: Engage, tmp_path: Path, what: str, size: str) -> None:
    """The first run finds the disk full, the second, after it has grown, makes it good."""
    disk, seen = tmp_path / what, tmp_path / "seen"
    disk.mkdir()
    if what == "ledger":
        engage.config["ledger"] = str(disk / "ledger.duckdb")
    if what == "runs":
        (tmp_path / "fill").write_bytes(bytes(4096))
    count = {"ledger": 60_000}.get(what, 2000)
    records = [
        record | {"term_id": "TM1", "term_name": f"{n * 7919:x}"}
        for n, record in enumerate(engage.subscriptions(count))
    ]
    given = tmp_path / "messages"
    given.write_bytes(engage.lines(engage.snapshot(records)))
    command = f"{shlex.join(engage.command())} < {given}"
    script = f"""
mount -t tmpfs -o size={size} tmpfs {disk}
test {what} = runs && cp {tmp_path}/fill {disk}/fill
{command} > {seen}.out 2> {seen}.log; echo $? > {seen}.code; find {disk} -name '*.csv' -o -name '*.part' > {seen}.files
mount -o remount,size=200m {disk}
{command} > {seen}.out2 2> {seen}.log2; echo $? > {seen}.code2
cp -r {disk} {seen}
"""
    subprocess.run(["unshare", "-rm", "sh", "-c", script], check=True)
    log = (tmp_path / "seen.log").read_text()
    assert (tmp_path / "seen.code").read_text() == f"{STORAGE_FAILED}\n", log
    assert "Traceback" not in log
    assert log.count("| ERROR") == 1
    assert (tmp_path / "seen.files").read_text() == ""
    delivered = what == "runs"
    assert bool((tmp_path / "seen.out").read_text()) == delivered
    assert (tmp_path / "seen.code2").read_text() == "0\n"
    assert (tmp_path / "seen.out2").read_text()
    output = tmp_path / "seen" if what == "ingest" else engage.output
    (path,) = output.glob("*")
    assert len(path.read_bytes().splitlines()) == count + 1

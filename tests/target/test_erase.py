"""`recurly-engage erase`: cleared at Engage first, then forgotten, and kept out; whatever breaks off in between."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from click.testing import CliRunner
from piano_engage_sandbox.testing import serving
from target_recurly_engage import erase as module
from target_recurly_engage.cli import main
from target_recurly_engage.erase import Erasure
from target_recurly_engage.ledger import Ledger

from tests.target.conftest import Engage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result
    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Record

ANN = "ann-7f3c9e52"
HERS = ("RCANN00001", "RCANN00002")
CRM = {"role": "users", "user_id": "id", "traits": ["tier"]}
STREAMS = {"subscription_log": {"role": "subscriptions"}, "api": {"role": "reconcile"}, "crm": CRM}
CLEARED = {
    "subscription_id": "none", "promo_code": "none", "tier": "none", "auto_renew": "false", "total_charged": "-1",
    "end_date": "9999-12-31", "lifecycle_stage": "none",
}  # fmt: skip


def log_of(engage: Engage) -> list[Record]:
    """Ann with two subscriptions, among 30 others."""
    hers = [engage.subscription(n, user=ANN, subscription_id=one, promo_code="P") for n, one in enumerate(HERS)]
    return [*hers, *engage.subscriptions(30)]


def messages(engage: Engage, version: int = 1) -> list[dict[str, Any]]:
    """The log, the API's list and a stream of readers, all complete."""
    log = log_of(engage)
    api = [{name: one[name] for name in ("subscription_id", "user_id")} | {"api_status": "active"} for one in log]
    crm = [{"id": user, "tier": "gold"} for user in (ANN, "u1")]
    properties = ("subscription_id", "user_id", "api_status")
    return [
        *engage.messages(api, version=version, stream="api", properties=properties, state=None),
        *engage.messages(crm, version=version, stream="crm", properties=("id", "tier"), state=None),
        *engage.messages(log, version=version),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(rows=5) as one:
        yield one


@pytest.fixture(scope="module")
def settings(server: Server) -> dict[str, Any]:
    lines = server.environment()
    found = {name: lines[f"TARGET_RECURLY_ENGAGE_{name.upper()}"] for name in ("app_id", "api_key", "api_url")}
    more = {"requests_per_second": 0, "retry_wait": 0, "retry_attempts": 2}
    return {"delivery": "ingest", "streams": STREAMS, "traits": "all,computed"} | found | more


@pytest.fixture(scope="module")
def template(make_engage: Callable[[], Engage], settings: dict[str, Any]) -> Engage:
    """A ledger of 31 readers whom Engage was told by the API; Ann stands in every table there is."""
    engage = make_engage()
    engage.config |= settings
    run = engage.run(messages(engage))
    assert run.code == 0, run.log
    with duckdb.connect(str(engage.ledger)) as connection:
        for statement in (
            f"INSERT INTO rejects VALUES ('{ANN}', 422, 'no {ANN}', 1, now(), now(), now(), 1)",
            f"INSERT INTO invalid VALUES ('{ANN}', 'promo_code', 'too long', now(), now())",
            f"CREATE TABLE users_gone AS SELECT '{ANN}' AS mail, 'x' AS y UNION ALL SELECT 'u1', 'x'",
            f"CREATE TABLE offers AS SELECT 'CODE1' AS code, '{ANN}' AS claimed_user_id",
            f"CREATE TABLE incoming AS SELECT '{ANN}' AS user_id",
            f'UPDATE runs SET summary = json_merge_patch(summary, \'{{"message": "bad {HERS[0]} of {ANN}"}}\')',
        ):
            connection.execute(statement)
    return engage


@pytest.fixture
def engage(template: Engage, server: Server, tmp_path: Path) -> Engage:
    """A copy of it, and an Engage that holds what it was told."""
    shutil.copytree(template.folder / "runs", tmp_path / "runs")
    shutil.copy(template.ledger, tmp_path / "ledger.duckdb")
    summary = next((tmp_path / "runs").glob("*.json"))
    told = json.loads(summary.read_text()) | {"message": f"bad {HERS[0]} of {ANN}"}
    summary.write_text(json.dumps(told))
    summary.with_suffix(".html").write_text(f"<p>bad {HERS[0]} of {ANN}</p>")
    server.control("DELETE", "faults")
    places = {"ledger", "output_path", "runs_path"}
    copy = Engage(tmp_path, {name: value for name, value in template.config.items() if name not in places})
    for user in (ANN, "u1"):
        put(copy, user, dict(copy.query(f"SELECT trait, value FROM delivered_traits WHERE user_id = '{user}'")))
    return copy


def put(engage: Engage, user: str, traits: dict[str, str]) -> None:
    """Tell Engage of a reader, as its own page says."""
    key = base64.b64encode(f"{engage.config['app_id']}:{engage.config['api_key']}".encode()).decode()
    body = json.dumps({"id": engage.config["app_id"], "user_id": user, "properties": traits}).encode()
    headers = {"Authorization": f"Basic {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{engage.config['api_url']}/ingest/property", body, headers)  # noqa: S310 - the sandbox
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - the sandbox
        assert answer.status == 200


def ask(engage: Engage, *arguments: str, **config: object) -> Result:
    path = engage.folder / "cli.json"
    path.write_text(json.dumps(engage.config | config), encoding="utf-8")
    return CliRunner().invoke(main, ["--config", str(path), *arguments])


def erase(engage: Engage, *arguments: str, **config: object) -> Result:
    return ask(engage, "erase", "--user", ANN, *arguments, **config)


def held(server: Server, user: str = ANN) -> dict[str, Any]:
    found = server.control("GET", f"engage/user/{user}")
    return dict(found["traits"]) if found else {}


def rows_of(engage: Engage, *words: str) -> list[str]:
    """The tables that hold one of *words* in any cell."""
    tables = engage.dump(without=()).items()
    return [table for table, rows in tables if any(word in row for row in rows for word in words)]


def check_nothing_is_left(engage: Engage) -> None:
    """Neither table, nor the ledger's bytes, nor summaries, reports and receipts name Ann or her subscriptions."""
    for word in (ANN, *HERS):
        for path in engage.folder.rglob("*"):
            if path.is_file() and path.suffix != ".csv" and path.name != "cli.json":
                assert word.encode() not in path.read_bytes(), path
    assert rows_of(engage, ANN, *HERS) == []
    assert engage.query("SELECT count(DISTINCT user_id) FROM delivered") == [(30,)]
    assert engage.query("SELECT count(*) FROM subscriptions") == [(30,)]
    assert engage.query("SELECT code, claimed_user_id FROM offers") == [("CODE1", None)]
    assert [table for table in engage.dump() if table.startswith(("incoming", "plan"))] == []


def check_cleared(server: Server, told: set[str]) -> None:
    """Engage holds the value that clears, of each trait that it was told."""
    now = held(server)
    assert set(now) == told
    assert {name: now[name] for name in CLEARED} == CLEARED
    assert held(server, "u1")["subscription_id"] == "RC000001"


def told_of(engage: Engage) -> set[str]:
    return {name for (name,) in engage.query(f"SELECT trait FROM delivered_traits WHERE user_id = '{ANN}'")}


# At once, by the Ingest API


def test_a_reader_is_cleared_and_forgotten_and_the_receipt_names_nobody(server: Server, engage: Engage) -> None:
    told = told_of(engage)
    assert len(told) > 30
    assert ANN.encode() in engage.ledger.read_bytes(), "else the search of the file would prove nothing"
    done = erase(engage, "--json")
    assert done.exit_code == 0, done.output
    check_cleared(server, told)
    check_nothing_is_left(engage)
    receipt = json.loads(done.stdout)
    assert (receipt["status"], receipt["answer"], receipt["channel"]) == ("done", "taken", "ingest")
    assert receipt["rows"] == {
        "delivered": 1, "subscriptions": 2, "api_subscriptions": 2, "rejects": 1, "invalid": 1, "users_crm": 1,
        "users_gone": 1, "incoming": 1,
    }  # fmt: skip
    assert set(receipt["cleared"]) == told
    (path,) = (engage.folder / "runs" / "erasures").iterdir()
    assert json.loads(path.read_text()) == receipt
    page = next((engage.folder / "runs").glob("*.html")).read_text()
    assert page == "<p>bad [erased] of [erased]</p>"
    assert "still" not in erase(engage).output, "a second time nothing is left to do"


def test_she_does_not_come_back_with_the_next_log_unless_she_is_let_in(server: Server, engage: Engage) -> None:
    assert erase(engage).exit_code == 0
    run = engage.run(messages(engage, 2))
    assert run.code == 0, run.log
    assert engage.summaries[-1]["erased_rows"] == 2 + 2 + 1
    assert held(server)["subscription_id"] == "none"
    check_nothing_is_left(engage)
    assert engage.run(engage.batch(log_of(engage), "parquet", version=2)).code == 0
    assert engage.summaries[-1]["erased_rows"] == 2
    check_nothing_is_left(engage)
    assert "erased on" in ask(engage, "explain", "--user", ANN).output
    assert erase(engage, "--allow").exit_code == 0
    assert engage.run(messages(engage, 3)).code == 0
    assert held(server)["subscription_id"] in HERS
    assert erase(engage, "--allow").exit_code == 66


def test_an_unknown_reader_is_told_as_such(engage: Engage, caplog: pytest.LogCaptureFixture) -> None:
    before = engage.dump(without=())
    assert ask(engage, "erase", "--user", "nobody").exit_code == 66
    assert "nobody: the ledger knows no such reader" in caplog.text
    assert engage.dump(without=()) == before


# When Engage does not acknowledge


def check_nothing_is_forgotten_before_it_is_acknowledged(server: Server, engage: Engage) -> None:
    """While Engage is down, the ledger keeps what it was told; then all goes its way."""
    told = told_of(engage)
    server.control("POST", "faults", {"part": "engage", "status": 503})
    assert erase(engage).exit_code == 75
    assert rows_of(engage, ANN) == ["delivered", "overtaken"]  # whether Engage took the request is not known
    assert told_of(engage) == told
    server.control("DELETE", "faults")
    assert erase(engage).exit_code == 0
    check_cleared(server, told)
    check_nothing_is_left(engage)


def test_an_outage_keeps_what_is_still_to_be_cleared(server: Server, engage: Engage) -> None:
    check_nothing_is_forgotten_before_it_is_acknowledged(server, engage)


def test_an_erasure_that_forgets_too_early_is_seen(
    server: Server, engage: Engage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken double: it forgets, then clears."""

    def forget_first(self: Erasure, clear: Callable[[Erasure], None] = Erasure.clear) -> None:
        self.forget()
        clear(self)

    monkeypatch.setattr(Erasure, "clear", forget_first)
    with pytest.raises(AssertionError):
        check_nothing_is_forgotten_before_it_is_acknowledged(server, engage)


def test_a_rejection_is_told_and_a_later_run_clears(server: Server, engage: Engage) -> None:
    told = told_of(engage)
    fault = {"part": "engage", "status": 422, "times": 1}
    server.control("POST", "faults", fault)
    done = erase(engage)
    assert done.exit_code == 81
    assert "Engage rejected it with 422" in done.output
    assert rows_of(engage, ANN) == ["delivered", "rejects"]
    assert ask(engage, "rejects", "retry", ANN).exit_code == 0
    assert engage.run(messages(engage, 2)).code == 0
    check_cleared(server, told)
    check_nothing_is_left(engage)


# What breaks off


class Killed(BaseException):
    """Stands for the end of the process."""


POINTS = ("mark", "clear", "forget", "close")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("point", POINTS)
def test_whatever_breaks_off_is_gone_on_with(
    server: Server, engage: Engage, point: str, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    told = told_of(engage)
    owner, name = (Ledger, "close_afresh") if point == "close" else (Erasure, point)
    original = getattr(owner, name)

    def killed(*given: Any) -> None:  # noqa: ANN401 - as what it stands for
        if after:
            original(*given)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, killed)
        with pytest.raises(Killed):
            erase(engage)
    if point in POINTS[:2]:
        rows = rows_of(engage, ANN)
        assert (rows == ["delivered"]) if after or point == "clear" else ("subscriptions" in rows)
    done = erase(engage, "--json")
    assert done.exit_code == 0, done.output
    check_cleared(server, told)
    check_nothing_is_left(engage)
    assert len(list((engage.folder / "runs" / "erasures").iterdir())) == 1
    assert list(engage.folder.glob("ledger.duckdb.*")) == []


def test_killed_when_engage_has_cleared_and_the_ledger_does_not_know(server: Server, engage: Engage) -> None:
    told = told_of(engage)
    script = (
        "import os, signal\n"
        "from target_recurly_engage.engage import IngestClient\n"
        "def write(self, *given, original=IngestClient.write):\n"
        "    original(self, *given)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "IngestClient.write = write\n"
        "from target_recurly_engage.cli import main\n"
        "main()\n"
    )
    path = engage.folder / "settings"
    path.write_text(json.dumps(engage.config))
    command = [sys.executable, "-c", script, "--config", str(path), "erase", "--user", ANN]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    check_cleared(server, told)
    assert "delivered" in rows_of(engage, ANN)
    for left in ("ledger.duckdb.fresh", "ledger.duckdb.fresh.wal"):
        (engage.folder / left).write_bytes(b"half a copy")
    assert erase(engage).exit_code == 0
    check_cleared(server, told)
    check_nothing_is_left(engage)
    assert engage.query("SELECT status FROM deliveries ORDER BY started_at") == [
        ("acknowledged",), ("broken off",), ("acknowledged",),
    ]  # fmt: skip


def test_a_run_finishes_what_broke_off(server: Server, engage: Engage, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_of(engage)
    with monkeypatch.context() as patched:
        patched.setattr(Erasure, "clear", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            erase(engage)
    assert engage.run(messages(engage, 2)).code == 0
    check_cleared(server, told)
    check_nothing_is_left(engage)


# Traces


@pytest.mark.parametrize("double", ["a table", "a mention", "the bytes", "the summaries"])
def test_an_erasure_that_leaves_a_trace_is_seen(
    double: str, server: Server, engage: Engage, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = module._places
    if double == "a table":
        monkeypatch.setattr(module, "_places", lambda *a: (one for one in places(*a) if one[0] != '"invalid"'))
    elif double == "a mention":
        monkeypatch.setattr(module, "_mentions", lambda *_: ())
    elif double == "the bytes":

        def in_place(self: Ledger, *changes: tuple[str, list[object]]) -> None:
            for statement, parameters in changes:
                self.connection.execute(statement.replace('"fresh copy".', ""), parameters)
            self.close()

        monkeypatch.setattr(Ledger, "close_afresh", in_place)
    else:
        monkeypatch.setattr(module, "scrub", lambda *_: None)
    assert erase(engage).exit_code == 0
    check_cleared(server, set(held(server)))
    with pytest.raises(AssertionError):
        check_nothing_is_left(engage)


def test_a_count_that_looks_like_an_id_stays(engage: Engage) -> None:
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute("UPDATE delivered SET user_id = '31' WHERE user_id = 'u1'")
    before = engage.summaries[0]
    assert ask(engage, "erase", "--user", "31").exit_code == 0
    assert engage.summaries[0] == before
    assert before["users"]["total"] == 31


def test_nothing_changes_but_what_names_the_reader(engage: Engage) -> None:
    """An id may be as short as a number, and stand in a moment or a style by chance."""
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute("UPDATE delivered SET user_id = '7' WHERE user_id = 'u1'")
    path = next((engage.folder / "runs").glob("*.json"))
    told = json.loads(path.read_text()) | {"message": "no such reader: 7", "started_at": "2026-03-07T07:07:07+00:00"}
    path.write_text(json.dumps(told))
    page = path.with_suffix(".html")
    page.write_text('<style>p { width: 7 }</style><p width="7">no such reader: 7</p>')
    assert ask(engage, "erase", "--user", "7").exit_code == 0
    assert json.loads(path.read_text()) == told | {"message": "no such reader: [erased]"}
    assert page.read_text() == '<style>p { width: 7 }</style><p width="7">no such reader: [erased]</p>'


# With files


def test_with_files_the_next_run_clears_and_forgets(engage: Engage) -> None:
    files = {"delivery": "file"}
    told = told_of(engage)
    with duckdb.connect(str(engage.ledger)) as ledger:
        ledger.execute("UPDATE destinations SET folder = 'ingest', application = NULL")
    done = erase(engage, **files)
    assert done.exit_code == 0
    assert "the next run clears by file" in done.output
    assert rows_of(engage, ANN) == ["delivered"]
    (path,) = (engage.folder / "runs" / "erasures").iterdir()
    assert json.loads(path.read_text())["status"] == "clearing"
    assert "erased on" in ask(engage, "explain", "--user", ANN, **files).output
    found = json.loads(ask(engage, "reconcile", "--json", **files).stdout)
    assert found["lists"]["unknown_to_piano"]["rows"] == [{"user_id": ANN, "why": "erased: a run clears him"}]
    assert found["differences"] == 0, "she is as she should be"
    run = engage.run(messages(engage, 2), **files)
    assert run.code == 0, run.log
    assert set(engage.sent()) == {ANN}
    row = engage.sent()[ANN]
    assert {name: row[name] for name in CLEARED} == CLEARED
    assert set(row) - {"user_id"} == told
    check_nothing_is_left(engage)
    assert json.loads(path.read_text())["status"] == "done"
    assert f"still names him, remove it once Engage has read it: {engage.files[0]}" in erase(engage, **files).output
    assert engage.run(messages(engage, 3), **files).code == 0
    assert len(engage.files) == 1, "nothing is sent of her any more"


def test_files_of_another_kind_beside_the_csvs_are_left_alone(engage: Engage) -> None:
    engage.output.mkdir()
    (engage.output / "offers.csv").write_text(f"code,promotion_id\n{ANN},PR1\n")
    (engage.output / "empty.csv").touch()
    (engage.output / "traits-old.csv").write_text(f"user_id,tier\n{ANN},gold\n")
    done = erase(engage)
    assert done.exit_code == 0, done.output
    assert [line for line in done.output.splitlines() if "still names him" in line] == [
        f"still names him, remove it once Engage has read it: {engage.output / 'traits-old.csv'}"
    ]


# While a file may not have been read


def test_who_was_told_since_a_file_that_is_unread_is_cleared_once_more_after_it(server: Server, engage: Engage) -> None:
    settings = {"csv_overlap": "again"}
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute("INSERT INTO overtaken VALUES (?, now() + INTERVAL 2 HOUR)", [ANN])
    before = held(server)
    done = erase(engage, **settings)
    assert (done.exit_code, "once more after a file" in done.output) == (0, True), done.output
    assert {name: held(server)[name] for name in CLEARED} == CLEARED
    assert rows_of(engage, ANN) == ["delivered", "overtaken"], "forgotten too early, nobody could clear him again"
    put(engage, ANN, before)  # Engage reads the file
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute("UPDATE overtaken SET after = now() - INTERVAL 1 HOUR")
    assert engage.run(messages(engage, 2), **settings).code == 0
    assert {name: held(server)[name] for name in CLEARED} == CLEARED
    check_nothing_is_left(engage)


@pytest.mark.parametrize("overlap", ["wait", "again"])
def test_who_is_in_a_file_that_may_not_have_been_read_is_cleared_after_it(
    server: Server, engage: Engage, overlap: str
) -> None:
    told = told_of(engage)
    settings = {"csv_overlap": overlap}
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute("UPDATE deliveries SET channel = 's3', acknowledged_at = now() - INTERVAL 1 HOUR")
    before = held(server)
    done = erase(engage, **settings)
    assert (done.exit_code, "a file with his last traits counts as unread" in done.output) == (0, True)
    assert held(server) == before
    assert engage.run(messages(engage, 2), **settings).code == 0
    assert rows_of(engage, ANN) == (
        ["delivered"] if overlap == "wait" else ["delivered", "earlier_deliveries", "overtaken"]
    )
    with duckdb.connect(str(engage.ledger)) as connection:  # three hours later
        connection.execute("UPDATE deliveries SET acknowledged_at = now() - INTERVAL 4 HOUR WHERE channel = 's3'")
        connection.execute("UPDATE overtaken SET after = now() - INTERVAL 1 HOUR")
    put(engage, ANN, before)  # Engage reads the file only now
    assert engage.run(messages(engage, 3), **settings).code == 0
    assert {name: held(server)[name] for name in CLEARED} == CLEARED
    assert set(held(server)) == told
    check_nothing_is_left(engage)

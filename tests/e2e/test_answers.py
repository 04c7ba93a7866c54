"""The tap's log and the tap's API list into one target: all sides agree, until somebody is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from piano_engage_sandbox.testing import serving

from tests.e2e.test_days import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAMS = {"subscription_log": {"role": "subscriptions"}, "subscriptions": {"role": "reconcile"}}


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with serving(rows=300, s3_port=0) as server:
        one = Pair(server, tmp_path)
        assert one.run(delivery="ingest", streams=STREAMS) == 0, (tmp_path / "log").read_text()
        yield one


def reconcile(pair: Pair, *more: str, stdin: Any = None) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - a pipe
    command = [program("recurly-engage"), "--config", pair.folder / "target.json", "reconcile", "--json", *more]
    done = subprocess.run(command, stdin=stdin, capture_output=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_api_log_ledger_and_engage_agree_and_who_is_missing_is_named(pair: Pair) -> None:
    code, found = reconcile(pair)
    assert (code, found["lists"]) == (0, {})
    assert found["totals"]["api"] == found["totals"]["log"] >= 300
    held = pair.server.control("GET", "engage")["users"]
    assert found["totals"]["desired"] == found["totals"]["acknowledged"] == held
    with duckdb.connect(str(pair.folder / "ledger.duckdb")) as connection:
        rows = connection.execute("SELECT subscription_id FROM subscriptions ORDER BY hash(subscription_id) LIMIT 4")
        lost = sorted(one for (one,) in rows.fetchall())
        users = connection.execute(
            "SELECT user_id FROM delivered ANTI JOIN (SELECT user_id FROM subscriptions "
            f"WHERE subscription_id IN {tuple(lost)}) USING (user_id) ORDER BY hash(user_id) LIMIT 3"
        )
        untold = sorted(one for (one,) in users.fetchall())
        connection.execute(f"DELETE FROM subscriptions WHERE subscription_id IN {tuple(lost)}")
        connection.execute(f"DELETE FROM delivered WHERE user_id IN {tuple(untold)}")
    code, found = reconcile(pair)
    assert code == 82
    assert [row["subscription_id"] for row in found["lists"]["in_api_not_in_log"]["rows"]] == lost
    assert [row["user_id"] for row in found["lists"]["not_acknowledged"]["rows"]] == untold
    assert set(found["lists"]) <= {"in_api_not_in_log", "not_acknowledged", "behind"}, "behind: who lost a subscription"


def test_a_tap_in_a_pipe_is_as_good_as_a_run(pair: Pair) -> None:
    with duckdb.connect(str(pair.folder / "ledger.duckdb")) as connection:
        connection.execute("DELETE FROM api_subscriptions")
    catalog = subprocess.run(
        [program("tap-piano"), "--config", pair.folder / "tap.json", "--discover"], capture_output=True, check=True
    )
    listed = json.loads(catalog.stdout)
    listed["streams"] = [one for one in listed["streams"] if one["stream"] == "subscriptions"]
    (pair.folder / "catalog.json").write_text(json.dumps(listed))
    command = [program("tap-piano"), "--config", pair.folder / "tap.json", "--catalog", pair.folder / "catalog.json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tap:
        code, found = reconcile(pair, "--from", "-", stdin=tap.stdout)
    assert (code, found["lists"]) == (0, {})
    assert found["totals"]["api"] >= 300

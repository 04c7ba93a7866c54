"""Runs on several machines with one ledger on S3: nothing twice, nothing lost, and STATE never ahead of the ledger."""

from __future__ import annotations

import json
import logging
import shutil
import signal
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from click.testing import CliRunner
from piano_actions.traits import LedgerBusy, Looking
from piano_engage_common.stops import Outage, StorageFailed
from target_recurly_engage.cli import main
from target_recurly_engage.handover import Message
from target_recurly_engage.settings import SETTINGS

from tests.target.conftest import Engage, all_held, places
from tests.target.shelf import GOES_AWAY, STOPS_AT, Shelf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Record, Run

INGEST = ("app_id", "api_key", "api_url")
pytestmark = pytest.mark.usefixtures("one_session")
LOSES_IT_DURING_THE_UPLOAD = """
from target_recurly_engage import bucket
from target_recurly_engage.shared.lease import Lease, LeaseLost
asked, part = 0, bucket.PART_BYTES
def hold(self):
    global asked
    asked += 1
    bucket.PART_BYTES = 1024 if {after} > 1 else part
    if asked > {after}:
        bucket.PART_BYTES = part
        raise LeaseLost("ledger: the lease is lost: it could not be renewed for 60 s.")
Lease.hold = hold
"""
"""Where it is lost late, the file goes in parts."""
LOGGER = logging.getLogger("tests")
DEFAULTS = {name: schema.get("default") for name, schema in SETTINGS["properties"].items()}


@pytest.fixture
def shelf(server: Server, request: pytest.FixtureRequest) -> Iterator[Shelf]:
    one = Shelf.of(server, request)
    stored = one.gate._stored
    one.watch()
    yield one
    one.gate._stored = stored
    assert one.faults() == []


class Machines:
    """Two machines with one ledger, one Engage and readers of their own."""

    def __init__(self, shelf: Shelf, folder: Path) -> None:
        self.shelf = shelf
        self.engage = Engage(folder)
        self.prefix = shelf.key.rpartition("/")[2]
        self.folder = folder

    def config(self, machine: str = "a", **more: object) -> dict[str, Any]:
        found = places(self.shelf.server)
        ingest = {name: found[name] for name in INGEST} | {"delivery": "ingest", "requests_per_second": 0}
        return self.engage.config | {"report": False} | self.shelf.settings(self.folder / machine, **ingest) | more

    def readers(self, count: int, **values: object) -> list[Record]:
        return [self.engage.subscription(number, f"{self.prefix}-{number}", **values) for number in range(count)]

    def run(self, records: list[Record], machine: str = "a", script: str = "", **more: object) -> Run:
        return self.engage.run(self.engage.snapshot(records), script=script, **self.config(machine, **more))

    def sent(self) -> int:
        """How many readers Engage was told of so far."""
        answers = self.shelf.server.control("GET", "counters")["answers"]
        return sum(one["count"] for one in answers if one["part"] == "engage")

    def held(self) -> dict[str, dict[str, Any]]:
        return {user: traits for user, traits in all_held(self.shelf.server).items() if user.startswith(self.prefix)}

    def ask(self, *arguments: str, machine: str = "a", **more: object) -> Result:
        path = self.folder / "cli.json"
        path.write_text(json.dumps(self.config(machine, **more)), encoding="utf-8")
        return CliRunner().invoke(main, ["--config", str(path), *arguments], catch_exceptions=False)

    def answer(self, *arguments: str, machine: str = "a", **more: object) -> Any:  # noqa: ANN401 - JSON
        done = self.ask(*arguments, "--json", machine=machine, **more)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def copies(self, machine: str = "a") -> list[Path]:
        return sorted((self.folder / machine).rglob("*.duckdb"))


@pytest.fixture
def machines(shelf: Shelf, tmp_path: Path) -> Machines:
    return Machines(shelf, tmp_path)


def test_machines_take_turns_and_nobody_is_told_twice(machines: Machines) -> None:
    records, sent = machines.readers(4), machines.sent()
    first = machines.run(records)
    assert (first.code, len(first.states)) == (0, 1), first.log
    assert machines.sent() - sent == 4
    records[1]["promo_code"] = "BACK"
    assert machines.run(records, "b").code == 0
    third = machines.run(records)  # whose copy is two versions old
    assert (third.code, len(third.states)) == (0, 1)
    assert machines.sent() - sent == 5
    assert machines.held() == machines.shelf.told()
    assert machines.held()[f"{machines.prefix}-1"]["promo_code"] == "BACK"
    (kept,) = machines.copies()
    assert kept.stem == machines.shelf.current["current"]["name"]
    assert machines.shelf.keys("sending/") == []


def test_a_run_that_fails_or_is_for_show_leaves_no_version_to_go_back_to(machines: Machines) -> None:
    records, known = machines.readers(4), []
    for code, more in (
        (0, {}), (80, {"brake_min_rows_fraction": 0.9}), (0, {"dry_run": True}), (75, {"api_url": "http://127.0.0.1:9"}),
        (0, {}),
    ):  # fmt: skip
        given = records[:1] if code == 80 else records
        for one in records:
            one["promo_code"] = f"CODE{len(known)}"
        assert machines.run(given, ledger_versions=2, **more).code == code
        known.append(machines.shelf.current)
    good = [known[0]["current"], known[4]["current"]]
    assert [one["current"]["passing"] for one in known] == [False, True, True, True, False]
    assert [*known[4]["kept"], known[4]["current"]] == good
    assert machines.held() == machines.shelf.told()
    done = machines.ask("ledger", "restore", "--version", good[0]["name"])
    assert done.exit_code == 0, done.stderr


# Work that is not returned


def test_a_run_that_cannot_return_its_ledger_lets_no_state_out_and_loses_nothing(machines: Machines) -> None:
    records = machines.readers(3)
    assert machines.run(records).code == 0
    records[0]["promo_code"], sent = "A", machines.sent()
    gone = machines.run(records, script=GOES_AWAY.format(number=9, back=0, heard=False))
    assert (gone.code, gone.states) == (Outage.exit_code, []), gone.log
    assert "was NOT returned" in gone.errors
    assert machines.engage.summaries[-1]["status"] == "stopped"
    assert "NOT returned" in machines.engage.summaries[-1]["message"]
    assert machines.sent() - sent == 1
    machines.shelf.age()
    again = machines.run(records)
    assert (again.code, len(again.states)) == (0, 1), again.log
    assert "its copy is gone on with" in again.log
    assert machines.sent() - sent == 1  # it knew
    assert machines.held() == machines.shelf.told()


def test_another_machine_tells_in_full_whom_it_cannot_prove_and_nobody_else(machines: Machines) -> None:
    """The change that was not returned is taken back meanwhile: who went by the ledger alone would send nothing."""
    records, loose = machines.readers(5), {"brake_max_clear_fraction": 1, "brake_min_rows_fraction": 0}
    assert machines.run(records).code == 0
    before, sent, new = machines.held(), machines.sent(), f"{machines.prefix}-new"
    changed = [record | ({"promo_code": "LOST"} if number == 2 else {}) for number, record in enumerate(records)]
    script = STOPS_AT.format(number=9, before=True, signal="SIGKILL")
    killed = machines.run([*changed, machines.engage.subscription(9, new)], script=script)
    assert killed.code == -signal.SIGKILL
    assert machines.sent() - sent == 2
    assert machines.held()[f"{machines.prefix}-2"]["promo_code"] == "LOST"
    machines.shelf.age()
    other = machines.run(records, "b", **loose)
    assert (other.code, len(other.states)) == (0, 1), other.log
    assert "2 reader(s) and did not return the ledger" in other.log
    assert machines.sent() - sent == 4
    held = machines.held()
    assert held.pop(new)["subscription_status"] == "none"  # who has vanished meanwhile is cleared all the same
    assert held == before
    back = machines.run(records, "a", **loose)  # and the first machine puts its work aside
    assert (back.code, machines.sent() - sent) == (0, 4)
    assert "holds work of a run on this machine" in back.log
    assert len(list((machines.folder / "a").rglob("*.aside"))) == 1


def test_who_does_not_leave_word_of_what_is_sent_leaves_a_wrong_value(machines: Machines) -> None:
    """The broken double of the test above."""
    records = machines.readers(3)
    assert machines.run(records).code == 0
    before, changed = machines.held(), [record | {"promo_code": "LOST"} for record in records]
    silent = "from target_recurly_engage.shared.ledger import SharedLedger as S\nS.announce = lambda *a: None\n"
    machines.run(changed, script=silent + STOPS_AT.format(number=6, before=True, signal="SIGKILL"))
    machines.shelf.age()
    assert machines.run(records, "b").code == 0
    assert machines.held() != before


def test_who_loses_the_lease_while_sending_stops_and_the_other_goes_on(machines: Machines, server: Server) -> None:
    """The bucket is gone for one machine after it began to send; it must stop before the lease is anybody's."""
    records = machines.readers(60)
    lost = "from target_recurly_engage.shared import lease\nlease.SENDING = 0\n"
    sent = machines.sent()
    run = machines.run(records, script=lost, requests_per_second=0, concurrency=1)
    assert (run.code, run.states) == (Outage.exit_code, []), run.log
    assert "could not be renewed" in run.errors
    assert machines.sent() == sent
    assert machines.shelf.current["holder"] is None  # it could be returned all the same
    assert machines.run(records, "b").code == 0
    assert machines.held() == machines.shelf.told()
    assert server.port


def test_messages_of_actions_stay_until_the_ledger_is_returned(machines: Machines) -> None:
    records, folder = machines.readers(2), machines.folder / "handover"
    user, moment = f"{machines.prefix}-0", "2026-03-28T05:00:00+00:00"
    message = Message(user_id=user, at="2999-01-01T00:00:00+00:00", piano_at=moment, traits={"promo_code": "CLICK"})
    path = message.leave(folder, "one")
    more = {"handover_path": str(folder)}
    gone = machines.run(records, script=GOES_AWAY.format(number=10, back=0, heard=False), **more)
    assert gone.code == Outage.exit_code
    assert "NOT returned" in gone.errors
    assert path.exists()
    machines.shelf.age()
    assert machines.run(records, "b", **more).code == 0
    assert not path.exists()


# Looking


def test_looking_takes_no_lease_and_changes_nothing(machines: Machines) -> None:
    records = machines.readers(3)
    assert machines.ask("plan").exit_code == 66
    assert machines.run(records).code == 0
    records[0]["promo_code"] = "NEW"
    machines.run(records, script=STOPS_AT.format(number=5, before=True, signal="SIGKILL"))
    before = machines.shelf.current
    assert before["holder"] is not None
    assert machines.answer("plan", machine="c")["users"]["unchanged"] == 3
    shown = machines.answer("ledger", "show", machine="c")
    assert shown["rows"]["subscriptions"] == 3
    assert shown["shared"]["holder"]["who"] == before["holder"]["who"]
    assert [one["name"] for one in shown["shared"]["versions"]] == [before["current"]["name"]]
    assert "held by" in machines.ask("ledger", "show", machine="c").stdout
    assert machines.shelf.current == before
    assert machines.ask("rejects", "retry", "--all", machine="c").exit_code == StorageFailed.exit_code


def test_actions_look_at_the_newest_version_but_not_while_a_run_is_at_it(machines: Machines) -> None:
    looking = Looking(DEFAULTS | machines.config("service"), LOGGER)
    assert looking.file() is None
    for promo_code in ("ONE", "TWO"):
        assert machines.run(machines.readers(1, promo_code=promo_code)).code == 0
        path = looking.file()
        assert path is not None
        with duckdb.connect(str(path), read_only=True) as connection:
            assert connection.execute("SELECT promo_code FROM delivered").fetchall() == [(promo_code,)]
    assert [one.stem for one in machines.copies("service")] == [machines.shelf.current["current"]["name"]]
    machines.run(machines.readers(1), script=STOPS_AT.format(number=5, before=True, signal="SIGKILL"))
    with pytest.raises(LedgerBusy):
        looking.file()
    machines.shelf.age()
    assert looking.file() == path


def test_a_command_that_changes_something_returns_it(machines: Machines) -> None:
    assert machines.run(machines.readers(3)).code == 0
    user = f"{machines.prefix}-1"
    receipt = machines.answer("erase", "--user", user, machine="b")
    assert receipt["status"] == "done"
    assert machines.shelf.query(f"SELECT count(*) FROM delivered WHERE user_id = '{user}'") == [(0,)]
    versions = machines.shelf.keys("versions/")
    assert len(versions) == 1  # earlier ones would still name him
    assert user.encode() not in machines.shelf.content(versions[0])
    assert machines.run(machines.readers(3), "c").code == 0
    assert machines.held()[user]["subscription_status"] == "none"


# Secrets


def test_no_secret_is_in_anything_that_a_run_leaves(machines: Machines) -> None:
    records = machines.readers(2)
    runs = [
        machines.run(records),
        machines.run(records, script=GOES_AWAY.format(number=5, back=0, heard=False)),
        machines.run(records, **{"ledger_aws_secret_access_key": "planted-secret"}),  # noqa: PIE804 - no password
    ]
    secrets = (
        places(machines.shelf.server)["aws_secret_access_key"],
        "planted-secret",
        places(machines.shelf.server)["api_key"],
    )
    shutil.rmtree(machines.folder / "batch", ignore_errors=True)
    written = [
        path.read_bytes() for path in machines.folder.rglob("*") if path.is_file() and "config-" not in path.name
    ]
    written += [run.log.encode() + run.out.encode() for run in runs]
    written += [machines.shelf.content(key) for key in machines.shelf.keys("")]
    assert len(written) > 6
    assert not [secret for secret in secrets for one in written if secret.encode() in one]


@pytest.mark.parametrize("more", [1, 2, 3])
def test_a_file_on_its_way_does_not_appear_once_the_ledger_is_anybodys(more: int, shelf: Shelf, tmp_path: Path) -> None:
    """An upload may take longer than a lease: else it would land after what the next holder sends of the same readers.

    It is lost after that many questions: before the file is begun, and before each request for it.
    """
    machines = Machines(shelf, tmp_path)
    files: dict[str, Any] = places(shelf.server) | {"delivery": "s3", "s3_prefix": f"{shelf.key}/ingest/"}
    readers = machines.readers(3, term_name="a long name of a term " * 50)
    files["max_value_length"] = 5000
    lost = machines.run(readers, script=LOSES_IT_DURING_THE_UPLOAD.format(after=more), **files)
    assert lost.code == Outage.exit_code, lost.log
    assert "the lease is lost" in lost.errors
    assert (lost.states, shelf.keys("ingest/")) == ([], [])
    assert machines.run(readers, **files).code == 0
    assert len(shelf.keys("ingest/")) == 1

"""What was told between two runs is taken as told, and an export from before a change takes nothing back."""

from __future__ import annotations

import json
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from target_recurly_engage import ledger as module
from target_recurly_engage.erased import digest_of
from target_recurly_engage.handover import Message
from target_recurly_engage.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from tests.target.conftest import Engage, Record

PIANO = datetime(2026, 3, 28, 5, 0, tzinfo=UTC)
"""The moment of the change, by Piano's clock; the runs are as of 06:00."""
BEFORE, AFTER = PIANO - timedelta(hours=1), PIANO + timedelta(minutes=30)


@pytest.fixture
def folder(engage: Engage) -> Path:
    engage.config["handover_path"] = str(engage.folder / "handover")
    return engage.folder / "handover"


def row(engage: Engage, number: int = 1, **values: object) -> Record:
    return engage.subscription(number, **{"create_date": BEFORE.isoformat(), **values})


def told(record: Record, at: datetime | None = None, **traits: str) -> Message:
    moment = (at or datetime.now(UTC)).isoformat()
    return Message(
        user_id=record["user_id"], at=moment, piano_at=PIANO.isoformat(), traits=traits, subscriptions=[record]
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_told_is_not_told_again_nor_taken_back_by_an_older_export(engage: Engage, folder: Path) -> None:
    off, other = row(engage, auto_renew=False), row(engage, 2)
    assert engage.run(engage.snapshot([off, other])).code == 0
    on = {**off, "auto_renew": True}
    told(on, auto_renew="true").leave(folder, "1")
    dry = engage.run(engage.snapshot([off, other]), dry_run=True)
    assert (dry.code, names(folder)) == (0, ["1.json"])
    for _ in range(2):  # the export is older than the change, and so is the next one
        run = engage.run(engage.snapshot([off, other]))
        assert (run.code, len(engage.files), names(folder)) == (0, 1, [])
    assert engage.query("SELECT auto_renew FROM delivered WHERE user_id = 'u1'") == [("true",)]
    newer = row(engage, 3, create_date=AFTER.isoformat())
    run = engage.run(engage.snapshot([on, other, newer]))
    assert set(engage.sent()) == {"u3"}, "the export that is newer confirms"
    assert engage.query("SELECT count(*) FROM handed_over") == [(0,)]
    run = engage.run(engage.snapshot([off, other, newer]))
    assert engage.sent()["u1"]["auto_renew"] == "false", "the log is right again"


def test_of_two_readings_at_one_second_of_pianos_clock_the_later_one_stands_in(engage: Engage, folder: Path) -> None:
    off = row(engage, auto_renew=False)
    engage.run(engage.snapshot([off]))
    now = datetime.now(UTC)
    for name, value in (("1", True), ("2", False), ("3", True)):
        record = {**off, "auto_renew": value}
        told(record, now + timedelta(seconds=int(name)), auto_renew=str(value).lower()).leave(folder, name)
    engage.run(engage.snapshot([off]))
    assert engage.query("SELECT auto_renew FROM subscriptions") == [(True,)]
    assert len(engage.files) == 1


def test_without_the_rows_that_stand_in_an_older_export_would_take_it_back(engage: Engage, folder: Path) -> None:
    off, other = row(engage, auto_renew=False), row(engage, 2)
    engage.run(engage.snapshot([off, other]))
    told({**off, "auto_renew": True}, auto_renew="true").leave(folder, "1")
    double = "import target_recurly_engage.handover as h\nh._stand_in = lambda *_: None\n"
    engage.run(engage.snapshot([off, other]), double)
    assert engage.sent()["u1"]["auto_renew"] == "false"


def test_a_reader_and_a_subscription_that_no_run_knew(engage: Engage, folder: Path) -> None:
    engage.run(engage.snapshot([row(engage, 2)]))
    fresh = row(engage, 1, term_name="Premium")
    told(fresh, term_name="Premium", auto_renew="true").leave(folder, "1")
    assert engage.run(engage.snapshot([row(engage, 2)])).code == 0
    sent = engage.sent()
    assert set(sent) == {"u1"}, "what was not told yet follows"
    assert (sent["u1"]["term_name"], sent["u1"]["total_charged"]) == ("Premium", "12.5")
    (channel,) = engage.query("SELECT channel FROM deliveries WHERE run_id LIKE '%' AND channel = 'actions'")
    assert channel == ("actions",)


def test_what_is_older_than_the_last_delivery_counts_no_more(engage: Engage, folder: Path) -> None:
    engage.run(engage.snapshot([row(engage, term_name="New")]))
    told(row(engage), datetime.now(UTC) - timedelta(hours=1), term_name="Old").leave(folder, "1")
    engage.run(engage.snapshot([row(engage, 2, create_date=AFTER.isoformat()), row(engage, term_name="New")]))
    assert engage.query("SELECT term_name FROM delivered WHERE user_id = 'u1'") == [("New",)]
    assert set(engage.sent()) == {"u2"}


def test_of_several_messages_the_newest_value_of_each_trait_counts(engage: Engage, folder: Path) -> None:
    engage.run(engage.snapshot([row(engage)]))
    now = datetime.now(UTC)
    changed = row(engage, term_name="B", offer_name="O")
    told(changed, now + timedelta(seconds=2), term_name="B").leave(folder, "1")
    told(changed, now + timedelta(seconds=1), term_name="A", offer_name="O").leave(folder, "2")
    told(changed, now + timedelta(seconds=1), nonsense="x").leave(folder, "3")
    engage.run(engage.snapshot([changed]))
    assert engage.query("SELECT term_name, offer_name FROM delivered") == [("B", "O")]
    assert "nonsense" not in [column for (column,) in engage.query("SELECT column_name FROM duckdb_columns()")]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"user_id": "u1"}', '{"user_id":"u","at":"x","piano_at":"x","traits":{}}']
)
def test_what_is_no_message_is_put_aside_and_the_rest_is_taken(engage: Engage, folder: Path, text: str) -> None:
    engage.run(engage.snapshot([row(engage)]))
    told(row(engage, term_name="B"), term_name="B").leave(folder, "2")
    (folder / "1.json").write_text(text)
    run = engage.run(engage.snapshot([row(engage, term_name="B")]))
    assert (run.code, names(folder), len(engage.files)) == (0, ["1.bad"], 1)
    assert "put aside" in run.warnings[0]


def test_who_is_in_a_file_that_may_not_have_been_read_is_told_again_after_it(tmp_path: Path) -> None:
    import logging  # noqa: PLC0415 - only here

    from target_recurly_engage.contract import Contract  # noqa: PLC0415 - only here
    from target_recurly_engage.handover import Handover  # noqa: PLC0415 - only here
    from target_recurly_engage.traits import Wording  # noqa: PLC0415 - only here

    ledger = module.Ledger(tmp_path / "ledger.duckdb", memory_limit="100MB")
    sent = datetime(2026, 3, 28, 3, tzinfo=UTC)
    for user, delivery in (("in time", "s3"), ("late", "s3"), ("other", "ingest")):
        ledger.connection.execute("INSERT INTO delivered (user_id, delivery_id) VALUES (?, ?)", [user, delivery])
    for channel in ("s3", "ingest"):
        ledger.connection.execute(
            "INSERT INTO deliveries VALUES (?, 'r', ?, '', 'acknowledged', 1, 1, '', ?, ?, NULL)",
            [channel, channel, sent, sent],
        )
    for user, hours in (("in time", 4), ("late", 2), ("other", 2)):
        message: dict[str, Any] = {"user_id": user, "at": (sent + timedelta(hours=hours)).isoformat()}
        Message(**message, piano_at=sent.isoformat(), traits={"term_name": "B"}).leave(tmp_path / "h", user)
    handover = Handover(tmp_path / "h", logging.getLogger("test"))
    contract = Contract(wording=Wording())
    assert handover.take(ledger, contract, run_id="r", clock=sent.isoformat(), csv_hours=3) == 3
    found = ledger.connection.execute("SELECT user_id, after FROM overtaken").fetchall()
    assert [(user, after.astimezone(UTC)) for user, after in found] == [("late", sent + timedelta(hours=3))]
    ledger.close()


def test_a_run_waits_for_who_only_looks_into_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tries = tmp_path / "ledger.duckdb", []
    module.Ledger(path, memory_limit="100MB").close()
    real = module.connect

    def locked(*arguments: Any, **named: Any) -> duckdb.DuckDBPyConnection:  # noqa: ANN401 - those of the real one
        tries.append(time.monotonic())
        if len(tries) < 3:
            msg = 'IO Error: Could not set lock on file "ledger.duckdb": Conflicting lock is held'
            raise duckdb.IOException(msg)
        return real(*arguments, **named)

    monkeypatch.setattr(module, "connect", locked)
    module.Ledger(path, memory_limit="100MB").close()
    assert len(tries) == 3


def test_a_message_appears_whole(tmp_path: Path) -> None:
    path = told({"user_id": "u", "subscription_id": "RC1"}, term_name="Ü").leave(tmp_path / "a" / "b", "x")
    assert names(path.parent) == ["x.json"]
    assert json.loads(path.read_text(encoding="utf-8"))["traits"] == {"term_name": "Ü"}
    assert Message.read(path).subscriptions == [{"user_id": "u", "subscription_id": "RC1"}]


def test_who_was_erased_does_not_come_back_by_a_message(engage: Engage, folder: Path) -> None:
    engage.run(engage.snapshot([row(engage, 2)]))
    with closing(Ledger(engage.ledger, memory_limit="200MB")) as ledger:
        digest = digest_of(ledger, "u1")
        ledger.connection.execute("INSERT INTO erased VALUES (?, 'done', now(), '{}')", [digest])
    told(row(engage), term_name="Premium").leave(folder, "1")
    told(row(engage, 3), term_name="Premium").leave(folder, "2")
    assert engage.run(engage.snapshot([row(engage, 2)])).code == 0
    assert (set(engage.sent()), names(folder)) == ({"u3"}, [])
    tables = engage.query("SELECT table_name FROM duckdb_tables()")
    assert not [table for (table,) in tables if "'u1'" in repr(engage.query(f'FROM "{table}"'))]

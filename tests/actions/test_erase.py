"""`piano-actions erase`: nothing in the actions' notes names the reader any more, and he does not come back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from piano_actions import erasing
from piano_actions.cli import main
from piano_actions.inbox import Inbox
from piano_actions.store import Request, Store
from piano_actions.webhooks import Poison, Reader, wrap
from piano_engage_sandbox.engage.ping import Pings
from piano_engage_sandbox.testing import serving
from target_recurly_engage.cli import main as target

from tests.actions.conftest import POSTGRES, Piano, settings_for
from tests.actions.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

MAIL = "canary@example.com"
CODE = "SUMMER-CANARY"


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    """One night, after which some readers have put an end to renewal; each test takes another one."""
    with serving(rows=300, switches={"engage.csv_delay": 0}) as server:
        piano = Piano(server)
        entries = [piano.stopping("Dynamic") for _ in range(7)]
        one = Nights(piano, tmp_path_factory.mktemp("night"))
        one.run()
        one.free = [piano.uid(entry) for entry in entries]  # type: ignore[attr-defined]
        yield one


class Notes:
    """The actions' notes, in which a reader stands everywhere."""

    def __init__(self, nights: Nights, folder: Path) -> None:
        self.piano, self.folder, self.nights = nights.piano, folder, nights
        piano, self.uid = nights.piano, nights.free.pop()  # type: ignore[attr-defined]
        self.settings = settings_for(
            piano, folder, target_config=str(self.nights.config), private_key=piano.app.private_key
        )
        assert self.ask("resubscribe", "--user", self.uid).exit_code == 0
        payload = {"type": "subscription_updated", "aid": piano.app.aid, "uid": self.uid, "user_email": MAIL}
        self.event = wrap(json.dumps(payload), piano.app.private_key)
        self.store = Store(self.settings["store_url"])
        self.receive()
        Inbox(self.store, tells=True).keep([(Poison("wrong_hmac"), f"{self.event}x")])
        assert self.store.reserve("P1", self.uid, CODE) == CODE
        claim = self.store.claim(Request("upgrade", self.uid, {"to_term": "T"}))
        assert not hasattr(claim, "status")
        self.store.unsure(claim)  # type: ignore[arg-type]

    def receive(self) -> str:
        reader = Reader(self.piano.app.private_key, self.piano.app.aid)
        return Inbox(self.store, tells=True).keep([reader.read(self.event)])[0]

    def ask(self, *arguments: str) -> Result:
        path = self.folder / "asked.json"
        path.write_text(json.dumps(self.settings))
        return CliRunner().invoke(main, ["--config", str(path), *arguments])

    def erase(self, *arguments: str) -> dict[str, Any]:
        answer = self.ask("erase", "--user", self.uid, "--json", *arguments)
        assert answer.exit_code == 0, answer.output
        return dict(json.loads(answer.stdout))

    def erase_at_target(self) -> None:
        answer = CliRunner().invoke(target, ["--config", str(self.nights.config), "erase", "--user", self.uid])
        assert answer.exit_code == 0, answer.output

    def handover(self) -> list[Path]:
        return list((self.nights.folder / "handover").glob("*"))

    def traces(self) -> list[str]:
        """The files in which he is named, in whatever column or deleted row; a database of PostgreSQL counts as one."""
        words = [self.uid.encode(), MAIL.encode(), self.event.encode()]
        places = {path.name: path.read_bytes() for path in self.handover()} | self.stored()
        return [name for name, content in places.items() if any(word in content for word in words)]

    def stored(self) -> dict[str, bytes]:
        """What the notes are kept in: files of SQLite, bytes of deleted rows and all, or the rows of PostgreSQL."""
        if POSTGRES:
            with self.store.engine.connect() as connection:
                tables = sa.inspect(connection).get_table_names()
                queries = [f'SELECT one::text FROM "{table}" one' for table in tables]
                rows = [row for query in queries for row in connection.execute(sa.text(query)).scalars()]
            return {"actions.db": "".join(rows).encode()}
        return {path.name: path.read_bytes() for path in self.folder.glob("actions.db*")}


@pytest.fixture
def notes(nights: Nights, tmp_path: Path) -> Iterator[Notes]:
    one = Notes(nights, tmp_path)
    yield one
    one.store.close()


def erased(notes: Notes) -> None:
    assert {name.partition(".")[2][:2] for name in notes.traces()} == {"db", "js"}
    assert notes.nights.holds(notes.uid)["auto_renew"] == "true"
    notes.erase_at_target()
    assert notes.nights.holds(notes.uid)["subscription_id"] == "none"
    assert notes.handover() == [], "what was told between runs was cleared too"
    receipt = notes.erase()
    assert receipt["rows"] == {"actions": 2, "pushes": 1, "events": 1, "codes": 1, "quarantine": 1}
    assert (receipt["messages_left"], receipt["quarantine_unread"]) == (0, 0)
    assert notes.traces() == []


def test_nothing_names_a_reader_who_was_erased(notes: Notes) -> None:
    erased(notes)
    assert notes.store.free_codes("P1", [CODE]) == [], "his code is nobody else's"


def test_he_does_not_come_back_unless_he_is_let_in(notes: Notes) -> None:
    notes.erase_at_target()
    receipt = notes.erase()
    files = [path.read_text() for path in (notes.nights.folder / "night" / "runs" / "erasures").glob("*.json")]
    assert receipt["digest"] in "".join(files)
    assert notes.uid not in "".join(files)
    assert notes.receive() == "ignored"
    assert notes.store.pushes() == []
    (row,) = Inbox(notes.store, tells=True).events(limit=5)
    assert (row["word"], row["reader"], row["subscription_id"]) == ("erased", None, None)
    assert notes.nights.holds(notes.uid)["subscription_id"] == "none"
    assert notes.ask("erase", "--user", notes.uid, "--allow").exit_code == 0
    assert notes.ask("erase", "--user", notes.uid, "--allow").exit_code == 66
    push = json.loads(notes.ask("traits", "push", "--user", notes.uid, "--json").stdout)
    assert push == {"status": "erased"}, "the ledger keeps him out as well"
    assert notes.nights.holds(notes.uid)["subscription_id"] == "none"


def test_what_the_ledger_needs_to_clear_is_left_until_it_has_cleared(notes: Notes) -> None:
    receipt = notes.erase()
    assert (receipt["messages"], receipt["messages_left"]) == (0, 1)
    assert "recurly-engage erase" in notes.ask("erase", "--user", notes.uid).stdout
    notes.erase_at_target()
    assert (notes.erase()["messages_left"], notes.traces()) == (0, [])
    assert notes.nights.holds(notes.uid)["auto_renew"] == "false"


def test_an_action_under_way_comes_first(notes: Notes) -> None:
    notes.store.claim(Request("resubscribe", notes.uid))
    assert notes.ask("erase", "--user", notes.uid).exit_code == 75
    assert notes.store.hash_of(notes.uid).encode() in b"".join(notes.stored().values())


@pytest.mark.skipif(POSTGRES, reason="deleted rows leave PostgreSQL's files by its own VACUUM")
def test_an_erasure_that_leaves_the_bytes_is_found_out(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "_rewrite", lambda _store: None)
    with pytest.raises(AssertionError):
        erased(notes)


def test_without_the_key_the_quarantine_cannot_be_looked_into(notes: Notes) -> None:
    notes.settings["private_key"] = None
    receipt = notes.erase()
    assert ("quarantine" in receipt["rows"], receipt["quarantine_unread"]) == (False, 1)


def test_no_checkout_of_his_is_told_any_more(notes: Notes) -> None:
    pings = notes.piano.server.sandbox.part(Pings)
    command = ("promo", "converted", "--user", notes.uid, "--tracker", next(iter(pings.trackers)), "--json", "--key")
    assert notes.ask(*command, "before").exit_code == 0
    notes.erase_at_target()
    notes.erase()
    answer = notes.ask(*command, "after")
    assert (answer.exit_code, json.loads(answer.stdout)["reason"]) == (65, "erased")
    assert notes.ask(*command, "tried", "--dry-run").exit_code == 65
    assert [one.user_id for one in pings.events].count(notes.uid) == 1
    assert notes.handover() == []
    assert notes.ask("erase", "--user", notes.uid, "--allow").exit_code == 0
    assert notes.ask(*command, "again").exit_code == 0

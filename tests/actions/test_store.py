"""The notes, in SQLite and in a real PostgreSQL: what several processes may do with them at the same time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import sqlalchemy as sa
from piano_actions.inbox import Inbox
from piano_actions.outcome import Outcome, Status
from piano_actions.store import Claim, InFlight, KeyTaken, ReaderBusy, Request, Store, database, leases
from piano_actions.tables import SINCE_1
from piano_actions.webhooks import Event
from piano_engage_common.stops import StorageFailed

from tests.actions.conftest import Piano, desk_of, settings_for
from tests.actions.test_resubscribe import writes
from tests.actions.test_service import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.actions.postgres import Postgres

DONE = Outcome("resubscribe", Status.DONE, "renews", {})
pytestmark = pytest.mark.xdist_group("postgres")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    found: str = request.getfixturevalue("server").database(tmp_path)
    return found


@pytest.fixture
def two(url: str) -> Iterator[tuple[Store, Store]]:
    """Two processes, as far as the notes can tell."""
    both = Store(url), Store(url)
    yield both
    for one in both:
        one.close()


def event(user_id: str, content: str) -> Event:
    return Event(content, "subscription_updated", None, "AID", user_id, None, None)


# Beginning


OPENS = "import sys; from piano_actions.store import Store; s = Store(sys.argv[1]); print(s.hash_of('u1')); s.close()"


def test_processes_that_begin_together_make_the_tables_once_and_share_the_salt(url: str) -> None:
    command = [sys.executable, "-c", OPENS, url]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    told = [one.communicate(timeout=60) for one in started]
    assert [one.returncode for one in started] == [0] * 4, told
    assert len({out for out, _ in told}) == 1


def test_notes_of_version_1_are_brought_up_to_date(url: str) -> None:
    store = Store(url)
    store.want_push("u1")
    with store.engine.begin() as connection:
        for statement in SINCE_1:
            connection.execute(sa.text("ALTER TABLE pushes DROP COLUMN " + statement.split()[5]))
        connection.execute(sa.text("UPDATE meta SET value = '1' WHERE name = 'version'"))
    store.close()
    again = Store(url)
    assert again.take_wishes(["u1"]) == ({"u1": 1}, set())
    again.close()
    Store(url).close()


def test_notes_of_a_newer_version_are_refused(url: str) -> None:
    store = Store(url)
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE meta SET value = '99' WHERE name = 'version'"))
    store.close()
    with pytest.raises(StorageFailed, match="version 99"):
        Store(url)


def test_a_server_that_says_nothing_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SILENT_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(StorageFailed, match="cannot be opened"):
            Store(f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/x")
    assert time.monotonic() - began < 20


# Actions


def test_of_fifty_claims_of_one_key_one_is_granted_whoever_asks(two: tuple[Store, Store]) -> None:
    request = Request("resubscribe", "u1", {}, key="click")
    gate = threading.Barrier(50)

    def click(number: int) -> object:
        gate.wait()
        try:
            return two[number % 2].claim(request)
        except InFlight:
            return InFlight

    with ThreadPoolExecutor(50) as threads:
        found = list(threads.map(click, range(50)))
    claims = [one for one in found if isinstance(one, Claim)]
    assert (len(claims), found.count(InFlight)) == (1, 49)
    two[0].finish(claims[0], DONE)
    assert two[1].claim(request) == DONE
    with pytest.raises(KeyTaken):
        two[1].claim(Request("resubscribe", "u1", {"subscription_id": "RC1"}, key="click"))


def test_one_action_of_a_reader_at_a_time_whoever_does_it(two: tuple[Store, Store]) -> None:
    claim = two[0].claim(Request("resubscribe", "u1"))
    assert isinstance(claim, Claim)
    with pytest.raises(ReaderBusy):
        two[1].claim(Request("upgrade", "u1", {"to_term": "T"}))
    assert isinstance(two[1].claim(Request("upgrade", "u2", {"to_term": "T"})), Claim)
    two[0].finish(claim, DONE)
    assert isinstance(two[1].claim(Request("upgrade", "u1", {"to_term": "T"})), Claim)


def test_what_is_under_way_is_not_taken_from_who_is_at_it(two: tuple[Store, Store]) -> None:
    claim = two[0].claim(Request("resubscribe", "u1"))
    assert isinstance(claim, Claim)
    assert list(two[0].left_behind()) == list(two[1].left_behind()) == []


def begun_elsewhere(two: tuple[Store, Store]) -> Claim:
    claim = two[0].claim(Request("upgrade", "u1", {"to_term": "T"}))
    two[0].want_push("u1")
    assert isinstance(claim, Claim)
    assert two[0].take_wishes(["u1"]) == ({"u1": 1}, set())
    return claim


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil goes by the clock")
def test_a_clock_that_is_set_takes_nothing_from_who_is_at_it(
    two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun_elsewhere(two)
    boot_time = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot_time + 60)  # as Linux says once the clock was put on
    assert list(two[1].left_behind()) == []
    assert two[1].due(limit=9) == []


def test_a_container_of_the_same_host_name_takes_nothing_from_who_is_at_it(
    two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has process numbers of its own, so none of ours is there; two of one network have one host name."""
    begun_elsewhere(two)
    (tmp_path / "other").write_text("pid:[4026532999]")
    monkeypatch.setattr(leases, "_TELLS_MACHINES_APART", (tmp_path / "other",))
    monkeypatch.setattr(psutil, "Process", gone)
    leases._machine.cache_clear()
    try:
        assert list(two[1].left_behind()) == []
        assert two[1].due(limit=9) == []
    finally:
        leases._machine.cache_clear()


def gone(pid: int) -> None:
    raise psutil.NoSuchProcess(pid)


def test_an_end_that_could_not_be_noted_is_found_again_by_the_same_process(two: tuple[Store, Store]) -> None:
    request = Request("resubscribe", "u1", {}, key="click")
    claim = two[0].claim(request)
    assert isinstance(claim, Claim)
    two[0].note(claim, subscription_id="RC1")
    two[0].let_go(claim)  # as the desk does when `finish` failed
    again = two[0].claim(request)
    assert isinstance(again, Claim)
    assert again.chosen == {"subscription_id": "RC1"}
    two[0].let_go(again)
    assert [one.id for one in two[0].left_behind()] == [claim.id]


def test_what_a_killed_process_left_is_taken_over_by_one(two: tuple[Store, Store], url: str) -> None:
    script = (
        "import os, sys; from piano_actions.store import Request, Store; s = Store(sys.argv[1]);"
        "c = s.claim(Request('resubscribe', 'u1', {}, key='click')); s.note(c, subscription_id='RC1');"
        "s.want_push('u2'); s.take_wishes(['u2']); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, url], check=False).returncode == -9
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda store: list(store.left_behind()), two))
    (claim,) = [one for some in found for one in some]
    assert claim.chosen == {"subscription_id": "RC1"}
    assert two[0].due(limit=9) == ["u2"]
    assert two[1].take_wishes(["u2"]) == ({"u2": 1}, set())


# Telling


def test_of_one_reader_one_tells_at_a_time(two: tuple[Store, Store]) -> None:
    two[0].want_push("u1")
    assert two[0].take_wishes(["u1", "nobody"]) == ({"u1": 1}, set())
    for store in two:
        assert store.take_wishes(["u1"]) == ({}, {"u1"})
        assert store.due(limit=9, every=True) == []
    two[1].want_push("u1")
    assert two[0].pushed({"u1": (1, "told")}) == ["u1"], "there is a newer wish"
    assert two[1].due(limit=9) == ["u1"]
    assert two[1].take_wishes(["u1"]) == ({"u1": 2}, set())
    assert two[1].pushed({"u1": (2, "told")}) == []
    assert two[0].take_wishes(["u1"]) == ({}, set())


def test_of_many_readers_each_ends_by_himself(two: tuple[Store, Store]) -> None:
    readers = [f"u{number}" for number in range(6)]
    inbox = Inbox(two[0], tells=True)
    inbox.keep([event(reader, reader) for reader in readers])
    assert two[1].take_wishes(["u5"]) == ({"u5": 1}, set())
    wishes, busy = two[0].take_wishes(readers)
    assert (wishes, busy) == (dict.fromkeys(readers[:5], 1), {"u5"})
    two[1].want_push("u0")
    two[0].postponed("u4", "Outage")
    assert two[0].pushed({"u0": (1, "told"), "u1": (1, "told"), "u2": (1, "nothing"), "u3": (1, "told")}) == ["u0"]
    ends = {reader: [one["state"] for one in inbox.events(limit=9, user_id=reader)] for reader in readers}
    waiting = ["waiting"]
    told = {"u1": ["told"], "u2": ["nothing"], "u3": ["told"]}
    assert ends == {**told, "u0": waiting, "u4": waiting, "u5": waiting}
    assert two[1].due(limit=9) == ["u0"]
    two[0].leave_wishes(readers)
    assert two[1].take_wishes(readers) == ({"u0": 2, "u4": 1}, {"u5"}), "u5 is told of by the other one"


def test_a_store_that_lets_two_tell_at_once_is_found_out(
    two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piano_actions.store.wishes.is_held", lambda *_: False)
    with pytest.raises(AssertionError):
        test_of_one_reader_one_tells_at_a_time(two)


def test_of_two_who_tell_at_once_the_older_values_are_never_the_last(two: tuple[Store, Store]) -> None:
    """Each reads Piano, is slow, and writes; whoever noted the newest change must be the last to write."""
    piano, engage = {"value": 0}, list[int]()

    def push(store: Store) -> None:
        more = True
        while more:
            wishes, _ = store.take_wishes(["u1"])
            if not wishes:
                return
            read = piano["value"]
            time.sleep(0.02 * (read % 3))
            engage.append(read)
            more = bool(store.pushed({"u1": (wishes["u1"], "told")}))

    with ThreadPoolExecutor(8) as threads:
        for value in range(1, 25):
            piano["value"] = value
            two[value % 2].want_push("u1")
            threads.submit(push, two[value % 2])
            time.sleep(0.004)
    while two[0].due(limit=1):
        push(two[0])
    assert engage[-1] == 24
    assert engage == sorted(engage)


def test_what_one_postponed_the_other_takes_up(two: tuple[Store, Store]) -> None:
    two[0].want_push("u1")
    assert two[0].take_wishes(["u1"]) == ({"u1": 1}, set())
    two[0].postponed("u1", "Outage")
    assert two[1].due(limit=9) == []
    assert two[1].due(limit=9, every=True) == ["u1"]
    assert two[1].take_wishes(["u1"]) == ({"u1": 1}, set())
    two[1].leave_wishes(["u1"])
    assert two[0].take_wishes(["u1"]) == ({"u1": 1}, set())


def test_webhooks_that_two_processes_get_at_once_are_one_wish_each(two: tuple[Store, Store]) -> None:
    inboxes = [Inbox(store, tells=True) for store in two]
    events = [[event(f"u{number % 20}", f"{number}") for number in range(at, at + 10)] for at in range(0, 200, 10)]

    def keep(number: int) -> list[str]:
        return inboxes[number % 2].keep(events[number // 2])

    with ThreadPoolExecutor(8) as threads:
        words = [word for some in threads.map(keep, range(40)) for word in some]
    assert (len(words), len(inboxes[0].events(limit=999))) == (400, 200)
    assert {one["times"] for one in inboxes[0].events(limit=999)} == {2}
    assert len(two[1].pushes()) == 20


def test_of_a_pool_each_code_goes_to_one_reader(two: tuple[Store, Store]) -> None:
    def reserve(number: int) -> str:
        store, reader = two[number % 2], f"u{number // 2}"
        while not (code := store.code_of("PROMO", reader)):
            for free in store.free_codes("PROMO", [f"C{n}" for n in range(30)])[:1]:
                store.reserve("PROMO", reader, free)
        return code

    with ThreadPoolExecutor(8) as threads:
        codes = list(threads.map(reserve, range(60)))
    assert [codes[at] == codes[at + 1] for at in range(0, 60, 2)] == [True] * 30
    assert {*codes} == {f"C{n}" for n in range(30)}


# Services


def settings_at(piano: Piano, folder: Path, url: str) -> dict[str, Any]:
    folder.mkdir()
    return settings_for(piano, folder, store_url=url)


def test_two_services_share_the_work_one_call_of_piano_and_fifty_equal_answers(
    piano: Piano, url: str, tmp_path: Path
) -> None:
    entry = piano.stopping("Dynamic")
    body = {"user_id": piano.uid(entry), "offer": "win-back"}
    first, second = (settings_at(piano, tmp_path / name, url) for name in ("a", "b"))
    with served(first, tmp_path / "a") as a, served(second, tmp_path / "b") as b, ThreadPoolExecutor(50) as threads:
        told = list(threads.map(lambda number: (a, b)[number % 2].ask("resubscribe", body), range(50)))
    assert {status for status, _ in told} == {200}
    assert len({json.dumps(answer, sort_keys=True) for _, answer in told}) == 1
    assert writes(piano) == 1


def test_a_service_whose_store_goes_away_says_so_and_goes_on_afterwards(
    piano: Piano,
    server: Postgres,
    tmp_path: Path,
) -> None:
    url, entry = server.database(tmp_path), piano.stopping("Dynamic")
    body = {"user_id": piano.uid(entry)}
    name = url.split("/")[3].split("?")[0]
    admin = sa.create_engine(url.replace(f"/{name}?", "/postgres?"), isolation_level="AUTOCOMMIT")
    with served(settings_at(piano, tmp_path / "a", url), tmp_path / "a") as service, admin.connect() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"))
        end = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
        connection.execute(end, {"name": name})
        status, told = service.ask("resubscribe", body)
        assert (status, told["error"]) == (503, "store")
        assert service.get("readyz").status_code == 503
        assert writes(piano) == 0
        connection.execute(sa.text(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true"))
        status, told = service.ask("resubscribe", body)
        assert (status, told["status"]) == (200, "done")
    admin.dispose()
    assert writes(piano) == 1


def test_when_the_end_of_an_action_cannot_be_noted_the_same_key_still_gets_it_once(
    piano: Piano, url: str, tmp_path: Path
) -> None:
    entry = piano.stopping("Dynamic")
    desk = desk_of(settings_at(piano, tmp_path / "a", url))
    request = Request("resubscribe", piano.uid(entry), {}, key="click")
    finish, failed = desk.store.finish, list[int]()

    def fails_once(*given: Any, **named: Any) -> None:  # noqa: ANN401 - those of `finish`
        if not failed:
            failed.append(1)
            raise sa.exc.OperationalError("COMMIT", {}, OSError(os.strerror(28)))
        finish(*given, **named)

    desk.store.finish = fails_once  # type: ignore[method-assign]
    with pytest.raises(sa.exc.OperationalError):
        desk.run(request)
    assert desk.run(request).status in {Status.DONE, Status.ALREADY}
    assert writes(piano) == 1
    desk.store.close()

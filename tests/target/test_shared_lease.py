"""The lease of a shared ledger: one has it, one that is dead loses it, one that lost it can do nothing any more."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import AccessRefused, ConfigRefused, Outage, StorageFailed
from target_recurly_engage.settings import SETTINGS
from target_recurly_engage.shared import lease as module
from target_recurly_engage.shared.custody import Custody
from target_recurly_engage.shared.lease import LeaseLost
from target_recurly_engage.shared.ledger import SharedLedger, open_for_writing
from target_recurly_engage.shared.pointer import Moved, Pointer

from tests.target.conftest import ROUNDS
from tests.target.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from piano_engage_sandbox.server import Server

LOGGER = logging.getLogger("tests")
DEFAULTS = {name: schema.get("default") for name, schema in SETTINGS["properties"].items()}
pytestmark = pytest.mark.usefixtures("one_session")
CONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")


@pytest.fixture
def shelf(server: Server, request: pytest.FixtureRequest) -> Iterator[Shelf]:
    one = Shelf.of(server, request)
    stored, app = one.gate._stored, one.gate._app
    yield one
    one.gate._stored, one.gate._app = stored, app


@pytest.fixture
def machine(shelf: Shelf, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Settings of a machine of that name."""
    return lambda name="a", **more: DEFAULTS | shelf.settings(tmp_path / name, **more)


def take(config: dict[str, Any], who: str = "run") -> SharedLedger:
    ledger = open_for_writing(config, who=who, logger=LOGGER)
    assert isinstance(ledger, SharedLedger)
    return ledger


def give_back(ledger: SharedLedger, note: str = "", *, passing: bool = False) -> None:
    if note:
        ledger.connection.execute("INSERT INTO salt VALUES (?)", [note])
    ledger.close()
    ledger.give_back(passing=passing)


def stop(ledger: SharedLedger) -> None:
    """As a kill leaves it: no more words, no more writes."""
    ledger.custody.lease.stop()
    ledger.connection.close()


# Taking


def test_what_one_machine_returned_the_next_has(shelf: Shelf, machine: Callable[..., dict[str, Any]]) -> None:
    for turn, name in enumerate(("a", "b", "a", "c")):
        with closing(take(machine(name))) as ledger:
            assert ledger.count("SELECT count(*) FROM salt") == turn
            give_back(ledger, str(turn))
    assert shelf.query("SELECT salt FROM salt ORDER BY ALL") == [("0",), ("1",), ("2",), ("3",)]
    assert (shelf.current["version"], shelf.current["holder"]) == (4, None)


def test_only_the_last_versions_are_kept(shelf: Shelf, machine: Callable[..., dict[str, Any]]) -> None:
    for turn in range(4):
        give_back(take(machine(ledger_versions=2)), str(turn))
    state = shelf.current
    names = [state["current"]["name"], *(one["name"] for one in state["kept"])]
    assert [name[:6] for name in names] == ["000004", "000003"]
    assert shelf.keys("versions/") == sorted(f"versions/{name}.duckdb" for name in names)


def test_versions_of_runs_that_failed_push_none_out_to_which_one_may_go_back(
    shelf: Shelf, machine: Callable[..., dict[str, Any]]
) -> None:
    expected = [
        "1",
        "21",
        "321",
        "4321",
        "5321",
        "6321",
        "732",
        "8732",
        "973",
    ]  # the newest first, of which three count
    for number, (kept, failed) in enumerate(zip(expected, "000111010", strict=True), start=1):
        give_back(take(machine(ledger_versions=3)), str(number), passing=failed == "1")
        state = shelf.current
        names = [state["current"]["name"], *(one["name"] for one in state["kept"])]
        assert "".join(str(int(name[:6])) for name in names) == kept, number
        assert shelf.keys("versions/") == sorted(f"versions/{name}.duckdb" for name in names)
    assert shelf.query("SELECT count(*) FROM salt") == [(9,)], "nothing of what failed runs noted is lost"


def test_what_nobody_named_is_removed_by_the_next_who_has_it(
    shelf: Shelf, machine: Callable[..., dict[str, Any]]
) -> None:
    give_back(take(machine()), "first")
    shelf.put("versions/000002-0f0f0f0f.duckdb", b"of a run that broke off")
    shelf.put(f"sending/{'0f' * 16}.parquet", b"the same")
    shelf.put("title.duckdb/versions/000001-0f0f0f0f.duckdb", b"of a ledger below this one")
    give_back(take(machine("b")), "second")
    names = [one["name"] for one in (*shelf.current["kept"], shelf.current["current"])]
    assert shelf.keys() == ["current.json", "probe", "title.duckdb/versions/000001-0f0f0f0f.duckdb",
        *(f"versions/{name}.duckdb" for name in names),
    ]  # fmt: skip


def test_a_ledger_that_was_not_changed_makes_no_version(shelf: Shelf, machine: Callable[..., dict[str, Any]]) -> None:
    give_back(take(machine()), "first")
    before = shelf.current["current"]
    give_back(take(machine("b")))
    assert (shelf.current["current"], shelf.current["holder"]) == (before, None)


def test_a_copy_that_is_broken_is_put_aside_and_brought_anew(
    shelf: Shelf, machine: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    give_back(take(machine()), "first")
    (copy,) = (tmp_path / "a").rglob("*.duckdb")
    copy.write_bytes(b"\0" * 20_000)
    give_back(take(machine()), "second")
    assert "put aside" in caplog.text
    assert shelf.query("SELECT count(*) FROM salt") == [(2,)]
    assert len(list((tmp_path / "a").rglob("*.aside"))) == 1


def test_a_ledger_of_a_newer_program_is_left_alone(
    shelf: Shelf, machine: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    ledger = take(machine())
    ledger.connection.execute("UPDATE ledger SET version = version + 1")
    give_back(ledger)
    before = shelf.current["current"]
    with pytest.raises(StorageFailed, match="Install the newer"):
        take(machine())
    assert (shelf.current["current"], shelf.current["holder"]) == (before, None)
    assert list(tmp_path.rglob("*.aside")) == []


def test_a_version_that_is_another_file_is_not_believed(shelf: Shelf, machine: Callable[..., dict[str, Any]]) -> None:
    give_back(take(machine()), "first")
    shelf.put(f"versions/{shelf.current['current']['name']}.duckdb", b"another file")
    with pytest.raises(Outage, match="its SHA-256 differs"):
        take(machine("b"))
    assert shelf.current["holder"] is None


def test_of_eight_who_come_at_once_one_has_it(shelf: Shelf, machine: Callable[..., dict[str, Any]]) -> None:
    shelf.watch()
    together, held, refused = threading.Barrier(8), [], []

    def come(number: int) -> None:
        together.wait()
        try:
            held.append(Custody(machine(str(number)), who=f"run {number}", logger=LOGGER))
        except StorageFailed as e:
            refused.append(str(e))

    threads = [threading.Thread(target=come, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)
    held[0].let_go()
    assert all("is in use by another run" in words and "run " in words for words in refused)
    assert len({state["by"] for state in shelf.states}) == 1
    assert shelf.faults() == []


def test_a_contender_waits_as_long_as_he_is_told_and_then_has_it(
    machine: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, waits = take(machine("a")), threading.Event()
    monkeypatch.setattr(module, "LOOKS_SECONDS", 0.05)
    monkeypatch.setattr(module, "time", _Noting(waits))
    second: list[SharedLedger] = []
    thread = threading.Thread(target=lambda: second.append(take(machine("b", ledger_wait=60))))
    thread.start()
    assert waits.wait(30)
    give_back(first, "first")
    thread.join(30)
    assert second[0].count("SELECT count(*) FROM salt") == 1
    give_back(second[0])


class _Noting:
    """The module `time`, which notes that somebody sleeps."""

    def __init__(self, slept: threading.Event) -> None:
        self._slept = slept

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a module
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        self._slept.set()
        time.sleep(seconds)


def test_a_dead_holder_loses_it_by_the_servers_clock_and_no_sooner(
    shelf: Shelf, machine: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    stop(take(machine("a"), "the dead one"))
    shelf.age(seconds=110)  # of 120
    with pytest.raises(StorageFailed, match="the dead one"):
        take(machine("b"))
    shelf.age(seconds=20)
    ledger = take(machine("b"))
    assert "the dead one, of whom nothing was heard" in caplog.text
    give_back(ledger)


@pytest.mark.parametrize("year", ["1999", "2199"])
def test_what_a_holders_clock_says_counts_for_nothing(
    year: str, shelf: Shelf, machine: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_now", lambda _later=0: f"{year}-01-01T00:00:00+00:00")
    first = take(machine("a"))
    assert shelf.current["holder"]["until"].startswith(year)
    with pytest.raises(StorageFailed, match="in use"):
        take(machine("b"))
    stop(first)
    shelf.age()
    give_back(take(machine("b")))


def test_where_the_server_tells_no_time_a_contender_watches_for_as_long_as_the_lease(
    machine: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(take(machine("a")))
    read = Pointer.read
    timeless = lambda self: None if (seen := read(self)) is None else type(seen)(seen.content, seen.etag, None)  # noqa: E731
    monkeypatch.setattr(Pointer, "read", timeless)
    now = [0.0]
    monkeypatch.setattr(module, "_seconds", lambda: now[0])
    looks: list[float] = []

    class Time(_Noting):
        def sleep(self, seconds: float) -> None:
            looks.append(seconds)
            now[0] += seconds

    monkeypatch.setattr(module, "time", Time(threading.Event()))
    with pytest.raises(StorageFailed, match="in use"):
        take(machine("b", ledger_wait=100))
    now[0] += 1000  # another contender begins to watch anew
    began = now[0]
    give_back(take(machine("b", ledger_wait=150)))
    assert now[0] - began >= 120


# Losing


def test_who_was_taken_over_from_can_neither_send_nor_return(
    shelf: Shelf, machine: Callable[..., dict[str, Any]]
) -> None:
    shelf.watch()
    first = take(machine("a"))
    first.hold()
    shelf.age()
    second = take(machine("b"), "the second")
    with pytest.raises(LeaseLost, match=r"taken over by .*the second"):
        first.custody.lease.renew()
    with pytest.raises(LeaseLost):
        first.hold()
    give_back(second, "second")
    with pytest.raises(LeaseLost, match=r"NOT returned.*No STATE"):
        give_back(first, "first")
    assert shelf.query("SELECT salt FROM salt") == [("second",)]
    assert shelf.faults() == []
    assert len(shelf.keys("versions/")) == 1


def test_the_thread_that_renews_finds_out_by_itself(shelf: Shelf, machine: Callable[..., dict[str, Any]]) -> None:
    first = take(machine("a", ledger_lease_seconds=6))
    state = shelf.current
    shelf.put("current.json", json.dumps(state | {"by": "another", "fence": state["fence"] + 1}).encode())
    first.custody.lease._thread.join(30)  # type: ignore[union-attr]
    with pytest.raises(LeaseLost, match="taken over"):
        first.hold()
    stop(first)


def test_who_cannot_renew_stops_sending_at_half_of_the_lease_and_may_still_return(
    shelf: Shelf, machine: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, now = take(machine("a")), module._seconds()
    monkeypatch.setattr(module, "_seconds", lambda: now + 59)
    first.hold()
    monkeypatch.setattr(module, "_seconds", lambda: now + 61)
    with pytest.raises(LeaseLost, match="could not be renewed for 6"):
        first.hold()
    give_back(first, "first")
    assert shelf.query("SELECT salt FROM salt") == [("first",)]


def test_a_holder_who_returns_though_he_lost_it_is_found_out(
    shelf: Shelf, machine: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken double: it takes a refusal for a reason to look at the ETag again, and not at who wrote it."""
    shelf.watch()
    first = take(machine("a"))
    shelf.age()
    give_back(take(machine("b")), "second")
    write = Pointer.write

    def stubborn(self: Pointer, content: dict[str, Any], *, etag: str | None) -> str:
        try:
            return write(self, content, etag=etag)
        except Moved:
            seen = self.read()
            assert seen
            return write(self, content, etag=seen.etag)

    monkeypatch.setattr(Pointer, "write", stubborn)
    give_back(first, "first")
    assert len(shelf.faults()) == 3


# Servers


def heedless(shelf: Shelf) -> None:
    """Let the server forget all conditions; the signature was checked before."""
    app = shelf.gate._app

    def forget(environ: Any, start: Any) -> Any:  # noqa: ANN401 - WSGI
        if environ["REQUEST_METHOD"] == "PUT":
            for condition in CONDITIONS:
                environ.pop(condition, None)
        return app(environ, start)

    shelf.gate._app = forget


def test_a_server_that_does_not_heed_conditions_is_refused_before_anything_else(
    shelf: Shelf, machine: Callable[..., dict[str, Any]]
) -> None:
    heedless(shelf)
    for _ in range(2):  # also where the probe is there from an earlier run
        with pytest.raises(ConfigRefused, match="If-Match"):
            take(machine())
    assert shelf.keys() == ["probe"]


def test_who_does_not_probe_such_a_server_has_two_writers(
    shelf: Shelf, machine: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken double of the test above, and one of the checks of the storm."""
    shelf.watch()
    heedless(shelf)
    monkeypatch.setattr(Pointer, "probe", lambda _: None)
    first = take(machine("a"))
    shelf.age()
    give_back(take(machine("b")), "second")
    give_back(first, "first")
    assert shelf.faults() != []


def test_a_server_that_does_not_know_conditions_is_told_as_such(
    shelf: Shelf, machine: Callable[..., dict[str, Any]]
) -> None:
    app = shelf.gate._app

    def unknown(environ: Any, start: Any) -> Any:  # noqa: ANN401 - WSGI
        if not {*CONDITIONS} & environ.keys():
            return app(environ, start)
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        body = b"<Error><Code>NotImplemented</Code><Message>A header</Message></Error>"
        start("501 Not Implemented", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    shelf.gate._app = unknown
    with pytest.raises(ConfigRefused, match=r"does not know writes on a condition \(NotImplemented\)"):
        take(machine(retry_attempts=1))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"ledger": "s3://another-bucket/l.duckdb"}, AccessRefused, "Check ledger, ledger_s3_endpoint_url"),
        ({"ledger_aws_secret_access_key": "planted-secret"}, AccessRefused, "ledger_aws_access_key_id"),
        ({"ledger_aws_secret_access_key": None}, ConfigRefused, "go together"),
        ({"ledger_s3_endpoint_url": "http://127.0.0.1:9"}, Outage, "Nothing is lost"),
        ({"ledger": "s3://bucket"}, ConfigRefused, "must be s3://BUCKET/PATH"),
        ({"ledger": "gs://bucket/l.duckdb"}, ConfigRefused, "neither a path nor s3://"),
    ],
)
def test_what_cannot_be_used_is_told_with_the_setting(
    change: dict[str, Any], kind: type[Exception], words: str, machine: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(kind) as found:
        take(machine(retry_attempts=1) | change)
    assert words in str(found.value)
    assert "planted-secret" not in str(found.value)


def test_something_else_at_that_place_is_not_overwritten(shelf: Shelf, machine: Callable[..., dict[str, Any]]) -> None:
    storage = shelf.gate  # noqa: F841 - the server is there
    from piano_engage_sandbox.engage.bucket import Bucket  # noqa: PLC0415

    shelf.server.sandbox.part(Bucket)._storage.put(f"{shelf.key}/current.json", b"{}")  # type: ignore[union-attr]
    with pytest.raises(ConfigRefused, match="nothing that this program wrote"):
        take(machine())
    assert shelf.content("current.json") == b"{}"


# Answers that do not come


@pytest.mark.parametrize("number", range(1, 9) if ROUNDS > 1 else (3, 5, 7))
def test_an_answer_that_does_not_come_is_asked_after(
    number: int, shelf: Shelf, machine: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th request is done and its answer lost; the client asks again, and is refused for what it did itself."""
    from botocore.exceptions import EndpointConnectionError  # type: ignore[import-untyped]  # noqa: PLC0415
    from botocore.httpsession import URLLib3Session  # type: ignore[import-untyped]  # noqa: PLC0415

    shelf.watch()
    asked, original, sleep = [0], URLLib3Session.send, time.sleep

    def send(self: Any, request: Any) -> Any:  # noqa: ANN401 - botocore
        asked[0] += 1
        mine = asked[0]
        answer = original(self, request)
        if mine == number:
            assert answer.content is not None  # all of it came, and is lost
            raise EndpointConnectionError(endpoint_url=request.url)
        return answer

    monkeypatch.setattr(URLLib3Session, "send", send)
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    give_back(take(machine()), "once")
    assert asked[0] > number
    assert shelf.query("SELECT salt FROM salt") == [("once",)]
    assert (shelf.current["holder"], shelf.current["version"]) == (None, 1)
    assert shelf.faults() == []

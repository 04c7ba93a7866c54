"""Piano's webhooks in the service: what is taken, what goes into quarantine, and that Piano's state is what counts."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from click.testing import CliRunner
from piano_actions import inbox as inbox_module
from piano_actions import pushes
from piano_actions.cli import main
from piano_actions.inbox import Inbox
from piano_actions.service.hooks import Hooks
from piano_actions.store import Store
from piano_actions.tables import EVENTS, PUSHES, QUARANTINE
from piano_actions.webhooks import LONGEST_DATA, Event, Poison, Reader, unwrap, wrap
from piano_engage_sandbox import actions
from piano_engage_sandbox.piano.events import events_of
from piano_engage_sandbox.piano.webhooks import Webhooks
from piano_engage_sandbox.testing import serving
from pianosdk.utils import _decrypt, _encrypt
from tap_piano.answers import NotFound

from tests.actions.conftest import Piano, settings_for, store_url
from tests.actions.nights import Nights
from tests.actions.test_service import SECRET, served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result
    from piano_engage_sandbox.world import Change, Entry

KEY = "a-private-key-that-opens-nothing-and-is-long"
HOOK = "webhooks/piano"
ANY = {"version": 2, "type": "subscription_updated", "event": "subscription_resumed", "aid": "A1", "uid": "u1"}
READER = Reader(KEY, "A1")
UNTIL = 30.0
FREE = 16
"""Readers that the tests take, each one or some of his own."""


def wrapped(key: str = KEY, **changes: Any) -> str:  # noqa: ANN401 - JSON
    return _encrypt(key, json.dumps({**ANY, **changes}))


# Reading, with Piano's own SDK on the other side


@pytest.mark.parametrize("key", ["short", "x" * 32, "y" * 45])
@pytest.mark.parametrize("length", range(1, 34))
def test_the_sdk_reads_what_we_wrap_and_we_read_what_it_wraps(key: str, length: int) -> None:
    text = json.dumps({"t": "ü" + "a" * length}, ensure_ascii=False)
    assert unwrap(_encrypt(key, text), key) == text
    assert unwrap(_encrypt(key, text).split("~~~")[0], key) == text
    assert _decrypt(key, wrap(text, key)) == text
    assert unwrap(wrap(text, key, with_hmac=False), key) == text


def poison(data: str, reader: Reader = READER) -> str:
    with pytest.raises(Poison) as caught:
        reader.read(data)
    return caught.value.reason


def test_what_is_not_what_it_must_be_is_poison() -> None:
    good = wrapped()
    encoded, _, mac = good.partition("~~~")
    bad = {
        "wrong_hmac": [
            f"{encoded}~~~{mac[:-1]}", f"{encoded}~~~", f"{good}~~~{mac}", f"{encoded}~~~ü",
            f"{encoded[:-4]}AAAA~~~{mac}", wrapped("another-key"),
        ],
        "not_decrypted": ["?", "ü", encoded + "+/", encoded[:-3], "A" * 64, "", "=", f"{encoded}\n",
                          wrapped("another-key").split("~~~")[0]],
        "too_long": ["A" * (LONGEST_DATA + 1)],
        "no_json": [_encrypt(KEY, text) for text in ("nonsense", "[1]", "3", "[" * 20_000, "{")],
        "fields": [
            wrapped(type=None), wrapped(type=""), wrapped(aid=None), wrapped(uid=None), wrapped(uid=7), wrapped(uid={}),
            wrapped(uid="a\nb"), wrapped(uid="u" * 201), wrapped(subscription_id=["x"]), wrapped(type="a b"),
        ],
        "other_application": [wrapped(aid="A2")],
    }  # fmt: skip
    for reason, several in bad.items():
        assert [poison(data) for data in several] == [reason] * len(several)


def test_an_hmac_can_be_demanded() -> None:
    demanding = Reader(KEY, "A1", hmac=True)
    assert demanding.read(wrapped()).user_id == "u1"
    bare = wrapped().split("~~~", maxsplit=1)[0]
    assert READER.read(bare).user_id == "u1"
    assert poison(bare, demanding) == "hmac_missing"


@pytest.mark.parametrize(
    ("changes", "user_id", "word"),
    [
        ({"type": "test"}, None, "no_subscription"),
        ({"type": "user_created"}, None, "no_subscription"),
        ({"type": "moon_landing"}, None, "unknown_type"),
        ({"type": "moon_landing", "uid": None}, None, "unknown_type"),
        ({"type": "moon_landing", "subscription_id": "S1"}, "u1", None),
        ({"type": "access_granted", "event": None, "version": None}, "u1", None),
        ({"type": "term_change", "new_subscription_id": "S2", "junk": [{}]}, "u1", None),
    ],
)
def test_of_an_event_only_what_is_needed_is_read(
    changes: dict[str, Any], user_id: str | None, word: str | None
) -> None:
    event = READER.read(wrapped(**changes))
    assert (event.user_id, event.word) == (user_id, word)


# The inbox


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(store_url(tmp_path))
    yield one
    one.close()


def event(**changes: Any) -> Event:  # noqa: ANN401 - JSON
    return READER.read(wrapped(**changes))


def test_a_thousand_times_the_same_is_one_event_and_one_wish(store: Store) -> None:
    inbox = Inbox(store, tells=True)
    words = [word for _ in range(10) for word in inbox.keep([event()] * 100)]
    assert (words[0], set(words[1:])) == ("waiting", {"repeated"})
    (row,) = inbox.events(limit=10)
    assert (row["times"], row["state"], len(store.pushes())) == (10, "waiting", 1)


def test_what_comes_again_after_the_work_is_worked_on_again_but_later(store: Store) -> None:
    inbox = Inbox(store, tells=True)
    inbox.keep([event()])
    store.pushed({"u1": (store.take_wishes(["u1"])[0]["u1"], "told")})
    assert [one["state"] for one in inbox.events(limit=10)] == ["told"]
    before = time.time()
    inbox.keep([event()])
    assert [one["state"] for one in inbox.events(limit=10)] == ["waiting"]
    (wish,) = store.pushes()
    assert before + 25 < wish["next_at"] < time.time() + inbox_module.REPEAT_SECONDS
    inbox.keep([event(event="subscription_deferred_canceled")])
    (wish,) = store.pushes()
    assert wish["next_at"] < time.time() + 1, "what was not seen before is not kept waiting"


def test_what_comes_while_a_reader_is_read_has_him_read_again(store: Store) -> None:
    inbox = Inbox(store, tells=True)
    inbox.keep([event()])
    wishes, _ = store.take_wishes(["u1"])
    inbox.keep([event()])
    store.pushed({"u1": (wishes["u1"], "told")})
    assert store.take_wishes(["u1"]) == ({"u1": 2}, set())
    assert [one["state"] for one in inbox.events(limit=10)] == ["waiting"]


def test_while_piano_or_engage_is_down_events_do_not_hurry(store: Store) -> None:
    inbox = Inbox(store, tells=True)
    inbox.keep([event()])
    for _ in range(8):
        store.postponed("u1", "Outage")
    (before,) = store.pushes()
    inbox.keep([event(event="other")])
    (after,) = store.pushes()
    assert (after["next_at"], after["attempts"]) == (before["next_at"], 8)


def test_nobodys_address_is_kept(store: Store, tmp_path: Path) -> None:
    inbox = Inbox(store, tells=True)
    inbox.keep([event(user_email="lea@example.com"), (Poison("wrong_hmac"), wrapped(user_email="lea@example.com"))])
    inbox.keep([(Poison("not_decrypted"), '{"user_email":"lea@example.com"}')])
    assert [one["kept"] for one in inbox.quarantined(limit=10)] == [False, True]
    store.close()
    assert b"example.com" not in b"".join(path.read_bytes() for path in tmp_path.glob("inbox.db*"))


def test_what_is_old_is_forgotten_but_not_what_waits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox(store, tells=True, days=7)
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr("piano_actions.inbox.time.time", lambda: now - 8 * 86400)
        inbox.keep([event(), event(type="test"), (Poison("no_json"), "AAAA")])
    inbox.keep([event(type="test", timestamp=2), (Poison("no_json"), "BBBB")])
    inbox.sweep()
    assert sorted(one["state"] for one in inbox.events(limit=10)) == ["ignored", "waiting"]
    assert len(inbox.quarantined(limit=10)) == 1
    monkeypatch.setattr(inbox_module, "QUARANTINED", 3)
    for number in range(6):
        inbox.keep([(Poison("not_decrypted"), f"?{number}")])
    inbox.sweep()
    assert len(inbox.quarantined(limit=10)) == 3


def test_quarantine_cannot_fill_the_disk_between_two_sweeps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "QUARANTINED", 50)
    inbox = Inbox(store, tells=True)
    for number in range(0, 1000, 20):
        inbox.keep([(Poison("not_decrypted"), f"JUNK{number + n}") for n in range(20)])
        assert inbox.counts()["webhooks_quarantined"] <= 50 + inbox_module.TRIMMED_EVERY


def test_a_replay_of_many_events_does_not_hold_up_the_service(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "REPLAYED_TOGETHER", 10)
    inbox = Inbox(store, tells=True)
    inbox.keep([event(uid=f"u{number % 60}", at=number) for number in range(99)])
    with store.transaction() as connection:
        connection.execute(PUSHES.delete())
        connection.execute(EVENTS.update().values(state="told"))
    held, real = list[int](), Store.want_soon

    def counted(self: Store, connection: Any, wishes: dict[str, float]) -> None:  # noqa: ANN401 - of SQLAlchemy
        held.append(len(wishes))
        real(self, connection, wishes)

    monkeypatch.setattr(Store, "want_soon", counted)
    assert inbox.replay() == 99
    assert (max(held), len(held)) == (10, 10)
    assert (len(store.pushes()), len(inbox.events(limit=999, state="waiting"))) == (60, 99)


# Over sockets, from the sandbox


@pytest.fixture(scope="module")
def world() -> Iterator[Piano]:
    """One sandbox for all tests below, each of which takes another reader."""
    quick = {"engage.csv_delay": 0, "webhooks.first_pause": 0.05, "webhooks.longest_pause": 0.1}
    with serving(rows=450, switches=quick) as server:
        yield Piano(server)


@pytest.fixture(scope="module")
def free(world: Piano) -> list[Entry]:
    """Subscriptions that renew by themselves, of readers who have no other."""
    return [
        one
        for one in world.world.entries.values()
        if one.state.status == "Active" and one.fate.term.type == "Dynamic" and one.state.auto_renew
        and one.state.upgrade_status == "No upgrade" and one.state.charge_count > 0 and world.alone(one)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def nights(world: Piano, free: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> Nights:
    assert len(free) >= FREE
    one = Nights(world, tmp_path_factory.mktemp("nights"))
    one.run()
    return one


@pytest.fixture
def settings(world: Piano, nights: Nights, tmp_path: Path) -> dict[str, Any]:
    key = world.app.private_key
    return settings_for(world, tmp_path, target_config=str(nights.config), private_key=key, retry_attempts=1)


@pytest.fixture
def sends(world: Piano) -> Iterator[Callable[..., dict[str, Any]]]:
    """Set where the sandbox's webhooks go; after a test nowhere."""
    hooks = world.server.sandbox.part(Webhooks)

    def configure(**given: Any) -> dict[str, Any]:  # noqa: ANN401 - those of the sandbox
        return world.server.call(lambda: hooks.configure(world.app.aid, **given))

    yield configure
    for one in world.server.call(lambda: hooks.log(world.app.aid)):
        if world.server.call(lambda one=one: hooks.settings(world.app.aid).waits(one)):
            world.server.call(lambda one=one: hooks.skip(one.id))
    configure(url="")
    world.server.control("DELETE", "faults")


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + UNTIL
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def renewal(world: Piano, entry: Entry, *, on: bool) -> None:
    do = actions.resume if on else actions.cancel_deferred
    world.server.call(lambda: do(world.world, entry))


def payloads(world: Piano, work: Callable[[], object]) -> list[dict[str, Any]]:
    """Give the events that something causes."""
    found: list[dict[str, Any]] = []

    def hear(change: Change) -> None:
        found.extend(events_of(change, aid=world.app.aid, world=world.world))

    listeners = world.world.listeners
    listeners.append(hear)
    work()
    listeners.remove(hear)
    return found


def ask(folder: Path, settings: dict[str, Any], *arguments: str) -> Result:
    path = folder / "asked.json"
    path.write_text(json.dumps(settings))
    return CliRunner().invoke(main, ["--config", str(path), "webhooks", *arguments, "--json"])


def found(folder: Path, settings: dict[str, Any], *arguments: str) -> Any:  # noqa: ANN401 - JSON
    answer = ask(folder, settings, *arguments)
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


OTHERWISE = {"method": "POST", "padding": "none", "hmac": False, "absent": "left_out"}
"""Switches of the sandbox, for all that is not sure about how Piano sends."""


@pytest.mark.parametrize("switches", [{}, OTHERWISE])
def test_what_changes_at_piano_engage_knows_soon(
    world: Piano, nights: Nights, free: list[Entry], settings: dict[str, Any], tmp_path: Path,
    sends: Callable[..., dict[str, Any]], switches: dict[str, Any],
) -> None:  # fmt: skip
    entry, before = free.pop(), {}
    uid = world.uid(entry)
    for name, value in switches.items():
        before[name] = getattr(world.server.sandbox.switches.webhooks, name)
        world.server.control("POST", "switches", {f"webhooks.{name}": value})
    with served(settings, tmp_path) as service:
        sends(url=f"{service.url}/{HOOK}?from=piano")
        renewal(world, entry, on=False)
        until(lambda: nights.holds(uid)["auto_renew"] == "false")
        until(lambda: found(tmp_path, settings, "list", "--user", uid)[0]["state"] in {"told", "nothing"})
        assert sends()["counts"].get("FAILED", 0) == 0
        text = service.get("metrics", **service.headers).text
        assert 'piano_actions_webhooks_total{became="waiting"}' in text
        assert "piano_actions_webhooks_quarantined 0" in text
        rows = found(tmp_path, settings, "list", "--user", uid)
        assert {one["subscription_id"] for one in rows} == {entry.id}
        assert uid not in json.dumps(rows)
    for name, value in before.items():
        world.server.control("POST", "switches", {f"webhooks.{name}": value})


def test_poison_is_answered_with_200_and_shown_and_taken_once_the_key_is_right(
    world: Piano, free: list[Entry], settings: dict[str, Any], tmp_path: Path
) -> None:
    entry = free.pop()
    (payload, *_) = payloads(world, lambda: renewal(world, entry, on=False))
    good = _encrypt(world.app.private_key, json.dumps(payload))
    wrong = settings | {"private_key": KEY}
    with served(wrong, tmp_path) as service:
        url = f"{service.url}/{HOOK}"
        calls = [
            requests.get(url, timeout=20),
            requests.post(url, timeout=20),
            requests.get(url, params={"data": good}, timeout=20),
            requests.get(url, params={"data": good}, timeout=20),
            requests.post(url, data={"data": good + "x"}, timeout=20),
            requests.post(url, data={"other": "1"}, timeout=20),
            requests.get(url, params={"data": "A" * (LONGEST_DATA + 1)}, timeout=20),
            requests.post(url, data={"data": "A" * 1_000_000}, timeout=20),
            requests.post(url, data={"data": _encrypt(KEY, json.dumps(payload | {"aid": "other"}))}, timeout=20),
        ]
        assert [one.status_code for one in calls] == [200] * 9
        assert 'webhooks_total{became="quarantine"} 7' in service.get("metrics", **service.headers).text
    rows = found(tmp_path, wrong, "quarantine")
    assert sorted((one["reason"], one["times"], one["kept"]) for one in rows) == [
        ("not_decrypted", 1, False), ("other_application", 1, True), ("too_long", 1, False), ("too_long", 1, False),
        ("wrong_hmac", 1, True), ("wrong_hmac", 2, True),
    ]  # fmt: skip
    assert found(tmp_path, wrong, "list") == []
    counts = found(tmp_path, settings, "replay", "--quarantine")
    assert (counts["taken"], counts["still_poison"], counts["told"]) == (1, 2, 1)
    (row,) = found(tmp_path, settings, "list")
    assert (row["subscription_id"], row["state"]) == (entry.id, "told")
    assert len(found(tmp_path, settings, "quarantine")) == 5


def test_without_a_key_there_is_no_such_page_and_the_key_must_be_ascii(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    with served(settings | {"private_key": None}, tmp_path) as service:
        assert service.get(f"{HOOK}?data=x").status_code == 404
    answer = ask(tmp_path, settings | {"private_key": "ü"}, "replay", "--quarantine")
    assert answer.exit_code == 78
    assert ask(tmp_path, settings, "replay").exit_code == 2


def storm(world: Piano, nights: Nights, entries: list[Entry], settings: dict[str, Any], tmp_path: Path) -> None:
    """Send events of changes shuffled and doubled, with junk among them, and compare Engage with Piano."""
    chance = random.Random(7)  # noqa: S311 - no secret
    sent = []
    for entry in entries:
        turns = chance.choice([1, 2, 3, 4])
        for turn in range(turns):
            sent += payloads(world, lambda entry=entry, turn=turn: renewal(world, entry, on=turn % 2 == 1))
    calls = [_encrypt(world.app.private_key, json.dumps(one)) for one in sent * 2]
    calls += [_encrypt(KEY, "{}"), "x", _encrypt(world.app.private_key, "null")] * 5
    chance.shuffle(calls)
    with served(settings, tmp_path) as service, requests.Session() as session:
        for data in calls:
            assert session.get(f"{service.url}/{HOOK}", params={"data": data}, timeout=20).status_code == 200
        until(lambda: json.loads(_pending(tmp_path, settings).stdout) == [])
    for entry in entries:
        assert nights.holds(world.uid(entry))["auto_renew"] == str(entry.state.auto_renew).lower()


def _pending(folder: Path, settings: dict[str, Any]) -> Result:
    path = folder / "asked.json"
    path.write_text(json.dumps(settings))
    return CliRunner().invoke(main, ["--config", str(path), "traits", "pending", "--json"])


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let repeated events not wait."""
    monkeypatch.setattr(inbox_module, "REPEAT_SECONDS", 0.1)


@pytest.mark.usefixtures("at_once")
def test_shuffled_and_doubled_events_end_in_pianos_state(
    world: Piano, nights: Nights, free: list[Entry], settings: dict[str, Any], tmp_path: Path
) -> None:
    storm(world, nights, [free.pop() for _ in range(4)], settings, tmp_path)


@pytest.mark.usefixtures("at_once")
def test_a_double_that_believes_the_last_event_is_found_out(
    world: Piano, nights: Nights, free: list[Entry], settings: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    last: dict[str, bool] = {}
    read, real = Reader.read, pushes.read

    def listen(self: Reader, data: str) -> Event:
        one = read(self, data)
        last[one.subscription_id or ""] = json.loads(one.content)["auto_renew"]
        return one

    def believe(piano: Any, subscription_id: str) -> Any:  # noqa: ANN401 - of ours
        one = real(piano, subscription_id)
        if one is not None:
            one.item["auto_renew"] = last.get(subscription_id, one.item["auto_renew"])
        return one

    monkeypatch.setattr(Reader, "read", listen)
    monkeypatch.setattr(pushes, "read", believe)
    with pytest.raises(AssertionError):
        storm(world, nights, [free.pop() for _ in range(4)], settings, tmp_path)


def restarted(
    world: Piano, nights: Nights, entry: Entry, settings: dict[str, Any], tmp_path: Path,
    sends: Callable[..., dict[str, Any]],
) -> None:  # fmt: skip
    """Let the service end between storing and working, while Piano is down, and start it again."""
    uid = world.uid(entry)
    world.fault("subscription/list", status=503)
    with served(settings, tmp_path) as service:
        sends(url=f"{service.url}/{HOOK}")
        renewal(world, entry, on=False)
        until(lambda: sends()["waiting"] == 0)
    sends(url="")
    assert nights.holds(uid)["auto_renew"] == "true"
    world.server.control("DELETE", "faults")
    with served(settings, tmp_path):
        until(lambda: json.loads(_pending(tmp_path, settings).stdout) == [])
        assert nights.holds(uid)["auto_renew"] == "false"


def test_what_was_stored_is_worked_on_after_a_restart(
    world: Piano, nights: Nights, free: list[Entry], settings: dict[str, Any], tmp_path: Path,
    sends: Callable[..., dict[str, Any]],
) -> None:  # fmt: skip
    restarted(world, nights, free.pop(), settings, tmp_path, sends)


def test_a_double_that_loses_its_inbox_is_found_out(
    world: Piano, nights: Nights, free: list[Entry], settings: dict[str, Any], tmp_path: Path,
    sends: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Inbox, "keep", lambda _self, arrivals: ["waiting"] * len(arrivals))
    with pytest.raises(AssertionError):
        restarted(world, nights, free.pop(), settings, tmp_path, sends)


def test_a_kill_after_the_answer_loses_nothing(
    world: Piano, nights: Nights, free: list[Entry], settings: dict[str, Any], tmp_path: Path,
    sends: Callable[..., dict[str, Any]],
) -> None:  # fmt: skip
    entry = free.pop()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    path = tmp_path / "process.json"
    path.write_text(json.dumps({**settings, "secrets": SECRET, "port": port}))
    world.server.control("POST", "faults", {"part": "engage", "status": 503})
    sends(url=f"http://127.0.0.1:{port}/{HOOK}")
    renewal(world, entry, on=False)
    command = [Path(sys.executable).with_name("piano-actions"), "--config", path, "serve"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until(lambda: sends()["waiting"] == 0)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    sends(url="")
    world.server.control("DELETE", "faults")
    assert nights.holds(world.uid(entry))["auto_renew"] == "true"
    with served(settings, tmp_path):
        until(lambda: nights.holds(world.uid(entry))["auto_renew"] == "false")


def test_when_nothing_can_be_stored_piano_has_to_come_again(
    settings: dict[str, Any], tmp_path: Path, world: Piano
) -> None:
    with served(settings, tmp_path) as service:
        store = Store(settings["store_url"])
        for table in (EVENTS, QUARANTINE):
            table.drop(store.engine)
        store.close()
        data = _encrypt(world.app.private_key, json.dumps({**ANY, "aid": world.app.aid}))
        assert [service.get(f"{HOOK}?data={one}").status_code for one in (data, "x")] == [503, 503]
        assert service.get(HOOK).status_code == 200


def test_who_tells_of_readers_stands_back_while_somebody_calls(
    settings: dict[str, Any], tmp_path: Path, world: Piano, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, made, keep, begin = threading.Event(), list[Hooks](), Inbox.keep, Hooks.__init__

    def slow(self: Inbox, arrivals: Any) -> list[str]:  # noqa: ANN401 - as it is called
        assert gate.wait(30)
        return keep(self, arrivals)

    def noted(self: Hooks, *given: Any) -> None:  # noqa: ANN401 - as it is called
        begin(self, *given)
        made.append(self)

    monkeypatch.setattr(Inbox, "keep", slow)
    monkeypatch.setattr(Hooks, "__init__", noted)
    monkeypatch.setattr("piano_actions.service.hooks.COURTESY_SECONDS", 30)
    data = _encrypt(world.app.private_key, json.dumps({**ANY, "aid": world.app.aid}))
    with served(settings, tmp_path) as service, ThreadPoolExecutor(2) as pool:
        (hooks,) = made
        hooks.courtesy()
        call = pool.submit(service.get, f"{HOOK}?data={data}")
        until(lambda: not hooks._idle.is_set())
        standing = pool.submit(hooks.courtesy)
        with pytest.raises(TimeoutError):
            standing.result(0.2)
        gate.set()
        assert call.result().status_code == 200
        standing.result(10)


def test_without_engages_key_events_are_left_to_the_night_and_events_are_replayed_by_id_or_days(
    world: Piano, nights: Nights, free: list[Entry], settings: dict[str, Any], tmp_path: Path
) -> None:
    entry = free.pop()
    sent = payloads(world, lambda: renewal(world, entry, on=False))
    with served(settings | {"push": False}, tmp_path) as service:
        for payload in [*sent, {**sent[0], "type": "moon_landing", "subscription_id": None}]:
            data = _encrypt(world.app.private_key, json.dumps(payload))
            assert service.get(f"{HOOK}?data={data}").status_code == 200
    rows = found(tmp_path, settings, "list")
    assert sorted({(one["state"], one["word"]) for one in rows}, key=str) == [
        ("ignored", "unknown_type"),
        ("left", None),
    ]
    assert ask(tmp_path, settings | {"push": False}, "replay", "--days", "1").exit_code == 78
    left = next(one for one in rows if one["state"] == "left")
    assert found(tmp_path, settings, "replay", left["id"][:12])["told"] == 1
    assert nights.holds(world.uid(entry))["auto_renew"] == "false"
    assert found(tmp_path, settings, "replay", "--days", "1")["nothing"] == 1
    assert {one["state"] for one in found(tmp_path, settings, "list", "--state", "nothing")} == {"nothing"}
    assert len(CliRunner().invoke(main, ["--config", str(tmp_path / "asked.json"), "webhooks", "list"]).output) > 50


def test_a_reader_whom_piano_does_not_know_is_crossed_out(
    world: Piano, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: object) -> None:
        msg = "no such user"
        raise NotFound(msg, 2004)

    monkeypatch.setattr(pushes, "of_reader", nobody)
    store = Store(settings["store_url"])
    data = _encrypt(world.app.private_key, json.dumps({**ANY, "aid": world.app.aid, "uid": "nobody"}))
    Inbox(store, tells=True).keep([Reader(world.app.private_key, world.app.aid).read(data)])
    with store.engine.begin() as connection:
        connection.execute(PUSHES.update().values(next_at=0.0))
    store.close()
    assert found(tmp_path, settings, "replay", "--days", "1")["unknown"] == 1
    assert [one["state"] for one in found(tmp_path, settings, "list")] == ["unknown"]
    assert json.loads(_pending(tmp_path, settings).stdout) == []

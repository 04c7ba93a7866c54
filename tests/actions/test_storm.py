"""A storm of Piano's webhooks: shuffled, doubled, some poisoned, the receiver killed in the midst of it.

The sender does as Piano: what is not answered with 200 is sent again. FAULT_ROUNDS=10 makes it 10,000 events and three
kills.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from piano_actions.webhooks import wrap
from piano_engage_sandbox import actions
from piano_engage_sandbox.testing import serving

from tests.actions.conftest import Piano, settings_for
from tests.actions.nights import Nights
from tests.actions.test_webhooks import HOOK, KEY, payloads

if TYPE_CHECKING:
    from pathlib import Path

    from piano_engage_sandbox.world import Entry

FULL = int(os.environ.get("FAULT_ROUNDS", "1")) >= 10
EVENTS, KILLS, READERS = (10_000, 3, 1_500) if FULL else (300, 1, 50)
SENDERS = 6
UNTIL = 2000.0 if FULL else 60.0
SECRET = "a-secret-for-tests-only"  # noqa: S105 - of no use elsewhere
SERVE = """
import sys
from piano_actions import inbox
inbox.REPEAT_SECONDS = 1.0
{}
from piano_actions.cli import main
main(sys.argv[1:])
"""
LOSES = """
keep, first = inbox.Inbox.keep, iter([True])
inbox.Inbox.keep = lambda self, arrivals: keep(self, arrivals) if next(first, False) else ["waiting"] * len(arrivals)
"""
"""A double that answers before it stores, and is gone in between, but for the first time."""


@dataclass
class Receiver:
    """The service as a process, which can be killed and started again."""

    config: Path
    port: int
    double: str = ""
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    def start(self) -> None:
        command = [sys.executable, "-c", SERVE.format(self.double), "--config", self.config, "serve"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.starts += 1

    def end(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(60)


@dataclass
class Sender:
    """Sends each event until it is answered with 200."""

    port: int
    at: dict[int, Any]
    """What to do once so many events were taken."""
    taken: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, calls: list[str]) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            for data in calls:
                while not self._takes(connection, data):
                    connection.close()
                    time.sleep(0.05)
                self._count()

    def _takes(self, connection: http.client.HTTPConnection, data: str) -> bool:
        try:
            connection.request("GET", f"/{HOOK}?{urllib.parse.urlencode({'data': data})}")
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return False
        return answer.status == 200

    def _count(self) -> None:
        with self.lock:
            self.taken += 1
            work = self.at.get(self.taken)
            if work:
                work()


def changes(piano: Piano, entries: list[Entry], chance: random.Random, count: int) -> list[str]:
    """Let readers change their minds, and give so many events of it."""
    found: list[str] = []
    turn = dict.fromkeys(range(len(entries)), 0)
    while len(found) < count:
        who = chance.randrange(len(entries))
        entry, on = entries[who], turn[who] % 2 == 1
        turn[who] += 1
        do = actions.resume if on else actions.cancel_deferred
        found += map(json.dumps, payloads(piano, lambda entry=entry, do=do: do(piano.world, entry)))
    return found[:count]


def poison(piano: Piano, events: list[str], count: int) -> list[str]:
    """Make so many that cannot be used, each another one."""
    kinds = (
        lambda text, n: wrap(json.dumps({**json.loads(text), "n": n}), KEY),
        lambda _text, n: f"junk-{n}",
        lambda text, n: wrap(json.dumps({**json.loads(text), "aid": "other", "n": n}), piano.app.private_key),
        lambda _text, n: wrap(f"[{n}]", piano.app.private_key),
    )
    return [kinds[n % len(kinds)](events[n % len(events)], n) for n in range(count)]


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        return connection.execute(query).fetchall()


def storm(folder: Path, *, events: int, kills: int, readers: int, double: str = "") -> None:
    """Raise a storm, and look whether all is as it must be afterwards."""
    chance = random.Random(events)  # noqa: S311 - no secret
    with serving(rows=8 * readers) as server, socket.socket() as free:
        piano = Piano(server)
        nights = Nights(piano, folder)
        nights.run()
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        path, more = folder / "storm.json", {"private_key": piano.app.private_key, "secrets": SECRET, "port": port}
        more["store_url"] = f"sqlite:///{folder / 'actions.db'}"  # looked into below
        path.write_text(json.dumps(settings_for(piano, folder, target_config=str(nights.config), **more)))
        entries = [
            one
            for one in piano.world.entries.values()
            if one.state.status == "Active" and one.fate.term.type == "Dynamic" and one.state.auto_renew
            and one.state.upgrade_status == "No upgrade" and piano.alone(one)
            and nights.holds(piano.uid(one))["lifecycle_stage"] == "active"
        ][:readers]  # fmt: skip
        untouched = {uid: nights.holds(uid) for uid in map(piano.uid, piano.world.entries.values())}
        bad = events // 50
        good = changes(piano, entries, chance, (events - bad) // 2)
        junk = poison(piano, good, bad)
        calls = [wrap(text, piano.app.private_key) for text in good] * 2 + junk
        chance.shuffle(calls)
        receiver = Receiver(path, port, double)

        def kill() -> None:
            receiver.end(signal.SIGKILL)
            receiver.start()

        sender = Sender(port, {len(calls) * (one + 1) // (kills + 1): kill for one in range(kills)})
        receiver.start()
        with ThreadPoolExecutor(SENDERS) as pool:
            list(pool.map(sender.send, [calls[one::SENDERS] for one in range(SENDERS)]))
        try:
            end = time.monotonic() + UNTIL
            while rows(folder / "actions.db", "SELECT count(*) FROM pushes") != [(0,)]:
                assert time.monotonic() < end
                time.sleep(0.2)
        finally:
            receiver.end(signal.SIGTERM)
        assert (sender.taken, receiver.starts) == (len(calls), kills + 1)
        assert rows(folder / "actions.db", "SELECT count(*) FROM events") == [(len(set(good)),)]
        states = dict(rows(folder / "actions.db", "SELECT state, count(*) FROM events GROUP BY state"))
        assert set(states) <= {"told", "nothing"}, states
        assert rows(folder / "actions.db", "SELECT count(*) FROM quarantine") == [(len(junk),)]
        touched = {piano.uid(one): one for one in entries}
        for uid, one in touched.items():
            held, renews = nights.holds(uid), one.state.auto_renew
            assert held["auto_renew"] == str(renews).lower()
            assert held["lifecycle_stage"] == ("active" if renews else "pending_cancel")
            assert (held["next_billing_date"] == "9999-12-31") is not renews
        assert {uid: nights.holds(uid) for uid in untouched if uid not in touched} == {
            uid: traits for uid, traits in untouched.items() if uid not in touched
        }


@pytest.mark.timeout(3000 if FULL else 300)
def test_a_storm_ends_in_pianos_state_and_nothing_is_lost(tmp_path: Path) -> None:
    storm(tmp_path, events=EVENTS, kills=KILLS, readers=READERS)


def test_a_receiver_that_answers_before_it_stores_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        storm(tmp_path, events=60, kills=0, readers=10, double=LOSES)

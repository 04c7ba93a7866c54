"""Every action as a process of its own, killed with SIGKILL before and after each request and each commit.

However far it came: once it is gone on with, Piano was asked for the change once, the answer is that of an action that
went well, Engage holds what Piano says, and nothing is left over.
"""

from __future__ import annotations

import json
import random
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from piano_actions.store import Store
from piano_engage_sandbox.engage.ping import Pings
from piano_engage_sandbox.testing import serving

from tests import warm
from tests.actions.conftest import OPENED, Piano, settings_for
from tests.actions.nights import Nights
from tests.actions.test_promos import CREATE, SUMMER, buyer, codes, take_all
from tests.actions.test_resubscribe import RESUME
from tests.actions.test_upgrade import CANCEL, DO, MONTHLY, PREMIUM, PREMIUM_YEARLY, YEARLY, alone_on
from tests.target.conftest import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from subprocess import CompletedProcess

    from piano_engage_sandbox.world import Entry

pytestmark = pytest.mark.xdist_group("actions, killed")  # the first night is once for all

DIES = """
import itertools, os
from requests.adapters import HTTPAdapter
from sqlalchemy.engine.default import DefaultDialect
at, count = {at}, itertools.count(1)
def step():
    number = next(count)
    if number == at:
        os.kill(os.getpid(), 9)
    if at == 0:
        with open({path!r}, "w") as file:
            file.write(str(number))
def around(original):
    def call(*given, **named):
        step()
        found = original(*given, **named)
        step()
        return found
    return call
HTTPAdapter.send = around(HTTPAdapter.send)
DefaultDialect.do_commit = around(DefaultDialect.do_commit)
"""


@dataclass
class Killed:
    """A sandbox, its readers after a first night, and commands that may die."""

    piano: Piano
    nights: Nights
    stopped: list[str]
    folder: Path
    more: dict[str, Any] = field(default_factory=dict)
    double: str = ""

    def __post_init__(self) -> None:
        """Write the settings, and open the notes to look at them."""
        self.tracker = next(iter(self.piano.server.sandbox.part(Pings).trackers))
        settings = settings_for(
            self.piano, self.folder, target_config=str(self.nights.config), request_timeout=20, tracker=self.tracker,
            **self.more,
        )  # fmt: skip
        (self.folder / "config.json").write_text(json.dumps(settings))
        OPENED.append(Store(settings["store_url"]))
        self.store = OPENED[-1]

    def run(self, *command: str, at: int = -1) -> CompletedProcess[bytes]:
        """Run a command that dies at a step; 0 counts the steps, which :attr:`steps` then tells."""
        script = DIES.format(at=at, path=str(self.folder / "steps")) if at >= 0 else ""
        arguments = ["--config", self.folder / "config.json", *command]
        return warm.run("piano-actions", arguments, script=script + self.double)

    @property
    def steps(self) -> int:
        return int((self.folder / "steps").read_text())

    def holds(self, entry: Entry, **traits: str) -> bool:
        """Whether Engage holds such traits of the reader."""
        held = self.nights.holds(self.piano.uid(entry))
        return {name: held.get(name) for name in traits} == traits

    def uid(self, entry: Entry) -> str:
        return self.piano.uid(entry)

    def is_new(self, entry: Entry) -> bool:
        """Whether Engage was told of no checkout of the reader."""
        return all(one.user_id != self.uid(entry) for one in self.piano.server.sandbox.part(Pings).events)


@dataclass(frozen=True)
class Way:
    """An action, how it is asked for, and what has to be so afterwards.

    Attributes:
        ask: the command, without reader and key.
        find: gives a subscription of a reader for whom it makes sense.
        path: where the change is asked for.
        well: whether all is as it should be.
        most: how often it may have been asked for at most.
    """

    ask: tuple[str, ...]
    find: Callable[[Killed], Entry]
    path: str
    well: Callable[[Killed, Entry], bool]
    most: int = 1


def stopped(killed: Killed) -> Entry:
    return killed.piano.world.entries[killed.stopped.pop()]


def waiting(killed: Killed) -> Entry:
    """Give one with a change that waits for the end of its period."""
    entry = alone_on(killed.piano, YEARLY)
    done = killed.run("upgrade", "do", "--user", killed.uid(entry), "--to", PREMIUM_YEARLY)
    assert done.returncode == 0, done.stderr
    return entry


def without_code(killed: Killed) -> Entry:
    return buyer(killed.piano, lambda one: killed.store.code_of(SUMMER, killed.uid(one)) is None)


def has_a_code(killed: Killed, entry: Entry) -> bool:
    return codes(killed.piano, SUMMER).get(killed.store.code_of(SUMMER, killed.uid(entry)) or "") == "active"


def is_converted(killed: Killed, entry: Entry) -> bool:
    events = killed.piano.server.sandbox.part(Pings).events
    return 1 <= sum(one.user_id == killed.uid(entry) for one in events) <= 2


WAYS = {
    "resubscribe": Way(
        ("resubscribe",), stopped, RESUME,
        lambda killed, entry: bool(entry.state.auto_renew) and killed.holds(entry, auto_renew="true"),
    ),
    "upgrade now": Way(
        ("upgrade", "do", "--to", PREMIUM), lambda killed: alone_on(killed.piano, MONTHLY), DO,
        lambda killed, entry: entry.state.upgrade_status == "Upgraded" and killed.holds(entry, term_id=PREMIUM),
    ),
    "upgrade at renewal": Way(
        ("upgrade", "do", "--to", PREMIUM_YEARLY), lambda killed: alone_on(killed.piano, YEARLY), DO,
        lambda _killed, entry: entry.state.upgrade_status == "Upgrade pending",
    ),
    "change withdrawn": Way(
        ("upgrade", "cancel"), waiting, CANCEL,
        lambda _killed, entry: entry.state.upgrade_status == "No upgrade",
    ),
    "code of the pool": Way(("promo", "code", "--promotion", SUMMER), without_code, CREATE, has_a_code, most=0),
    "code made": Way(("promo", "code", "--promotion", SUMMER), without_code, CREATE, has_a_code),
    "conversion": Way(
        ("promo", "converted"), lambda killed: buyer(killed.piano, killed.is_new), "ping", is_converted, most=2
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def piano() -> Iterator[Piano]:
    """One sandbox for all; each kill takes another reader."""
    with serving(rows=4000 if ROUNDS > 1 else 1200, switches={"engage.csv_delay": 0}) as server:
        yield Piano(server)


@pytest.fixture(scope="module")
def stopped_before(piano: Piano) -> list[str]:
    """Stop some readers' renewal before the first night; the ids of their subscriptions."""
    return [piano.stopping("Dynamic").id for _ in range(60 if ROUNDS > 1 else 6)]


@pytest.fixture(scope="module")
def first(piano: Piano, stopped_before: list[str], tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """The first night, once for all."""
    assert stopped_before
    nights = Nights(piano, tmp_path_factory.mktemp("first"))
    nights.run()
    return nights


def kill_and_go_on(killed: Killed, way: Way, at: int, *, go_on: tuple[tuple[str, ...], ...]) -> None:
    """Kill an action at a step, go on with it by *go_on* and by asking again, and look."""
    entry, piano = way.find(killed), killed.piano
    command = (*way.ask, "--user", killed.uid(entry), "--key", f"key-{at}")
    piano.server.control("DELETE", "requests")  # the journal forgets the oldest when it is full
    assert killed.run(*command, at=at).returncode == -signal.SIGKILL, f"step {at}"
    for one in (*go_on, command):
        done = killed.run(*one)
        assert done.returncode == 0, (at, one, done.stderr)
    asked = piano.calls(way.path) if way.path != "ping" else 1
    assert min(1, way.most) <= asked <= way.most, f"step {at}: asked {asked} times"
    assert way.well(killed, entry), f"step {at}"
    assert {row["state"] for row in killed.store.audit(limit=1000)} == {"finished"}
    assert killed.store.pushes() == []


GO_ON = ("recover",), ("traits", "send")


@pytest.mark.parametrize("name", WAYS if ROUNDS > 1 else ["resubscribe", "code made"])
def test_whatever_is_killed_is_done_once_and_nothing_is_forgotten(
    name: str, piano: Piano, first: Nights, stopped_before: list[str], tmp_path: Path
) -> None:
    killed, way = Killed(piano, first, stopped_before, tmp_path, {"make_codes": name == "code made"}), WAYS[name]
    if name == "code made":
        take_all(piano, killed.store)
    counted = killed.run(*way.ask, "--user", killed.uid(way.find(killed)), "--key", "counted", at=0)
    assert counted.returncode == 0, counted.stderr
    steps = range(1, killed.steps + 1)
    assert len(steps) >= 8
    some = steps if ROUNDS > 1 else random.Random(name).sample(steps, 1)  # noqa: S311 - no secret
    for at in some:
        kill_and_go_on(killed, way, at, go_on=GO_ON)


DOUBLE = """
import os, pathlib
from piano_actions import upgrade
from piano_actions.store import Store
upgrade._can = lambda *given: True
upgrade._waiting = lambda way, found: found.clear() if found else None
Store.note = lambda *given, **named: None
finish, killed = Store.finish, pathlib.Path({path!r})
def dies_once(*given, **named):
    if not killed.exists():
        killed.touch()
        os.kill(os.getpid(), 9)
    return finish(*given, **named)
Store.finish = dies_once
"""
"""Does not look whether a change waits already, nor notes that Piano said yes, and is killed after that."""


def test_a_program_that_asks_again_after_a_crash_without_looking_is_found_out(
    piano: Piano, first: Nights, stopped_before: list[str], tmp_path: Path
) -> None:
    killed = Killed(piano, first, stopped_before, tmp_path, double=DOUBLE.format(path=str(tmp_path / "killed")))
    with pytest.raises(AssertionError, match=r"asked [23] times"):
        kill_and_go_on(killed, WAYS["upgrade at renewal"], 10_000, go_on=GO_ON)

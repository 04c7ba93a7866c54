"""The service as a process of its own, killed with SIGKILL at each step of a click or a webhook, then started again.

A step is what stands before or after a request to Piano or Engage, or a commit of the notes, counted from the moment
at which the click or the webhook comes. Piano sends a webhook until it is answered with 200; a caller asks again with
the same key.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from piano_actions.inbox import Inbox
from piano_actions.store import Store
from piano_engage_sandbox.piano.webhooks import Webhooks
from piano_engage_sandbox.testing import serving

from tests import warm
from tests.actions.conftest import OPENED, Piano, settings_for
from tests.actions.nights import Nights
from tests.actions.test_killed import DIES
from tests.actions.test_resubscribe import RESUME
from tests.actions.test_service import SECRET, Service, served
from tests.actions.test_upgrade import DO, MONTHLY, PREMIUM, alone_on
from tests.actions.test_webhooks import HOOK, renewal, until
from tests.target.conftest import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.world import Entry

pytestmark = pytest.mark.xdist_group("actions, killed service")  # the first night is once for all

ARMED = DIES.replace("def step():\n", "def step():\n    if not armed:\n        return\n") + (
    "\nimport signal\narmed = []\nsignal.signal(signal.SIGUSR1, lambda *_: armed.append(1))\n"
)
"""Steps count from SIGUSR1 on."""
STEPS = range(1, 35)
"""A click takes about thirty; what comes after them are looks for what waits, so a later step is reached as well."""
NEVER = 1_000_000
FREE = 45


@pytest.fixture(scope="module")
def piano() -> Iterator[Piano]:
    """One sandbox for all; each kill takes another reader."""
    quick = {"engage.csv_delay": 0, "webhooks.first_pause": 0.05, "webhooks.longest_pause": 0.1}
    with serving(rows=3000 if ROUNDS > 1 else 600, switches=quick) as server:
        yield Piano(server)


@pytest.fixture(scope="module")
def stopped(piano: Piano) -> list[str]:
    """Stop some readers' renewal before the first night; the ids of their subscriptions."""
    return [piano.stopping("Dynamic").id for _ in range(FREE if ROUNDS > 1 else 5)]


@pytest.fixture(scope="module")
def nights(piano: Piano, stopped: list[str], tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """The first night, once for all."""
    assert stopped
    one = Nights(piano, tmp_path_factory.mktemp("first"))
    one.run()
    return one


@dataclass
class House:
    """A sandbox, and a service whose processes may die, always at the same port and with the same notes."""

    piano: Piano
    nights: Nights
    folder: Path

    def __post_init__(self) -> None:
        """Write the settings, and open the notes to look at them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.settings = settings_for(
            self.piano, self.folder, target_config=str(self.nights.config), request_timeout=20, port=self.port,
            private_key=self.piano.app.private_key, secrets=SECRET,
        )  # fmt: skip
        (self.folder / "killed.json").write_text(json.dumps(self.settings))
        OPENED.append(Store(self.settings["store_url"]))
        self.store = OPENED[-1]
        self.service = Service(None, f"http://127.0.0.1:{self.port}")  # type: ignore[arg-type]

    @contextmanager
    def dying(self, at: int, *, script: str = "") -> Iterator[None]:
        """Run a process that dies at a step of what is done in the ``with`` block; the block ends with its death.

        Args:
            at: the step.
            script: what makes a broken double of the service.
        """
        prepared = ARMED.format(at=at, path=os.devnull) + script
        with Path(os.devnull).open("wb") as nothing:
            process = warm.start(
                "piano-actions", ["--config", self.folder / "killed.json", "serve"],
                stdout=nothing, stderr=nothing, script=prepared,
            )  # fmt: skip
            until(self.ready)
            process.send_signal(signal.SIGUSR1)
            yield
            assert process.wait(60) == -signal.SIGKILL, f"step {at}"

    def ready(self) -> bool:
        try:
            return self.service.get("readyz").ok
        except requests.ConnectionError:
            return False

    def uid(self, entry: Entry) -> str:
        return self.piano.uid(entry)

    def holds(self, entry: Entry) -> dict[str, Any]:
        return self.nights.holds(self.uid(entry))


# A click


@dataclass(frozen=True)
class Click:
    """An action, for whom it makes sense, where Piano is asked for it, and what has to be so afterwards."""

    action: str
    body: dict[str, str]
    find: Callable[[Piano, list[str]], Entry]
    path: str
    traits: dict[str, str]


CLICKS = {
    "resubscribe": Click(
        "resubscribe", {}, lambda piano, stopped: piano.world.entries[stopped.pop()], RESUME, {"auto_renew": "true"}
    ),
    "upgrade": Click(
        "upgrade", {"to_term": PREMIUM}, lambda piano, _: alone_on(piano, MONTHLY), DO, {"term_id": PREMIUM}
    ),
}


def clicked_and_killed(house: House, click: Click, entry: Entry, at: int, *, script: str = "") -> None:
    """Have the service die at a step of a click, start it again, click again, and look."""
    body, before = {"user_id": house.uid(entry), **click.body}, house.piano.calls(click.path)

    def ask() -> None:
        with suppress(requests.RequestException):  # it dies before it answers, or afterwards
            house.service.post(click.action, body, Idempotency_Key=f"{click.action}-{at}")

    with house.dying(at, script=script):
        caller = threading.Thread(target=ask)
        caller.start()
    caller.join(60)
    with served(house.settings, house.folder):
        status, told = house.service.ask(click.action, body, Idempotency_Key=f"{click.action}-{at}")
        assert (status, told.get("status")) == (200, "done"), f"step {at}: {told}"
        until(lambda: house.store.pushes() == [])
    assert house.piano.calls(click.path) - before == 1, f"step {at}"
    held = house.holds(entry)
    assert {name: held.get(name) for name in click.traits} == click.traits, f"step {at}"
    assert {row["state"] for row in house.store.audit(limit=1000)} == {"finished"}, f"step {at}"


def some(name: str, number: int) -> list[int]:
    """Give the steps at which to kill: some by chance, or all."""
    return list(STEPS) if ROUNDS > 1 else random.Random(name).sample(STEPS[:26], number)  # noqa: S311 - no secret


@pytest.mark.parametrize(("name", "number"), [("resubscribe", 2), ("upgrade", 1)])
def test_a_click_during_which_the_service_is_killed_is_done_once_and_told(
    piano: Piano, nights: Nights, stopped: list[str], tmp_path: Path, name: str, number: int
) -> None:
    house, click = House(piano, nights, tmp_path), CLICKS[name]
    for at in some(name, number):
        clicked_and_killed(house, click, click.find(piano, stopped), at)


APART = """
from piano_actions.store import Store
real = Store.finish
def finish(self, claim, outcome, **_):
    real(self, claim, outcome)
    os.kill(os.getpid(), 9)
Store.finish = finish
"""
"""Notes how an action ended, and would note apart from that, a moment later, that Engage has to be told."""


def test_a_service_that_notes_outcome_and_wish_apart_is_found_out(
    piano: Piano, nights: Nights, stopped: list[str], tmp_path: Path
) -> None:
    house, click = House(piano, nights, tmp_path), CLICKS["resubscribe"]
    with pytest.raises(AssertionError, match=r"step 1000000\n.*auto_renew"):
        clicked_and_killed(house, click, click.find(piano, stopped), NEVER, script=APART)


# A webhook


def told_and_killed(house: House, entry: Entry, at: int, *, script: str = "") -> None:
    """Have the service die at a step of a webhook, start it again, and look."""
    hooks, aid, piano = house.piano.server.sandbox.part(Webhooks), house.piano.app.aid, house.piano
    piano.server.call(lambda: hooks.configure(aid, url=f"{house.service.url}/{HOOK}"))
    try:
        with house.dying(at, script=script):
            renewal(piano, entry, on=not entry.state.auto_renew)
        with served(house.settings, house.folder):
            until(lambda: piano.server.call(lambda: hooks.configure(aid))["waiting"] == 0)
            until(lambda: house.store.pushes() == [])
    finally:
        piano.server.call(lambda: hooks.configure(aid, url=""))
    assert house.holds(entry)["auto_renew"] == str(entry.state.auto_renew).lower(), f"step {at}"
    inbox = Inbox(house.store, tells=True)
    states = Counter(one["state"] for one in inbox.events(limit=1000, user_id=house.uid(entry)))
    assert states, f"step {at}"
    assert set(states) <= {"told", "nothing"}, f"step {at}"
    assert inbox.quarantined(limit=9) == []


def test_a_webhook_during_which_the_service_is_killed_ends_in_pianos_state(
    piano: Piano, nights: Nights, stopped: list[str], tmp_path: Path
) -> None:
    house, entry = House(piano, nights, tmp_path), piano.world.entries[stopped.pop()]
    for at in some("webhook", 2):
        told_and_killed(house, entry, at)


TOO_EARLY = """
import threading
from piano_actions.inbox import Inbox
def keep(self, arrivals):
    threading.Timer(0.3, os.kill, (os.getpid(), 9)).start()
    return ["waiting"] * len(arrivals)
Inbox.keep = keep
"""
"""Answers, and would store a moment later."""


def test_a_service_that_answers_before_it_has_stored_is_found_out(
    piano: Piano, nights: Nights, stopped: list[str], tmp_path: Path
) -> None:
    house, entry = House(piano, nights, tmp_path), piano.world.entries[stopped.pop()]
    with pytest.raises(AssertionError, match=r"step 1000000\n.*false"):
        told_and_killed(house, entry, NEVER, script=TOO_EARLY)

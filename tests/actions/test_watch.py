"""An outage is told of once, by a count now and then, and once more when it is over; not by a line for each request."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
from piano_actions import watch as watch_module
from piano_actions.cli import asking
from piano_actions.service import counter as counter_module
from piano_actions.store import Store
from piano_actions.watch import CALM_SECONDS, Watch, transport_of
from piano_engage_common.stops import Outage
from piano_engage_common.transport import Patience, TryAgain
from sqlalchemy.exc import OperationalError

from tests.actions.conftest import Piano, settings_for
from tests.actions.nights import Nights
from tests.actions.test_service import served
from tests.actions.test_webhooks import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.actions.test_service import Service

LOGGER = logging.getLogger("piano-actions")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let a clock of our own go on by so many seconds."""
    now = [1000.0]
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: now[0])

    def goes_on(seconds: float) -> None:
        now[0] += seconds

    return goes_on


def test_the_first_failure_a_count_and_the_end_are_told(
    clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    one = Watch("Asking Piano", LOGGER)
    one.works()
    for _ in range(400):
        one.failed("GET /term/get was answered with 503")
        one.works()  # every other request succeeds: it comes and goes, and is away
        clock(0.25)
    clock(CALM_SECONDS)
    one.works()
    one.works()
    assert caplog.messages == [
        "GET /term/get was answered with 503",
        "Asking Piano still fails, 240 more times in 60 s; at last: GET /term/get was answered with 503",
        "Asking Piano is back: it failed 400 time(s) within 100 s",
    ]
    one.failed("again")
    assert caplog.messages[3:] == ["again"]


def test_a_fault_of_ours_is_shown_in_full_once(
    clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    one = Watch("Looking", LOGGER)
    for _ in range(3):
        one.failed("a fault of ours", fault=TypeError("x"))
    clock(1)
    assert [(record.levelname, record.exc_info is None) for record in caplog.records] == [("ERROR", False)]


def test_attempts_of_a_watched_transport_are_counted(
    clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    patience = Patience(attempts=3, wait=0)
    watched = transport_of(
        patience, 0, logger=LOGGER, watch=Watch("Asking Piano", LOGGER), at_once=1, afterwards="nothing was changed"
    )

    def fails() -> None:
        problem = "was answered with 503"
        raise TryAgain(problem)

    for _ in range(50):
        with pytest.raises(Outage, match="nothing was changed"):
            watched.retrying("GET /x", fails)
    clock(CALM_SECONDS)
    watched.retrying("GET /x", lambda: None)
    assert caplog.messages == [
        "GET /x was answered with 503", "Asking Piano is back: it failed 150 time(s) within 0 s"
    ]  # fmt: skip


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("piano-actions")]


@pytest.mark.parametrize("part", ["publisher", "engage"])
def test_while_piano_or_engage_is_away_the_service_does_not_tell_of_each_request(
    piano: Piano, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(watch_module, "CALM_SECONDS", 0.2)
    nights = Nights(piano, tmp_path)
    settings = settings_for(piano, tmp_path, target_config=str(nights.config), retry_attempts=2, actions_per_second=0)
    readers = [piano.uid(entry) for entry in list(piano.world.entries.values())[:60]]
    store = Store(settings["store_url"])
    for uid in readers:
        store.want_push(uid)
    store.close()
    piano.server.control("POST", "faults", {"part": part, "status": 503})
    with served(settings, tmp_path) as service:
        if part == "publisher":
            assert {service.ask("resubscribe", {"user_id": uid})[0] for uid in readers} == {503}
        until(lambda: postponed(settings) >= 50)
        piano.server.control("DELETE", "faults")
        until(lambda: bool(back(service, readers, caplog)))
    assert len(lines(caplog)) < 12, lines(caplog)


def postponed(settings: dict[str, Any]) -> int:
    store = Store(settings["store_url"])
    try:
        return sum(row["attempts"] > 0 for row in store.pushes())
    finally:
        store.close()


def back(service: Service, readers: list[str], caplog: pytest.LogCaptureFixture) -> list[str]:
    """Click, as somebody will sooner or later, and give what is told of the end."""
    service.ask("resubscribe", {"user_id": readers[0], "offer": str(time.time())})
    return [line for line in lines(caplog) if " is back: it failed " in line]


def test_while_the_store_is_away_the_service_does_not_tell_of_each_look(
    piano: Piano, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "CALM_SECONDS", 0.1)
    monkeypatch.setattr(counter_module, "LOOK_SECONDS", 0.01)
    nights, looks, real = Nights(piano, tmp_path), [0], Store.due

    def away(self: Store, **more: Any) -> list[str]:  # noqa: ANN401 - as the real one
        looks[0] += 1
        if looks[0] <= 50:
            cause = "database is locked"
            raise OperationalError("SELECT", {}, ValueError(cause))
        return real(self, **more)

    monkeypatch.setattr(asking.Store, "due", away)
    with served(settings_for(piano, tmp_path, target_config=str(nights.config)), tmp_path):
        until(lambda: any(" is back" in line for line in lines(caplog)))
    first, last = lines(caplog)
    assert (first.startswith("The store does not answer: "), first.endswith("database is locked")) == (True, True)
    assert last.startswith("Looking after what was left behind is back: it failed 50 time(s)")

"""What actions on subscriptions do, and where it is seen: in subscription/get at once, in the log afterwards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.columns import GROUPS
from piano_engage_sandbox.data import log_rows
from piano_engage_sandbox.export import snapshot
from piano_engage_sandbox.piano import refusals
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.server import Server
    from piano_engage_sandbox.world import Entry, World

    Row = dict[str, str]


class Piano:
    """The Publisher API over HTTP, by POST, and the log of the same moment."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.app = next(iter(server.sandbox.piano.values()))

    def __call__(self, path: str, **params: object) -> dict[str, Any]:
        form = urlencode({"aid": self.app.aid, "api_token": self.app.token, **params}).encode()
        with urlopen(f"{self.server.url}/api/v3/publisher/{path}", form, timeout=20) as answer:  # noqa: S310 - ours
            found: dict[str, Any] = json.load(answer)
        return found

    @property
    def world(self) -> World:
        return self.app.world

    def get(self, entry: Entry) -> dict[str, Any]:
        """Give a subscription as subscription/get does."""
        whole: dict[str, Any] = self("subscription/get", subscription_id=entry.id)["subscription"]
        return whole

    def log(self) -> dict[str, Row]:
        """Give the rows of the log by subscription id."""
        rows = log_rows(
            rows=self.app.rows, since=self.app.begins, as_of=self.world.now, groups=tuple(GROUPS),
            touched=snapshot(self.world.touched),
        )  # fmt: skip
        return {row["Subscription ID"]: row for row in rows}

    def entry(self, test: Callable[[Entry], object]) -> Entry:
        return next(entry for entry in self.world.entries.values() if test(entry))

    def advance(self, seconds: float) -> None:
        self.server.sandbox.now.advance(seconds)


@pytest.fixture
def piano() -> Iterator[Piano]:
    with serving() as server:
        yield Piano(server)


@pytest.fixture(scope="module")
def reading() -> Iterator[Piano]:
    """One that nobody changes, for refusals."""
    with serving(rows=1500) as server:
        yield Piano(server)


def going(kind: str) -> Callable[[Entry], bool]:
    """Accept subscriptions of a type of term that are live, paid for, and renew."""
    return lambda entry: (
        entry.state.status == "Active"
        and entry.fate.term.type == kind
        and entry.state.auto_renew
        and entry.state.upgrade_status == "No upgrade"
        and entry.state.last_amount > 0
    )


def test_a_deferred_cancellation_is_seen_at_once_and_ends_with_the_period(piano: Piano) -> None:
    entry = piano.entry(going("Dynamic"))
    until = piano.get(entry)["next_bill_date"]
    assert piano("subscription/cancel/deferred", subscription_id=entry.id)["data"] is True
    whole = piano.get(entry)
    assert (whole["status"], whole["status_name_in_reports"], whole["auto_renew"]) == ("active", "won't renew", False)
    assert (whole["can_be_resumed"], whole["deferred_cancelable"], whole["is_active"]) == (True, False, True)
    assert "next_bill_date" not in whole
    row = piano.log()[entry.id]
    assert (row["Subscription status"], row["Auto-renew"]) == ("Active", "FALSE")
    piano.advance(until - piano.world.now + DAY)
    assert (piano.get(entry)["status"], piano.log()[entry.id]["Subscription status"]) == ("expired", "Expired")


def test_resuming_brings_auto_renew_back(piano: Piano) -> None:
    entry = piano.entry(going("Dynamic"))
    before = piano.get(entry)
    piano("subscription/cancel/deferred", subscription_id=entry.id)
    piano.advance(3600)
    assert piano("subscription/resume", subscription_id=entry.id)["data"] is True
    after = piano.get(entry)
    assert {name: value for name, value in after.items() if name != "user"} == {
        name: value for name, value in before.items() if name != "user"
    }
    assert piano.log()[entry.id]["Auto-renew"] == "TRUE"
    piano.advance(before["next_bill_date"] - piano.world.now + 60)
    assert piano.get(entry)["charge_count"] == before["charge_count"] + 1


def test_cancelling_ends_subscription_and_access_at_once(piano: Piano) -> None:
    entry = piano.entry(going("Payment"))
    uid = piano.get(entry)["user"]["uid"]
    assert piano("subscription/cancel", subscription_id=entry.id, refund_last_payment="true")["data"] is True
    whole = piano.get(entry)
    assert (whole["status"], whole["end_date"], whole["auto_renew"]) == ("cancelled", piano.world.now, False)
    assert not [key for key in ("cancelable", "can_be_resumed", "is_active", "auto_renew_change_enabled") if whole[key]]
    rid = entry.fate.term.resource.rid
    assert entry.id not in {each.id for each in piano.world.of_user(uid) if each.state.live}
    live = any(e.state.live and e.fate.term.resource.rid == rid for e in piano.world.of_user(uid))
    assert piano("user/access/check", uid=uid, rid=rid)["access"]["granted"] == live
    row = piano.log()[entry.id]
    assert row["Subscription status"] == "Cancelled"
    assert row["Total refunded"] == f"{entry.state.last_amount / 100:.4f}"


def test_auto_renew_of_a_payment_term_is_switched_by_update(piano: Piano) -> None:
    entry = piano.entry(going("Payment"))
    assert piano("subscription/update", subscription_id=entry.id, auto_renew="false")["data"] is True
    assert piano.get(entry)["status_name_in_reports"] == "won't renew"
    assert piano.get(entry)["can_be_resumed"] is False
    assert piano("subscription/update", subscription_id=entry.id, auto_renew="True")["data"] is True
    assert piano.get(entry)["status_name_in_reports"] == "active"
    assert piano.log()[entry.id]["Auto-renew"] == "TRUE"


def test_the_next_bill_date_moves(piano: Piano) -> None:
    entry = piano.entry(going("Payment"))
    charges, to = piano.get(entry)["charge_count"], piano.world.now + 9 * DAY
    assert piano("subscription/update", subscription_id=entry.id, next_bill_date=to)["data"] is True
    assert piano.get(entry)["next_bill_date"] == to
    assert piano.log()[entry.id]["Next billing date"] == piano.app.zone.piano(to)
    piano.advance(9 * DAY + 60)
    assert piano.get(entry)["charge_count"] == charges + 1


def test_an_action_moves_the_update_date(piano: Piano) -> None:
    entry = piano.entry(going("Payment"))
    piano.advance(60)
    now = piano.world.now
    piano("subscription/update", subscription_id=entry.id, auto_renew="false")
    found = piano("subscription/list", start_date=now, end_date=now)["subscriptions"]
    assert [item["subscription_id"] for item in found] == [entry.id]


def no_change(piano: Piano) -> dict[str, Any]:
    return {entry.id: (entry.state, entry.fate.stop_at, entry.next_at) for entry in piano.world.entries.values()}


def an_ended_one(entry: Entry) -> bool:
    return entry.state.status == "Expired" and entry.fate.term.type == "Dynamic"


def of_payment(entry: Entry) -> bool:
    return going("Payment")(entry)


def of_dynamic(entry: Entry) -> bool:
    return going("Dynamic")(entry)


def in_grace(entry: Entry) -> bool:
    return entry.state.in_grace


def granted(entry: Entry) -> bool:
    return entry.fate.term.type == "Access Granted"


REFUSED: tuple[tuple[str, Callable[[Entry], bool], dict[str, object], int | None], ...] = (
    ("subscription/resume", of_dynamic, {}, None),
    ("subscription/resume", of_payment, {}, None),
    ("subscription/resume", an_ended_one, {}, None),
    ("subscription/cancel/deferred", of_payment, {}, None),
    ("subscription/cancel/deferred", an_ended_one, {}, None),
    ("subscription/cancel", an_ended_one, {"refund_last_payment": "false"}, 8002),
    ("subscription/cancel", granted, {"refund_last_payment": "false"}, 8002),
    ("subscription/update", an_ended_one, {"auto_renew": "true"}, None),
    ("subscription/update", of_dynamic, {"auto_renew": "false"}, None),
    ("subscription/update", of_payment, {"next_bill_date": 1_500_000_000}, 8001),
    ("subscription/update", in_grace, {"next_bill_date": 1_900_000_000}, None),
)
"""Path, which subscription, parameters, and the error code; None is `data: false`."""


@pytest.mark.parametrize(("path", "which", "params", "code"), REFUSED)
def test_what_is_refused_changes_nothing(
    reading: Piano, path: str, which: Callable[[Entry], bool], params: dict[str, object], code: int | None
) -> None:
    before = no_change(reading)
    body = reading(path, subscription_id=reading.entry(which).id, **params)
    assert (body["code"], body.get("data")) == ((0, False) if code is None else (code, None))
    assert no_change(reading) == before
    assert not reading.world.touched


@pytest.mark.parametrize("code", [8005, 2])
@pytest.mark.parametrize("action", ["resume", "cancel", "cancel/deferred", "update"])
def test_an_action_on_nothing_has_the_code_of_the_switch(action: str, code: int) -> None:
    with serving(rows=5, switches={"publisher.unknown_subscription": code}) as server:
        assert Piano(server)(f"subscription/{action}", subscription_id="RCNOB0DYHAS1")["code"] == code
        assert Piano(server)("subscription/get", subscription_id="RCNOB0DYHAS1")["code"] == 8005


def test_a_subscription_has_to_be_named(reading: Piano) -> None:
    body = reading("subscription/resume")
    assert (body["code"], body["validation_errors"]) == (400, {"subscription_id": "is required"})


def test_every_refusal_has_an_answer_and_only_documented_codes() -> None:
    assert all(refusals.ANY in codes for codes in refusals.REFUSALS.values())
    assert {code for codes in refusals.REFUSALS.values() for code in codes.values()} == {None, 8001, 8002, 8004, 1012}


def test_a_sandbox_that_only_says_yes_is_found_out(piano: Piano, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piano_engage_sandbox.actions.cancel_deferred", lambda _world, _entry: None)
    with pytest.raises(AssertionError):
        test_a_deferred_cancellation_is_seen_at_once_and_ends_with_the_period(piano)

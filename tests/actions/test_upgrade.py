"""Changes of term: what is done at Piano, how often, and what is told, on good days and bad ones."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from piano_actions.outcome import Status
from piano_actions.store import Request
from piano_engage_common.stops import Outage
from piano_engage_sandbox import actions
from piano_engage_sandbox.catalogue import TERMS
from piano_engage_sandbox.lives import Fate
from piano_engage_sandbox.testing import serving
from tap_piano.client import PianoClient

from tests.actions.conftest import Piano, desk_of, settings_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result
    from piano_actions.desk import Desk
    from piano_engage_sandbox.world import Entry

CAN, DO, STATUS, CANCEL = (
    f"term/change/{path}" for path in ("can", "do", "getSubscriptionUpgradeStatus", "cancel")
)  # fmt: skip
MONTHLY, YEARLY, PREMIUM, PREMIUM_YEARLY = "TMD1GM0NTH01", "TMD1GYEAR004", "TMPREM0NTH05", "TMPREYEAR006"
"""Of the sandbox: from monthly to premium at once, from yearly to premium yearly when the period ends."""


BY_ID = {term.term_id: term for term in TERMS}


def on(term_id: str) -> Callable[[Entry], bool]:
    return lambda entry: (
        entry.fate.term.term_id == term_id
        and entry.state.status == "Active"
        and entry.state.auto_renew
        and entry.state.upgrade_status == "No upgrade"
    )


def alone_on(piano: Piano, term_id: str) -> Entry:
    return piano.find(lambda entry: on(term_id)(entry) and piano.alone(entry))


def wanted(piano: Piano, entry: Entry, to_term: str, **params: str) -> Request:
    return Request("upgrade", piano.uid(entry), {"to_term": to_term, **params})


def live_terms(piano: Piano, entry: Entry) -> list[str]:
    return [one.fate.term.term_id for one in piano.of_user(entry) if one.state.live]


@pytest.mark.parametrize("to_term", [PREMIUM, "premium MONTHLY"])
def test_a_change_at_once_is_done_with_the_options_own_settings(piano: Piano, desk: Desk, to_term: str) -> None:
    entry = alone_on(piano, MONTHLY)
    found = desk.run(wanted(piano, entry, to_term))
    (new,) = [one for one in piano.of_user(entry) if one.state.live]
    assert (found.status, found.reason) == (Status.DONE, "changed")
    assert (new.fate.term.term_id, entry.state.status) == (PREMIUM, "Upgraded")
    assert found.details["subscription_id"] == new.id
    assert found.details["from_subscription_id"] == entry.id
    due = datetime.fromtimestamp(new.state.next_billing or 0, UTC)
    assert found.message == f"Done: you are on Premium monthly now; the next payment is due on {due:%Y-%m-%d}."
    (sent,) = [one for one in piano.server.control("GET", "requests") if one["path"].endswith(DO)]
    assert sent["form"]["billing_timing"] == "0"
    assert (sent["form"]["immediate_access"], sent["form"]["prorate_access"]) == ("true", "true")
    assert piano.calls(CAN) == 1


def test_a_change_at_the_end_of_the_period_is_told_as_pending(piano: Piano, desk: Desk) -> None:
    entry = alone_on(piano, YEARLY)
    ends = datetime.fromtimestamp(piano.world.period_end(entry), UTC)
    found = desk.run(wanted(piano, entry, PREMIUM_YEARLY))
    assert (found.status, found.reason) == (Status.PENDING, "change_pending")
    assert datetime.fromisoformat(found.details["change_date"]) == ends
    assert f"takes effect on {ends:%Y-%m-%d}" in found.message
    again = desk.run(wanted(piano, entry, PREMIUM_YEARLY))
    assert (again.status, again.reason) == (Status.PENDING, "change_pending")
    assert piano.calls(DO) == 1
    assert desk.run(Request("upgrade_cancel", piano.uid(entry))).reason == "change_withdrawn"
    assert (entry.state.upgrade_status, live_terms(piano, entry)) == ("No upgrade", [YEARLY])
    assert desk.run(Request("upgrade_cancel", piano.uid(entry))).reason == "no_change_pending"
    assert piano.calls(CANCEL) == 1


def test_a_downgrade_is_the_same_thing(piano: Piano, desk: Desk) -> None:
    entry = alone_on(piano, PREMIUM_YEARLY)
    found = desk.run(wanted(piano, entry, YEARLY, subscription_id=entry.id))
    assert (found.status, found.details["term_id"]) == (Status.PENDING, YEARLY)


REFUSALS: dict[str, tuple[str, str, dict[str, str], str]] = {
    "an option that is not there": (YEARLY, PREMIUM, {}, "not_configured"),
    "a term nobody knows": (YEARLY, "Gold", {}, "unknown_term"),
    "another term than it is on": (YEARLY, PREMIUM_YEARLY, {"from_term": MONTHLY}, "nothing_to_change"),
    "a subscription nobody knows": (YEARLY, PREMIUM_YEARLY, {"subscription_id": "RCNOB0DY"}, "unknown_subscription"),
}


@pytest.mark.parametrize(("term", "to_term", "params", "reason"), REFUSALS.values(), ids=list(REFUSALS))
def test_what_cannot_be_changed_is_told_and_not_asked_for(
    reading: Piano, tmp_path: Path, term: str, to_term: str, params: dict[str, str], reason: str
) -> None:
    entry = alone_on(reading, term)
    found = desk_of(settings_for(reading, tmp_path)).run(wanted(reading, entry, to_term, **params))
    assert (found.status, found.reason) == (Status.REFUSED, reason)
    assert reading.calls(DO) == 0


def test_who_is_there_already_or_gone_or_somebody_else(reading: Piano, tmp_path: Path) -> None:
    desk = desk_of(settings_for(reading, tmp_path))
    there = alone_on(reading, PREMIUM_YEARLY)
    assert desk.run(wanted(reading, there, 'premium "ALL in" yearly')).status is Status.ALREADY
    assert desk.run(wanted(reading, there, PREMIUM_YEARLY, subscription_id=there.id)).status is Status.ALREADY
    gone = reading.find(lambda one: one.state.status == "Expired" and reading.alone(one))
    assert desk.run(wanted(reading, gone, PREMIUM)).reason == "nothing_to_change"
    assert desk.run(wanted(reading, gone, PREMIUM, subscription_id=gone.id)).reason == "ended"
    theirs = desk.run(wanted(reading, gone, PREMIUM_YEARLY, subscription_id=there.id))
    assert theirs.reason == "not_yours"
    assert desk.run(Request("upgrade", "no-such-reader", {"to_term": PREMIUM})).reason == "unknown_user"
    assert desk.run(Request("upgrade_cancel", "no-such-reader")).reason == "unknown_user"
    assert reading.calls(DO) == 0


def test_another_change_that_waits_is_not_overwritten(piano: Piano, desk: Desk) -> None:
    entry = alone_on(piano, PREMIUM)
    assert desk.run(wanted(piano, entry, PREMIUM_YEARLY)).status is Status.PENDING
    found = desk.run(wanted(piano, entry, MONTHLY))
    assert (found.status, found.reason) == (Status.REFUSED, "other_change_pending")
    assert piano.calls(DO) == 1


@pytest.mark.parametrize("switch", ["code_1012", "data_false"])
@pytest.mark.parametrize("status", ["missing", "null", "code_1012"])
def test_all_ways_in_which_piano_may_say_there_is_nothing(tmp_path: Path, switch: str, status: str) -> None:
    switches = {"publisher.unknown_change": switch, "publisher.upgrade_status_without_change": status}
    with serving(rows=400, switches=switches) as server:
        piano = Piano(server)
        entry = alone_on(piano, MONTHLY)
        desk = desk_of(settings_for(piano, tmp_path))
        assert desk.run(wanted(piano, entry, PREMIUM), dry_run=True).reason == "would_change"
        assert desk.run(Request("upgrade_cancel", piano.uid(entry))).reason == "no_change_pending"
        piano.app.change_options.clear()
        assert desk.run(wanted(piano, entry, PREMIUM)).reason == "not_configured"
        assert piano.calls(DO) == 0


def begin(piano: Piano, entry: Entry, term_id: str) -> None:
    """Let the reader of a subscription have another one, from now on."""
    now = piano.world.now

    def begun(number: int) -> Fate:
        fate = Fate(number, BY_ID[term_id], now, now, now)
        piano.world.lives.goes_on(fate, 1)
        return fate

    piano.server.call(lambda: (piano.world.add(entry.reader, begun), piano.world.catch_up(now)))


def test_who_has_the_term_by_another_subscription_does_not_pay_for_it_twice(piano: Piano, desk: Desk) -> None:
    entry = alone_on(piano, MONTHLY)
    begin(piano, entry, PREMIUM)
    found = desk.run(wanted(piano, entry, PREMIUM))
    assert (found.status, found.reason) == (Status.ALREADY, "on_term")
    assert piano.calls(DO) == 0
    assert desk.run(wanted(piano, entry, PREMIUM, subscription_id=entry.id)).status is Status.DONE, "named, it is meant"


def test_two_subscriptions_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    with serving(rows=1500) as server:
        piano = Piano(server)
        one = alone_on(piano, MONTHLY)
        begin(piano, one, MONTHLY)
        desk = desk_of(settings_for(piano, tmp_path))
        found = desk.run(wanted(piano, one, PREMIUM))
        assert (found.reason, len(found.details["subscription_ids"])) == ("ambiguous_change", 2)
        assert desk.run(wanted(piano, one, PREMIUM, subscription_id=one.id)).status is Status.DONE
    assert one.state.status == "Upgraded"


# Bad days


AFTER_THE_WORK: dict[str, dict[str, Any]] = {
    "reset": {"reset": True},
    "no answer in time": {"latency": 30},
    "502": {"status": 502, "body": "<html>Bad gateway</html>"},
}


@pytest.mark.parametrize("members", AFTER_THE_WORK.values(), ids=list(AFTER_THE_WORK))
@pytest.mark.parametrize(
    ("term", "to_term", "status"), [(MONTHLY, PREMIUM, "done"), (YEARLY, PREMIUM_YEARLY, "pending")]
)
def test_what_piano_did_without_telling_is_read_back_and_not_asked_for_twice(
    piano: Piano, desk: Desk, members: dict[str, Any], term: str, to_term: str, status: str
) -> None:
    entry = alone_on(piano, term)
    piano.fault(DO, when="after", **members)
    assert desk.run(wanted(piano, entry, to_term)).status == status
    assert piano.calls(DO) == 1
    piano.server.control("DELETE", "faults")
    if status == "pending":
        piano.fault(CANCEL, when="after", **members)
        assert desk.run(Request("upgrade_cancel", piano.uid(entry))).reason == "change_withdrawn"
        assert piano.calls(CANCEL) == 1


def test_a_client_that_repeats_writes_is_found_out(piano: Piano, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PianoClient, "write", PianoClient.ask)
    test = test_what_piano_did_without_telling_is_read_back_and_not_asked_for_twice
    with pytest.raises((AssertionError, Outage)):
        test(piano, desk, {"reset": True}, YEARLY, PREMIUM_YEARLY, "pending")


@pytest.mark.parametrize(("code", "reason"), [(2, "piano_refused"), (8005, "piano_refused"), (1012, "cannot_change")])
def test_piano_says_200_and_no(piano: Piano, desk: Desk, code: int, reason: str) -> None:
    entry = alone_on(piano, MONTHLY)
    piano.fault(DO, status=200, body=json.dumps({"code": code, "ts": 1, "message": "No"}))
    found = desk.run(wanted(piano, entry, PREMIUM))
    assert (found.status, found.reason, found.details["code"]) == (Status.REFUSED, reason, code)
    assert live_terms(piano, entry) == [MONTHLY]


def test_yes_without_a_trace_is_told_as_being_processed(piano: Piano, desk: Desk) -> None:
    entry = alone_on(piano, MONTHLY)
    piano.fault(DO, status=200, body=json.dumps({"code": 0, "ts": 1, "data": True}))
    found = desk.run(wanted(piano, entry, PREMIUM))
    assert (found.status, found.reason) == (Status.PENDING, "processing")
    assert "may take some minutes" in found.message


@pytest.mark.parametrize(
    ("status", "told", "reason"), [(1, "refused", "change_failed"), (3, "pending", "change_suspended")]
)
def test_what_the_upgrade_status_says_is_told(piano: Piano, desk: Desk, status: int, told: str, reason: str) -> None:
    entry = alone_on(piano, MONTHLY)
    body = {"code": 0, "ts": 1, "subscription_upgrade_status": {"to_term_id": PREMIUM, "status": status}}
    piano.fault(DO, status=200, body=json.dumps({"code": 0, "ts": 1, "data": True}))
    piano.fault(STATUS, status=200, body=json.dumps(body), skip=1)
    found = desk.run(wanted(piano, entry, PREMIUM))
    assert (found.status, found.reason) == (told, reason)


def change(piano: Piano, entry: Entry, to_term: str) -> None:
    option = actions.option_for(piano.app.change_options, entry, to_term)
    assert option is not None
    actions.change(
        piano.world, entry, to_term, options=[option], billing_timing=option.billing_timing,
        immediate_access=option.immediate_access, prorate_access=option.prorate_access,
    )  # fmt: skip


YES = json.dumps({"code": 0, "ts": 1, "data": True})


def status_answer(**members: Any) -> str:  # noqa: ANN401 - JSON
    return json.dumps({"code": 0, "ts": 1, "subscription_upgrade_status": members})


def test_what_became_of_an_earlier_change_is_not_taken_for_this_one(piano: Piano, desk: Desk) -> None:
    entry = alone_on(piano, MONTHLY)
    piano.fault(DO, status=200, body=YES)
    piano.fault(STATUS, status=200, body=status_answer(to_term_id=PREMIUM, status=4))  # withdrawn last week
    assert desk.run(wanted(piano, entry, PREMIUM)).reason == "processing"


def test_a_change_that_waits_is_not_asked_for_again_though_piano_would_take_it(piano: Piano, desk: Desk) -> None:
    entry = alone_on(piano, MONTHLY)
    piano.fault(STATUS, status=200, body=status_answer(to_term_id=PREMIUM, status=0))
    assert desk.run(wanted(piano, entry, PREMIUM)).reason == "change_pending"
    assert piano.calls(DO) == 0


def test_what_piano_has_said_yes_to_is_looked_for_and_never_asked_for_again(
    piano: Piano, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    desk = desk_of(settings, tell=lambda uid, _: told.append(uid))
    entry = alone_on(piano, MONTHLY)
    piano.fault(DO, status=200, body=YES)
    first = wanted(piano, entry, PREMIUM)
    assert desk.run(first).reason == "processing"
    for one in (first, wanted(piano, entry, PREMIUM, offer="another prompt"), first):
        assert desk.run(one).reason == "processing"
    assert [one.reason for one in desk.recover()] == ["processing"]
    assert desk.recover(every=False) == [], "looked at a short while ago"
    assert (piano.calls(DO), told) == (1, [piano.uid(entry)])
    now = time.time()
    monkeypatch.setattr("piano_actions.store.claims.time.time", lambda: now + 11)
    piano.server.call(lambda: change(piano, entry, PREMIUM))
    assert [one.reason for one in desk.recover(every=False)] == ["changed"]
    assert (piano.calls(DO), told) == (1, [piano.uid(entry)] * 2), "Engage is told when it can be seen"
    assert desk.run(first).reason == "changed"


def test_a_change_that_cannot_be_seen_for_an_hour_stays_pending(
    piano: Piano, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = alone_on(piano, MONTHLY)
    piano.fault(DO, status=200, body=YES)
    request = wanted(piano, entry, PREMIUM)
    assert desk.run(request).reason == "processing"
    now = time.time()
    monkeypatch.setattr("piano_actions.store.claims.time.time", lambda: now + 3700)
    assert [one.reason for one in desk.recover()] == ["processing"]
    assert desk.recover() == []
    assert desk.run(request).reason == "processing"
    assert piano.calls(DO) == 1


def test_while_one_change_is_not_sure_no_other_is_begun(piano: Piano, desk: Desk) -> None:
    entry = alone_on(piano, MONTHLY)
    piano.fault(DO, hang=True, times=1)
    first = wanted(piano, entry, PREMIUM)
    assert desk.run(first).reason == "unanswered"
    piano.fault("subscription/get", status=500)
    with pytest.raises(Outage):
        desk.run(wanted(piano, entry, PREMIUM))
    piano.server.control("DELETE", "faults")
    assert desk.run(wanted(piano, entry, PREMIUM)).status is Status.ALREADY, "the first one was brought to an end"
    assert desk.run(first).status is Status.DONE
    assert piano.calls(DO) == 2


class Crash(BaseException):
    """The process ends here."""


PLACES = {
    "before it is noted": "piano_actions.store.Store.note",
    "before Piano is asked": "tap_piano.client.PianoClient.write",
    "before reading back": "piano_actions.upgrade.settled",
    "before the outcome is noted": "piano_actions.store.Store.finish",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
@pytest.mark.parametrize(
    ("term", "to_term", "status"), [(MONTHLY, PREMIUM, "done"), (YEARLY, PREMIUM_YEARLY, "pending")]
)
def test_a_crash_between_two_steps_loses_nothing_and_does_nothing_twice(
    piano: Piano,
    settings: dict[str, Any],
    place: str,
    term: str,
    to_term: str,
    status: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = alone_on(piano, term)
    crashed = desk_of(settings)
    crashed.store.owner = f"{crashed.store.owner.split('/')[0]}/1/0.00"

    def crash(*_arguments: object, **_named: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(place, crash)
        with pytest.raises(Crash):
            crashed.run(wanted(piano, entry, to_term))
    assert [one.status for one in desk_of(settings).recover()] == [status]
    assert piano.calls(DO) == 1
    assert entry.state.upgrade_status == {"done": "Upgraded", "pending": "Upgrade pending"}[status]


def test_a_crash_forgets_not_by_which_of_two_options_it_was(
    piano: Piano, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = alone_on(piano, YEARLY)
    option = actions.option_for(piano.app.change_options, entry, PREMIUM_YEARLY)
    assert option is not None
    piano.app.change_options.append(replace(option, option_id="TC0OTHER"))
    assert desk_of(settings).run(wanted(piano, entry, PREMIUM_YEARLY)).reason == "several_options"
    crashed = desk_of(settings)
    crashed.store.owner = f"{crashed.store.owner.split('/')[0]}/1/0.00"

    def crash(*_arguments: object, **_named: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("piano_actions.store.Store.finish", crash)
        with pytest.raises(Crash):
            crashed.run(wanted(piano, entry, option.option_id))
    assert [one.reason for one in desk_of(settings).recover()] == ["change_pending"]
    assert piano.calls(DO) == 1


# The command


def test_the_command_lists_options_changes_and_withdraws(piano: Piano, ask: Callable[..., Result]) -> None:
    found = json.loads(ask("upgrade", "options", "--json").stdout)
    assert len(found) == len(piano.app.change_options)
    (one,) = json.loads(ask("upgrade", "options", "--from", "Digital yearly", "--json").stdout)
    assert (one["to_term_id"], one["billing_timing"]) == (PREMIUM_YEARLY, "1")
    assert one["seen"] == (
        "From 99.00 per year to 149.00 per year. The change is made at the end of the current billing period. "
        "The new access begins at once."
    )
    assert "change option(s)" in ask("upgrade", "options").stdout
    entry = alone_on(piano, YEARLY)
    uid = piano.uid(entry)
    dry = ask("upgrade", "do", "--user", uid, "--to", one["option_id"], "--dry-run")
    assert (dry.exit_code, dry.stdout.split(":")[0]) == (0, "would")
    done = json.loads(ask("upgrade", "do", "--user", uid, "--to", one["option_id"], "--json").stdout)
    assert (done["status"], done["details"]["option_id"]) == ("pending", one["option_id"])
    assert ask("upgrade", "cancel", "--user", uid, "--dry-run").exit_code == 0
    assert json.loads(ask("upgrade", "cancel", "--user", uid, "--json").stdout)["reason"] == "change_withdrawn"
    assert ask("upgrade", "cancel", "--user", uid).exit_code == 65

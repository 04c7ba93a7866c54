"""Resubscribe: what is done at Piano, how often, and what is told, on good days and bad ones."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from piano_actions.cli import main
from piano_actions.outcome import Status
from piano_actions.store import Claim, KeyTaken, ReaderBusy, Request
from piano_engage_common.stops import AccessRefused, Outage
from piano_engage_sandbox import actions
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.service import App
from piano_engage_sandbox.testing import serving
from tap_piano.client import PianoClient

from tests.actions.conftest import Piano, desk_of, everything, settings_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result
    from piano_actions.desk import Desk
    from piano_actions.outcome import Outcome
    from piano_engage_sandbox.world import Entry

RESUME, UPDATE = "subscription/resume", "subscription/update"
WRITES = (RESUME, UPDATE)


def wanted(piano: Piano, entry: Entry, **params: str) -> Request:
    return Request("resubscribe", piano.uid(entry), params)


def writes(piano: Piano) -> int:
    return sum(piano.calls(path) for path in WRITES)


@pytest.mark.parametrize(("kind", "path"), [("Dynamic", RESUME), ("Payment", UPDATE)])
@pytest.mark.parametrize("named", [True, False])
def test_a_cancellation_is_taken_back(piano: Piano, desk: Desk, kind: str, path: str, *, named: bool) -> None:
    entry = piano.stopping(kind)
    found = desk.run(wanted(piano, entry, **({"subscription_id": entry.id} if named else {})))
    assert (found.status, found.reason) == (Status.DONE, "resumed")
    assert entry.state.auto_renew
    due = datetime.fromtimestamp(entry.state.next_billing or 0, UTC)
    assert found.details["next_billing_date"] == due.isoformat()
    assert found.message == f"Welcome back! Your subscription goes on; the next payment is due on {due:%Y-%m-%d}."
    assert (piano.calls(path), writes(piano)) == (1, 1)


def renewing(entry: Entry) -> bool:
    return entry.state.status == "Active" and entry.state.auto_renew


def ended(entry: Entry) -> bool:
    return entry.state.status == "Expired" and entry.fate.term.type == "Dynamic"


def granted(entry: Entry) -> bool:
    return entry.fate.term.type == "Access Granted" and entry.state.live


@pytest.mark.parametrize(
    ("which", "status", "reason"),
    [(renewing, "already", "auto_renew_on"), (ended, "refused", "ended"), (granted, "refused", "not_resumable")],
)
def test_what_need_not_or_cannot_be_done_is_told_and_not_asked_for(
    reading: Piano, tmp_path: Path, which: Callable[[Entry], bool], status: str, reason: str
) -> None:
    entry = reading.find(which)
    found = desk_of(settings_for(reading, tmp_path)).run(wanted(reading, entry, subscription_id=entry.id))
    assert (found.status, found.reason) == (status, reason)
    assert writes(reading) == 0


def test_of_somebody_elses_subscription_no_more_is_told_than_of_none(reading: Piano, tmp_path: Path) -> None:
    desk = desk_of(settings_for(reading, tmp_path))
    one = reading.find(renewing)
    other = reading.find(lambda entry: reading.uid(entry) != reading.uid(one))
    theirs = desk.run(wanted(reading, other, subscription_id=one.id))
    nobodys = desk.run(wanted(reading, other, subscription_id="RCNOB0DYHAS1"))
    assert (theirs.reason, nobodys.reason) == ("not_yours", "unknown_subscription")
    assert theirs.message == nobodys.message
    assert set(theirs.details) == set(nobodys.details) == {"subscription_id"}
    assert writes(reading) == 0


def test_a_subscription_of_another_application_is_not_known(tmp_path: Path) -> None:
    with serving(apps=(App(aid="OneAppId01", rows=60), App(aid="TwoAppId02", rows=60))) as server:
        piano = Piano(server)
        other = server.sandbox.piano["TwoAppId02"].world
        theirs = next(iter(other.entries.values()))
        request = Request("resubscribe", other.person(theirs.reader).uid, {"subscription_id": theirs.id})
        found = desk_of(settings_for(piano, tmp_path)).run(request)
    assert (found.status, found.reason) == (Status.REFUSED, "unknown_subscription")


def test_a_reader_nobody_knows_and_one_without_anything_to_resume(reading: Piano, tmp_path: Path) -> None:
    desk = desk_of(settings_for(reading, tmp_path))
    assert desk.run(Request("resubscribe", "no-such-reader")).reason == "unknown_user"
    gone = reading.find(lambda one: ended(one) and reading.alone(one))
    assert desk.run(wanted(reading, gone)).reason == "nothing_to_resume"
    on = reading.find(lambda one: renewing(one) and reading.alone(one))
    assert desk.run(wanted(reading, on)).status is Status.ALREADY


def two_of_one_reader(piano: Piano) -> tuple[Entry, Entry]:
    """Put an end to the renewal of two subscriptions of one reader; the one that is paid up longer comes first."""

    def both(entry: Entry) -> list[Entry]:
        kinds = ("Dynamic", "Payment")
        return [one for one in piano.of_user(entry) if renewing(one) and one.fate.term.type in kinds]

    one, other = both(piano.find(lambda entry: len(both(entry)) == 2))
    for entry in (one, other):
        piano.stop(entry)
    return (one, other) if (one.state.access_until or 0) > (other.state.access_until or 0) else (other, one)


def test_several_are_refused_unless_told_to_take_the_primary_one(tmp_path: Path) -> None:
    with serving(rows=1500) as server:
        piano = Piano(server)
        longer, shorter = two_of_one_reader(piano)
        settings = settings_for(piano, tmp_path)
        found = desk_of(settings).run(wanted(piano, longer))
        assert (found.status, found.reason) == (Status.REFUSED, "ambiguous")
        assert found.details["subscription_ids"] == sorted([longer.id, shorter.id])
        assert writes(piano) == 0
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**settings, "target_config": str(tmp_path / "target.json")}))
        (tmp_path / "target.json").write_text(
            json.dumps({"primary": [{"term_name": [shorter.fate.term.name]}, "live"], "ledger": str(tmp_path / "l")})
        )
        arguments = ["resubscribe", "--user", piano.uid(longer), "--when-ambiguous", "primary", "--json"]
        done = CliRunner().invoke(main, ["--config", str(path), *arguments])
        assert (done.exit_code, json.loads(done.stdout)["details"]["subscription_id"]) == (0, shorter.id)
    assert shorter.state.auto_renew
    assert not longer.state.auto_renew


def test_a_dry_run_changes_nothing_and_keeps_nothing(piano: Piano, desk: Desk) -> None:
    entry = piano.stopping("Dynamic")
    found = desk.run(wanted(piano, entry), dry_run=True)
    assert (found.status, found.reason) == (Status.WOULD, "would_resume")
    assert not entry.state.auto_renew
    assert (writes(piano), desk.store.audit(limit=9)) == (0, [])


# Bad days


AFTER_THE_WORK: dict[str, dict[str, Any]] = {
    "reset": {"reset": True},
    "no answer in time": {"latency": 30},
    "500": {"status": 500},
    "502 with HTML": {"status": 502, "body": "<html>Bad gateway</html>"},
    "504": {"status": 504},
    "HTML with 200": {"html": True},
    "cut in the middle": {"truncate": 5},
    "code 1": {"success_false": True, "code": 1},
}


@pytest.mark.parametrize("members", AFTER_THE_WORK.values(), ids=list(AFTER_THE_WORK))
def test_what_piano_did_without_telling_is_read_back_and_not_asked_for_twice(
    piano: Piano, desk: Desk, members: dict[str, Any]
) -> None:
    entry = piano.stopping("Dynamic")
    piano.fault(RESUME, when="after", **members)
    found = desk.run(wanted(piano, entry))
    assert (found.status, writes(piano)) == (Status.DONE, 1)
    assert entry.state.auto_renew


def test_a_client_that_repeats_writes_is_found_out(piano: Piano, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PianoClient, "write", PianoClient.ask)
    with pytest.raises((AssertionError, Outage)):
        test_what_piano_did_without_telling_is_read_back_and_not_asked_for_twice(piano, desk, {"reset": True})


BEFORE_THE_WORK: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "retry_after": "0"},
    "503": {"status": 503},
}


@pytest.mark.parametrize("members", BEFORE_THE_WORK.values(), ids=list(BEFORE_THE_WORK))
def test_what_piano_surely_did_not_do_is_asked_for_again(piano: Piano, desk: Desk, members: dict[str, Any]) -> None:
    entry = piano.stopping("Payment")
    piano.fault(UPDATE, times=2, **members)
    assert desk.run(wanted(piano, entry)).status is Status.DONE
    assert writes(piano) == 3


def test_without_piano_nothing_is_done_and_the_key_stays_free(piano: Piano, tmp_path: Path) -> None:
    entry = piano.stopping("Dynamic")
    settings = settings_for(piano, tmp_path)
    request = wanted(piano, entry)
    away = desk_of({**settings, "api_url": "http://127.0.0.1:9/api/v3"})
    with pytest.raises(Outage, match="nothing was changed at Piano"):
        away.run(request)
    assert away.store.audit(limit=1)[0]["state"] == "failed"
    assert desk_of(settings).run(request).status is Status.DONE


def test_not_sure_is_told_and_settled_by_the_same_key(piano: Piano, desk: Desk) -> None:
    entry = piano.stopping("Dynamic")
    piano.fault(RESUME, reset=True, times=1)
    request = wanted(piano, entry)
    assert desk.run(request).status is Status.UNKNOWN
    assert not entry.state.auto_renew
    found = desk.run(request)
    assert (found.status, writes(piano)) == (Status.DONE, 2)


def test_not_sure_is_settled_by_recovering(piano: Piano, desk: Desk) -> None:
    entry = piano.stopping("Dynamic")
    piano.fault(RESUME, latency=30, when="after", times=1)
    piano.fault("subscription/get", status=500, skip=1, times=6)
    request = wanted(piano, entry, subscription_id=entry.id)
    assert desk.run(request).reason == "unanswered"
    piano.server.control("DELETE", "faults")
    assert [one.status for one in desk.recover()] == [Status.DONE]
    assert writes(piano) == 1
    assert desk.run(request).status is Status.DONE
    assert desk.recover() == []


@pytest.mark.parametrize("code", [2, 8001, 8005, 1012])
def test_piano_says_200_and_no(piano: Piano, desk: Desk, code: int) -> None:
    entry = piano.stopping("Dynamic")
    piano.fault(RESUME, status=200, body=json.dumps({"code": code, "ts": 1, "message": "No"}))
    found = desk.run(wanted(piano, entry))
    assert (found.status, found.reason, found.details["code"]) == (Status.REFUSED, "piano_refused", code)
    assert not entry.state.auto_renew
    assert writes(piano) == 1


def test_data_false_is_no(piano: Piano, desk: Desk) -> None:
    entry = piano.stopping("Dynamic")
    piano.fault(RESUME, status=200, body=json.dumps({"code": 0, "ts": 1, "data": False}))
    assert desk.run(wanted(piano, entry)).reason == "piano_refused"


def test_a_yes_that_cannot_be_seen_yet_is_no_refusal(piano: Piano, desk: Desk) -> None:
    entry = piano.stopping("Dynamic")
    piano.fault(RESUME, status=200, body=json.dumps({"code": 0, "ts": 1, "data": True}), times=1)
    request = wanted(piano, entry)
    assert desk.run(request).status is Status.UNKNOWN
    piano.server.call(lambda: actions.resume(piano.world, entry))  # Piano's other machines have it now
    assert [one.status for one in desk.recover()] == [Status.DONE]
    assert writes(piano) == 1


def test_a_yes_with_more_in_it_than_is_known_is_a_yes(piano: Piano, desk: Desk) -> None:
    entry = piano.stopping("Dynamic")
    told: list[str] = []
    desk.tell = lambda uid, _: told.append(uid)
    body = json.dumps({"code": 0, "ts": 1, "data": True, "warnings": []})
    piano.fault(RESUME, status=200, body=body, when="after")
    assert desk.run(wanted(piano, entry)).status is Status.DONE
    assert (writes(piano), told) == (1, [piano.uid(entry)])


def test_a_token_that_may_nothing_ends_it_before_anything_is_done(piano: Piano, tmp_path: Path) -> None:
    entry = piano.stopping("Dynamic")
    desk = desk_of({**settings_for(piano, tmp_path), "api_token": "no-such-token"})
    with pytest.raises(AccessRefused):
        desk.run(wanted(piano, entry))
    assert writes(piano) == 0


# Keys and crashes


def test_the_same_key_gets_the_same_answer_and_another_wish_is_turned_away(piano: Piano, desk: Desk) -> None:
    entry = piano.stopping("Dynamic")
    request = Request("resubscribe", piano.uid(entry), {}, key="click-1")
    first = desk.run(request)
    piano.stop(entry)  # the reader changed his mind; the repeated click shall not
    again = desk.run(Request("resubscribe", piano.uid(entry), {}, key="click-1"))
    assert again == first
    assert not entry.state.auto_renew
    with pytest.raises(KeyTaken):
        desk.run(Request("resubscribe", piano.uid(entry), {"subscription_id": entry.id}, key="click-1"))
    assert writes(piano) == 1


def test_a_key_is_forgotten_after_a_day(piano: Piano, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = piano.stopping("Dynamic")
    request = Request("resubscribe", piano.uid(entry), {}, key="click-1")
    desk.run(request)
    piano.stop(entry)
    now = time.time()
    monkeypatch.setattr("piano_actions.store.claims.time.time", lambda: now + DAY + 1)
    assert desk.run(request).status is Status.DONE
    assert entry.state.auto_renew
    assert len(desk.store.audit(limit=9)) == 2


def test_an_answer_of_yesterday_is_not_given_because_the_reader_is_busy(
    piano: Piano, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = piano.stopping("Dynamic")
    request = Request("resubscribe", piano.uid(entry), {}, key="click-1")
    desk.run(request)
    now = time.time()
    monkeypatch.setattr("piano_actions.store.claims.time.time", lambda: now + DAY + 1)
    other = desk.store.claim(Request("upgrade", piano.uid(entry), {"to_term": "T"}))
    assert isinstance(other, Claim)
    with pytest.raises(ReaderBusy):
        desk.run(request, patience=0)


def test_what_is_a_day_old_is_given_up_and_not_done_along_with_another_wish(
    piano: Piano, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = piano.stopping("Dynamic")
    told: list[str] = []
    desk = desk_of(settings, tell=lambda uid, _: told.append(uid))
    piano.fault(RESUME, reset=True)
    assert desk.run(wanted(piano, entry)).status is Status.UNKNOWN
    piano.server.control("DELETE", "faults")
    now, asked = time.time(), writes(piano)
    monkeypatch.setattr("piano_actions.store.claims.time.time", lambda: now + 2 * DAY)
    assert desk.run(Request("upgrade_cancel", piano.uid(entry))).reason == "no_change_pending"
    assert (writes(piano), entry.state.auto_renew) == (asked, False)
    assert [row["reader"] for row in desk.store.pushes()] == [desk.store.hash_of(piano.uid(entry))], "to be looked at"


class Crash(BaseException):
    """The process ends here."""


def crashing(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_arguments: object, **_named: object) -> Outcome:
        raise Crash

    places = {
        "before the choice": "piano_actions.resubscribe.of_reader",
        "before it is noted": "piano_actions.store.Store.note",
        "before Piano is asked": "tap_piano.client.PianoClient.write",
        "before reading back": "piano_actions.resubscribe.settled",
        "before the outcome is noted": "piano_actions.store.Store.finish",
    }
    monkeypatch.setattr(places[moment], crash)


@pytest.mark.parametrize(
    "moment",
    [
        "before the choice", "before it is noted", "before Piano is asked", "before reading back",
        "before the outcome is noted",
    ],
)  # fmt: skip
def test_a_crash_between_two_steps_loses_nothing_and_does_nothing_twice(
    piano: Piano, settings: dict[str, Any], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = piano.stopping("Dynamic")
    request = Request("resubscribe", piano.uid(entry), {}, key="click-1")
    crashed = desk_of(settings)
    crashed.store.owner = "elsewhere-that-is-gone/1/0.00".replace(
        "elsewhere-that-is-gone", crashed.store.owner.split("/")[0]
    )
    with monkeypatch.context() as patch:
        crashing(moment, patch)
        with pytest.raises(Crash):
            crashed.run(request)
    desk = desk_of(settings)
    assert [one.status for one in desk.recover()] == [Status.DONE]
    assert desk.run(request).status is Status.DONE
    assert (entry.state.auto_renew, writes(piano)) == (True, 1)


def test_killed_after_pianos_yes_it_is_found_and_not_done_again(
    piano: Piano, settings: dict[str, Any], tmp_path: Path, ask: Callable[..., Result]
) -> None:
    entry = piano.stopping("Dynamic")
    piano.fault(RESUME, hang=True, when="after", times=1)
    path = tmp_path / "slow.json"
    path.write_text(json.dumps({**settings, "request_timeout": 60}))
    command = [
        Path(sys.executable).with_name("piano-actions"),
        "--config",
        path,
        "resubscribe",
        "--user",
        piano.uid(entry),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not entry.state.auto_renew:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    piano.server.control("DELETE", "faults")
    found = ask("recover", "--json")
    assert [one["status"] for one in json.loads(found.stdout)] == ["done"]
    assert writes(piano) == 1


# The command


def test_the_command_answers_in_words_and_in_json(piano: Piano, ask: Callable[..., Result]) -> None:
    entry = piano.stopping("Payment")
    found = ask("resubscribe", "--user", piano.uid(entry), "--dry-run")
    assert (found.exit_code, found.stdout.splitlines()[0]) == (0, "would: The subscription would be resumed.")
    done = json.loads(ask("resubscribe", "--user", piano.uid(entry), "--json").stdout)
    assert (done["status"], done["reason"], done["details"]["subscription_id"]) == ("done", "resumed", entry.id)
    assert ask("resubscribe", "--user", "no-such-reader").exit_code == 65
    ask("resubscribe", "--user", piano.uid(entry), "--key", "k")
    assert ask("resubscribe", "--user", piano.uid(entry), "--key", "k", "--subscription", "RC1").exit_code == 2


def test_the_audit_names_no_reader_and_no_secret(
    piano: Piano, ask: Callable[..., Result], settings: dict[str, Any], tmp_path: Path
) -> None:
    entry = piano.stopping("Payment")
    uid = piano.uid(entry)
    ask("resubscribe", "--user", uid)
    told = ask("audit", "--json").stdout
    (row,) = json.loads(told)
    assert (row["action"], row["outcome"]["status"]) == ("resubscribe", "done")
    assert len(json.loads(ask("audit", "--json", "--user", uid).stdout)) == 1
    assert json.loads(ask("audit", "--json", "--user", "other").stdout) == []
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("actions.db*")) + everything(settings).encode()
    person = piano.world.person(entry.reader)
    for secret in (person.email, person.last, piano.app.token):
        assert secret not in told
        assert secret.encode() not in kept
    assert uid not in told


def test_settings_that_are_missing_are_named(
    ask: Callable[..., Result], settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del settings["aid"]
    (tmp_path / "config.json").write_text(json.dumps({**settings, "retry_attempts": 0, "nonsense": 1}))
    assert ask("resubscribe", "--user", "u").exit_code == 78
    assert all(f"{name}: " in caplog.text for name in ("aid", "retry_attempts", "nonsense"))
    assert settings["api_token"] not in caplog.text

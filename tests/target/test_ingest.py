"""Delivery by the Ingest API, against the sandbox over sockets."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from piano_engage_common.stops import AccessRefused, AnswerRefused, ConfigRefused, Outage, PartlyRejected
from piano_engage_sandbox.faults import Fault
from piano_engage_sandbox.rules import Match
from piano_engage_sandbox.testing import serving

from tests.target.conftest import EARLY_STATE, ROUNDS, TRAITS, Run, all_held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Engage

NAMES = ("app_id", "api_key", "api_url")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(rows=5) as one:
        yield one


@pytest.fixture
def settings(server: Server) -> dict[str, Any]:
    lines = server.environment()
    found = {name: lines[f"TARGET_RECURLY_ENGAGE_{name.upper()}"] for name in NAMES}
    return {"delivery": "ingest", **found, "requests_per_second": 0, "retry_wait": 0, "retry_attempts": 3}


def held(server: Server, user: str) -> dict[str, Any] | None:
    found = server.control("GET", f"engage/user/{user}")
    return None if found is None else found["traits"]


def told(engage: Engage, user: str) -> dict[str, str]:
    return dict(engage.query(f"SELECT trait, value FROM delivered_traits WHERE user_id = '{user}'"))


def asked(server: Server) -> list[dict[str, Any]]:
    return [one for one in server.control("GET", "requests") if one["path"] == "/ingest/property"]


def all_held_as_told(server: Server, engage: Engage, users: int) -> None:
    found, told_of = all_held(server), engage.told_all()
    for number in range(1, users + 1):
        assert found.get(f"u{number}", {}) == told_of.get(f"u{number}", {})


def test_a_new_reader_gets_all_traits_and_later_only_what_changed(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    records = engage.subscriptions(30)
    first = engage.run(engage.snapshot(records), **settings)
    assert (first.code, len(first.states)) == (0, 1), first.log
    all_held_as_told(server, engage, 30)
    assert set(held(server, "u7") or {}) == set(TRAITS)
    server.control("DELETE", "requests")
    server.control("POST", "switches", {"engage.null": "422"})
    records[6] |= {"promo_code": "BACK7", "days_subscribed": 87}
    records[8] |= {"days_subscribed": 87}
    assert engage.run(engage.snapshot(records), **settings).code == 0
    (request,) = asked(server)
    assert request["user"] == "u7"
    assert held(server, "u7") == told(engage, "u7")
    assert engage.summaries[1]["requests"]["acknowledged"] == 1
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert len(asked(server)) == 1
    assert engage.query("SELECT channel, status, users FROM deliveries ORDER BY started_at") == [
        ("ingest", "acknowledged", 30),
        ("ingest", "acknowledged", 1),
    ]


def test_only_the_traits_that_changed_are_in_the_request(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    records = engage.subscriptions(2)
    engage.run(engage.snapshot(records), **settings)
    server.control("POST", "reset", {})  # Engage forgets: what it holds after is what came since
    records[0]["promo_code"] = "P"
    engage.run(engage.snapshot(records), **settings)
    assert held(server, "u1") == {"promo_code": "P"}
    assert held(server, "u2") is None


def test_a_reader_without_subscriptions_is_cleared_word_by_word(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    records = engage.subscriptions(40)
    engage.run(engage.snapshot(records), **settings)
    assert engage.run(engage.snapshot(records[:-1]), **settings).code == 0
    traits = held(server, "u40") or {}
    assert {traits[name] for name in ("subscription_id", "subscription_status", "promo_code")} == {"none"}
    assert (traits["auto_renew"], traits["total_charged"], traits["end_date"]) == ("false", "-1", "9999-12-31")


@pytest.mark.parametrize("form", ["json", "query"])
@pytest.mark.parametrize("key_in", ["basic", "query", "both"])
def test_any_form_and_any_place_of_the_key(
    form: str, key_in: str, server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    need = {"basic": "basic", "query": "key", "both": "both"}[key_in]
    server.control(
        "POST", "switches", {"engage.auth": need, "engage.query_auth": need, "engage.key_parameter": "token"}
    )
    records = [engage.subscription(1, term_name='Ünï & "co" = 1+1?#/%', offer_name="a[b]")]
    extra = {"ingest_form": form, "ingest_key_in": key_in, "ingest_key_parameter": "token"}
    run = engage.run(engage.snapshot(records), **settings, **extra)
    assert run.code == 0, run.log
    assert held(server, "u1") == told(engage, "u1")
    assert settings["api_key"] not in run.log


def test_values_may_be_typed(server: Server, settings: dict[str, Any], engage: Engage) -> None:
    engage.run(engage.snapshot([engage.subscription(1)]), **settings, ingest_values="typed")
    traits = held(server, "u1") or {}
    assert (traits["auto_renew"], traits["days_subscribed"], traits["total_charged"]) == (True, 86, 12.5)
    assert traits["term_type"] == "Payment"


# Bad days

ONCE: dict[str, dict[str, Any]] = {
    "429 with Retry-After": {"status": 429, "retry_after": "0", "times": 3},
    "429 without": {"status": 429, "times": 3},
    "503": {"status": 503, "times": 2},
    "503 after the work": {"status": 503, "when": "after", "times": 2},
    "500": {"status": 500, "times": 2},
    "502 with HTML": {"status": 502, "body": "<html>", "times": 1},
    "reset before the work": {"reset": True, "times": 2},
    "reset after the work": {"reset": True, "when": "after", "times": 2},
    "no answer": {"hang": True, "times": 1},
    "no answer after the work": {"hang": True, "when": "after", "times": 1},
    "cut": {"truncate": 5, "times": 2},
    "drop by drop": {"bytes_per_second": 4, "times": 1},
    "late": {"latency": 0.2, "times": 1},
    "too late": {"latency": 3, "times": 1},
    "HTML with 200": {"html": True, "times": 2},
    "a reader refused": {"success_false": True},
    "a reader refused with 422": {"status": 422},
    "a reader refused with 400": {"status": 400},
}
"""Faults of one reader each. What is not over after some times is a refusal of that reader."""

PATIENT = {"request_timeout": 1.0, "retry_attempts": 12, "max_reject_fraction": 1}


@pytest.mark.parametrize("form", ["json", "query"])
def test_a_fault_of_a_reader_is_waited_out_or_kept_as_his_rejection(
    form: str, server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    faults = {f"u{number}": members for number, members in enumerate(ONCE.values(), start=1)}
    for user, members in faults.items():
        server.control("POST", "faults", {"part": "engage", "user": user, **members})
    users = len(faults) + 20
    run = engage.run(engage.snapshot(engage.subscriptions(users)), **settings | PATIENT, ingest_form=form)
    assert (run.code, len(run.states)) == (0, 1), run.log
    for rule in server.control("GET", "faults"):
        assert rule["struck"] == rule.get("times") or "times" not in faults[rule["user"]], rule
    refused = {user for user, members in faults.items() if "times" not in members}
    assert {user for (user,) in engage.query("SELECT user_id FROM rejects")} == refused
    all_held_as_told(server, engage, users)
    assert engage.told_all().keys() == {f"u{number}" for number in range(1, users + 1)} - refused


LASTING: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "503": ({"status": 503}, Outage),
    "429": ({"status": 429}, Outage),
    "reset": ({"reset": True}, Outage),
    "no answer": ({"hang": True}, Outage),
    "HTML": ({"html": True}, Outage),
    "401": ({"status": 401, "body": '{"success": false, "message": "not_authorized"}'}, AccessRefused),
    "404": ({"status": 404, "body": "{}"}, AnswerRefused),
    "a token refused": ({"token_refused": True}, AccessRefused),
    "cut": ({"truncate": 5}, Outage),
    "drop by drop": ({"bytes_per_second": 4}, Outage),
    "too late": ({"latency": 9}, Outage),
    "success false": ({"success_false": True}, PartlyRejected),
}

SLOW = {"hang", "bytes_per_second", "latency"}
"""Faults that are found out by waiting. With all others nobody is in a hurry: a busy machine is no fault."""
HASTE = {"request_timeout": 2, "retry_attempts": 2}

HOW = {"skip", "times", "every", "probability", "seed", "when", "body", "headers", "retry_after", "code"}
"""Members of a fault that say how often, when, and with which words; the others are kinds of faults."""


def test_every_fault_that_the_sandbox_has_is_among_those_of_a_reader_and_those_that_last() -> None:
    kinds = {one.name for one in fields(Fault)} - {one.name for one in fields(Match)} - HOW
    once = {name for members in ONCE.values() for name in members} & kinds
    lasting = {name for members, _ in LASTING.values() for name in members} & kinds
    assert lasting == kinds
    assert once == kinds - {"token_refused"}, "a key that is refused is no matter of one reader"


@pytest.mark.parametrize(("members", "kind"), LASTING.values(), ids=list(LASTING))
def test_what_lasts_from_the_middle_on_stops_and_the_next_run_sends_the_rest(
    members: dict[str, Any],
    kind: Any,  # noqa: ANN401 - a class of ours
    server: Server,
    settings: dict[str, Any],
    engage: Engage,
) -> None:
    server.control("POST", "faults", {"part": "engage", "skip": 25, **members})
    messages = engage.snapshot(engage.subscriptions(60))
    run = engage.run(messages, **settings | {"request_timeout": 10} | (HASTE if SLOW & members.keys() else {}))
    assert run.code == kind.exit_code, run.log
    assert "Traceback" not in run.log
    assert engage.query("SELECT count(*) FROM delivered WHERE user_id NOT IN (SELECT user_id FROM overtaken)") == [
        (25,)
    ]
    if kind is PartlyRejected:
        assert engage.query("SELECT count(*) FROM rejects") == [(35,)]
        return
    assert run.states == []
    assert engage.query("SELECT status FROM deliveries") == [("broken off",)]
    server.control("DELETE", "faults")
    server.control("DELETE", "requests")
    again = engage.run(messages, **settings)
    assert (again.code, len(again.states)) == (0, 1)
    assert len(asked(server)) == 35
    all_held_as_told(server, engage, 60)


@pytest.mark.parametrize("change", [{"app_id": "wrong"}, {"api_key": "planted-key"}])
def test_wrong_credentials_stop_at_once(change: dict[str, str], settings: dict[str, Any], engage: Engage) -> None:
    run = engage.run(engage.snapshot(engage.subscriptions(50)), **{**settings, **change})
    assert run.code == AccessRefused.exit_code
    assert "not_authorized" in run.errors
    assert "planted-key" not in run.log
    assert engage.query("SELECT count(*) FROM delivered") == [(0,)]


@pytest.mark.parametrize("name", ["app_id", "api_key"])
def test_settings_that_are_needed_are_named(name: str, settings: dict[str, Any], engage: Engage) -> None:
    run = engage.run(engage.snapshot(engage.subscriptions(1)), **{**settings, name: None})
    assert run.code == ConfigRefused.exit_code
    assert f"{name}: is needed" in run.errors


# Rejects


def poison(server: Server, *users: str) -> None:
    """Refuse whatever is sent of some readers."""
    answer = '{"success": false, "message": "userId_not_found"}'
    for user in users:
        server.control("POST", "faults", {"part": "engage", "user": user, "status": 422, "body": answer})


def test_a_rejected_reader_stops_nobody_and_is_kept_with_its_reason(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    poison(server, "u13")
    readers = 200 if ROUNDS == 1 else 10_000
    records = engage.subscriptions(readers)
    run = engage.run(engage.snapshot(records), **settings)
    assert (run.code, len(run.states)) == (0, 1), run.log
    assert "Engage rejected 1 reader(s) with 422 userId_not_found" in run.log
    assert engage.query("SELECT user_id, status, reason, attempts FROM rejects") == [
        ("u13", 422, "userId_not_found", 1)
    ]
    assert engage.query("SELECT count(*) FROM delivered") == [(readers - 1,)]
    assert server.control("GET", "engage")["users"] >= readers - 1
    assert len(server.control("GET", "requests?part=engage&user=u13")) == 1
    # its time has not come
    server.control("DELETE", "faults")
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert held(server, "u13") is None
    assert engage.summaries[1]["requests"]["waiting"] == 1


def test_a_rejected_reader_is_tried_again_with_the_newest_value(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    poison(server, "u3")
    records = engage.subscriptions(200)
    for attempt in (1, 2):
        assert engage.run(engage.snapshot(records), **settings).code == 0
        ((attempts, hours),) = engage.query("SELECT attempts, round(epoch(next_at - last_at) / 3600) FROM rejects")
        assert (attempts, hours) == (attempt, 2 ** (attempt - 1))
        expire(engage)
    records[2]["promo_code"] = "NEW"
    server.control("DELETE", "faults")
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert (held(server, "u3") or {})["promo_code"] == "NEW"
    assert engage.query("SELECT * FROM rejects") == []


def expire(engage: Engage) -> None:
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute("UPDATE rejects SET next_at = now() - INTERVAL 1 SECOND")


def test_too_many_rejects_end_with_a_code_of_their_own_after_all_were_sent(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    poison(server, "u1", "u2")
    run = engage.run(engage.snapshot(engage.subscriptions(20)), **settings)
    assert run.code == PartlyRejected.exit_code
    assert len(run.states) == 1
    assert "rejected 2 of 20 readers" in run.errors
    assert engage.query("SELECT count(*) FROM delivered") == [(18,)]
    assert engage.run(engage.snapshot(engage.subscriptions(20)), **settings).code == 0


def test_a_target_that_lets_state_out_before_the_answers_is_found_out(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    """The broken double of the tests where a run stops in the middle."""
    server.control("POST", "faults", {"part": "engage", "status": 503, "skip": 5})
    good = engage.run(engage.snapshot(engage.subscriptions(30)), **settings)
    bad = engage.run(engage.snapshot(engage.subscriptions(30)), script=EARLY_STATE, **settings)
    assert (good.code, bad.code) == (Outage.exit_code, Outage.exit_code)
    assert good.states == []
    with pytest.raises(AssertionError):
        assert bad.states == []


def test_a_target_that_swallows_422_is_found_out(server: Server, settings: dict[str, Any], engage: Engage) -> None:
    """The broken double of the tests above."""
    script = "from target_recurly_engage import engage\nengage.IngestClient._judge = lambda self, answer: None\n"
    poison(server, "u13")
    engage.run(engage.snapshot(engage.subscriptions(20)), script=script, **settings)
    with pytest.raises(AssertionError):
        all_held_as_told(server, engage, 20)


def test_a_channel_that_loses_every_hundredth_is_found_out(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    script = """
from target_recurly_engage import engage
import itertools
count = itertools.count(1)
def write(self, user_id, properties, *more, original=engage.IngestClient.write):
    return None if next(count) % 100 == 0 else original(self, user_id, properties, *more)
engage.IngestClient.write = write
"""
    engage.run(engage.snapshot(engage.subscriptions(110)), script=script, **settings)
    with pytest.raises(AssertionError):
        all_held_as_told(server, engage, 110)


# Pace


def test_the_rate_is_never_exceeded_and_the_server_would_notice(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    server.control("POST", "limits", {"part": "engage", "rate": 100, "burst": 10, "only_count": True})
    messages = engage.snapshot(engage.subscriptions(120))
    assert engage.run(messages, **{**settings, "requests_per_second": 100}).code == 0
    assert server.control("GET", "counters")["violations"] == 0
    engage.ledger.unlink()
    assert engage.run(messages, **settings, concurrency=16).code == 0
    assert server.control("GET", "counters")["violations"] > 0


def test_no_more_requests_are_in_flight_than_allowed(server: Server, settings: dict[str, Any], engage: Engage) -> None:
    server.control("POST", "faults", {"part": "engage", "latency": 0.02})
    assert engage.run(engage.snapshot(engage.subscriptions(40)), **settings, concurrency=3).code == 0
    assert server.control("GET", "counters")["most_in_flight"] == 3


# Kills and signals

KILL = """
import os
from target_recurly_engage import run, target
from target_recurly_engage.delivery import choice
from target_recurly_engage.delivery import ingest
def die(*args, **options):
    os.kill(os.getpid(), 9)
ingest.GROUP = 20
"""
POINTS = {
    "before the first request": ("ingest.IngestDelivery._send_all = die", 0),
    "before outcomes are noted": ("ingest.IngestDelivery._note = die", 20 + 16),
    "while they are noted": (
        """
class Once(ingest.IngestDelivery):
    def _acknowledge(self, user_ids):
        super()._acknowledge(user_ids)
        die()
choice.IngestDelivery = Once
""",
        20 + 16,
    ),
    "after some were noted": (
        """
class Once(ingest.IngestDelivery):
    def _note(self, outcomes, done):
        if done.acknowledged:
            die()
        return super()._note(outcomes, done)
choice.IngestDelivery = Once
""",
        20 + 16,
    ),
    "after all": ("run.Run.end = die", 0),
    "before STATE": ("target.TargetRecurlyEngage._write_state_message = die", 0),
}


@pytest.mark.parametrize(("point", "window"), POINTS.values(), ids=list(POINTS))
def test_a_run_that_was_killed_is_made_good_and_sends_again_no_more_than_was_in_flight(
    point: str, window: int, server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    messages = engage.snapshot(engage.subscriptions(120))
    killed = engage.run(messages, script=KILL + point, **settings)
    assert (killed.code, killed.out) == (-signal.SIGKILL, "")
    again = engage.run(messages, **settings)
    assert (again.code, len(again.states)) == (0, 1), again.log
    all_held_as_told(server, engage, 120)
    assert 120 <= len(asked(server)) <= 120 + window + 20
    assert engage.query("SELECT count(*) FROM deliveries WHERE status = 'sending'") == [(0,)]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_sending_lets_what_is_in_flight_land_and_no_state_out(
    signum: int, server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    server.control("POST", "faults", {"part": "engage", "latency": 0.05})
    messages = engage.snapshot(engage.subscriptions(200))
    process = subprocess.Popen(
        engage.command(**settings, concurrency=4),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    process.stdin.write(engage.lines(messages))
    process.stdin.close()
    process.stdin = None
    deadline = time.monotonic() + 60
    while len(asked(server)) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signum)
    out, log = process.communicate(timeout=60)
    run = Run(process.returncode, out.decode(), log.decode())
    assert run.code == 128 + signum, run.log
    assert run.states == []
    answered = len(asked(server))
    ((taken,),) = engage.query("SELECT count(*) FROM delivered")
    assert answered - 8 <= taken <= answered < 200
    server.control("DELETE", "faults")
    again = engage.run(messages, **settings)
    assert again.code == 0
    assert len(asked(server)) <= 200 + 8
    all_held_as_told(server, engage, 200)

"""Bad days of the Publisher API: what the tap does when Piano refuses, breaks, or moves while it is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import AccessRefused, AnswerRefused, Outage
from piano_engage_sandbox.service import App
from piano_engage_sandbox.testing import serving

from tests.tap.conftest import settings_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.server import Server

    from tests.tap.conftest import Run, Tap

Select = "Callable[..., dict[str, Any]]"
TOO_LONG = 10_000


def keys(run: Run, stream: str, key: str) -> list[str]:
    """The ids of the records of a stream, in the order they came."""
    return [m["record"][key] for m in run.of_type("RECORD") if m["stream"] == stream]


def last_state(run: Run) -> dict[str, Any]:
    return dict(run.of_type("STATE")[-1]["value"])


def fault(server: Server, **members: Any) -> None:  # noqa: ANN401 - JSON
    server.control("POST", "faults", {"part": "publisher", **members})


REFUSED: dict[str, dict[str, str]] = {
    "wrong token": {"api_token": "no-such-token"},
    "aid nobody knows": {"aid": "NoSuchAid1"},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("status", [200, 401, 403])
def test_a_refusal_is_not_retried_and_says_what_to_check(
    change: dict[str, str],
    status: int,
    piano: Server,
    settings: dict[str, Any],
    sync: Tap,
    select: Callable[..., dict[str, Any]],
) -> None:
    piano.control("POST", "switches", {"publisher.refused_token_status": status})
    with pytest.raises(AccessRefused, match="check api_token, aid and region"):
        sync(None, catalog=select("terms"), **{**settings, **change})
    assert piano.control("GET", "counters")["requests"] == 1


def test_the_application_of_somebody_else_is_refused(sync: Tap, select: Callable[..., dict[str, Any]]) -> None:
    with serving(apps=(App(aid="OneAppId01", rows=20), App(aid="TwoAppId02", rows=20))) as server:
        settings = settings_for(server, aid="TwoAppId02")
        with pytest.raises(AccessRefused, match="access denied"):
            sync(None, catalog=select("terms"), **settings)


def test_the_command_ends_with_the_code_of_a_refusal_and_without_a_traceback(
    settings: dict[str, Any], tap: Tap
) -> None:
    run = tap(None, **{**settings, "api_token": "no-such-token"})
    assert run.code == AccessRefused.exit_code
    assert "access denied" in run.errors
    assert "Traceback" not in run.log
    assert "no-such-token" not in run.log
    assert run.records == []


PASSING: dict[str, dict[str, Any]] = {
    "429 with Retry-After": {"status": 429, "retry_after": "0", "times": 3},
    "429 without": {"status": 429, "times": 3},
    "500": {"status": 500, "times": 2},
    "502 with HTML": {"status": 502, "body": "<html>Bad gateway</html>", "times": 2},
    "503": {"status": 503, "times": 4},
    "reset before the work": {"reset": True, "times": 2},
    "reset after the work": {"reset": True, "when": "after", "times": 2},
    "cut in the middle": {"truncate": 100, "times": 2},
    "HTML with 200": {"html": True, "times": 2},
    "code 1 with 200": {"success_false": True, "code": 1, "times": 2},
}


@pytest.mark.parametrize("members", PASSING.values(), ids=list(PASSING))
def test_what_passes_is_waited_out_and_nothing_is_missing_or_twice(
    members: dict[str, Any],
    piano: Server,
    settings: dict[str, Any],
    sync: Tap,
    select: Callable[..., dict[str, Any]],
) -> None:
    plain = sync(None, catalog=select("terms", "promo_codes"), **settings)
    fault(piano, **members)
    run = sync(None, catalog=select("terms", "promo_codes"), **settings)
    for stream, key in (("terms", "term_id"), ("promo_codes", "promo_code_id")):
        assert keys(run, stream, key) == keys(plain, stream, key)
    assert "attempt 2 of 6 follows" in run.log


LASTING: dict[str, dict[str, Any]] = {
    "429": {"status": 429},
    "a wait longer than patience": {"status": 429, "retry_after": str(TOO_LONG)},
    "503": {"status": 503},
    "reset": {"reset": True},
    "cut": {"truncate": 10},
    "HTML": {"html": True},
    "code 1": {"success_false": True, "code": 1},
    "no answer": {"hang": True},
}


@pytest.mark.parametrize("members", LASTING.values(), ids=list(LASTING))
def test_what_lasts_ends_the_run_as_an_outage_and_the_next_run_brings_the_rest(
    members: dict[str, Any],
    piano: Server,
    settings: dict[str, Any],
    tap: Tap,
    select: Callable[..., dict[str, Any]],
) -> None:
    fault(piano, path="*/promotion/code/list", skip=3, **members)
    catalog = select("terms", "promo_codes")
    run = tap(None, catalog=catalog, **settings, request_timeout=1, retry_attempts=3, concurrency=1)
    assert run.code == Outage.exit_code, run.log
    assert "/promotion/code/list" in run.errors
    assert "given up after several attempts" in run.errors
    assert "Traceback" not in run.log
    piano.control("DELETE", "faults")
    rest = tap(None, catalog=catalog, state=last_state(run), **settings)
    assert rest.code == 0
    complete = tap(None, catalog=catalog, **settings)
    first = keys(run, "promo_codes", "promo_code_id")
    assert first
    assert sorted(first + keys(rest, "promo_codes", "promo_code_id")) == sorted(
        keys(complete, "promo_codes", "promo_code_id")
    )


@pytest.mark.parametrize("code", [429, 1000, 9999])
def test_a_code_nobody_expects_is_given_up_at_once(
    code: int, piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., dict[str, Any]]
) -> None:
    fault(piano, success_false=True, code=code)
    with pytest.raises(AnswerRefused, match=f"code {code}, which cannot be used"):
        sync(None, catalog=select("terms"), **settings)
    assert piano.control("GET", "counters")["requests"] == 1


@pytest.mark.parametrize("order", ["unstable", "updated"])
def test_a_list_in_no_order_is_read_until_nothing_is_missing(
    order: str, piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., dict[str, Any]]
) -> None:
    piano.control("POST", "switches", {"publisher.subscription_order": order})
    run = sync(None, catalog=select("subscriptions"), **settings, page_size=70)
    found = keys(run, "subscriptions", "subscription_id")
    assert len(found) == len(set(found)) == 200


@pytest.mark.parametrize("over", ["clamp", "code_400"])
def test_pages_smaller_than_asked_for_are_taken_as_they_come(
    over: str, piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., dict[str, Any]]
) -> None:
    piano.control("POST", "switches", {"publisher.max_limit": 100, "publisher.over_limit": over})
    run = sync(None, catalog=select("subscriptions"), **settings)
    found = keys(run, "subscriptions", "subscription_id")
    assert len(found) == len(set(found)) == 200


def test_a_promotion_that_was_deleted_meanwhile_is_left_out_with_a_warning(
    piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., dict[str, Any]]
) -> None:
    whole = sync(None, catalog=select("promo_codes"), **settings)
    fault(piano, path="*/promotion/code/list", success_false=True, code=2, skip=2, times=1)
    fault(piano, path="*/promotion/get", success_false=True, code=2, times=1)
    run = sync(None, catalog=select("promo_codes"), **settings, concurrency=1, page_size=5000)
    assert "was deleted meanwhile; it is left out" in run.log
    missing = set(keys(whole, "promo_codes", "promo_code_id")) - set(keys(run, "promo_codes", "promo_code_id"))
    promotions = {
        m["record"]["promotion_id"] for m in whole.of_type("RECORD") if m["record"]["promo_code_id"] in missing
    }
    assert len(promotions) == 1
    assert promotions.isdisjoint(last_state(run)["bookmarks"]["promo_codes"]["promotions"])


def test_a_promotion_that_was_deleted_before_its_terms_were_asked_for_has_none(
    piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., dict[str, Any]]
) -> None:
    fault(piano, path="*/promotion/term/list", success_false=True, code=2, times=1)
    fault(piano, path="*/promotion/get", success_false=True, code=2, times=1)
    run = sync(None, catalog=select("promotions"), **settings)
    restricted = [record["term_ids"] for record in run.records if record["term_dependency_type"] == "include"]
    assert len(restricted) == 2
    assert sum(terms is None for terms in restricted) == 1


def test_a_token_that_is_revoked_meanwhile_is_no_deleted_promotion(
    piano: Server, settings: dict[str, Any], tap: Tap
) -> None:
    fault(piano, path="*/promotion/*", token_refused=True, skip=4)
    run = tap(None, **settings, concurrency=1, page_size=5000)
    assert run.code == AccessRefused.exit_code
    state = last_state(run)["bookmarks"]["promo_codes"]["promotions"]
    assert 0 < len(state) < 12
    sent = {m["record"]["promotion_id"] for m in run.of_type("RECORD") if m["stream"] == "promo_codes"}
    assert sent <= set(state)


def test_an_unknown_member_and_a_value_of_the_wrong_type_are_kept_and_not_fatal(
    piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., dict[str, Any]]
) -> None:
    term = {"term_id": "TMODD0000001", "aid": "x", "name": "Odd", "update_date": "soon", "brand_new": {"a": 1}}
    body = {"code": 0, "ts": 1774674000, "limit": 500, "offset": 0, "total": 1, "count": 1, "terms": [term]}
    fault(piano, path="*/term/list", status=200, body=json.dumps(body), headers={"Content-Type": "application/json"})
    run = sync(None, catalog=select("terms"), **settings)
    (record,) = run.records
    assert record["term_name"] == "Odd"
    assert record["update_date"] is None
    assert record["unknown_fields"] == {"update_date": "soon", "brand_new": {"a": 1}}
    assert "1 value(s) of update_date are not what Piano documents" in run.log


def test_a_clock_of_piano_ahead_of_ours_loses_nothing_and_repeats_nothing(
    piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., dict[str, Any]]
) -> None:
    piano.control("POST", "clock", {"set": "2031-01-01T06:00"})
    both = select("subscriptions", "subscription_log")
    first = sync(None, catalog=both, **settings)
    again = sync(None, catalog=both, state=last_state(first), **settings, lookback=0)
    assert last_state(first)["bookmarks"]["subscriptions"]["replication_key_value"].startswith("2031-01-01T04")
    assert len(keys(again, "subscription_log", "subscription_id")) <= 1
    piano.control("POST", "clock", {"advance": "5d"})
    later = sync(None, catalog=both, state=last_state(first), **settings, lookback=0)
    assert 1 < len(keys(later, "subscription_log", "subscription_id")) < 100

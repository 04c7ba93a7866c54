"""What the streams of the Publisher API deliver, and what they deliver the second time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.server import Server

    from tests.tap.conftest import Run, Tap

API_STREAMS = ("offers", "promo_codes", "promotions", "resources", "subscriptions", "term_change_options", "terms")


def claim(run: Run) -> dict[str, Any]:
    return dict(last_state(run)["bookmarks"]["subscription_log"]["handed_on"])


def of(run: Run, stream: str) -> list[dict[str, Any]]:
    return [message["record"] for message in run.of_type("RECORD") if message["stream"] == stream]


def last_state(run: Run) -> dict[str, Any]:
    return dict(run.of_type("STATE")[-1]["value"])


@pytest.mark.parametrize("stream", API_STREAMS)
def test_a_second_run_without_changes_sends_nothing(
    stream: str, settings: dict[str, Any], sync: Tap, select: Callable[..., dict[str, Any]]
) -> None:
    first = sync(None, catalog=select(stream), **settings)
    assert of(first, stream)
    again = sync(None, catalog=select(stream), state=last_state(first), **settings)
    assert of(again, stream) == []


def test_three_days_later_only_what_changed_comes(piano: Server, settings: dict[str, Any], sync: Tap) -> None:
    first = sync(None, **settings)
    piano.control("POST", "clock", {"advance": "3d"})
    later = sync(None, state=last_state(first), **settings)
    before, after = last_state(first)["bookmarks"], last_state(later)["bookmarks"]
    log, listed = of(later, "subscription_log"), of(later, "subscriptions")
    assert 0 < len(listed) <= len(log) < len(of(first, "subscription_log"))
    assert {record["subscription_id"] for record in listed} <= {record["subscription_id"] for record in log}
    for stream in ("subscription_log", "subscriptions"):
        assert after[stream]["replication_key_value"] > before[stream]["replication_key_value"]
    assert of(later, "terms") == of(later, "resources") == of(later, "offers") == []


def test_each_export_job_is_claimed_under_a_name_of_its_own_and_builds_on_the_one_before(
    settings: dict[str, Any], sync: Tap, select: Callable[..., dict[str, Any]]
) -> None:
    catalog = select("subscription_log")
    first = sync(None, catalog=catalog, **settings)
    second = sync(None, catalog=catalog, state=last_state(first), **settings)
    one, two = claim(first), claim(second)
    assert (one["after"], one["all"]) == (None, True)
    assert (two["after"], two["all"]) == (one["signature"], False)
    assert two["signature"] != one["signature"]
    assert one["signature"].partition("-")[2].startswith("job:")
    assert [state["handed_on"] for state in first.states[-2:]] == [one, one], "from the first, it goes by the bookmark"

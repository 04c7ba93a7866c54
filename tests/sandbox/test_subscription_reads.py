"""subscription/list, get, search, count and stats: filters, pages, words and fields, over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.data import log_rows
from piano_engage_sandbox.export import snapshot
from piano_engage_sandbox.piano.subscription_api import SELECT_BY
from piano_engage_sandbox.piano.subscription_shapes import STATUSES
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.server import Server
    from piano_engage_sandbox.world import Entry, World

ROWS = 600


def ask(server: Server, path: str, **params: object) -> dict[str, Any]:
    app = next(iter(server.sandbox.piano.values()))
    query = urlencode({"aid": app.aid, "api_token": app.token, **params}, doseq=True)
    with urlopen(f"{server.url}/api/v3/publisher/{path}?{query}", timeout=20) as answer:  # noqa: S310 - ours
        found: dict[str, Any] = json.load(answer)
    return found


def listed(server: Server, **params: object) -> set[str]:
    return {item["subscription_id"] for item in ask(server, "subscription/list", limit=ROWS, **params)["subscriptions"]}


def searched(server: Server, **params: object) -> list[str]:
    body = ask(server, "subscription/search", limit=ROWS, **params)
    return [item["subscription_id"] for item in body["subscriptionLogItems"]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A sandbox that nobody changes."""
    with serving(rows=ROWS) as made:
        yield made


@pytest.fixture(scope="module")
def world(server: Server) -> World:
    return next(iter(server.sandbox.piano.values())).world


def those(world: World, test: Callable[[Entry], object]) -> set[str]:
    found = {entry.id for entry in world.entries.values() if test(entry)}
    assert 0 < len(found) < ROWS
    return found


def test_the_list_has_the_ids_of_the_log_at_the_same_moment(server: Server, world: World) -> None:
    app = next(iter(server.sandbox.piano.values()))
    rows = log_rows(rows=ROWS, since=app.begins, as_of=world.now, touched=snapshot(world.touched))
    assert listed(server) == {row["Subscription ID"] for row in rows}


def test_without_any_parameter_a_page_has_100(server: Server) -> None:
    body = ask(server, "subscription/list")
    assert list(body) == ["code", "ts", "limit", "offset", "total", "count", "subscriptions"]
    assert (body["limit"], body["offset"], body["total"], body["count"]) == (100, 0, ROWS, 100)
    assert len(body["subscriptions"]) == 100


def test_a_user_has_his_own(server: Server, world: World) -> None:
    uid = world.person(next(iter(world.entries.values())).reader).uid
    assert listed(server, uid=uid) == {entry.id for entry in world.of_user(uid)}
    assert listed(server, uid="nobody") == set()


@pytest.mark.parametrize(
    "word", ["Active", "Expired", "Upgraded", "Completed", "Cancelled", "Expired Due To Payment Error"]
)
def test_type_is_a_status(server: Server, world: World, word: str) -> None:
    assert listed(server, type=STATUSES[word].code) == those(world, lambda entry: entry.state.status == word)


@pytest.mark.parametrize(
    ("status", "word"),
    [("active", "Active"), ("paymentFailure", "Expired Due To Payment Error"), ("upgraded", "Upgraded")],
)
def test_status_has_words_of_its_own(server: Server, world: World, status: str, word: str) -> None:
    assert listed(server, status=status) == those(world, lambda entry: entry.state.status == word)


def test_renewed_is_what_was_charged_again(server: Server, world: World) -> None:
    assert listed(server, status="renewed") == those(world, lambda entry: entry.state.paid_periods > 1)


def test_a_date_range_is_about_the_update_unless_it_says_so(server: Server, world: World) -> None:
    first, last = world.now - 200 * DAY, world.now - 20 * DAY
    expected = those(world, lambda entry: first <= entry.state.modified <= last)
    assert listed(server, start_date=first, end_date=last) == expected
    assert listed(server, start_date=first, end_date=last, select_by="update") == expected


@pytest.mark.parametrize(
    ("by", "from_days", "to_days"), [("create", -700, -90), ("next_bill", 3, 20), ("last_bill", -20, -3)]
)
def test_a_date_range_can_be_about_other_dates(
    server: Server, world: World, by: str, from_days: int, to_days: int
) -> None:
    first, last = world.now + from_days * DAY, world.now + to_days * DAY
    found = listed(server, start_date=first, end_date=last, select_by=by)
    assert found == those(world, lambda entry: first <= (SELECT_BY[by](entry.state) or 0) <= last)


def test_both_ends_of_a_range_count(server: Server, world: World) -> None:
    entry = next(iter(world.entries.values()))
    at = entry.fate.create
    assert listed(server, start_date=at, end_date=at, select_by="create") == {entry.id}


def test_a_text_is_sought_in_ids_names_and_addresses(server: Server, world: World) -> None:
    entry = next(iter(world.entries.values()))
    who = world.person(entry.reader)
    assert listed(server, q=entry.id.lower()) == {entry.id}
    assert entry.id in listed(server, q=who.email.upper())
    assert entry.id in listed(server, q=f"{who.first} {who.last}")


@pytest.mark.parametrize(
    "params", [{"type": "dynamic"}, {"status": "not_started"}, {"select_by": "start"}, {"start_date": "2026-03-01"}]
)
def test_words_nobody_knows_are_refused(server: Server, params: dict[str, str]) -> None:
    body = ask(server, "subscription/list", **params)
    assert body["code"] == 400
    assert set(body["validation_errors"]) == set(params)


def test_a_list_item_has_no_create_date_and_a_full_subscription_has(server: Server, world: World) -> None:
    (item,) = ask(server, "subscription/list", limit=1)["subscriptions"]
    whole = ask(server, "subscription/get", subscription_id=item["subscription_id"])["subscription"]
    assert not {"create_date", "update_date", "modify_date"} & set(item)
    assert whole["create_date"] == world.entries[item["subscription_id"]].fate.create
    assert {name: whole[name] for name in item} == item
    assert not [name for name, value in whole.items() if value is None]


def test_misspelt_fields_stay(server: Server, world: World) -> None:
    entry = next(e for e in world.entries.values() if e.state.live and e.state.last_amount)
    whole = ask(server, "subscription/get", subscription_id=entry.id)["subscription"]
    assert whole["cancelable_and_refundadle"] is True
    uid = world.person(entry.reader).uid
    (stats,) = [
        s for s in ask(server, "subscription/stats", uid=uid)["subscriptions"] if s["subscription_id"] == entry.id
    ]
    cards = {"creadit_card_expire", "creadit_card_expire_soon"} & set(stats)
    assert len(cards) == (0 if entry.state.charge_count and stats["payment_method"] in {"PayPal", "SEPA"} else 2)


def test_an_unknown_subscription_is_8005(server: Server) -> None:
    body = ask(server, "subscription/get", subscription_id="RCNOB0DYHAS1")
    assert body["code"] == 8005
    assert body["message"]


REPORTED = {
    "a live one": ("active", "active", lambda e: e.state.status == "Active" and e.state.auto_renew),
    "a live one without auto-renew": (
        "active",
        "won't renew",
        lambda e: e.state.status == "Active" and not e.state.auto_renew and e.fate.term.type in {"Payment", "Dynamic"},
    ),
    "a live site licence": ("completed", "active", lambda e: e.state.status == "Completed" and e.state.live),
    "a site licence that ended": (
        "completed",
        "won't renew",
        lambda e: e.state.status == "Completed" and not e.state.live,
    ),
    "an upgraded one": ("upgraded", "upgraded", lambda e: e.state.status == "Upgraded"),
    "a granted one": (
        "active",
        "active",
        lambda e: e.state.status == "Active" and e.fate.term.type == "Access Granted",
    ),
}


@pytest.mark.parametrize("which", REPORTED)
def test_status_and_report_have_their_own_words(server: Server, world: World, which: str) -> None:
    code, report, test = REPORTED[which]
    entry = next(e for e in world.entries.values() if test(e))
    whole = ask(server, "subscription/get", subscription_id=entry.id)["subscription"]
    assert (whole["status"], whole["status_name_in_reports"]) == (code, report)
    assert whole["status_name"] == entry.state.status


def test_each_status_of_the_log_has_words_everywhere(world: World) -> None:
    assert {entry.state.status for entry in world.entries.values()} <= set(STATUSES)
    assert len({status.code for status in STATUSES.values()}) == len(STATUSES) == 11
    assert len({status.filter for status in STATUSES.values() if status.filter}) == 7


SEARCHES: dict[str, tuple[dict[str, object], Callable[[Entry, int], object]]] = {
    "new ones": (
        {"search_new_subscriptions": "TRUE", "new_subscriptions_created_from": -365},
        lambda e, now: e.fate.create >= now - 365 * DAY,
    ),
    "active ones": (
        {"search_active_now_subscriptions": "true"},
        lambda e, _: e.state.status in {"Active", "Failed - Will Retry"},
    ),
    "inactive ones": (
        {
            "search_inactive_subscriptions": "True",
            "inactive_subscriptions_statuses": "cancelled,upgraded",
            "subscriptions_inactive_from": -900,
            "subscriptions_inactive_to": -30,
        },
        lambda e, now: (
            e.state.status in {"Cancelled", "Upgraded"} and now - 900 * DAY <= (e.state.end or 0) <= now - 30 * DAY
        ),
    ),
    "renewed ones": (
        {"search_updated_subscriptions": "1", "subscriptions_updated_from": -10},
        lambda e, now: e.state.paid_periods > 1 and (e.state.last_billing or 0) >= now - 10 * DAY,
    ),
    "without auto-renew": (
        {"search_auto_renewing_subscriptions": "true", "subscriptions_auto_renewing": "false"},
        lambda e, _: not e.state.auto_renew,
    ),
    "billed next week": (
        {
            "search_subscriptions_by_next_billing_date": "true",
            "subscriptions_next_billing_date_from": 0,
            "subscriptions_next_billing_date_to": 7,
        },
        lambda e, now: e.state.next_billing and now <= e.state.next_billing <= now + 7 * DAY,
    ),
    "of terms": (
        {"search_subscriptions_by_terms": "true", "subscriptions_terms": ["TMD1GM0NTH01", "TMPUZZLES009"]},
        lambda e, _: e.fate.term.term_id in {"TMD1GM0NTH01", "TMPUZZLES009"},
    ),
    "of types that are active": (
        {
            "search_subscriptions_by_terms": "true",
            "subscriptions_term_types": ["dynamic"],
            "search_active_now_subscriptions": "true",
            "active_now_subscriptions_statuses": ["active"],
        },
        lambda e, _: e.fate.term.type == "Dynamic" and e.state.status == "Active",
    ),
}


@pytest.mark.parametrize("which", SEARCHES)
def test_search_has_filters_that_are_switched_on(server: Server, world: World, which: str) -> None:
    params, test = SEARCHES[which]
    given = {name: world.now + value * DAY if isinstance(value, int) else value for name, value in params.items()}
    assert set(searched(server, **given)) == those(world, lambda entry: test(entry, world.now))


def test_a_filter_that_is_not_switched_on_does_nothing(server: Server) -> None:
    assert len(searched(server, subscriptions_terms="TMPUZZLES009", search_subscriptions_by_terms="false")) == ROWS


@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_search_is_ordered(server: Server, world: World, direction: str) -> None:
    found = searched(server, order_by="start_date", order_direction=direction)
    starts = [world.entries[each].fate.start for each in found]
    assert starts == sorted(starts, reverse=direction == "desc")


def test_log_items_count_shared_accounts_in_text(server: Server, world: World) -> None:
    items = ask(server, "subscription/search", limit=ROWS)["subscriptionLogItems"]
    shared = {item["subscription_id"]: item["child_access"] for item in items}
    whole = {item["subscription_id"]: item for item in ask(server, "subscription/list", limit=ROWS)["subscriptions"]}
    assert {each: str(len(item["shared_accounts"])) for each, item in whole.items()} == shared
    assert set(shared.values()) > {"0"}
    assert all(item["uid"] == world.person(world.entries[item["subscription_id"]].reader).uid for item in items)


def test_only_active_ones_are_counted(server: Server, world: World) -> None:
    assert ask(server, "subscription/count")["data"] == len(those(world, lambda entry: entry.state.status == "Active"))


@pytest.mark.parametrize(("order", "steady"), [("created", True), ("updated", True), ("unstable", False)])
def test_the_order_of_the_list_is_a_switch(order: str, steady: bool) -> None:  # noqa: FBT001 - of the table
    with serving(switches={"publisher.subscription_order": order}) as server:
        once, again = (
            [item["subscription_id"] for item in ask(server, "subscription/list", limit=200)["subscriptions"]]
            for _ in range(2)
        )
        world = next(iter(server.sandbox.piano.values())).world
    assert (once == again) == steady
    assert set(once) == set(again) == set(world.entries)
    moments = {
        "created": [world.entries[each].fate.create for each in once],
        "updated": [world.entries[each].state.modified for each in once],
    }
    if order in moments:
        assert moments[order] == sorted(moments[order])

"""conversion/*: each purchase and renewal, held against the log, over HTTP."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.data import log_rows
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.server import Server
    from piano_engage_sandbox.world import Entry, World

    Conversion = dict[str, Any]

ROWS = 150
NOT_RENEWALS = "Renewal", "Dynamic subscription internal renewal"


def ask(server: Server, path: str, **params: object) -> dict[str, Any]:
    app = next(iter(server.sandbox.piano.values()))
    query = urlencode({"aid": app.aid, "api_token": app.token, **params}, doseq=True)
    with urlopen(f"{server.url}/api/v3/publisher/{path}?{query}", timeout=30) as answer:  # noqa: S310 - ours
        found: dict[str, Any] = json.load(answer)
    return found


def listed(server: Server, **params: object) -> list[Conversion]:
    found: list[Conversion] = ask(server, "conversion/list", limit=5000, **params)["conversions"]
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A sandbox that nobody changes."""
    with serving(rows=ROWS) as made:
        yield made


@pytest.fixture(scope="module")
def world(server: Server) -> World:
    return next(iter(server.sandbox.piano.values())).world


@pytest.fixture(scope="module")
def everything(server: Server) -> dict[str, list[Conversion]]:
    """All conversions by subscription id."""
    found = defaultdict(list)
    for one in listed(server):
        found[one["subscription"]["subscription_id"]].append(one)
    return dict(found)


def test_payments_add_up_to_what_the_log_says_was_charged(
    server: Server, world: World, everything: dict[str, list[Conversion]]
) -> None:
    app = next(iter(server.sandbox.piano.values()))
    for row in log_rows(rows=ROWS, since=app.begins, as_of=world.now):
        payments = [one["user_payment"] for one in everything[row["Subscription ID"]] if one["user_payment"]]
        assert f"{sum(payment['amount'] for payment in payments):.4f}" == row["Total charged"]
        if row["Renewed"] == "TRUE":
            last = app.zone.piano(everything[row["Subscription ID"]][-1]["create_date"])
            assert row["Last billing date"] == last
        refunded = [payment for payment in payments if payment["user_payment_state"] == "refunded"]
        assert f"{sum(payment['amount'] for payment in refunded):.4f}" == row["Total refunded"]


def test_a_subscription_begins_with_a_purchase_and_goes_on_with_renewals(
    world: World, everything: dict[str, list[Conversion]]
) -> None:
    assert set(everything) == set(world.entries)
    for subscription_id, (first, *later) in everything.items():
        assert first["type"] not in NOT_RENEWALS
        assert first["create_date"] == world.entries[subscription_id].fate.create
        assert {one["type"] for one in later} <= set(NOT_RENEWALS)
        moments = [one["create_date"] for one in (first, *later)]
        assert moments == sorted(moments)


KINDS: dict[str, Callable[[Entry], bool]] = {
    "Subscription": lambda e: e.fate.term.type == "Payment" and e.fate.term.renews and not e.fate.upgraded_from,
    "Dynamic term purchase": lambda e: e.fate.term.type == "Dynamic" and not e.fate.upgraded_from,
    "Upgrade term": lambda e: e.fate.term.type == "Payment" and e.fate.upgraded_from is not None,
    "Payment": lambda e: e.fate.term.term_id == "TMDAYPASS010",
    "Gift purchased": lambda e: e.fate.term.type == "Gift",
    "Grant access": lambda e: e.fate.term.type == "Access Granted",
    "Licensee contract redemption": lambda e: e.fate.term.type.endswith("Contract"),
}


def test_the_type_says_what_was_bought(world: World, everything: dict[str, list[Conversion]]) -> None:
    found = {subscription_id: ones[0]["type"] for subscription_id, ones in everything.items()}
    expected = {e.id: kind for e in world.entries.values() for kind, test in KINDS.items() if test(e)}
    assert found == expected


def test_conversions_are_found_by_user_and_date(server: Server, world: World) -> None:
    uid = world.person(next(iter(world.entries.values())).reader).uid
    mine = listed(server, uid=uid)
    assert {one["subscription"]["subscription_id"] for one in mine} == {entry.id for entry in world.of_user(uid)}
    first, last = world.now - 60 * DAY, world.now - 10 * DAY
    within = [one["term_conversion_id"] for one in listed(server, date_from=first, date_to=last)]
    assert within
    assert within == [one["term_conversion_id"] for one in listed(server) if first <= one["create_date"] <= last]


def test_ids_are_unlike_and_lead_back(server: Server) -> None:
    found = listed(server)
    assert len({one["term_conversion_id"] for one in found}) == len(found) == ask(server, "conversion/count")["data"]
    for one in found[:: len(found) // 7]:
        whole = ask(server, "conversion/get", term_conversion_id=one["term_conversion_id"])["conversion"]
        other = {"subscription", "user_payment"}
        assert {name: whole[name] for name in one if name not in other} == {
            name: value for name, value in one.items() if name not in other
        }
        assert {"billing_plan", "price_after_discount"} <= set(whole) - set(one)


def test_what_was_not_paid_has_a_null_payment(everything: dict[str, list[Conversion]]) -> None:
    free = [one for ones in everything.values() for one in ones if one["type"] == "Grant access"]
    assert free
    assert {one["user_payment"] for one in free} == {None}


def test_a_payment_has_its_date_as_text(everything: dict[str, list[Conversion]]) -> None:
    one = next(one for ones in everything.values() for one in ones if one["user_payment"])
    assert datetime.fromisoformat(one["user_payment"]["create_date"]).timestamp() == one["create_date"]


def test_a_promo_code_is_that_of_its_promotion(server: Server, everything: dict[str, list[Conversion]]) -> None:
    with_code = [one for ones in everything.values() for one in ones if "promo_code" in one]
    assert with_code
    for one in with_code[:5]:
        code = one["promo_code"]
        known = ask(server, "promotion/code/get", promo_code_id=code["promo_code_id"])["promo_code"]
        assert {name: known[name] for name in code if name not in {"last_original_price", "deleted"}} == {
            name: value for name, value in code.items() if name not in {"last_original_price", "deleted"}
        }
        assert one["user_payment"]["amount"] < float(one["user_payment"]["original_price"].lstrip("€"))


def test_data_tell_where_the_reader_came_from(server: Server, world: World) -> None:
    (one,) = ask(server, "conversion/list", limit=1)["conversions"]
    data = ask(server, "conversion/data/get", term_conversion_id=one["term_conversion_id"])["conversion_data"]
    entry = world.entries[one["subscription"]["subscription_id"]]
    city, _, country, device, url = world.person(entry.reader).conversion[:5]
    assert (data["user_city"], data["user_country"], data["platform"]) == (city, country, device.lower())
    assert (data["url"], data["offer_id"]) == (url, entry.fate.term.offer.offer_id)
    assert len(data["hour"]) == 10


def test_a_renewal_brings_a_conversion(world: World) -> None:
    with serving(rows=ROWS) as server:
        before = {one["term_conversion_id"] for one in listed(server)}
        server.sandbox.now.advance(3 * DAY)
        later = [one for one in listed(server) if one["term_conversion_id"] not in before]
        assert later
        assert {one["create_date"] > world.now for one in later} == {True}


@pytest.mark.parametrize("path", ["conversion/get", "conversion/data/get"])
def test_an_unknown_conversion_is_404(server: Server, path: str) -> None:
    assert ask(server, path, term_conversion_id="TCNOB0DY")["code"] == 404


def test_the_last_one_is_found_by_resource_user_or_subscription(server: Server, world: World) -> None:
    entry = next(e for e in world.entries.values() if e.state.paid_periods > 1 and e.state.live)
    uid, rid = world.person(entry.reader).uid, entry.fate.term.resource.rid
    for params in ({"subscription_id": entry.id}, {"uid": uid, "rid": rid}):
        found = ask(server, "conversion/lastAccess", **params)["conversion"]
        assert found["create_date"] == entry.state.last_billing
        assert found["subscription"]["subscription_id"] == entry.id
    assert ask(server, "conversion/lastAccess", uid=uid, rid="RN0B0DY")["code"] == 404

"""Promotions and promo codes: what is listed by default, what becomes of codes, and that they agree with the log."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from piano_engage_sandbox.catalogue import PROMOTIONS
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.log import LogRows
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

    Json = dict[str, Any]

POOL, SHARED, THREE = "PRSUMMER0005", "PRSPRING0050", "PRTHREE00003"
STATES = {
    "active": "Active",
    "used": "Used",
    "reserved_for_free_trial": "Reserved for free trial",
    "reserved_for_delayed_payment": "Reserved for delayed payment",
}


def call(server: Server, path: str, **params: object) -> Json:
    """Call an endpoint below promotion/ of the first application."""
    application = next(iter(server.sandbox.piano.values()))
    connection = HTTPConnection("127.0.0.1", server.port)
    query = urlencode({"aid": application.aid, **params}, doseq=True)
    connection.request("GET", f"/api/v3/publisher/promotion/{path}?{query}", headers={"api_token": application.token})
    body: Json = json.load(connection.getresponse())
    connection.close()
    return body


def codes(server: Server, promotion: str, **params: object) -> list[Json]:
    found: list[Json] = call(server, "code/list", promotion_id=promotion, **{"limit": 10_000, **params})["data"]
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A sandbox nobody changes."""
    with serving(rows=1000) as server:
        yield server


@pytest.fixture
def own() -> Iterator[Server]:
    """A sandbox to change."""
    with serving(rows=100) as server:
        yield server


def test_the_list_shows_active_promotions_and_the_count_counts_all(server: Server) -> None:
    shown, counted = call(server, "list"), call(server, "count")["data"]
    assert {one["status"] for one in shown["promotions"]} == {"active"}
    assert shown["total"] < counted == call(server, "list", expired="all")["total"]


@pytest.mark.parametrize(
    ("expired", "statuses"),
    [
        ("active", {"active"}),
        ("expired", {"expired"}),
        ("not_started", {"new"}),
        ("all", {"active", "expired", "new"}),
    ],
)
def test_expired_chooses_by_status(server: Server, expired: str, statuses: set[str]) -> None:
    found = call(server, "list", expired=expired)["promotions"]
    assert {one["status"] for one in found} == statuses
    assert call(server, "count", expired=expired)["data"] == len(found)


def test_promotions_begin_and_end_with_the_clock(own: Server) -> None:
    def status(promotion: str) -> str:
        return str(call(own, "get", promotion_id=promotion)["promotion"]["status"])

    assert (status("PRTOM0RR0001"), status("PRLASTDAY002")) == ("new", "active")
    own.sandbox.now.advance(DAY)
    assert (status("PRTOM0RR0001"), status("PRLASTDAY002")) == ("active", "active")
    own.sandbox.now.advance(DAY)
    assert (status("PRTOM0RR0001"), status("PRLASTDAY002")) == ("active", "expired")


def test_a_promotion_shows_the_discount_of_its_own_type_only(server: Server) -> None:
    for one in call(server, "list", expired="all")["promotions"]:
        amounts = {"discount_amount", "discount_currency", "discount"}
        if one["discount_type"] == "fixed":
            assert amounts <= set(one)
            assert "percentage_discount" not in one
            assert {item["amount"] for item in one["fixed_discount_list"]} == {
                f"{item['amount_value']:.2f}" for item in one["fixed_discount_list"]
            }
        else:
            assert not amounts & set(one)
            assert one["fixed_discount_list"] == []
            assert 0 < one["percentage_discount"] <= 100
        assert (one["fixed_promotion_code"] is None) != (one["promotion_code_prefix"] is None)


def test_a_fixed_discount_comes_in_several_currencies(server: Server) -> None:
    one = call(server, "get", promotion_id=POOL)["promotion"]
    assert len({item["currency"] for item in one["fixed_discount_list"]}) == 3


def test_the_promotions_of_the_log_are_there(server: Server) -> None:
    found = {one["promotion_id"]: one for one in call(server, "list")["promotions"]}
    for one in PROMOTIONS:
        shape = found[one.promotion_id]
        assert (shape["name"], shape["percentage_discount"]) == (one.name, one.discount)
        assert one.code in {shape["fixed_promotion_code"], shape["promotion_code_prefix"]}


def test_the_codes_of_the_log_are_used_ones_of_their_promotion(server: Server) -> None:
    world = next(iter(server.sandbox.piano.values())).world
    rows = LogRows(world.lives, int(server.sandbox.now()), groups=("DEFAULT", "PAYMENT"))
    listed = {
        code["promo_code_id"]: code
        for one in PROMOTIONS
        for code in codes(server, one.promotion_id)
        if code["state_value"] != "active"
    }
    seen = set()
    for entry in world.entries.values():
        promotion = entry.fate.promotion
        if promotion is None:
            continue
        code = listed.pop(f"PC{entry.id[2:]}")
        written = rows._payment(world.person(entry.reader), entry.state)
        assert [code["promotion_id"], code["code"]] == [written[4], written[7]]
        free = entry.state.trial_status == "In trial" and not entry.fate.term.trial_price
        assert code["state_value"] == ("reserved_for_free_trial" if free else "used")
        seen.add(code["state_value"])
        if not free:
            assert code["claimed_user"]["uid"] == world.person(entry.reader).uid
            assert code["claimed_date"] == entry.fate.create
    assert listed == {}
    assert seen == {"used", "reserved_for_free_trial"}


def test_a_free_trial_uses_its_code_when_it_is_over() -> None:
    with serving(rows=1000) as server:
        application = next(iter(server.sandbox.piano.values()))
        before = bought(server)
        server.sandbox.now.advance(60 * DAY)
        after = bought(server)
        came = [entry for entry in application.world.entries.values() if entry.fate.create > application.begins]
    assert set(after) - set(before) == {f"PC{entry.id[2:]}" for entry in came if entry.fate.promotion}
    assert "reserved_for_free_trial" in before.values()
    assert {after[code] for code in before if code in after} == {"used"}


def bought(server: Server) -> dict[str, str]:
    """Give the states of the codes that subscriptions were bought with."""
    found = [code for one in PROMOTIONS for code in codes(server, one.promotion_id)]
    return {code["promo_code_id"]: code["state_value"] for code in found if code["promo_code_id"].startswith("PC")}


def test_uses_are_the_codes_used(server: Server) -> None:
    for one in call(server, "list", expired="all")["promotions"]:
        used = codes(server, one["promotion_id"], state="used")
        assert one["uses"] == len(used) == call(
            server, "code/count", promotion_id=one["promotion_id"], state="used"
        )["data"]  # fmt: skip
        if one["unlimited_uses"]:
            assert one["uses_allowed"] is None
        else:
            assert one["uses"] <= one["uses_allowed"]


@pytest.mark.parametrize("state", STATES)
def test_a_pool_has_codes_in_every_state(server: Server, state: str) -> None:
    found = codes(server, POOL, state=state)
    assert len(found) > 100
    assert {(code["state_value"], code["state"]) for code in found} == {(state, STATES[state])}
    fields = {"claimed_date", "claimed_user", "last_original_price"}
    for code in found[:50]:
        assert fields <= set(code) if state == "used" else not fields & set(code)
        assert ("reserve_date" in code) == state.startswith("reserved")


def test_a_pool_has_thousands_of_codes_each_with_a_text_of_its_own(server: Server) -> None:
    found = codes(server, POOL)
    assert len(found) == call(server, "code/count", promotion_id=POOL)["data"] == 4000
    assert len({code["code"] for code in found}) == len({code["promo_code_id"] for code in found}) == 4000
    prefix = call(server, "get", promotion_id=POOL)["promotion"]["promotion_code_prefix"]
    assert all(code["code"].startswith(prefix) for code in found)


def test_codes_are_claimed_while_the_promotion_runs(server: Server) -> None:
    for one in call(server, "list", expired="all")["promotions"]:
        for code in codes(server, one["promotion_id"], state="used"):
            start, end = one.get("start_date", one["create_date"]), one.get("end_date", server.sandbox.now())
            assert start <= code["claimed_date"] <= end
            assert code["create_date"] <= code["claimed_date"] <= code["update_date"]


def test_nothing_is_reserved_of_what_expired_and_nothing_used_of_what_has_not_started(server: Server) -> None:
    for one in call(server, "list", expired="expired")["promotions"]:
        assert not codes(server, one["promotion_id"], state="reserved_for_free_trial,reserved_for_delayed_payment")
    for one in call(server, "list", expired="not_started")["promotions"]:
        assert {code["state_value"] for code in codes(server, one["promotion_id"])} <= {"active"}


def test_two_sandboxes_of_one_seed_have_the_same_codes(server: Server) -> None:
    with serving(rows=1000) as other:
        assert codes(other, POOL) == codes(server, POOL)


def test_codes_are_found_by_their_text(server: Server) -> None:
    wanted = codes(server, POOL)[17]
    assert codes(server, POOL, q=wanted["code"].lower()) == [wanted]
    assert call(server, "code/count", promotion_id=POOL, q=wanted["code"])["data"] == 1


def test_codes_are_sorted_as_asked(server: Server) -> None:
    for by in ("code", "update_date", "promo_code_id"):
        values = [code[by] for code in codes(server, POOL, state="used", order_by=by)]
        assert values == sorted(values) != values[::-1]
        down = codes(server, POOL, state="used", order_by=by, order_direction="desc")
        assert [code[by] for code in down] == values[::-1]


def test_promotions_are_sorted_as_asked(server: Server) -> None:
    found = call(server, "list", expired="all", order_by="uses", order_direction="desc")["promotions"]
    assert [one["uses"] for one in found] == sorted((one["uses"] for one in found), reverse=True)
    names = [one["name"] for one in call(server, "list", expired="all", order_by="name")["promotions"]]
    assert names == sorted(names, key=str.casefold)
    starts = [one.get("start_date") for one in call(server, "list", expired="all", order_by="start_date")["promotions"]]
    assert starts == sorted(starts, key=lambda at: (at is not None, at or 0))


def test_promotions_are_found_by_name_and_code(server: Server) -> None:
    assert [one["name"] for one in call(server, "list", q="spring")["promotions"]] == ["Spring offer"]
    assert [one["name"] for one in call(server, "list", q="hurry")["promotions"]] == ["Two more days"]


def test_a_code_is_made_and_found_again(own: Server) -> None:
    before = call(own, "get", promotion_id=POOL)["promotion"]["update_date"]
    made = call(own, "code/create", promotion_id=POOL, code="EXTRA-1")["promo_code"]
    assert (made["state_value"], made["code"], made["create_date"]) == ("active", "EXTRA-1", int(own.sandbox.now()))
    assert call(own, "code/get", promo_code_id=made["promo_code_id"])["promo_code"] == made
    assert codes(own, POOL, q="EXTRA-1") == [made]
    assert call(own, "get", promotion_id=POOL)["promotion"]["update_date"] == made["update_date"] > before


@pytest.mark.parametrize("key", ["promo_code", "PromoCode"])
def test_the_data_key_of_one_code_is_a_switch(key: str) -> None:
    with serving(rows=20, switches={"publisher.promo_code_key": key}) as server:
        assert key in call(server, "code/create", promotion_id=POOL, code="EXTRA-2")


def test_a_promotion_takes_no_more_codes_than_allowed(own: Server) -> None:
    assert call(own, "code/create", promotion_id=THREE, code="FOURTH")["code"] == 3005
    assert len(codes(own, THREE)) == 3
    gone = codes(own, THREE)[0]["promo_code_id"]
    assert call(own, "code/delete", promo_code_id=gone)["code"] == 0
    assert call(own, "code/create", promotion_id=THREE, code="FOURTH")["code"] == 0
    assert call(own, "code/create", promotion_id=THREE, code="FIFTH")["code"] == 3005


def test_a_pool_takes_no_text_twice(own: Server) -> None:
    taken = codes(own, POOL)[0]["code"]
    body = call(own, "code/create", promotion_id=POOL, code=taken)
    assert (body["code"], list(body["validation_errors"])) == (400, ["code"])


def test_a_code_gets_another_text(own: Server) -> None:
    old = codes(own, POOL)[5]
    own.sandbox.now.advance(5)
    new = call(own, "code/update", promo_code_id=old["promo_code_id"], promotion_id=POOL, code="BETTER")["promo_code"]
    assert new == {**old, "code": "BETTER", "update_date": int(own.sandbox.now())}
    assert codes(own, POOL)[5] == new


def test_codes_are_deleted_together(own: Server) -> None:
    ids = [code["promo_code_id"] for code in codes(own, POOL)[:3]]
    assert call(own, "code/delete", promo_code_id=",".join(ids[:2]))["code"] == 0
    assert not set(ids[:2]) & {code["promo_code_id"] for code in codes(own, POOL)}
    assert call(own, "code/get", promo_code_id=ids[0])["code"] == 2
    assert call(own, "code/delete", promo_code_id=[ids[1], ids[2]])["code"] == 2
    assert codes(own, POOL)[0]["promo_code_id"] == ids[2]


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("get", {"promotion_id": "PRN0NE"}),
        ("term/list", {"promotion_id": "PRN0NE"}),
        ("code/list", {"promotion_id": "PRN0NE"}),
        ("code/count", {"promotion_id": "PRN0NE"}),
        ("code/create", {"promotion_id": "PRN0NE", "code": "X"}),
        ("code/get", {"promo_code_id": "PCN0NE"}),
        ("code/update", {"promo_code_id": "PCN0NE", "promotion_id": POOL, "code": "X"}),
        ("code/delete", {"promo_code_id": "PCN0NE"}),
    ],
)
def test_what_nobody_knows_is_refused_as_documented(server: Server, path: str, params: Json) -> None:
    assert call(server, path, **params)["code"] == 2


def test_a_code_of_another_promotion_is_not_renamed(own: Server) -> None:
    code = codes(own, THREE)[0]["promo_code_id"]
    assert call(own, "code/update", promo_code_id=code, promotion_id=POOL, code="X")["code"] == 2


def test_a_promotion_is_for_its_terms_or_for_all_that_take_codes(server: Server) -> None:
    some = call(server, "term/list", promotion_id="PRLASTDAY002")["terms"]
    assert [term["term_id"] for term in some] == ["TMD1GYEAR004", "TMPREYEAR006"]
    every = call(server, "term/list", promotion_id=SHARED)["terms"]
    assert len(every) > 5
    assert all(term["payment_allow_promo_codes"] for term in every)


def test_whether_a_user_has_a_code_goes_by_his_address(server: Server) -> None:
    claimed = codes(server, POOL, state="used", limit=1)[0]["claimed_user"]
    assert call(server, "exists", promotion_id=POOL, email=claimed["email"])["data"] is True
    assert call(server, "exists", promotion_id=POOL, email="nobody@example.com")["data"] is False

"""Terms, resources, offers and templates: what is listed, how it is filtered, and what each kind has to say."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from piano_engage_sandbox.catalogue import ALL_TERMS, SOURCES, TERM_TYPES, TERMS
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.server import Server

    Json = dict[str, Any]

VALUES = {value: label for label, (value, _) in TERM_TYPES.items()}
PAID = {"payment", "dynamic", "gift"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(rows=20) as server:
        yield server


def call(server: Server, path: str, **params: object) -> Json:
    application = next(iter(server.sandbox.piano.values()))
    connection = HTTPConnection("127.0.0.1", server.port)
    query = urlencode({"aid": application.aid, **params}, doseq=True)
    connection.request("GET", f"/api/v3/publisher/{path}?{query}", headers={"api_token": application.token})
    body: Json = json.load(connection.getresponse())
    connection.close()
    return body


def terms(server: Server, **params: object) -> list[Json]:
    found: list[Json] = call(server, "term/list", **params)["terms"]
    return found


def rids(server: Server, **params: object) -> list[str]:
    return [one["rid"] for one in call(server, "resource/list", **{"limit": 1000, **params})["resources"]]


def test_there_are_terms_of_all_types_with_their_labels(server: Server) -> None:
    found = terms(server)
    assert {term["type"]: term["type_name"] for term in found} == VALUES
    assert len(found) == len(ALL_TERMS)


def test_only_terms_that_are_paid_have_payment_fields(server: Server) -> None:
    for term in terms(server):
        fields = [name for name in term if name.startswith("payment_") or name == "currency_symbol"]
        assert bool(fields) == (term["type"] in PAID), term["name"]


def test_dynamic_terms_always_force_auto_renew_and_name_their_periods(server: Server) -> None:
    for term in terms(server, include_type="dynamic"):
        assert term["payment_force_auto_renew"] is True
        periods = json.loads(term["billing_configuration"])
        assert periods[-1]["name"] == "Standard"
        assert len({period["access_period_id"] for period in periods}) == len(periods)


def test_the_plan_table_says_trial_first_periods_and_what_follows(server: Server) -> None:
    def rows(term_id: str) -> list[tuple[object, ...]]:
        table = call(server, "term/get", term_id=term_id)["term"]["payment_billing_plan_table"]
        names = ("period", "priceValue", "cycles", "isTrial", "isFreeTrial", "isFree")
        return [tuple(row[name] for name in names) for row in table]

    assert rows("TMTR1AL14D02") == [
        ("14 days", 0.0, "1", "true", "true", "true"),
        ("1 month", 12.5, "0", "false", "false", "false"),
    ]
    assert rows("TMTR1AL30D03")[0] == ("30 days", 1.0, "1", "true", "false", "false")
    assert [row[:3] for row in rows("TMD1GM0NTH01")] == [("1 month", 4.99, "3"), ("1 month", 9.99, "0")]
    assert rows("TMDAYPASS010") == [("1 day", 2.5, "1", "false", "false", "false")]


def test_the_first_price_is_that_of_the_first_row(server: Server) -> None:
    for term in terms(server):
        if "payment_first_price" in term:
            row = term["payment_billing_plan_table"][0]
            assert term["payment_first_price"] == row["priceValue"] == row["priceAndTaxInMinorUnit"] / 100


def test_change_options_lead_from_the_term_to_terms_there_are(server: Server) -> None:
    found = {term["term_id"]: term for term in terms(server)}
    options = [(term, option) for term in found.values() for option in term["change_options"]]
    assert {term.upgrade for term in TERMS} - {""} <= {option["to_term_id"] for _, option in options}
    for term, option in options:
        assert option["from_term_id"] == term["term_id"]
        assert option["to_term_name"] == found[option["to_term_id"]]["name"]
        assert option["billing_timing"] in {"0", "1", "2", "3"}


def test_a_new_change_option_shows_in_its_term() -> None:
    with serving(rows=20) as server:
        pair = {"from_term_id": "TMWEEKEND007", "to_term_id": "TMD1GYEAR004"}
        settings = {"billing_timing": 1, "immediate_access": "false", "prorate_access": "false"}
        before = call(server, "term/get", term_id="TMWEEKEND007")["term"]["change_options"]
        made = call(server, "term/change/option/create", **pair, **settings)["term_change_option"]
        assert call(server, "term/get", term_id="TMWEEKEND007")["term"]["change_options"] == [*before, made]


@pytest.mark.parametrize(
    ("params", "fits"),
    [
        ({"rid": "RPREM77"}, lambda term: term.resource.rid == "RPREM77"),
        ({"include_type": "payment,gift"}, lambda term: term.type in {"Payment", "Gift"}),
        ({"include_type": ["payment", "gift"]}, lambda term: term.type in {"Payment", "Gift"}),
        ({"exclude_type": "payment"}, lambda term: term.type != "Payment"),
        ({"include_type": "payment", "exclude_type": "payment"}, lambda _term: False),
        ({"term_id": "TMPUZZLES009"}, lambda term: term.term_id == "TMPUZZLES009"),
        ({"term_id": "TMN0NE"}, lambda _term: False),
        ({"resource_type": "bundle"}, lambda term: term.resource.kind == "bundle"),
        ({"resource_type": "print"}, lambda term: term.resource.kind == "print"),
        ({"source": "apple_itunes"}, lambda term: term.source == "apple_itunes"),
        ({"source": "apple_itunes,google_play"}, lambda term: term.type == "External"),
        ({"type": "dynamic"}, lambda term: term.type == "Dynamic"),
        ({"q": "YEARLY"}, lambda term: "yearly" in term.name),
        ({"rid": "RDIG1T4", "include_type": "dynamic"}, lambda t: t.type == "Dynamic" and t.resource.rid == "RDIG1T4"),
        ({"upgrade_filter": "anything"}, lambda _term: True),
    ],
)
def test_terms_are_filtered_and_counted_alike(server: Server, params: Json, fits: Callable[[Any], bool]) -> None:
    wanted = [term.term_id for term in ALL_TERMS if fits(term)]
    assert [term["term_id"] for term in terms(server, **params)] == wanted
    if "q" not in params and "rid" not in params:
        assert call(server, "term/count", **params)["data"] == len(wanted)


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ("term_name", lambda term: term["name"].casefold()),
        ("resource_type", lambda term: term["resource"]["type"]),
        ("resource_name", lambda term: term["resource"]["name"].casefold()),
    ],
)
def test_terms_are_sorted_as_asked(server: Server, by: str, key: Callable[[Json], str]) -> None:
    up, down = terms(server, order_by=by), terms(server, order_by=by, order_direction="desc")
    assert [key(term) for term in up] == sorted(key(term) for term in up)
    assert [key(term) for term in down] == sorted((key(term) for term in down), reverse=True)


def test_an_external_term_says_where_it_is_sold(server: Server) -> None:
    (term,) = terms(server, source="google_play")
    assert term["external_api_source"] == SOURCES.index("google_play") + 1 == 5


def test_resources_come_in_pages_of_25_by_name(server: Server) -> None:
    body = call(server, "resource/list")
    names = [one["name"] for one in body["resources"]]
    assert (body["limit"], body["count"], body["total"] > 25) == (25, 25, True)
    assert names == sorted(names, key=str.casefold)


@pytest.mark.parametrize(
    ("params", "fits"),
    [
        ({"type": "bundle"}, lambda one: one["type"] == "bundle"),
        ({"type": "print"}, lambda one: one["type"] == "print"),
        ({"bundle_type": 2}, lambda one: one.get("bundle_type") == "tagged"),
        ({"bundle_types": "1,3"}, lambda one: one.get("bundle_type") in {"fixed", "fixed_v2"}),
        ({"included_rid": "RDIG1T4,RPREM77"}, lambda one: one["rid"] in {"RDIG1T4", "RPREM77"}),
        ({"excluded_rid": ["RDIG1T4", "RPREM77"]}, lambda one: one["rid"] not in {"RDIG1T4", "RPREM77"}),
        ({"included_tag_id": "RTREG10NS002"}, lambda one: one["name"].startswith("Region")),
        ({"q": "zeeland"}, lambda one: one["name"] == "Region Zeeland"),
        ({"product_synchronization": "all"}, lambda _one: True),
    ],
)
def test_resources_are_filtered(server: Server, params: Json, fits: Callable[[Json], bool]) -> None:
    every = call(server, "resource/list", limit=1000)["resources"]
    assert rids(server, **params) == [one["rid"] for one in every if fits(one)] != []


def test_disabled_resources_are_listed_when_asked_for(server: Server) -> None:
    assert rids(server, disabled="True") == ["R0LDAPP"]
    assert "R0LDAPP" not in rids(server)


def test_only_bundles_have_bundle_fields_and_urls_are_null(server: Server) -> None:
    for one in call(server, "resource/list", limit=1000)["resources"]:
        assert ("bundle_type" in one, "bundle_type_label" in one) == (one["type"] == "bundle",) * 2
        assert [one[name] for name in ("image_url", "purchase_url", "resource_url")] == [None] * 3


def test_the_resource_is_the_same_wherever_it_is_shown(server: Server) -> None:
    alone = call(server, "resource/get", rid="RWKND02")["resource"]
    assert call(server, "term/get", term_id="TMWEEKEND007")["term"]["resource"] == alone


def test_offers_hold_their_terms(server: Server) -> None:
    for one in call(server, "offer/list")["offers"]:
        held = call(server, "offer/term/list", offer_id=one["offer_id"])["terms"]
        assert one == call(server, "offer/get", offer_id=one["offer_id"])["offer"]
        assert one["terms"] == held != []
        for term in held:
            found = call(server, "offer/term/offer/list", term_id=term["term_id"])["offers"]
            assert [other["offer_id"] for other in found] == [one["offer_id"]]


def test_offers_are_searched_and_sorted(server: Server) -> None:
    names = [one["name"] for one in call(server, "offer/list", order_by="name", order_direction="desc")["offers"]]
    assert names == sorted(names, key=str.casefold, reverse=True)
    assert [one["name"] for one in call(server, "offer/list", q="spring")["offers"]] == ['Spring offer "Read on"']
    assert {one["status"] for one in call(server, "offer/list")["offers"]} == {"active", "archived"}


def test_templates_are_listed(server: Server) -> None:
    found = call(server, "offer/template/list", order_by="name")["offer_templates"]
    assert [one["name"] for one in found] == ["Landing page", "My account", "Paywall A"]
    one = call(server, "offer/template/get", offer_template_id=found[0]["offer_template_id"])["offer_template"]
    assert one == found[0]
    assert call(server, "offer/template/list", status="archived")["total"] == 0


def test_the_app_keeps_its_secrets(server: Server) -> None:
    app = call(server, "app/get")["app"]
    application = next(iter(server.sandbox.piano.values()))
    assert (app["aid"], app["private_key"], app["api_token"]) == (application.aid, "", "")
    assert application.token not in json.dumps(app)


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("term/get", {"term_id": "TMN0NE"}, 1001),
        ("offer/term/offer/list", {"term_id": "TMN0NE"}, 1001),
        ("resource/get", {"rid": "RN0NE"}, 2),
        ("offer/get", {"offer_id": "OFN0NE"}, 2),
        ("offer/term/list", {"offer_id": "OFN0NE"}, 2),
        ("offer/template/get", {"offer_template_id": "OTN0NE"}, 2),
        ("term/get", {}, 400),
        ("resource/get", {}, 400),
        ("term/list", {"include_type": "subscription"}, 400),
        ("term/list", {"order_by": "price"}, 400),
        ("resource/list", {"bundle_type": "9"}, 400),
        ("resource/list", {"disabled": "perhaps"}, 400),
    ],
)
def test_refusals(server: Server, path: str, params: Json, code: int) -> None:
    assert call(server, path, **params)["code"] == code

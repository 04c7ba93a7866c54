"""Lives make sense at any moment: rules every row keeps, and rows that break each of them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from math import gcd
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from piano_engage_sandbox.catalogue import CONTRACTS, OFFERS, PROMOTIONS, RESOURCES, TEMPLATES, TERM_BY_ID, TERMS
from piano_engage_sandbox.columns import GROUPS
from piano_engage_sandbox.data import log_rows
from piano_engage_sandbox.log import SCATTER, subscription_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import MakeRows

Row = dict[str, str]
AMSTERDAM = ZoneInfo("Europe/Amsterdam")
ENDED = {"Expired", "Cancelled", "Upgraded", "Expired Due To Payment Error"}
STATUSES = ENDED | {"Active", "Failed - Will Retry", "Completed", "Not started"}
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}")
DATES = [
    h
    for group in GROUPS.values()
    for h in group
    if h.endswith(" date") or h in {"Modify time", "Grace period extended to"}
]


def when(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S %z")


def yes(row: Row, column: str) -> bool:
    return {"TRUE": True, "FALSE": False}[row[column]]


def status_and_end_date_agree(row: Row, now: datetime) -> bool:
    status, ended = row["Subscription status"], row["End date"] != ""
    return (
        status in STATUSES
        and (status == "Completed" or ended == (status in ENDED))
        and (not ended or when(row["End date"]) <= now)
    )


def access_lasts_exactly_while_live(row: Row, now: datetime) -> bool:
    access = row["Access expiration date"]
    return access == row["End date"] if row["End date"] else access == "" or when(access) > now


def next_billing_only_while_it_will_be_billed(row: Row, now: datetime) -> bool:
    billed = yes(row, "Auto-renew") and not row["End date"] and not yes(row, "Currently in grace period")
    if billed != (row["Next billing date"] != ""):
        return False
    return not billed or now < when(row["Next billing date"]) <= when(row["Access expiration date"])


def auto_renew_is_on_or_was_switched_off(row: Row, now: datetime) -> bool:
    off, on = row["Auto-renew disablement date"], row["Auto-renew enablement date"]
    if yes(row, "Auto-renew"):
        return off == "" and on != "" and not row["End date"]
    if TERM_BY_ID[row["Term ID"]].renews and not row["End date"]:
        return off != ""
    return off == "" or when(off) <= now


def grace_is_a_failed_charge(row: Row, now: datetime) -> bool:
    grace, start, extended = (
        row[c] for c in ("Currently in grace period", "Grace period start date", "Grace period extended to")
    )
    if (grace == "TRUE") != (row["Subscription status"] == "Failed - Will Retry"):
        return False
    if grace == "TRUE":
        return start != "" and when(start) <= now and extended in {"", row["Access expiration date"]}
    return start == extended == "" or row["Subscription status"] == "Expired Due To Payment Error"


def trial_status_follows_the_trial(row: Row, now: datetime) -> bool:
    status, end = row["Trial status"], row["Trial period end date"]
    if not end or not row["Trial price"]:
        return status == "No trial" and end == row["Trial price"] == ""
    if status == "In trial":
        return when(end) > now
    return (
        status in {"Converted", "Not converted"}
        and when(end) <= now
        and (status == "Not converted" or int(row["Charge count"]) > 0)
    )


def total_is_about_count_times_price(row: Row, _now: datetime) -> bool:
    total, count, price = Decimal(row["Total charged"]), int(row["Charge count"]), Decimal(row["Regular price"])
    if count == 0:
        return total == 0 and row["Last billing date"] == row["Payment source"] == ""
    return max(count - 1, 0) * price * Decimal("0.49") <= total <= count * price and row["Last billing date"] != ""


def renewed_means_charged_again(row: Row, _now: datetime) -> bool:
    count = int(row["Charge count"])
    return count >= 2 if yes(row, "Renewed") else count <= 2


def days_are_counted_from_start_to_end_or_now(row: Row, now: datetime) -> bool:
    until = when(row["End date"]) if row["End date"] else now
    return int(row["Days subscribed"]) == max((until - when(row["Start date"])) // timedelta(days=1), 0)


def happened_before_now(row: Row, now: datetime) -> bool:
    past = ("Create date", "Last billing date", "Grace period start date", "Auto-renew disablement date",
            "Last active date",
            "Migrated date", "Auto-renew enablement date", "Modify time")  # fmt: skip
    return all(when(row[c]) <= now for c in past if row[c])


def modify_time_is_the_last_change(row: Row, _now: datetime) -> bool:
    changes = (
        "Create date",
        "Last billing date",
        "Auto-renew disablement date",
        "Grace period start date",
        "End date",
        "Migrated date",
    )
    return all(when(row[c]) <= when(row["Modify time"]) for c in changes if row[c])


def not_started_means_a_later_start(row: Row, now: datetime) -> bool:
    later = when(row["Start date"]) > now
    return later == (row["Subscription status"] == "Not started") and (not later or row["Days subscribed"] == "0")


def upgrade_links_agree(row: Row, _now: datetime) -> bool:
    came = {
        yes(row, "Created via upgrade"),
        row["Upgrade from - subscription ID"] != "",
        row["Upgrade from term ID"] != "",
    }
    went = {row["Subscription status"] == "Upgraded", row["Upgrade status"] == "Upgraded",
            row["Upgrade to subscription ID"] != "",
            row["Upgrade to term ID"] != ""}  # fmt: skip
    return len(came) == len(went) == 1


def refunds_only_when_cancelled(row: Row, _now: datetime) -> bool:
    refunded = Decimal(row["Total refunded"])
    return refunded == 0 or (row["Subscription status"] == "Cancelled" and refunded <= Decimal(row["Total charged"]))


def site_licences_are_completed_and_free(row: Row, _now: datetime) -> bool:
    contract = row["Term type"] in CONTRACTS
    free = row["Total charged"] == "0.0000" and row["Billing period"] == "" and row["Auto-renew"] == "FALSE"
    return contract == (row["Subscription status"] == "Completed") and (free or not contract)


def promo_code_belongs_to_a_promotion(row: Row, _now: datetime) -> bool:
    promo = [
        row[c] for c in ("Promo code", "Promotion ID", "Promotion name", "Promo code discount", "Promotion code value")
    ]
    return (all(promo) or not any(promo)) and row["Promo code"] == row["Promotion code value"]


def tax_is_within_the_last_amount(row: Row, _now: datetime) -> bool:
    if not row["Tax"]:
        return row["Tax base"] == row["Tax rate"] == "" and row["Total charged"] == "0.0000"
    return Decimal(row["Tax"]) + Decimal(row["Tax base"]) == Decimal(row["Last payment amount"])


def periods_are_for_dynamic_terms(row: Row, _now: datetime) -> bool:
    cells = [row[c] for c in ("Period name", "Access period", "Period count")]
    return all(cells) if row["Term type"] == "Dynamic" else not any(cells)


def ids_have_their_shapes(row: Row, _now: datetime) -> bool:
    shapes = {"Subscription ID": "RC", "Term ID": "TM", "Offer ID": "OF", "Template ID": "OT", "Experience ID": "EX"}
    ids = all(re.fullmatch(p + "[A-Z0-9]{10}", row[c]) for c, p in shapes.items() if row[c] or c != "Experience ID")
    uid = re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", row["User ID (UID)"])
    return ids and uid is not None and re.fullmatch("R[A-Z0-9]{6}", row["Resource ID (RID)"]) is not None


def invented_addresses_only(row: Row, _now: datetime) -> bool:
    return row["User email"].endswith("@example.com") and row["URL"].startswith("https://news.example/")


def formats_are_pianos(row: Row, _now: datetime) -> bool:
    four = ("Total charged", "Total refunded", "Tax", "Tax base", "Tax rate", "Last payment amount")
    return (
        all(re.fullmatch(r"\d+\.\d{4}", row[c]) for c in four if row[c])
        and all(re.fullmatch(r"\d+\.\d\d", row[c]) for c in ("Trial price", "Regular price") if row[c])
        and all(STAMP.fullmatch(row[c]) for c in DATES if row[c])
    )


def offsets_are_the_zones(row: Row, _now: datetime) -> bool:
    stamps = [when(row[c]) for c in DATES if row[c]]
    return all(stamp.utcoffset() == stamp.astimezone(AMSTERDAM).utcoffset() for stamp in stamps)


BREAKS: dict[Callable[[Row, datetime], bool], dict[str, str]] = {
    status_and_end_date_agree: {"Subscription status": "Expired"},
    access_lasts_exactly_while_live: {"Access expiration date": "2026-02-20 00:59:59 +0100"},
    next_billing_only_while_it_will_be_billed: {"Next billing date": ""},
    auto_renew_is_on_or_was_switched_off: {"Auto-renew": "FALSE"},
    grace_is_a_failed_charge: {"Currently in grace period": "TRUE"},
    trial_status_follows_the_trial: {"Trial status": "In trial"},
    total_is_about_count_times_price: {"Charge count": "90"},
    renewed_means_charged_again: {"Renewed": "FALSE"},
    days_are_counted_from_start_to_end_or_now: {"Days subscribed": "0"},
    happened_before_now: {"Last billing date": "2026-03-02 00:00:00 +0100"},
    modify_time_is_the_last_change: {"Modify time": "2018-02-01 00:00:00 +0100"},
    not_started_means_a_later_start: {"Start date": "2026-03-02 00:00:00 +0100"},
    upgrade_links_agree: {"Created via upgrade": "TRUE"},
    refunds_only_when_cancelled: {"Total refunded": "1.0000"},
    site_licences_are_completed_and_free: {"Term type": "IP Range Contract"},
    promo_code_belongs_to_a_promotion: {"Promo code": "ELSE"},
    tax_is_within_the_last_amount: {"Tax base": "1.0000"},
    periods_are_for_dynamic_terms: {"Period name": ""},
    ids_have_their_shapes: {"Subscription ID": "RC12"},
    invented_addresses_only: {"User email": "someone@example.org"},
    formats_are_pianos: {"Total charged": "9.99"},
    offsets_are_the_zones: {"Create date": "2025-07-01 00:00:00 +0100"},
}
"""Every rule, and what breaks it in the row of a reader who pays every month."""

NOW = "2026-03-01T04:00"
MOMENTS = [
    "2019-06-01T12:00",
    "2020-02-29T23:59:59",
    "2024-02-29T00:00",
    "2025-10-26T02:30",  # occurs twice
    "2026-03-01T04:00",
    "2026-03-29T03:00",  # the first moment of summer time
    "2026-03-31T06:00",
    "2034-12-30T00:00",
]


def broken(row: Row, now: datetime) -> list[str]:
    return [rule.__name__ for rule in BREAKS if not rule(row, now)]


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=AMSTERDAM)


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_row_keeps_every_rule(moment: str, make_rows: MakeRows) -> None:
    found = {r["Subscription ID"]: faults for r in make_rows(moment) if (faults := broken(r, local(moment)))}
    assert found == {}


@settings(max_examples=25)
@given(st.integers(0, 2**40), st.datetimes(datetime(2019, 2, 1), datetime(2034, 12, 1)))  # noqa: DTZ001 - local time
def test_rules_hold_for_any_seed_at_any_moment(seed: int, moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    rows = list(log_rows(rows=40, seed=seed, as_of=moment, groups=tuple(GROUPS)))
    assert len(rows) == 40
    assert {r["Subscription ID"]: faults for r in rows if (faults := broken(r, moment.replace(tzinfo=AMSTERDAM)))} == {}


@pytest.mark.parametrize("rule", BREAKS, ids=lambda rule: rule.__name__)
def test_each_rule_finds_a_row_that_breaks_it(rule: Callable[[Row, datetime], bool], make_rows: MakeRows) -> None:
    payer = next(
        r for r in make_rows(NOW)
        if r["Term type"] == "Dynamic" and r["Next billing date"] and r["Trial status"] == "Converted"
        and int(r["Charge count"]) > 5 and r["Created via upgrade"] == "FALSE"
    )  # fmt: skip
    assert broken(payer, local(NOW)) == []
    assert rule.__name__ in broken(payer | BREAKS[rule], local(NOW))


@pytest.mark.parametrize("moment", ["2024-02-29T00:00", NOW])
def test_an_upgrade_leaves_two_rows_that_point_at_each_other(moment: str, make_rows: MakeRows) -> None:
    rows = {r["Subscription ID"]: r for r in make_rows(moment)}
    pairs = [
        (r, rows[r["Upgrade to subscription ID"]]) for r in rows.values() if r["Upgrade to subscription ID"] in rows
    ]
    assert len(pairs) > 10
    for old, new in pairs:
        assert new["Upgrade from - subscription ID"] == old["Subscription ID"]
        assert new["User ID (UID)"] == old["User ID (UID)"]
        assert new["Start date"] == old["End date"]
        assert (new["Upgrade from term ID"], old["Upgrade to term ID"]) == (old["Term ID"], new["Term ID"])
        assert old["Upgrade to billing plan"] == TERM_BY_ID[new["Term ID"]].plan


def test_every_situation_occurs(make_rows: MakeRows) -> None:
    rows = make_rows(NOW, rows=3000)
    assert {r["Subscription status"] for r in rows} == STATUSES
    assert {r["Trial status"] for r in rows} == {"No trial", "In trial", "Converted", "Not converted"}
    assert {r["Upgrade status"] for r in rows} == {"No upgrade", "Upgrade pending", "Upgraded"}
    assert {r["Term ID"] for r in rows} == set(TERM_BY_ID)
    assert {r["Period name"] for r in rows} == {"", "Trial", "First term", "Standard"}
    live = [r for r in rows if not r["End date"]]
    assert len({r["User ID (UID)"] for r in live}) < len(live) - 20, "several live subscriptions of one reader"
    assert any(r["Auto-renew disablement date"] for r in live), "cancellation pending"
    assert any(not r["Access expiration date"] for r in live), "access without an end"
    assert any(r["Grace period extended to"] for r in rows), "grace extended"
    assert any(r["Promo code"] == "BACK30" for r in rows), "winback"
    assert any(r["Migrated to Piano"] == "TRUE" for r in rows), "migrated"


def test_catalogue_ids_are_unique_and_refer_to_what_exists() -> None:
    ids = [t.term_id for t in TERMS] + [r.rid for r in RESOURCES] + [o.offer_id for o in OFFERS]
    ids += [t.template_id for t in TEMPLATES] + [p.promotion_id for p in PROMOTIONS]
    assert len(set(ids)) == len(ids)
    assert all(t.resource in RESOURCES and t.offer in OFFERS and t.offer.template in TEMPLATES for t in TERMS)
    assert {t.upgrade for t in TERMS} <= {"", *TERM_BY_ID}


@pytest.mark.parametrize(
    ("term", "plan"),
    [
        ("TMD1GM0NTH01", "9.99 per month"),
        ("TMWEEKEND007", "19.95 per 3 months"),
        ("TMPUZZLES009", "2.99 per 4 weeks"),
        ("TMSTAFF00012", "Free"),
    ],
)
def test_billing_plans_in_words(term: str, plan: str) -> None:
    assert TERM_BY_ID[term].plan == plan


@given(st.sets(st.integers(0, 36**10 - 1), min_size=2, max_size=50))
def test_subscription_ids_do_not_collide(numbers: set[int]) -> None:
    assert len({subscription_id(number) for number in numbers}) == len(numbers)


def test_the_scatter_of_ids_shares_no_factor_with_them() -> None:
    assert gcd(SCATTER, 36) == 1

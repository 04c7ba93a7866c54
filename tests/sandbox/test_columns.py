"""The header of a file, text for text."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from piano_engage_sandbox.columns import DRIFTING, GROUPS, TRAITS, GroupError, headers, ordered_groups

BASE = (
    "Subscription ID,Summary,Create date,Start date,End date,Days subscribed,Subscription status,Upgrade status,"
    "Trial status,Trial period end date,Trial price,Regular price,Auto-renew,Auto-renew disablement date,"
    "Last active date,Logins last 30 days,Sessions last 30 days,Pageviews last 30 days,Billing period,Total charged,"
    "Charge count,Total refunded,Payment source,Last billing date,Next billing date,Renewed,"
    "Currently in grace period,Grace period start date,Grace period extended to,User ID (UID),User email,First name,"
    "Last name,Access expiration date,Resource ID (RID),Resource name,Term ID,Term name,Term type,Template ID,"
    "Template name,Offer ID,Offer name,Experience ID,Experience name,Campaign codes,Promo code,Conversion city,"
    "Conversion state,Conversion country,Device,URL,Cleaned URL,UTM parameters,Company name,Name (first and last),"
    "Address 1,Address 2,Address city,Address state,Address country,Postal code,Phone,PSC subscriber number,Tax,"
    "Tax base,Tax rate,Tax country,Tax state/province,Billing postal code,Shared subscriptions,Migrated to Piano,"
    "Migrated date,Created via upgrade,Upgrade from - subscription ID,Period name,Access period,Period count"
)
EXTRA = {
    "RENEWABLE_GIFT": ",Renewable gift",
    "USER": ",Alias Login,Phone Number Login,External Verification ID",
    "PAYMENT": (
        ",Stripe Subscription ID,Current payment method,Current payment provider,Last payment amount,Promotion ID,"
        "Promotion name,Promo code discount,Promotion code value"
    ),
    "UPGRADES": (
        ",Upgrade from term ID,Upgrade from term name,Upgrade from billing plan,Upgrade to term ID,"
        "Upgrade to term name,Upgrade to billing plan,Upgrade to subscription ID"
    ),
    "AUTORENEW": ",Auto-renew enablement date",
    "MODIFY_TIME": ",Modify time",
}


@pytest.mark.parametrize(
    ("groups", "expected", "count"),
    [
        (("DEFAULT",), BASE, 78),
        ((), BASE, 78),
        (("DEFAULT", "MODIFY_TIME"), BASE + EXTRA["MODIFY_TIME"], 79),
        (("MODIFY_TIME", "USER"), BASE + EXTRA["USER"] + EXTRA["MODIFY_TIME"], 82),
        (("UPGRADES", "PAYMENT"), BASE + EXTRA["PAYMENT"] + EXTRA["UPGRADES"], 93),
        (("DEFAULT", *EXTRA), BASE + "".join(EXTRA.values()), 99),
    ],
)
def test_header_of_groups(groups: tuple[str, ...], expected: str, count: int) -> None:
    assert ",".join(headers(groups)) == expected
    assert len(headers(groups)) == count


@given(st.permutations(tuple(GROUPS)))
def test_the_order_groups_are_asked_in_does_not_matter(groups: list[str]) -> None:
    assert headers(tuple(groups)) == headers(tuple(GROUPS))
    assert ordered_groups(tuple(groups)) == tuple(GROUPS)


def test_unknown_group_is_named() -> None:
    with pytest.raises(GroupError, match=r"unknown attribute group PAYMENTS: choose from DEFAULT, .*MODIFY_TIME"):
        headers(("DEFAULT", "PAYMENTS"))


def test_headers_need_no_quotes_and_do_not_repeat() -> None:
    every = headers(tuple(GROUPS))
    assert next(csv.reader(io.StringIO(",".join(every)))) == every
    assert len(set(every)) == len(every) == 99


def test_thirty_traits_in_the_order_of_the_file() -> None:
    assert len(TRAITS) == 30
    assert [h for h in headers(()) if h in TRAITS] == list(TRAITS)
    assert set(DRIFTING) & set(TRAITS) == {"Days subscribed"}

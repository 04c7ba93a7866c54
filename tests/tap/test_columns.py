"""The table of columns, against a list written by hand from the sheet of facts; and how headers become names."""

from __future__ import annotations

import pytest
from tap_piano.columns import BY_FINGERPRINT, BY_NAME, KNOWN, REQUIRED, TRAITS, column_of, property_name
from tap_piano.schema import log_schema

# header | t(ext) d(ate) b(oolean) m(oney) i(nteger) | T for one of the 30 traits
SHEET = """
Subscription ID|t|T; Summary|t|; Create date|d|T; Start date|d|T; End date|d|T; Days subscribed|i|T
Subscription status|t|T; Upgrade status|t|T; Trial status|t|T; Trial period end date|d|T; Trial price|m|
Regular price|m|; Auto-renew|b|T; Auto-renew disablement date|d|T; Last active date|d|; Logins last 30 days|i|
Sessions last 30 days|i|; Pageviews last 30 days|i|; Billing period|t|T; Total charged|m|T; Charge count|i|
Total refunded|m|; Payment source|t|; Last billing date|d|; Next billing date|d|T; Renewed|b|T
Currently in grace period|b|T; Grace period start date|d|T; Grace period extended to|d|T; User ID (UID)|t|T
User email|t|; First name|t|; Last name|t|; Access expiration date|d|T; Resource ID (RID)|t|T; Resource name|t|T
Term ID|t|T; Term name|t|T; Term type|t|T; Template ID|t|T; Template name|t|T; Offer ID|t|T; Offer name|t|T
Experience ID|t|; Experience name|t|; Campaign codes|t|; Promo code|t|T; Conversion city|t|; Conversion state|t|
Conversion country|t|; Device|t|; URL|t|; Cleaned URL|t|; UTM parameters|t|; Company name|t|
Name (first and last)|t|; Address 1|t|; Address 2|t|; Address city|t|; Address state|t|; Address country|t|
Postal code|t|; Phone|t|; PSC subscriber number|t|; Tax|m|; Tax base|m|; Tax rate|m|; Tax country|t|
Tax state/province|t|; Billing postal code|t|; Shared subscriptions|i|; Migrated to Piano|b|; Migrated date|d|
Created via upgrade|b|; Upgrade from - subscription ID|t|; Period name|t|; Access period|t|; Period count|i|
Renewable gift|t|; Alias Login|t|; Phone Number Login|t|; External Verification ID|t|; Stripe Subscription ID|t|
Current payment method|t|; Current payment provider|t|; Last payment amount|m|; Promotion ID|t|; Promotion name|t|
Promo code discount|m|; Promotion code value|t|; Upgrade from term ID|t|; Upgrade from term name|t|
Upgrade from billing plan|t|; Upgrade to term ID|t|; Upgrade to term name|t|; Upgrade to billing plan|t|
Upgrade to subscription ID|t|; Auto-renew enablement date|d|; Modify time|d|
"""
EXPECTED = [tuple(entry.strip().split("|")) for line in SHEET.split("\n") for entry in line.split(";") if entry.strip()]
KINDS = {"t": "text", "d": "timestamp", "b": "boolean", "m": "money", "i": "integer"}

GROUPS = {
    "DEFAULT": range(78),
    "RENEWABLE_GIFT": range(78, 79),
    "USER": range(79, 82),
    "PAYMENT": range(82, 90),
    "UPGRADES": range(90, 97),
    "AUTORENEW": range(97, 98),
    "MODIFY_TIME": range(98, 99),
}

PERSONAL = {
    "payment_source",
    "user_email",
    "first_name",
    "last_name",
    "conversion_city",
    "conversion_state",
    "url",
    "company_name",
    "name",
    "address_1",
    "address_2",
    "address_city",
    "address_state",
    "address_country",
    "postal_code",
    "phone",
    "psc_subscriber_number",
    "tax_country",
    "tax_state_province",
    "billing_postal_code",
    "alias_login",
    "phone_number_login",
    "external_verification_id",
    "stripe_subscription_id",
    "current_payment_method",
}


def test_table_has_the_99_columns_of_the_sheet_in_order() -> None:
    assert [(column.header, str(column.kind), "T" if column.trait else "") for column in KNOWN] == [
        (header, KINDS[kind], trait) for header, kind, trait in EXPECTED
    ]
    assert len(KNOWN) == 99


def test_there_are_30_traits_and_all_are_in_the_base_set() -> None:
    assert len(TRAITS) == 30
    assert {BY_NAME[name].group for name in TRAITS} == {"DEFAULT"}


def test_groups_bring_the_columns_that_the_sheet_says() -> None:
    found = {group: [i for i, column in enumerate(KNOWN) if column.group == group] for group in GROUPS}
    assert found == {group: list(places) for group, places in GROUPS.items()}


def test_personal_columns_are_these_and_no_trait_is_one() -> None:
    assert {column.name for column in KNOWN if column.personal} == PERSONAL
    assert not PERSONAL.intersection(TRAITS)


def test_columns_that_drift_daily() -> None:
    assert {column.name for column in KNOWN if column.drifts} == {
        "days_subscribed",
        "last_active_date",
        "logins_last_30_days",
        "sessions_last_30_days",
        "pageviews_last_30_days",
    }


def test_names_and_fingerprints_are_unique() -> None:
    assert len(BY_NAME) == len(BY_FINGERPRINT) == len(KNOWN)
    assert set(REQUIRED) <= set(BY_NAME)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("User ID (UID)", "user_id"),
        ("Resource ID (RID)", "resource_id"),
        ("Auto-renew disablement date", "auto_renew_disablement_date"),
        ("Tax state/province", "tax_state_province"),
        ("Upgrade from - subscription ID", "upgrade_from_subscription_id"),
        ("Name (first and last)", "name"),
        ("(only a bracket)", "only_a_bracket"),
        ("URL", "url"),
        ("Logins last 30 days", "logins_last_30_days"),
    ],
)
def test_property_name_is_the_header_in_snake_case_without_its_bracket(header: str, name: str) -> None:
    assert property_name(header) == name
    assert name.isidentifier()


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("subscription id", "subscription_id"),
        ("SUBSCRIPTION_ID", "subscription_id"),
        ("User ID", "user_id"),
        ("user_id", "user_id"),
        ("User ID (uid)", "user_id"),
        ("Auto renew", "auto_renew"),
        ("Upgrade from - term ID", "upgrade_from_term_id"),
        ("Upgrade from subscription ID", "upgrade_from_subscription_id"),
        ("Tax state / province", "tax_state_province"),
        ("ModifyTime", "modify_time"),
    ],
)
def test_spellings_that_differ_in_case_and_punctuation_are_one_column(spelling: str, name: str) -> None:
    assert column_of(spelling) is BY_NAME[name]


def test_unknown_header_becomes_a_text_column() -> None:
    column = column_of("Shoe size (EU)")
    assert (column.name, str(column.kind), column.group) == ("shoe_size", "text", "unknown")


def test_schema_has_the_json_type_of_each_kind() -> None:
    properties = log_schema(KNOWN, with_aid=True)["properties"]
    assert list(properties) == ["aid", *BY_NAME]
    types = {kind: {str(properties[c.name]["type"][0]) for c in KNOWN if c.kind == kind} for kind in KINDS.values()}
    assert types == {
        "text": {"string"},
        "timestamp": {"string"},
        "boolean": {"boolean"},
        "money": {"number"},
        "integer": {"integer"},
    }
    assert {name for name, schema in properties.items() if schema.get("format") == "date-time"} == {
        c.name for c in KNOWN if c.kind == "timestamp"
    }
    assert "personal" in properties["user_email"]["description"]

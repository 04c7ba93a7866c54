"""The columns of Piano's subscription log, as data.

One row of :data:`KNOWN` says all there is to know about one column; schema, default selection, casts and
documentation are made from it. The 78 columns of the group ``DEFAULT`` are those of an export that asks for
no attribute groups; the other 21 come with the groups named (fact sheet of the Piano API, 2.5 and 2.6).
"""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What the cells of a column hold, and so how they are cast."""

    TEXT = "text"
    TIMESTAMP = "timestamp"
    BOOLEAN = "boolean"
    MONEY = "money"
    INTEGER = "integer"


TEXT, TIMESTAMP, BOOLEAN, MONEY, INTEGER = Kind


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the subscription log.

    Attributes:
        header: text of the header cell, as Piano writes it.
        kind: what its cells hold.
        group: the attribute group that brings it; ``"unknown"`` for a column that is not in the table.
        trait: one of the 30 that Engage names for targeting.
        personal: says who a person is, where he lives or how he pays; never selected unless asked for.
        drifts: changes from day to day although nothing happened to the subscription.
    """

    header: str
    _: KW_ONLY
    kind: Kind = Kind.TEXT
    group: str = "DEFAULT"
    trait: bool = False
    personal: bool = False
    drifts: bool = False

    @property
    def name(self) -> str:
        """The property's name in the Singer schema: the header in snake_case without its bracket."""
        return property_name(self.header)


def property_name(header: str) -> str:
    """Make a property name of a header: ``"User ID (UID)"`` becomes ``"user_id"``."""
    without_bracket = re.sub(r"\([^)]*\)", " ", header)
    name = re.sub(r"[^0-9a-z]+", "_", without_bracket.lower()).strip("_")
    return name or re.sub(r"[^0-9a-z]+", "_", header.lower()).strip("_")  # all of it stood in a bracket


def fingerprint(header: str) -> str:
    """Reduce a header to its letters and digits, in lower case: spellings that differ only in these are one."""
    return re.sub(r"[\W_]+", "", header.lower())


KNOWN: tuple[Column, ...] = (
    Column("Subscription ID", trait=True),
    Column("Summary"),
    Column("Create date", kind=TIMESTAMP, trait=True),
    Column("Start date", kind=TIMESTAMP, trait=True),
    Column("End date", kind=TIMESTAMP, trait=True),
    Column("Days subscribed", kind=INTEGER, trait=True, drifts=True),
    Column("Subscription status", trait=True),
    Column("Upgrade status", trait=True),
    Column("Trial status", trait=True),
    Column("Trial period end date", kind=TIMESTAMP, trait=True),
    Column("Trial price", kind=MONEY),
    Column("Regular price", kind=MONEY),
    Column("Auto-renew", kind=BOOLEAN, trait=True),
    Column("Auto-renew disablement date", kind=TIMESTAMP, trait=True),
    Column("Last active date", kind=TIMESTAMP, drifts=True),
    Column("Logins last 30 days", kind=INTEGER, drifts=True),
    Column("Sessions last 30 days", kind=INTEGER, drifts=True),
    Column("Pageviews last 30 days", kind=INTEGER, drifts=True),
    Column("Billing period", trait=True),
    Column("Total charged", kind=MONEY, trait=True),
    Column("Charge count", kind=INTEGER),
    Column("Total refunded", kind=MONEY),
    Column("Payment source", personal=True),
    Column("Last billing date", kind=TIMESTAMP),
    Column("Next billing date", kind=TIMESTAMP, trait=True),
    Column("Renewed", kind=BOOLEAN, trait=True),
    Column("Currently in grace period", kind=BOOLEAN, trait=True),
    Column("Grace period start date", kind=TIMESTAMP, trait=True),
    Column("Grace period extended to", kind=TIMESTAMP, trait=True),
    Column("User ID (UID)", trait=True),
    Column("User email", personal=True),
    Column("First name", personal=True),
    Column("Last name", personal=True),
    Column("Access expiration date", kind=TIMESTAMP, trait=True),
    Column("Resource ID (RID)", trait=True),
    Column("Resource name", trait=True),
    Column("Term ID", trait=True),
    Column("Term name", trait=True),
    Column("Term type", trait=True),
    Column("Template ID", trait=True),
    Column("Template name", trait=True),
    Column("Offer ID", trait=True),
    Column("Offer name", trait=True),
    Column("Experience ID"),
    Column("Experience name"),
    Column("Campaign codes"),
    Column("Promo code", trait=True),
    Column("Conversion city", personal=True),
    Column("Conversion state", personal=True),
    Column("Conversion country"),
    Column("Device"),
    Column("URL", personal=True),
    Column("Cleaned URL"),
    Column("UTM parameters"),
    Column("Company name", personal=True),
    Column("Name (first and last)", personal=True),
    Column("Address 1", personal=True),
    Column("Address 2", personal=True),
    Column("Address city", personal=True),
    Column("Address state", personal=True),
    Column("Address country", personal=True),
    Column("Postal code", personal=True),
    Column("Phone", personal=True),
    Column("PSC subscriber number", personal=True),
    Column("Tax", kind=MONEY),
    Column("Tax base", kind=MONEY),
    Column("Tax rate", kind=MONEY),
    Column("Tax country", personal=True),
    Column("Tax state/province", personal=True),
    Column("Billing postal code", personal=True),
    Column("Shared subscriptions", kind=INTEGER),
    Column("Migrated to Piano", kind=BOOLEAN),
    Column("Migrated date", kind=TIMESTAMP),
    Column("Created via upgrade", kind=BOOLEAN),
    Column("Upgrade from - subscription ID"),
    Column("Period name"),
    Column("Access period"),
    Column("Period count", kind=INTEGER),
    Column("Renewable gift", group="RENEWABLE_GIFT"),
    Column("Alias Login", group="USER", personal=True),
    Column("Phone Number Login", group="USER", personal=True),
    Column("External Verification ID", group="USER", personal=True),
    Column("Stripe Subscription ID", group="PAYMENT", personal=True),
    Column("Current payment method", group="PAYMENT", personal=True),
    Column("Current payment provider", group="PAYMENT"),
    Column("Last payment amount", kind=MONEY, group="PAYMENT"),
    Column("Promotion ID", group="PAYMENT"),
    Column("Promotion name", group="PAYMENT"),
    Column("Promo code discount", kind=MONEY, group="PAYMENT"),
    Column("Promotion code value", group="PAYMENT"),
    Column("Upgrade from term ID", group="UPGRADES"),
    Column("Upgrade from term name", group="UPGRADES"),
    Column("Upgrade from billing plan", group="UPGRADES"),
    Column("Upgrade to term ID", group="UPGRADES"),
    Column("Upgrade to term name", group="UPGRADES"),
    Column("Upgrade to billing plan", group="UPGRADES"),
    Column("Upgrade to subscription ID", group="UPGRADES"),
    Column("Auto-renew enablement date", kind=TIMESTAMP, group="AUTORENEW"),
    Column("Modify time", kind=TIMESTAMP, group="MODIFY_TIME"),
)
"""All columns that Piano is known to write, in the order of its file."""

GROUPS = tuple(dict.fromkeys(column.group for column in KNOWN))
"""The attribute groups, that of the base columns first."""

REQUIRED = ("subscription_id", "user_id")
"""Without these two a row says nothing about anybody."""

REPLICATION_KEY = "modify_time"
"""When the subscription last changed; only in exports that ask for the group ``MODIFY_TIME``."""

BY_NAME = {column.name: column for column in KNOWN}
BY_FINGERPRINT = {fingerprint(column.header): column for column in KNOWN}
TRAITS = tuple(column.name for column in KNOWN if column.trait)


def column_of(header: str) -> Column:
    """Find the column of a header cell; an unknown one becomes a text column of the group ``"unknown"``."""
    known = BY_FINGERPRINT.get(fingerprint(header)) or BY_NAME.get(property_name(header))
    return known or Column(header, group="unknown")

"""The columns of Piano's subscription log as the sandbox writes them: 78 base columns and 21 in attribute groups.

Header texts and order follow the reference sheet of Piano, 2.5 and 2.6. This list belongs to the simulator: it shares
nothing with the tap, so that a slip in either shows.
"""

from __future__ import annotations

from typing import Final

DEFAULT: Final = "DEFAULT"

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    DEFAULT: (
        "Subscription ID", "Summary", "Create date", "Start date", "End date", "Days subscribed",
        "Subscription status", "Upgrade status", "Trial status", "Trial period end date", "Trial price",
        "Regular price", "Auto-renew", "Auto-renew disablement date", "Last active date", "Logins last 30 days",
        "Sessions last 30 days", "Pageviews last 30 days", "Billing period", "Total charged", "Charge count",
        "Total refunded", "Payment source", "Last billing date", "Next billing date", "Renewed",
        "Currently in grace period", "Grace period start date", "Grace period extended to", "User ID (UID)",
        "User email", "First name", "Last name", "Access expiration date", "Resource ID (RID)", "Resource name",
        "Term ID", "Term name", "Term type", "Template ID", "Template name", "Offer ID", "Offer name",
        "Experience ID", "Experience name", "Campaign codes", "Promo code", "Conversion city", "Conversion state",
        "Conversion country", "Device", "URL", "Cleaned URL", "UTM parameters", "Company name",
        "Name (first and last)", "Address 1", "Address 2", "Address city", "Address state", "Address country",
        "Postal code", "Phone", "PSC subscriber number", "Tax", "Tax base", "Tax rate", "Tax country",
        "Tax state/province", "Billing postal code", "Shared subscriptions", "Migrated to Piano", "Migrated date",
        "Created via upgrade", "Upgrade from - subscription ID", "Period name", "Access period", "Period count",
    ),
    "RENEWABLE_GIFT": ("Renewable gift",),
    "USER": ("Alias Login", "Phone Number Login", "External Verification ID"),
    "PAYMENT": (
        "Stripe Subscription ID", "Current payment method", "Current payment provider", "Last payment amount",
        "Promotion ID", "Promotion name", "Promo code discount", "Promotion code value",
    ),
    "UPGRADES": (
        "Upgrade from term ID", "Upgrade from term name", "Upgrade from billing plan", "Upgrade to term ID",
        "Upgrade to term name", "Upgrade to billing plan", "Upgrade to subscription ID",
    ),
    "AUTORENEW": ("Auto-renew enablement date",),
    "MODIFY_TIME": ("Modify time",),
}  # fmt: skip
"""Columns by attribute group, in the order of the file; which of the 21 belongs where is inferred (sheet, 2.5)."""

TRAITS: Final = (
    "Subscription ID", "Create date", "Start date", "End date", "Days subscribed", "Subscription status",
    "Upgrade status", "Trial status", "Trial period end date", "Auto-renew", "Auto-renew disablement date",
    "Billing period", "Total charged", "Next billing date", "Renewed", "Currently in grace period",
    "Grace period start date", "Grace period extended to", "User ID (UID)", "Access expiration date",
    "Resource ID (RID)", "Resource name", "Term ID", "Term name", "Term type", "Template ID", "Template name",
    "Offer ID", "Offer name", "Promo code",
)  # fmt: skip
"""The 30 columns that matter to Engage (sheet, 2.6, column T)."""

DRIFTING: Final = (
    "Days subscribed", "Last active date", "Logins last 30 days", "Sessions last 30 days", "Pageviews last 30 days",
)  # fmt: skip
"""Columns that move with the calendar although nothing happened to the subscription."""


class GroupError(ValueError):
    """An attribute group Piano does not have."""


def ordered_groups(names: tuple[str, ...]) -> tuple[str, ...]:
    """Put groups in the order of the file, DEFAULT always among them; raises GroupError for an unknown one."""
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        msg = f"unknown attribute group {', '.join(unknown)}: choose from {', '.join(GROUPS)}"
        raise GroupError(msg)
    return tuple(group for group in GROUPS if group == DEFAULT or group in names)


def headers(groups: tuple[str, ...]) -> list[str]:
    """List the header texts of a file with these groups."""
    return [header for group in ordered_groups(groups) for header in GROUPS[group]]

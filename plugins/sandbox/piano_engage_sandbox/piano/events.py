"""Webhook events: which ones there are, and which ones a change of a subscription causes, in order.

Types and their fields are those of version 2 (reference sheet of Piano, 4.3, and the SDK's `webhook_events`). Which
keys belong to the types about access is documented for an early version 2; the rest of the pairing is our guess, led
by the order of `WebhookConfig.key` in the API description, where the keys of one type stand side by side, and so is
which events a change causes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from piano_engage_sandbox.catalogue import CONTRACTS
from piano_engage_sandbox.piano import event_fields as fields
from piano_engage_sandbox.piano.event_fields import FIELDS, Facts
from piano_engage_sandbox.world import Happening

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.world import Change, World

    Payload = dict[str, Any]

VERSION: Final = 2
TEST: Final = "test"
"""Type and event of the test event, which cannot be switched off and is no entry of webhook/settings."""

_KEYS: Final = {
    "access_granted": (
        "new_purchase", "psc_purchase", "payment_verified", "free_access_granted", "new_registration_conversion",
        "free_promo_redemption", "cross_app_access_granted", "term_applied_by_publisher",
        "payment_verified_by_publisher", "new_custom_term_conversion", "new_site_license_conversion",
    ),
    "access_modified": (
        "subscription_updated", "subscription_manually_renewed", "subscription_auto_renewed", "access_modified",
        "cross_app_access_modified", "grace_period_extension_on_renewal", "site_license_renewed",
        "subscription_activated",
    ),
    "access_revoked": (
        "access_revoked", "subscription_auto_renewed_failure", "access_ended", "subscription_canceled",
        "subscription_expired", "cross_app_access_revoked", "site_license_expired", "site_license_canceled",
    ),
    "content_algorithm": ("keying_content_state_updated",),
    "voucher_purchased": ("voucher_purchase",),
    "voucher_delivered": ("voucher_delivery",),
    "voucher_redeemed": ("to_giftee_voucher_redeemed",),
    "voucher_revoked": ("voucher_revoked",),
    "term_change": ("term_change",),
    "term_change_finished": ("term_change_finished",),
    "shared_subscription_child": ("shared_subscription_child",),
    "user_updated": ("user_updated", "piano_id_user_password_updated", "piano_id_user_custom_fields_updated"),
    "user_address_updated": ("user_address_updated",),
    "address_updated": ("address_updated",),
    "user_created": ("user_created",),
    "user_disabled": ("user_disabled",),
    "user_email_confirmed": ("piano_id_user_email_confirmed",),
    "subscription_auto_renew_changed": ("subscription_auto_renew_changed_by_end_user",),
    "licensee_created": ("licensee_created",),
    "licensee_updated": ("licensee_updated",),
    "contract_created": ("contract_created",),
    "contract_updated": ("contract_updated",),
    "contract_deleted": ("contract_deleted",),
    "contract_redeemed": ("licensee_contract_redeemed",),
    "contract_renewed": ("licensee_contract_auto_renewed",),
    "licensee_invite_to_contract": ("licensee_invite_to_contract",),
    "contract_user_created": ("contract_user_created",),
    "contract_user_access_expired": ("licensee_contract_access_expired",),
    "contract_user_access_revoked": ("licensee_contract_subscription_canceled",),
    "user_payment_method": ("user_payment_method_new", "user_payment_method_update"),
    "payment_refund": ("purchase_refund",),
    "term_changed": (
        "term_change_scheduled", "term_change_canceled", "term_change_suspended", "term_change_resumed",
        "term_change_failure", "term_change_aborted", "term_change_grace_period_started",
        "term_change_grace_period_ended",
    ),
    "subscription_created": ("subscription_imported",),
    "subscription_updated": (
        "subscription_auto_renewed_auth_failure", "subscription_access_period_activated",
        "subscription_next_bill_date_updated", "subscription_payment_method_updated", "subscription_address_updated",
        "subscription_auto_renew_enabled", "subscription_auto_renew_disabled",
        "subscription_dynamic_unlimited_period_converted", "subscription_deferred_canceled", "subscription_resumed",
        "subscription_access_period_scheduled", "subscription_access_period_unscheduled", "subscription_rescheduled",
        "subscription_grace_period_started", "subscription_grace_period_ended",
    ),
    "payment_initiated": ("payment_initiated",),
    "payment_pending": ("payment_pending",),
    "payment_completed": ("payment_completed",),
    "payment_failed": ("payment_failed",),
}  # fmt: skip

EVENT_TYPES: Final = {key: (kind, key.replace("_", " ").capitalize()) for kind, keys in _KEYS.items() for key in keys}
"""Event key → (type, label), as webhook/settings lists them. Some keys also come with a second type, about the
subscription instead of its access: `new_purchase` as access_granted and as subscription_created. Labels are ours."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One event that a change causes: its type, its key (or how to find it), and when."""

    kind: str
    event: str | Callable[[Facts], str]
    when: Callable[[Facts], bool] = lambda _: True
    about_follower: bool = False
    """About the subscription that a term change began, not the one it ended."""


def _begun_by(facts: Facts) -> str:
    """Name the event of a new subscription: nothing was charged yet for a free trial, so payment was verified only."""
    term = facts.term
    if term.type in CONTRACTS:
        return "new_site_license_conversion"
    if not term.price:
        return "free_access_granted"
    return "new_purchase" if facts.state.charge_count else "payment_verified"


def _ended_by(facts: Facts) -> str:
    """Name the event of a subscription that ended by itself."""
    if facts.term.type in CONTRACTS:
        return "site_license_expired"
    if not facts.term.renews:
        return "access_ended"
    failed = facts.state.status == "Expired Due To Payment Error"
    return "subscription_auto_renewed_failure" if failed else "subscription_expired"


def _in_contract(facts: Facts) -> bool:
    return facts.term.type in CONTRACTS


def _access_changed(facts: Facts) -> bool:
    return facts.before is not None and facts.before.access_until != facts.state.access_until


def _resource_changed(facts: Facts) -> bool:
    follower = facts.follower
    return follower is None or follower.fate.term.resource is not facts.term.resource


def _refunded(facts: Facts) -> bool:
    return facts.state.total_refunded > (facts.before.total_refunded if facts.before else 0)


def _by_reader(facts: Facts) -> bool:
    return facts.by == "system"


def _dynamic(facts: Facts) -> bool:
    return facts.term.type == "Dynamic"


def _static(facts: Facts) -> bool:
    return facts.term.type != "Dynamic"


_PAID: Final = Recipe("payment_completed", "payment_completed", lambda facts: facts.charged)
_RENEWED: Final = (
    _PAID,
    Recipe("subscription_renewal", "subscription_auto_renewed"),
    Recipe("access_modified", "subscription_auto_renewed"),
)
_SWITCHED_BY_READER: Final = Recipe(
    "subscription_auto_renew_changed",
    "subscription_auto_renew_changed_by_end_user",
    lambda facts: _by_reader(facts) and _static(facts),
)

CAUSED: Final[dict[Happening, tuple[Recipe, ...]]] = {
    Happening.CREATED: (
        _PAID,
        Recipe("subscription_created", _begun_by),
        Recipe("contract_redeemed", "licensee_contract_redeemed", _in_contract),
        Recipe("access_granted", _begun_by, lambda facts: facts.fate.start <= facts.at),
    ),
    Happening.STARTED: (
        Recipe("subscription_updated", "subscription_activated"),
        Recipe("access_granted", _begun_by),
    ),
    Happening.CONVERTED: _RENEWED,
    Happening.RENEWED: _RENEWED,
    Happening.FAILED: (
        Recipe("payment_failed", "payment_failed"),
        Recipe("subscription_updated", "subscription_grace_period_started"),
        Recipe("access_modified", "grace_period_extension_on_renewal", _access_changed),
    ),
    Happening.GRACE_EXTENDED: (
        Recipe("subscription_updated", "subscription_updated"),
        Recipe("access_modified", "access_modified", _access_changed),
    ),
    Happening.RECOVERED: (*_RENEWED, Recipe("subscription_updated", "subscription_grace_period_ended")),
    Happening.AUTO_RENEW_OFF: (
        Recipe("subscription_updated", "subscription_deferred_canceled", _dynamic),
        Recipe("subscription_updated", "subscription_auto_renew_disabled", _static),
        _SWITCHED_BY_READER,
    ),
    Happening.AUTO_RENEW_ON: (
        Recipe("subscription_updated", "subscription_resumed", _dynamic),
        Recipe("subscription_updated", "subscription_auto_renew_enabled", _static),
        _SWITCHED_BY_READER,
    ),
    Happening.BILL_DATE_MOVED: (
        Recipe("subscription_updated", "subscription_next_bill_date_updated"),
        Recipe("access_modified", "subscription_updated", _access_changed),
    ),
    Happening.PAYMENT_METHOD_CHANGED: (Recipe("subscription_updated", "subscription_payment_method_updated"),),
    Happening.CHANGE_ASKED: (Recipe("term_changed", "term_change_scheduled"),),
    Happening.CHANGE_WITHDRAWN: (Recipe("term_changed", "term_change_canceled"),),
    Happening.CHANGED: (
        Recipe("payment_completed", "payment_completed", lambda facts: facts.charged, about_follower=True),
        Recipe("term_change", "term_change"),
        Recipe("access_revoked", "access_revoked", _resource_changed),
        Recipe("access_granted", "new_purchase", about_follower=True),
        Recipe("term_change_finished", "term_change_finished"),
    ),
    Happening.CANCELLED: (
        Recipe("payment_refund", "purchase_refund", _refunded),
        Recipe("subscription_ended", "subscription_canceled"),
        Recipe("access_revoked", "subscription_canceled"),
    ),
    Happening.EXPIRED: (
        Recipe("subscription_ended", _ended_by),
        Recipe("contract_user_access_expired", "licensee_contract_access_expired", _in_contract),
        Recipe("access_revoked", _ended_by),
    ),
    Happening.MIGRATED: (Recipe("subscription_updated", "subscription_imported"),),
    Happening.DELETED: (
        Recipe("access_revoked", "access_revoked", lambda facts: facts.before is not None and facts.before.live),
    ),
}
"""The events of each change, in the order they are sent."""


def events_of(change: Change, *, aid: str, world: World) -> list[Payload]:
    """Give the events that a change causes, in order, with every field of their types; absent values are None."""
    facts = Facts(aid=aid, world=world, change=change)
    found = []
    for recipe in CAUSED[change.what]:
        about = facts.of_follower() if recipe.about_follower else facts
        if about is not None and recipe.when(about):
            key = recipe.event if isinstance(recipe.event, str) else recipe.event(about)
            found.append(payload(recipe.kind, key, fields.values(recipe.kind, about)))
    return found


def payload(kind: str, event: str, values: Payload) -> Payload:
    """Write an event of a type, its fields in the order of the reference sheet."""
    return {"version": VERSION, "type": kind, "event": event} | {name: values.get(name) for name in FIELDS[kind]}


def trial_event(aid: str, at: int) -> Payload:
    """Write the event that a publisher sends to try a receiver."""
    return payload(TEST, TEST, {"aid": aid, "timestamp": at})

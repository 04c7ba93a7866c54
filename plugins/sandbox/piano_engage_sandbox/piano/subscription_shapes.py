"""Subscriptions as the Publisher API writes them: list item, full subscription, log item, statistics.

Field names and types are those of the official SDK 16.988, misspelt ones included (reference sheet of Piano, 3.3 and
5). A field without a value is left out (1.4). Statuses have three vocabularies; `STATUSES` maps the words of the log
to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from piano_engage_sandbox import actions, people
from piano_engage_sandbox.catalogue import CONTRACTS, invented_id
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.piano import shapes
from piano_engage_sandbox.states import IN_TRIAL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piano_engage_sandbox.catalogue import Term
    from piano_engage_sandbox.people import Person
    from piano_engage_sandbox.piano.envelope import Call
    from piano_engage_sandbox.states import State
    from piano_engage_sandbox.world import Entry

Shape = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Status:
    """What one status of the log is called elsewhere."""

    code: str
    """`status`, and the parameter `type` of subscription/list."""
    name: str
    """`status_name`: the labels of the log, as far as anybody knows."""
    short: str
    """`status` of subscription/stats."""
    label: str
    """`status_label` of subscription/stats; `status_name_in_reports` is the same in lower case."""
    filter: str = ""
    """The parameter `status` of subscription/list, which has eight words of its own."""


STATUSES: Final = {
    "Active": Status("active", "Active", "A", "Active", "active"),
    "Cancelled": Status("cancelled", "Cancelled", "C", "Cancelled", "cancelled"),
    "Failed - Will Retry": Status("fail_and_retry", "Failed - Will Retry", "FAR", "Active", "failedAndRetry"),
    "Expired Due To Payment Error": Status(
        "expired_with_error", "Expired Due To Payment Error", "EWE", "Payment Failure", "paymentFailure"
    ),
    "Expired": Status("expired", "Expired", "E", "Expired", "expired"),
    "Completed": Status("completed", "Completed", "END", "Active", "completed"),
    "Deleted": Status("deleted", "Deleted", "D", "Deleted"),
    "Wait Confirmed": Status("wait_confirmed", "Wait Confirmed", "WC", "Wait Confirmed"),
    "Upgraded": Status("upgraded", "Upgraded", "UPGRD", "Upgraded", "upgraded"),
    "Pending": Status("pending", "Pending", "P", "Pending"),
    "Not started": Status("not_started", "Not started", "NS", "Not Started"),
}
"""By the word of the log (reference sheet of Piano, 2.7 and 3.3).

Which label goes with a failed payment is our guess, from the filters of subscription/search: they count
`failedAndRetry` among the active and `paymentFailure` among the inactive.
"""
WONT_RENEW: Final = "Won't Renew"
BILLED: Final = frozenset({"Payment", "Dynamic"})
CARD_YEARS: Final = 3


def label_of(state: State) -> str:
    """Give the `status_label`.

    Live, billed and without auto-renew is `Won't Renew`; a site licence is reported as active while it gives access
    and as won't renew after (the reference sheet of Piano, 2.7, knows both of its status `completed`).
    """
    term = state.fate.term
    if term.type in CONTRACTS:
        return STATUSES["Completed"].label if state.live else WONT_RENEW
    if state.status == "Active" and not state.auto_renew and term.type in BILLED:
        return WONT_RENEW
    return STATUSES[state.status].label


def reported(state: State) -> str:
    """Give the `status_name_in_reports`: the label in lower case, apostrophe included."""
    return label_of(state).lower()


def invented(prefix: str, *parts: object) -> str:
    """Give an id to something that has none in the log, the same wherever the same thing is shown."""
    return invented_id(prefix, "/".join(map(str, parts)))


def iso(moment: int | None) -> str | None:
    """Write a moment as ISO 8601 text, UTC, for the few fields that are no epoch seconds (sheet, 1.7)."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def present(shape: Mapping[str, Any]) -> Shape:
    """Leave out what has no value."""
    return {name: value for name, value in shape.items() if value is not None}


@dataclass(frozen=True)
class View:
    """One subscription as a call sees it."""

    call: Call
    entry: Entry

    @property
    def state(self) -> State:
        """How it looks now."""
        return self.entry.state

    @property
    def term(self) -> Term:
        """What was bought."""
        return self.entry.fate.term

    @cached_property
    def person(self) -> Person:
        """Whose it is."""
        return self.call.application.world.person(self.entry.reader)

    @property
    def access_id(self) -> str:
        """The access it gives, or gave."""
        return invented("AC", self.entry.id)

    @property
    def payment_method(self) -> str | None:
        """The means of payment in words, once it was charged (column 23 of the log)."""
        return self.person.payment if self.state.charge_count else None

    @property
    def payment_info_id(self) -> str | None:
        """The stored means of payment."""
        return invented("UPI", self.person.uid) if self.state.charge_count else None


def list_item(view: View) -> Shape:
    """Write a `UserSubscriptionListItem`: no create date and no update date (sheet, 3.3)."""
    return present(_common(view))


def subscription(view: View) -> Shape:
    """Write a `UserSubscription`."""
    state, fate = view.state, view.entry.fate
    guards = actions.guards(view.entry)
    will_renew = state.auto_renew and state.live and view.entry.fate.upgrade_asked_at > view.call.now
    return present(
        _common(view)
        | {
            "will_auto_renew": will_renew,
            "next_renewal_date": state.next_billing,
            "will_access_period_be_changed": will_renew and _period_changes(state),
            "create_date": fate.create,
            "status_display": label_of(state),
            "is_active": state.status == "Active",
            "deferred_cancelable": guards.deferred_cancelable,
            "can_be_resumed": guards.can_be_resumed,
            "auto_renew_change_enabled": guards.auto_renew_change_enabled,
            "in_grace_period": state.in_grace,
        }
    )


def in_conversion(view: View) -> Shape:
    """Write a `TermConversionSubscription`: what conversions show of a subscription as it is now."""
    item = _common(view)
    return present({name: value for name, value in item.items() if name not in _NOT_IN_CONVERSIONS})


_NOT_IN_CONVERSIONS: Final = frozenset(
    {"cancelable_and_refundadle", "shared_account_limit", "can_manage_shared_subscription", "shared_accounts"}
)


def log_item(view: View) -> Shape:
    """Write a `SubscriptionLogItem`."""
    state, who, term = view.state, view.person, view.term
    return present(
        {
            "subscription_id": view.entry.id,
            "email": who.email,
            "uid": who.uid,
            "rid": term.resource.rid,
            "term": shapes.term(view.call, term),
            "billing_plan": term.plan,
            "start_date": state.fate.start,
            "next_bill_date": state.next_billing,
            "status_name_in_reports": reported(state),
            "child_access": str(_shared(view)),
        }
    )


def stats_item(view: View) -> Shape:
    """Write a `UserSubscriptionDto`, whose dates are texts; that they are ISO 8601 is our guess."""
    state, term = view.state, view.term
    stripe = view.payment_method is not None and view.payment_method != "PayPal"
    paid_with_card = view.payment_method is not None and view.payment_method.split(" ")[0] not in people.PROVIDERS
    expires = datetime.fromtimestamp(view.entry.fate.create + (CARD_YEARS + view.person.phase % 3) * 365 * DAY, UTC)
    soon = expires.timestamp() - view.call.now < 30 * DAY
    return present(
        {
            "term_name": term.name,
            "term_id": term.term_id,
            "type": shapes.term_type(term),
            "payment_billing_plan": term.plan if term.price else None,
            "billing_plan": term.plan,
            "resource_name": term.resource.name,
            "rid": term.resource.rid,
            "next_bill_date": iso(state.next_billing),
            "subscription_last_payment": iso(state.last_billing),
            "status": STATUSES[state.status].short,
            "status_label": label_of(state),
            "status_display": label_of(state),
            "creadit_card_expire": expires.strftime("%m/%Y") if paid_with_card else None,
            "creadit_card_expire_soon": soon if paid_with_card else None,
            "subscription_id": view.entry.id,
            "is_stripe": stripe,
            "payment_method": view.payment_method,
            "access_expired": not has_access(state, view.call.now),
            "in_app_payment": False,
            "psc_subscriber_number": _psc_number(view),
            "charge_count": state.charge_count,
            "auto_renew": state.auto_renew,
            "user_payment_info_id": view.payment_info_id,
            "access_id": view.access_id,
            "stripe_subscription_id": f"sub_{state.fate.number:014x}" if stripe else None,
        }
    )


def has_access(state: State, now: int) -> bool:
    """Whether a subscription gives access: it began, and its access has not ended. No end is for ever."""
    return state.fate.start <= now and state.live and (state.access_until is None or state.access_until >= now)


def _common(view: View) -> dict[str, Any]:
    """Write what list items and full subscriptions share, absent values as None."""
    entry, state, term, who = view.entry, view.state, view.term, view.person
    fate, status = entry.fate, STATUSES[state.status]
    guards = actions.guards(entry)
    trial = fate.trial_end is not None
    return {
        "subscription_id": entry.id,
        "auto_renew": state.auto_renew,
        "next_bill_date": state.next_billing,
        "payment_method": view.payment_method,
        "billing_plan": term.plan,
        "user_payment_info_id": view.payment_info_id,
        "status": status.code,
        "status_name": status.name,
        "status_name_in_reports": reported(state),
        "term": shapes.term(view.call, term),
        "resource": shapes.resource(view.call, term.resource),
        "user": shapes.user(view.call, who),
        "start_date": fate.start,
        "cancelable": guards.cancelable,
        "cancelable_and_refundadle": guards.cancelable_and_refundable,
        "user_address": user_address(who),
        "psc_subscriber_number": _psc_number(view),
        "is_in_trial": state.trial_status == IN_TRIAL,
        "trial_period_end_date": fate.trial_end,
        "trial_amount": term.trial_price / 100 if trial else None,
        "trial_currency": shapes.CURRENCY if trial else None,
        "end_date": state.end,
        "charge_count": state.charge_count,
        "shared_account_limit": term.shared,
        "can_manage_shared_subscription": term.shared > 0 and state.live,
        "shared_accounts": [_shared_account(view, n) for n in range(_shared(view))],
    }


def _period_changes(state: State) -> bool:
    """Whether the next renewal of a dynamic subscription begins an access period of another kind."""
    term, paid = state.fate.term, state.paid_periods
    return term.type == "Dynamic" and (paid == 0 or 0 < term.intro_count == paid)


def _psc_number(view: View) -> str | None:
    return f"PSC{view.entry.fate.number:08}" if view.state.migrated_at is not None else None


def _shared(view: View) -> int:
    """Count the shared accounts (column 71 of the log)."""
    return view.term.shared and view.person.phase % (view.term.shared + 1)


def _shared_account(view: View, n: int) -> Shape:
    """Write a `UserSubscriptionAccount`: somebody the reader shares with, redeemed on one of the days after."""
    first = people.FIRST_NAMES[(view.person.phase + n) % 8]
    return {
        "account_id": invented("SA", view.entry.id, n),
        "user_id": invented("SU", view.entry.id, n),
        "email": f"shared.{n}.{view.person.email}",
        "first_name": first,
        "last_name": view.person.last,
        "personal_name": f"{first} {view.person.last}",
        "redeemed": view.entry.fate.start + n * DAY,
        "active": view.state.live,
    }


_COUNTRIES: Final = {
    "The Netherlands": ("NL", "Netherlands"),
    "Belgium": ("BE", "Belgium"),
    "Germany": ("DE", "Germany"),
    "France": ("FR", "France"),
    "United States": ("US", "United States"),
    "Poland": ("PL", "Poland"),
    "Israel": ("IL", "Israel"),
    "Japan": ("JP", "Japan"),
}


def user_address(who: Person) -> Shape | None:
    """Write a `UserAddress` for a reader who has filled in the form."""
    company, name, street, addition, city, state, country, postal, phone = who.contact
    if not street:
        return None
    code, country_name = _COUNTRIES[country]
    region = {"region_id": invented("RG", code, state), "region_name": state, "region_code": state[:2].upper()}
    return present(
        {
            "user_address_id": invented("UA", who.uid),
            "region": region if state else None,
            "country": {"country_id": invented("CY", code), "country_name": country_name, "country_code": code},
            "city": city,
            "postal_code": postal,
            "company_name": company or None,
            "first_name": who.first,
            "last_name": who.last,
            "personal_name": name,
            "address1": street,
            "address2": addition or None,
            "phone": phone,
        }
    )

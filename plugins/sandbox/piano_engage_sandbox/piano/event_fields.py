"""The fields of webhook events: which a type has, and what stands in them.

Names and order are those of the reference sheet of Piano, 4.3, and of the SDK's `webhook_events`. Values that nobody
documents (the words of `*_by`, `renewal_type`, payment states) are our guesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from piano_engage_sandbox import people
from piano_engage_sandbox.catalogue import CONTRACTS
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.piano.subscription_shapes import STATUSES, invented, iso
from piano_engage_sandbox.states import price_of
from piano_engage_sandbox.world import Change, Happening

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.catalogue import Term
    from piano_engage_sandbox.lives import Fate
    from piano_engage_sandbox.people import Person
    from piano_engage_sandbox.states import State
    from piano_engage_sandbox.world import Entry, World

    Values = dict[str, Any]

PAID: Final = (2, "COMPLETED")
NOT_PAID: Final = (3, "FAILED")
"""`status` and `status_value` of payments."""

_SUBSCRIPTION: Final = (
    "aid uid user_email term_id term_type rid access_id subscription_id status create_date start_date next_bill_date "
    "billing_plan access_period_id active_billing_plan active_access_period_id upi_id auto_renew"
)
_GRACE: Final = (
    "is_in_grace acquisition_type grace_period_start_date grace_period_length failure_counter passive_churn_logic_id "
    "decline_reason"
)
_ACCESS: Final = "aid expires term_id uid rid access_id user_email contract_id"
_PAYMENT: Final = (
    "triggered_by user_payment_id status status_value amount user_payment_info_id ext_payment_id ext_customer_id "
    "term_id aid uid resource_id subscription_id access_id billing_period_date_from billing_period_date_to merchant_id "
    "payment_method_key source_int"
)
_CHANGED: Final = (
    "aid uid previous_term_id previous_term_name new_term_id new_term_name previous_subscription_id "
    "new_subscription_id date_of_access_change date_of_billing_change new_billing_plan"
)
_TERM_CHANGE: Final = (
    "aid uid user_email previous_term_id previous_term_name previous_subscription_id previous_subscription_rid "
    "previous_subscription_access_id previous_billing_plan previous_access_period_id new_term_id new_term_name "
    "new_subscription_id new_subscription_rid new_subscription_access_id new_billing_plan new_access_period_id "
    "new_subscription_next_bill_date date_of_access_change date_of_billing_change upi_id is_in_grace "
    "grace_period_start_date grace_period_length failure_counter passive_churn_logic_id decline_reason payment_id "
    "changed_by"
)
_CONTRACT: Final = "aid contract_id rid term_id"

FIELDS: Final = {
    kind: tuple(names.split())
    for kind, names in {
        "subscription_created": f"{_SUBSCRIPTION} {_GRACE} payment_id created_by",
        "subscription_updated": f"{_SUBSCRIPTION} shared_accounts {_GRACE} updated_by",
        "subscription_renewal": f"{_SUBSCRIPTION} shared_accounts {_GRACE} payment_id renewal_type renewed_by",
        "subscription_ended": f"{_SUBSCRIPTION} shared_accounts {_GRACE} ended_by",
        "subscription_auto_renew_changed": "aid uid subscription_id term_id auto_renew",
        "term_change": _TERM_CHANGE,
        "term_changed": _CHANGED,
        "term_change_finished": _CHANGED,
        "access_granted": f"{_ACCESS} payment_id conversion_id",
        "access_modified": f"{_ACCESS} payment_id conversion_id",
        "access_revoked": _ACCESS,
        "payment_completed": f"{_PAYMENT} subscription_period_counter",
        "payment_failed": f"{_PAYMENT} error_code error_message",
        "payment_refund": "aid uid payment_id amount subscription_id access_id",
        "contract_redeemed": f"{_CONTRACT} conversion_id uid user_email expires access_id",
        "contract_user_access_expired": f"{_CONTRACT} uid user_email",
        "test": "aid timestamp",
    }.items()
}
"""The fields of each type the sandbox sends, after `version`, `type` and `event`."""


@dataclass(frozen=True)
class Facts:
    """What an event can tell of a change."""

    aid: str
    world: World
    change: Change

    @property
    def at(self) -> int:
        """When it happened."""
        return self.change.at

    @property
    def by(self) -> str:
        """Whose doing it was: `system` or `api`."""
        return self.change.by

    @property
    def entry(self) -> Entry:
        """The subscription it happened to."""
        return self.change.entry

    @property
    def before(self) -> State | None:
        """How the subscription looked before."""
        return self.change.before

    @property
    def state(self) -> State:
        """How the subscription looks after it."""
        return self.change.after

    @property
    def fate(self) -> Fate:
        """What was and is in store for the subscription."""
        return self.entry.fate

    @property
    def term(self) -> Term:
        """What was bought."""
        return self.fate.term

    @property
    def person(self) -> Person:
        """Whose subscription it is."""
        return self.world.person(self.entry.reader)

    @property
    def charged(self) -> bool:
        """Whether money came in with the change."""
        return self.state.charge_count > (self.before.charge_count if self.before else 0)

    @property
    def follower(self) -> Entry | None:
        """The subscription that a term change began; None until it did."""
        fate = self.fate.upgraded_to
        return None if fate is None else self.world.get(self.world.id_of(fate))

    def of_follower(self) -> Facts | None:
        """Look at the change from the subscription it began."""
        entry = self.follower
        if entry is None:
            return None
        return Facts(self.aid, self.world, Change(self.at, Happening.CREATED, entry, None, entry.state, self.by))

    @property
    def access_id(self) -> str:
        """The access of the subscription."""
        return _access_id(self.entry)

    @property
    def payment_id(self) -> str | None:
        """The last payment; a failed one counts."""
        tried = self.state.charge_count + self.state.in_grace
        return invented("UP", self.entry.id, tried) if tried else None

    @property
    def contract_id(self) -> str | None:
        """The site licence, for its members."""
        return invented("CN", self.aid, self.term.term_id) if self.term.type in CONTRACTS else None


def values(kind: str, facts: Facts) -> Values:
    """Give what can stand in the fields of a type."""
    return _FAMILIES[kind](facts)


def _who(facts: Facts) -> Values:
    """Give what most types share."""
    return {
        "aid": facts.aid,
        "uid": facts.person.uid,
        "user_email": facts.person.email,
        "term_id": facts.term.term_id,
        "rid": facts.term.resource.rid,
        "access_id": facts.access_id,
        "subscription_id": facts.entry.id,
        "payment_id": facts.payment_id,
        "contract_id": facts.contract_id,
        "upi_id": invented("UPI", facts.person.uid) if facts.state.charge_count else None,
    }


def _grace(facts: Facts) -> Values:
    grace = facts.state.in_grace
    return {
        "is_in_grace": grace,
        "acquisition_type": None,
        "grace_period_start_date": facts.state.grace_start,
        "grace_period_length": facts.term.grace_days if grace else None,
        "failure_counter": int(grace),
        "passive_churn_logic_id": invented("PCL", facts.aid) if grace else None,
        "decline_reason": "insufficient_funds" if grace else None,
    }


def _subscription(facts: Facts) -> Values:
    state, fate, term = facts.state, facts.fate, facts.term
    whose = ("created_by", "updated_by", "renewed_by", "ended_by")
    return {
        **_who(facts),
        **_grace(facts),
        "term_type": term.type,
        "status": STATUSES[state.status].code,
        "create_date": fate.create,
        "start_date": fate.start,
        "next_bill_date": state.next_billing,
        "billing_plan": term.plan,
        "access_period_id": _period_id(term, state),
        "active_billing_plan": term.plan,
        "active_access_period_id": _period_id(term, state),
        "auto_renew": state.auto_renew,
        "shared_accounts": _shared_accounts(facts),
        "renewal_type": "auto",
        **dict.fromkeys(whose, facts.by),
    }


def _auto_renew(facts: Facts) -> Values:
    """`auto_renew` is a text here (sheet, 4.3)."""
    return _who(facts) | {"auto_renew": str(facts.state.auto_renew).lower()}


def _access(facts: Facts) -> Values:
    conversion = invented("TC", facts.entry.id, facts.state.charge_count)
    return _who(facts) | {"expires": facts.state.access_until, "conversion_id": conversion}


def _payment(facts: Facts) -> Values:
    state, fate, term = facts.state, facts.fate, facts.term
    failed, boundary = state.in_grace, facts.world.lives.boundary
    amount = price_of(term, state.paid_periods + 1) if failed else state.last_amount
    period = state.paid_periods if failed else state.paid_periods - 1
    begins = facts.at if period < 0 or not term.renews else boundary(fate, period)
    ends = boundary(fate, period + 1) if term.renews else state.access_until
    provider = people.PROVIDERS.get(facts.person.payment.split(" ", 1)[0], "Stripe Elements")
    status, status_value = NOT_PAID if failed else PAID
    return {
        **_who(facts),
        "triggered_by": facts.by,
        "user_payment_id": facts.payment_id,
        "status": status,
        "status_value": status_value,
        "amount": amount / 100,
        "user_payment_info_id": invented("UPI", facts.person.uid),
        "ext_payment_id": invented("pi_", facts.payment_id),
        "ext_customer_id": invented("cus_", facts.person.uid),
        "resource_id": term.resource.rid,
        "billing_period_date_from": iso(begins),
        "billing_period_date_to": iso(ends),
        "payment_method_key": provider.lower().replace(" ", "_"),
        "source_int": 0,
        "subscription_period_counter": state.paid_periods,
        "error_code": "card_declined" if failed else None,
        "error_message": "The card was declined" if failed else None,
    }


def _refund(facts: Facts) -> Values:
    return _who(facts) | {"amount": facts.state.total_refunded / 100}


def _term_change(facts: Facts) -> Values:
    """Tell of both terms; the new subscription has no id before it began, nor a change that was withdrawn a term."""
    entry, term, follower, to = facts.entry, facts.term, facts.follower, facts.fate.upgraded_to
    state = follower.state if follower else None
    later = to.term if to else None
    return {
        **_who(facts),
        **_grace(facts),
        "previous_term_id": term.term_id,
        "previous_term_name": term.name,
        "previous_subscription_id": entry.id,
        "previous_subscription_rid": term.resource.rid,
        "previous_subscription_access_id": facts.access_id,
        "previous_billing_plan": term.plan,
        "previous_access_period_id": _period_id(term, facts.state),
        "new_term_id": later and later.term_id,
        "new_term_name": later and later.name,
        "new_billing_plan": later and later.plan,
        "new_subscription_id": follower and follower.id,
        "new_subscription_rid": later and later.resource.rid,
        "new_subscription_access_id": _access_id(follower) if follower else None,
        "new_access_period_id": _period_id(later, state) if later and state else None,
        "new_subscription_next_bill_date": state and state.next_billing,
        "date_of_access_change": facts.fate.stop_at if later else None,
        "date_of_billing_change": facts.fate.stop_at if later else None,
        "changed_by": facts.by,
    }


def _access_id(entry: Entry) -> str:
    return invented("AC", entry.id)


def _period_id(term: Term, state: State) -> str | None:
    """Give the access period, which only dynamic terms have: trial, first or standard."""
    if term.type != "Dynamic":
        return None
    kind = "standard" if state.paid_periods > term.intro_count else "first" if state.paid_periods else "trial"
    return invented("AP", term.term_id, kind)


def _shared_accounts(facts: Facts) -> list[Values]:
    """List those the reader shares with, as many as column 71 of the log says."""
    who, entry, most = facts.person, facts.entry, facts.term.shared
    return [
        {
            "account_id": invented("SA", entry.id, n),
            "user_id": invented("SU", entry.id, n),
            "email": f"shared.{n}.{who.email}",
            "first_name": people.FIRST_NAMES[(who.phase + n) % 8],
            "last_name": who.last,
            "personal_name": f"{people.FIRST_NAMES[(who.phase + n) % 8]} {who.last}",
            "redeemed": facts.fate.start + n * DAY,
        }
        for n in range(who.phase % (most + 1) if most else 0)
    ]


_FAMILIES: Final[dict[str, Callable[[Facts], Values]]] = {
    "subscription_created": _subscription,
    "subscription_updated": _subscription,
    "subscription_renewal": _subscription,
    "subscription_ended": _subscription,
    "subscription_auto_renew_changed": _auto_renew,
    "term_change": _term_change,
    "term_changed": _term_change,
    "term_change_finished": _term_change,
    "access_granted": _access,
    "access_modified": _access,
    "access_revoked": _access,
    "payment_completed": _payment,
    "payment_failed": _payment,
    "payment_refund": _refund,
    "contract_redeemed": _access,
    "contract_user_access_expired": _access,
}
"""Who writes the fields of a type."""

"""Endpoints below term/change: from one term to another, at once or later (reference sheet of Piano, 3.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypedDict

from piano_engage_sandbox import actions
from piano_engage_sandbox.actions import ChangeOption
from piano_engage_sandbox.catalogue import ANY_TERM_BY_ID, TERM_BY_ID, TERMS
from piano_engage_sandbox.piano.change_options import option_shape
from piano_engage_sandbox.piano.envelope import Answer, ApiError
from piano_engage_sandbox.piano.refusals import NO_OPTION, acted, known
from piano_engage_sandbox.piano.subscription_shapes import invented, iso, present

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.piano.envelope import Call, Params
    from piano_engage_sandbox.world import Entry

TIMINGS: Final = ("0", "1", "2", "3")
PENDING: Final = 0
CHANGEABLE: Final = frozenset(term.term_id for term in TERMS if term.renews)
"""Terms that can have change options: those sold that renew; the others meet 1062. Which they are is our guess."""


class Settings(TypedDict):
    """How a change is to be: what a change option says, and term/change/do repeats."""

    billing_timing: str
    immediate_access: bool
    prorate_access: bool


def can_change(call: Call) -> Answer:
    """term/change/can: whether there is a change option for the subscription's term, and nothing in its way.

    The answer where there is none, or no such subscription, is the switch `publisher.unknown_change`.
    """
    world = call.application.world
    entry = world.get(call.params.required("subscription_id"))
    if entry is not None and actions.option_for(call.application.change_options, entry) is not None:
        return Answer("data", entry.state.live and actions.pending_change(world, entry) is None)
    if call.sandbox.switches.publisher.unknown_change == "code_1012":
        raise ApiError(NO_OPTION)
    return Answer("data", value=False)


def change_term(call: Call) -> Answer:
    """term/change/do: true means accepted; with timings 1 to 3 the change comes when the running period ends.

    A user the subscription is not of meets 2: our guess, among the documented codes. A text that is no `billing_timing`
    meets 400.
    """
    settings = _settings(call.params)
    entry, to_term = _of_user(call, "subscription_from"), call.params.required("term_to")
    return acted(
        call,
        "change",
        lambda: actions.change(
            call.application.world,
            entry,
            to_term,
            options=call.application.change_options,
            **settings,
            exact=call.sandbox.switches.publisher.change_settings == "exact",
        ),
    )


def cancel_change(call: Call) -> Answer:
    """term/change/cancel: withdraws a change that waits for its day; 1012 when none does, which is our guess."""
    entry = known(call, "subscription_from", action=True)
    return acted(call, "change_cancel", lambda: actions.change_cancel(call.application.world, entry))


def upgrade_status(call: Call) -> Answer:
    """term/change/getSubscriptionUpgradeStatus: the change that waits for its day.

    What it answers when there is none is the switch `publisher.upgrade_status_without_change`.
    """
    entry = _of_user(call, "subscription_id")
    pending = actions.pending_change(call.application.world, entry)
    if pending is not None:
        return Answer("subscription_upgrade_status", _status_shape(entry, pending))
    without = call.sandbox.switches.publisher.upgrade_status_without_change
    if without == "code_1012":
        raise ApiError(NO_OPTION)
    return Answer("subscription_upgrade_status") if without == "null" else Answer()


def create_option(call: Call) -> Answer:
    """term/change/option/create: 1001 for unknown terms, 1062 for terms that do not change, 1069 for a second time."""
    params = call.params
    settings = _settings(params)
    one, other = (ANY_TERM_BY_ID.get(params.required(name)) for name in ("from_term_id", "to_term_id"))
    if one is None or other is None:
        raise ApiError(1001)
    if not {one.term_id, other.term_id} <= CHANGEABLE:
        raise ApiError(1062)
    options = call.application.change_options
    if any((option.from_term, option.to_term) == (one.term_id, other.term_id) for option in options):
        raise ApiError(1069)
    option = ChangeOption(
        option_id=invented("TC", call.application.aid, one.term_id, other.term_id),
        from_term=one.term_id,
        to_term=other.term_id,
        **settings,
        description=params.text("description"),
    )
    options.append(option)
    return Answer("term_change_option", option_shape(option))


ENDPOINTS: Final[dict[str, Callable[[Call], Answer]]] = {
    "term/change/can": can_change,
    "term/change/do": change_term,
    "term/change/cancel": cancel_change,
    "term/change/getSubscriptionUpgradeStatus": upgrade_status,
    "term/change/option/create": create_option,
}
"""Endpoints by their path."""


def _settings(params: Params) -> Settings:
    """Read the settings of a change, all of which must be there."""
    timing = params.choice("billing_timing", TIMINGS, "") or params.required("billing_timing")
    for name in ("immediate_access", "prorate_access"):
        params.required(name)
    return {
        "billing_timing": timing,
        "immediate_access": params.boolean("immediate_access"),
        "prorate_access": params.boolean("prorate_access"),
    }


def _of_user(call: Call, name: str) -> Entry:
    """Give the subscription a parameter names, which must be the user's that `uid` names."""
    uid = call.params.required("uid")
    entry = known(call, name, action=True)
    if call.application.world.person(entry.reader).uid != uid:
        raise ApiError(2)
    return entry


def _status_shape(entry: Entry, pending: actions.PendingChange) -> dict[str, Any]:
    """Write a `SubscriptionUpgradeStatus`, whose dates are ISO texts (sheet, 1.7).

    A change that waits comes at the end of a period, so nothing is left of the old term to take off the new price.
    """
    one, other = entry.fate.term, TERM_BY_ID[pending.to_term]
    return present(
        {
            "from_term_name": one.name,
            "to_term_name": other.name,
            "from_term_id": one.term_id,
            "to_term_id": other.term_id,
            "change_date": iso(pending.at),
            "create_date_from": iso(entry.fate.create),
            "create_date_to": iso(pending.asked_at),
            "billing_plan_to": other.plan,
            "billing_plan_from": one.plan,
            "status": PENDING,
            "prorate_amount": f"{other.price / 100:.2f}",
            "cancellable": True,
        }
    )

"""Endpoints of the Publisher API about readers: subscriptions, changes of term, users and conversions.

Which filter means what is the reference sheet of Piano, 3.3 to 3.6; what is not documented is said at each place.
"""

from __future__ import annotations

from operator import attrgetter
from random import Random
from typing import TYPE_CHECKING, Any, Final

from piano_engage_sandbox import actions
from piano_engage_sandbox.catalogue import TERM_TYPES
from piano_engage_sandbox.piano import conversion_api, term_change_api, user_api
from piano_engage_sandbox.piano.envelope import Answer, ordered, paged
from piano_engage_sandbox.piano.refusals import acted, known
from piano_engage_sandbox.piano.shapes import term_type
from piano_engage_sandbox.piano.subscription_shapes import (
    STATUSES,
    View,
    list_item,
    log_item,
    stats_item,
    subscription,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from piano_engage_sandbox.piano.envelope import Call, Params
    from piano_engage_sandbox.states import State
    from piano_engage_sandbox.world import Entry

    Test = Callable[[Entry], bool]

SELECT_BY: Final[dict[str, Callable[[State], int | None]]] = {
    "update": attrgetter("modified"),
    "create": attrgetter("fate.create"),
    "next_bill": attrgetter("next_billing"),
    "last_bill": attrgetter("last_billing"),
}
"""What the date range of subscription/list is about; `update` when it does not say (sheet, 3.3)."""
WORDS: Final = {status.filter: word for word, status in STATUSES.items() if status.filter}
"""Words of the log by the words that filters use."""
CODES: Final = {status.code: word for word, status in STATUSES.items()}
RENEWED: Final = "renewed"
ACTIVE_NOW: Final = ("active", "failedAndRetry")
INACTIVE: Final = ("cancelled", "paymentFailure", "expired", "completed", "upgraded")
ORDER_BY: Final[dict[str, Callable[[Entry], Any]]] = {
    "start_date": attrgetter("fate.start"),
    "next_bill_date": attrgetter("state.next_billing"),
    "subscription_status": attrgetter("state.status"),
}


def list_subscriptions(call: Call) -> Answer:
    """subscription/list: by user, status, date, text; in the order of the switch `publisher.subscription_order`."""
    params, world = call.params, call.application.world
    entries: Sequence[Entry] = world.of_user(params.text("uid")) if "uid" in params else list(world.entries.values())
    return _page(call, _in_order(call, _matching(entries, _list_tests(call))), "subscriptions", list_item)


def get_subscription(call: Call) -> Answer:
    """subscription/get: 8005 for an id nobody knows."""
    return Answer("subscription", subscription(View(call, known(call))))


def search_subscriptions(call: Call) -> Answer:
    """subscription/search: each filter that is switched on must hold; that they add up is our guess."""
    entries = _matching(call.application.world.entries.values(), _search_tests(call))
    return _page(call, ordered(entries, call, ORDER_BY), "subscriptionLogItems", log_item)


def count_subscriptions(call: Call) -> Answer:
    """subscription/count: only the active ones count (sheet, 3.3)."""
    return Answer("data", sum(entry.state.status == "Active" for entry in call.application.world.entries.values()))


def subscription_stats(call: Call) -> Answer:
    """subscription/stats: one user's; its data key is our guess (sheet, 6, question 11)."""
    return _page(call, call.application.world.of_user(call.params.required("uid")), "subscriptions", stats_item)


def resume_subscription(call: Call) -> Answer:
    """subscription/resume: takes a deferred cancellation back."""
    entry = known(call, action=True)
    return acted(call, "resume", lambda: actions.resume(call.application.world, entry))


def cancel_subscription(call: Call) -> Answer:
    """subscription/cancel: ends the subscription and its access now, perhaps with the last payment given back."""
    entry, refund = known(call, action=True), call.params.boolean("refund_last_payment")
    return acted(call, "cancel", lambda: actions.cancel(call.application.world, entry, refund=refund))


def cancel_deferred(call: Call) -> Answer:
    """subscription/cancel/deferred: ends the subscription with its running period."""
    entry = known(call, action=True)
    return acted(call, "cancel_deferred", lambda: actions.cancel_deferred(call.application.world, entry))


def update_subscription(call: Call) -> Answer:
    """subscription/update: next bill date, auto-renew, means of payment.

    `user_address_id` and `scheduled_access_period_id` are taken and change nothing here.
    """
    params = call.params
    entry = known(call, action=True)
    return acted(
        call,
        "update",
        lambda: actions.update(
            call.application.world,
            entry,
            next_bill_date=params.integer("next_bill_date") if "next_bill_date" in params else None,
            auto_renew=params.boolean("auto_renew") if "auto_renew" in params else None,
            payment_method=params.text("payment_method_id") or None,
        ),
    )


def is_partially_refundable(call: Call) -> Answer:
    """subscription/isPartiallyRefundable: whether a last payment is there to give back; the rule is our guess."""
    return Answer("data", actions.guards(known(call)).cancelable_and_refundable)


ENDPOINTS: Final[dict[str, Callable[[Call], Answer]]] = {
    "subscription/list": list_subscriptions,
    "subscription/get": get_subscription,
    "subscription/search": search_subscriptions,
    "subscription/count": count_subscriptions,
    "subscription/stats": subscription_stats,
    "subscription/resume": resume_subscription,
    "subscription/cancel": cancel_subscription,
    "subscription/cancel/deferred": cancel_deferred,
    "subscription/update": update_subscription,
    "subscription/isPartiallyRefundable": is_partially_refundable,
    **term_change_api.ENDPOINTS,
    **user_api.ENDPOINTS,
    **conversion_api.ENDPOINTS,
}
"""Endpoints by their path."""


def _page(call: Call, entries: Sequence[Entry], key: str, shape: Callable[[View], Any]) -> Answer:
    return paged(call, entries, key=key, shape=lambda entry: shape(View(call, entry)))


def _matching(entries: Iterable[Entry], tests: Sequence[Test]) -> list[Entry]:
    return [entry for entry in entries if all(test(entry) for test in tests)] if tests else list(entries)


def _in_order(call: Call, entries: list[Entry]) -> list[Entry]:
    order = call.sandbox.switches.publisher.subscription_order
    if order == "updated":
        entries.sort(key=attrgetter("state.modified"))
    elif order == "unstable":
        Random().shuffle(entries)
    return entries


def _list_tests(call: Call) -> list[Test]:
    params = call.params
    tests: list[Test] = []
    if code := params.choice("type", CODES):
        tests.append(lambda entry: entry.state.status == CODES[code])
    if word := params.choice("status", (*WORDS, RENEWED)):
        tests.append(_has_status((word,)))
    by = SELECT_BY[params.choice("select_by", SELECT_BY, "update")]
    if within := _range(params, "start_date", "end_date", by):
        tests.append(within)
    if text := params.text("q"):
        tests.append(_mentions(call, text))
    return tests


def _search_tests(call: Call) -> list[Test]:
    params = call.params
    tests = [test for switch, make in _SEARCHES.items() if params.boolean(switch) for test in make(params)]
    if text := params.text("q"):
        tests.append(_mentions(call, text))
    return tests


def _new(params: Params) -> Iterable[Test]:
    yield from _ranged(params, "new_subscriptions_created_from", "new_subscriptions_created_to", SELECT_BY["create"])


def _active_now(params: Params) -> Iterable[Test]:
    yield _has_status(params.many("active_now_subscriptions_statuses", ACTIVE_NOW) or ACTIVE_NOW)


def _inactive(params: Params) -> Iterable[Test]:
    yield _has_status(params.many("inactive_subscriptions_statuses", INACTIVE) or INACTIVE)
    yield from _ranged(params, "subscriptions_inactive_from", "subscriptions_inactive_to", attrgetter("end"))


def _updated(params: Params) -> Iterable[Test]:
    yield _has_status(params.many("updated_subscriptions_statuses", (RENEWED,)) or (RENEWED,))
    yield from _ranged(params, "subscriptions_updated_from", "subscriptions_updated_to", SELECT_BY["last_bill"])


def _auto_renewing(params: Params) -> Iterable[Test]:
    wanted = params.boolean("subscriptions_auto_renewing")
    yield lambda entry: entry.state.auto_renew == wanted


def _by_next_bill(params: Params) -> Iterable[Test]:
    first, last = "subscriptions_next_billing_date_from", "subscriptions_next_billing_date_to"
    yield from _ranged(params, first, last, SELECT_BY["next_bill"])


def _by_term(params: Params) -> Iterable[Test]:
    terms, types = params.many("subscriptions_terms"), params.many("subscriptions_term_types", _TYPES)
    if terms:
        yield lambda entry: entry.fate.term.term_id in terms
    if types:
        yield lambda entry: term_type(entry.fate.term) in types


_TYPES: Final = tuple(value for value, _ in TERM_TYPES.values())
_SEARCHES: Final[dict[str, Callable[[Params], Iterable[Test]]]] = {
    "search_new_subscriptions": _new,
    "search_active_now_subscriptions": _active_now,
    "search_inactive_subscriptions": _inactive,
    "search_updated_subscriptions": _updated,
    "search_auto_renewing_subscriptions": _auto_renewing,
    "search_subscriptions_by_next_billing_date": _by_next_bill,
    "search_subscriptions_by_terms": _by_term,
}
"""Filters of subscription/search by the boolean that switches each on (sheet, 3.5)."""


def _has_status(words: Sequence[str]) -> Test:
    """Test for some of the eight words; a subscription is `renewed` once it was charged again."""
    statuses = {WORDS[word] for word in words if word != RENEWED}
    renewed = RENEWED in words
    return lambda entry: entry.state.status in statuses or (renewed and entry.state.paid_periods > 1)


def _range(params: Params, first: str, last: str, moment: Callable[[State], int | None]) -> Test | None:
    """Test a moment against a range of epoch seconds, both ends included; no moment is in no range."""
    if first not in params and last not in params:
        return None
    begin, end = params.integer(first), params.integer(last, 1 << 60)

    def test(entry: Entry) -> bool:
        at = moment(entry.state)
        return at is not None and begin <= at <= end

    return test


def _ranged(params: Params, first: str, last: str, moment: Callable[[State], int | None]) -> Iterable[Test]:
    test = _range(params, first, last, moment)
    return [test] if test else []


def _mentions(call: Call, text: str) -> Test:
    """Test whether id, user, name or address has a text in it, in any case; where `q` looks is our guess."""
    wanted, world = text.casefold(), call.application.world

    def test(entry: Entry) -> bool:
        who = world.person(entry.reader)
        return any(wanted in part.casefold() for part in (entry.id, who.uid, who.email, f"{who.first} {who.last}"))

    return test

"""Withdraw a change of term that waits for its day (fact sheet of Piano, 3.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from piano_engage_common.stops import RunStopped
from tap_piano.answers import PianoRefused, Unanswered

from piano_actions.outcome import Outcome, Status
from piano_actions.subscriptions import Subscription, is_known, named, of_reader, read
from piano_actions.upgrade import CANCEL, NO_OPTION, PENDING, SUSPENDED, status_of
from piano_actions.words import outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from tap_piano.client import PianoClient


def cancel(
    piano: PianoClient,
    user_id: str,
    subscription_id: str | None = None,
    *,
    before: Callable[[Subscription], None] = lambda _one: None,
    dry_run: bool = False,
) -> Outcome:
    """Withdraw the change of term that waits.

    Args:
        piano: the Publisher API.
        user_id: the reader.
        subscription_id: of which subscription; None for the one with a change that waits.
        before: called with the subscription before Piano is asked.
        dry_run: change nothing.

    Raises:
        Outage, AccessRefused: Piano could not be asked; nothing was changed.
    """
    ones = _candidates(piano, user_id, subscription_id)
    if isinstance(ones, Outcome):
        return ones
    waiting = [(one, found) for one in ones if (found := _waiting(piano, user_id, one.id))]
    if not waiting:
        return outcome(CANCEL, Status.REFUSED, "no_change_pending")
    if len(waiting) > 1:
        ids = sorted(one.id for one, _ in waiting)
        return outcome(CANCEL, Status.REFUSED, "ambiguous_change", subscription_ids=ids)
    ((one, found),) = waiting
    details = {"subscription_id": one.id, "term_id": found.get("to_term_id"), "term_name": found.get("to_term_name")}
    if found.get("cancellable") is False:
        return outcome(CANCEL, Status.REFUSED, "not_cancellable", **details)
    if dry_run:
        return outcome(CANCEL, Status.WOULD, "would_withdraw", **details)
    before(one)
    return _do(piano, user_id, details)


def after_all(found: Outcome) -> Outcome:
    """Say of a withdrawal that is taken up again that it is done, where nothing waits: the earlier attempt did it."""
    if found.reason != "no_change_pending":
        return found
    return outcome(CANCEL, Status.DONE, "change_withdrawn", **found.details)


def _candidates(piano: PianoClient, user_id: str, subscription_id: str | None) -> list[Subscription] | Outcome:
    if subscription_id is None:
        ones = [Subscription(item, 0) for item in of_reader(piano, user_id)]
        if not ones and not is_known(piano, user_id):
            return outcome(CANCEL, Status.REFUSED, "unknown_user")
        return [one for one in ones if not one.ended]
    one = named(piano, CANCEL, user_id, subscription_id)
    return one if isinstance(one, Outcome) else [one]


def _waiting(piano: PianoClient, user_id: str, subscription_id: str) -> dict[str, Any] | None:
    found = status_of(piano, user_id, subscription_id)
    return found if found and found.get("status") in {PENDING, SUSPENDED} else None


def _do(piano: PianoClient, user_id: str, details: dict[str, Any]) -> Outcome:
    code, sure, subscription_id = None, True, str(details["subscription_id"])
    try:
        piano.write("term/change/cancel", subscription_from=subscription_id)
    except PianoRefused as e:
        code = e.code
    except Unanswered:
        sure = False
    try:
        still = _waiting(piano, user_id, subscription_id)
        old = read(piano, subscription_id)
    except RunStopped:
        return outcome(CANCEL, Status.UNKNOWN, "unanswered", **details)
    if still is None and old is not None and not old.ended:
        return outcome(CANCEL, Status.DONE, "change_withdrawn", **details)
    if still is None:
        return outcome(CANCEL, Status.REFUSED, "change_made", **details)
    if not sure:
        return outcome(CANCEL, Status.UNKNOWN, "unanswered", **details)
    reason = "cannot_withdraw" if code == NO_OPTION else "piano_refused"
    return outcome(CANCEL, Status.REFUSED, reason, code=code, **details)

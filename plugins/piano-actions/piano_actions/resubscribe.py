"""Resubscribe: take a pending cancellation back, so that a live subscription renews by itself again.

A dynamic subscription is resumed; of another one auto-renew is put on (fact sheet of Piano, 3.4). An ended one cannot
be brought back: Piano has no such call. What Piano says to a write is believed only once it was read back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from piano_engage_common.stops import RunStopped
from tap_piano.answers import PianoRefused, Unanswered

from piano_actions.outcome import Outcome, Status
from piano_actions.subscriptions import Subscription, is_known, named, of_reader, read
from piano_actions.words import outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from tap_piano.client import PianoClient

ACTION: Final = "resubscribe"
RESUME: Final = "subscription/resume"
SWITCH_ON: Final = "subscription/update"


@dataclass(frozen=True, slots=True)
class Wish:
    """Whose subscription is to go on.

    Attributes:
        user_id: the reader.
        subscription_id: which one; None to look for it.
    """

    user_id: str
    subscription_id: str | None = None


def resubscribe(
    piano: PianoClient,
    wish: Wish,
    *,
    choose: Callable[[list[Subscription]], str | None] | None = None,
    before: Callable[[Subscription], None] = lambda _one: None,
    dry_run: bool = False,
) -> Outcome:
    """Have a reader's subscription renew by itself again.

    Args:
        piano: the Publisher API.
        wish: whose, and which.
        choose: picks one of several that could be meant, by its id; without it several are refused.
        before: called with the subscription before anything is asked of Piano that changes it.
        dry_run: change nothing.

    Returns:
        What became of it. ``unknown`` only when Piano neither answered nor could be read back.

    Raises:
        Outage: Piano could not be asked; nothing was changed.
        AccessRefused: the token may not do this; nothing was changed.
    """
    name = wish.subscription_id
    found = named(piano, ACTION, wish.user_id, name) if name else _found(piano, wish, choose)
    if isinstance(found, Outcome):
        return found
    if verdict := judge(found):
        return verdict
    if dry_run:
        return outcome(ACTION, Status.WOULD, "would_resume", **_details(found))
    before(found)
    return _do(piano, found)


def judge(one: Subscription) -> Outcome | None:
    """Say why there is nothing to do for a subscription, or why it cannot be done; None where it can."""
    if one.ended:
        return outcome(ACTION, Status.REFUSED, "ended", **_details(one))
    if one.auto_renew:
        return outcome(ACTION, Status.ALREADY, "auto_renew_on", **_details(one))
    if one.can_be_resumed or one.can_be_switched_on:
        return None
    return outcome(ACTION, Status.REFUSED, "not_resumable", **_details(one))


def _found(
    piano: PianoClient, wish: Wish, choose: Callable[[list[Subscription]], str | None] | None
) -> Subscription | Outcome:
    """Look for the one subscription that can be resumed; where there is none, say what is there instead."""
    items = of_reader(piano, wish.user_id)
    if not items:
        reason = "nothing_to_resume" if is_known(piano, wish.user_id) else "unknown_user"
        return outcome(ACTION, Status.REFUSED, reason)
    stopping = [one for one in (Subscription(item, 0) for item in items) if not one.ended and not one.auto_renew]
    read_back = [one for one in (read(piano, one.id) for one in stopping) if one is not None]
    candidates = [one for one in read_back if judge(one) is None]
    if len(candidates) > 1:
        chosen = choose(candidates) if choose else None
        if chosen is None:
            ids = sorted(one.id for one in candidates)
            return outcome(ACTION, Status.REFUSED, "ambiguous", subscription_ids=ids)
        candidates = [one for one in candidates if one.id == chosen]
    if candidates:
        return candidates[0]
    renewing = [one for one in (Subscription(item, 0) for item in items) if not one.ended and one.auto_renew]
    if renewing:
        return outcome(ACTION, Status.ALREADY, "auto_renew_on", **_details(renewing[0]))
    return outcome(ACTION, Status.REFUSED, "nothing_to_resume")


def _do(piano: PianoClient, one: Subscription) -> Outcome:
    """Ask Piano for it, and look what became of it, whatever Piano said."""
    code, sure = None, True
    try:
        if one.can_be_resumed:
            page = piano.write(RESUME, subscription_id=one.id)
        else:
            page = piano.write(SWITCH_ON, subscription_id=one.id, auto_renew=True)
        sure = page.data is not True  # a yes that cannot be seen yet is no refusal
    except PianoRefused as e:
        code = e.code
    except Unanswered:
        sure = False
    return settled(piano, one, code=code, sure=sure)


def settled(piano: PianoClient, before: Subscription, *, code: int | None = None, sure: bool = True) -> Outcome:
    """Read a subscription back, and say what became of the wish.

    Args:
        piano: the Publisher API.
        before: as it was.
        code: with which Piano refused.
        sure: Piano said no; else what is not done yet may still be done.
    """
    try:
        after = read(piano, before.id)
    except RunStopped:
        if code is not None:
            return outcome(ACTION, Status.REFUSED, "piano_refused", code=code, **_details(before))
        return outcome(ACTION, Status.UNKNOWN, "unanswered", **_details(before))
    if after is not None and after.auto_renew and not after.ended:
        return outcome(ACTION, Status.DONE, "resumed", **_details(after))
    if sure:
        return outcome(ACTION, Status.REFUSED, "piano_refused", code=code, **_details(after or before))
    return outcome(ACTION, Status.UNKNOWN, "unanswered", **_details(after or before))


def after_all(found: Outcome) -> Outcome:
    """Say of an action that is taken up again that it is done, where it is so already: the earlier attempt did it."""
    if found.status is not Status.ALREADY:
        return found
    return outcome(ACTION, Status.DONE, "resumed", **found.details)


def _details(one: Subscription) -> dict[str, str | None]:
    return {
        "subscription_id": one.id,
        "term_id": one.term.get("term_id"),
        "term_name": one.term.get("name"),
        "next_billing_date": one.next_billing_date,
    }

"""Upgrade: from one term to another by a change option that the publisher has set up. A downgrade is the same thing.

Piano takes a change on at once and may make it later; there is a status while it waits, and none once it is done, so
what tells that it is done is the old subscription: it says that it was replaced (fact sheet of Piano, 3.6).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import RunStopped
from tap_piano.answers import NotFound, PianoRefused, Unanswered
from target_recurly_engage.statuses import Meaning

from piano_actions import terms
from piano_actions.outcome import Outcome, Status
from piano_actions.subscriptions import Subscription, is_known, named, of_reader, read
from piano_actions.words import outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from tap_piano.client import PianoClient

    from piano_actions.terms import Option

ACTION: Final = "upgrade"
CANCEL: Final = "upgrade_cancel"
NO_OPTION: Final = 1012
PENDING, SUSPENDED = 0, 3
PROCESSING: Final = "processing"
POLL_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Wish:
    """Whose term is to change, and to which.

    Attributes:
        user_id: the reader.
        to_term: id or name of the term, or id of the option.
        from_term: id or name of the term to leave; None for any from which an option leads there.
        subscription_id: which subscription; None to look for it.
        option_id: by which option, of several that lead there; None for the only one.
        taken_on: Piano has said yes before, so it is only looked what became of it.
    """

    user_id: str
    to_term: str
    from_term: str | None = None
    subscription_id: str | None = None
    option_id: str | None = None
    taken_on: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """The subscription that is left, and the option by which."""

    one: Subscription
    option: Option


def upgrade(
    piano: PianoClient,
    wish: Wish,
    *,
    choose: Callable[[list[Subscription]], str | None] | None = None,
    before: Callable[[Way], None] = lambda _way: None,
    heard: Callable[[Way], None] = lambda _way: None,
    dry_run: bool = False,
    wait: float = 0.0,
) -> Outcome:
    """Change a reader's term.

    Args:
        piano: the Publisher API.
        wish: whose, and to which.
        choose: picks one of several subscriptions that could be meant, by its id; without it several are refused.
        before: called with subscription and option before anything is asked of Piano that changes something.
        heard: called with the same once Piano has said yes.
        dry_run: change nothing.
        wait: seconds to wait for a change that is to be made at once; after that it is told as pending.

    Returns:
        What became of it; ``pending`` when Piano took it on, and makes it later.

    Raises:
        Outage: Piano could not be asked; nothing was changed.
        AccessRefused: the token may not do this; nothing was changed.
    """
    name = wish.subscription_id
    way = _given(piano, wish, name) if name else _found(piano, wish, choose)
    if isinstance(way, Outcome):
        return way
    if wish.taken_on:
        return settled(piano, way, wait=wait)
    earlier = status_of(piano, way.one.user_id, way.one.id)
    if waiting := _waiting(way, earlier):
        return waiting
    if not _can(piano, way.one.id):
        return _no(way, "cannot_change")
    if dry_run:
        return outcome(ACTION, Status.WOULD, "would_change", **_details(way), seen=way.option.seen)
    before(way)
    return _do(piano, way, earlier, heard, wait)


# Which subscription, by which option


def _given(piano: PianoClient, wish: Wish, subscription_id: str) -> Way | Outcome:
    one = named(piano, ACTION, wish.user_id, subscription_id)
    if isinstance(one, Outcome):
        return one
    options = terms.matching(terms.options_from(piano, str(one.term.get("term_id"))), wish.to_term)
    options = [option for option in options if wish.option_id in {None, option.id}]
    if one.ended or terms.is_called(one.term, wish.to_term):
        there = _on(piano, wish)
        return there or outcome(ACTION, Status.REFUSED, "ended", subscription_id=one.id)
    if wish.from_term and not terms.is_called(one.term, wish.from_term):
        return outcome(ACTION, Status.REFUSED, "other_term", subscription_id=one.id, term_name=one.term.get("name"))
    return _one_option(piano, wish, one, options)


def _one_option(piano: PianoClient, wish: Wish, one: Subscription, options: list[Option]) -> Way | Outcome:
    if len(options) == 1:
        return Way(one, options[0])
    if options:
        ids = [option.id for option in options]
        return outcome(ACTION, Status.REFUSED, "several_options", subscription_id=one.id, option_ids=ids)
    reason = "not_configured" if terms.is_known(piano, wish.to_term) else "unknown_term"
    return outcome(ACTION, Status.REFUSED, reason, subscription_id=one.id)


def _found(piano: PianoClient, wish: Wish, choose: Callable[[list[Subscription]], str | None] | None) -> Way | Outcome:
    """Look for the one live subscription from which an option leads there."""
    items = of_reader(piano, wish.user_id)
    if not items:
        known = is_known(piano, wish.user_id)
        return outcome(ACTION, Status.REFUSED, "nothing_to_change" if known else "unknown_user")
    live = [one for one in (Subscription(item, piano.clock or 0) for item in items) if not one.ended]
    if there := _among(live, wish):  # by another subscription maybe: he shall not pay for the same twice unasked
        return there
    leaving = [one for one in live if wish.from_term is None or terms.is_called(one.term, wish.from_term)]
    by_term = {str(one.term.get("term_id")): one.term for one in leaving}
    options = {term_id: terms.matching(terms.options_from(piano, term_id), wish.to_term) for term_id in by_term}
    candidates = [one for one in leaving if options[str(one.term.get("term_id"))]]
    if not candidates:
        if not leaving:
            return outcome(ACTION, Status.REFUSED, "nothing_to_change")
        return _one_option(piano, wish, leaving[0], [])
    if len(candidates) > 1:
        chosen = choose(candidates) if choose else None
        if chosen is None:
            ids = sorted(one.id for one in candidates)
            return outcome(ACTION, Status.REFUSED, "ambiguous_change", subscription_ids=ids)
        candidates = [one for one in candidates if one.id == chosen]
    return _one_option(piano, wish, candidates[0], options[str(candidates[0].term.get("term_id"))])


def _on(piano: PianoClient, wish: Wish) -> Outcome | None:
    """Say that the reader is on the term already, if he is."""
    live = (Subscription(item, 0) for item in of_reader(piano, wish.user_id))
    return _among([one for one in live if not one.ended], wish)


def _among(live: list[Subscription], wish: Wish) -> Outcome | None:
    there = next((one for one in live if _reached(one, wish.to_term)), None)
    if there is None:
        return None
    return outcome(ACTION, Status.ALREADY, "on_term", **_where(there))


def _reached(one: Subscription, word: str) -> bool:
    return terms.is_called(one.term, word)


# Asking, and looking what became of it


def _can(piano: PianoClient, subscription_id: str) -> bool:
    """Whether Piano would change the term of a subscription now; it says no by a code as well, such as 1012."""
    try:
        return piano.ask("term/change/can", subscription_id=subscription_id).data is True
    except PianoRefused:
        return False


def status_of(piano: PianoClient, user_id: str, subscription_id: str) -> dict[str, Any] | None:
    """Ask for the change that waits; None where there is none, which Piano says in one of three ways."""
    try:
        page = piano.ask("term/change/getSubscriptionUpgradeStatus", uid=user_id, subscription_id=subscription_id)
    except NotFound:
        return None
    except PianoRefused as e:
        if e.code == NO_OPTION:
            return None
        raise
    return page.data if isinstance(page.data, dict) and page.data else None


def _waiting(way: Way, found: dict[str, Any] | None) -> Outcome | None:
    """Say of a change that waits already whether it is the one that is wished for."""
    if found is None or found.get("status") not in {PENDING, SUSPENDED}:
        return None
    if found.get("to_term_id") != way.option.to_term_id:
        return outcome(
            ACTION, Status.REFUSED, "other_change_pending", subscription_id=way.one.id,
            pending_term_id=found.get("to_term_id"),
        )  # fmt: skip
    return _pending(way, found)


def _do(
    piano: PianoClient, way: Way, earlier: dict[str, Any] | None, heard: Callable[[Way], None], wait: float
) -> Outcome:
    code, refused, sure = None, False, True
    try:
        page = piano.write("term/change/do", uid=way.one.user_id, subscription_from=way.one.id, **way.option.form())
        refused = page.data is False
    except PianoRefused as e:
        code, refused = e.code, True
    except Unanswered:
        sure = False
    if sure and not refused:
        heard(way)
    return settled(piano, way, code=code, refused=refused, sure=sure, earlier=earlier, wait=wait)


def settled(
    piano: PianoClient,
    way: Way,
    *,
    code: int | None = None,
    refused: bool = False,
    sure: bool = True,
    earlier: dict[str, Any] | None = None,
    wait: float = 0.0,
) -> Outcome:
    """Look what became of a change, for as long as it may take.

    Args:
        piano: the Publisher API.
        way: the change.
        code: with which Piano refused.
        refused: Piano said no.
        sure: Piano answered.
        earlier: the status that was there before, of a change that failed or was withdrawn then.
        wait: seconds to go on looking.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            found = _look(piano, way, earlier)
        except RunStopped:
            if refused:
                return _no(way, "piano_refused", code=code)
            return outcome(ACTION, Status.UNKNOWN, "unanswered", **_details(way))
        if found is not None:
            return found
        if refused:
            return _no(way, "cannot_change" if code == NO_OPTION else "piano_refused", code=code)
        if time.monotonic() >= deadline:
            break
        time.sleep(min(POLL_SECONDS, wait / 4))
    if sure:
        return outcome(ACTION, Status.PENDING, PROCESSING, **_details(way))
    return outcome(ACTION, Status.UNKNOWN, "unanswered", **_details(way))


def _look(piano: PianoClient, way: Way, earlier: dict[str, Any] | None) -> Outcome | None:
    """Say what can be seen of a change; None while nothing can."""
    old = read(piano, way.one.id)
    if old is not None and old.meaning is Meaning.REPLACED:
        live = [one for one in (Subscription(item, 0) for item in of_reader(piano, way.one.user_id)) if not one.ended]
        new = next((one for one in live if one.term.get("term_id") == way.option.to_term_id), None)
        there = _where(new) if new else {}
        return outcome(ACTION, Status.DONE, "changed", **{**_details(way), **there}, from_subscription_id=way.one.id)
    found = status_of(piano, way.one.user_id, way.one.id)
    if found in (None, earlier) or found.get("to_term_id") != way.option.to_term_id:
        return None
    if found.get("status") in {PENDING, SUSPENDED}:
        return _pending(way, found)
    return _no(way, "change_failed", piano_status=found.get("status"))


def after_all(found: Outcome) -> Outcome:
    """Say of a change that is taken up again that it is done, where it is so already: the earlier attempt did it."""
    if found.status is not Status.ALREADY:
        return found
    return outcome(ACTION, Status.DONE, "changed", **found.details)


def _pending(way: Way, found: dict[str, Any]) -> Outcome:
    reason = "change_suspended" if found.get("status") == SUSPENDED else "change_pending"
    return outcome(ACTION, Status.PENDING, reason, **_details(way), change_date=found.get("change_date"))


def _no(way: Way, reason: str, **details: Any) -> Outcome:  # noqa: ANN401 - JSON
    return outcome(ACTION, Status.REFUSED, reason, **_details(way), **details)


def _details(way: Way) -> dict[str, Any]:
    return {
        "subscription_id": way.one.id,
        "term_id": way.option.to_term_id,
        "term_name": way.option.to_term_name,
        "option_id": way.option.id,
    }


def _where(one: Subscription) -> dict[str, Any]:
    return {
        "subscription_id": one.id,
        "term_id": one.term.get("term_id"),
        "term_name": one.term.get("name"),
        "next_billing_date": one.next_billing_date,
    }

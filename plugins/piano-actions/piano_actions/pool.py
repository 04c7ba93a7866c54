"""One code of a pool for each reader, once.

Piano can reserve no code, so the reservation stands in our store, where a promotion has one code a reader, and a code
one reader. A code that has to be made is made of the reader's hash: made twice, it is the same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piano_engage_common.stops import RunStopped
from tap_piano.answers import PianoRefused, Unanswered

from piano_actions.outcome import Outcome, Status
from piano_actions.words import outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tap_piano.client import PianoClient

    from piano_actions.promotions import Promotion
    from piano_actions.store import Store

ACTION: Final = "promo_code"
ACTIVE: Final = "active"
LIMIT_REACHED: Final = 3005
LETTERS: Final = 10


def reserve(
    piano: PianoClient,
    store: Store,
    user_id: str,
    promotion: Promotion,
    *,
    make: bool = False,
    before: Callable[[str], None] = lambda _code: None,
    dry_run: bool = False,
) -> Outcome:
    """Give a reader his code of a promotion.

    Args:
        piano: the Publisher API.
        store: knows who has which code.
        user_id: the reader.
        promotion: which; with a code for all, that one is given.
        make: make a code where the pool has none left.
        before: called with a code before it is made.
        dry_run: reserve and make nothing.
    """
    details = {"promotion_id": promotion.id, "promotion_name": promotion.name}
    if promotion.code:
        return outcome(ACTION, Status.DONE, "code_for_all", **details, code=promotion.code)
    if had := store.code_of(promotion.id, user_id):
        return _had(piano, promotion, had, details)
    if dry_run:
        return _would(piano, store, user_id, promotion, make=make)
    for code in _free(piano, store, promotion):
        if got := store.reserve(promotion.id, user_id, code):
            return outcome(ACTION, Status.DONE, "code_reserved", **details, code=got)
    own = _own(store, user_id, promotion) if make else None
    if own is None:
        return outcome(ACTION, Status.REFUSED, "no_code_left", **details)
    before(own)
    return _make(piano, store, user_id, promotion, own)


def _would(piano: PianoClient, store: Store, user_id: str, promotion: Promotion, *, make: bool) -> Outcome:
    """Say which code would be reserved."""
    details = {"promotion_id": promotion.id, "promotion_name": promotion.name}
    code = next(_free(piano, store, promotion), None) or (_own(store, user_id, promotion) if make else None)
    if code is None:
        return outcome(ACTION, Status.REFUSED, "no_code_left", **details)
    return outcome(ACTION, Status.WOULD, "would_reserve", **details, code=code)


def _had(piano: PianoClient, promotion: Promotion, code: str, details: dict[str, str]) -> Outcome:
    """Say of a code that a reader has whether it is still good."""
    state = _state(piano, promotion, code)
    if state not in {ACTIVE, None}:
        return outcome(ACTION, Status.REFUSED, "code_used", **details, code=code, state=state)
    return outcome(ACTION, Status.ALREADY, "code_reserved", **details, code=code)


def _free(piano: PianoClient, store: Store, promotion: Promotion) -> Iterator[str]:
    """Give the codes of a pool that nobody has, page by page."""
    for page in piano.pages("promotion/code/list", "promo_code_id", promotion_id=promotion.id, state=ACTIVE):
        yield from store.free_codes(promotion.id, [str(one["code"]) for one in page])


def _own(store: Store, user_id: str, promotion: Promotion) -> str | None:
    """Make up the code of a reader; None for a promotion that has no pool."""
    if not promotion.prefix:
        return None
    return f"{promotion.prefix}{store.hash_of(f'{promotion.id} {user_id}')[:LETTERS].upper()}"


def _state(piano: PianoClient, promotion: Promotion, code: str) -> str | None:
    """Ask for the state of a code; None where Piano has no such code."""
    pages = piano.pages("promotion/code/list", "promo_code_id", promotion_id=promotion.id, q=code)
    return next((str(one.get("state_value")) for page in pages for one in page if one.get("code") == code), None)


def _make(piano: PianoClient, store: Store, user_id: str, promotion: Promotion, code: str) -> Outcome:
    """Make a code, and look whether it is there; a GET that changes something, so never twice without looking."""
    details = {"promotion_id": promotion.id, "promotion_name": promotion.name}
    refused, sure = None, True
    try:
        if _state(piano, promotion, code) is None:
            piano.write("promotion/code/create", by_get=True, promotion_id=promotion.id, code=code)
    except PianoRefused as e:
        refused = e.code
    except Unanswered:
        sure = False
    try:
        state = _state(piano, promotion, code)
    except RunStopped:
        return outcome(ACTION, Status.UNKNOWN, "unanswered", **details)
    if state == ACTIVE:
        got = store.reserve(promotion.id, user_id, code) or code
        return outcome(ACTION, Status.DONE, "code_reserved", **details, code=got)
    if not sure:
        return outcome(ACTION, Status.UNKNOWN, "unanswered", **details)
    reason = "no_code_left" if refused == LIMIT_REACHED else "piano_refused"
    return outcome(ACTION, Status.REFUSED, reason, **details, code=refused)

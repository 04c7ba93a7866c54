"""Subscriptions as the Publisher API gives them: whose they are, and what may be done to them.

Guard fields are those of `subscription/get` (fact sheet of Piano, 3.3 and 3.4); an absent one reads as false.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tap_piano.answers import NotFound
from target_recurly_engage.statuses import WORDS, Meaning

from piano_actions.outcome import Outcome, Status
from piano_actions.words import outcome

if TYPE_CHECKING:
    from tap_piano.client import PianoClient

_MEANINGS: Final = {spelling: word.meaning for word in WORDS for spelling in word.spellings}
_ENDED: Final = frozenset({Meaning.ENDED, Meaning.REPLACED, Meaning.AWAITED, Meaning.APART})
UNKNOWN_USER: Final = 2004


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription.

    Attributes:
        item: as Piano wrote it.
        read_at: Piano's clock then, in epoch seconds.
    """

    item: dict[str, Any]
    read_at: int

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.item["subscription_id"])

    @property
    def user_id(self) -> str:
        """Whose it is; empty where Piano does not say."""
        return str((self.item.get("user") or {}).get("uid") or "")

    @property
    def aid(self) -> str:
        """The application of its term; empty where Piano does not say."""
        return str(self.term.get("aid") or "")

    @property
    def term(self) -> dict[str, Any]:
        """Its term."""
        term = self.item.get("term")
        return term if isinstance(term, dict) else {}

    @property
    def auto_renew(self) -> bool:
        """Whether it renews by itself."""
        return self.item.get("auto_renew") is True

    @property
    def meaning(self) -> Meaning | None:
        """What its status says; None for a word that nobody knows."""
        return _MEANINGS.get(str(self.item.get("status") or "").strip().lower().replace("_", " "))

    @property
    def ended(self) -> bool:
        """Whether it gives no access any more, or never did."""
        return self.meaning in _ENDED

    @property
    def can_be_resumed(self) -> bool:
        """Whether a deferred cancellation can be taken back."""
        return self.item.get("can_be_resumed") is True

    @property
    def can_be_switched_on(self) -> bool:
        """Whether it is one of a term that is not dynamic, live, and of which auto-renew is off and may be put on."""
        dynamic = str(self.term.get("type") or "").lower() == "dynamic"
        may = self.item.get("auto_renew_change_enabled") is True
        return may and not dynamic and not self.auto_renew and not self.ended

    @property
    def next_billing_date(self) -> str | None:
        """When it is charged next, as ISO 8601."""
        return moment(self.item.get("next_bill_date"))


def moment(seconds: object) -> str | None:
    """Write epoch seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat() if isinstance(seconds, int | float) else None


def read(piano: PianoClient, subscription_id: str) -> Subscription | None:
    """Ask for one subscription; None for an id that Piano does not know."""
    try:
        page = piano.get("subscription/get", subscription_id=subscription_id)
    except NotFound:
        return None
    return Subscription(page.data, page.ts) if isinstance(page.data, dict) else None


def named(piano: PianoClient, action: str, user_id: str, subscription_id: str) -> Subscription | Outcome:
    """Ask for a subscription that a reader names, or say for an action why it is not his to name."""
    one = read(piano, subscription_id)
    if one is None or (one.aid and one.aid != piano.aid):
        return outcome(action, Status.REFUSED, "unknown_subscription", subscription_id=subscription_id)
    if one.user_id != user_id:
        return outcome(action, Status.REFUSED, "not_yours", subscription_id=subscription_id)
    return one


def of_reader(piano: PianoClient, user_id: str) -> list[dict[str, Any]]:
    """List a reader's subscriptions, live or not, as list items: without the guard fields."""
    try:
        return [item for page in piano.pages("subscription/list", "subscription_id", uid=user_id) for item in page]
    except NotFound:  # Piano is not documented to say this instead of giving an empty list, nor not to
        return []


def is_known(piano: PianoClient, user_id: str) -> bool:
    """Whether Piano knows a reader."""
    try:
        piano.ask("user/get", uid=user_id)
    except NotFound:
        return False
    return True

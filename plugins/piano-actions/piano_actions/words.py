"""The sentences a prompt can show, by the reason of an outcome. `{date}` and the like are filled in."""

from __future__ import annotations

from typing import Any, Final

from piano_actions.outcome import Outcome, Status

SENTENCES: Final[dict[str, str]] = {
    # resubscribe
    "resumed": "Welcome back! Your subscription goes on{next_bill}.",
    "would_resume": "The subscription would be resumed.",
    "auto_renew_on": "Your subscription renews by itself already{next_bill}.",
    "ended": "This subscription has ended, so it cannot be resumed. Please choose a new one.",
    "not_resumable": "This subscription cannot be resumed here. Please contact customer service.",
    "nothing_to_resume": "There is no subscription that could be resumed.",
    "ambiguous": "There are several subscriptions that could be resumed. Please choose one in your account.",
    # all
    "unknown_user": "We do not know this reader.",
    "unknown_subscription": "We do not know this subscription.",
    "not_yours": "We do not know this subscription.",
    "piano_refused": "This could not be done. Please contact customer service.",
    "unanswered": "We are not sure yet whether this worked. Please look into your account in a few minutes.",
}
"""Of a subscription of somebody else no more is told than of one that does not exist."""


def outcome(action: str, status: Status, reason: str, **details: Any) -> Outcome:  # noqa: ANN401 - JSON
    """Make an outcome with the sentence of its reason; details that are None are left out."""
    kept = {name: value for name, value in details.items() if value is not None}
    filled = {name: str(value) for name, value in kept.items()}
    day = filled.get("next_billing_date", "")[:10]
    filled["next_bill"] = f"; the next payment is due on {day}" if day else ""
    return Outcome(action, status, reason, SENTENCES[reason].format_map(_Blank(filled)), kept)


class _Blank(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""

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
    # upgrade
    "changed": "Done: you are on {term_name} now{next_bill}.",
    "on_term": "You are on {term_name} already.",
    "change_pending": "Your change to {term_name} is under way{change_day}. Until then all stays as it is.",
    "change_suspended": "Your change to {term_name} waits for a payment. Please look into your account.",
    "processing": "Your change to {term_name} is being processed. This may take some minutes.",
    "would_change": "The subscription would be changed to {term_name}. {seen}",
    "nothing_to_change": "There is no subscription that could be changed.",
    "not_configured": "This change is not on offer.",
    "unknown_term": "We do not know the offer you asked for.",
    "other_term": "The subscription is on {term_name}, so this change does not fit it.",
    "several_options": "There are several ways to make this change. Please contact customer service.",
    "ambiguous_change": "There are several subscriptions that could be changed. Please choose one in your account.",
    "cannot_change": "This subscription cannot be changed now. Please contact customer service.",
    "other_change_pending": "Another change of this subscription is under way.",
    "change_failed": "The change to {term_name} did not go through. Please check your means of payment.",
    "change_withdrawn": "Your change is withdrawn; all stays as it was.",
    "would_withdraw": "The change to {term_name} would be withdrawn.",
    "no_change_pending": "There is no change under way.",
    "not_cancellable": "This change cannot be withdrawn any more.",
    "cannot_withdraw": "This change cannot be withdrawn any more.",
    "change_made": "The change to {term_name} has been made already.",
    # promo codes
    "eligible": "You can use this offer.",
    "promotion_unknown": "We do not know this offer.",
    "promotion_ended": "This offer has ended.",
    "promotion_not_begun": "This offer has not begun yet.",
    "promotion_used_up": "This offer is used up.",
    "promotion_other_term": "This offer is for another subscription.",
    "promotion_new_only": "This offer is for new customers.",
    "promotion_used": "You have used this offer before.",
    "code_for_all": "Your code is {code}.",
    "code_reserved": "Your code is {code}.",
    "would_reserve": "A code would be reserved.",
    "code_used": "Your code {code} has been used already.",
    "no_code_left": "There is no code left.",
    "code_of_arm": "Your code is {code}.",
    "control_group": "There is no offer for you now.",
    "conversion_told": "Thank you!",
    "would_tell": "Engage would be told.",
    "erased": "Nothing is kept or told of this reader.",
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
    on = filled.get("change_date", "")[:10]
    filled["change_day"] = f" and takes effect on {on}" if on else ""
    filled["next_bill"] = f"; the next payment is due on {day}" if day else ""
    return Outcome(action, status, reason, SENTENCES[reason].format_map(_Blank(filled)), kept)


class _Blank(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""

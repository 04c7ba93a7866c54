"""The sentences a prompt can show, by the reason of an outcome. `{date}` and the like are filled in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from string import Formatter
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from piano_actions.outcome import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    "change_pending": "Your change to {term_name} is under way{takes_effect}. Until then all stays as it is.",
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


FRAGMENTS: Final[dict[str, str]] = {
    "next_bill": "; the next payment is due on {next_billing_day}",
    "takes_effect": " and takes effect on {change_day}",
}
"""Parts of sentences that are blank where their day is not known."""
_DAYS: Final = {"next_billing_day": "next_billing_date", "change_day": "change_date"}
"""Days that a sentence may name, and the moments that they are cut from."""
_DAY_OF: Final = {"next_bill": "next_billing_day", "takes_effect": "change_day"}
PLACES: Final = ("term_name", "code", "promotion_name", "seen", *_DAYS, *FRAGMENTS)
"""What a sentence may name in braces."""
ENGLISH: Final = "en"


@dataclass(frozen=True, slots=True)
class Wording:
    """How outcomes are put into words for users.

    Attributes:
        zone: IANA time zone in which a moment becomes a day.
        sentences: by language and reason, sentences that replace those of :data:`SENTENCES`.
        language: the language of users of whom nothing else is known.
    """

    zone: str = "UTC"
    sentences: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    language: str = ENGLISH

    def say(self, found: Outcome, language: str | None = None) -> Outcome:
        """Return an outcome with its message in a language, or in the usual one where that has no sentence for it."""
        sentences = self._of(language) or self._of(self.language) or {}
        places = {name: str(value) for name, value in found.details.items()}
        for place, moment in _DAYS.items():
            places[place] = self.day(places.get(moment))
        for fragment, day in _DAY_OF.items():
            form = sentences.get(fragment, FRAGMENTS[fragment])
            places[fragment] = form.format_map(_Blank(places)) if places[day] else ""
        form = sentences.get(found.reason, SENTENCES[found.reason])
        return replace(found, message=form.format_map(_Blank(places)))

    def day(self, moment: str | None) -> str:
        """Return the day of a moment, which is ISO 8601, by the calendar of the zone; an empty text without one."""
        if not moment:
            return ""
        return datetime.fromisoformat(moment).astimezone(ZoneInfo(self.zone)).date().isoformat()

    def last_day(self, end: str | None) -> str:
        """Return the last day before a moment: what ends at 00:00 ends on the day before."""
        return self.day((datetime.fromisoformat(end) - timedelta(microseconds=1)).isoformat()) if end else ""

    def _of(self, language: str | None) -> Mapping[str, str] | None:
        """Return the sentences of a language such as ``nl-BE``, else those of ``nl``; English may have none."""
        wanted = (language or "").strip().lower().replace("_", "-")
        known = {one.lower().replace("_", "-"): sentences for one, sentences in self.sentences.items()}
        for one in (wanted, wanted.partition("-")[0]):
            if one in known or one == ENGLISH:
                return known.get(one, {})
        return None


def check_sentences(given: Mapping[str, Mapping[str, str]]) -> None:
    """Check sentences of the settings.

    Raises:
        ValueError: names the language, the reason, and what is wrong.
    """
    for language, sentences in given.items():
        for reason, sentence in sentences.items():
            at = f"{language}.{reason}"
            if reason not in SENTENCES and reason not in FRAGMENTS:
                msg = f"{at}: there is no such reason; docs/actions.md lists them"
                raise ValueError(msg)
            try:
                parts = list(Formatter().parse(sentence))
            except ValueError as e:
                msg = f"{at}: its braces do not match ({e}); write a place as {{code}}, a brace itself twice"
                raise ValueError(msg) from e
            for _, place, form, turned in parts:
                if place is not None and (place not in PLACES or form or turned or place == reason):
                    msg = f"{at}: there is no place {{{place}}}; a sentence may name {', '.join(PLACES)}"
                    raise ValueError(msg)


def outcome(action: str, status: Status, reason: str, **details: Any) -> Outcome:  # noqa: ANN401 - JSON
    """Make an outcome; details that are None are left out. Whoever shows it puts it into words for the user."""
    kept = {name: value for name, value in details.items() if value is not None}
    return Wording().say(Outcome(action, status, reason, "", kept))


class _Blank(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""

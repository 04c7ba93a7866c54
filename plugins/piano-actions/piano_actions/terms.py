"""Change options: which ways from one term to another a publisher has set up (fact sheet of Piano, 3.6).

There is no call that lists them; they stand in the terms that they lead away from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tap_piano.answers import PianoRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tap_piano.client import PianoClient

TIMINGS: Final[dict[str, str]] = {
    "0": "The change and the payment are made at once.",
    "1": "The change is made at the end of the current billing period.",
    "2": "The change is made at the next sell date.",
    "3": "The change is made at the end of the current scheduled period.",
}
"""What `billing_timing` means for the reader."""
AT_ONCE: Final = "0"


@dataclass(frozen=True, slots=True)
class Option:
    """A way from one term to another, as the publisher has set it up.

    Attributes:
        item: as Piano wrote it.
    """

    item: dict[str, Any]

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.item.get("term_change_option_id") or "")

    @property
    def to_term_id(self) -> str:
        """The term it leads to."""
        return str(self.item.get("to_term_id") or "")

    @property
    def to_term_name(self) -> str:
        """The name of that term."""
        return str(self.item.get("to_term_name") or "")

    @property
    def timing(self) -> str:
        """When it is billed: a key of :data:`TIMINGS`."""
        return str(self.item.get("billing_timing") or AT_ONCE)

    @property
    def seen(self) -> str:
        """What it means for a reader."""
        said = [f"From {self.item.get('from_billing_plan') or 'now'} to {self.item.get('to_billing_plan')}."]
        said.append(TIMINGS.get(self.timing, "Piano decides when the change is made."))
        if self.timing != AT_ONCE and self.item.get("immediate_access") is True:
            said.append("The new access begins at once.")
        if self.item.get("prorate_access") is True:
            said.append("What is left of the running period is taken off the new price.")
        return " ".join(said)

    def leads_to(self, word: str) -> bool:
        """Whether a term id, a name in any case, or its own id names this one."""
        return word in {self.id, self.to_term_id} or word.strip().casefold() == self.to_term_name.strip().casefold()

    def as_dict(self) -> dict[str, Any]:
        """Give what a person chooses by."""
        names = (
            "from_term_id", "from_term_name", "from_billing_plan", "to_term_id", "to_term_name", "to_billing_plan",
            "to_period_id", "billing_timing", "immediate_access", "prorate_access", "description",
        )  # fmt: skip
        return {"option_id": self.id, **{name: self.item.get(name) for name in names}, "seen": self.seen}

    def form(self) -> dict[str, Any]:
        """Give the settings that `term/change/do` has to repeat."""
        return {
            "term_to": self.to_term_id,
            "term_to_period_id": self.item.get("to_period_id"),
            "billing_timing": self.timing,
            "immediate_access": self.item.get("immediate_access") is True,
            "prorate_access": self.item.get("prorate_access") is True,
        }


def options_in(term: dict[str, Any]) -> list[Option]:
    """Read the options that lead away from a term."""
    found = term.get("change_options")
    return [Option(one) for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def options_from(piano: PianoClient, term_id: str) -> list[Option]:
    """Ask which options lead away from a term; none from one that Piano does not know."""
    term = term_of(piano, term_id)
    return options_in(term) if term else []


def term_of(piano: PianoClient, term_id: str) -> dict[str, Any] | None:
    """Ask for one term by its id; None where Piano does not know it."""
    try:
        page = piano.get("term/get", term_id=term_id)
    except PianoRefused:
        return None
    return page.data if isinstance(page.data, dict) else None


def all_options(piano: PianoClient, *, from_term: str | None = None) -> Iterator[Option]:
    """List all options there are, or those that lead away from a term, by its id or name."""
    for page in piano.pages("term/list", "term_id"):
        for term in page:
            if from_term is None or is_called(term, from_term):
                yield from options_in(term)


def is_known(piano: PianoClient, word: str) -> bool:
    """Whether there is a term of that id or name."""
    if term_of(piano, word):
        return True
    return any(is_called(term, word) for page in piano.pages("term/list", "term_id", q=word) for term in page)


def is_called(term: dict[str, Any], word: str) -> bool:
    """Whether a term has that id, or that name in any case."""
    return word == term.get("term_id") or word.strip().casefold() == str(term.get("name") or "").strip().casefold()


def matching(options: Iterable[Option], word: str) -> list[Option]:
    """Give the options that lead to what *word* names."""
    return [one for one in options if one.leads_to(word)]

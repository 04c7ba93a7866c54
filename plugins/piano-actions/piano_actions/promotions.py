"""Promotions and promo codes: which hold now, and for whom (fact sheet of Piano, 3.2).

Piano has no call that applies a code to a subscription: a code is used at the checkout, by the reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from target_recurly_engage.eligibility import NEVER_HAD

from piano_actions.outcome import Outcome, Status
from piano_actions.rows import is_customer
from piano_actions.subscriptions import is_known, moment, of_reader
from piano_actions.terms import term_of
from piano_actions.words import outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tap_piano.client import PianoClient

ELIGIBILITY: Final = "promo_eligibility"
ALL_TERMS: Final = "all"
PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class Promotion:
    """One promotion.

    Attributes:
        item: as Piano wrote it.
        terms: ids of the terms it is restricted to; None is all.
    """

    item: dict[str, Any]
    terms: frozenset[str] | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.item.get("promotion_id") or "")

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.item.get("name") or "")

    @property
    def code(self) -> str | None:
        """The code that all readers share; None where each gets one of his own."""
        return self.item.get("fixed_promotion_code") or None

    @property
    def prefix(self) -> str | None:
        """What the codes of a pool begin with; None where there is one code for all."""
        return self.item.get("promotion_code_prefix") or None

    @property
    def uses_left(self) -> int | None:
        """How often it may still be used; None is without limit."""
        allowed = self.item.get("uses_allowed")
        if self.item.get("unlimited_uses") is True or not isinstance(allowed, int):
            return None
        return max(allowed - int(self.item.get("uses") or 0), 0)

    def why_not(self, now: int) -> str | None:
        """Say why it does not hold at a moment, in epoch seconds; None where it does."""
        start, end = self.item.get("start_date"), self.item.get("end_date")
        if self.item.get("deleted") is True or (isinstance(end, int) and end <= now):
            return "promotion_ended"
        if isinstance(start, int) and start > now:
            return "promotion_not_begun"
        return "promotion_used_up" if self.uses_left == 0 else None

    def is_called(self, word: str) -> bool:
        """Whether a word is its id, its name in any case, its code or its prefix."""
        return word in {self.id, self.code, self.prefix} or word.strip().casefold() == self.name.strip().casefold()

    def fits(self, term_id: str | None) -> bool:
        """Whether it is good for a term; any promotion is, where no term is named."""
        return term_id is None or self.terms is None or term_id in self.terms

    def saving(self, price: float, currency: str | None) -> float:
        """Say how much it takes off a price; 0 where it is an amount in other currencies only."""
        if self.item.get("discount_type") == "percentage":
            return price * min(float(self.item.get("percentage_discount") or 0), PERCENT) / PERCENT
        amounts = {one.get("currency"): one.get("amount_value") for one in self.item.get("fixed_discount_list") or []}
        return min(float(amounts.get(currency) or 0), price)

    def as_dict(self) -> dict[str, Any]:
        """Give what a person chooses by."""
        return {
            "promotion_id": self.id,
            "name": self.name,
            "code": self.code,
            "prefix": self.prefix,
            "discount_type": self.item.get("discount_type"),
            "percentage": self.item.get("percentage_discount"),
            "amounts": {one.get("currency"): one.get("amount") for one in self.item.get("fixed_discount_list") or []},
            "new_customers_only": self.item.get("new_customers_only") is True,
            "valid_from": moment(self.item.get("start_date")),
            "valid_until": moment(self.item.get("end_date")),
            "uses_left": self.uses_left,
            "term_ids": sorted(self.terms) if self.terms is not None else None,
        }


def valid(piano: PianoClient, *, term_id: str | None = None) -> list[Promotion]:
    """List the promotions that hold now, for a term if one is named."""
    found = [
        _with_terms(piano, item)
        for page in piano.pages("promotion/list", "promotion_id", expired="active")
        for item in page
    ]
    now = piano.clock or 0
    return [one for one in found if one.why_not(now) is None and one.fits(term_id)]


def named(piano: PianoClient, word: str) -> Promotion | None:
    """Look a promotion up by its id, its name in any case, or its code or prefix; whether it holds or not.

    Names and codes come again, each summer for one: of several that holds now is meant, else the one that ends last.
    """
    pages = piano.pages("promotion/list", "promotion_id", expired="all")
    found = [one for page in pages for one in map(Promotion, page) if one.is_called(word)]
    now = piano.clock or 0
    found.sort(key=lambda one: (one.id == word, one.why_not(now) is None, one.item.get("end_date") or 0), reverse=True)
    return _with_terms(piano, found[0].item) if found else None


def best(promotions: Iterable[Promotion], term: dict[str, Any]) -> Promotion | None:
    """Pick the promotion that takes most off the first price of a term; of two alike, the one with the lower id."""
    price, currency = float(term.get("payment_first_price") or 0), term.get("payment_currency")
    ranked = sorted(promotions, key=lambda one: (-one.saving(price, currency), one.id))
    return ranked[0] if ranked and ranked[0].saving(price, currency) > 0 else None


def _with_terms(piano: PianoClient, item: dict[str, Any]) -> Promotion:
    if (item.get("term_dependency_type") or ALL_TERMS) == ALL_TERMS:
        return Promotion(item)
    pages = piano.pages("promotion/term/list", "term_id", promotion_id=item["promotion_id"])
    return Promotion(item, frozenset(str(term["term_id"]) for page in pages for term in page))


def eligibility(
    piano: PianoClient,
    user_id: str,
    promotion: Promotion,
    term_id: str | None = None,
    *,
    new_customers: str = NEVER_HAD,
) -> Outcome:
    """Return whether a user may use a promotion; nothing is changed.

    Args:
        piano: the Publisher API.
        user_id: the reader.
        promotion: which.
        term_id: for which term; None for any.
        new_customers: the target's setting, which says who is a new customer.
    """
    details = {"promotion_id": promotion.id, "promotion_name": promotion.name}
    if why := holds_not(piano, promotion, term_id):
        return why
    items = of_reader(piano, user_id)
    if not items and not is_known(piano, user_id):
        return outcome(ELIGIBILITY, Status.REFUSED, "unknown_user", **details)
    new_only = promotion.item.get("new_customers_only") is True or _is_for_new(piano, term_id)
    if new_only and is_customer(items, new_customers):
        return outcome(ELIGIBILITY, Status.REFUSED, "promotion_new_only", **details)
    if _used(piano, user_id, promotion.id):
        return outcome(ELIGIBILITY, Status.REFUSED, "promotion_used", **details)
    return outcome(ELIGIBILITY, Status.DONE, "eligible", **details)


def _is_for_new(piano: PianoClient, term_id: str | None) -> bool:
    """Return whether a term is named that only new customers may buy."""
    term = term_of(piano, term_id) if term_id else None
    return term is not None and term.get("payment_new_customers_only") is True


def holds_not(piano: PianoClient, promotion: Promotion, term_id: str | None = None) -> Outcome | None:
    """Say why a promotion is good for nobody now, or not for a term; None where it is."""
    details = {"promotion_id": promotion.id, "promotion_name": promotion.name}
    why = promotion.why_not(piano.clock or 0)
    why = why or (None if promotion.fits(term_id) else "promotion_other_term")
    return outcome(ELIGIBILITY, Status.REFUSED, why, **details) if why else None


def _used(piano: PianoClient, user_id: str, promotion_id: str) -> bool:
    """Whether a reader has bought something with a code of a promotion before."""
    return any(
        (one.get("promo_code") or {}).get("promotion_id") == promotion_id
        for page in piano.pages("conversion/list", "term_conversion_id", uid=user_id)
        for one in page
    )

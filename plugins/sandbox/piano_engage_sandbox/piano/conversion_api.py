"""Endpoints about conversions: each purchase and each renewal, as they happened (reference sheet of Piano, 3.8)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from piano_engage_sandbox.catalogue import CONTRACTS
from piano_engage_sandbox.piano import shapes
from piano_engage_sandbox.piano.envelope import Answer, ApiError, paged
from piano_engage_sandbox.piano.subscription_shapes import View, in_conversion, invented, iso, present, subscription
from piano_engage_sandbox.piano.user_api import access
from piano_engage_sandbox.states import price_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from piano_engage_sandbox.catalogue import Term
    from piano_engage_sandbox.piano.envelope import Call
    from piano_engage_sandbox.service import Sandbox
    from piano_engage_sandbox.states import State
    from piano_engage_sandbox.world import Entry, World

UNKNOWN: Final = 404
TRIAL: Final = -1
"""The period of a purchase that was charged as a trial, or of one that was not charged at all."""
BOUGHT: Final = {"Payment": "Payment", "Gift": "Gift purchased", "Access Granted": "Grant access"}
"""Type of the first conversion of what does not renew, by type of term."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """One purchase or renewal. `period` counts full-price periods from 0; TRIAL is a purchase without one."""

    at: int
    entry: Entry
    period: int
    first: bool

    @property
    def charge(self) -> int:
        """Which charge of the subscription it was, from 1; 0 for a purchase that was not charged."""
        return self.period + 1 + (self.entry.fate.term.trial_price > 0)

    @property
    def id(self) -> str:
        """The `term_conversion_id`, which webhooks tell too."""
        return invented("TC", self.entry.id, self.charge)

    @property
    def kind(self) -> str:
        """The `type`, one of the 37 labels of the API description."""
        term, upgraded = self.entry.fate.term, self.entry.fate.upgraded_from is not None
        if term.type == "Dynamic":
            if not self.first:
                return "Dynamic subscription internal renewal"
            return "Upgrade to dynamic term" if upgraded else "Dynamic term purchase"
        if term.type in CONTRACTS:
            return "Licensee contract redemption"
        if not term.renews:
            return BOUGHT[term.type]
        if not self.first:
            return "Renewal"
        return "Upgrade term" if upgraded else "Subscription"

    @property
    def price(self) -> int:
        """What the term asks for the period, in cents, before a promotion."""
        term = self.entry.fate.term
        return term.trial_price if self.period == TRIAL else price_of(term, self.period + 1)

    @property
    def charged(self) -> int:
        """What was charged, in cents: a promotion lowers the first full-price charge."""
        promotion = self.entry.fate.promotion
        return self.price - (self.price * promotion.discount // 100 if promotion and self.period == 0 else 0)


def conversions_of(world: World, entry: Entry) -> Iterator[Conversion]:
    """List the conversions of a subscription so far, in order of time."""
    fate, state = entry.fate, entry.state
    if not fate.term.renews:
        yield Conversion(fate.create, entry, 0 if fate.term.price else TRIAL, first=True)
        return
    if fate.trial_end is not None:
        yield Conversion(fate.create, entry, TRIAL, first=True)
    for period in range(state.paid_periods):
        first = period == 0 and fate.trial_end is None
        yield Conversion(fate.create if first else _charged_at(world, state, period), entry, period, first)


class Ledger:
    """A part of the sandbox: the conversions of each subscription, found again only after something happened to it."""

    def __init__(self, _sandbox: Sandbox) -> None:
        """Begin with none."""
        self._found: dict[Entry, tuple[State, tuple[Conversion, ...]]] = {}

    def of(self, world: World, entry: Entry) -> tuple[Conversion, ...]:
        """Give the conversions of a subscription so far; its state is another object once something happened."""
        known = self._found.get(entry)
        if known is not None and known[0] is entry.state:
            return known[1]
        found = tuple(conversions_of(world, entry))
        self._found[entry] = (entry.state, found)
        return found


def list_conversions(call: Call) -> Answer:
    """conversion/list: by user and by date, oldest first, which is our guess."""
    params = call.params
    first, last = params.integer("date_from"), params.integer("date_to", 1 << 60)
    found = [one for one in _conversions(call, _entries(call)) if first <= one.at <= last]
    found.sort(key=attrgetter("at"))
    return paged(call, found, key="conversions", shape=lambda one: _in_list(call, one))


def get_conversion(call: Call) -> Answer:
    """conversion/get: 404 for one nobody knows; the code is our guess."""
    return Answer("conversion", _full(call, _known(call)))


def get_data(call: Call) -> Answer:
    """conversion/data/get: where and how the reader came."""
    return Answer("conversion_data", _data(call, _known(call)))


def last_access(call: Call) -> Answer:
    """conversion/lastAccess: the last conversion of a user, a resource or a subscription, as far as they are named."""
    tests = [test for name, test in _LAST.items() if name in call.params]
    wanted = [entry for entry in _entries(call) if all(test(call, entry) for test in tests)]
    found = list(_conversions(call, wanted))
    if not found:
        raise ApiError(UNKNOWN)
    return Answer("conversion", _full(call, max(found, key=attrgetter("at"))))


def count_conversions(call: Call) -> Answer:
    """conversion/count: all, or those of a term."""
    term_id = call.params.text("term_id")
    wanted = [entry for entry in _entries(call) if term_id in ("", entry.fate.term.term_id)]
    return Answer("data", sum(1 for _ in _conversions(call, wanted)))


ENDPOINTS: Final[dict[str, Callable[[Call], Answer]]] = {
    "conversion/list": list_conversions,
    "conversion/get": get_conversion,
    "conversion/data/get": get_data,
    "conversion/lastAccess": last_access,
    "conversion/count": count_conversions,
}
"""Endpoints by their path."""
_LAST: Final[dict[str, Callable[[Call, Entry], bool]]] = {
    "rid": lambda call, entry: entry.fate.term.resource.rid == call.params.text("rid"),
    "subscription_id": lambda call, entry: entry.id == call.params.text("subscription_id"),
}


def _charged_at(world: World, state: State, period: int) -> int:
    """Give the moment a period was charged: when it began, or when its failed charge went through after all."""
    fate = state.fate
    if period == fate.failed_period:
        return fate.recovered_at
    if period == fate.base - 1 and fate.charged_at is not None:
        return fate.charged_at
    return world.lives.boundary(fate, period)


def _known(call: Call) -> Conversion:
    """Find the conversion a call is about."""
    wanted = call.params.required("term_conversion_id")
    for one in _conversions(call, call.application.world.entries.values()):
        if one.id == wanted:
            return one
    raise ApiError(UNKNOWN)


def _entries(call: Call) -> Iterable[Entry]:
    """Give the subscriptions of the user a call names, or all."""
    world = call.application.world
    return world.of_user(call.params.text("uid")) if "uid" in call.params else world.entries.values()


def _conversions(call: Call, entries: Iterable[Entry]) -> Iterator[Conversion]:
    ledger, world = call.sandbox.part(Ledger), call.application.world
    for entry in entries:
        yield from ledger.of(world, entry)


def _in_list(call: Call, one: Conversion) -> dict[str, Any]:
    """Write a `TermConversionDTO`, the shape of conversion/list; what was not paid for has a null payment."""
    view = View(call, one.entry)
    return _common(view, one) | {
        "subscription": in_conversion(view),
        "user_payment": _payment(view, one) if one.charged > 0 else None,
    }


def _full(call: Call, one: Conversion) -> dict[str, Any]:
    """Write a `TermConversion`, the longer shape of conversion/get."""
    view = View(call, one.entry)
    return _common(view, one) | {
        "subscription": subscription(view),
        "user_payment": _payment(view, one, state="status") if one.charged > 0 else None,
        "billing_plan": view.term.plan,
        "price_after_discount": _price(one.charged),
    }


def _common(view: View, one: Conversion) -> dict[str, Any]:
    paid = view.payment_method if one.charged > 0 else None
    return present(
        {
            "term_conversion_id": one.id,
            "term": shapes.term(view.call, view.term),
            "type": one.kind,
            "aid": view.call.application.aid,
            "user_access": access(view),
            "create_date": one.at,
            "browser_id": invented("BR", view.person.uid, view.person.conversion[3]),
            "promo_code": _promo_code(view) if one.period == 0 else None,
            "user_payment_info": _payment_info(view) if paid else None,
        }
    )


def _promo_code(view: View) -> dict[str, Any] | None:
    """Write the `PromoCode` the first full-price charge was lowered with."""
    fate = view.entry.fate
    if fate.promotion is None:
        return None
    return {
        "promo_code_id": f"PC{view.entry.id[2:]}",
        "promotion_id": fate.promotion.promotion_id,
        "code": fate.promotion.code_for(fate.number),
        "state": "Used",
        "state_value": "used",
        "claimed_user": shapes.user(view.call, view.person),
        "claimed_date": fate.create,
        "deleted": False,
        "last_original_price": _price(price_of(fate.term, 1)),
    }


def _payment(view: View, one: Conversion, *, state: str = "user_payment_state") -> dict[str, Any]:
    """Write what `UserPayment` and `UserPaymentDTO` share, `state` being called otherwise; its date is text (1.7).

    Term and subscription are those of the conversion and not written again, which is our guess.
    """
    charged, tax_rate = one.charged, view.person.place.tax
    last = one.period + 1 == view.state.paid_periods
    refunded = last and view.state.total_refunded > 0
    payment_id = invented("UP", view.entry.id, one.charge)
    return present(
        {
            "user_payment_id": payment_id,
            "create_date": iso(one.at),
            state: "refunded" if refunded else "completed",
            "renewal": not one.first,
            "amount": charged / 100,
            "price": _price(charged),
            "currency": shapes.CURRENCY,
            "refundable": last and view.state.live,
            "tax": round(charged * tax_rate / (100 + tax_rate)) / 100,
            "payment_method": view.payment_method,
            "external_transaction_id": invented("pi_", payment_id),
            "original_price": _price(one.price),
        }
    )


def _payment_info(view: View) -> dict[str, Any]:
    """Write a `UserPaymentInfo`: a means of payment and its last four digits."""
    means, _, number = view.person.payment.partition(" *")
    method, kind = _MEANS[means]
    return present(
        {
            "user_payment_info_id": view.payment_info_id,
            "description": view.person.payment,
            "upi_nickname": view.person.payment,
            "upi_number": number or None,
            "upi_identifier": number or None,
            "payment_method": method,
            "payment_type": kind,
            "is_mock": False,
        }
    )


_MEANS: Final = {
    "Visa": ("CC", "V"),
    "MasterCard": ("CC", "MC"),
    "American Express": ("CC", "AMEX"),
    "Maestro": ("CC", "MAE"),
    "SEPA": ("BD", "SDD"),
    "PayPal": ("W", "PPPL"),
}
"""Means of payment → method and type in the words of the API description; the pairing is our guess."""


def _price(cents: int) -> str:
    return f"{shapes.SYMBOL}{cents / 100:.2f}"


def _data(call: Call, one: Conversion) -> dict[str, Any]:
    """Write a `TermConversionData`: place, device and address as columns 48 to 54 of the log have them."""
    view = View(call, one.entry)
    city, region, country, device, url = view.person.conversion[:5]
    term: Term = view.term
    return present(
        {
            "aid": call.application.aid,
            "offer_id": term.offer.offer_id,
            "term_id": term.term_id,
            "offer_template_id": term.offer.template.template_id,
            "template_id": term.offer.template.template_id,
            "uid": view.person.uid,
            "user_country": country,
            "user_region": region or None,
            "user_city": city,
            "hour": datetime.fromtimestamp(one.at, UTC).strftime("%Y%m%d%H"),
            "url": url,
            "platform": device.lower(),
            "tags": "[]",
            "campaigns": [campaign for campaign in view.person.campaign.split(",") if campaign],
        }
    )

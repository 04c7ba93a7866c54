"""Rows of the subscription log: the state of each subscription written as Piano writes it.

Formats follow the reference sheet of Piano, 2.4: date-times with the application's offset, TRUE/FALSE, money with four
decimals where it was charged and two where it is a price, an empty cell for no value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piano_engage_sandbox import people
from piano_engage_sandbox.catalogue import TERMS
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.columns import DEFAULT, ordered_groups
from piano_engage_sandbox.states import State, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from piano_engage_sandbox.catalogue import Term
    from piano_engage_sandbox.lives import Fate, Life, Lives
    from piano_engage_sandbox.people import Person

TRUTH: Final = ("FALSE", "TRUE")
IDS: Final = 36**10
"""How many ids there can be."""
SCATTER: Final = 2_259_573_108_763_157
"""Shares no factor with 36, so that no two subscription numbers get one id."""
_DIGITS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_PAIRS: Final = [a + b for a in _DIGITS for b in _DIGITS]


class _Prices(dict[int, str]):
    def __missing__(self, cents: int) -> str:
        self[cents] = text = f"{cents // 100}.{cents % 100:02}"
        return text


class _Money(dict[int, str]):
    def __missing__(self, cents: int) -> str:
        self[cents] = text = f"{cents // 100}.{cents % 100:02}00"
        return text


def subscription_id(number: int) -> str:
    """Give the id of a subscription number: `RC` and ten letters and digits, unlike for unlike numbers."""
    rest, a = divmod(number * SCATTER % IDS, 1296)
    rest, b = divmod(rest, 1296)
    rest, c = divmod(rest, 1296)
    d, e = divmod(rest, 1296)
    return f"RC{_PAIRS[a]}{_PAIRS[b]}{_PAIRS[c]}{_PAIRS[d]}{_PAIRS[e]}"


class LogRows:
    """Turns lives into rows: lists of cell texts in the order of the file."""

    def __init__(self, lives: Lives, as_of: int, *, groups: tuple[str, ...], dashboard: bool = False) -> None:
        """Write for one moment, one choice of columns and one form of date-times."""
        self._lives = lives
        self._as_of = as_of
        self._today = as_of // DAY
        self._stamp = lives.zone.dashboard if dashboard else lives.zone.piano
        self._salt = lives.salt % IDS
        writers: dict[str, Callable[[Person, State], list[str]]] = {
            "RENEWABLE_GIFT": self._renewable_gift,
            "USER": self._user,
            "PAYMENT": self._payment,
            "UPGRADES": self._upgrades,
            "AUTORENEW": self._autorenew,
            "MODIFY_TIME": self._modify_time,
        }
        self._extra = [writers[group] for group in ordered_groups(groups) if group != DEFAULT]
        self._prices, self._money = _Prices(), _Money()
        self._terms = {term.term_id: _term_cells(term) for term in TERMS}
        self._periods = {term.term_id: term.period for term in TERMS}
        self._taxes: dict[tuple[str, int], list[str]] = {}

    def of(self, life: Life) -> list[list[str]]:
        """Give the rows of one reader, a row for each subscription."""
        who = people.person(life.reader, life.bits)
        rows = []
        for fate in life.fates:
            state = state_of(self._lives, fate, self._as_of)
            row = self._base(who, state)
            for write in self._extra:
                row += write(who, state)
            rows.append(row)
        return rows

    def _id(self, fate: Fate) -> str:
        return subscription_id(fate.number + self._salt)

    def _base(self, who: Person, state: State) -> list[str]:
        """Write the 78 base columns."""
        term, fate = state.fate.term, state.fate
        return [
            *self._course(state),
            *self._activity(who, state),
            *self._billing(who, state),
            who.uid, who.email, who.first, who.last, self._stamp(state.access_until),
            *self._terms[term.term_id],
            who.campaign, _promo_code(fate),
            *who.conversion, *who.contact,
            f"PSC{fate.number:08}" if state.migrated_at is not None else "",
            *self._tax(who, state),
            str(term.shared and who.phase % (term.shared + 1)),
            TRUTH[state.migrated_at is not None], self._stamp(state.migrated_at),
            TRUTH[fate.upgraded_from is not None], self._id(fate.upgraded_from) if fate.upgraded_from else "",
            *self._access_period(state),
        ]  # fmt: skip

    def _course(self, state: State) -> list[str]:
        """Write columns 1 to 14: the subscription's course so far."""
        fate, stamp, prices = state.fate, self._stamp, self._prices
        term = fate.term
        return [
            self._id(fate), f"{term.type} subscription",
            stamp(fate.create), stamp(fate.start), stamp(state.end), str(state.days_subscribed),
            state.status, state.upgrade_status, state.trial_status, stamp(fate.trial_end),
            prices[term.trial_price] if term.trial_days else "", prices[state.price],
            TRUTH[state.auto_renew], stamp(state.auto_renew_off_at),
        ]  # fmt: skip

    def _activity(self, who: Person, state: State) -> list[str]:
        """Write columns 15 to 18, which drift: a reader comes back every so many days at his own time of day."""
        every = who.visit_every if state.live else who.visit_every * 5
        visited = (self._today - (self._today + who.phase) % every) * DAY + who.phase % DAY
        if visited > self._as_of:
            visited -= every * DAY
        visited = max(visited, state.fate.create)
        if self._as_of - visited > 30 * DAY:
            return [self._stamp(visited), "0", "0", "0"]
        visits = max(1, min(30, (self._as_of - state.fate.create) // DAY + 1) // every)
        views = visits * (2 + who.phase % 7) + (self._today + who.phase) % 5
        return [self._stamp(visited), str(1 + visits // 8), str(visits), str(views)]

    def _billing(self, who: Person, state: State) -> list[str]:
        """Write columns 19 to 29."""
        money, stamp = self._money, self._stamp
        return [
            self._periods[state.fate.term.term_id],
            money[state.total_charged], str(state.charge_count), money[state.total_refunded],
            who.payment if state.charge_count else "", stamp(state.last_billing), stamp(state.next_billing),
            TRUTH[state.paid_periods > 1], TRUTH[state.in_grace], stamp(state.grace_start),
            stamp(state.grace_extended_to),
        ]  # fmt: skip

    def _tax(self, who: Person, state: State) -> list[str]:
        """Write columns 65 to 70: the tax within the last charge."""
        place, amount = who.place, state.last_amount
        if not amount:
            return ["", "", "", "", "", ""]
        key = (place.city, amount)
        if key not in self._taxes:
            tax = round(amount * 100 * place.tax / (100 + place.tax))
            base = amount * 100 - tax
            texts = [f"{part // 10_000}.{part % 10_000:04}" for part in (tax, base)]
            state_or_province = place.state if place.country == "United States" else ""
            self._taxes[key] = [*texts, f"{place.tax:.4f}", place.country, state_or_province]
        return [*self._taxes[key], who.contact[7]]

    def _access_period(self, state: State) -> list[str]:
        """Write columns 76 to 78, which only dynamic terms fill."""
        term, paid = state.fate.term, state.paid_periods
        if term.type != "Dynamic":
            return ["", "", ""]
        if not paid and term.trial_days:
            return ["Trial", f"{term.trial_days} days", "1"]
        if paid <= term.intro_count:
            return ["First term", self._periods[term.term_id], str(max(paid, 1))]
        return ["Standard", self._periods[term.term_id], str(max(paid - term.intro_count, 1))]

    def _renewable_gift(self, _who: Person, state: State) -> list[str]:
        return [TRUTH[0] if state.fate.term.type == "Gift" else ""]

    def _user(self, who: Person, _state: State) -> list[str]:
        alias = f"reader{who.phase}" if who.phase % 3 == 0 else ""
        return [alias, who.contact[8] if who.phase % 5 == 0 else "", f"ext-{who.phase}" if who.phase % 7 == 0 else ""]

    def _payment(self, who: Person, state: State) -> list[str]:
        fate, method = state.fate, who.payment
        promotion = fate.promotion
        promo = ["", "", "", ""]
        if promotion:
            promo = [promotion.promotion_id, promotion.name, f"{promotion.discount}.0", _promo_code(fate)]
        if not state.charge_count:
            return ["", "", "", "", *promo]
        provider = people.PROVIDERS.get(method.split(" ", 1)[0], "Stripe Elements")
        stripe = "" if provider == "PayPal BT" else f"sub_{fate.number:014x}"
        return [stripe, method, provider, self._money[state.last_amount], *promo]

    def _upgrades(self, _who: Person, state: State) -> list[str]:
        earlier, later = state.fate.upgraded_from, None if state.live else state.fate.upgraded_to
        came = [earlier.term.term_id, earlier.term.name, earlier.term.plan] if earlier else ["", "", ""]
        went = [later.term.term_id, later.term.name, later.term.plan, self._id(later)] if later else ["", "", "", ""]
        return came + went

    def _autorenew(self, _who: Person, state: State) -> list[str]:
        return [self._stamp(state.auto_renew_on_at)]

    def _modify_time(self, _who: Person, state: State) -> list[str]:
        return [self._stamp(state.modified)]


def csv_lines(rows: Iterable[list[str]], end: str) -> str:
    """Write rows as CSV (RFC 4180), with quotes only where a cell needs them; each row is ended by `end`."""
    lines = []
    for row in rows:
        line = ",".join(row)
        if '"' in line or "\n" in line or "\r" in line or line.count(",") >= len(row):
            line = ",".join([_quoted(c) if "," in c or '"' in c or "\n" in c or "\r" in c else c for c in row])
        lines.append(line)
    lines.append("")
    return end.join(lines)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def _promo_code(fate: Fate) -> str:
    promotion = fate.promotion
    if promotion is None:
        return ""
    return f"{promotion.code}{fate.number:06X}" if promotion.one_code_a_reader else promotion.code


def _term_cells(term: Term) -> tuple[str, ...]:
    """Write columns 35 to 45, the same for all on a term."""
    offer, resource = term.offer, term.resource
    shown_by = offer.experience
    return (
        resource.rid, resource.name, term.term_id, term.name, term.type,
        offer.template.template_id, offer.template.name, offer.offer_id, offer.name,
        shown_by.experience_id if shown_by else "", shown_by.name if shown_by else "",
    )  # fmt: skip

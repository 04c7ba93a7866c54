"""Invented readers: who they are, where and how they came, what they type into forms.

Names, places and texts hold what real exports hold and naive parsers trip over: other scripts, right-to-left, emoji,
quotes, commas, line breaks of both kinds, leading zeros, a leading plus or equals sign. Addresses are at example.com,
sites in .example, telephone numbers belong to nobody.
"""
# ruff: noqa: RUF001 - letters that look like others are part of the names

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

FIRST_NAMES: Final = (
    "Ann", "Bram", "Chloé", "Daan", "Elif", "Fatima", "Gijs", "Hanna", "Ilse", "Jürgen", "Kateřina", "Lotte", "Maëlle",
    "Noor", "Øystein", "Piet", "Quirine", "Renée", "Søren", "Tess", "Ümit", "Vera", "Willem", "Xander", "Yara", "Zoë",
    "Łukasz", "İpek", "Ólafur", "Anne-Sophie", "Jean Luc", "Moshe", "יעל", "ليلى", "Ελένη", "Олена", "花子", "민준",
    "Zoë 🌷", "D'Arcy",
)  # fmt: skip
LAST_NAMES: Final = (
    "Example", "de Vries", "van den Berg", "Jansen", "O'Neill", "Müller", "Lefèvre", "Dvořák", "Åström", "Núñez",
    "Çelik", "Żak", "Peeters", "Bakker", "Smit-Visser", "Groß", "Ibsen", "Kovács", "Papadopoulou", "Шевченко", "כהן",
    "حداد", "山田", "김", "Yılmaz", "Oosterhuis", "Fernández de la Vega", "St. John", "Van 't Hof", "Null",
)  # fmt: skip
COMPANIES: Final = (
    "Example & Daughters", 'Bakkerij "De Punt"', "Van den Berg, Smit & Co.", "=SUM(Example)", "N/A", "-", "+ & more",
    'Say ""hello"" Ltd, "the" second', "Line one\nLine two", "Façade; Fenêtres\r\n& Portes", "株式会社 例", "@example",
)  # fmt: skip
ODD_ADDRESSES: Final = (
    'Gebouw "C", kamer 12', "Rue de l’Exemple 5\nBâtiment B", "Voorbeeldweg 7\r\nachterom", "1, Example Mews, rear",
    "שדרות הדוגמה 3", "Straße, die so heißt 9", "c/o O'Neill\n\n2nd door", '"', ",", " Leading blank 4",
)  # fmt: skip
STREETS: Final = (
    "Voorbeeldstraat",
    "Example Street",
    "Beispielweg",
    "Rue de l'Exemple",
    "Kerkstraat",
    "Station Road",
    "Lindenallee",
)
CAMPAIGNS: Final = (
    "", "", "", "", "", "", "", "spring26", "spring26", "jubilee", "jubilee", "app-launch", "retarget",
    "spring26,retarget",
)  # fmt: skip
SOURCES: Final = ("", "", "", "newsletter", "facebook", "google", "app")
DEVICES: Final = ("Mobile", "Mobile", "Desktop", "Tablet")
_PATHS: Final = (
    "", "", "", "politics/budget-2026", "sport/final", "sport/draw", "culture/review,film", "culture/books",
    "local/caf%C3%A9-closes", "local/market", "live/42", "live/43",
)  # fmt: skip
URLS: Final = tuple(f"https://news.example/{path}" for path in _PATHS)
FILL_THE_FORM: Final = 90
WRITE_ODD_THINGS: Final = 10
"""Of 256 readers so many fill in the address form, and so many of these put odd things in."""
MEANS_OF_PAYMENT: Final = ("Visa", "Visa", "MasterCard", "American Express", "Maestro", "SEPA", "SEPA", "PayPal")
PROVIDERS: Final = {"PayPal": "PayPal BT", "SEPA": "Stripe SEPA"}
VISITS: Final = (1, 1, 1, 2, 3, 5, 9, 20, 45)
"""Days from one visit to the next."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place readers live in: its postal code as a pattern for a number, its tax on newspapers in percent."""

    city: str
    state: str
    country: str
    postal: str
    phone: str
    tax: float


PLACES: Final = (
    Place("Utrecht", "Utrecht", "The Netherlands", "{:04} AB", "+31 85 000 {:04}", 9),
    Place("'s-Hertogenbosch", "Noord-Brabant", "The Netherlands", "{:04}ZZ", "+31850{:04}00", 9),
    Place("Gent", "Oost-Vlaanderen", "Belgium", "9000", "+32 460 00 {:04}", 6),
    Place("Dresden", "Sachsen", "Germany", "0{:04}", "+49 351 000{:04}", 7),
    Place("Nice", "Provence-Alpes-Côte d'Azur", "France", "0{:04}", "+33 1 99 00 {:04}", 2.1),
    Place("Boston", "MA", "United States", "0{:04}", "+1 555 010 {:04}", 0),
    Place("Kraków", "małopolskie", "Poland", "30-001", "+48 00 000 {:04}", 8),
    Place("תל אביב", "", "Israel", "{:07}", "+972 55 500 {:04}", 17),
    Place("東京", "東京都", "Japan", "100-{:04}", "+81 3 0000 {:04}", 8),
)


class Person(NamedTuple):
    """A reader's own cells, ready to be written; `phase` scatters his habits."""

    uid: str
    email: str
    first: str
    last: str
    place: Place
    conversion: tuple[str, str, str, str, str, str, str]
    contact: tuple[str, str, str, str, str, str, str, str, str]
    campaign: str
    payment: str
    visit_every: int
    phase: int


def person(reader: int, bits: int) -> Person:
    """Make a reader out of his number and 320 random bits; each choice has bytes of its own."""
    dice = bits.to_bytes(40, "little")
    first, last, place = _pick(FIRST_NAMES, dice[16]), _pick(LAST_NAMES, dice[17]), _pick(PLACES, dice[18])
    name = first.lower() if first.isascii() and first.isalpha() else "reader"
    number = (dice[19] << 8 | dice[20]) % 10_000
    return Person(
        uid=_uuid(dice[:16].hex()),
        email=f"{name}.{reader}@example.com",
        first=first,
        last=last,
        place=place,
        conversion=_conversion(place, dice[21:24]),
        contact=_contact(dice[24:28], f"{first} {last}", place, number),
        campaign=_pick(CAMPAIGNS, dice[28]),
        payment=_payment(dice[29], number),
        visit_every=_pick(VISITS, dice[30]),
        phase=dice[31] << 8 | dice[32],
    )


def _pick(choices: tuple[T, ...], byte: int) -> T:
    return choices[byte % len(choices)]


def _uuid(text: str) -> str:
    """Write 32 hexadecimal digits as a random (version 4) UUID."""
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def _conversion(place: Place, dice: bytes) -> tuple[str, str, str, str, str, str, str]:
    source, url = _pick(SOURCES, dice[0]), _pick(URLS, dice[1])
    device = _pick(DEVICES, dice[2])
    if not source:
        return place.city, place.state, place.country, device, url, url, ""
    utm = f"utm_source={source}&utm_medium={device.lower()}"
    return place.city, place.state, place.country, device, f"{url}?{utm}", url, utm


def _contact(dice: bytes, name: str, place: Place, number: int) -> tuple[str, str, str, str, str, str, str, str, str]:
    """Fill the address form: most readers leave it empty, a few put odd things in."""
    kind = dice[0]
    company = _pick(COMPANIES, dice[1]) if kind % 25 == 0 else ""
    if kind >= FILL_THE_FORM:
        return company, name, "", "", "", "", "", "", ""
    street = _pick(ODD_ADDRESSES, dice[2]) if kind < WRITE_ODD_THINGS else f"{_pick(STREETS, dice[2])} {dice[3]}"
    postal, phone = place.postal.format(number), place.phone.format(number)
    return company, name, street, "bis" if kind % 9 == 0 else "", place.city, place.state, place.country, postal, phone


def _payment(kind: int, number: int) -> str:
    """Name a means of payment the way Piano does: its kind and its last four digits."""
    means = _pick(MEANS_OF_PAYMENT, kind)
    return means if means == "PayPal" else f"{means} *{number:04}"

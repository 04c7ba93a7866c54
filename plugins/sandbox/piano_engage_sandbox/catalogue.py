"""What the invented publisher sells: resources, terms, offers, templates, experiences and promotions, as data.

Id shapes follow the reference sheet of Piano, 2.4; term types are labels of `Term.type_name` (2.7). Prices are whole
cents. Odd but legal names (a comma, quotes, other scripts) are there on purpose.
"""
# ruff: noqa: RUF001 - letters and dashes that look like others are part of the names

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final


def invented_id(prefix: str, name: str) -> str:
    """Give an id as Piano writes them, the same for the same name: a prefix and ten letters and digits."""
    return prefix + hashlib.sha256(f"{prefix}/{name}".encode()).hexdigest()[:10].upper()


@dataclass(frozen=True, slots=True)
class Resource:
    """Something readers get access to. `kind` is standard, bundle or print; `bundle` how a bundle is put together."""

    rid: str
    name: str
    kind: str = "standard"
    bundle: str = ""
    disabled: bool = False
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """A page an offer is shown on."""

    template_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Experience:
    """A Composer experience that showed the offer."""

    experience_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What the reader was shown."""

    offer_id: str
    name: str
    template: Template
    experience: Experience | None
    archived: bool = False


@dataclass(frozen=True, slots=True)
class Promotion:
    """A discount, in percent, on the first full charge; a prefix makes one code a reader, else all share the code."""

    promotion_id: str
    name: str
    discount: int
    code: str
    one_code_a_reader: bool = False

    def code_for(self, number: int) -> str:
        """Give the code a subscription was bought with: its own, or the one all share."""
        return f"{self.code}{number:06X}" if self.one_code_a_reader else self.code


@dataclass(frozen=True, slots=True)
class AccessPeriod:
    """A stretch of a dynamic term: `cycles` periods at a price; 0 cycles is without end."""

    period_id: str
    name: str
    price: int
    months: int
    days: int
    cycles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A way to get access to a resource: price and period in cents and months or days, and how readers behave on it.

    `weight` is how often a first subscription is on this term, `churn` the chance to leave at the end of a period.
    A term with `intro_count` asks `intro_price` for that many periods (dynamic terms). `upgrade` is a term id.
    """

    term_id: str
    name: str
    type: str
    resource: Resource
    offer: Offer
    price: int = 0
    months: int = 0
    days: int = 0
    trial_days: int = 0
    trial_price: int = 0
    intro_count: int = 0
    intro_price: int = 0
    renews: bool = False
    weight: float = 0.0
    churn: float = 0.0
    grace_days: int = 14
    upgrade: str = ""
    shared: int = 0
    source: str = ""
    """Where an external term is sold, as in SOURCES."""

    @property
    def access_periods(self) -> tuple[AccessPeriod, ...]:
        """The stretches of a dynamic term, in their order and with the names the log has; empty for other types."""
        if self.type != "Dynamic":
            return ()
        found = []
        if self.trial_days:
            found.append(("Trial", self.trial_price, 0, self.trial_days, 1))
        if self.intro_count:
            found.append(("First term", self.intro_price, self.months, self.days, self.intro_count))
        found.append(("Standard", self.price, self.months, self.days, 0))
        return tuple(AccessPeriod(invented_id("AP", self.term_id + part[0]), *part) for part in found)

    @property
    def period(self) -> str:
        """Say the billing period as Piano does: `1 month`, `2 years`, `4 weeks`; empty when nothing is billed."""
        units = ((self.months / 12, "year"), (self.months, "month"), (self.days / 7, "week"), (self.days, "day"))
        for count, unit in units:
            if count and count == int(count):
                return f"{int(count)} {unit}" + ("s" if count > 1 else "")
        return ""

    @property
    def plan(self) -> str:
        """Say the billing plan in words, as in `9.99 per month`."""
        return f"{self.price / 100:.2f} per {self.period.removeprefix('1 ')}" if self.price else "Free"


DIGITAL: Final = Resource("RDIG1T4", "Digital")
PREMIUM: Final = Resource("RPREM77", "Digital Premium")
WEEKEND: Final = Resource("RWKND02", "Weekend: print & digital", "bundle", "fixed")
PUZZLES: Final = Resource("RPZZL09", "Puzzles")
ARCHIVE: Final = Resource("RARCH10", "Archive 1869–today", tags=("RTHIST0RY001",))
RESOURCES: Final = (DIGITAL, PREMIUM, WEEKEND, PUZZLES, ARCHIVE)

WALL: Final = Template("OTWALLA00001", "Paywall A")
PLAIN: Final = Template("OTPLAIN00002", "Landing page")
ACCOUNT: Final = Template("OTACCNT00003", "My account")
TEMPLATES: Final = (WALL, PLAIN, ACCOUNT)

MAIN_WALL: Final = Experience("EXMAINWALL01", "Main wall")
SEASONAL: Final = Experience("EXSEASON0022", "Seasonal landing pages")
EXPERIENCES: Final = (MAIN_WALL, SEASONAL)

SPRING: Final = Offer("OFSPR1NG0026", 'Spring offer "Read on"', WALL, MAIN_WALL)
ALL_ACCESS: Final = Offer("OFALLACC0001", "All access", WALL, MAIN_WALL)
YEAR_DEAL: Final = Offer("OFYEARDEA012", "Year deal", PLAIN, SEASONAL)
UPGRADE_OFFER: Final = Offer("OFUPGRADE003", "More of it – upgrade", ACCOUNT, None)
SERVICE_DESK: Final = Offer("OFSERVICE099", "Service desk", ACCOUNT, None)
OFFERS: Final = (SPRING, ALL_ACCESS, YEAR_DEAL, UPGRADE_OFFER, SERVICE_DESK)

PROMOTIONS: Final = (
    Promotion("PRSPRING0050", "Spring offer", 50, "SPRING50"),
    Promotion("PRWELCOME020", "Welcome, 20 % off", 20, "WELCOME-", one_code_a_reader=True),
    Promotion("PRWINBACK030", "Come back", 30, "BACK30"),
    Promotion("PRJUBILEE025", "Jubilé – 150 ans", 25, "JUBILÉ25"),
)
WINBACK: Final = PROMOTIONS[2]

TERMS: Final = (
    Term(
        term_id="TMD1GM0NTH01", name="Digital monthly", type="Dynamic", resource=DIGITAL, offer=ALL_ACCESS, price=999,
        months=1, intro_count=3, intro_price=499, renews=True, weight=0.24, churn=0.035, upgrade="TMPREM0NTH05",
    ),
    Term(
        term_id="TMTR1AL14D02", name="Digital with 14 days free", type="Payment", resource=DIGITAL, offer=ALL_ACCESS,
        price=1250, months=1, trial_days=14, renews=True, weight=0.20, churn=0.045, upgrade="TMPREYEAR006",
    ),
    Term(
        term_id="TMTR1AL30D03", name="First month for 1", type="Dynamic", resource=DIGITAL, offer=YEAR_DEAL, price=1099,
        months=1, trial_days=30, trial_price=100, renews=True, weight=0.10, churn=0.04, upgrade="TMPREM0NTH05",
    ),
    Term(
        term_id="TMD1GYEAR004", name="Digital yearly", type="Payment", resource=DIGITAL, offer=YEAR_DEAL, price=9900,
        months=12, renews=True, weight=0.12, churn=0.22, grace_days=21, upgrade="TMPREYEAR006", shared=1,
    ),
    Term(
        term_id="TMPREM0NTH05", name="Premium monthly", type="Payment", resource=PREMIUM, offer=UPGRADE_OFFER,
        price=1499, months=1, renews=True, weight=0.04, churn=0.025, upgrade="TMPREYEAR006", shared=2,
    ),
    Term(
        term_id="TMPREYEAR006", name='Premium "all in" yearly', type="Payment", resource=PREMIUM, offer=UPGRADE_OFFER,
        price=14900, months=12, renews=True, weight=0.04, churn=0.15, grace_days=21, shared=4,
    ),
    Term(
        term_id="TMWEEKEND007", name="Zaterdag, print én digitaal", type="Payment", resource=WEEKEND, offer=ALL_ACCESS,
        price=1995, months=3, renews=True, weight=0.08, churn=0.06, upgrade="TMPREYEAR006",
    ),
    Term(
        term_id="TMSTUDENT008", name="Étudiants 🎓 −50 %", type="Dynamic", resource=DIGITAL, offer=SPRING, price=495,
        months=1, renews=True, weight=0.04, churn=0.035, grace_days=7,
    ),
    Term(
        term_id="TMPUZZLES009", name="Puzzles", type="Payment", resource=PUZZLES, offer=ALL_ACCESS, price=299,
        days=28, renews=True, churn=0.04, grace_days=7,
    ),
    Term(
        term_id="TMDAYPASS010", name="Day pass", type="Payment", resource=DIGITAL, offer=ALL_ACCESS, price=250, days=1,
        weight=0.02,
    ),
    Term(
        term_id="TMG1FT3MO011", name="Gift: three months", type="Gift", resource=DIGITAL, offer=SERVICE_DESK,
        price=2700, months=3, weight=0.03,
    ),
    Term(
        term_id="TMSTAFF00012", name="Staff & contributors", type="Access Granted", resource=PREMIUM,
        offer=SERVICE_DESK, weight=0.03,
    ),
    Term(
        term_id="TMCAMPUS0013", name="Example University", type="Email Domain Contract", resource=DIGITAL,
        offer=SERVICE_DESK, weight=0.06,
    ),
    Term(
        term_id="TML1BRARY014", name="Bibliothèque, salle de lecture", type="IP Range Contract", resource=ARCHIVE,
        offer=SERVICE_DESK, weight=0.03,
    ),
    Term(
        term_id="TMMAILS00015", name="جريدة المثال", type="Specific Email Addresses Contract", resource=DIGITAL,
        offer=SERVICE_DESK, weight=0.02,
    ),
)  # fmt: skip
TERM_BY_ID: Final = {term.term_id: term for term in TERMS}
SIDE_TERM: Final = TERM_BY_ID["TMPUZZLES009"]
"""What readers take beside another subscription."""

CONTRACTS: Final = frozenset({"Email Domain Contract", "IP Range Contract", "Specific Email Addresses Contract"})
"""Term types of site licences."""

TERM_TYPES: Final = {
    "Payment": ("payment", 1),
    "Ad View": ("adview", 2),
    "Registration": ("registration", 3),
    "Newsletter": ("newsletter", 4),
    "External": ("external", 5),
    "Custom": ("custom", 6),
    "Access Granted": ("grant_access", 7),
    "Gift": ("gift", 8),
    "Specific Email Addresses Contract": ("specific_email_addresses_contract", 9),
    "Email Domain Contract": ("email_domain_contract", 10),
    "IP Range Contract": ("ip_range_contract", 11),
    "Dynamic": ("dynamic", 12),
    "Linked": ("linked", 13),
}
"""Labels of term types → value and number in the Publisher API (reference sheet of Piano, 3.1)."""
SOURCES: Final = (
    "cds", "vestdb", "apple_itunes", "psc_provider", "google_play", "abril", "abril_address", "swg", "newscycle",
    "paypal_subscription",
)  # fmt: skip
"""Where external terms are sold; the number is the place in this list, from 1 (reference sheet of Piano, 3.1)."""

# What the Publisher API lists beside what the log's subscriptions are on: nobody in it ever takes one of these.
EPAPER: Final = Resource("REPAPR3", "E-paper", "print")
BUNDLE: Final = Resource("BRALL0001", "Alles – everything", "bundle", "fixed_v2")
TAGGED: Final = Resource("BRTAG0002", "All that is history", "bundle", "tagged", tags=("RTHIST0RY001",))
RETIRED: Final = Resource("R0LDAPP", "Old app", disabled=True)
_REGIONS: Final = (
    "Achterhoek", "Betuwe", "Drenthe", "Flevoland", "Friesland", "Gooi", "Groningen", "Haarlem", "Kennemerland",
    "Limburg", "Maastricht", "Nijmegen", "Rijnmond", "Salland", "Texel", "Twente", "Utrecht", "Veluwe", "Walcheren",
    "Westland", "Zaanstreek", "Zeeland",
)  # fmt: skip
REGIONS: Final = tuple(
    Resource(f"RREG1{number:02}", f"Region {name}", tags=("RTREG10NS002",)) for number, name in enumerate(_REGIONS, 1)
)
"""Regional editions: so many that the list of resources has a second page at its default limit of 25."""
ALL_RESOURCES: Final = (*RESOURCES, EPAPER, BUNDLE, TAGGED, RETIRED, *REGIONS)

AUTUMN: Final = Offer("OFAUTUMN2019", "Autumn 2019", PLAIN, SEASONAL, archived=True)
ALL_OFFERS: Final = (*OFFERS, AUTUMN)

OTHER_TERMS: Final = (
    Term(term_id="TMREG1STER16", name="Free account", type="Registration", resource=DIGITAL, offer=ALL_ACCESS, days=30),
    Term(term_id="TMADV1EW0017", name="Watch an advertisement", type="Ad View", resource=DIGITAL, offer=AUTUMN, days=1),
    Term(term_id="TMNEWSLET018", name="Morning letter", type="Newsletter", resource=DIGITAL, offer=ALL_ACCESS, days=7),
    Term(
        term_id="TM1TUNES0019", name="In the App Store", type="External", resource=PREMIUM, offer=ALL_ACCESS,
        source="apple_itunes",
    ),
    Term(
        term_id="TMGPLAY00020", name="In Google Play", type="External", resource=PREMIUM, offer=ALL_ACCESS,
        source="google_play",
    ),
    Term(term_id="TMCUST0M0021", name="Answer a survey", type="Custom", resource=ARCHIVE, offer=AUTUMN, days=3),
    Term(term_id="TML1NKED0022", name="Through a telephone contract", type="Linked", resource=BUNDLE, offer=ALL_ACCESS),
    Term(
        term_id="TMEPAPER0023", name="E-paper, no longer sold", type="Payment", resource=EPAPER, offer=AUTUMN,
        price=1800, months=1, renews=True,
    ),
)  # fmt: skip
ALL_TERMS: Final = (*TERMS, *OTHER_TERMS)
ANY_TERM_BY_ID: Final = {term.term_id: term for term in ALL_TERMS}

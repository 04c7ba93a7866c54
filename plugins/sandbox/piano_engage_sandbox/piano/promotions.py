"""Promotions of an application and their promo codes.

The promotions of the log are among them: a subscription bought with one of their codes has used that code, and a free
trial still reserves it. The others are invented for what a client must cope with: expired and not started ones, fixed
discounts in several currencies, pools of thousands of codes in all states (reference sheet of Piano, 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final
from zlib import crc32

from piano_engage_sandbox.catalogue import PROMOTIONS, TERMS, invented_id
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.piano.envelope import ApiError
from piano_engage_sandbox.states import IN_TRIAL
from piano_engage_sandbox.world import Happening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from piano_engage_sandbox.application import Application
    from piano_engage_sandbox.service import Sandbox
    from piano_engage_sandbox.world import Change, Entry, World

ACTIVE: Final = "active"
USED: Final = "used"
IN_FREE_TRIAL: Final = "reserved_for_free_trial"
DELAYED: Final = "reserved_for_delayed_payment"
STATES: Final = {
    ACTIVE: "Active",
    USED: "Used",
    IN_FREE_TRIAL: "Reserved for free trial",
    DELAYED: "Reserved for delayed payment",
}
"""`state_value` → `state` of a promo code."""
LIMIT_REACHED: Final = 3005
_CYCLE: Final = (ACTIVE, ACTIVE, ACTIVE, USED, ACTIVE, USED, IN_FREE_TRIAL, ACTIVE, USED, DELAYED)
"""States of the codes of an invented pool, over and over."""
_CLAIMANTS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """A promotion. `starts` and `ends` are days from the sandbox's beginning; `fixed` is currency and cents.

    `code` is what all share, or the prefix of a `pool` of codes. `allowed` is how many codes there may be.
    """

    promotion_id: str
    name: str
    code: str
    percentage: float = 0.0
    fixed: tuple[tuple[str, int], ...] = ()
    prefix: bool = False
    pool: int = 0
    allowed: int | None = None
    starts: int | None = None
    ends: int | None = None
    terms: tuple[str, ...] = ()
    new_customers_only: bool = False
    all_periods: bool = False
    on_renewal: bool = False
    in_log: bool = False


_OF_LOG: Final = {
    "PRSPRING0050": {"new_customers_only": True},
    "PRWELCOME020": {"pool": 3000, "starts": -3650},
    "PRWINBACK030": {"on_renewal": True},
    "PRJUBILEE025": {"starts": -3650, "terms": tuple(term.term_id for term in TERMS if term.renews)},
}
_EUROPE: Final = (("EUR", 500), ("GBP", 450), ("USD", 550))
ALL: Final = (
    *(
        Promotion(
            promotion_id=one.promotion_id, name=one.name, code=one.code, percentage=float(one.discount),
            prefix=one.one_code_a_reader, in_log=True, **_OF_LOG[one.promotion_id],  # type: ignore[arg-type]
        )
        for one in PROMOTIONS
    ),
    Promotion(
        promotion_id="PRSUMMER0005", name="Summer: 5 off", code="SUMMER-", fixed=_EUROPE, prefix=True, pool=4000,
        allowed=4500, starts=-60, ends=45,
    ),
    Promotion(promotion_id="PRFREE000100", name="On the house", code="ONTHEHOUSE", percentage=100.0, all_periods=True),
    Promotion(
        promotion_id="PRTHREE00003", name="Only three", code="THREE-", percentage=60.0, prefix=True, pool=3, allowed=3,
    ),
    Promotion(
        promotion_id="PRLASTDAY002", name="Two more days", code="HURRY", percentage=10.0, starts=-20, ends=2,
        terms=("TMD1GYEAR004", "TMPREYEAR006"),
    ),
    Promotion(
        promotion_id="PRXMAS000040", name="Christmas, 40 % off", code="XMAS40", percentage=40.0, starts=-400, ends=-90,
    ),
    Promotion(
        promotion_id="PRREADER0010", name="Bring a reader", code="READER-", fixed=(("EUR", 1000),), prefix=True,
        pool=1000, allowed=1000, starts=-800, ends=-400,
    ),
    Promotion(
        promotion_id="PRTOM0RR0001", name="From tomorrow on", code="TOMORROW", fixed=(("EUR", 250),), starts=1, ends=8,
    ),
    Promotion(
        promotion_id="PRAUTUMN0015", name="Autumn", code="AUTUMN-", percentage=15.0, prefix=True, pool=500, starts=30,
        ends=60,
    ),
)  # fmt: skip
"""All promotions, those of the log first."""


@dataclass(frozen=True, slots=True)
class Code:
    """A promo code at a moment. Moments are epoch seconds; `uid` is who claimed it, `price` the cents he would pay."""

    code_id: str
    promotion_id: str
    text: str
    state: str
    created: int
    updated: int
    uid: str = ""
    claimed: int | None = None
    reserved: int | None = None
    price: int = 0


class Promotions:
    """A part of the sandbox: the promotions of each application, by aid."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Begin with none; those of an application are made at first use."""
        self._sandbox = sandbox
        self._by_aid: dict[str, Shelf] = {}

    def of(self, application: Application) -> Shelf:
        """Give the promotions of an application."""
        if application.aid not in self._by_aid:
            self._by_aid[application.aid] = Shelf(application)
        return self._by_aid[application.aid]


class Shelf:
    """The promotions of one application, and what became of their codes."""

    def __init__(self, application: Application) -> None:
        """Find the subscriptions that were bought with a code; the world tells of those to come."""
        self._application = application
        self._bought: dict[str, dict[str, Entry]] = {one.promotion_id: {} for one in ALL}
        self._made: dict[str, dict[str, Code]] = {}
        self._renamed: dict[str, tuple[str, int]] = {}
        self._deleted: set[str] = set()
        self._changed: dict[str, int] = {}
        self._numbers = 0
        self._world = application.world
        for entry in self._world.entries.values():
            self._bring(entry)
        self._world.listeners.append(self._hear)

    def _bring(self, entry: Entry) -> None:
        promotion = entry.fate.promotion
        if promotion:
            self._bought[promotion.promotion_id][entry.id] = entry

    def _hear(self, change: Change) -> None:
        """Follow the world. A subscription that a change of term began is told of with the one it came from."""
        entry, world = change.entry, self._world
        if change.what is Happening.DELETED:
            if entry.fate.promotion:
                self._bought[entry.fate.promotion.promotion_id].pop(entry.id, None)
            return
        self._bring(entry)
        follower = world.get(world.id_of(entry.fate.upgraded_to)) if entry.fate.upgraded_to else None
        if follower:
            self._bring(follower)

    def get(self, promotion_id: str) -> Promotion:
        """Give a promotion; raises ApiError 2, the only refusal documented, for one nobody knows."""
        found = next((one for one in ALL if one.promotion_id == promotion_id), None)
        if found is None:
            raise ApiError(2)
        return found

    def dates(self, one: Promotion) -> tuple[int | None, int | None]:
        """Give the moments a promotion starts and ends, as far as it does."""
        begins = self._application.begins
        start, end = (None if days is None else begins + days * DAY for days in (one.starts, one.ends))
        return start, end

    def created(self, one: Promotion) -> int:
        """Give the moment a promotion was made: before it starts, and before the sandbox begins."""
        start = self.dates(one)[0]
        begins = self._application.begins
        return min(begins - 3700 * DAY if start is None else start, begins) - crc32(one.name.encode()) % (30 * DAY)

    def updated(self, one: Promotion) -> int:
        """Give the moment a promotion or one of its codes was last changed by the publisher."""
        return self._changed.get(one.promotion_id, self.created(one))

    def status(self, one: Promotion, now: int) -> str:
        """Say whether a promotion is new, active or expired at a moment."""
        start, end = self.dates(one)
        if start is not None and now < start:
            return "new"
        return "expired" if end is not None and end <= now else "active"

    def uses(self, one: Promotion) -> int:
        """Count the codes used so far."""
        return sum(code.state == USED for code in self.codes(one))

    def codes(self, one: Promotion) -> list[Code]:
        """List the codes of a promotion as they are now: those of subscriptions, then the pool, then added ones."""
        world = self._application.world  # catches up, so that nothing is brought in between
        bought = [self._of_entry(one, world, entry) for entry in self._bought[one.promotion_id].values()]
        found = [*bought, *self._pool(one).values()]
        if not self._deleted and not self._renamed:
            return found
        return [self._renaming(code) for code in found if code.code_id not in self._deleted]

    def code(self, code_id: str) -> Code:
        """Give a code; raises ApiError 2 for one nobody knows, or that was deleted."""
        if code_id in self._deleted:
            raise ApiError(2)
        world = self._application.world
        for one in ALL:
            entry = self._bought[one.promotion_id].get(f"RC{code_id[2:]}") if code_id.startswith("PC") else None
            code = self._of_entry(one, world, entry) if entry else self._pool(one).get(code_id)
            if code:
                return self._renaming(code)
        raise ApiError(2)

    def create(self, one: Promotion, text: str, now: int) -> Code:
        """Add a code to a promotion; raises ApiError 3005 where there may be no more.

        That the limit counts codes, used or not, and that a pool takes no text twice (400) are our guesses.
        """
        codes = self.codes(one)
        if one.allowed is not None and len(codes) >= one.allowed:
            raise ApiError(LIMIT_REACHED)
        if one.prefix and any(code.text == text for code in codes):
            raise ApiError(400, f"The code exists already: {text}", fields={"code": "exists already"})
        self._numbers += 1
        code_id = invented_id("PN", f"{one.promotion_id}/{self._numbers}")
        code = Code(code_id, one.promotion_id, text, ACTIVE, now, now)
        self._pool(one)[code_id] = code
        self._changed[one.promotion_id] = now
        return code

    def rename(self, one: Promotion, code_id: str, text: str, now: int) -> Code:
        """Give a code another text; raises ApiError 2 unless it is a code of this promotion."""
        code = self.code(code_id)
        if code.promotion_id != one.promotion_id:
            raise ApiError(2)
        self._renamed[code_id] = (text, now)
        self._changed[one.promotion_id] = now
        return self._renaming(code)

    def delete(self, code_ids: Iterable[str], now: int) -> None:
        """Delete codes, all or none; raises ApiError 2 if one is not known."""
        found = [self.code(code_id) for code_id in code_ids]
        for code in found:
            self._deleted.add(code.code_id)
            self._changed[code.promotion_id] = now

    def _renaming(self, code: Code) -> Code:
        if code.code_id not in self._renamed:
            return code
        text, at = self._renamed[code.code_id]
        return replace(code, text=text, updated=max(at, code.updated))

    def _of_entry(self, one: Promotion, world: World, entry: Entry) -> Code:
        """Give the code a subscription was bought with: used, or reserved for as long as its trial is free."""
        fate, state = entry.fate, entry.state
        at = fate.create
        reserved = state.trial_status == IN_TRIAL and not fate.term.trial_price
        return Code(
            f"PC{entry.id[2:]}",
            one.promotion_id,
            fate.promotion.code_for(fate.number) if fate.promotion else one.code,
            IN_FREE_TRIAL if reserved else USED,
            max(self.created(one), min(at, at - 30 * DAY)),
            at,
            uid=world.person(entry.reader).uid,
            claimed=None if reserved else at,
            reserved=at if reserved else None,
            price=fate.term.price,
        )

    def _pool(self, one: Promotion) -> dict[str, Code]:
        """Give the codes of a promotion that no subscription was bought with, by id; made at first use."""
        if one.promotion_id not in self._made:
            self._made[one.promotion_id] = {code.code_id: code for code in self._fill(one)}
        return self._made[one.promotion_id]

    def _fill(self, one: Promotion) -> Iterable[Code]:
        """Make a pool. Outside the log its codes are in all states: used ones were for things that are no subscription.

        A promotion that has not started has only active codes, and of one that expired nothing is reserved any more.
        """
        created, begins = self.created(one), self._application.begins
        start, end = self.dates(one)
        first, last = start or created, min(end or begins, begins)
        uids = list(islice(self._application.world.users(), _CLAIMANTS)) if first < last and not one.in_log else []
        for number in range(one.pool):
            chance = crc32(f"{one.promotion_id}/{number}".encode())
            code_id, text = invented_id("PP", f"{one.promotion_id}/{number}"), f"{one.code}{chance:08X}"
            state = _CYCLE[number % len(_CYCLE)] if uids else ACTIVE
            if state in {IN_FREE_TRIAL, DELAYED} and end is not None and end <= begins:
                state = USED
            if state == ACTIVE:
                yield Code(code_id, one.promotion_id, text, state, created, created)
                continue
            at = first + chance % (last - first)
            yield Code(
                code_id, one.promotion_id, text, state, created, at, uid=uids[chance % len(uids)],
                claimed=at if state == USED else None, reserved=None if state == USED else at, price=999,
            )  # fmt: skip


EXPIRED: Final[dict[str, Callable[[str], bool]]] = {
    "all": lambda _status: True,
    "not_started": lambda status: status == "new",
    "active": lambda status: status == "active",
    "expired": lambda status: status == "expired",
}
"""Values of the parameter `expired` → which statuses they let through."""

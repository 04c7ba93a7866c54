"""Faults on command: what stands between a request and its answer, and spoils one or the other.

Each rule says which requests it is about (`Match`), which of them it takes (`skip`, `every`, `probability`, `times`)
and what happens to those. Of several rules that take a request, all latencies add up; the first that replaces the
answer, and the first that spoils the body, count. As JSON, or as text for `sandbox serve --fault`:

    part=engage,path=/ingest/*,status=503,times=5
    part=engage,status=429,retry_after=2,every=10
    part=engage,reset,when=after,probability=0.01,seed=7
    part=reports,path=*/download/*,truncate=1000,times=1
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal

from piano_engage_sandbox.journal import Part
from piano_engage_sandbox.rules import Match, RuleError, read_rule, shown

if TYPE_CHECKING:
    from piano_engage_sandbox.journal import Entry
    from piano_engage_sandbox.service import Sandbox

ANSWERS: Final = ("status", "reset", "hang", "html", "success_false", "token_refused")
"""Members that say what stands in place of the answer; a fault has one of them at most."""
LAST_STATUS: Final = 599


@dataclass(slots=True, kw_only=True)
class Fault(Match):
    """One fault: which requests, how many of them, and what happens. Seconds are real ones."""

    skip: int = 0
    """So many requests pass before it begins."""
    times: int = 0
    """After so many it is over; 0 is never."""
    every: int = 1
    """It takes the first, then every so manieth."""
    probability: float = 1.0
    """Share of those that it takes, by chance."""
    seed: int = 0
    """The same seed, the same chance."""
    when: Literal["before", "after"] = "before"
    """Whether it strikes before the work is done, so that nothing happens, or after, untold."""

    latency: float | None = None
    """Seconds the answer waits."""
    status: int | None = None
    """Status to answer instead."""
    body: str | None = None
    """Body that goes with `status`; without it a short JSON object."""
    headers: dict[str, str] | None = None
    """Headers that go with `status`."""
    retry_after: str | None = None
    """`Retry-After` that goes with `status`: seconds or a date."""
    reset: bool = False
    """The connection is reset."""
    hang: bool = False
    """No answer ever comes. Ends when the client goes, the faults are cleared or the sandbox stops."""
    html: bool = False
    """200 with a page of HTML."""
    success_false: bool = False
    """200 with `success: false`; at Piano 200 with `code`."""
    code: int = 1
    """Piano's error code that goes with `success_false`."""
    token_refused: bool = False
    """What a wrong token meets."""
    bytes_per_second: float | None = None
    """The body comes slowly."""
    truncate: int | None = None
    """Only so many bytes of the body come; then the connection is closed."""

    @property
    def answer(self) -> str | None:
        """What replaces the answer, if anything."""
        return next((name for name in ANSWERS if getattr(self, name) not in (None, False)), None)

    @property
    def spoils(self) -> bool:
        """Whether it spoils the body."""
        return self.bytes_per_second is not None or self.truncate is not None

    @property
    def label(self) -> str:
        """Its name in the journal."""
        names = ("latency", "bytes_per_second", "truncate")
        what = [name for name in names if getattr(self, name) is not None]
        if self.answer is not None:
            what.append(f"status {self.status}" if self.answer == "status" else self.answer)
        return " ".join([*what, *(["after"] if self.when == "after" else [])])


@dataclass(slots=True)
class Rule:
    """A fault with what it did so far."""

    number: int
    fault: Fault
    seen: int = 0
    """Requests it is about."""
    struck: int = 0
    """Requests it took."""
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        """Begin the chance."""
        self.chance = random.Random(self.fault.seed)

    def strikes(self, entry: Entry) -> bool:
        """Whether it takes this request; counts it."""
        fault = self.fault
        if not fault.fits(entry):
            return False
        self.seen += 1
        number = self.seen - fault.skip - 1
        if number < 0 or number % fault.every or (fault.times and self.struck >= fault.times):
            return False
        if fault.probability < 1.0 and self.chance.random() >= fault.probability:
            return False
        self.struck += 1
        return True

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON takes it."""
        return {"number": self.number, **shown(self.fault), "seen": self.seen, "struck": self.struck}


class Faults:
    """All faults. A part: `sandbox.part(Faults)`."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Begin without any."""
        self.sandbox = sandbox
        self.rules: list[Rule] = []
        self._number = 0
        self._released = asyncio.Event()

    def add(self, given: object) -> Rule:
        """Add a fault, as JSON or as a flag's text; raises RuleError that names the member."""
        fault = given if isinstance(given, Fault) else read_rule(Fault, given, "fault")
        _check(fault)
        self._number += 1
        rule = Rule(self._number, fault)
        self.rules.append(rule)
        return rule

    def remove(self, number: int) -> bool:
        """Take one away; returns whether there was one of that number."""
        kept = [rule for rule in self.rules if rule.number != number]
        found = len(kept) < len(self.rules)
        self.rules = kept
        return found

    def clear(self) -> None:
        """Take all away, and let go what waits or hangs. Call it in the server's loop."""
        self.rules = []
        self._released.set()
        self._released = asyncio.Event()

    def striking(self, entry: Entry) -> list[Fault]:
        """List the faults that take a request, in the order they were added."""
        if entry.part is Part.CONTROL:
            return []
        return [rule.fault for rule in self.rules if rule.strikes(entry)]

    async def rest(self, seconds: float) -> bool:
        """Wait; returns whether it was cut short because the faults were cleared."""
        try:
            async with asyncio.timeout(seconds):
                await self._released.wait()
        except TimeoutError:
            return False
        return True

    def as_list(self) -> list[dict[str, Any]]:
        """Give all faults as JSON takes them."""
        return [rule.as_dict() for rule in self.rules]


def _check(fault: Fault) -> None:
    """Refuse what says nothing, or two things at once."""
    given = [name for name in ANSWERS if getattr(fault, name) not in (None, False)]
    if len(given) > 1:
        msg = f"fault: {given[0]!r} and {given[1]!r} cannot both be the answer"
        raise RuleError(msg)
    if not given and fault.latency is None and not fault.spoils:
        msg = f"fault: say what happens: one of {', '.join(ANSWERS)}, or latency, bytes_per_second, truncate"
        raise RuleError(msg)
    for name in ("body", "headers", "retry_after"):
        if getattr(fault, name) is not None and fault.status is None:
            msg = f"fault: {name!r} goes with 'status' only"
            raise RuleError(msg)
    fine = {
        "every": fault.every >= 1,
        "probability": fault.probability <= 1,
        "bytes_per_second": fault.bytes_per_second != 0,
        "status": fault.status is None or HTTPStatus.OK <= fault.status <= LAST_STATUS,
    }
    for name in (name for name, is_fine in fine.items() if not is_fine):
        msg = f"fault: {name!r} is out of range: {getattr(fault, name)}"
        raise RuleError(msg)

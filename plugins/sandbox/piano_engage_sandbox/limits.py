"""Limits: so many requests a second, so many at once. What goes beyond is counted, and refused or let pass.

Neither vendor documents a limit (reference sheet of Piano, open questions; of Engage, 1.4). A client that promises to
keep one can be watched (`only_count`), one that promises to obey 429 can be taught. Seconds are real ones.
"""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from aiohttp import web

from piano_engage_sandbox.journal import ENTRY, WATCHING
from piano_engage_sandbox.rules import Match, RuleError, read_rule, shown
from piano_engage_sandbox.service import SANDBOX

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler

    from piano_engage_sandbox.journal import Entry
    from piano_engage_sandbox.service import Sandbox

BUCKETS: Final = 100_000
"""Users or applications whose pace is remembered; whoever was quiet longest is forgotten first."""

ROUNDING: Final = 1e-6
"""Part of a token that may be missing: moments are floats, and whoever keeps the pace exactly shall not be refused."""


@dataclass(slots=True, kw_only=True)
class Limit(Match):
    """One limit: `rate`, `at_once`, or both."""

    rate: float | None = None
    """Requests a second."""
    burst: int | None = None
    """So many may come at once after a pause; `rate`, rounded up, if not given."""
    at_once: int | None = None
    """Requests in flight."""
    per: Literal["all", "user", "aid", "connection"] = "all"
    """Whether all requests share the limit, or each user, application or connection has its own; then it does not
    hold for requests that name none."""
    status: int = 429
    """What is answered beyond it."""
    retry_after: bool = True
    """Whether `Retry-After` says when to come again, in whole seconds."""
    only_count: bool = False
    """Whether what goes beyond is counted and let pass."""


class Bucket:
    """A token bucket: refilled at `rate` a second, never above `burst`."""

    __slots__ = ("_burst", "_held", "_rate", "_since")

    def __init__(self, rate: float, burst: int, moment: float) -> None:
        """Begin full."""
        self._rate, self._burst, self._held, self._since = rate, burst, float(burst), moment

    def take(self, moment: float) -> float:
        """Take a token: 0, or the seconds until there is one; then nothing is taken."""
        self._held = min(self._burst, self._held + (moment - self._since) * self._rate)
        self._since = moment
        if self._held >= 1.0 - ROUNDING:
            self._held = max(self._held - 1.0, 0.0)
            return 0.0
        return (1.0 - self._held) / self._rate


class Watch:
    """A limit with what is known of it so far."""

    def __init__(self, number: int, limit: Limit) -> None:
        """Begin with nobody beyond."""
        self.number = number
        self.limit = limit
        self.requests = 0
        self.violations = 0
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._at_once: Counter[str] = Counter()

    def enter(self, entry: Entry, moment: float) -> float | None:
        """Let a request in: None, or how long to wait when it goes beyond. Call `leave` once it is over."""
        key = self._key(entry)
        if key is None:
            return None
        self.requests += 1
        self._at_once[key] += 1
        wait = self._wait(key, moment)
        if self.limit.at_once is not None and self._at_once[key] > self.limit.at_once:
            wait = max(wait or 0.0, 1.0)
        self.violations += wait is not None
        return wait

    def leave(self, entry: Entry) -> None:
        """Note that a request is over."""
        key = self._key(entry)
        if key is None:
            return
        self._at_once[key] -= 1
        if self._at_once[key] <= 0:
            del self._at_once[key]

    def _key(self, entry: Entry) -> str | None:
        """Whose limit a request falls under; None if it names nobody, as the signed link of an export does."""
        if self.limit.per == "all":
            return ""
        owner = getattr(entry, self.limit.per)
        return None if owner is None else str(owner)

    def _wait(self, key: str, moment: float) -> float | None:
        if self.limit.rate is None:
            return None
        bucket = self._buckets.get(key)
        if bucket is None:
            burst = self.limit.burst if self.limit.burst is not None else max(math.ceil(self.limit.rate), 1)
            bucket = self._buckets[key] = Bucket(self.limit.rate, burst, moment)
            if len(self._buckets) > BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket.take(moment) or None

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON takes it."""
        return {
            "number": self.number,
            **shown(self.limit),
            "requests": self.requests,
            "violations": self.violations,
        }


class Limits:
    """All limits. A part: `sandbox.part(Limits)`. `time` is the clock they go by, in seconds."""

    def __init__(self, sandbox: Sandbox, time: Callable[[], float] = time.monotonic) -> None:
        """Begin without any."""
        self.sandbox = sandbox
        self.time = time
        self.watches: list[Watch] = []
        self._number = 0

    def add(self, given: object) -> Watch:
        """Add a limit, as JSON or as a flag's text; raises RuleError."""
        limit = given if isinstance(given, Limit) else read_rule(Limit, given, "limit")
        if limit.rate is None and limit.at_once is None:
            msg = "limit: say 'rate' (requests a second), 'at_once' (requests in flight), or both"
            raise RuleError(msg)
        if limit.rate == 0 or limit.burst == 0:
            msg = f"limit: {'rate' if limit.rate == 0 else 'burst'} takes more than 0; a fault can refuse everything"
            raise RuleError(msg)
        self._number += 1
        watch = Watch(self._number, limit)
        self.watches.append(watch)
        return watch

    def clear(self) -> None:
        """Take all limits away."""
        self.watches = []

    @property
    def violations(self) -> int:
        """How many requests went beyond a limit."""
        return sum(watch.violations for watch in self.watches)

    def as_list(self) -> list[dict[str, Any]]:
        """Give all limits as JSON takes them."""
        return [watch.as_dict() for watch in self.watches]


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count what goes beyond a limit, and refuse it if the limit says so."""
    limits = request.app[SANDBOX].part(Limits)
    entry: Entry = request[ENTRY]
    if not limits.watches or (entry.part in WATCHING and all(w.limit.part is None for w in limits.watches)):
        return await handler(request)
    met = [watch for watch in limits.watches if watch.limit.fits(entry)]
    moment = limits.time()
    beyond = [(wait, watch) for watch in met if (wait := watch.enter(entry, moment)) is not None]
    try:
        refusing = [(wait, watch.limit) for wait, watch in beyond if not watch.limit.only_count]
        if beyond:
            entry.fault = "limit"
        if refusing:
            return _refusal(*max(refusing, key=lambda pair: pair[0]))
        return await handler(request)
    finally:
        for watch in met:
            watch.leave(entry)


def _refusal(wait: float, limit: Limit) -> web.Response:
    headers = {"Retry-After": str(max(math.ceil(wait), 1))} if limit.retry_after else {}
    return web.json_response({"success": False, "message": "too_many_requests"}, status=limit.status, headers=headers)

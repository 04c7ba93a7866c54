"""The journal: every request with what became of it, and the figures that follow from them.

A client that is written against the sandbox is judged by this: how often it asked, how many requests it had in flight,
whether two of them were about the same user at once, and whether it noticed an answer that was lost on the way.
Requests to `/_sandbox` and to the page are kept apart, so that watching changes nothing.

No secret is kept: values of parameters named like one, and the sandbox's own tokens and keys wherever they stand,
are masked before anything is stored.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from aiohttp import web

from piano_engage_sandbox.service import SANDBOX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aiohttp.typedefs import Handler

    from piano_engage_sandbox.service import Sandbox

KEPT: Final = 20_000
"""Requests that can be looked at; older ones stay in the counters."""
KEPT_MINUTES: Final = 24 * 60
MASK: Final = "***"
FORM: Final = "application/x-www-form-urlencoded"
ERROR: Final = 400
"""A status from here on counts as an error."""

_SECRET_NAME = re.compile(r"(?:^|[_.-])(?:token|key|secret|signature|sig|password|authorization)$", re.IGNORECASE)


class Part(StrEnum):
    """Who answers a request."""

    PUBLISHER = "publisher"
    REPORTS = "reports"
    ENGAGE = "engage"
    PAGE = "page"
    CONTROL = "control"
    NOBODY = "nobody"
    """No route takes it."""


WATCHING: Final = frozenset({Part.PAGE, Part.CONTROL})
"""Parts that only look on; kept apart from the rest."""

PARTS: web.AppKey[dict[object, Part]] = web.AppKey("parts", dict)
"""Which part each resource of the server belongs to; made by the server."""
Parameters = dict[str, "str | list[str]"]


@dataclass(slots=True, eq=False)
class Entry:
    """One request. Times in `ms` are real; `at` is the sandbox's clock, seconds since 1970."""

    number: int
    at: float
    part: Part
    method: str
    path: str
    connection: int
    """The same number for requests that came over the same connection."""
    query: Parameters = field(default_factory=dict)
    form: Parameters = field(default_factory=dict)
    user: str | None = None
    aid: str | None = None
    status: int | None = None
    """What was answered; None where nothing was."""
    fault: str = ""
    """The fault or limit that was applied, if any."""
    worked: bool = False
    """Whether the work was done: the part itself answered."""
    reached: bool = False
    """Whether the whole answer was handed to a connection that was still open."""
    ms: float | None = None
    """How long it took; None while it is in the air."""

    @property
    def lost(self) -> bool:
        """Whether the work was done and the client does not know."""
        return self.worked and not self.reached and self.ms is not None

    @property
    def failed(self) -> bool:
        """Whether it counts as an error: refused, broken, or its answer lost."""
        return self.status is None or self.status >= ERROR or not self.reached

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON takes it."""
        return {**asdict(self), "lost": self.lost}


ENTRY: web.RequestKey[Entry] = web.RequestKey("sandbox_entry", Entry)
"""Where the entry of a request is found while it is answered: `request[ENTRY]`."""
USER: web.RequestKey[str] = web.RequestKey("sandbox_user", str)
"""Where a part may leave the user a request is about, if it knows better: `request[USER]`."""


class Journal:
    """All requests since the start, or since the last reset. A part: `sandbox.part(Journal)`."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Begin with nothing."""
        self._sandbox = sandbox
        self._connections: WeakKeyDictionary[asyncio.BaseTransport, int] = WeakKeyDictionary()
        self._connected = 0
        tokens = [secret for app in sandbox.piano.values() for secret in (app.token, app.private_key)]
        self._secrets = (*tokens, sandbox.api_key)
        self.number = 0
        self.reset()

    def reset(self) -> None:
        """Forget all requests. Numbers go on, so that a client that reads on by number misses none."""
        self.entries: deque[Entry] = deque(maxlen=KEPT)
        self.watched: deque[Entry] = deque(maxlen=KEPT // 20)
        self.requests = 0
        self.lost = 0
        self.overlaps = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.most_in_a_second = 0
        self._answers: Counter[tuple[Part, str, str, int | None]] = Counter()
        self._faults: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._seconds: deque[float] = deque()
        self._minutes: dict[int, dict[Part, list[int]]] = {}

    def begin(self, request: web.Request, part: Part) -> Entry:
        """Note a request that came in."""
        watching = part in WATCHING
        if not watching:
            self.number += 1
        entry = Entry(
            number=0 if watching else self.number,
            at=self._sandbox.now(),
            part=part,
            method=request.method,
            path=self._clean(request.path),
            connection=self._connection(request),
        )
        if request.query_string:
            entry.query = self._masked(request.query.items())
            entry.aid = request.query.get("aid")
            entry.user = request.query.get("userId") or request.query.get("uid")
        if watching:
            self.watched.append(entry)
            return entry
        self.entries.append(entry)
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self._count_second(time.monotonic())
        return entry

    def read_form(self, entry: Entry, form: Mapping[str, Any]) -> None:
        """Note the form of a request."""
        entry.form = self._masked((name, str(value)) for name, value in form.items())
        entry.aid = entry.aid or form.get("aid")
        entry.user = entry.user or form.get("uid") or form.get("user_id")

    def in_the_air(self, entry: Entry) -> None:
        """Note whom a request is about; counts an overlap when another one about the same user is unanswered."""
        if entry.user is None:
            return
        if self._users[entry.user]:
            self.overlaps += 1
        self._users[entry.user] += 1

    def end(self, entry: Entry, seconds: float, *, user: str | None, route: str) -> None:
        """Note what became of a request. `user` is the one that was put into the air, `route` its path's pattern."""
        entry.ms = round(seconds * 1000, 3)
        if entry.part in WATCHING:
            return
        self.in_flight = max(self.in_flight - 1, 0)
        self.lost += entry.lost
        self._answers[entry.part, entry.method, route, entry.status] += 1
        if entry.fault:
            self._faults[entry.fault] += 1
        if user is not None:
            self._users[user] -= 1
            if self._users[user] <= 0:
                del self._users[user]
        self._count_minute(entry)

    def select(
        self, *, since: int = 0, limit: int = 1000, part: str | None = None, lost: bool | None = None, **equal: str
    ) -> list[dict[str, Any]]:
        """List requests with a greater number than `since`, oldest first, the newest `limit` of them.

        Other names are those of an entry, compared as text.
        """
        source = self.watched if part in WATCHING else self.entries
        wanted = {**equal, **({} if part is None else {"part": part})}
        found = [
            entry
            for entry in source
            if (entry.number > since or entry.part in WATCHING)
            and (lost is None or entry.lost == lost)
            and all(str(getattr(entry, name)) == value for name, value in wanted.items())
        ]
        return [entry.as_dict() for entry in found[-limit:]] if limit > 0 else []

    def counters(self) -> dict[str, Any]:
        """Give the figures since the start or the last reset."""
        return {
            "requests": self.requests,
            "answers": [
                {"part": part, "method": method, "path": path, "status": status, "count": count}
                for (part, method, path, status), count in sorted(self._answers.items(), key=str)
            ],
            "faults": dict(self._faults),
            "lost_answers": self.lost,
            "overlaps": self.overlaps,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "most_in_a_second": self.most_in_a_second,
            "connections": len({entry.connection for entry in self.entries}),
        }

    def minutes(self, last: int = 60) -> list[dict[str, Any]]:
        """Give requests and errors of each of the last minutes of real time, by part, oldest first, this one too."""
        this = int(time.time() // 60)
        return [
            {
                "minute": datetime.fromtimestamp(minute * 60, UTC).isoformat(timespec="minutes"),
                "parts": {
                    str(part): {"requests": requests, "errors": errors}
                    for part, (requests, errors) in self._minutes.get(minute, {}).items()
                },
            }
            for minute in range(this - last + 1, this + 1)
        ]

    def _connection(self, request: web.Request) -> int:
        transport = request.transport
        if transport is None:
            return 0
        number = self._connections.get(transport)
        if number is None:
            self._connected += 1
            number = self._connections[transport] = self._connected
        return number

    def _count_second(self, moment: float) -> None:
        self._seconds.append(moment)
        while self._seconds[0] <= moment - 1.0:
            self._seconds.popleft()
        self.most_in_a_second = max(self.most_in_a_second, len(self._seconds))

    def _count_minute(self, entry: Entry) -> None:
        minute = int(time.time() // 60)
        if minute not in self._minutes:
            self._minutes[minute] = {}
            for old in [m for m in self._minutes if m <= minute - KEPT_MINUTES]:
                del self._minutes[old]
        count = self._minutes[minute].setdefault(entry.part, [0, 0])
        count[0] += 1
        count[1] += entry.failed

    def _masked(self, items: Iterable[tuple[str, str]]) -> Parameters:
        given: Parameters = {}
        hidden = self._sandbox.switches.engage.key_parameter
        for name, text in items:
            value = MASK if name == hidden or _SECRET_NAME.search(name) else self._clean(text)
            before = given.get(name)
            if before is None:
                given[name] = value
            elif isinstance(before, list):
                before.append(value)
            else:
                given[name] = [before, value]
        return given

    def _clean(self, text: str) -> str:
        """Mask the sandbox's own secrets where they stand in a text."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        return text


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Note each request and what became of it; the outermost of all, so it sends the answer itself."""
    journal = request.app[SANDBOX].part(Journal)
    resource = request.match_info.route.resource
    entry = request[ENTRY] = journal.begin(request, request.app[PARTS].get(resource, Part.NOBODY))
    began = time.perf_counter()
    user = None
    try:
        if entry.part not in WATCHING:
            await _look(journal, request, entry)
            user = entry.user
            journal.in_the_air(entry)
            if user is not None:
                await asyncio.sleep(0)  # lets in what arrived at the same moment, so that overlaps show
        return await _answer(request, handler, entry)
    finally:
        entry.user = request.get(USER) or entry.user
        route = entry.path if entry.part is Part.NOBODY or resource is None else resource.canonical
        journal.end(entry, time.perf_counter() - began, user=user, route="" if entry.part is Part.NOBODY else route)


async def _look(journal: Journal, request: web.Request, entry: Entry) -> None:
    """Learn from body and headers whom a request is about."""
    if request.can_read_body and request.content_type == FORM:
        journal.read_form(entry, await request.post())
    elif request.can_read_body and entry.part is Part.ENGAGE:
        await request.read()
        entry.user = entry.user or await _user_of_json(request)
    entry.user = entry.user or request.headers.get("user-id")


async def _user_of_json(request: web.Request) -> str | None:
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        return None
    user = body.get("user_id") if isinstance(body, dict) else None
    return user if isinstance(user, str) else None


async def _answer(request: web.Request, handler: Handler, entry: Entry) -> web.StreamResponse:
    """Let the request be answered, and send the answer, to learn whether it went out."""
    try:
        response = await handler(request)
    except web.HTTPException as e:
        await _send(request, e, entry)
        raise
    except ConnectionError:
        return web.Response()  # it broke while it was streamed; nobody is there to be told
    except Exception:
        entry.status = 500
        raise
    await _send(request, response, entry)
    return response


async def _send(request: web.Request, response: web.StreamResponse, entry: Entry) -> None:
    if not _is_open(request):
        return
    entry.status = response.status
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        return
    entry.reached = _is_open(request)


def _is_open(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()

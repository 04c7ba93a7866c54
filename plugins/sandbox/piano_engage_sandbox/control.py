"""The control endpoint under `/_sandbox`: clock, switches, faults, limits, and what was asked so far.

For whoever tests, over HTTP, in JSON. What is wrong is answered with 400 and `{"error": "..."}` that names the member.
Nothing here needs a credential: this is a sandbox on localhost.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from piano_engage_sandbox import control_parts, control_piano
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.control_parts import ControlError, answer, body_of
from piano_engage_sandbox.faults import Faults
from piano_engage_sandbox.journal import Entry, Journal
from piano_engage_sandbox.limits import Limits
from piano_engage_sandbox.lives import FAR
from piano_engage_sandbox.service import SANDBOX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from piano_engage_sandbox.application import Application
    from piano_engage_sandbox.service import Sandbox

    Action = Callable[[web.Request, Sandbox], Awaitable[object]]

UNITS: Final = {"w": 7 * DAY, "d": DAY, "h": 3600, "m": 60, "s": 1}
DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([wdhms])")


def seconds_of(duration: object) -> float:
    """Read `3d`, `90m`, `1d12h` or a number of seconds; raises ControlError."""
    if isinstance(duration, (int, float)) and not isinstance(duration, bool):
        return float(duration)
    text = str(duration)
    parts = DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return float(sum(float(number) * UNITS[unit] for number, unit in parts))
    try:
        return float(text)
    except ValueError as e:
        msg = f"advance takes seconds or a duration like 3d, 90m, 1d12h, not {duration!r}"
        raise ControlError(msg) from e


def _first(sandbox: Sandbox) -> Application:
    return next(iter(sandbox.piano.values()))


def _clock(sandbox: Sandbox) -> dict[str, object]:
    now = sandbox.now()
    moment = datetime.fromtimestamp(now, UTC)
    return {
        "now": now,
        "utc": moment.isoformat(timespec="seconds"),
        "local": moment.astimezone(_first(sandbox).zone.info).isoformat(timespec="seconds"),
        "running": sandbox.now.running,
    }


async def get_clock(_: web.Request, sandbox: Sandbox) -> object:
    """Tell the moment it is."""
    return _clock(sandbox)


async def post_clock(request: web.Request, sandbox: Sandbox) -> object:
    """Move the clock: `{"advance": "3d"}`, `{"set": "2026-04-01T06:00"}`, `{"running": false}`."""
    given = await body_of(request, {"advance", "set", "running"})
    if "running" in given and not isinstance(given["running"], bool):
        msg = f"running takes true or false, not {given['running']!r}"
        raise ControlError(msg)
    if "advance" in given and "set" in given:
        msg = "advance and set cannot both be given"
        raise ControlError(msg)
    seconds = seconds_of(given["advance"]) if "advance" in given else 0.0
    if "set" in given:
        seconds = _first(sandbox).zone.parse(str(given["set"])) - sandbox.now()
    if seconds < 0:
        msg = f"the sandbox's clock does not go back: {'set' if 'set' in given else 'advance'} is in the past"
        raise ControlError(msg)
    if "running" in given:
        sandbox.now.run(running=given["running"])
    if seconds:
        sandbox.now.advance(seconds)
    return _clock(sandbox)


async def get_switches(_: web.Request, sandbox: Sandbox) -> object:
    """Tell how all switches stand."""
    return sandbox.switches.as_dict()


async def post_switches(request: web.Request, sandbox: Sandbox) -> object:
    """Set switches: `{"reports.packed": "zip"}`; all or none."""
    given = await body_of(request)
    before = sandbox.switches.as_dict()
    try:
        for name, value in given.items():
            sandbox.switches.set(name, value)
    except ValueError:
        for name, value in before.items():
            sandbox.switches.set(name, value)
        raise
    return sandbox.switches.as_dict()


async def get_faults(_: web.Request, sandbox: Sandbox) -> object:
    """List the faults, with how many requests each is about and how many it struck."""
    return sandbox.part(Faults).as_list()


async def post_faults(request: web.Request, sandbox: Sandbox) -> object:
    """Add a fault, or a list of them; all or none."""
    return _add(sandbox.part(Faults), await _rules(request))


async def delete_faults(_: web.Request, sandbox: Sandbox) -> object:
    """Take all faults away, and let go what hangs."""
    sandbox.part(Faults).clear()
    return []


async def delete_fault(request: web.Request, sandbox: Sandbox) -> object:
    """Take one fault away."""
    number = request.match_info["number"]
    if not number.isdigit() or not sandbox.part(Faults).remove(int(number)):
        msg = f"no fault has the number {number}"
        raise ControlError(msg)
    return sandbox.part(Faults).as_list()


async def get_limits(_: web.Request, sandbox: Sandbox) -> object:
    """List the limits, with what went beyond them."""
    return sandbox.part(Limits).as_list()


async def post_limits(request: web.Request, sandbox: Sandbox) -> object:
    """Add a limit, or a list of them; all or none."""
    return _add(sandbox.part(Limits), await _rules(request))


async def delete_limits(_: web.Request, sandbox: Sandbox) -> object:
    """Take all limits away."""
    sandbox.part(Limits).clear()
    return []


async def _rules(request: web.Request) -> list[object]:
    try:
        given = json.loads(await request.read() or b"null")
    except ValueError as e:
        msg = f"the body is not JSON: {e}"
        raise ControlError(msg) from e
    return given if isinstance(given, list) else [given]


def _add(part: Faults | Limits, given: list[object]) -> object:
    added = [type(part)(part.sandbox).add(rule) for rule in given] and [part.add(rule) for rule in given]
    return [rule.as_dict() for rule in added]


async def get_requests(request: web.Request, sandbox: Sandbox) -> object:
    """List requests: `?since=17&limit=100&part=engage&status=503&lost=true`, and any other member of an entry."""
    query = dict(request.query)
    known = {name for name in Entry.__dataclass_fields__ if name not in {"query", "form", "ms", "at", "number"}}
    if unknown := sorted(set(query) - known - {"since", "limit", "lost"}):
        msg = f"unknown parameter {unknown[0]!r}; there are: since, limit, lost, {', '.join(sorted(known))}"
        raise ControlError(msg)
    numbers = {name: query.pop(name) for name in ("since", "limit") if name in query}
    if wrong := [name for name, text in numbers.items() if not text.isdigit()]:
        msg = f"{wrong[0]} takes a number, not {numbers[wrong[0]]!r}"
        raise ControlError(msg)
    lost = {"lost": query.pop("lost").lower() == "true"} if "lost" in query else {}
    flags = {name: text.capitalize() for name, text in query.items() if name in {"worked", "reached"}}
    equal: dict[str, Any] = {**query, **flags, **lost, **{name: int(text) for name, text in numbers.items()}}
    return sandbox.part(Journal).select(**equal)


async def delete_requests(_: web.Request, sandbox: Sandbox) -> object:
    """Forget all requests and counters."""
    sandbox.part(Journal).reset()
    return []


async def get_counters(_: web.Request, sandbox: Sandbox) -> object:
    """Tell the figures: answers by path and status, most in flight, overlaps, lost answers, violations of limits."""
    return {**sandbox.part(Journal).counters(), "violations": sandbox.part(Limits).violations}


async def get_minutes(request: web.Request, sandbox: Sandbox) -> object:
    """Tell requests and errors of each of the last minutes: `?last=60`."""
    last = request.query.get("last", "60")
    if not last.isdigit():
        msg = f"last takes a number, not {last!r}"
        raise ControlError(msg)
    return sandbox.part(Journal).minutes(int(last))


async def post_reset(_: web.Request, sandbox: Sandbox) -> object:
    """Forget faults, limits, requests, and what Engage holds. Clock, switches and readers stay."""
    sandbox.part(Faults).clear()
    sandbox.part(Limits).clear()
    sandbox.part(Journal).reset()
    control_parts.reset(sandbox)
    return {"reset": True}


async def get_apps(_: web.Request, sandbox: Sandbox) -> object:
    """Tell the credentials of each application of Piano."""
    return [
        {
            "aid": app.aid,
            "name": app.name,
            "timezone": app.timezone,
            "rows": app.rows,
            "api_token": app.token,
            "private_key": app.private_key,
        }
        for app in sandbox.piano.values()
    ]


async def get_subscriptions(request: web.Request, sandbox: Sandbox) -> object:
    """List a reader's subscriptions: `/_sandbox/app/<aid>/subscriptions?uid=…`."""
    app = sandbox.piano.get(request.match_info["aid"])
    if app is None:
        msg = f"no application {request.match_info['aid']!r}; there are: {', '.join(sandbox.piano)}"
        raise ControlError(msg)
    uid = request.query.get("uid")
    if not uid:
        msg = "uid is missing: ?uid=…"
        raise ControlError(msg)
    return [
        {
            "subscription_id": entry.id,
            "term_id": entry.fate.term.term_id,
            "next_at": None if entry.next_at == FAR else entry.next_at,
            **_plain(entry.fate),
            **_plain(entry.state),
        }
        for entry in app.world.of_user(uid)
    ]


def _plain(facts: object) -> dict[str, object]:
    """Give the plain members of a dataclass: texts, numbers, true and false, nothing."""
    members = {f.name: getattr(facts, f.name) for f in fields(facts)}  # type: ignore[arg-type]
    plain = {name: value for name, value in members.items() if isinstance(value, str | int | float | None)}
    return {name: None if value == FAR else value for name, value in plain.items()}


async def get_overview(request: web.Request, sandbox: Sandbox) -> object:
    """Tell what there is."""
    listed = {f"{method} {path}": (action.__doc__ or "").split("\n")[0] for method, path, action in TABLE}
    return {"sandbox": sandbox.url or str(request.url.origin()), "clock": _clock(sandbox), "routes": listed}


TABLE: Final[list[tuple[str, str, Action]]] = [
    ("GET", "/_sandbox/", get_overview),
    ("GET", "/_sandbox/clock", get_clock),
    ("POST", "/_sandbox/clock", post_clock),
    ("GET", "/_sandbox/switches", get_switches),
    ("POST", "/_sandbox/switches", post_switches),
    ("GET", "/_sandbox/faults", get_faults),
    ("POST", "/_sandbox/faults", post_faults),
    ("DELETE", "/_sandbox/faults", delete_faults),
    ("DELETE", "/_sandbox/faults/{number}", delete_fault),
    ("GET", "/_sandbox/limits", get_limits),
    ("POST", "/_sandbox/limits", post_limits),
    ("DELETE", "/_sandbox/limits", delete_limits),
    ("GET", "/_sandbox/requests", get_requests),
    ("DELETE", "/_sandbox/requests", delete_requests),
    ("GET", "/_sandbox/counters", get_counters),
    ("GET", "/_sandbox/minutes", get_minutes),
    ("POST", "/_sandbox/reset", post_reset),
    ("GET", "/_sandbox/apps", get_apps),
    ("GET", "/_sandbox/app/{aid}/subscriptions", get_subscriptions),
    *control_parts.TABLE,
    *control_piano.TABLE,
]


def routes() -> list[web.RouteDef]:
    """List the routes of this part."""
    return [web.route(method, path, _handler(action)) for method, path, action in TABLE]


def _handler(action: Action) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        try:
            return answer(await action(request, request.app[SANDBOX]))
        except ValueError as e:  # ControlError, RuleError, SwitchError, ClockError: all name what is wrong
            return answer({"error": str(e)}, status=400)

    return handle

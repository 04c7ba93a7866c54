"""The ping: what a site or an app asks of Engage while somebody reads, and how events are told to it.

One answer for everything: prompts (the sandbox has none), the user's segments, and how often to ask again (reference
sheet of Engage, 1.5, 5.5 and 7). None of it needs a secret, and unknown ids get 200 too.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from piano_engage_sandbox.application import invented
from piano_engage_sandbox.engage.store import Engage
from piano_engage_sandbox.journal import USER
from piano_engage_sandbox.service import SANDBOX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from piano_engage_sandbox.service import Sandbox

FREQUENCY: Final = 30
"""`ping_frequency`: seconds after which a client asks again. A number of ours; the documents give the name only."""
EVENTS_KEPT: Final = 10_000
PROMPT_CALLS: Final = ("impression", "goal", "dismiss", "holdout")
"""Calls about a prompt, `/paths/{path_id}/…`, all GET."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was told about a user."""

    at: float
    kind: str
    """`custom` for a tracker's event, or the name of the call about a prompt."""
    subject: str
    """Id of the tracker or of the prompt."""
    user_id: str | None
    anonymous_id: str | None
    details: dict[str, str]
    """The rest of the query."""


class Pings:
    """Trackers and what was told. A part: `sandbox.part(Pings)`."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Begin with one tracker, for finished checkouts."""
        seed = sandbox.options.seed
        self._seed = seed
        self.trackers: dict[str, str] = {}
        """Names of the trackers by id, as in Settings > Usage Tracking."""
        self.define_trackers(["Checkout finished"])
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        """What was recorded, oldest first."""
        self.pings = 0
        """Ordinary pings answered."""
        self.began = int(sandbox.now())

    def define_trackers(self, names: Iterable[str]) -> None:
        """Replace the trackers; each gets an id that is the same for the same seed and name."""
        self.trackers = {str(uuid.UUID(invented("tracker", self._seed, name), version=4)): name for name in names}

    def reset(self) -> None:
        """Forget what was told; trackers stay."""
        self.events.clear()
        self.pings = 0


def routes() -> list[web.RouteDef]:
    """List the routes of this part."""
    return [
        web.get("/ping", ping, allow_head=False),
        web.get("/paths/goal_reset_all", goal_reset_all, allow_head=False),
        *(web.get(f"/paths/{{path_id}}/{call}", prompt_call, allow_head=False) for call in PROMPT_CALLS),
    ]


def _ids(request: web.Request) -> tuple[str, str | None, str | None]:
    """Give the ids of application, user and anonymous user."""
    app_id = request.headers.get("rf-app") or request.query.get("id", "")
    user_id = request.headers.get("user-id") or request.query.get("userId") or None
    if user_id:
        request[USER] = user_id
    return app_id, user_id, request.headers.get("anonymous-user-id") or None


async def ping(request: web.Request) -> web.Response:
    """Answer an ordinary ping, take a tracker's event, or traits from a client."""
    sandbox = request.app[SANDBOX]
    app_id, user_id, anonymous_id = _ids(request)
    body: dict[str, Any] = {"paths": [], "segments": []}
    if app_id == sandbox.app_id:
        _take(request, sandbox, user_id, anonymous_id)
        body["segments"] = _segments(sandbox.part(Engage), user_id or anonymous_id)
    body["configs"] = _configs(request)
    body["anonymous_user_id"] = anonymous_id or _invent(user_id or "")
    body["visitor_id"] = user_id or body["anonymous_user_id"]
    return _cached(request, body)


def _take(request: web.Request, sandbox: Sandbox, user_id: str | None, anonymous_id: str | None) -> None:
    """Do what a ping of the right application asks for."""
    pings, engage = sandbox.part(Pings), sandbox.part(Engage)
    who = user_id or anonymous_id
    user = engage.user(who) if who else None
    if user is not None:
        engage.active(user)
    if request.query.get("type") == "custom":
        tracker = request.query.get("custom_field_id", "")
        if tracker in pings.trackers and who:
            pings.events.append(_event(request, sandbox, "custom", tracker))
        return
    pings.pings += 1
    properties = properties_of(request)
    if who and properties:
        engage.write(who, properties, source="ping", anonymous=not user_id, anonymous_id=anonymous_id)


def properties_of(request: web.Request) -> dict[str, str]:
    """Read `properties[key]=value` from the query; of a repeated key the last counts."""
    return {
        name[len("properties[") : -1]: value
        for name, value in request.query.items()
        if name.startswith("properties[") and name.endswith("]")
    }


def _event(request: web.Request, sandbox: Sandbox, kind: str, subject: str) -> Event:
    _, user_id, anonymous_id = _ids(request)
    said = {k: v for k, v in request.query.items() if k not in {"id", "type", "custom_field_id", "userId"}}
    return Event(sandbox.now(), kind, subject, user_id, anonymous_id, said)


def _segments(engage: Engage, user_id: str | None) -> list[dict[str, str]]:
    if user_id is None:
        return []
    return [{"id": segment.id, "name": segment.name} for segment in engage.segments if user_id in segment]


def _configs(request: web.Request) -> dict[str, Any]:
    pings = request.app[SANDBOX].part(Pings)
    device = request.query.get("device_type", "web")
    usage = [{"id": tracker, "name": name} for tracker, name in pings.trackers.items()]
    return {"ping_frequency": FREQUENCY, "last_update": pings.began, "device_type": device, "usage": usage}


def _invent(user_id: str) -> str:
    """Give a visitor the same anonymous id each time."""
    return str(uuid.UUID(hashlib.sha256(user_id.encode(errors="replace")).hexdigest()[:32], version=4))


def _cached(request: web.Request, body: dict[str, Any]) -> web.Response:
    """Answer with an ETag, or 304 to who has this answer already; SDKs do so."""
    text = json.dumps(body)
    tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
    if request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers={"ETag": tag})
    return web.Response(text=text, content_type="application/json", headers={"ETag": tag})


async def prompt_call(request: web.Request) -> web.Response:
    """Note what became of a prompt: seen, accepted, dismissed, held back."""
    call = request.path.rpartition("/")[2]
    return _noted(request, call, request.match_info["path_id"])


async def goal_reset_all(request: web.Request) -> web.Response:
    """Note that a tester wants all goals reset."""
    return _noted(request, "goal_reset_all", "")


def _noted(request: web.Request, kind: str, subject: str) -> web.Response:
    sandbox = request.app[SANDBOX]
    app_id, *_ = _ids(request)
    if app_id in {"", sandbox.app_id}:  # the documents list no `id` for most of these
        sandbox.part(Pings).events.append(_event(request, sandbox, kind, subject))
    return web.json_response({"success": True, "configs": {"ping_frequency": FREQUENCY}})

"""The control endpoint of Engage, and what all of the control endpoint shares: bodies, answers, errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from piano_engage_sandbox.engage.ping import Pings
from piano_engage_sandbox.engage.store import Engage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from piano_engage_sandbox.service import Sandbox

    Action = Callable[[web.Request, Sandbox], Awaitable[object]]


class ControlError(ValueError):
    """A request to the control endpoint that makes no sense; the message names the member."""


def answer(content: object, *, status: int = 200) -> web.Response:
    """Answer in JSON, readable for a person."""
    text = json.dumps(content, ensure_ascii=False, indent=2, default=str)
    return web.Response(text=text + "\n", status=status, content_type="application/json")


async def body_of(request: web.Request, known: set[str] | None = None) -> dict[str, Any]:
    """Give the JSON object of a body; raises ControlError when it is none, or has a member nobody knows."""
    try:
        given = json.loads(await request.read() or b"{}")
    except ValueError as e:
        msg = f"the body is not JSON: {e}"
        raise ControlError(msg) from e
    if not isinstance(given, dict):
        msg = f"the body is a JSON object, not {type(given).__name__}"
        raise ControlError(msg)
    if known is not None and (unknown := sorted(set(given) - known)):
        msg = f"unknown member {unknown[0]!r}; there are: {', '.join(sorted(known))}"
        raise ControlError(msg)
    return given


async def list_of(request: web.Request) -> list[Any]:
    """Give the JSON list of a body; raises ControlError when it is none."""
    try:
        given = json.loads(await request.read() or b"null")
    except ValueError as e:
        msg = f"the body is not JSON: {e}"
        raise ControlError(msg) from e
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        msg = "the body is a JSON list of objects"
        raise ControlError(msg)
    return given


def reset(sandbox: Sandbox) -> None:
    """Forget what Engage holds."""
    sandbox.part(Engage).reset()
    sandbox.part(Pings).reset()


def define_segments(sandbox: Sandbox, definitions: list[dict[str, Any]]) -> None:
    """Replace the segments; raises ValueError that names what is wrong."""
    sandbox.part(Engage).define_segments(definitions)


async def get_engage(_: web.Request, sandbox: Sandbox) -> object:
    """Tell how many users Engage has, its traits, segments and files."""
    return sandbox.part(Engage).status()


async def get_user(request: web.Request, sandbox: Sandbox) -> object:
    """Tell what Engage holds of a user: traits, collections, segments; null for one it does not know."""
    user = sandbox.part(Engage).user(request.match_info["user"])
    if user is None:
        return None
    return {
        "id": user.id,
        "created": user.created,
        "active": user.active,
        "anonymous": user.anonymous,
        "traits": user.traits,
        "collections": user.collections,
        "segments": user.segments,
        "last_written": user.last_written,
        "source": user.source,
    }


async def post_traits(request: web.Request, sandbox: Sandbox) -> object:
    """Configure traits as an administrator: `{"days_left": {"type": "number", "display": "slider"}}`."""
    engage = sandbox.part(Engage)
    for name, given in (await body_of(request)).items():
        if not isinstance(given, dict) or "type" not in given:
            msg = f"trait {name!r} takes an object with type and, if you like, display and description"
            raise ControlError(msg)
        if unknown := sorted(set(given) - {"type", "display", "description"}):
            msg = f"trait {name!r}: unknown member {unknown[0]!r}; there are: type, display, description"
            raise ControlError(msg)
        engage.configure(name, given["type"], given.get("display"), description=given.get("description", ""))
    return engage.status()["traits"]


async def put_segments(request: web.Request, sandbox: Sandbox) -> object:
    """Replace all segments by those of a list."""
    define_segments(sandbox, await list_of(request))
    return sandbox.part(Engage).status()["segments"]


async def put_collection(request: web.Request, sandbox: Sandbox) -> object:
    """Replace a user's records of a collection by those of a list."""
    user, name = request.match_info["user"], request.match_info["name"]
    sandbox.part(Engage).set_collection(user, name, await list_of(request))
    return await get_user(request, sandbox)


TABLE: Final[list[tuple[str, str, Action]]] = [
    ("GET", "/_sandbox/engage", get_engage),
    ("GET", "/_sandbox/engage/user/{user}", get_user),
    ("POST", "/_sandbox/engage/traits", post_traits),
    ("PUT", "/_sandbox/engage/segments", put_segments),
    ("PUT", "/_sandbox/engage/user/{user}/collections/{name}", put_collection),
]

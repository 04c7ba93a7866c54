"""The Ingest API: `/ingest/property` in its two forms (reference sheet of Engage, 1).

The JSON form carries `id`, `user_id` and `properties` in the body and authenticates; the older query form carries `id`,
`userId` and `properties[key]` in the address and does not seem to. What neither page says is a switch.
"""

from __future__ import annotations

import base64
import hmac
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NoReturn

from aiohttp import web

from piano_engage_sandbox.engage import ping
from piano_engage_sandbox.engage.store import Engage
from piano_engage_sandbox.engage.values import CLEAR, Clear, Value
from piano_engage_sandbox.journal import USER
from piano_engage_sandbox.service import SANDBOX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from piano_engage_sandbox.service import Sandbox
    from piano_engage_sandbox.switches import EngageSwitches

PATH: Final = "/ingest/property"
NOT_AUTHORIZED: Final = (HTTPStatus.UNAUTHORIZED, "not_authorized")
USER_NOT_FOUND: Final = (HTTPStatus.UNPROCESSABLE_ENTITY, "userId_not_found")
INVALID_PROPERTY: Final = (HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_property")
BAD_REQUEST: Final = (HTTPStatus.BAD_REQUEST, "bad_request")
TOO_LARGE: Final = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large")
NOT_ALLOWED: Final = (HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed")
"""Status and message of refusals. 401 and 422 for the user are documented (1.4), the others are guesses."""


class Refused(Exception):  # noqa: N818 - an answer, no fault
    """A request that changes nothing; `status` and `message` are what is answered."""

    def __init__(self, answer: tuple[HTTPStatus, str]) -> None:
        """Take one of the answers above."""
        super().__init__(answer[1])
        self.status, self.message = answer


@dataclass(slots=True)
class Wanted:
    """What a request asks for, in either form."""

    id: object
    user_id: object
    properties: Mapping[str, Any]
    anonymous_id: str | None = None
    source: str = "api"
    auth: str = "none"
    """What it must bring, as the switches say."""
    kept: dict[str, Value | Clear] = field(default_factory=dict)


def routes() -> list[web.RouteDef]:
    """List the routes of this part."""
    return [web.post(PATH, write_property), web.get(PATH, write_property, allow_head=False), *ping.routes()]


async def write_property(request: web.Request) -> web.Response:
    """Write properties of one user: POST, or GET in the query form if the switch has it."""
    sandbox = request.app[SANDBOX]
    try:
        wanted = await _read(request, sandbox.switches.engage)
        if isinstance(wanted.user_id, str):
            request[USER] = wanted.user_id
        known = _authorized(request, sandbox, wanted)
        user_id, anonymous = _user(sandbox, wanted)
        wanted.kept = clean(wanted.properties, sandbox.switches.engage)
    except Refused as e:
        return web.json_response({"success": False, "message": e.message}, status=e.status)
    if known:
        sandbox.part(Engage).write(
            user_id, wanted.kept, source=wanted.source, anonymous=anonymous, anonymous_id=wanted.anonymous_id
        )
    return web.json_response({"success": True})


async def _read(request: web.Request, switches: EngageSwitches) -> Wanted:
    """Read either form: it is the JSON form as soon as there is a body."""
    if switches.max_body and (request.content_length or 0) > switches.max_body:
        raise Refused(TOO_LARGE)
    body = await request.read()
    if switches.max_body and len(body) > switches.max_body:
        raise Refused(TOO_LARGE)
    if not body and any(name in {"id", "userId"} or name.startswith("properties[") for name in request.query):
        return _read_query(request, switches)
    if request.method != "POST":
        raise Refused(NOT_ALLOWED)
    return _read_json(request, body, switches)


def _read_json(request: web.Request, body: bytes, switches: EngageSwitches) -> Wanted:
    try:
        given = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise Refused(BAD_REQUEST) from e
    if not isinstance(given, dict) or not isinstance(given.get("properties"), dict):
        raise Refused(BAD_REQUEST)
    anonymous = request.headers.get("anonymous-user-id")
    return Wanted(given.get("id"), given.get("user_id"), given["properties"], anonymous, "api", switches.auth)


def _no_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads and JSON does not have."""
    msg = f"not JSON: {name}"
    raise ValueError(msg)


def _read_query(request: web.Request, switches: EngageSwitches) -> Wanted:
    if switches.query_verbs not in {request.method, "both"}:
        raise Refused(NOT_ALLOWED)
    user_id = request.query.get("userId") or request.headers.get("user-id")
    anonymous = request.headers.get("anonymous-user-id")
    properties = ping.properties_of(request)
    return Wanted(request.query.get("id"), user_id, properties, anonymous, "query", switches.query_auth)


def _authorized(request: web.Request, sandbox: Sandbox, wanted: Wanted) -> bool:
    """Check credentials and application id; gives False where the answer is 200 and nothing is kept."""
    basic = _basic(request, sandbox)
    key = hmac.compare_digest(
        request.query.get(sandbox.switches.engage.key_parameter, "").encode(errors="replace"), sandbox.api_key.encode()
    )
    enough = {"basic": basic is True, "key": key, "either": basic is True or key, "both": basic is True and key}
    if not enough.get(wanted.auth, True):
        raise Refused(NOT_AUTHORIZED)
    if wanted.id == sandbox.app_id:
        return True
    if sandbox.switches.engage.wrong_id == "401":
        raise Refused(NOT_AUTHORIZED)
    return False


def _basic(request: web.Request, sandbox: Sandbox) -> bool:
    """Whether the request brings Basic auth of application id and API key, both right."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        pair = base64.b64decode(given.strip(), validate=True)
    except ValueError:
        return False
    return hmac.compare_digest(pair, f"{sandbox.app_id}:{sandbox.api_key}".encode())


def _user(sandbox: Sandbox, wanted: Wanted) -> tuple[str, bool]:
    """Give the id to write to, and whether it is an anonymous one."""
    if isinstance(wanted.user_id, str) and wanted.user_id:
        user_id, anonymous = wanted.user_id, False
    elif wanted.anonymous_id:
        user_id, anonymous = wanted.anonymous_id, True
    else:
        raise Refused(USER_NOT_FOUND)
    if sandbox.switches.engage.unknown_user == "422" and sandbox.part(Engage).user(user_id) is None:
        raise Refused(USER_NOT_FOUND)
    return user_id, anonymous


def _which(key: str, value: object, switches: EngageSwitches) -> Literal["store", "ignore", "clear", "422"]:
    """Tell what the switches say about a property."""
    if " " in key and switches.spaced_keys != "store":
        return switches.spaced_keys
    if isinstance(value, dict | list):
        return switches.nested
    if value is None:
        return switches.null
    return switches.empty if value == "" else "store"


def _stored(value: object) -> Value:
    """Give what is kept of a value: lists and objects as their JSON."""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return value  # type: ignore[return-value] # JSON has nothing else


def clean(properties: Mapping[str, Any], switches: EngageSwitches) -> dict[str, Value | Clear]:
    """Apply the switches to what was given; raises Refused when one of them refuses a property."""
    kept: dict[str, Value | Clear] = {}
    for key, value in properties.items():
        what = _which(key, value, switches)
        if what == "422":
            raise Refused(INVALID_PROPERTY)
        if what != "ignore":
            kept[key] = CLEAR if what == "clear" else _stored(value)
    return kept

"""The Publisher API, version 3: its routes, who may call them, and the envelope around each answer.

Each endpoint is a plain function from a `Call` to an `Answer`; `TABLE` says which. All take GET and POST, parameters in
the query or in a form, and the token in a header, the query or the form (reference sheet of Piano, 1.2 and 1.3).
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from aiohttp import web

from piano_engage_sandbox.piano import catalogue_api, promotions_api, subscription_api, webhook_api
from piano_engage_sandbox.piano.envelope import ApiError, Call, Params, wrong
from piano_engage_sandbox.service import SANDBOX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from piano_engage_sandbox.application import Application
    from piano_engage_sandbox.piano.envelope import Answer
    from piano_engage_sandbox.service import Sandbox

    Endpoint = Callable[[Call], Answer]

BASE: Final = "/api/v3/publisher/"
TABLE: Final[dict[str, Endpoint]] = {
    **catalogue_api.ENDPOINTS,
    **promotions_api.ENDPOINTS,
    **subscription_api.ENDPOINTS,
    **webhook_api.ENDPOINTS,
}
"""Endpoints by their path below BASE."""
WITHOUT_AID: Final = webhook_api.WITHOUT_AID | {"term/get", "offer/get", "offer/term/list", "term/change/can"}
"""Endpoints that find the application by the token alone: `aid` is no parameter of theirs, or not a required one."""
KNOW_402: Final = frozenset({"app/get"})
"""Endpoints documented to answer code 402 to an `aid` nobody knows; elsewhere a pair that does not fit is 2."""


def routes() -> list[web.RouteDef]:
    """List the routes of this part."""
    found = []
    for path, endpoint in TABLE.items():
        handler = _handler(path, endpoint)
        found += [web.get(BASE + path, handler, allow_head=False), web.post(BASE + path, handler)]
    return found


def _handler(path: str, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Put parameters, access and envelope around an endpoint."""

    async def handle(request: web.Request) -> web.Response:
        sandbox = request.app[SANDBOX]
        params = Params([*request.query.items(), *await _form(request)])
        status = 200
        try:
            application = admitted(sandbox, path, params, request.headers.get("api_token", ""))
            if not application.world_is_made:
                await asyncio.to_thread(application.make_world)
            body = enveloped(sandbox, endpoint(Call(sandbox, application, params)))
        except RefusedTokenError as e:
            status = sandbox.switches.publisher.refused_token_status
            body = refused(sandbox, e)
        except ApiError as e:
            body = refused(sandbox, e)
        return web.Response(
            body=json.dumps(body, ensure_ascii=False).encode(),
            status=status,
            content_type="application/json",
            charset="utf-8",
            headers={"x-request-id": uuid4().hex},
        )

    return handle


async def _form(request: web.Request) -> list[tuple[str, str]]:
    if request.method != "POST" or request.content_type != "application/x-www-form-urlencoded":
        return []
    return [(name, value) for name, value in (await request.post()).items() if isinstance(value, str)]


class RefusedTokenError(ApiError):
    """A token that is missing, unknown, or of another application."""

    def __init__(self) -> None:
        """Say no more than Piano does."""
        super().__init__(2)


def admitted(sandbox: Sandbox, path: str, params: Params, header: str) -> Application:
    """Give the application a call is about; raises ApiError unless the token is that application's own."""
    token = header or params.text("api_token")
    owner = next((one for one in sandbox.piano.values() if token and one.token == token), None)
    if owner is None:
        raise RefusedTokenError
    aid = params.text("aid")
    if aid in sandbox.piano:
        if sandbox.piano[aid] is not owner:
            raise RefusedTokenError
    elif aid:
        raise ApiError(402) if path in KNOW_402 else RefusedTokenError
    elif path not in WITHOUT_AID:
        raise wrong("aid", "is required")
    return owner


def enveloped(sandbox: Sandbox, answer: Answer) -> dict[str, Any]:
    """Put an answer into the envelope: code, ts, the page, and one data key, in this order (sheet, 1.4)."""
    body: dict[str, Any] = {
        "code": sandbox.switches.publisher.success_code if answer.void else 0,
        "ts": int(sandbox.now()),
    }
    if answer.page:
        page = answer.page
        body |= {"limit": page.limit, "offset": page.offset, "total": page.total, "count": page.count}
    if answer.key:
        body[answer.key] = answer.value
    return body


def refused(sandbox: Sandbox, error: ApiError) -> dict[str, Any]:
    """Put an error into the envelope."""
    body: dict[str, Any] = {"code": error.code, "ts": int(sandbox.now()), "message": error.message}
    if error.fields:
        body["validation_errors"] = error.fields
    return body

"""Where Piano sends its webhooks: read, stored, answered. Whoever comes at the same time is stored in one transaction.

All is answered with 200 that Piano could not do better by sending it again, for Piano holds later events back until
one is taken. Only where nothing can be stored the answer is 503.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from fastapi.responses import PlainTextResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.routing import Route

from piano_actions.service.asked import FORM
from piano_actions.service.bodies import body_of
from piano_actions.service.problems import problems
from piano_actions.webhooks import LONGEST_DATA, Event, Poison

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

    from piano_actions.inbox import Inbox
    from piano_actions.service.metrics import Metrics
    from piano_actions.webhooks import Reader

PATH: Final = "/webhooks/piano"
FIELD: Final = "data"
HEALTH: Final = "health"
NO_DATA: Final = "?"
"""What stands for a body without the field; it is no encoded text, so it goes into quarantine."""
MOST_FIELDS: Final = 50
COURTESY_SECONDS: Final = 0.1
"""So long at most what can wait stands back at a time."""
TOGETHER: Final = 200
"""Events in one transaction at most."""

Arrival = Event | tuple[Poison, str]


class Hooks:
    """Takes webhooks.

    Args:
        reader: unwraps and checks.
        inbox: keeps.
        metrics: counts.
    """

    def __init__(self, reader: Reader, inbox: Inbox, metrics: Metrics) -> None:
        """Be ready."""
        self.inbox = inbox
        self._reader = reader
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inbox")
        self._waiting: list[tuple[Arrival, asyncio.Future[str]]] = []
        self._keeping: asyncio.Task[None] | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._taking = 0

    def courtesy(self) -> None:
        """Let whoever calls now be answered first; for threads whose work can wait a moment."""
        self._idle.wait(COURTESY_SECONDS)

    async def take(self, request: Request) -> Response:
        """Take one call: an event, something that is none, or nothing at all."""
        self._taking += 1
        self._idle.clear()
        try:
            return await self._take(request)
        finally:
            self._taking -= 1
            if not self._taking:
                self._idle.set()

    async def _take(self, request: Request) -> Response:
        data = request.query_params.get(FIELD) or await _form_field(request)
        if not data:
            self._metrics.receive(HEALTH)
            return PlainTextResponse("ok\n")
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._arrival(data), done))
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep())
        try:
            self._metrics.receive(await done)
        except SQLAlchemyError:
            self._metrics.receive("not_stored")
            return PlainTextResponse("cannot be stored now\n", 503)
        return PlainTextResponse("ok\n")

    def _arrival(self, data: str) -> Arrival:
        try:
            return self._reader.read(data)
        except Poison as poison:
            return poison, data

    async def _keep(self) -> None:
        """Store what waits, until nothing does."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
            try:
                words = await loop.run_in_executor(self._thread, self.inbox.keep, [one for one, _ in batch])
            except Exception as e:  # noqa: BLE001 - whoever waits is told, and the next ones are tried
                _answer(batch, e if isinstance(e, SQLAlchemyError) else SQLAlchemyError(str(e)))
            else:
                _answer(batch, words)

    async def close(self) -> None:
        """Store what is under way."""
        if self._keeping:
            await self._keeping
        self._thread.shutdown(wait=True)


def _answer(batch: list[tuple[Arrival, asyncio.Future[str]]], told: list[str] | Exception) -> None:
    for at, (_, done) in enumerate(batch):
        if done.done():  # who called has gone
            continue
        if isinstance(told, Exception):
            done.set_exception(told)
        else:
            done.set_result(told[at])


async def _form_field(request: Request) -> str:
    """Give the field of a form; empty where there is none. No more is read than an event may have."""
    if request.method != "POST":
        return ""
    body = await body_of(request, longest=2 * LONGEST_DATA)
    if body is None:
        return "~" * (LONGEST_DATA + 1)  # too long, whatever it is
    text = body.decode("latin-1")
    if not text.strip():
        return ""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    readable = kind in {"", FORM} and text.count("&") < MOST_FIELDS
    fields = dict(parse_qsl(text)) if readable else {}
    return fields.get(FIELD) or NO_DATA


def add_hooks(app: FastAPI, hooks: Hooks) -> None:
    """Let an application take webhooks."""

    async def piano(request: Request) -> Response:
        """Take an event of Piano, and answer once it is stored."""
        return await hooks.take(request)

    # A plain route, and the first that is looked at: there is nothing to validate here, and there may be many calls.
    app.router.routes.insert(0, Route(PATH, piano, methods=["GET", "POST"], include_in_schema=False))


def described() -> dict[str, Any]:
    """Describe the two ways of calling, by method, for OpenAPI."""
    member = {"type": "string", "description": "An event, encrypted with the private key. Without one it is a probe."}
    form = {FORM: {"schema": {"type": "object", "properties": {FIELD: member}}}}
    answer = {"text/plain": {"schema": {"type": "string"}}}
    same = {
        "summary": "Take an event of Piano, and answer once it is stored",
        "responses": {
            "200": {"description": "It is stored, or is of no use.", "content": answer},
            **{str(status): one for status, one in problems(400, 408, 500).items()},
            "503": {"description": "It cannot be stored now; send it again.", "content": answer},
        },
    }
    query = {"name": FIELD, "in": "query", "required": False, "schema": member}
    return {
        "get": {**same, "operationId": "webhook_by_get", "parameters": [query]},
        "post": {**same, "operationId": "webhook_by_post", "parameters": [query], "requestBody": {"content": form}},
    }

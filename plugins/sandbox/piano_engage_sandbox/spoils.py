"""What faults do: delay an answer, replace it, spoil its body, or break the connection before or after the work."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.http_writer import StreamWriter

from piano_engage_sandbox.faults import Faults
from piano_engage_sandbox.journal import ENTRY, Part
from piano_engage_sandbox.service import SANDBOX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiohttp.typedefs import Handler

    from piano_engage_sandbox.faults import Fault
    from piano_engage_sandbox.journal import Entry

LOOK_SECONDS: Final = 0.05
"""How often a hanging request looks whether its client is still there."""
PIECES_A_SECOND: Final = 20
"""A slow body comes in so many pieces."""
AT_ONCE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: a closed socket is reset, and what was not yet sent is dropped."""
HTML: Final = "<!doctype html><html><head><title>Maintenance</title></head><body>Back in a minute.</body></html>"


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a request be answered, or spoil it; the innermost of what stands before the parts."""
    faults = request.app[SANDBOX].part(Faults)
    entry: Entry = request[ENTRY]
    striking = faults.striking(entry) if faults.rules else []
    if not striking:
        response = await handler(request)
        entry.worked = True
        return response
    entry.fault = ", ".join([*([entry.fault] if entry.fault else []), *(fault.label for fault in striking)])
    return await _spoil(faults, striking, request, handler)


async def _spoil(
    faults: Faults, striking: Sequence[Fault], request: web.Request, handler: Handler
) -> web.StreamResponse:
    entry: Entry = request[ENTRY]
    answer = next((fault for fault in striking if fault.answer is not None), None)
    _spoil_body(faults, striking, request)
    await _wait(faults, striking, "before")
    response: web.StreamResponse | None = None
    if answer is None or answer.when == "after":
        response = await handler(request)
        entry.worked = True
    await _wait(faults, striking, "after")
    if answer is not None and answer.answer is not None and (response is None or not response.prepared):
        response = await ANSWER_OF[answer.answer](faults, answer, request)
    elif answer is not None and answer.answer in BREAKING:
        await ANSWER_OF[answer.answer](faults, answer, request)  # what was streamed is out already; only the end breaks
    assert response is not None  # noqa: S101 - without an answer of its own the fault let the part answer
    return response


async def _wait(faults: Faults, striking: Sequence[Fault], when: str) -> None:
    if seconds := sum(fault.latency or 0.0 for fault in striking if fault.when == when):
        await faults.rest(seconds)


def _spoil_body(faults: Faults, striking: Sequence[Fault], request: web.Request) -> None:
    fault = next((fault for fault in striking if fault.spoils), None)
    if fault is None or request.transport is None:
        return
    # aiohttp offers no public way to put something between an answer, streamed or not, and its socket.
    request._payload_writer = SpoiltWriter(faults, fault, request)  # noqa: SLF001


class SpoiltWriter(StreamWriter):
    """Writes a body slowly, or only its beginning."""

    def __init__(self, faults: Faults, fault: Fault, request: web.Request) -> None:
        """Stand in for the writer of a request."""
        super().__init__(request.protocol, asyncio.get_running_loop())
        self._faults, self._fault = faults, fault
        self._left = fault.truncate

    async def write(self, chunk: Any, *, drain: bool = True, LIMIT: int = 0x10000) -> None:  # noqa: ANN401, N803, ARG002 - aiohttp's
        """Write a piece of the body, in smaller ones and with pauses where it is slow."""
        data = bytes(chunk)
        speed = self._fault.bytes_per_second
        size = len(data) if speed is None else max(int(speed / PIECES_A_SECOND), 1)
        for start in range(0, len(data), size or 1):
            piece = data[start : start + size]
            if self._left is not None and len(piece) > self._left:
                await super().write(piece[: self._left])
                await self._close()
            await super().write(piece)
            if self._left is not None:
                self._left -= len(piece)
            if speed is not None and not await self._faults.rest(len(piece) / speed):
                await self.drain()

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Write the rest of the body."""
        if chunk:
            await self.write(chunk)
        if self._left == 0 and not self._eof and self.length != 0:
            await self._close()
        await super().write_eof()

    async def _close(self) -> None:
        """Send what there is, then close."""
        self.send_headers()
        if self.transport is not None:
            self.transport.close()
        msg = "truncated by a fault"
        raise ConnectionResetError(msg)


async def _status(faults: Faults, fault: Fault, request: web.Request) -> web.StreamResponse:
    status = fault.status or 500
    headers = dict(fault.headers or {})
    if fault.retry_after is not None:
        headers["Retry-After"] = fault.retry_after
    if fault.body is not None:
        headers.setdefault("Content-Type", "text/plain; charset=utf-8")
        return web.Response(body=fault.body.encode(), status=status, headers=headers)
    return web.json_response(_refusal(faults, request, status, "fault"), status=status, headers=headers)


async def _reset(faults: Faults, fault: Fault, request: web.Request) -> web.StreamResponse:  # noqa: ARG001
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        transport.abort()
    return web.Response()


async def _hang(faults: Faults, fault: Fault, request: web.Request) -> web.StreamResponse:
    while request.transport is not None and not request.transport.is_closing():
        if await faults.rest(LOOK_SECONDS):
            break
    return await _reset(faults, fault, request)


async def _html(faults: Faults, fault: Fault, request: web.Request) -> web.StreamResponse:  # noqa: ARG001
    return web.Response(text=HTML, content_type="text/html")


async def _success_false(faults: Faults, fault: Fault, request: web.Request) -> web.StreamResponse:
    if request[ENTRY].part is Part.ENGAGE:
        return web.json_response({"success": False})
    return web.json_response(_refusal(faults, request, fault.code, "fault"))


async def _token_refused(faults: Faults, fault: Fault, request: web.Request) -> web.StreamResponse:  # noqa: ARG001
    """Answer as to a wrong token: 401 at Engage (reference sheet, 1.4), code 2 at Piano (1.5)."""
    part = request[ENTRY].part
    if part is Part.ENGAGE:
        return web.json_response({"success": False, "message": "not_authorized"}, status=401)
    switches = faults.sandbox.switches.publisher if part is Part.PUBLISHER else faults.sandbox.switches.reports
    status = switches.refused_token_status
    return web.json_response(_refusal(faults, request, 2, "Access denied"), status=status)


def _refusal(faults: Faults, request: web.Request, code: int, message: str) -> dict[str, object]:
    """Say no as the vendor's bodies do."""
    if request[ENTRY].part is Part.ENGAGE:
        return {"success": False, "message": message}
    return {"code": code, "ts": int(faults.sandbox.now()), "message": message}


ANSWER_OF: Final[dict[str, Callable[[Faults, Fault, web.Request], Awaitable[web.StreamResponse]]]] = {
    "status": _status,
    "reset": _reset,
    "hang": _hang,
    "html": _html,
    "success_false": _success_false,
    "token_refused": _token_refused,
}
"""What can replace an answer, by the member that asks for it."""
BREAKING: Final = frozenset({"reset", "hang"})
"""Those that can strike an answer that was streamed already."""


async def release(app: web.Application) -> None:
    """Let go what waits or hangs when the server stops."""
    app[SANDBOX].part(Faults).clear()

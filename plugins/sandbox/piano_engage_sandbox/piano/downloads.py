"""Download links of exports, and the files behind them.

A link is signed and dies; it needs no credentials (reference sheet of Piano, 2.1 and 2.4). How Piano's storage answers
a dead link is a guess: 403, as signed links of the usual stores do. Files go out in pieces through the server's usual
writer, so that faults can slow them down or cut them off.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import quote, urlencode

from aiohttp import web

if TYPE_CHECKING:
    from pathlib import Path

PIECE: Final = 1 << 18
"""Bytes read and sent at a time."""
TYPES: Final = {".csv": "text/csv; charset=utf-8", ".zip": "application/zip"}
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


class Signer:
    """Signs links with a key that lives as long as the sandbox."""

    def __init__(self) -> None:
        """Make a key nobody can guess."""
        self._key = secrets.token_bytes(32)

    def link(self, export_id: str, name: str, expires: float) -> str:
        """Give path and query of a link that works until a moment."""
        until = f"{expires:.3f}"
        query = urlencode({"expires": until, "signature": self._signature(export_id, name, until)})
        return f"/rest/export/files/{export_id}/{quote(name, safe='')}?{query}"

    def fits(self, export_id: str, name: str, expires: str, signature: str) -> bool:
        """Whether a link is one of ours, dead or alive."""
        return hmac.compare_digest(self._signature(export_id, name, expires).encode(), signature.encode())

    def _signature(self, export_id: str, name: str, until: str) -> str:
        return hmac.new(self._key, f"{export_id}/{name}/{until}".encode(), "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file: the first, and the one after the last."""

    start: int
    end: int


def span_of(header: str | None, size: int) -> Span | None:
    """Read a Range header: what to send, None for the whole file. Raises ValueError when it asks for nothing there is.

    Several ranges at once, other units and nonsense count as no header, as RFC 9110, 14.2 allows.
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    if start >= end:
        msg = f"there is nothing at {header} of {size} bytes"
        raise ValueError(msg)
    return Span(start, end)


def still_holds(condition: str | None, tag: str, modified: float) -> bool:
    """Whether an If-Range header, if any, means the file as it is."""
    if condition is None or condition == tag:
        return True
    try:
        return parsedate_to_datetime(condition).timestamp() == int(modified)
    except ValueError:
        return False


async def send(
    request: web.Request, path: Path, tag: str, *, ranges: bool, modified: float, now: float
) -> web.StreamResponse:
    """Send a file or a part of it. `modified` and `now` are of the sandbox's clock. Raises FileNotFoundError."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        size = await asyncio.to_thread(file.seek, 0, 2)
        headers = _headers(path, tag, modified, now)
        span, status = Span(0, size), 200
        if ranges:
            headers["Accept-Ranges"] = "bytes"
            asked = request.headers.get("Range")
            try:
                part = span_of(asked, size) if still_holds(request.headers.get("If-Range"), tag, modified) else None
            except ValueError:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
            if part is not None:
                span, status = part, 206
                headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{size}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = span.end - span.start
        await response.prepare(request)
        if request.method != "HEAD":
            await _stream(response, file, span)
        return response
    finally:
        file.close()


async def _stream(response: web.StreamResponse, file: BinaryIO, span: Span) -> None:
    left = span.end - span.start
    await asyncio.to_thread(file.seek, span.start)
    while left > 0:
        piece = await asyncio.to_thread(file.read, min(left, PIECE))
        if not piece:
            break
        left -= len(piece)
        await response.write(piece)


def _headers(path: Path, tag: str, modified: float, now: float) -> dict[str, str]:
    plain = path.name.encode("ascii", "replace").decode().replace("?", "_").replace('"', "_")
    return {
        "Content-Type": TYPES.get(path.suffix, "application/octet-stream"),
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(path.name, safe='')}",
        "ETag": tag,
        "Last-Modified": formatdate(int(modified), usegmt=True),
        "Date": formatdate(int(now), usegmt=True),
    }

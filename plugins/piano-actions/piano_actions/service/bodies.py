"""Bodies of requests: no more of them is read than may be, and not for longer than it takes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from piano_actions.service.problems import PROBLEMS, Turned

if TYPE_CHECKING:
    from fastapi import Request

SECONDS: Final = 10.0
"""How long a body may take to come; also how long one that never ends can keep the service from stopping."""


async def body_of(request: Request, *, longest: int) -> bytes | None:
    """Read a body; None for one that is longer than that.

    Raises:
        Turned: it did not come in time.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > longest:
                    return None
    except TimeoutError:
        raise Turned(408, "too_slow", PROBLEMS[408], Connection="close") from None
    return bytes(body)

"""How many requests a second the sandbox answers: many connections that stay open, beside an empty aiohttp handler.

    python benchmarks/sandbox_requests.py [--connections 64] [--requests 4000] [--seconds 10]

Each case ends after so many requests or seconds, whichever comes first. The clients are processes of their own, on the
same machine; they speak bare HTTP over sockets, so that they cost little.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import selectors
import socket
import statistics
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from piano_engage_sandbox.server import Server

TRAITS = {f"trait_{number}": f"value {number}" for number in range(30)}
END = b"\r\n\r\n"


def post(path: str, body: bytes, kind: str, **headers: str) -> bytes:
    """Write a POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: sandbox", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items())]).encode() + END + body


def get(path: str, **headers: str) -> bytes:
    """Write a GET request."""
    lines = [f"GET {path} HTTP/1.1", "Host: sandbox", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + END


def cases(server: Server) -> dict[str, Sequence[bytes]]:
    """List what is asked: each case as requests that are sent in turn."""
    sandbox = server.sandbox
    app = next(iter(sandbox.piano.values()))
    basic = base64.b64encode(f"{sandbox.app_id}:{sandbox.api_key}".encode()).decode()

    def ingest(user: int) -> bytes:
        body = json.dumps({"id": sandbox.app_id, "user_id": f"user-{user}", "properties": TRAITS}).encode()
        return post("/ingest/property", body, "application/json", Authorization=f"Basic {basic}")

    publisher = f"/api/v3/publisher/%s?aid={app.aid}"
    ids = server.call(lambda: list(app.world.entries)[:500])
    token = {"api_token": app.token}
    return {
        "empty handler": [get("/empty")],
        "ingest, 30 traits": [ingest(user) for user in range(500)],
        "subscription/get": [get(publisher % "subscription/get" + f"&subscription_id={i}", **token) for i in ids],
        "term/list": [get(publisher % "term/list", **token)],
    }


class Figures(NamedTuple):
    """What one case showed; durations are seconds."""

    requests: int
    per_second: float
    took: list[float]
    alone: float


class Connection:
    """One connection that asks, waits for the answer, and asks again."""

    def __init__(self, port: int, selector: selectors.BaseSelector, wanted: Sequence[bytes], first: int) -> None:
        """Connect."""
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wanted, self.next = wanted, first
        self.sent, self.buffer = 0.0, b""
        selector.register(self.socket, selectors.EVENT_READ, self)

    def ask(self) -> None:
        """Send the next request."""
        self.sent, self.buffer = time.perf_counter(), b""
        self.socket.sendall(self.wanted[self.next % len(self.wanted)])
        self.next += 1

    def answered(self) -> bool:
        """Read what came; whether the answer is whole. Raises RuntimeError when it is not a 200."""
        self.buffer += self.socket.recv(1 << 18)
        head, found, body = self.buffer.partition(END)
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            msg = f"answered {head[:60]!r}"
            raise RuntimeError(msg)
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return len(body) >= int(length)


def ask_all(
    port: int, wanted: Sequence[bytes], connections: int, requests: int, seconds: float
) -> tuple[float, list[float]]:
    """Ask over many connections at once; gives how long all of it took, and each answer."""
    selector = selectors.DefaultSelector()
    open_ones = [Connection(port, selector, wanted, n * 7) for n in range(connections)]
    took: list[float] = []
    began = time.perf_counter()
    deadline = began + seconds
    for one in open_ones:
        one.ask()
    waiting = len(open_ones)
    while waiting:
        for key, _ in selector.select():
            one = key.data
            if not one.answered():
                continue
            now = time.perf_counter()
            took.append(now - one.sent)
            if len(took) + waiting <= requests and now < deadline:
                one.ask()
            else:
                waiting -= 1
    whole = time.perf_counter() - began
    for one in open_ones:
        one.socket.close()
    selector.close()
    return whole, took


def measure(port: int, wanted: Sequence[bytes], given: argparse.Namespace) -> Figures:
    """Ask from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(ask_all, (port, wanted, 1, 20, given.seconds))  # the first ones make the world
        whole, took = pool.apply(ask_all, (port, wanted, given.connections, given.requests, given.seconds))
        _, alone = pool.apply(ask_all, (port, wanted, 1, min(given.requests, 1000), given.seconds))
    return Figures(len(took), len(took) / whole, sorted(took), statistics.median(alone))


def empty_server() -> int:
    """Serve an empty aiohttp handler in a thread; gives its port."""
    import asyncio  # noqa: PLC0415 - only here

    async def handle(_: web.Request) -> web.Response:
        return web.json_response({"success": True})

    ready: list[int] = []
    started = threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.add_routes([web.get("/empty", handle)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.append(runner.addresses[0][1])
        started.set()
        await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    started.wait()
    return ready[0]


def main() -> None:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--requests", type=int, default=4000, help="of each case")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each case, at most")
    given = parser.parse_args()
    with serving(rows=2000) as server:
        bare = empty_server()
        print(f"{given.connections} connections; milliseconds; alone: one connection at a time")
        print(f"{'':20}{'requests':>10}{'per second':>12}{'p50':>8}{'p95':>8}{'p99':>8}{'alone':>8}")
        for name, wanted in cases(server).items():
            found = measure(bare if name == "empty handler" else server.port, wanted, given)
            at = [found.took[int(found.requests * share)] * 1000 for share in (0.5, 0.95, 0.99)]
            figures = "".join(f"{figure:8.1f}" for figure in at)
            print(f"{name:20}{found.requests:10,}{found.per_second:12,.0f}{figures}{found.alone * 1000:8.2f}")


if __name__ == "__main__":
    main()

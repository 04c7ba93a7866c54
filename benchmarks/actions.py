"""The service of the actions, against the sandbox: clicks, what the service adds to Piano's own time, webhooks, memory.

    python benchmarks/actions.py [--clicks 200] [--seconds 30] [--events 100000] [--only clicks webhooks memory]

Clicks: a resubscribe over HTTP while every answer of both vendors comes 100 ms late; seconds until Engage holds the
trait, as a look every 5 ms tells. Beside each click, in turns, the same four calls are made to Piano by a plain client,
for another reader; the difference is what the service adds. Webhooks: 200 events a second, in one direction of time
whatever the answers do; each is timed from the moment at which it was due; with vendors that answer 100 ms late, and
with vendors that answer at once and so make the service read as many readers as it can meanwhile. Memory, of both
processes of the service: as fast as they are taken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil
import requests
from piano_actions.webhooks import wrap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BIN = Path(sys.executable).parent
SECRET = "a-secret-for-benchmarks"  # noqa: S105 - of no use elsewhere
LATENCY = 0.1
LOOK = 0.005
CONNECTIONS = 32
STEPS = (10_000, 50_000, 100_000)


@dataclass
class Vendors:
    """The sandbox as a process of its own."""

    lines: dict[str, str]
    session: requests.Session

    @property
    def url(self) -> str:
        """Where both vendors are."""
        return self.lines["TARGET_RECURLY_ENGAGE_API_URL"]

    def piano(self, path: str, *, write: bool = False, **params: str) -> dict[str, Any]:
        """Call the Publisher API."""
        given = {"aid": self.lines["PIANO_ACTIONS_AID"], "api_token": self.lines["PIANO_ACTIONS_API_TOKEN"], **params}
        url = f"{self.lines['PIANO_ACTIONS_API_URL']}/publisher/{path}"
        answer = self.session.post(url, data=given) if write else self.session.get(url, params=given)
        return dict(answer.json())

    def control(self, method: str, path: str, content: object = None) -> Any:  # noqa: ANN401 - JSON
        """Tell the sandbox something, or ask it."""
        return self.session.request(method, f"{self.url}/_sandbox/{path}", json=content).json()

    def late(self, seconds: float) -> None:
        """Let every answer of the vendors come late."""
        self.control("DELETE", "faults")
        for part in ("publisher", "engage") if seconds else ():
            self.control("POST", "faults", {"part": part, "latency": seconds})

    def holds(self, uid: str) -> dict[str, Any]:
        """Give a reader's traits at Engage."""
        found = self.control("GET", f"engage/user/{quote(uid, safe='')}")
        return dict(found["traits"]) if found else {}


@contextlib.contextmanager
def vendors(folder: Path, rows: int) -> Iterator[Vendors]:
    """Serve the sandbox."""
    path = folder / "lines.env"
    command = [BIN / "sandbox", "serve", "--port=0", "--s3-port=0", f"--rows={rows}", f"--env-file={path}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # noqa: S603 - our own
        while not path.exists() or "AWS_SECRET" not in path.read_text():
            time.sleep(0.1)
        lines = dict(line.split("=", 1) for line in path.read_text().splitlines())
        yield Vendors(lines, requests.Session())
        process.terminate()


@dataclass
class Service:
    """The service as a process of its own."""

    url: str
    port: int
    process: psutil.Process
    session: requests.Session
    store: Path

    def click(self, uid: str) -> dict[str, Any]:
        """Resubscribe."""
        headers = {"Authorization": f"Bearer {SECRET}"}
        return dict(self.session.post(f"{self.url}/actions/resubscribe", json={"user_id": uid}, headers=headers).json())

    @property
    def cpu(self) -> float:
        """Seconds of CPU that it took so far, which a busy machine makes no longer."""
        spent = self.process.cpu_times()
        return spent.user + spent.system

    @property
    def memory(self) -> int:
        """Bytes that the service and the process it started hold."""
        return sum(one.memory_info().rss for one in (self.process, *self.process.children(recursive=True)))

    def count(self, query: str) -> int:
        """Count in the store."""
        with contextlib.closing(sqlite3.connect(self.store, timeout=30)) as connection:
            return int(connection.execute(query).fetchone()[0])


@contextlib.contextmanager
def service(folder: Path, vendor: Vendors) -> Iterator[Service]:
    """Serve the actions."""
    folder.mkdir(parents=True, exist_ok=True)
    port = 18_787
    own = {
        "PIANO_ACTIONS_STORE_URL": f"sqlite:///{folder / 'actions.db'}", "PIANO_ACTIONS_SECRETS": SECRET,
        "PIANO_ACTIONS_PORT": str(port), "PIANO_ACTIONS_REQUESTS_PER_SECOND": "0",
        "PIANO_ACTIONS_ACTIONS_PER_SECOND": "0", "TARGET_RECURLY_ENGAGE_REQUESTS_PER_SECOND": "0",
        "TARGET_RECURLY_ENGAGE_LEDGER": str(folder / "ledger.duckdb"),
        "TARGET_RECURLY_ENGAGE_HANDOVER_PATH": str(folder / "handover"),
    }  # fmt: skip
    environment = os.environ | vendor.lines | own
    with subprocess.Popen([BIN / "piano-actions", "serve"], env=environment) as process:  # noqa: S603 - our own
        url = f"http://127.0.0.1:{port}"
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/readyz", timeout=5).ok:
                    break
            time.sleep(0.1)
        yield Service(url, port, psutil.Process(process.pid), requests.Session(), folder / "actions.db")
        process.terminate()


def percentiles(values: list[float]) -> str:
    """Put seconds into words."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return "  ".join(f"p{n} {cuts[n - 1] * 1000:,.1f} ms" for n in (50, 95, 99)) + f"  max {max(values) * 1000:,.1f} ms"


# Clicks


def readers(vendor: Vendors) -> Iterator[tuple[str, str]]:
    """Give readers with one subscription that can be cancelled and resumed: ids of reader and subscription."""
    found: dict[str, list[dict[str, Any]]] = {}
    offset = 0
    while page := vendor.piano("subscription/list", limit="100", offset=str(offset))["subscriptions"]:
        for one in page:
            found.setdefault(one["user"]["uid"], []).append(one)
        offset += len(page)
    for uid, ones in found.items():
        one = ones[0]
        if len(ones) == 1 and one["status"] == "active" and one["auto_renew"] and one["term"]["type"] == "dynamic":
            yield uid, one["subscription_id"]


def stop(vendor: Vendors, subscription: str) -> bool:
    """Put an end to renewal."""
    return bool(vendor.piano("subscription/cancel/deferred", write=True, subscription_id=subscription)["code"] == 0)


def plain(vendor: Vendors, uid: str, subscription: str) -> float:
    """Make the calls of a resubscribe without the service."""
    began = time.perf_counter()
    vendor.piano("subscription/list", uid=uid, limit="100", offset="0")
    vendor.piano("subscription/get", subscription_id=subscription)
    vendor.piano("subscription/resume", write=True, subscription_id=subscription)
    vendor.piano("subscription/get", subscription_id=subscription)
    return time.perf_counter() - began


def clicks(folder: Path, vendor: Vendors, count: int) -> None:
    """Measure clicks, and beside each the plain calls."""
    free = [one for one in list(readers(vendor))[: 2 * count] if stop(vendor, one[1])]
    answered, seen, added = [], [], []
    with service(folder, vendor) as serving:
        vendor.late(LATENCY)
        before = serving.cpu
        for turn in range(min(count, len(free) // 2)):
            (uid, _), (other, subscription) = free[2 * turn], free[2 * turn + 1]
            alone = [plain(vendor, other, subscription)] if turn % 2 else []
            began = time.perf_counter()
            told = serving.click(uid)
            took = time.perf_counter() - began
            while vendor.holds(uid).get("auto_renew") != "true":
                time.sleep(LOOK)
            seen.append(time.perf_counter() - began)
            if told["status"] != "done":
                sys.exit(f"a click ended otherwise: {told}")
            answered.append(took)
            added.append(took - (alone or [plain(vendor, other, subscription)])[0])
        vendor.late(0)
        cpu = (serving.cpu - before) / len(seen)
    print(f"{len(seen)} clicks, each vendor answer {LATENCY * 1000:g} ms late")
    print(f"  click to answer            {percentiles(answered)}")
    print(f"  click to trait at Engage   {percentiles(seen)}")
    print(f"  added by the service       {percentiles(added)}")
    print(f"  CPU of the service, a click with its traits: {cpu * 1000:,.1f} ms")


# Webhooks


def event(vendor: Vendors, uid: str, subscription: str, number: int) -> bytes:
    """Write a request with an event, each another one."""
    payload = {
        "version": 2, "type": "subscription_updated", "event": "subscription_resumed", "uid": uid,
        "aid": vendor.lines["PIANO_ACTIONS_AID"], "subscription_id": subscription, "user_email": "lea@example.com",
        "number": number, "timestamp": int(time.time()),
    }  # fmt: skip
    data = wrap(json.dumps(payload), vendor.lines["PIANO_ACTIONS_PRIVATE_KEY"])
    return f"GET /webhooks/piano?data={quote(data)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


class Line:
    """A connection that stays open."""

    def __init__(self, port: int) -> None:
        """Connect later."""
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        """Send a request, and give the status of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(one.split(b":")[1]) for one in head.split(b"\r\n") if one.lower().startswith(b"content-len"))
        await reader.readexactly(length)
        return int(head.split(b" ", 2)[1])


async def storm(port: int, make: Callable[[int], bytes], count: int, rate: float) -> list[float]:
    """Send so many events, at a rate or, with 0, as fast as they are taken; give how long each took."""
    took: list[float] = []
    numbers = iter(range(count))
    began = time.perf_counter()

    async def line() -> None:
        one = Line(port)
        for number in numbers:
            request, due = make(number), began + number / rate if rate else time.perf_counter()
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            status = await one.ask(request)
            took.append(time.perf_counter() - (due if rate else min(due, time.perf_counter())))
            if status != 200:  # noqa: PLR2004 - HTTP
                sys.exit(f"an event was answered with {status}")

    await asyncio.gather(*(line() for _ in range(CONNECTIONS)))
    return took


def webhooks(folder: Path, vendor: Vendors, seconds: float, *, late: float, rate: float = 200.0) -> None:
    """Measure how soon events are acknowledged, while their readers are read from vendors, who may be late."""
    who, chance = list(readers(vendor))[:300], random.Random(1)  # noqa: S311 - no secret
    count = int(seconds * rate)
    requests_ = [event(vendor, *chance.choice(who), number) for number in range(count)]
    vendor.late(late)
    with service(folder, vendor) as serving:
        began, before = time.perf_counter(), serving.cpu
        took = asyncio.run(storm(serving.port, requests_.__getitem__, count, rate))
        spent = time.perf_counter() - began
        kept = serving.count("SELECT count(*) FROM events")
        began = time.perf_counter()
        while serving.count("SELECT count(*) FROM pushes"):
            time.sleep(0.2)
        vendor.late(0)
        print(
            f"{count:,} events of {len(who)} readers in {spent:.1f} s, {count / spent:.1f} a second; {kept:,} kept; "
            f"each vendor answer {late * 1000:g} ms late"
        )
        print(f"  acknowledged               {percentiles(took)}")
        print(f"  all readers read {time.perf_counter() - began:.1f} s after the last event")
        untold = serving.count("SELECT count(*) FROM events WHERE state NOT IN ('told', 'nothing')")
        print(
            f"  CPU of the service, an event, reading readers included: {(serving.cpu - before) / count * 1000:,.1f} ms"
        )
        print(f"  lost {count - kept}, not worked on {untold}")


def memory(folder: Path, vendor: Vendors, count: int) -> None:
    """Measure the memory of the service over many events."""
    who, chance = list(readers(vendor))[:300], random.Random(2)  # noqa: S311 - no secret
    with service(folder, vendor) as serving:
        print(f"resident memory at the start: {serving.memory / 1e6:,.0f} MB")
        done, began = 0, time.perf_counter()
        for step in sorted({min(step, count) for step in STEPS}):
            first = done

            def make(number: int, first: int = first) -> bytes:
                return event(vendor, *chance.choice(who), first + number)

            asyncio.run(storm(serving.port, make, step - done, 0))
            done = step
            spent = time.perf_counter() - began
            print(f"  after {done:,} events, {spent:.0f} s: {serving.memory / 1e6:,.0f} MB")
        print(f"  kept {serving.count('SELECT count(*) FROM events'):,} of {count:,}")


def main() -> None:
    """Measure."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--clicks", type=int, default=200)
    p.add_argument("--seconds", type=float, default=30)
    p.add_argument("--events", type=int, default=100_000)
    p.add_argument("--only", nargs="+", choices=("clicks", "webhooks", "memory"))
    given = p.parse_args()
    with tempfile.TemporaryDirectory() as name, vendors(Path(name), 4000) as vendor:
        for what, work in {
            "clicks": lambda folder: clicks(folder, vendor, given.clicks),
            "webhooks": lambda folder: [
                webhooks(folder / f"{late}", vendor, given.seconds, late=late) for late in (LATENCY, 0.0)
            ],
            "memory": lambda folder: memory(folder, vendor, given.events),
        }.items():
            if not given.only or what in given.only:
                work(Path(name) / what)


if __name__ == "__main__":
    main()

"""Webhooks: every change of a subscription becomes events that are sent in order (reference sheet of Piano, 4).

`sandbox.part(Webhooks)` is the one object of this part. An application without a URL costs nothing: its world is not
made for it. All methods belong in the server's thread (`Server.call`); the clock may be moved from any.
"""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from yarl import URL

from piano_engage_sandbox.piano.crypt import encrypt
from piano_engage_sandbox.piano.events import events_of, trial_event
from piano_engage_sandbox.piano.webhook_line import Attempt, Line, Status, Webhook, WebhookError
from piano_engage_sandbox.service import SANDBOX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aiohttp import web

    from piano_engage_sandbox.piano.webhook_line import Delivery
    from piano_engage_sandbox.service import Sandbox
    from piano_engage_sandbox.world import Change, World

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at a clock that runs."""
BODY_KEPT: Final = 2000
"""Bytes of an answer that the log keeps."""
UNKNOWN: Final = 404
NOT_SKIPPABLE: Final = 4006


async def running(app: web.Application) -> AsyncIterator[None]:
    """Send events while the server runs."""
    async with app[SANDBOX].part(Webhooks).sending():
        yield


class Webhooks:
    """The webhooks of all applications."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Begin without receivers."""
        self._sandbox = sandbox
        self._switches = sandbox.switches.webhooks
        self._lines = {aid: Line(aid) for aid in sandbox.piano}
        self._listening: set[str] = set()
        self._news = {aid: asyncio.Event() for aid in sandbox.piano}
        """There may be something new to send."""
        self._again = {aid: asyncio.Event() for aid in sandbox.piano}
        """The pause after a failure is over."""
        self._one_at_a_time = {aid: asyncio.Lock() for aid in sandbox.piano}
        self._resends: set[asyncio.Task[Attempt]] = set()
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        sandbox.now.watch(self._moved)

    # What one can ask for

    def configure(
        self,
        aid: str,
        *,
        url: str | None = None,
        enabled: bool | None = None,
        hmac: bool | None = None,
        events: Mapping[str, bool] | None = None,
    ) -> dict[str, Any]:
        """Set where events go (an empty URL is nowhere), whether they are sent, and which; None leaves as it is.

        A changed receiver is tried at once. Raises ValueError for a URL that is none, KeyError for an unknown `aid`.
        """
        line = self._lines[aid]
        if url:
            self._check(url)
            self._listen(aid)
        if url is not None:
            line.url = url
        line.enabled = line.enabled if enabled is None else enabled
        line.hmac = line.hmac if hmac is None else hmac
        for key, wanted in (events or {}).items():
            (line.muted.discard if wanted else line.muted.add)(key)
        self._wake(aid)
        return self.status(aid)

    def misbehave(self, aid: str, *, repeat: int = 0, swap: int = 0, drop: int = 0) -> dict[str, Any]:
        """Send that many of the coming events twice, in pairs the wrong way round, or not at all.

        An event to be swapped waits until there is a second one. A dropped one counts as sent.
        """
        line = self._lines[aid]
        line.repeat, line.swap, line.drop = line.repeat + repeat, line.swap + swap, line.drop + drop
        return self.status(aid)

    def status(self, aid: str) -> dict[str, Any]:
        """Say how the webhooks of an application are doing, the sandbox's clock looked at first."""
        self.look()
        line = self._lines[aid]
        return {
            "aid": aid,
            "url": line.url,
            "enabled": line.enabled,
            "hmac": self._with_hmac(line),
            "muted": sorted(line.muted),
            "status": "disabled" if not (line.url and line.enabled) else "failure" if line.failing else "normal",
            "waiting": line.waiting,
            "counts": line.counts(),
            "repeat": line.repeat,
            "swap": line.swap,
            "drop": line.drop,
        }

    def log(self, aid: str) -> list[Webhook]:
        """Give the events of the last 30 days, the oldest first."""
        self.look()
        return list(self._lines[aid].log.values())

    def settings(self, aid: str) -> Line:
        """Give what is set for an application: `url`, `enabled`, `muted`."""
        return self._lines[aid]

    def find(self, webhook_id: str, aid: str | None = None) -> Webhook:
        """Give an event by its id; raises WebhookError for one nobody knows."""
        for line in self._lines.values():
            if webhook_id in line.log and aid in (None, line.aid):
                return line.log[webhook_id]
        raise WebhookError(UNKNOWN, f"no webhook {webhook_id!r}")

    def skip(self, webhook_id: str) -> Webhook:
        """Take an event out of the queue, so that the later ones go on; raises WebhookError if it does not wait."""
        webhook = self.find(webhook_id)
        line = self._line_of(webhook)
        if not line.waits(webhook):
            raise WebhookError(NOT_SKIPPABLE, f"webhook {webhook_id} does not wait to be sent: {webhook.status}")
        line.forget(webhook)
        webhook.status, webhook.update_date = Status.SKIPPED, self._moment()
        self._wake(line.aid)
        return webhook

    def send_test(self, aid: str) -> Webhook:
        """Queue a test event."""
        webhook = self._lines[aid].add(trial_event(aid, self._moment()), self._moment())
        self._wake(aid, retry=False)
        return webhook

    async def resend(self, webhook_id: str) -> Attempt:
        """Send an event once more, out of turn; one that waited and now succeeds leaves the queue."""
        webhook = self.find(webhook_id)
        line = self._line_of(webhook)
        if not line.url:
            raise WebhookError(4002, f"application {line.aid} has no webhook endpoint")
        attempt = await self._attempt(line, webhook)
        if attempt.succeeded:
            line.forget(webhook)
            self._wake(line.aid)
        return attempt

    def resend_soon(self, webhook_id: str) -> None:
        """Begin `resend` without waiting for it."""
        self.find(webhook_id)
        task = asyncio.get_running_loop().create_task(self.resend(webhook_id))
        self._resends.add(task)
        task.add_done_callback(self._resends.discard)

    # From changes to the queue

    def look(self) -> None:
        """Let the worlds that somebody listens to catch up with the clock, which queues their events."""
        for aid in self._listening:
            _ = self._sandbox.piano[aid].world
            self._lines[aid].trim(self._moment())

    def _listen(self, aid: str) -> None:
        """Hear of what changes from now on."""
        if aid in self._listening:
            return
        world = self._sandbox.piano[aid].world
        world.listeners.append(lambda change: self._hear(aid, world, change))
        self._listening.add(aid)

    def _hear(self, aid: str, world: World, change: Change) -> None:
        """Queue the events of a change. The world is given: `application.world` would move on in the midst of it."""
        line = self._lines[aid]
        if not line.url:
            return
        for payload in events_of(change, aid=aid, world=world):
            line.add(payload, change.at)
        self._wake(aid, retry=False)

    def _moved(self, _moment: float) -> None:
        """Look at the clock after it was moved by hand, in the server's thread."""
        if threading.get_ident() == self._thread:
            self.look()
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.look)

    def _wake(self, aid: str, *, retry: bool = True) -> None:
        """Tell the sender that something changed; with `retry` a pause after a failure ends."""
        for event in (self._news[aid], self._again[aid]) if retry else (self._news[aid],):
            if self._loop is None:
                event.set()
            elif not self._loop.is_closed():
                self._loop.call_soon_threadsafe(event.set)

    # From the queue to the receiver

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send what is queued, and look at the clock, until the end of the block."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            # A GET whose connection breaks is sent again by aiohttp itself: an attempt nobody would hear of.
            session._retry_connection = False  # noqa: SLF001
            self._session = session
            tasks = [asyncio.create_task(self.send(line)) for line in self._lines.values()]
            tasks.append(asyncio.create_task(self._watch()))
            try:
                yield
            finally:
                for task in (*tasks, *self._resends):
                    task.cancel()
                results = await asyncio.gather(*tasks, *self._resends, return_exceptions=True)
                self._session = self._loop = None
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._sandbox.now.running:
                self.look()

    async def send(self, line: Line) -> None:
        """Send the events of one application for ever, one after the other."""
        news = self._news[line.aid]
        while True:
            news.clear()
            delivery = line.next()
            if delivery is None:
                await news.wait()
            else:
                await self.deliver(line, delivery)

    async def deliver(self, line: Line, delivery: Delivery) -> None:
        """Try until it is through, given up, skipped or not wanted any more; pauses double."""
        again, switches = self._again[line.aid], self._switches
        failures, pause = 0, switches.first_pause
        while line.next() is delivery:
            again.clear()
            attempt = await self._attempt(line, delivery.webhook)
            failures += not attempt.succeeded
            if attempt.succeeded or failures == switches.attempts:
                line.done(delivery)
            elif await self.pause(again, min(pause, switches.longest_pause)):
                failures, pause = 0, switches.first_pause
            else:
                pause *= 2

    async def pause(self, again: asyncio.Event, seconds: float) -> bool:
        """Wait after a failure; whether somebody ended the pause before its time."""
        try:
            await asyncio.wait_for(again.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _attempt(self, line: Line, webhook: Webhook) -> Attempt:
        """Send an event once, and note how it went."""
        async with self._one_at_a_time[line.aid]:
            attempt = await self.request(line.url, self._wrapped(line, webhook))
        webhook.attempts.append(attempt)
        webhook.update_date = attempt.at
        if attempt.succeeded:
            webhook.status = Status.SUCCEEDED
        elif webhook.status is not Status.SKIPPED:
            webhook.status = Status.FAILED
        return attempt

    async def request(self, url: str, data: str) -> Attempt:
        """Call the receiver: GET with a query parameter, or POST with a form field, `data` (sheet, 4.1)."""
        if self._session is None:
            raise WebhookError(UNKNOWN, "the sandbox is not being served")
        at, timeout = self._moment(), aiohttp.ClientTimeout(total=self._switches.timeout)
        post = self._switches.method == "POST"
        target = URL(url) if post else URL(url).update_query(data=data)
        form = {"data": data} if post else None
        try:
            async with self._session.request(
                self._switches.method, target, data=form, timeout=timeout, allow_redirects=False
            ) as answer:
                body = (await answer.content.read(BODY_KEPT)).decode(errors="replace")
                headers = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
                return Attempt(at, url, data, answer.status, headers=headers, body=body)
        except TimeoutError:
            return Attempt(at, url, data, None, f"no answer within {self._switches.timeout:g} s")
        except (aiohttp.ClientError, OSError) as e:
            return Attempt(at, url, data, None, f"{type(e).__name__}: {e}")

    def _wrapped(self, line: Line, webhook: Webhook) -> str:
        payload = webhook.payload
        if self._switches.absent == "left_out":
            payload = {name: value for name, value in payload.items() if value is not None}
        return encrypt(
            json.dumps(payload, ensure_ascii=False),
            self._sandbox.piano[line.aid].private_key,
            hmac=self._with_hmac(line),
            padding=self._switches.padding,
        )

    def _with_hmac(self, line: Line) -> bool:
        return self._switches.hmac if line.hmac is None else line.hmac

    def _line_of(self, webhook: Webhook) -> Line:
        return next(line for line in self._lines.values() if webhook.id in line.log)

    def _moment(self) -> int:
        return int(self._sandbox.now())

    @staticmethod
    def _check(url: str) -> None:
        parsed = URL(url)
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            msg = f"a webhook endpoint is an http or https URL, not {url!r}"
            raise ValueError(msg)

"""The queue of webhooks of one application: what waits, what was sent and how it went. Nothing here touches a network.

Facts are those of the reference sheet of Piano, 4.1 and 4.4: one queue per application, strictly in order, a failing
event holds back the later ones, a log of 30 days. A line can be told to repeat, swap or drop events that come.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.piano.subscription_shapes import invented

KEPT: Final = 30 * DAY
"""Seconds of the sandbox's clock that the log goes back."""


class Status(StrEnum):
    """States of a webhook (sheet, 4.4)."""

    INACTIVE = "INACTIVE"
    """Made while webhooks, or the ones of its key, were switched off; never sent by itself."""
    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    """The last attempt failed: it is tried again, or was given up."""
    SKIPPED = "SKIPPED"


class WebhookError(ValueError):
    """Something that cannot be done with a webhook; `code` is Piano's (sheet, 1.5)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to deliver. `at` is the sandbox's clock; `status` is the HTTP status, None when there was no answer."""

    at: int
    url: str
    data: str
    status: int | None
    problem: str = ""
    """Why there was no answer."""
    headers: str = ""
    body: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether the receiver took it: only HTTP 200 says so."""
        return self.status == 200  # noqa: PLR2004 - HTTP


@dataclass(slots=True, eq=False)
class Webhook:
    """One event on its way. Moments are seconds of the sandbox's clock."""

    id: str
    payload: dict[str, Any]
    status: Status
    create_date: int
    update_date: int
    attempts: list[Attempt] = field(default_factory=list)
    misbehaviour: str = ""
    """`repeated`, `swapped` or `dropped`, if somebody asked for that."""

    def as_dict(self) -> dict[str, Any]:
        """Give what a person wants to see of it."""
        last = self.attempts[-1] if self.attempts else None
        return {
            "id": self.id,
            "type": self.payload["type"],
            "event": self.payload["event"],
            "status": str(self.status),
            "create_date": self.create_date,
            "update_date": self.update_date,
            "attempts": len(self.attempts),
            "last_answer": (last.status or last.problem) if last else None,
            "misbehaviour": self.misbehaviour,
            "payload": self.payload,
        }


@dataclass(slots=True, eq=False)
class Delivery:
    """One event as it is to be sent; a repeated one makes two of them."""

    webhook: Webhook


class Line:
    """The webhooks of one application, in order of their events."""

    def __init__(self, aid: str) -> None:
        """Begin without a receiver."""
        self.aid = aid
        self.url = ""
        self.enabled = True
        self.hmac: bool | None = None
        """Whether events carry the HMAC; None leaves it to the switch."""
        self.muted: set[str] = set()
        """Keys of events that are switched off."""
        self.log: dict[str, Webhook] = {}
        self.repeat = self.swap = self.drop = 0
        """How many coming events (pairs, for `swap`) are to be sent twice, in the wrong order, or not at all."""
        self._queue: deque[Webhook] = deque()
        self._plan: deque[Delivery] = deque()
        """What was taken from the queue to be sent next."""
        self._made = 0

    def add(self, payload: dict[str, Any], at: int) -> Webhook:
        """Queue an event."""
        active = self.enabled and payload["event"] not in self.muted
        status = Status.PENDING if active else Status.INACTIVE
        self._made += 1
        webhook = Webhook(invented("WH", self.aid, self._made), payload, status, at, at)
        self.log[webhook.id] = webhook
        if active:
            self._queue.append(webhook)
        return webhook

    def next(self) -> Delivery | None:
        """Give what is to be sent now; the same until it is done. None when there is nothing, or no receiver."""
        if not (self.url and self.enabled):
            return None
        if not self._plan:
            self._take()
        return self._plan[0] if self._plan else None

    def done(self, delivery: Delivery) -> None:
        """Go on after a delivery."""
        if delivery in self._plan:
            self._plan.remove(delivery)

    def forget(self, webhook: Webhook) -> None:
        """Take an event out of the queue, wherever it is."""
        if webhook in self._queue:
            self._queue.remove(webhook)
        self._plan = deque(one for one in self._plan if one.webhook is not webhook)

    def waits(self, webhook: Webhook) -> bool:
        """Whether an event is still to be sent."""
        return webhook in self._queue or any(one.webhook is webhook for one in self._plan)

    @property
    def waiting(self) -> int:
        """How many deliveries are still to be made."""
        return len(self._queue) + len(self._plan)

    @property
    def failing(self) -> bool:
        """Whether an event that failed holds back the others."""
        return bool(self._plan) and self._plan[0].webhook.status is Status.FAILED

    def trim(self, now: int) -> None:
        """Forget what is older than 30 days and does not wait."""
        kept = {one.id for one in self._queue} | {one.webhook.id for one in self._plan}
        old = [one.id for one in self.log.values() if one.create_date < now - KEPT and one.id not in kept]
        for webhook_id in old:
            del self.log[webhook_id]

    def counts(self) -> dict[str, int]:
        """Count the events of the log by their state."""
        found = Counter(one.status for one in self.log.values())
        return {str(status): found[status] for status in Status}

    def _take(self) -> None:
        """Plan the next event, or the next two; what is to be swapped waits until there are two."""
        queue = self._queue
        while queue and self.drop:
            self.drop -= 1
            lost = queue.popleft()
            lost.status, lost.misbehaviour = Status.SUCCEEDED, "dropped"
        if self.swap and len(queue) > 1:
            self.swap -= 1
            first, second = queue.popleft(), queue.popleft()
            first.misbehaviour = second.misbehaviour = "swapped"
            self._plan.extend((Delivery(second), Delivery(first)))
        elif queue and not self.swap:
            webhook = queue.popleft()
            self._plan.append(Delivery(webhook))
            if self.repeat:
                self.repeat -= 1
                webhook.misbehaviour = "repeated"
                self._plan.append(Delivery(webhook))

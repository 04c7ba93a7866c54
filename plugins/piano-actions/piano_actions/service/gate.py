"""Who may ask, and how often."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

STALE_SECONDS: Final = 300
READERS_KEPT: Final = 100_000


@dataclass(frozen=True, slots=True)
class Gate:
    """What a request must bring.

    Attributes:
        secrets: any of them as ``Authorization: Bearer``; several while one is replaced.
        hmac_secret: with it, ``X-Signature`` must be the HMAC-SHA256, in hex, of ``X-Timestamp``, a full stop, body.
    """

    secrets: tuple[str, ...]
    hmac_secret: str | None = None

    def lets_in(self, headers: Mapping[str, str]) -> bool:
        """Whether the secret is right; as long whether it is nearly so or not at all."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        found = [hmac.compare_digest(_digest(given.strip()), _digest(secret)) for secret in self.secrets]
        return any(found) and scheme.lower() == "bearer"

    def is_signed(self, headers: Mapping[str, str], body: bytes, now: float | None = None) -> bool:
        """Whether the signature fits the body, and is not older than five minutes."""
        if self.hmac_secret is None:
            return True
        stamp, signature = headers.get("x-timestamp", ""), headers.get("x-signature", "")
        made = hmac.new(self.hmac_secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        fits = hmac.compare_digest(_digest(signature.strip().lower()), _digest(made))
        current = time.time() if now is None else now
        return fits and stamp.isdecimal() and abs(current - int(stamp[:12])) <= STALE_SECONDS


def _digest(text: str) -> bytes:
    """Make texts of any length equally long, so that comparing them tells nothing."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Limits:
    """Actions that may begin: a minute for each reader, a second in all.

    Args:
        per_reader: a minute; 0 is no limit.
        in_all: a second; 0 is no limit.
    """

    def __init__(self, per_reader: float, in_all: float) -> None:
        """Begin with full buckets."""
        self._per_reader = per_reader
        self._in_all = in_all
        self._lock = threading.Lock()
        self._readers: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._all = (in_all, time.monotonic())

    def wait(self, reader: str) -> float:
        """Take one; gives the seconds after which to come again, 0 where it may begin."""
        now = time.monotonic()
        with self._lock:  # the reader's first: who clicks too often takes nothing from the others
            bucket = self._readers.get(reader, (self._per_reader, now))
            left, pause = (
                _take(bucket, self._per_reader / 60, self._per_reader, now) if self._per_reader else (0.0, 0.0)
            )
            if pause:
                return pause
            if self._in_all:
                of_all, pause = _take(self._all, self._in_all, self._in_all, now)
                if pause:
                    return pause
                self._all = (of_all, now)
            if self._per_reader:
                self._keep(reader, (left, now))
        return 0.0

    def _keep(self, reader: str, bucket: tuple[float, float]) -> None:
        """Keep the bucket of a reader, the last who came at the end, and forget who has not come for long."""
        self._readers[reader] = bucket
        self._readers.move_to_end(reader)
        if len(self._readers) > READERS_KEPT:
            self._readers.popitem(last=False)


def _take(bucket: tuple[float, float], rate: float, size: float, now: float) -> tuple[float, float]:
    """Give what is left of a bucket once one was taken, and the seconds until there is one."""
    left = min(bucket[0] + (now - bucket[1]) * rate, max(size, 1.0))
    return (left - 1, 0.0) if left >= 1 else (left, (1 - left) / rate)

"""Counters in the text form of Prometheus; nothing in them names a reader."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds; upper bounds of the buckets."""


class Metrics:
    """Counts what the service did."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lock = threading.Lock()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._refused: Counter[str] = Counter()
        self._received: Counter[str] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    def note(self, action: str, status: str, seconds: float) -> None:
        """Count an action that came to an end."""
        with self._lock:
            self._outcomes[action, status] += 1
            self._seconds += seconds
            self._buckets.update(bound for bound in BOUNDS if seconds <= bound)

    def refuse(self, why: str) -> None:
        """Count a request that was turned away."""
        with self._lock:
            self._refused[why] += 1

    def receive(self, what: str) -> None:
        """Count a call of Piano, by what became of it."""
        with self._lock:
            self._received[what] += 1

    def text(self, gauges: Mapping[str, float]) -> str:
        """Write all of it, and what is so at the moment."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines(gauges))

    def _lines(self, gauges: Mapping[str, float]) -> Iterator[str]:
        yield "# TYPE piano_actions_outcomes_total counter"
        for (action, status), count in sorted(self._outcomes.items()):
            yield f'piano_actions_outcomes_total{{action="{action}",status="{status}"}} {count}'
        yield "# TYPE piano_actions_turned_away_total counter"
        for why, count in sorted(self._refused.items()):
            yield f'piano_actions_turned_away_total{{why="{why}"}} {count}'
        yield "# TYPE piano_actions_webhooks_total counter"
        for what, count in sorted(self._received.items()):
            yield f'piano_actions_webhooks_total{{became="{what}"}} {count}'
        total = sum(self._outcomes.values())
        yield "# TYPE piano_actions_seconds histogram"
        for bound in BOUNDS:
            yield f'piano_actions_seconds_bucket{{le="{bound:g}"}} {self._buckets[bound]}'
        yield f'piano_actions_seconds_bucket{{le="+Inf"}} {total}'
        yield f"piano_actions_seconds_sum {self._seconds:.6f}"
        yield f"piano_actions_seconds_count {total}"
        for name, value in gauges.items():
            yield f"# TYPE piano_actions_{name} gauge"
            yield f"piano_actions_{name} {value:g}"

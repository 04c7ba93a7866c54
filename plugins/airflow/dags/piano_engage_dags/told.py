"""What the log of a run tells: exit codes, and where its summary lies."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTAGE: Final = 75
"""The exit code for vendors that are down: docs/delivery.md. All others want somebody to look."""


SIGNALS: Final = range(129, 160)
"""128 and the number of the signal that stopped it."""


def may_retry(codes: Sequence[int]) -> bool:
    """Whether a run that failed may be tried again without looking: outages, and signals that stopped it."""
    failed = [code for code in codes if code]
    return bool(failed) and all(code == OUTAGE or code < 0 or code in SIGNALS for code in failed)


@dataclass
class Told:
    """What the log of a run told.

    Attributes:
        codes: exit codes of plugins, by kind; of `meltano` itself under that name.
        summary: path of the run's summary.
        page: path of its page.
    """

    codes: dict[str, int] = field(default_factory=dict)
    summary: str | None = None
    page: str | None = None

    def read(self, line: str) -> str:
        """Take a line of Meltano's JSON log, and give it for people."""
        try:
            entry = json.loads(line)
        except ValueError:
            return line
        if not isinstance(entry, dict):
            return line
        self.codes.update({str(kind): int(code) for kind, code in (entry.get("exit_codes") or {}).items()})
        event = str(entry.get("event", ""))
        if found := _SUMMARY.search(event):
            self.summary = found["path"]
            self.page = re.sub(r"\.json$", ".html", self.summary)
        if found := _FAILED.search(str(entry.get("err") or "")):
            self.codes["utilities"] = int(found["code"])
        return f"{entry.get('level', 'info'):7} {entry.get('string_id', 'meltano')}  {event}"


_SUMMARY: Final = re.compile(r"^run \S+ \w+: .*; (?P<path>\S.*\.json)$")
"""The line by which target-recurly-engage ends a run."""
_FAILED: Final = re.compile(r"failed with exit code: (?P<code>-?\d+)")
"""What Meltano says of a utility."""

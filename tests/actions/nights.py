"""The nightly run in the tests of the actions: the sandbox's log, typed as the tap types it, into the real target."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from piano_engage_sandbox.columns import GROUPS
from piano_engage_sandbox.data import log_rows
from piano_engage_sandbox.engage.store import Engage as Store
from piano_engage_sandbox.export import snapshot
from tap_piano.columns import BY_NAME, Kind, property_name

from tests.target.conftest import PROPERTIES, Engage

if TYPE_CHECKING:
    from pathlib import Path

    from tests.actions.conftest import Piano


def typed(header: str, cell: str) -> Any:  # noqa: ANN401 - a cell
    kind = BY_NAME[property_name(header)].kind
    if not cell:
        return None
    if kind is Kind.TIMESTAMP:
        return datetime.strptime(cell, "%Y-%m-%d %H:%M:%S %z").isoformat()
    if kind is Kind.BOOLEAN:
        return cell == "TRUE"
    return float(cell) if kind is Kind.MONEY else int(cell) if kind is Kind.INTEGER else cell


@dataclass
class Nights:
    """Nightly runs over one ledger, and what Engage holds after them."""

    piano: Piano
    folder: Path

    def __post_init__(self) -> None:
        """Give the target its settings."""
        self.engage = Engage(self.folder / "night")
        self.engage.folder.mkdir()
        self.engage.config |= {
            "app_id": self.piano.server.sandbox.app_id, "api_key": self.piano.server.sandbox.api_key,
            "api_url": self.piano.server.url, "delivery": "ingest", "requests_per_second": 0, "retry_wait": 0,
            "timezone": self.piano.app.timezone, "traits": "all,computed", "segments": "all",
            "handover_path": str(self.folder / "handover"),
        }  # fmt: skip
        del self.engage.config["as_of"]
        self.config = self.folder / "target.json"
        self.config.write_text(json.dumps(self.engage.config))

    def log(self) -> list[dict[str, Any]]:
        """Give the log as it is now."""
        app = self.piano.app
        rows = log_rows(
            rows=app.rows, since=app.begins, as_of=app.world.now, groups=tuple(GROUPS),
            touched=snapshot(app.world.touched),
        )  # fmt: skip
        records = []
        for row in rows:
            record = {property_name(header): typed(header, cell) for header, cell in row.items()}
            records.append({name: record[name] for name in PROPERTIES if name in record} | {"aid": app.aid})
        return records

    def run(self, log: list[dict[str, Any]] | None = None) -> None:
        """Run a night, on the log as it is now or was."""
        now = datetime.fromtimestamp(self.piano.world.now, UTC).isoformat()
        done = self.engage.run(self.engage.snapshot(self.log() if log is None else log), as_of=now)
        assert done.code == 0, done.log

    def holds(self, user_id: str) -> dict[str, Any]:
        """Give the traits of a reader at Engage."""
        user = self.piano.server.sandbox.part(Store).user(user_id)
        return dict(user.traits) if user else {}

    def writes(self, user_id: str) -> int:
        """Count the requests to the Ingest API about a reader so far."""
        requests = self.piano.server.control("GET", f"requests?part=engage&user={user_id}&limit=100000")
        return sum(one["path"] == "/ingest/property" for one in requests)

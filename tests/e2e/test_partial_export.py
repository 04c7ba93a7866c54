"""A third of a log, taken with exit 0, through both: the next complete export brings what it lacked."""

from __future__ import annotations

import csv
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import duckdb
import pytest

from tests.e2e.test_samples import DAY_4, NOW
from tests.e2e.test_unchanged import Nights

if TYPE_CHECKING:
    from pathlib import Path

USERS = 90
THIRD = range(USERS // 3)


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path, traits="subscription_id,subscription_status,term_name")


def term(user: int, night: int) -> str:
    """Every night another tenth of the users gets another term."""
    changed = user % 10
    return f"Term {changed}" if 0 < changed <= night else "Term 0"


def write(nights: Nights, night: int, users: range = range(USERS)) -> None:
    """Write the export of a night; its last change is one of the first third."""
    now = datetime.fromisoformat(NOW[DAY_4])
    with (nights.folder / "log.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Subscription ID", "User ID (UID)", "Subscription status", "Term name", "Modify time"])
        for user in users:
            changed = user % 10 if user % 10 <= night else 0
            stamp = now - timedelta(days=10 - changed, hours=0 if user in THIRD else 12)
            stamped = f"{stamp:%Y-%m-%d %H:%M:%S} +0000"
            rows.writerow([f"RC{user}", f"u{user}", "Active", term(user, night), stamped])


def held(nights: Nights) -> dict[str, str]:
    """Read from the ledger what Engage holds."""
    with duckdb.connect(str(nights.folder / "ledger.duckdb"), read_only=True) as ledger:
        return dict(ledger.execute("SELECT user_id, term_name FROM delivered").fetchall())


def test_after_the_next_complete_export_every_user_is_right(nights: Nights) -> None:
    write(nights, 1)
    assert nights.run() == 0
    assert len(held(nights)) == USERS
    write(nights, 2, THIRD)
    assert nights.run() == 0
    assert held(nights)["u2"] == "Term 2"  # what is in the third arrives
    assert held(nights)["u82"] == "Term 0"
    assert "it looks cut off or filtered" in (nights.folder / "log").read_text()
    write(nights, 3)
    assert nights.run() == 0
    assert held(nights) == {f"u{user}": term(user, 3) for user in range(USERS)}

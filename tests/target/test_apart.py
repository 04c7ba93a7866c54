"""The documentation's own trap: Premium active and Basic expired, and filters that Engage judges one by one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from target_recurly_engage import formulas
from target_recurly_engage.preview import preview
from target_recurly_engage.pulse import pulse

from tests.target import lives
from tests.target.test_computed import NOW, by_reader, contract, desired, filled, trap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from target_recurly_engage.contract import Contract

PREMIUM = {"name": "has_premium", "has_active": {"resource_name": ["Premium"]}}
IN_TERM = {"name": "in_term", "has_had": {"resource_name": ["Premium"], "term_id": ["TM1"]}}
SEGMENT: dict[str, Any] = {
    "name": "premium_now",
    "filters": [
        {"trait": "resource_name", "include": {"one_of": ["Premium"]}},
        {"trait": "lifecycle_stage", "include": {"one_of": ["active", "trial"]}},
        {"trait": "access_expiration_date", "include": {"within_next_days": 7}},
        {"trait": "subscription_count", "include": {"at_least": 1}},
    ],
}
WORDS = (
    "{0}: {1:,} reader(s) meet its conditions only by different subscriptions, so they are not in it; collection "
    "filters, which Engage judges one by one, would take them"
)


def warnings(folder: Path, rows: Sequence[lives.Row], made: Contract) -> list[str]:
    with filled(folder, rows) as ledger:
        return list(preview(ledger, made, NOW.isoformat())["warnings"])


def taken_apart(rows: Sequence[lives.Row], *conditions: Callable[[lives.Row], bool]) -> int:
    """Count readers who meet each condition by some subscription, and all of them by none."""
    readers = [
        [lives.judge(row, NOW, upgraded=lives.is_upgraded(own, NOW)) for row in own] for own in by_reader(rows).values()
    ]
    each = [own for own in readers if all(any(holds(row) for row in own) for holds in conditions)]
    return sum(not any(all(holds(row) for holds in conditions) for row in own) for own in each)


def test_the_trap_does_not_catch_the_compound_trait_and_the_preview_tells_of_it(tmp_path: Path) -> None:
    rows = trap()  # who has Premium now and had Basic; and who had Premium and has Basic now
    found = desired(tmp_path, rows, contract(traits=[PREMIUM]), NOW)
    assert {user: values["has_premium"] for user, values in found.items()} == {"has": True, "had": False}
    assert warnings(tmp_path, rows, contract(traits=[PREMIUM])) == [WORDS.format("the trait has_premium", 1)]
    segment = {"name": "x", "filters": [{"trait": "has_premium", "include": {"one_of": [True]}}]}
    (warning,) = pulse(contract(traits=[PREMIUM], segments=[segment]))["x"]["warnings"]
    assert "has_premium asks one and the same subscription, which collection filters cannot" in warning


def test_a_compound_trait_over_different_subscriptions_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formulas, "compound", lambda asked: " AND ".join(f"bool_or({one})" for one in asked))
    with pytest.raises(AssertionError):
        test_the_trap_does_not_catch_the_compound_trait_and_the_preview_tells_of_it(tmp_path)


def test_the_readers_whom_it_would_catch_are_counted(tmp_path: Path) -> None:
    rows = lives.lives(5, 1500, NOW)
    today = NOW.astimezone(lives.ZONE).date()
    made = contract(traits=["all", PREMIUM, IN_TERM], segments=[SEGMENT, "trial_users"])

    def soon(row: lives.Row) -> bool:
        end = lives.day(row["access_expiration_date"])
        return end is not None and today <= end <= today + timedelta(days=7)

    def is_premium(row: lives.Row) -> bool:
        return bool(row["resource_name"] == "Premium")

    expected = {
        "the trait has_premium": taken_apart(rows, is_premium, lambda row: row["live"]),
        "the trait in_term": taken_apart(rows, is_premium, lambda row: row["term_id"] == "TM1"),
        "the segment premium_now": taken_apart(rows, is_premium, lambda row: row["stage"] in {"active", "trial"}, soon),
    }
    assert min(expected.values()) > 0
    assert warnings(tmp_path, rows, made) == [WORDS.format(what, count) for what, count in expected.items()]


def test_where_no_reader_is_caught_nothing_is_said(tmp_path: Path) -> None:
    rows = [row for row in trap() if row["user_id"] == "has"]
    alone = [row for row in rows if row["resource_name"] == "Premium"]
    assert warnings(tmp_path, rows, contract(traits=[PREMIUM])) == []
    assert warnings(tmp_path, alone, contract(traits=[PREMIUM], segments=[SEGMENT])) == []

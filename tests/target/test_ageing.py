"""Readers who were told long ago are told in full again, for Engage forgets who is idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pytest

if TYPE_CHECKING:
    from tests.target.conftest import Engage


def age(engage: Engage, days: float) -> None:
    """Have all deliveries been that long ago."""
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute(
            f"UPDATE deliveries SET started_at = now() - to_seconds({days * 86400}), "
            f"acknowledged_at = now() - to_seconds({days * 86400})"
        )


def test_nobody_is_told_again_before_his_time_and_all_are_after_it(engage: Engage) -> None:
    records = engage.subscriptions(50)
    engage.run(engage.snapshot(records))
    age(engage, 70.5)
    assert "0 changes" in engage.run(engage.snapshot(records)).log
    age(engage, 80.5)
    run = engage.run(engage.snapshot(records))
    assert run.code == 0, run.log
    assert len(engage.sent()) == 50
    assert engage.summaries[-1]["users"]["again"] == 50
    assert "0 changes" in engage.run(engage.snapshot(records)).log


def test_they_are_spread_over_days(engage: Engage) -> None:
    records = engage.subscriptions(200)
    engage.run(engage.snapshot(records))
    days = []
    with duckdb.connect(str(engage.ledger)) as connection:
        ((first,),) = connection.execute("SELECT delivery_id FROM deliveries").fetchall()
    for day in range(70, 82):
        with duckdb.connect(str(engage.ledger)) as connection:
            connection.execute(
                f"UPDATE deliveries SET acknowledged_at = now() - INTERVAL {24 * day + 12} HOUR WHERE delivery_id = ?",
                [first],
            )
        engage.run(engage.snapshot(records))
        days.append(engage.summaries[-1]["users"]["again"])
    assert sum(days) == 200
    assert days[0] == days[-1] == 0
    assert all(5 < day < 50 for day in days[1:-1])


def test_who_has_no_subscription_any_more_may_be_forgotten(engage: Engage) -> None:
    records = engage.subscriptions(50)
    engage.run(engage.snapshot(records))
    engage.run(engage.snapshot(records[:-1]))
    age(engage, 85)
    engage.run(engage.snapshot(records[:-1]))
    assert len(engage.sent()) == 49


@pytest.mark.parametrize(("days", "again"), [(0, 0), (200, 0), (7, 50)])
def test_the_age_is_a_setting(engage: Engage, days: int, again: int) -> None:
    engage.run(engage.snapshot(engage.subscriptions(50)))
    age(engage, 100)
    engage.run(engage.snapshot(engage.subscriptions(50)), resend_after_days=days)
    assert engage.summaries[-1]["users"]["again"] == again


def test_a_clock_that_jumps_back_sends_nothing(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(5)))
    age(engage, -400)
    run = engage.run(engage.snapshot(engage.subscriptions(5)))
    assert (run.code, len(engage.files)) == (0, 1)

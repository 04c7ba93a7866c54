"""What ended is cleared in so many words, once; what drifts waits for company."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.target.conftest import Engage

CLEARED = {"promo_code": "none", "renewed": "false", "days_subscribed": "-1", "end_date": "9999-12-31"}


def test_a_reader_without_subscriptions_is_cleared_once_and_may_come_back(engage: Engage) -> None:
    readers = [engage.subscription(n, promo_code="P", renewed=True) for n in range(1, 31)]
    engage.run(engage.snapshot(readers))
    engage.run(engage.snapshot(readers[:-1]))
    assert set(engage.sent()) == {"u30"}
    row = engage.sent()["u30"]
    assert {name: row[name] for name in CLEARED} == CLEARED
    assert set(row.values()) == {"u30", "none", "false", "-1", "9999-12-31"}
    assert engage.summaries[-1]["users"]["cleared"] == 1
    engage.run(engage.snapshot(readers[:-1]))
    assert len(engage.files) == 2
    engage.run(engage.snapshot(readers))
    assert set(engage.sent()) == {"u30"}
    assert engage.sent()["u30"]["promo_code"] == "P"


def test_an_increment_clears_nobody(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(30)))
    engage.run(engage.messages(engage.subscriptions(1)))
    assert len(engage.files) == 1


def test_a_reader_with_another_subscription_left_gets_its_traits(engage: Engage) -> None:
    others = engage.subscriptions(20)
    main, spare = engage.subscription(100, "a", term_name="main"), engage.subscription(101, "a", term_name="spare")
    spare["access_expiration_date"] = "2026-03-29T00:00:00Z"
    engage.run(engage.snapshot([*others, main, spare]))
    engage.run(engage.snapshot([*others, spare]))
    assert {user: row["term_name"] for user, row in engage.sent().items()} == {"a": "spare"}


def test_a_value_that_ends_is_replaced_by_the_agreed_one(engage: Engage) -> None:
    engage.run(engage.snapshot([engage.subscription(promo_code="P", end_date="2026-01-01T00:00:00Z", renewed=True)]))
    settings = {"clear_string": "NONE", "clear_number": 0, "clear_boolean": True, "clear_date": "1970-01-01"}
    engage.run(engage.snapshot([engage.subscription(days_subscribed=None)]), **settings)
    row = engage.sent()["u1"]
    assert [row[name] for name in ("promo_code", "days_subscribed", "renewed", "end_date")] == [
        "NONE", "0", "true", "1970-01-01",
    ]  # fmt: skip


def test_what_drifts_rides_along_and_causes_no_send(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(3, days_subscribed=10)))
    run = engage.run(engage.snapshot(engage.subscriptions(3, days_subscribed=11)))
    assert "0 changes" in run.log
    assert len(engage.files) == 1
    changed = engage.subscriptions(3, days_subscribed=12)
    changed[1]["term_name"] = "other"
    engage.run(engage.snapshot(changed))
    assert {user: row["days_subscribed"] for user, row in engage.sent().items()} == {"u2": "12"}

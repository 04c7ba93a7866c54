"""What a retention manager would dispute: each reading as a table, and laws that hold for any subscriptions."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from target_recurly_engage import computed, primary
from target_recurly_engage import desired as desired_
from target_recurly_engage.explain import explain, words_of
from target_recurly_engage.ledger import Ledger

from tests.target import lives
from tests.target.test_computed import by_reader, contract, desired

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOW = datetime(2026, 3, 28, 11, tzinfo=UTC)  # noon in Amsterdam, whose clocks change the night after
ZONE = ZoneInfo("Europe/Amsterdam")


def at(day: int, hour: int = 0, *, month: int = 3, zone: ZoneInfo = ZONE) -> datetime:
    """Return a moment of 2026 by the calendar of a zone."""
    return datetime(2026, month, day, hour, tzinfo=zone).astimezone(UTC)


PLAIN: lives.Row = lives.lives(0, 1, NOW)[0] | {
    "subscription_status": "Active", "currently_in_grace_period": False, "auto_renew": True, "term_type": "Payment",
    "auto_renew_disablement_date": None, "access_expiration_date": at(20, month=4), "end_date": None,
    "start_date": at(1, month=1), "trial_period_end_date": None, "grace_period_start_date": None,
    "total_charged": 9.99, "promo_code": None, "billing_period": "1 month", "upgrade_status": "No upgrade",
}  # fmt: skip
RENEWS: lives.Row = {}
LEAVES = {"auto_renew": False, "auto_renew_disablement_date": at(2), "access_expiration_date": at(2, month=4)}
LATER = LEAVES | {"access_expiration_date": at(20, month=6)}
CANCELLED = {"subscription_status": "Cancelled", "auto_renew": False, "access_expiration_date": at(2, month=4)}
LIFETIME = {"auto_renew": False, "access_expiration_date": None}
UPGRADED = {
    "subscription_status": "Upgraded", "auto_renew": False, "upgrade_status": "Upgraded",
    "end_date": at(28, 9), "access_expiration_date": at(28, 9),
}  # fmt: skip
PENDING = {"subscription_status": "Pending", "start_date": at(28, 9), "access_expiration_date": at(28, month=4)}
LAPSED = {"subscription_status": "Expired", "auto_renew": False, "access_expiration_date": at(1)}
NEXT_MONTH = {"start_date": at(20, month=4), "access_expiration_date": at(20, month=5)}
REGISTERED = {"term_type": "Registration", "auto_renew": False, "access_expiration_date": None, "total_charged": 0}

Expected = dict[str, Any]
READINGS: dict[str, tuple[list[lives.Row], Expected]] = {
    "access without an end is the latest end": (
        [LIFETIME, CANCELLED],
        {"lifecycle_stage": "active", "days_to_access_end": None, "in cancel_pending_soon": False},
    ),
    "a lifetime does not leave, though nothing renews it": (
        [LIFETIME], {"lifecycle_stage": "active", "in cancel_pending": False, "in cancel_pending_soon": False},
    ),
    "a lifetime that somebody turned off, or that will not renew by its word, leaves": (
        [LIFETIME | {"subscription_status": "Won't renew"}], {"lifecycle_stage": "pending_cancel"},
    ),
    "a registration without an end keeps nobody who pays": (
        [REGISTERED, LEAVES], {"lifecycle_stage": "pending_cancel", "in cancel_pending_soon": True},
    ),
    "expired without an end of access ended with the subscription": (
        [LAPSED | {"access_expiration_date": None, "end_date": at(26)}, LAPSED],
        {"lifecycle_stage": "lapsed", "days_since_lapse": 3},
    ),
    "who renews one is not leaving because another ends later": (
        [RENEWS, LATER], {"lifecycle_stage": "active", "days_to_access_end": None, "in cancel_pending": False},
    ),
    "nor because of a cancelled one, or one that will not renew": (
        [
            RENEWS,
            CANCELLED | {"access_expiration_date": at(9, month=9)},
            LATER | {"subscription_status": "won't renew"},
        ],
        {"lifecycle_stage": "active", "in cancel_pending": False},
    ),
    "nor with a trial that will renew": (
        [{"trial_period_end_date": at(9, month=4), "access_expiration_date": at(9, month=4)}, LATER],
        {"lifecycle_stage": "trial", "in cancel_pending": False},
    ),
    "grace renews as well: another card is what to ask for": (
        [{"subscription_status": "Failed - will retry", "currently_in_grace_period": True,
          "grace_period_start_date": at(25), "access_expiration_date": at(25)}, LATER],
        {"lifecycle_stage": "grace", "in_grace_period": True},
    ),
    "what has ended renews nothing, whatever its flag says": (
        [LAPSED | {"auto_renew": True}, LEAVES], {"lifecycle_stage": "pending_cancel"},
    ),
    "upgraded today, the new one pending: a customer": (
        [UPGRADED, PENDING],
        {"lifecycle_stage": "active", "active_subscription_count": 1, "in promo_eligible": False, "tenure": 87},
    ),
    "the same with a trial that has not begun, or a first day to come": (
        [UPGRADED, PENDING | {"subscription_status": "Not started", "trial_period_end_date": at(9, month=4)}],
        {"lifecycle_stage": "active", "in_trial": False, "days_to_trial_end": None},
    ),
    "upgraded today, the new one active from tomorrow": (
        [UPGRADED, {"start_date": at(29), "access_expiration_date": at(29, month=4)}],
        {"lifecycle_stage": "active", "active_subscription_count": 1},
    ),
    "a lifetime whose renewal somebody turned off leaves": (
        [LIFETIME | {"auto_renew_disablement_date": at(2)}],
        {"lifecycle_stage": "pending_cancel", "days_to_access_end": None, "in cancel_pending_soon": False},
    ),
    "pending after an upgrade, and its access over": (
        [UPGRADED, PENDING | {"access_expiration_date": at(27)}], {"lifecycle_stage": "none"},
    ),
    "two that end on one day": (
        [LEAVES, LEAVES | {"access_expiration_date": at(2, 23, month=4)}],
        {"days_to_access_end": 5, "lifecycle_stage": "pending_cancel"},
    ),
    "upgraded long ago and pending now is another purchase": (
        [UPGRADED | {"end_date": at(1), "access_expiration_date": at(1)}, PENDING],
        {"lifecycle_stage": "none", "active_subscription_count": 0},
    ),
    "upgraded, and the new one runs": (
        [UPGRADED, {"start_date": at(28, 9)}], {"lifecycle_stage": "active", "active_subscription_count": 1},
    ),
    "pending alone has not begun": ([PENDING], {"lifecycle_stage": "none", "active_subscription_count": 0}),
    "active from next month has not begun": (
        [NEXT_MONTH],
        {"lifecycle_stage": "none", "active_subscription_count": 0, "tenure": 0, "subscription_age": None,
         "in promo_eligible": False},
    ),
    "nor with auto-renew off, nor with a trial": (
        [NEXT_MONTH | {"auto_renew": False, "trial_period_end_date": at(27, month=4)}],
        {"lifecycle_stage": "none", "in_trial": False, "days_to_access_end": None, "in cancel_pending": False},
    ),
    "a later one takes nothing from the one that runs": (
        [LEAVES, NEXT_MONTH | {"access_expiration_date": at(20, month=9)}],
        {"lifecycle_stage": "pending_cancel", "days_to_access_end": 4},
    ),
    "access until 00:00 of tomorrow ends today": (
        [LEAVES | {"access_expiration_date": at(29)}],
        {"lifecycle_stage": "pending_cancel", "days_to_access_end": 0, "in cancel_pending_soon": True},
    ),
    "access until a second later ends tomorrow": (
        [LEAVES | {"access_expiration_date": at(29) + timedelta(seconds=1)}], {"days_to_access_end": 1},
    ),
    "access until 00:00 of today ended yesterday": (
        [LAPSED | {"access_expiration_date": at(28)}], {"lifecycle_stage": "lapsed", "days_since_lapse": 1},
    ),
    "a trial until 00:00 of tomorrow ends today": (
        [{"trial_period_end_date": at(29), "access_expiration_date": at(29)}], {"days_to_trial_end": 0},
    ),
    "tenure counts the first day": ([{"start_date": at(28, 9)}], {"tenure": 1, "subscription_age": 0}),
    "and the last one": ([LAPSED | {"start_date": at(1, month=2), "access_expiration_date": at(10, 12, month=2)}],
                         {"tenure": 10}),
    "a day with two counts once": (
        [LAPSED | {"start_date": at(1, month=2), "access_expiration_date": at(10, 12, month=2)},
         LAPSED | {"start_date": at(10, 13, month=2), "access_expiration_date": at(12, month=2)}],
        {"tenure": 11},
    ),
}  # fmt: skip


def of_one(rows: Sequence[lives.Row], user: str = "u") -> list[lives.Row]:
    return [PLAIN | row | {"user_id": user, "subscription_id": f"{user} RC{i}"} for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All users of the table at once; each has her subscriptions in the order given, and the other way round."""
    rows = [row for name, (given, _) in READINGS.items() for row in of_one(given, name)]
    rows += [row for name, (given, _) in READINGS.items() for row in of_one(given[::-1], f"{name}, turned")]
    return desired(tmp_path_factory.mktemp("readings"), rows, contract(segments="all"), NOW)


@pytest.mark.parametrize("reading", READINGS)
def test_a_disputed_reading_is_as_documented(reading: str, found: dict[str, dict[str, Any]]) -> None:
    rows, expected = READINGS[reading]
    for user in (reading, f"{reading}, turned"):
        assert {trait: found[user][trait] for trait in expected} == expected
    second = lives.computed(of_one(rows), NOW)
    second |= {f"in {name}": inside for name, inside in lives.ready(second).items()}
    assert {trait: second[trait] for trait in expected} == expected, "the second implementation reads it otherwise"


# Laws


def check_laws(found: dict[str, dict[str, Any]], rows: Sequence[lives.Row]) -> set[str]:
    """Check what holds for any subscriptions, and return the laws that said something."""
    said = set()
    for user, given in by_reader(rows).items():
        judged = [lives.judge(row, NOW, upgraded=lives.is_upgraded(given, NOW)) for row in given]
        values, live = found[user], [row for row in judged if row["live"]]
        if any(row["renews"] for row in judged):
            assert values["lifecycle_stage"] not in {"pending_cancel", "lapsed", "none"}, (user, given)
            said.add("who renews one is not leaving")
        if values["lifecycle_stage"] == "none":
            assert not live, (user, given)
            said.add("who has access has begun")
        if any(row["until"] == lives.FOREVER and row["tier"] == 0 for row in live):
            assert not values["in cancel_pending_soon"], (user, given)
            said.add("a lifetime gets no last offer")
        if values["days_to_access_end"] is not None:
            last = NOW.astimezone(ZONE).date() + timedelta(days=values["days_to_access_end"])
            ends = {lives.last_day(row["access_expiration_date"]) for row in live}
            assert last in ends, (user, given)
            said.add("access is there on its last day, and on none after")
        if any(row["start_date"] and row["start_date"] <= NOW for row in live):
            assert values["tenure"] > 0, (user, given)
        assert bool(live) == (values["active_subscription_count"] > 0)
    return said


@pytest.mark.parametrize("seed", [11, 12])
def test_laws_hold_for_any_subscriptions(tmp_path: Path, seed: int) -> None:
    rows = lives.lives(seed, 600, NOW)
    assert len(check_laws(desired(tmp_path, rows, contract(segments="all"), NOW), rows)) == 4


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns", "UTC"])
def test_the_last_day_of_access_is_one_of_the_zone_whatever_its_offset(tmp_path: Path, zone: str) -> None:
    """The clocks of Lord Howe go back by half an hour on 5 April, those of St John's go forward on 8 March."""
    here, rows, expected = ZoneInfo(zone), list[lives.Row](), dict[str, int]()
    for month, day in ((3, 8), (3, 9), (3, 28), (3, 29), (4, 5), (4, 6)):
        for second in (-1, 0, 1):
            end = at(day, month=month, zone=here) + timedelta(seconds=second)
            if end > NOW:
                user = end.isoformat()
                rows += of_one([LEAVES | {"access_expiration_date": end}], user)
                last = (end - timedelta(microseconds=1)).astimezone(here).date()
                expected[user] = (last - NOW.astimezone(here).date()).days
    found = desired(tmp_path, rows, contract(timezone=zone), NOW)
    assert {user: values["days_to_access_end"] for user, values in found.items()} == expected


def test_explain_names_the_criterion_and_shows_subscriptions_as_piano_wrote_them(tmp_path: Path) -> None:
    rows = [*of_one([RENEWS, LATER]), *of_one([UPGRADED, PENDING], "upgraded")]
    made = contract(segments="all")
    desired(tmp_path, rows, made, NOW)
    with closing(Ledger(tmp_path / "ledger.duckdb", memory_limit="200MB")) as ledger:
        renews, upgraded = (explain(ledger, made, NOW.isoformat(), user) for user in ("u", "upgraded"))
        assert "takes_over" not in ledger.tables()
    assert renews["decided_by"] == "renews"
    assert [one["criteria"]["renews"] for one in renews["subscriptions"]] == ["yes", "no"]
    assert "chosen by renews" in list(words_of(renews, None))
    assert upgraded["decided_by"] == "live"
    assert [one["row"]["subscription_status"] for one in upgraded["subscriptions"]] == ["Pending", "Upgraded"]
    assert upgraded["traits"]["subscription_status"]["value"] == "Pending"
    assert upgraded["traits"]["lifecycle_stage"]["value"] == "active"


# Broken doubles: each reading as it was

OLD_END = {**primary._CRITERIA, "latest_access_end": "-coalesce(epoch_us(access_expiration_date), 0)"}
NOBODY = "SELECT subscription_id FROM subscriptions WHERE false"
OLD_ORDER = ["live", "paid", "latest_access_end", "latest_start"]


@pytest.mark.parametrize(
    ("reading", "place", "broken"),
    [
        ("access without an end is the latest end", (primary, "_CRITERIA"), OLD_END),
        ("who renews one is not leaving because another ends later", (primary, "DEFAULT_ORDER"), OLD_ORDER),
        ("upgraded today, the new one pending: a customer", (desired_, "taking_over"), lambda *_: NOBODY),
        ("active from next month has not begun", (computed, "LIVE"), primary.HELD),
    ],
)
def test_a_reading_as_it_was_is_found_out(
    reading: str,
    place: tuple[object, str],
    broken: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(*place, broken)
    rows, expected = READINGS[reading]
    for turned in (rows, rows[::-1]):
        values = desired(tmp_path, of_one(turned), contract(segments="all", primary=list(primary.DEFAULT_ORDER)), NOW)[
            "u"
        ]
        if {trait: values[trait] for trait in expected} != expected:
            return
    pytest.fail("nobody would have noticed")

"""A second implementation of the computed traits and the segments, in plain Python; shares no code with the target."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Row = dict[str, Any]

ZONE = ZoneInfo("Europe/Amsterdam")
RUNS = {"active", "renewed", "completed", "failed - will retry", "payment failure"}
LEAVES = {"won't renew", "wont renew"}
ENDED = {"cancelled", "expired", "expired due to payment error"}
AWAITED = {"pending", "not started", "wait confirmed"}
APART = {"deleted", "na"}
KNOWN = RUNS | LEAVES | ENDED | AWAITED | APART | {"upgraded"}
FREE = {"registration", "newsletter", "ad view", "custom", "access granted"}
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
FOREVER = datetime(9999, 1, 1, tzinfo=UTC)


def day(moment: datetime | None) -> date | None:
    return moment and moment.astimezone(ZONE).date()


def last_day(end: datetime | None) -> date | None:
    """Return the last day that ends by a moment: an end at 00:00 belongs to the day before."""
    return end and (end - timedelta(microseconds=1)).astimezone(ZONE).date()


def word_of(row: Row) -> str:
    return (row["subscription_status"] or "").strip().lower().replace("\u2019", "'").replace("_", " ")


def is_upgraded(rows: Iterable[Row], now: datetime) -> bool:
    """Say whether one of a user's subscriptions was upgraded within the last seven days."""
    for row in rows:
        ends = [end for end in (row["end_date"], row["access_expiration_date"]) if end]
        if word_of(row) == "upgraded" and (not ends or max(ends) > now - timedelta(days=7)):
            return True
    return False


def judge(row: Row, now: datetime, *, upgraded: bool = False) -> Row:
    """Say of one subscription whether it is live, and its stage; *upgraded* says :func:`is_upgraded` of the user."""
    word = word_of(row)
    grace, end = bool(row["currently_in_grace_period"]), row["access_expiration_date"]
    later = row["start_date"] is not None and row["start_date"] > now
    held = word not in AWAITED | APART | {"upgraded"} and (grace or (end > now if end else word in RUNS | LEAVES))
    awaited = word in AWAITED or (later and word in RUNS | LEAVES)
    takes_over = upgraded and awaited and (end is None or end > now)
    live = takes_over or (held and not later)
    trial = live and not takes_over and row["trial_period_end_date"] is not None and row["trial_period_end_date"] > now
    kind = (row["term_type"] or "").lower()
    if word not in KNOWN:
        stage = "unknown"
    elif takes_over:
        stage = "active"
    elif later or word in AWAITED | APART | {"upgraded"}:
        stage = "none"
    elif not live:
        stage = "lapsed"
    elif grace:
        stage = "grace"
    elif trial:
        stage = "trial"
    elif word in LEAVES | ENDED or (
        row["auto_renew"] is False
        and (row["auto_renew_disablement_date"] or (end and kind in {"payment", "dynamic", "linked"}))
    ):
        stage = "pending_cancel"
    else:
        stage = "active"
    tier = 1 if row["trial_period_end_date"] and row["trial_period_end_date"] > now else 2 if kind in FREE else 0
    return row | {
        "word": word,
        "live": live,
        "held": held,
        "never": (later or word in AWAITED | APART) and not takes_over,
        "renews": live and bool(row["auto_renew"]) and (takes_over or word in RUNS) and kind not in FREE,
        "until": end or (FOREVER if takes_over or word in RUNS | LEAVES else row["end_date"] or NEVER),
        "in_trial": trial,
        "in_grace": live and grace,
        "stage": stage,
        "tier": tier,
    }


def primary(rows: Iterable[Row]) -> Row:
    """Choose the subscription that speaks for the reader."""
    return min(
        rows,
        key=lambda row: (
            not row["live"], not row["renews"], row["tier"], -row["until"].timestamp(),
            -(row["start_date"] or NEVER).timestamp(), row["subscription_id"],
        ),
    )  # fmt: skip


def covered(rows: Iterable[Row], now: datetime) -> int:
    """Count the days on which at least one subscription gave access, one by one, the first and the last included."""
    days: set[int] = set()
    today = now.astimezone(ZONE).date()
    for row in rows:
        first = day(row["start_date"])
        if row["never"] or first is None:
            continue
        ended = min(last_day(row["access_expiration_date"]) or last_day(row["end_date"]) or first, today)
        days.update(range(first.toordinal(), (today if row["live"] else ended).toordinal() + 1))
    return len(days)


def computed(rows: Sequence[Row], now: datetime) -> dict[str, Any]:
    """Work out the computed traits of one reader."""
    judged = [judge(row, now, upgraded=is_upgraded(rows, now)) for row in rows]
    one, today = primary(judged), now.astimezone(ZONE).date()
    codes = sorted(
        (row for row in judged if (row["promo_code"] or "").strip()),
        key=lambda row: (row["start_date"] or NEVER, row["subscription_id"]),
    )

    def until(found: date | None) -> int:
        assert found
        return (found - today).days

    start, grace_start = day(one["start_date"]), day(one["grace_period_start_date"])
    end, trial_end = last_day(one["access_expiration_date"]), last_day(one["trial_period_end_date"])
    lapsed_on = end or last_day(one["end_date"])
    return {
        "lifecycle_stage": one["stage"],
        "in_trial": one["in_trial"],
        "in_grace_period": one["in_grace"],
        "days_to_trial_end": until(trial_end) if one["in_trial"] else None,
        "days_to_access_end": until(end)
        if one["live"] and not one["auto_renew"] and end and until(end) >= 0 else None,
        "days_in_grace": max(-until(grace_start), 0) if one["in_grace"] and grace_start else None,
        "days_since_lapse": max(-until(lapsed_on), 0) if one["stage"] == "lapsed" and lapsed_on else None,
        "subscription_age": max(-until(start), 0) if one["live"] and start else None,
        "subscription_count": len(judged),
        "active_subscription_count": sum(row["live"] for row in judged),
        "has_ever_paid": any((row["total_charged"] or 0) > 0 for row in judged),
        "has_used_promo": bool(codes),
        "last_promo_code": codes[-1]["promo_code"] if codes else None,
        "tenure": covered(judged, now),
    } | {"primary": one | {"starts_in": until(start) if start else None}}  # fmt: skip


def ready(traits: dict[str, Any]) -> dict[str, bool]:
    """Say which ready-made segments a reader is in."""
    one, stage = traits["primary"], traits["lifecycle_stage"]

    def within(value: int | None, low: int, high: int) -> bool:
        return value is not None and low <= value <= high

    lapse, age = traits["days_since_lapse"], traits["subscription_age"]
    return {
        "trial_users": traits["in_trial"],
        "trial_ending": traits["in_trial"] and within(traits["days_to_trial_end"], 0, 3),
        "grace": traits["in_grace_period"],
        "late_grace": traits["in_grace_period"] and (traits["days_in_grace"] or 0) >= 5,
        "cancel_pending": stage == "pending_cancel",
        "cancel_pending_soon": stage == "pending_cancel" and within(traits["days_to_access_end"], 0, 7),
        "recent_lapse": stage == "lapsed" and within(lapse, 0, 29),
        "win_back": stage == "lapsed" and within(lapse, 30, 180),
        "promo_eligible": not traits["has_used_promo"] and stage in {"none", "lapsed"}
        and not traits["active_subscription_count"]
        and not within(one["starts_in"], 0, 3650),
        "upgrade_candidates": stage == "active" and one["billing_period"] == "1 month" and (age or 0) >= 120
        and bool(one["auto_renew"]) and (one["upgrade_status"] or "none") in {"No upgrade", "none"},
        "never_converted": not traits["has_ever_paid"] and stage in {"none", "lapsed"},
    }  # fmt: skip


def drawn(salt: str, user: str) -> float:
    """Give the number from 0 to below 1 that the documentation describes."""
    return int(hashlib.sha256(f"{salt}:{user}".encode()).hexdigest()[:8], 16) / 2**32


# Lives


def lives(seed: int, readers: int, now: datetime) -> list[Row]:
    """Make subscriptions with every boundary: days and hours around now, all words, one to four a reader."""
    choose = random.Random(seed)  # noqa: S311 - lives, not secrets
    words = [
        *(word.title() for word in sorted(KNOWN)),
        "Won\u2019t Renew",
        "FAILED_AND",
        "Paused",
        None,
        "active ",
        "ACTIVE",
    ]

    def near(*, absent: float = 0.2) -> datetime | None:
        if choose.random() < absent:
            return None
        days = choose.choice([*range(-9, 10), *range(-35, 36, 5), -29, -31, -119, -120, -121, -180, -181, -400, 400])
        return now + timedelta(
            days=days, hours=choose.choice([0, -6, -7, -8, 16, 17, 18]), seconds=choose.choice([0, 1])
        )

    rows = []
    for number in range(readers):
        for i in range(choose.choice([1, 1, 1, 2, 3, 4])):
            rows.append({  # noqa: PERF401 - too much for one expression
                "aid": "AID", "user_id": f"u{number}",
                "subscription_id": f"RC{number:05}{choose.randrange(10**6):06}{i}",
                "subscription_status": choose.choice([*words, *["Active"] * 8, *["Expired"] * 4]),
                "currently_in_grace_period": choose.choice([True, False, False, None]),
                "auto_renew": choose.choice([True, True, False, None]),
                "auto_renew_disablement_date": choose.choice([None, now]),
                "term_type": choose.choice(["Payment", "Dynamic", "Gift", "Registration", "Access Granted", None]),
                "access_expiration_date": near(), "end_date": near(), "start_date": near(absent=0.1),
                "trial_period_end_date": near(absent=0.7), "grace_period_start_date": near(absent=0.4),
                "total_charged": choose.choice([None, 0, 9.99]),
                "promo_code": choose.choice([None, " ", "A", "B", "C"]),
                "billing_period": choose.choice(["1 month", "1 month", "1 year", None]),
                "upgrade_status": choose.choice(["No upgrade", "No upgrade", "Upgrade pending", None]),
                "resource_name": choose.choice(["Premium", "Basic"]), "term_id": choose.choice(["TM1", "TM2"]),
            })  # fmt: skip
        if number % 20 == 7:  # upgraded a short while ago, and what takes over is awaited
            upgraded = {"subscription_status": "Upgraded", "end_date": near(), "access_expiration_date": near()}
            awaited = {"subscription_status": choose.choice(["Pending", "Not started", "Active", "Won't renew"])}
            rows.append(rows[-1] | upgraded | {"subscription_id": f"RC{number:05}U"})
            rows.append(rows[-2] | awaited | {"subscription_id": f"RC{number:05}V"})
    return rows


def on_edges(edges: Sequence[int], middle: datetime) -> list[Row]:
    """Make readers for whom each count of days is one of *edges* in the middle of the days that are looked at.

    Moments lie on both sides of midnight in the zone, in winter and in summer time.
    """
    here, rows = middle.astimezone(ZONE), list[Row]()
    midnight = here.replace(hour=0, minute=0, second=0, microsecond=0)
    plain = dict.fromkeys(["end_date", "trial_period_end_date", "grace_period_start_date", "promo_code",
                           "auto_renew_disablement_date", "access_expiration_date"])  # fmt: skip
    plain |= {
        "subscription_status": "Active", "currently_in_grace_period": False, "auto_renew": True, "term_type": "Payment",
        "start_date": middle - timedelta(days=150), "billing_period": "1 month", "upgrade_status": "No upgrade",
        "total_charged": 9.99,
    }  # fmt: skip
    for edge in edges:
        for side in (timedelta(0), timedelta(seconds=-1)):
            before = (midnight - timedelta(days=edge) + side).astimezone(UTC)
            after = (midnight + timedelta(days=edge) + side).astimezone(UTC)
            for kind, changed in {
                "age": {"start_date": before},
                "lapse": {"subscription_status": "Expired", "access_expiration_date": before},
                "grace": {"currently_in_grace_period": True, "grace_period_start_date": before},
                "trial": {"trial_period_end_date": after, "access_expiration_date": after},
                "access": {"auto_renew": False, "access_expiration_date": after},
            }.items():
                if edge <= 31 or kind in {"age", "lapse"}:
                    user = f"{kind} {edge} {side.seconds}"
                    rows.append({**plain, **changed, "user_id": user, "subscription_id": f"RC {user}"})
    return rows


# Filters

Filter = dict[str, Any]


def holds(row: Filter, values: dict[str, Any], today: date, inside: dict[str, bool]) -> bool:
    """Say whether a filter holds for a reader with these values of traits, who is *inside* these segments."""
    if "any_of" in row:
        return any(holds(one, values, today, inside) for one in row["any_of"])
    if "segment" in row:
        return inside[row["segment"]] != row.get("exclude", False)
    way = "include" if "include" in row else "exclude"
    ((operator, given),) = row[way].items()
    value = values[row["trait"]]
    if operator == "one_of" and value is None and row["trait"] in {"term_id", "billing_period", "auto_renew"}:
        value = False if row["trait"] == "auto_renew" else "none"
    return asks(operator, value, given, today) == (way == "include")


def asks(operator: str, value: Any, given: Any, today: date) -> bool:  # noqa: ANN401 - of the trait's type
    """Say whether an operator takes a value."""
    if operator == "is_set" or value is None:
        return value is not None
    if operator == "one_of":
        return value in given
    if operator == "between":
        return bool(given[0] <= value <= given[1])
    if operator == "within_next_days":
        return 0 <= (value - today).days <= given
    if operator == "within_last_days":
        return 0 <= (today - value).days <= given
    return {
        "at_least": value >= given, "at_most": value <= given, "before": value < given, "after": value > given,
    }[operator]  # fmt: skip


def filters(seed: int, count: int, today: date) -> list[Filter]:
    """Make filters with all operators for all types of traits."""
    choose = random.Random(seed)  # noqa: S311 - filters, not secrets

    def near() -> date:
        return today + timedelta(days=choose.choice([-30, -5, -2, -1, 0, 1, 2, 5, 30]))

    def number() -> int:
        return choose.choice([0, 1, 7, 9, 10, 30, 120])

    def question() -> tuple[str, str, Any]:
        return choose.choice([
            ("term_id", "one_of", choose.sample(["TM1", "TM2", "TM9", "none"], choose.randint(1, 3))),
            ("billing_period", "one_of", choose.sample(["1 month", "1 year", "none"], choose.randint(1, 2))),
            ("auto_renew", "one_of", [choose.choice([True, False])]),
            ("tenure", "one_of", [number(), number()]),
            *((trait, "at_least", number()) for trait in ("tenure", "total_charged", "days_since_lapse")),
            *((trait, "at_most", number()) for trait in ("tenure", "total_charged", "days_since_lapse")),
            *(
                (trait, "between", sorted([number(), number()]))
                for trait in ("tenure", "days_to_access_end", "total_charged")
            ),
            ("total_charged", "one_of", [number(), 9.99]),
            *((trait, operator, near()) for trait in DATES for operator in ("before", "after")),
            *((trait, "between", sorted([near(), near()])) for trait in DATES),
            *((trait, operator, number()) for trait in DATES for operator in ("within_next_days", "within_last_days")),
            *((trait, "is_set", True) for trait in IS_SET),
        ])  # fmt: skip

    def one() -> Filter:
        if choose.random() < 0.15:
            return {"any_of": [one() for _ in range(choose.randint(1, 3))]}
        trait, operator, given = question()
        return {"trait": trait, choose.choice(["include", "include", "exclude"]): {operator: given}}

    return [one() for _ in range(count)]


IS_SET = ("access_expiration_date", "end_date", "term_id", "auto_renew", "total_charged", "days_since_lapse")
DATES = ("access_expiration_date", "start_date", "end_date")

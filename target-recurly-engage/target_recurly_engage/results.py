"""What promo codes brought: conversion by arm of an experiment, and what became of subscriptions by code.

A *conversion* is a reader with at least one subscription to a term that is sold which began after he was first told
his arm, and not before the experiment's ``start``. Each reader counts once, in the arm that the hash draws for him,
whether he saw the prompt or not, and whether he is still in the segment or not. ``docs/promotions.md`` says why.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import text

from target_recurly_engage import intervals
from target_recurly_engage.eligibility import BEGAN
from target_recurly_engage.experiments import CONTROL
from target_recurly_engage.primary import LIVE, SOLD
from target_recurly_engage.promotions import make_held_codes, spelled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import date

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.experiments import Experiment
    from target_recurly_engage.intervals import Interval
    from target_recurly_engage.ledger import Ledger

FEW_READERS: Final = 30
FEW_CONVERSIONS: Final = 5
"""Below these an arm says nothing yet (Engage's own advice: its fact sheet, 5.6)."""
POINTS: Final = 100


def results(ledger: Ledger, contract: Contract, now: str, *, since: date | None = None) -> dict[str, Any]:
    """Work out what experiments and codes brought, by what the ledger holds; nothing in it changes.

    Args:
        ledger: the ledger.
        contract: which experiments there are, and which subscriptions count.
        now: the moment that counts as now, as ISO 8601.
        since: of codes, leave out subscriptions that began before that day.

    Returns:
        ``experiments`` by name, ``codes``, a list, and ``checkouts``, those told to Engage at once by tracker.
    """
    make_held_codes(ledger)
    try:
        return {
            "experiments": {one.name: _experiment(ledger, contract, one, now) for one in contract.experiments},
            "codes": _codes(ledger, contract, now, since),
            "checkouts": _checkouts(ledger, contract, since),
        }
    finally:
        for table in ("held_codes", "told"):
            ledger.connection.execute(f"DROP TABLE IF EXISTS temp.{table}")


# Experiments


def _experiment(ledger: Ledger, contract: Contract, one: Experiment, now: str) -> dict[str, Any]:
    ledger.connection.execute(f"CREATE OR REPLACE TEMP TABLE told AS {_told(one)}")
    rows = ledger.connection.execute(_outcomes(contract, one, now)).fetchall()
    names = ("readers", "conversions", "charged", "with_its_code", "with_another_code", "checkouts")
    counted = {arm: dict(zip(names, counts, strict=True)) for arm, *counts in rows if arm is not None}
    arms = {arm: counted.get(arm, dict.fromkeys(names, 0)) for arm in one.arms}
    rates = {arm: intervals.share(counts["conversions"], counts["readers"]) for arm, counts in arms.items()}
    moved = ledger.count(_NOTED, one.name) - ledger.count("SELECT count(*) FROM told")
    return {
        "description": one.description,
        "start": one.start.isoformat() if one.start else None,
        "arms": {arm: counts | {"rate": _as_dict(rates[arm])} for arm, counts in arms.items()},
        "comparisons": [_comparison(a, b, arms, rates) for a, b in _pairs(tuple(one.arms))],
        "moved": moved,
        "warnings": list(_warnings(one, arms, moved)),
    }


def _told(one: Experiment) -> str:
    """Make the SQL of when each reader was first told the arm that is drawn for him; who was told another is out."""
    return f"""
        SELECT user_id, min(arm) AS arm, min(first_at) AS first_at FROM assignments
        WHERE experiment = {text(one.name)} GROUP BY user_id
        HAVING min(arm) = max(arm) AND min(arm) IS NOT DISTINCT FROM ({one.drawn})
    """


_NOTED: Final = "SELECT count(DISTINCT user_id) FROM assignments WHERE experiment = ?"


def _outcomes(contract: Contract, one: Experiment, now: str) -> str:
    """Make the SQL of one row an arm: readers, who converted, was charged, used its code or another, checked out.

    It reads the table ``told``, which is made by :func:`_told`.
    """
    begun = f"start_date >= {_midnight(one.start, contract)}" if one.start else "true"
    ids, codes = (", ".join(spell(text(arm)) for arm in one.arms) for spell in (str, spelled))
    own = f"coalesce({spelled('promo_code')} = {spelled('arm')} OR promotion_id = arm, false)"
    other = f"({spelled('promo_code')} IN ({codes}) OR promotion_id IN ({ids})) AND NOT {own}"
    return f"""
        WITH bought AS (
            SELECT user_id, arm, coalesce(bool_or(total_charged > 0), false) AS charged,
                bool_or({own}) AS own, coalesce(bool_or({other}), false) AS other
            FROM told JOIN subscriptions USING (user_id)
            CROSS JOIN (SELECT {text(now)}::TIMESTAMPTZ AS moment)
            LEFT JOIN held_codes ON code = {spelled("promo_code")}
            WHERE start_date > first_at AND {begun} AND start_date <= moment
                AND {SOLD} AND {BEGAN} AND {contract.primary.counts}
            GROUP BY user_id, arm
        ), checked_out AS (
            SELECT DISTINCT user_id FROM told JOIN checkouts USING (user_id)
            WHERE told_at > first_at AND {begun.replace("start_date", "told_at")}
        )
        SELECT told.arm, count(*), count(bought.user_id), count_if(coalesce(charged, false)),
            count_if(coalesce(own, false)), count_if(coalesce(other, false)), count(checked_out.user_id)
        FROM told LEFT JOIN bought USING (user_id) LEFT JOIN checked_out USING (user_id) GROUP BY told.arm
    """


def _midnight(day: date, contract: Contract) -> str:
    """Make the SQL of the moment at which a day of the calendar begins."""
    return f"timezone({text(contract.wording.zone)}, {text(day.isoformat())}::TIMESTAMP)"


def _pairs(arms: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Give each two arms once: all others against control first, then codes against codes, the larger claim first."""
    if CONTROL in arms:
        yield from ((arm, CONTROL) for arm in arms if arm != CONTROL)
    yield from combinations((arm for arm in arms if arm != CONTROL), 2)


def _comparison(
    one: str, other: str, arms: Mapping[str, Mapping[str, int]], rates: Mapping[str, Interval | None]
) -> dict[str, Any]:
    first, second = rates[one], rates[other]
    found = intervals.difference(first, second) if first and second else None
    few = [arm for arm in (one, other) if _is_small(arms[arm])]
    return {"arm": one, "against": other, "difference": _as_dict(found), "words": _sentence(one, other, found, few)}


def _is_small(counts: Mapping[str, int]) -> bool:
    return counts["readers"] < FEW_READERS or counts["conversions"] < FEW_CONVERSIONS


def _sentence(one: str, other: str, found: Interval | None, few: list[str]) -> str:
    if found is None:
        return f"{one} against {other}: nobody was told yet"
    value, low, high = (POINTS * part for part in found)
    side = "above" if value > 0 else "below"
    size = f"{abs(value):.1f} points {side} {other}" if round(value, 1) else f"level with {other}"
    told = f"{one} is {size} (between {low:+.1f} and {high:+.1f})"
    if few:
        return (
            f"{told}: too early to say, with fewer than {FEW_READERS} readers or {FEW_CONVERSIONS} conversions in "
            + (" and ".join(few))
        )
    if low > 0 or high < 0:
        return f"{told}: chance alone would hardly do that"
    return f"{told}: that may be chance"


def _warnings(one: Experiment, arms: Mapping[str, Mapping[str, int]], moved: int) -> Iterator[str]:
    if CONTROL not in arms:
        yield f"{one.name} has no arm {CONTROL}: what readers would have done without an offer is not known"
    if moved:
        yield (
            f"{moved:,} reader(s) of {one.name} were told another arm than the one drawn for them now, so arms, shares "
            "or salt were changed; they are left out"
        )
    for arm, counts in arms.items():
        if counts["with_another_code"]:
            yield f"{counts['with_another_code']:,} reader(s) of {arm} bought with the code of another arm"


def _as_dict(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {part: round(value, 6) for part, value in interval._asdict().items()}


# Codes


def _codes(ledger: Ledger, contract: Contract, now: str, since: date | None) -> list[dict[str, Any]]:
    """List what became of subscriptions by code; codes of one promotion that are for one use each count together."""
    begun = f"start_date >= {_midnight(since, contract)}" if since else "true"
    rows = ledger.connection.execute(f"""
        WITH held AS (
            SELECT {spelled("promo_code")} AS code, user_id, start_date, coalesce(total_charged > 0, false) AS charged,
                {LIVE} AS live
            FROM subscriptions CROSS JOIN (SELECT {text(now)}::TIMESTAMPTZ AS moment)
            WHERE nullif(trim(promo_code), '') IS NOT NULL AND {SOLD} AND {BEGAN} AND {contract.primary.counts}
                AND {begun}
        ), of_one AS (SELECT code, min(promotion_id) AS promotion_id FROM held_codes GROUP BY code)
        SELECT CASE WHEN promotion_id IS NULL OR fixed_promotion_code IS NOT NULL THEN any_value(code) END AS shown,
            promotion_id, any_value(promotion_name), count(DISTINCT code), count(*), count(DISTINCT user_id),
            count_if(charged), count_if(live)
        FROM held LEFT JOIN of_one USING (code) LEFT JOIN promotions USING (promotion_id)
        GROUP BY coalesce(CASE WHEN fixed_promotion_code IS NULL THEN promotion_id END, code), promotion_id,
            fixed_promotion_code
        ORDER BY count(*) DESC, promotion_id, shown
    """).fetchall()
    names = ("code", "promotion_id", "promotion_name", "codes", "subscriptions", "readers", "charged", "live")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    for one in found:
        one["still_live"] = _as_dict(intervals.share(one["live"], one["subscriptions"]))
    return found


def _checkouts(ledger: Ledger, contract: Contract, since: date | None) -> list[dict[str, Any]]:
    """List finished checkouts of which Engage was told at once, by its custom tracker."""
    rows = ledger.connection.execute(f"""
        SELECT tracker, count(*), count(DISTINCT user_id) FROM checkouts
        WHERE {f"told_at >= {_midnight(since, contract)}" if since else "true"}
        GROUP BY tracker ORDER BY count(*) DESC, tracker
    """).fetchall()
    return [dict(zip(("tracker", "checkouts", "readers"), row, strict=True)) for row in rows]


# Words


def words_of(found: Mapping[str, Any]) -> Iterator[str]:
    """Put results into words."""
    if not found["experiments"]:
        yield "no experiment stands in the settings"
    for called, one in found["experiments"].items():
        yield f"{called}: conversions since each reader was told his arm" + (
            f", from {one['start']} on" if one["start"] else ""
        )
        for arm, counts in one["arms"].items():
            yield "    " + _arm(arm, counts)
        yield from (f"  {comparison['words']}" for comparison in one["comparisons"])
        yield from (f"  warning: {warning}" for warning in one["warnings"])
    if found["codes"]:
        yield "by code:"
    for one in found["codes"]:
        called = one["code"] or f"{one['codes']:,} codes of {one['promotion_id']}"
        by = f" ({one['promotion_name']})" if one["promotion_name"] else ""
        yield (
            f"  {called}{by}: {one['subscriptions']:,} subscriptions of {one['readers']:,} readers, "
            f"{one['charged']:,} charged, {one['live']:,} still live{_bounds(one['still_live'])}"
        )

    if found["checkouts"]:
        yield "checkouts told to Engage at once, by tracker:"
    for one in found["checkouts"]:
        yield f"  {one['tracker']}: {one['checkouts']:,} of {one['readers']:,} readers"


def _arm(arm: str, counts: Mapping[str, Any]) -> str:
    return (
        f"{arm}: {counts['conversions']:,} of {counts['readers']:,} readers{_bounds(counts['rate'])}; "
        f"{counts['charged']:,} charged, {counts['with_its_code']:,} with its code"
        + (f", {counts['checkouts']:,} told at once" if counts["checkouts"] else "")
    )


def _bounds(rate: Mapping[str, float] | None) -> str:
    if rate is None:
        return ""
    value, low, high = (f"{POINTS * rate[part]:.1f}" for part in ("value", "low", "high"))
    return f", {value} % ({low} to {high})"

"""What the brake checks of values: what came, what the plan changes, and what the ledger held before.

A share means nothing where it is a share of a few, so each check has a least number as well.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from target_recurly_engage.traits import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from target_recurly_engage.brake import Brake
    from target_recurly_engage.changes import TraitChanges
    from target_recurly_engage.contract import Contract
    from target_recurly_engage.identity import Arrival
    from target_recurly_engage.measures import Measure
    from target_recurly_engage.plan import Plan

FEW: Final = 10
"""Users or subscriptions; fewer than that prove nothing."""
FEW_MIXED: Final = 5
"""The same, of subscriptions with another user: few are given to another user by hand in one night."""
NEARLY_ALL: Final = 0.9
"""A property that this share of subscriptions has is one that nearly every subscription has."""
STEADY_DAYS: Final = 3
"""Days, as over a weekend, for which the share of changing users holds; over more days more users change."""
SHOWN: Final = 4
"""Traits and columns that a message names."""
_HINTS: Final = {
    Kind.STRING: "check whether words, ids or names are written in another way, or a column was shifted",
    Kind.DATE: "check the time zone of the export and of the setting timezone, the form of its dates, and the clock",
    Kind.MONEY: "check the currency and the decimals of amounts",
    Kind.NUMBER: "check the clock, and the unit of the numbers",
    Kind.BOOLEAN: "check whether true and false are written in another way",
}
_OTHER_APPLICATION: Final = "is it another application's export?"
_RENAMED: Final = (
    "have the user and the create date of a known subscription with another id: check whether ids are written in "
    "another way (upper and lower case, leading zeros), or subscriptions and users were joined wrongly"
)
_FOREIGN_AND_OLD: Final = (
    "are unknown, created long ago, and on terms and resources that no known subscription has: " + _OTHER_APPLICATION
)
_FOREIGN: Final = "are unknown, and so are their terms and resources: " + _OTHER_APPLICATION
_OLD: Final = (
    "are unknown although they were created before the newest change that the ledger holds: is it another "
    "application's export, are ids written in another way, or has the export another filter?"
)


def check_arrival(brake: Brake, arrival: Arrival, before: int) -> None:
    """Check that the subscriptions that came are those that the ledger knows.

    Args:
        brake: takes the checks.
        arrival: what came, compared with the ledger.
        before: subscriptions that the ledger held before.
    """
    if before < FEW_MIXED or not arrival.came:
        return
    share = brake.max_identity_fraction
    shifted = "a wrong join, or a column that was shifted or sorted apart from the others: compare some rows with Piano"
    dated = f"{shifted}, and check the time zone and the form of dates"
    for what, count, least, hint in (
        ("user", arrival.moved, FEW_MIXED, shifted),
        ("create date", arrival.created, FEW, dated),
        ("start date", arrival.started, FEW, dated),
    ):
        brake.judge(
            f"Known subscriptions with another {what}",
            f"{count:,}",
            f"above {100 * share:g} % of {arrival.known:,}",
            wrong=count >= least and count > share * arrival.known,
            finding=(
                f"{count:,} of the {arrival.known:,} known subscriptions that came ({percent(count, arrival.known)}) "
                f"have another {what} than before (brake_max_identity_fraction: above {share:g}): {hint}"
            ),
        )
    _check_unknown(brake, arrival)
    _check_emptied(brake, arrival)


def _check_unknown(brake: Brake, arrival: Arrival) -> None:
    """Check that new subscriptions are new, and of this application."""
    came, mixed, most = arrival.came, brake.max_identity_fraction, brake.max_change_fraction
    for name, count, share, setting, finding in (
        ("Known subscriptions under another id", arrival.renamed, mixed, "identity", _RENAMED),
        ("Old subscriptions on unknown terms and resources", arrival.foreign_late, mixed, "identity", _FOREIGN_AND_OLD),
        ("Subscriptions on unknown terms and resources", arrival.foreign, most, "change", _FOREIGN),
        ("Old subscriptions that are unknown", arrival.late, most, "change", _OLD),
    ):
        brake.judge(
            name,
            f"{count:,}",
            f"above {100 * share:g} % of {came:,}",
            wrong=count >= FEW and count > share * came,
            finding=f"{count:,} of {came:,} subscriptions that came ({percent(count, came)}) {finding} "
            f"(brake_max_{setting}_fraction: above {share:g})",
        )


def _check_emptied(brake: Brake, arrival: Arrival) -> None:
    """Check that known subscriptions keep the properties that nearly every one has."""
    share = brake.max_clear_fraction
    emptied = {one: n for one, n in arrival.emptied.items() if n >= FEW and n > share * arrival.known}
    brake.judge(
        "Known subscriptions that lose a property that nearly all have",
        f"{max(arrival.emptied.values(), default=0):,}",
        f"above {100 * share:g} % of {arrival.known:,}",
        wrong=bool(emptied),
        finding=(
            f"of the {arrival.known:,} known subscriptions that came, {counted(emptied, arrival.known)} would become "
            f"empty (brake_max_clear_fraction: above {share:g}): check these columns of the export"
        ),
    )


def check_plan_values(brake: Brake, plan: Plan, contract: Contract, now: Measure, past: Sequence[Measure]) -> None:
    """Check that neither many known users change, nor many lose the value of one trait.

    Args:
        brake: takes the checks.
        plan: what would be sent.
        contract: which traits there are.
        now: what this run measured of the ledger.
        past: what earlier runs measured, the oldest first.
    """
    known = plan.present - plan.new + plan.gone
    before = next((one for one in reversed(past) if one.finished), past[0] if past else now)
    _check_changed(brake, plan, contract, known, (before, now))
    _check_lost(brake, plan, contract, known)


def _check_changed(brake: Brake, plan: Plan, contract: Contract, known: int, since: tuple[Measure, Measure]) -> None:
    """Check that few of the *known* users change *since* the measure of the last run that ended well."""
    before, now = since
    days = _elapsed(before, now) / timedelta(days=1)
    most = min(brake.max_change_fraction * max(1.0, days / STEADY_DAYS), 1.0)
    kinds = {trait.name: trait.kind for trait in contract.traits}
    common = _most(plan.traits, contract)
    rules = before.changed_rules(now)
    pause = f", and {days:.0f} days lie between" if most > brake.max_change_fraction else ""
    because = f"; since then these settings changed: {', '.join(rules)}" if rules else ""
    brake.judge(
        "Known users who change",
        f"{plan.altered:,}",
        f"above {100 * most:g} % of {known:,}",
        wrong=plan.altered >= FEW and plan.altered > most * known,
        finding=(
            f"{plan.altered:,} of {known:,} users ({percent(plan.altered, known)}) would change, most of them in "
            f"{counted(dict(common), known)} (brake_max_change_fraction: above {most:g}{pause}{because}): "
            f"{_HINTS[kinds.get(common[0][0], Kind.STRING)] if common else ''}"
        ),
    )


def _check_lost(brake: Brake, plan: Plan, contract: Contract, known: int) -> None:
    """Check each trait that is no formula; true/false ones are left out, for their clearing value is a value."""
    share = brake.max_clear_fraction
    judged = [one.name for one in contract.traits if not one.computed and one.kind is not Kind.BOOLEAN]
    lost = {one: plan.traits[one].cleared - plan.gone for one in judged if one in plan.traits}
    wrong = {one: n for one, n in lost.items() if n >= FEW and n > share * known}
    brake.judge(
        "Users who lose the value of one trait",
        f"{max([0, *lost.values()]):,}",
        f"above {100 * share:g} % of {known:,}",
        wrong=bool(wrong),
        finding=(
            f"{counted(wrong, known)} of {known:,} users would be cleared "
            f"(brake_max_clear_fraction: above {share:g}): check that these columns of the export are filled"
        ),
    )


def _elapsed(since: Measure, now: Measure) -> timedelta:
    """Return the time between two runs; neither a clock nor an export that is wrong makes it longer."""
    if since.newest is None or now.newest is None:
        return timedelta(0)
    return max(min(now.judged_at - since.judged_at, now.newest - since.newest), timedelta(0))


def _most(traits: dict[str, TraitChanges], contract: Contract) -> list[tuple[str, int]]:
    """Return the traits that change for users, those of most users first; drifting ones where no other does."""
    for drifts in (False, True):
        names = [one.name for one in contract.traits if one.drifts is drifts and one.name in traits]
        counts = {one: traits[one].changed + traits[one].cleared for one in names}
        if found := sorted(((one, n) for one, n in counts.items() if n), key=lambda pair: (-pair[1], pair[0])):
            return found
    return []


def percent(count: int, of: int) -> str:
    """Return a share as a message has it."""
    return f"{100 * count / of if of else 0:.1f} %"


def counted(counts: dict[str, int], of: int) -> str:
    """Return names with their counts and shares, the largest first."""
    most = sorted(counts.items(), key=lambda pair: -pair[1])
    return listed([f"{one} ({n:,}, {percent(n, of)})" for one, n in most])


def listed(words: Sequence[str]) -> str:
    """Return the first of some words, and how many more there are."""
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more

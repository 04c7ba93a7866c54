"""What the brake checks against what earlier runs measured of the ledger: numbers, empty columns, words, the clock."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final

from target_recurly_engage.brake_values import FEW, NEARLY_ALL, listed, percent
from target_recurly_engage.measures import DAYS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from target_recurly_engage.brake import Brake
    from target_recurly_engage.measures import Measure

JUMP_DAYS: Final = 14
"""Days by which the clock may move on against the newest change of the ledger from one run to the next."""
FIRST_DAYS: Final = 730
"""Days that the newest change may be old in a first load, where nothing is known yet."""
_CLOCK: Final = "check the clock of the machine, the setting as_of, and the years in the export"


def check_measures(brake: Brake, now: Measure, past: Sequence[Measure], came: int) -> None:
    """Check the ledger as it would be against what earlier runs measured.

    Args:
        brake: takes the checks.
        now: what this run measured of the ledger.
        past: what earlier runs measured, the oldest first.
        came: subscriptions that came.
    """
    if past:
        _check_numbers(brake, now, past)
        _check_filled(brake, now, past)
        _check_words(brake, now, past[-1], came)
    if now.subscriptions >= FEW:
        _check_ahead(brake, now)
        _check_age(brake, now, past)


def _check_numbers(brake: Brake, now: Measure, past: Sequence[Measure]) -> None:
    """Check that users and subscriptions do not go missing, a few in each run."""
    least = brake.min_rows_fraction
    for what, count, before in (
        ("users", now.users, max(one.users for one in past)),
        ("subscriptions", now.subscriptions, max(one.subscriptions for one in past)),
    ):
        brake.judge(
            f"Known {what}, against the most of {DAYS} days",
            f"{count:,}",
            f"below {100 * least:g} % of {before:,}",
            wrong=before - count >= FEW and count < least * before,
            finding=(
                f"{count:,} {what} are left of the {before:,} of the last {DAYS} days "
                f"(brake_min_rows_fraction: below {least:g}), a few less each time: check the export's filters, and "
                "whether each export is whole"
            ),
        )


def _check_filled(brake: Brake, now: Measure, past: Sequence[Measure]) -> None:
    """Check that columns stay filled, also where no trait is made of them, and where they empty little by little."""
    least, empty = brake.min_rows_fraction, {}
    for one in now.filled:
        best, last = max(measure.share(one) for measure in past), past[-1].share(one)
        part, before = (least, best) if best >= NEARLY_ALL else (least / 2, last)
        if now.share(one) < part * before and (before - now.share(one)) * now.subscriptions >= FEW:
            empty[one] = f"{one} ({100 * now.share(one):.1f} %, before {100 * before:.1f} %)"
    brake.judge(
        "Properties that fewer subscriptions have than before",
        listed(list(empty)) or "none",
        f"below {100 * least:g} % of the most of {DAYS} days; if only some have it, {50 * least:g} % of the last run",
        wrong=bool(empty),
        finding=(
            f"fewer subscriptions than before have {listed(list(empty.values()))} "
            f"(brake_min_rows_fraction: below {least:g}): check that these columns of the export are filled"
        ),
    )


def _check_words(brake: Brake, now: Measure, last: Measure, came: int) -> None:
    """Check that no status word was renamed, in all of the log or in what came."""
    more, share, most = now.unknown_words - last.unknown_words, brake.max_identity_fraction, brake.max_change_fraction
    brake.judge(
        "Subscriptions with an unknown status word, more than before",
        f"{max(more, 0):,}",
        f"above {100 * share:g} % of {now.subscriptions:,}, or {100 * most:g} % of the {came:,} that came",
        wrong=more >= FEW and (more > share * now.subscriptions or 0 < most * came < more),
        finding=(
            f"{more:,} of {now.subscriptions:,} subscriptions ({percent(more, now.subscriptions)}) have a "
            f"subscription_status that is unknown and was not before (brake_max_identity_fraction: above {share:g}): "
            "check the language and the spelling of status words in the export"
        ),
    )


def _check_ahead(brake: Brake, now: Measure) -> None:
    """Check that what counts as now is not before what the export tells."""
    share = brake.max_identity_fraction
    brake.judge(
        "Subscriptions that were changed after the moment that counts as now",
        f"{now.ahead:,}",
        f"above {100 * share:g} % of {now.subscriptions:,}",
        wrong=now.ahead >= FEW and now.ahead > share * now.subscriptions,
        finding=(
            f"{now.ahead:,} of {now.subscriptions:,} subscriptions ({percent(now.ahead, now.subscriptions)}) were "
            f"created or changed after {_moment(now)}, which counts as now: {_CLOCK}"
        ),
    )


def _check_age(brake: Brake, now: Measure, past: Sequence[Measure]) -> None:
    """Check that what counts as now did not move on without the export; an old export is as old in each run."""
    if now.newest is None:
        return
    last = next((one for one in reversed(past) if one.newest is not None), None)
    usual = max(last.judged_at - last.newest, timedelta(0)) if last and last.newest else timedelta(0)
    most = usual + timedelta(days=JUMP_DAYS if last else FIRST_DAYS)
    age = now.judged_at - now.newest
    days, before = f"{age / timedelta(days=1):,.0f}", f"{usual / timedelta(days=1):,.0f}"
    brake.judge(
        "Days from the newest change to the moment that counts as now",
        days,
        f"above {most / timedelta(days=1):,.0f}",
        wrong=age > most,
        finding=(
            f"{_moment(now)} counts as now, and the newest change of a subscription is {days} days older, in the run "
            f"before it was {before}: {_CLOCK}, and whether the export is a fresh one"
        ),
    )


def _moment(now: Measure) -> str:
    return f"{now.judged_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"

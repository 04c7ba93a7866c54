"""The brake before every send: what looks like a broken export stops the run before Engage hears of it.

Nothing is sent, the ledger stays as it was, and no STATE goes out, so the next run reads the same rows again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from piano_engage_common.stops import BrakeApplied

if TYPE_CHECKING:
    from collections.abc import Iterable

    from target_recurly_engage.plan import Merge, Plan

NOTHING_SENT = "Nothing was sent and the bookmark stays."


@dataclass(frozen=True, slots=True, kw_only=True)
class Brake:
    """How much is too much.

    Attributes:
        min_rows_fraction: a complete log with less than this share of the known subscriptions is not believed.
        max_clear_fraction: no more than this share of the known readers may lose all their traits at once.
    """

    min_rows_fraction: float = 0.9
    max_clear_fraction: float = 0.05

    def check_columns(self, missing: Iterable[str]) -> None:
        """Stop when a trait that Engage was told of came with no column.

        Args:
            missing: traits that have values at Engage and no column among the rows that came.

        Raises:
            BrakeApplied: there are any.
        """
        names = sorted(missing)
        if names:
            msg = (
                f"brake: the export has no column for {', '.join(names)}, which would be cleared for every reader. "
                f"{NOTHING_SENT} Export the column again (and select it in the tap)."
            )
            raise BrakeApplied(msg)

    def check_rows(self, merge: Merge, *, complete: bool) -> None:
        """Stop when a complete log is far smaller than the last.

        Raises:
            BrakeApplied: it is.
        """
        if not complete or merge.came >= self.min_rows_fraction * merge.before:
            return
        msg = (
            f"brake: the log holds {merge.came:,} subscriptions, the ledger {merge.before:,}; "
            f"{merge.vanished:,} would have vanished. {NOTHING_SENT} Check the export's filters; if it is right, run "
            f"once with brake_min_rows_fraction of at most {math.floor(1000 * merge.came / merge.before) / 1000}."
        )
        raise BrakeApplied(msg)

    def check_clears(self, plan: Plan) -> None:
        """Stop when too many readers would lose all their traits.

        Raises:
            BrakeApplied: they would.
        """
        if plan.gone <= self.max_clear_fraction * plan.known:
            return
        msg = (
            f"brake: {plan.gone:,} of {plan.known:,} readers would have all traits cleared, because they have no "
            f"subscription left. {NOTHING_SENT} Check the export; if it is right, run once with "
            f"brake_max_clear_fraction of at least {math.ceil(1000 * plan.gone / plan.known) / 1000}."
        )
        raise BrakeApplied(msg)

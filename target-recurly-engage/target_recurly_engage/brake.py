"""The brake before every send: what looks like a broken export stops the run before Engage hears of it.

Nothing is sent, the ledger stays as it was, and no STATE goes out, so the next run reads the same rows again. Who has
looked and finds it right lets that very plan through, once, by its fingerprint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from piano_engage_common.stops import BrakeApplied

if TYPE_CHECKING:
    from collections.abc import Iterable

    from target_recurly_engage.merge import Merge
    from target_recurly_engage.plan import Plan


@dataclass(slots=True, kw_only=True)
class Brake:
    """How much is too much, and what was found.

    Attributes:
        min_rows_fraction: a complete stream with less than this share of the known rows is not believed.
        max_clear_fraction: no more than this share of the known readers may lose all traits of a source at once.
        max_change_fraction: no more than this share of the known readers may change at once; None is no limit.
        findings: what looks wrong, in sentences.
    """

    min_rows_fraction: float = 0.9
    max_clear_fraction: float = 0.05
    max_change_fraction: float | None = None
    findings: list[str] = field(default_factory=list)

    def check_columns(self, stream: str, missing: Iterable[str]) -> None:
        """Look for traits that Engage was told of and that came with no column."""
        if names := sorted(missing):
            self.findings.append(
                f"{stream} has no column for {', '.join(names)}, which would be cleared for every reader: export the "
                "column again, and select it in the tap"
            )

    def check_rows(self, stream: str, merge: Merge, *, complete: bool) -> None:
        """Look for a complete stream that is far smaller than the last, or whose ids are all others."""
        if not complete or not merge.before:
            return
        if merge.came < self.min_rows_fraction * merge.before:
            self.findings.append(
                f"{stream} is complete with {merge.came:,} rows, where the ledger holds {merge.before:,}; "
                f"{merge.vanished:,} would have vanished (brake_min_rows_fraction: below {self.min_rows_fraction:g}): "
                "check the export's filters"
            )
        elif self.min_rows_fraction and merge.vanished == merge.before:
            self.findings.append(
                f"{stream}: all ids changed, none of the {merge.before:,} known rows is among the {merge.came:,} that "
                "came: is it another application's export, or another column that counts as the id?"
            )

    def check_plan(self, plan: Plan) -> None:
        """Look for too many readers who would lose all traits, or change."""
        if plan.gone > self.max_clear_fraction * plan.known:
            every = " (every one: did the readers' ids change?)" if plan.gone == plan.known else ""
            self.findings.append(
                f"{plan.gone:,} of {plan.known:,} readers{every} would have all traits cleared, because nothing came "
                f"of them (brake_max_clear_fraction: above {self.max_clear_fraction:g}): check the export"
            )
        if self.max_change_fraction is not None and plan.changed > self.max_change_fraction * plan.known:
            common = sorted(plan.traits, key=lambda trait: plan.traits[trait].changed + plan.traits[trait].cleared)
            self.findings.append(
                f"{plan.changed:,} of {plan.known:,} readers would change, most of them in {common[-1]} "
                f"(brake_max_change_fraction: above {self.max_change_fraction:g})"
            )

    def apply(self, plan: Plan, accepted: str | None, used: str | None) -> bool:
        """Stop when something was found, unless this very plan was let through.

        Args:
            plan: what would be sent.
            accepted: the fingerprint of a plan that was looked at and found right.
            used: when that fingerprint let a plan through before.

        Returns:
            Whether something was found and let through.

        Raises:
            BrakeApplied: something was found.
        """
        if not self.findings:
            return False
        if accepted == plan.fingerprint and used is None:
            return True
        spent = f" --accept {accepted} was used up on {used}." if accepted == plan.fingerprint else ""
        other = f" --accept {accepted} is for another plan." if accepted and not spent else ""
        share = math.ceil(1000 * plan.changed / plan.known) / 10 if plan.known else 0
        msg = (
            f"brake: {'; '.join(self.findings)}. Nothing was sent and the bookmark stays. It would have been "
            f"{plan.new:,} new readers, {plan.changed - plan.gone:,} changed and {plan.gone:,} cleared ({share:g} % of "
            f"those known).{spent}{other} If that is right, let this very plan through once: run again with "
            f"TARGET_RECURLY_ENGAGE_ACCEPT={plan.fingerprint} in the environment, or target-recurly-engage --accept "
            f"{plan.fingerprint}"
        )
        raise BrakeApplied(msg)

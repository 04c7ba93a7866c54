"""The brake before every send: what looks like a broken export stops the run before Engage hears of it.

Nothing is sent, the ledger stays as it was, and no STATE goes out, so the next run reads the same rows again. Who has
looked and finds it right lets that very plan through, once, by its fingerprint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from piano_engage_common.stops import BrakeApplied

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from target_recurly_engage.merge import Merge
    from target_recurly_engage.plan import Plan

MAX_UNUSABLE_FRACTION: Final = 0.05
FEW: Final = 20
"""Fewer unusable rows or values are single ones, whatever share of a small stream they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that the brake looked at.

    Attributes:
        what: the question, for a person.
        saw: what it saw.
        limit: what would have stopped the run.
        wrong: whether it did.
    """

    what: str
    saw: str
    limit: str
    wrong: bool


@dataclass(slots=True, kw_only=True)
class Brake:
    """How much is too much, and what was found.

    Attributes:
        min_rows_fraction: a complete stream with less than this share of the known rows is not believed.
        max_clear_fraction: no more than this share of the known readers may lose all traits of a source at once.
        max_change_fraction: no more than this share of the known users may change at once.
        max_identity_fraction: no more than this share of the known subscriptions may change what never changes.
        findings: what looks wrong, in sentences.
        checks: all that was looked at.
        let_through: something was found, and this very plan was let through.
    """

    min_rows_fraction: float = 0.9
    max_clear_fraction: float = 0.05
    max_change_fraction: float = 0.3
    max_identity_fraction: float = 0.01
    findings: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    let_through: bool = False

    def check_columns(self, stream: str, missing: Iterable[str]) -> None:
        """Look for traits that Engage was told of and that came with no column."""
        names = sorted(missing)
        saw = ", ".join(names) or "none"
        self._note(f"Columns missing in {stream}", saw, "one that Engage was told of", wrong=bool(names))
        if names:
            self.findings.append(
                f"{stream} has no column for {', '.join(names)}, which would be cleared for every reader: export the "
                "column again, and select it in the tap"
            )

    def check_first_columns(self, stream: str, missing: Iterable[str], words: str) -> None:
        """Check for traits of which Engage was sent nothing yet and that came with no column."""
        names = sorted(missing)
        what = f"Columns missing in {stream}, on a first load"
        self._note(what, ", ".join(names) or "none", "any that the settings do not leave out", wrong=bool(names))
        if names:
            self.findings.append(f"first load: of {stream}, {words}")

    def check_first_values(self, stream: str, empty: Iterable[tuple[str, int, int, float]]) -> None:
        """Check for columns of a first load that are nearly always filled and look empty."""
        for column, count, rows, least in empty:
            saw = f"{count:,} of {rows:,} rows"
            self._note(f"Rows of {stream} with {column}, on a first load", saw, f"below {100 * least:g} %", wrong=True)
            self.findings.append(
                f"first load: only {saw} of {stream} have {column} (below {100 * least:g} %), which is nearly always "
                "filled: is it another column, or an export that is broken?"
            )

    def check_rows(self, stream: str, merge: Merge, *, complete: bool) -> None:
        """Look for a complete stream that is far smaller than the last, or whose ids are all others."""
        if not complete or not merge.before:
            return
        few = merge.came < self.min_rows_fraction * merge.before
        others = bool(self.min_rows_fraction) and merge.vanished == merge.before
        least = f"below {100 * self.min_rows_fraction:g} % of {merge.before:,}"
        self._note(f"Rows of {stream}, which is complete", f"{merge.came:,}", least, wrong=few)
        self._note(f"Known rows of {stream} that have vanished", f"{merge.vanished:,}", "every one", wrong=others)
        if few:
            self.findings.append(
                f"{stream} is complete with {merge.came:,} rows, where the ledger holds {merge.before:,}; "
                f"{merge.vanished:,} would have vanished (brake_min_rows_fraction: below {self.min_rows_fraction:g}): "
                "check the export's filters"
            )
        elif others:
            self.findings.append(
                f"{stream}: all ids changed, none of the {merge.before:,} known rows is among the {merge.came:,} that "
                "came: is it another application's export, or another column that counts as the id?"
            )

    def check_usable(self, stream: str, rows: int, rejected: int, invalid: Mapping[str, int]) -> None:
        """Check how many rows of a stream, or values of one of its properties, cannot be used.

        A single one is no reason to stop a night; a share of them is another format, or another column.
        """
        counts = {"rows": rejected, **{f"values of {column}": count for column, count in invalid.items()}}
        limit = f"{FEW} or more, and above {100 * MAX_UNUSABLE_FRACTION:g} % of {rows:,}"
        for what, count in counts.items():
            wrong = count >= FEW and count > MAX_UNUSABLE_FRACTION * rows
            self._note(f"Unusable {what} of {stream}", f"{count:,}", limit, wrong=wrong)
            if wrong:
                self.findings.append(
                    f"{count:,} {what} of {stream} cannot be used, of {rows:,} rows: has the format changed?"
                )

    def check_plan(self, plan: Plan) -> None:
        """Check that few users lose all traits."""
        wrong, share = plan.gone > self.max_clear_fraction * plan.known, 100 * self.max_clear_fraction
        self._note("Readers who lose all traits", f"{plan.gone:,}", f"above {share:g} % of {plan.known:,}", wrong=wrong)
        if wrong:
            every = " (every one: did the readers' ids change?)" if plan.gone == plan.known else ""
            self.findings.append(
                f"{plan.gone:,} of {plan.known:,} readers{every} would have all traits cleared, because nothing came "
                f"of them (brake_max_clear_fraction: above {self.max_clear_fraction:g}): check the export"
            )

    def judge(self, what: str, saw: str, limit: str, *, wrong: bool, finding: str) -> None:
        """Record one check, and the sentence that it ends in when it is wrong."""
        self._note(what, saw, limit, wrong=wrong)
        if wrong:
            self.findings.append(finding)

    def _note(self, what: str, saw: str, limit: str, *, wrong: bool) -> None:
        self.checks.append(Check(what=what, saw=saw, limit=limit, wrong=wrong))

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
            self.let_through = True
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

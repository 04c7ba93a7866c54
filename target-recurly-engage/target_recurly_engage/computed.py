"""Computed traits: what the log does not say in so many words, each with its formula.

All formulas are SQL over one relation, ``lives`` (:func:`lives`): the ledger's subscriptions that count, with a few
columns more. A formula *of the primary* subscription reads one row; one *of all* is an aggregate over the reader's
rows. Users add their own of the second sort (:mod:`target_recurly_engage.formulas` checks them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import name, text

from target_recurly_engage.invariants import ROWS
from target_recurly_engage.primary import LATER, LIVE, TAKES_OVER, TERM_TYPE, at, words
from target_recurly_engage.statuses import Meaning, is_one_of, is_unknown, word_of
from target_recurly_engage.traits import SQL_TYPES, Kind, Trait, blank_is_null

if TYPE_CHECKING:
    from target_recurly_engage.primary import PrimaryRule

STAGES: Final = ("trial", "active", "grace", "pending_cancel", "lapsed", "none", "unknown")
RENEWING_TERMS: Final = ("payment", "dynamic", "linked")
"""Types of terms of which auto-renew off means that somebody is leaving; a gift or a licence never had it on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """One computed trait.

    Attributes:
        name: its key.
        kind: its type.
        sql: how it is worked out.
        of_all: an aggregate over all subscriptions of the reader; else an expression on the primary one.
        meaning: what it says, for a person.
        usual: among the traits that are sent where nothing else is said.
        thresholds: it changes by itself from day to day, and is told at these numbers.
        clear: written where there is none, if not what the settings say for its type.
        values: all it can be, where that is a short list.
        asks: the conditions that one and the same subscription must meet, of a compound trait.
    """

    name: str
    kind: Kind
    sql: str
    meaning: str
    of_all: bool = False
    usual: bool = False
    thresholds: tuple[float, ...] | None = None
    clear: str | None = None
    values: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()

    @property
    def trait(self) -> Trait:
        """The trait it makes."""
        drifts = self.thresholds is not None
        return Trait(
            self.name, self.kind, drifts=drifts, thresholds=self.thresholds or (), computed=True, clear=self.clear
        )

    @property
    def cast(self) -> str:
        """The SQL of its value, of its type."""
        return f"TRY_CAST((\n{self.sql}\n) AS {'DATE' if self.kind is Kind.DATE else SQL_TYPES[self.kind]})"


def _days_since(column: str) -> str:
    """Make the SQL of days since a day, 0 where it is to come; DuckDB's greatest() would make 0 of no day as well."""
    return f"CASE WHEN {column} > today THEN 0 ELSE date_diff('day', {column}, today) END"


_SOON: Final = (1, 2, 3, 4, 8, 15, 31)
_HELD_A_CODE: Final = f"{blank_is_null('promo_code')} IS NOT NULL"

FORMULAS: Final[tuple[Formula, ...]] = (
    Formula(
        name="lifecycle_stage", kind=Kind.STRING, sql="stage", usual=True, values=STAGES,
        meaning=(
            "Where the reader stands: `trial`, `active`, `grace` (a payment failed, access goes on), `pending_cancel` "
            "(access goes on, no renewal), `lapsed`, `none` (never began), or `unknown` (Piano used a status word that "
            "is not in the map)."
        ),
    ),
    Formula(
        name="in_trial", kind=Kind.BOOLEAN, sql="in_trial", usual=True,
        meaning="The primary subscription is live and its trial has not ended.",
    ),
    Formula(
        name="in_grace_period", kind=Kind.BOOLEAN, sql="in_grace", usual=True,
        meaning="The primary subscription is in its grace period: a payment failed, access goes on.",
    ),
    Formula(
        name="days_to_trial_end", kind=Kind.NUMBER, usual=True, thresholds=_SOON,
        sql="CASE WHEN in_trial THEN date_diff('day', today, trial_end_day) END",
        meaning="Days until the trial ends, by the calendar; 0 on its last day.",
    ),
    Formula(
        name="days_to_access_end", kind=Kind.NUMBER, usual=True, thresholds=_SOON,
        sql=(
            "CASE WHEN live AND auto_renew IS NOT TRUE AND access_end_day >= today "
            "THEN date_diff('day', today, access_end_day) END"
        ),
        meaning=(
            "Days until access ends, where it will not renew, by the calendar; 0 on the last day. Access until 00:00 "
            "ends on the day before."
        ),
    ),
    Formula(
        name="days_in_grace", kind=Kind.NUMBER, thresholds=(1, 3, 5, 7, 14, 30),
        sql=f"CASE WHEN in_grace THEN {_days_since('grace_start_day')} END",
        meaning="Days since the grace period began.",
    ),
    Formula(
        name="days_since_lapse", kind=Kind.NUMBER, usual=True, thresholds=(7, 14, 30, 60, 90, 181, 366),
        sql=f"CASE WHEN stage = 'lapsed' THEN {_days_since('coalesce(access_end_day, end_day)')} END",
        meaning="Days since access ended, of a reader who has lapsed.",
    ),
    Formula(
        name="subscription_age", kind=Kind.NUMBER, thresholds=(30, 90, 120, 180, 365, 730),
        sql=f"CASE WHEN live THEN {_days_since('start_day')} END",
        meaning="Days since the primary subscription began, while it is live.",
    ),
    Formula(
        name="subscription_count", kind=Kind.NUMBER, sql="count(*)", of_all=True, clear="0",
        meaning="Subscriptions of the reader in the log, live or not.",
    ),
    Formula(
        name="active_subscription_count", kind=Kind.NUMBER, sql="count_if(live)", of_all=True, usual=True, clear="0",
        meaning="Subscriptions of the reader that are live.",
    ),
    Formula(
        name="has_ever_paid", kind=Kind.BOOLEAN, sql="coalesce(bool_or(total_charged > 0), false)", of_all=True,
        meaning="At least one subscription of the reader, live or not, was charged for.",
    ),
    Formula(
        name="has_used_promo", kind=Kind.BOOLEAN, sql=f"bool_or({_HELD_A_CODE})", of_all=True, usual=True,
        meaning="At least one subscription of the reader, live or not, came with a promo code.",
    ),
    Formula(
        name="last_promo_code", kind=Kind.STRING, of_all=True,
        sql=(
            "arg_max(promo_code, struct_pack(start := coalesce(epoch_us(start_date), 0), id := subscription_id)) "
            f"FILTER ({_HELD_A_CODE})"
        ),
        meaning="The promo code of the latest subscription that came with one.",
    ),
    Formula(
        name="tenure", kind=Kind.NUMBER, sql="sum(days_added)", of_all=True, clear="0",
        thresholds=(30, 90, 120, 180, 365, 730, 1095),
        meaning=(
            "Days on which the user had access by any subscription, the first and the last one included; a day with "
            "two counts once."
        ),
    ),
)  # fmt: skip
"""The computed traits that ship."""

BY_NAME: Final = {formula.name: formula for formula in FORMULAS}
USUAL: Final = tuple(formula.name for formula in FORMULAS if formula.usual)

LIVES_COLUMNS: Final = (
    "is_primary", "word", "stage", "live", "takes_over", "in_trial", "in_grace", "today", "moment", "start_day",
    "end_day", "access_end_day", "trial_end_day", "grace_start_day", "days_added",
)  # fmt: skip
"""Columns of ``lives`` beside those of ``subscriptions``."""

_STAGE: Final = f"""CASE
    WHEN {is_unknown("word")} THEN 'unknown'
    WHEN takes_over THEN 'active'
    WHEN {is_one_of("word", Meaning.REPLACED, Meaning.AWAITED, Meaning.APART)} OR {LATER} THEN 'none'
    WHEN NOT live THEN 'lapsed'
    WHEN in_grace THEN 'grace'
    WHEN in_trial THEN 'trial'
    WHEN {is_one_of("word", Meaning.LEAVES, Meaning.ENDED)} THEN 'pending_cancel'
    WHEN NOT auto_renew AND (auto_renew_disablement_date IS NOT NULL
        OR (access_expiration_date IS NOT NULL AND {TERM_TYPE} IN ({words(RENEWING_TERMS)}))) THEN 'pending_cancel'
    ELSE 'active' END"""
"""The first line that holds."""

STAGE_SQL: Final = "\n".join(" ".join(line.split()) for line in _STAGE.splitlines())
"""The same for a person to read."""


def lives(rule: PrimaryRule, *, now: str, zone: str, tenure: bool, only: str = "true") -> str:
    """Make the SQL of ``lives``, which reads the tables ``subscriptions`` and ``primaries`` (user_id, row, an id).

    It reads ``takes_over`` as well. A day is one of the calendar of *zone*; the day of an end is the last one before
    it, so what ends at 00:00 ends on the day before. ``word`` is the status as the map spells it; ``live``,
    ``takes_over``, ``in_trial``, ``in_grace`` and ``stage`` judge one subscription; ``days_added`` are the days on
    which it gave access and none of those that began before it did, and are worked out when *tenure* asks for them.
    *only* is a condition on the rows of ``subscriptions`` that are of interest.
    """

    def day(column: str) -> str:
        return f"timezone({text(zone)}, {column})::DATE"

    def last_day(column: str) -> str:
        return day(f"{column} - INTERVAL 1 MICROSECOND")

    takes_over = f"{TAKES_OVER}.subscription_id IS NOT NULL"
    given = f"""
        SELECT subscriptions.*, moment, {day("moment")} AS today,
            {word_of("subscription_status")} AS word, {takes_over} AS takes_over, {takes_over} OR {LIVE} AS live,
            {day("start_date")} AS start_day, {last_day("end_date")} AS end_day,
            {last_day("access_expiration_date")} AS access_end_day,
            {last_day("trial_period_end_date")} AS trial_end_day, {day("grace_period_start_date")} AS grace_start_day
        FROM subscriptions LEFT JOIN {TAKES_OVER} USING (subscription_id) CROSS JOIN {at(now)}
        WHERE {rule.counts} AND {only}
    """
    judged = f"""
        SELECT *, live AND NOT takes_over AND coalesce(trial_period_end_date > moment, false) AS in_trial,
            live AND coalesce(currently_in_grace_period, false) AS in_grace
        FROM ({given})
    """
    staged = f"SELECT *, {_STAGE} AS stage FROM ({judged})"
    return f"""
        SELECT lives.*, lives.subscription_id = primaries.row AS is_primary,
            {_DAYS_ADDED if tenure else "NULL"} AS days_added
        FROM ({_spans(staged) if tenure else staged}) AS lives JOIN primaries USING (user_id)
    """


_DAYS_ADDED: Final = (
    "CASE WHEN span_start IS NULL THEN 0 "
    "ELSE greatest(date_diff('day', greatest(span_start, coalesce(covered, span_start)), span_end), 0) END"
)


def _spans(staged: str) -> str:
    """Build the SQL that adds the days on which access began and was over, and until when those before had it."""
    never = f"(({is_one_of('word', Meaning.AWAITED, Meaning.APART)} OR {LATER}) AND NOT takes_over)"
    return f"""
        SELECT *, max(span_end) OVER (
            PARTITION BY user_id ORDER BY span_start, subscription_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS covered
        FROM (
            SELECT *, CASE WHEN NOT {never} THEN start_day END AS span_start,
                CASE WHEN {never} OR start_day IS NULL THEN NULL WHEN live THEN today + 1
                    ELSE least(coalesce(access_end_day, end_day, start_day), today) + 1 END AS span_end
            FROM ({staged})
        )
    """


def computed(formulas: tuple[Formula, ...], source: str, *, of_all: bool) -> str:
    """Build the SQL of one row a user with the value of each formula of one sort, from the SQL of ``lives``."""
    rows = f"{'count(*)' if of_all else '1'} AS {ROWS}"
    cells = ", ".join(["user_id", rows, *(f"{one.cast} AS {name(one.name)}" for one in formulas)])
    return f"SELECT {cells} FROM ({source}) {'GROUP BY user_id, today, moment' if of_all else 'WHERE is_primary'}"

"""The traits: which there are, what they are made of, and how a value is written.

Engage names 30 columns of Piano's subscription log for targeting (fact sheet of Engage, 6.1). A reader has one
value of each, taken from one subscription: the *primary* one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from piano_engage_common.dates import FIRST_DAY, LAST_DAY
from piano_engage_common.duck import text

from target_recurly_engage.values import STAMP, moment_of

USER_ID = "user_id"
"""First column of every file that Engage takes in (fact sheet of Engage, section 2)."""


class Kind(StrEnum):
    """The types that Engage knows (fact sheet of Engage, 3.1), and money, which is a number to Engage."""

    STRING = "string"
    NUMBER = "number"
    MONEY = "money"
    BOOLEAN = "boolean"
    DATE = "date"


SQL_TYPES = {
    Kind.STRING: "VARCHAR",
    Kind.NUMBER: "BIGINT",
    Kind.MONEY: "DECIMAL(18,4)",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.DATE: "TIMESTAMP WITH TIME ZONE",
}
"""How the ledger keeps what a trait is made of: a date stays a moment until it is written."""


@dataclass(frozen=True, slots=True)
class Trait:
    """One trait, made of the property of the same name, or of a formula.

    Attributes:
        name: the key, which is case-sensitive at Engage.
        kind: its type.
        drifts: it changes by itself from day to day, so a change of it alone is no reason to send, except where it
            crosses one of the *thresholds*.
        thresholds: numbers at which a drifting trait is told all the same.
        stream: the stream with the role ``users`` that brings it; None where it comes with the subscriptions.
        origin: what it is called in its source and in the settings, where Engage knows it by another name.
        computed: the target works it out, so a date is a day already.
        clear: written where there is no value, instead of what the settings say for its type.
    """

    name: str
    kind: Kind = Kind.STRING
    drifts: bool = False
    thresholds: tuple[float, ...] = ()
    stream: str | None = None
    origin: str = ""
    computed: bool = False
    clear: str | None = None

    @property
    def key(self) -> str:
        """What it is called in its source and in the settings."""
        return self.origin or self.name

    @property
    def sql_type(self) -> str:
        """How its source keeps it."""
        return "DATE" if self.computed and self.kind is Kind.DATE else SQL_TYPES[self.kind]


TRAITS: tuple[Trait, ...] = (
    Trait("subscription_id"),
    Trait("create_date", Kind.DATE),
    Trait("start_date", Kind.DATE),
    Trait("end_date", Kind.DATE),
    Trait("days_subscribed", Kind.NUMBER, drifts=True, thresholds=(30, 90, 120, 365)),
    Trait("subscription_status"),
    Trait("upgrade_status"),
    Trait("trial_status"),
    Trait("trial_period_end_date", Kind.DATE),
    Trait("auto_renew", Kind.BOOLEAN),
    Trait("auto_renew_disablement_date", Kind.DATE),
    Trait("billing_period"),
    Trait("total_charged", Kind.MONEY),
    Trait("next_billing_date", Kind.DATE),
    Trait("renewed", Kind.BOOLEAN),
    Trait("currently_in_grace_period", Kind.BOOLEAN),
    Trait("grace_period_start_date", Kind.DATE),
    Trait("grace_period_extended_to", Kind.DATE),
    Trait("access_expiration_date", Kind.DATE),
    Trait("resource_id"),
    Trait("resource_name"),
    Trait("term_id"),
    Trait("term_name"),
    Trait("term_type"),
    Trait("template_id"),
    Trait("template_name"),
    Trait("offer_id"),
    Trait("offer_name"),
    Trait("promo_code"),
)
"""The 30 traits but for ``user_id``, which is the key, in the order of the fact sheet."""

NAMES = tuple(trait.name for trait in TRAITS)

_NUMBER = r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?"
_DAY = r"\d{4}-\d\d-\d\d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How values are written.

    Nothing documents that a blank clears a trait at Engage, so what is absent is written out (decision 9). A value that
    is *invalid*, longer than *max_length* or not of its trait's type, counts as absent.

    Attributes:
        zone: IANA time zone in which a moment becomes a date.
        clear_string: written for a string that is absent.
        clear_number: written for a number that is absent.
        clear_boolean: written for a boolean that is absent.
        clear_date: written for a date that is absent.
        max_length: characters of the longest text that is sent.
    """

    zone: str = "UTC"
    clear_string: str = "none"
    clear_number: str = "-1"
    clear_boolean: str = "false"
    clear_date: str = "9999-12-31"
    max_length: int = 1000

    def clear_value(self, trait: Trait) -> str:
        """What is written for *trait* when there is no value."""
        if trait.clear is not None:
            return trait.clear
        return {
            Kind.STRING: self.clear_string,
            Kind.NUMBER: self.clear_number,
            Kind.MONEY: self.clear_number,
            Kind.BOOLEAN: self.clear_boolean,
            Kind.DATE: self.clear_date,
        }[trait.kind]

    def written(self, trait: Trait, column: str) -> str:
        """Make the SQL of the text that is sent for *trait*, of which the SQL *column* is the source; never NULL."""
        return f"coalesce({self.value(trait, column)}, {text(self.clear_value(trait))})"

    def value(self, trait: Trait, column: str) -> str:
        """Make the SQL of the text of a value; NULL where there is none, or an invalid one."""
        if trait.kind is Kind.STRING:
            kept = blank_is_null(column)
            return f"CASE WHEN length({column}) <= {self.max_length} THEN {kept} END"
        return self._of_text(trait, f"trim({column})") if trait.stream else self._of_typed(trait, column)

    def _of_typed(self, trait: Trait, column: str) -> str:
        """Make the SQL for a property that the ledger keeps in its type."""
        if trait.kind is Kind.DATE and trait.computed:
            return f"{column}::VARCHAR"
        return {
            Kind.NUMBER: f"{column}::VARCHAR",
            Kind.MONEY: f"rtrim(rtrim({column}::VARCHAR, '0'), '.')",
            Kind.BOOLEAN: f"{column}::VARCHAR",
            Kind.DATE: f"CASE WHEN {self._has_day(column)} THEN {self._day(column)}::VARCHAR END",
        }[trait.kind]

    def _of_text(self, trait: Trait, value: str) -> str:
        """Make the SQL for a property that the ledger keeps as the text it came as."""
        if trait.kind is Kind.BOOLEAN:
            return f"CASE lower({value}) WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' END"
        if trait.kind is Kind.DATE:
            is_day, is_stamp = (f"regexp_full_match({value}, {text(form)})" for form in (_DAY, STAMP))
            stamp = self._day(moment_of(value))
            day = f"(CASE WHEN {is_day} THEN TRY_CAST({value} AS DATE) WHEN {is_stamp} THEN {stamp} END)"
            return f"CASE WHEN {day} BETWEEN DATE {text(FIRST_DAY)} AND DATE {text(LAST_DAY)} THEN {day}::VARCHAR END"
        return f"CASE WHEN regexp_full_match({value}, {text(_NUMBER)}) THEN {value} END"

    def _day(self, moment: str) -> str:
        return f"timezone({text(self.zone)}, {moment})::DATE"

    def _has_day(self, moment: str) -> str:
        """Build the SQL condition that the day of *moment* is in the years 1900 to 9999 in the zone, too."""
        first, last = f"TIMESTAMP '{FIRST_DAY} 00:00:00'", f"TIMESTAMP '{LAST_DAY} 23:59:59.999999'"
        return f"{moment} BETWEEN timezone({text(self.zone)}, {first}) AND timezone({text(self.zone)}, {last})"

    def is_invalid(self, trait: Trait, column: str) -> str:
        """Build the SQL that says whether there is something in *column*, and nothing that can be sent.

        The log's columns have types of their own, so of a date only the bounds are looked at, and nothing of a number.
        """
        if trait.stream is None and trait.kind is not Kind.STRING:
            bounded = trait.kind is Kind.DATE and not trait.computed
            return f"({column} IS NOT NULL AND NOT {self._has_day(column)})" if bounded else "false"
        return f"({blank_is_null(f'{column}::VARCHAR')} IS NOT NULL AND {self.value(trait, column)} IS NULL)"

    def why_invalid(self, trait: Trait) -> str:
        """Say what is wrong with an invalid value of *trait*."""
        return f"longer than {self.max_length} characters" if trait.kind is Kind.STRING else f"no {trait.kind}"

    def step(self, trait: Trait, written: str) -> str:
        """Make the SQL of the number of thresholds that a drifting trait's text has reached; -1 when cleared."""
        reached = "".join(f" + (TRY_CAST({written} AS DOUBLE) >= {one})::INTEGER" for one in trait.thresholds)
        return f"CASE WHEN {written} = {text(self.clear_value(trait))} THEN -1 ELSE 0{reached} END"


def blank_is_null(value: str) -> str:
    """Make the SQL of a text without NUL, which has no place in a CSV; NULL when nothing but blanks is left."""
    kept = f"replace({value}, chr(0), '')"
    return f"CASE WHEN trim({kept}, E' \\t\\r\\n') <> '' THEN {kept} END"

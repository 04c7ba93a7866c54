"""How a property that came becomes a value of the ledger's type: strictly, or with NULL for what it cannot be.

Text is matched before it is parsed, for the database reads more than it should: ``epoch`` and a month of one digit as
dates, ``0x10`` and ``1_000`` as numbers, and an offset of 99 hours as one of four days.
"""

from __future__ import annotations

from typing import Final

from piano_engage_common.dates import in_bounds
from piano_engage_common.duck import text

JSON: Final = "JSON"
DATE: Final = "TIMESTAMP WITH TIME ZONE"

STAMP: Final = r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?([Zz]|[+-](0\d|1[0-5])(:?[0-5]\d)?))?)?"
"""A moment or a day in ISO 8601, also as Piano writes it, with a blank before the offset."""

_FORMS: Final = {
    DATE: STAMP,
    "BIGINT": r"[+-]?\d+(\.0+)?",
    "DECIMAL(18,4)": r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?",
}
"""What the text of a type looks like; other types are left to the database's cast."""

_NAMES: Final = {
    DATE: "date from 1900 to 9999 in ISO 8601", "BIGINT": "whole number", "DECIMAL(18,4)": "number",
    "BOOLEAN": "boolean", JSON: "JSON",
}  # fmt: skip


def name_of(wanted: str) -> str:
    """Return what a value of the SQL type *wanted* is called in messages."""
    return _NAMES.get(wanted, "text")


def strict(column: str, kind: str, wanted: str) -> str:
    """Build the SQL that brings *column*, which came as the type *kind*, to the type *wanted*, or raises an error."""
    if kind != "VARCHAR":
        return _typed(column, wanted, "CAST")
    value = _stripped(column)
    parsed = _parsed(value, wanted, "CAST")
    if wanted not in _FORMS:
        return parsed
    return (
        f"CASE WHEN {value} IS NULL THEN NULL WHEN {_has_form(value, wanted)} THEN {parsed} "
        "ELSE error('of another form') END"
    )


def tolerant(column: str, kind: str, wanted: str) -> str:
    """Build the SQL of the same, but NULL where the value is none of the type, or a date out of bounds."""
    if kind != "VARCHAR":
        value = _typed(column, wanted, "TRY_CAST")
    else:
        stripped = _stripped(column)
        value = f"CASE WHEN {_has_form(stripped, wanted)} THEN {_parsed(stripped, wanted, 'TRY_CAST')} END"
    return f"CASE WHEN {in_bounds(value)} THEN {value} END" if wanted == DATE else value


def is_blank(column: str) -> str:
    """Build the SQL condition that nothing came in *column*."""
    return f"{_stripped(column)} IS NULL"


def is_nested(column: str) -> str:
    """Build the SQL condition that *column*, which should be plain text, came as a list or an object."""
    return f"coalesce(left({column}::VARCHAR, 1) IN ('[', '{{') AND json_valid({column}::VARCHAR), false)"


def _stripped(column: str) -> str:
    return f"nullif(trim({column}::VARCHAR), '')"


def _has_form(value: str, wanted: str) -> str:
    return f"regexp_full_match({value}, {text(_FORMS[wanted])})" if wanted in _FORMS else "true"


def _typed(column: str, wanted: str, cast: str) -> str:
    return f"to_json({column})" if wanted == JSON else f"{cast}({column} AS {wanted})"


def _parsed(value: str, wanted: str, cast: str) -> str:
    return moment_of(value, cast) if wanted == DATE else f"{cast}({value} AS {wanted})"


def moment_of(value: str, cast: str = "TRY_CAST") -> str:
    """Build the SQL of the moment that *value*, a text of the form :data:`STAMP`, says."""
    mended = (
        f"regexp_replace({value}, ' *([+-]\\d\\d):?(\\d\\d)$', '\\1:\\2')"  # the database wants +02:00 for ' +0200'
    )
    return f"coalesce(TRY_CAST({value} AS {DATE}), {cast}({mended} AS {DATE}))"

"""How the text of a cell becomes a value: one SQL expression for each kind of column.

Every cell is read as text. A cast answers NULL for a blank cell and for one it does not understand;
:func:`failure` tells the two apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from piano_engage_common.dates import in_bounds
from piano_engage_common.duck import name, text
from piano_engage_common.ids import id_value

from tap_piano.columns import REQUIRED, Column, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

MONEY_TYPE = "DECIMAL(18,4)"
"""Piano writes two or four decimals."""

SQL_TYPES = {
    Kind.TEXT: "VARCHAR",
    Kind.TIMESTAMP: "TIMESTAMP WITH TIME ZONE",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.MONEY: MONEY_TYPE,
    Kind.INTEGER: "BIGINT",
}

_DIGITS = r"(\d{1,3}(,\d{3})+|\d+)"
_MONEY = rf"[-+]?\$?{_DIGITS}(\.\d{{1,4}}0*)?"
_INTEGER = rf"[-+]?{_DIGITS}(\.0+)?"

_DAY = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]"
_OFFSET = "[-+](0[0-9]|1[0-4])"
_MINUTES = "[0-5][0-9]"

_PIANO = rf"{_DAY} {_CLOCK}:{_MINUTES} {_OFFSET}{_MINUTES}", "%Y-%m-%d %H:%M:%S %z"
_ISO_WITH_OFFSET = rf"{_DAY}[T ]{_CLOCK}:{_MINUTES}(\.[0-9]{{1,9}})?(Z|{_OFFSET}(:?{_MINUTES})?)"
_DASHBOARD = (
    rf"(0?[1-9]|1[0-2])/(0?[1-9]|[12][0-9]|3[01])/[0-9]{{4}} (0?[1-9]|1[0-2]):{_MINUTES} [AaPp][Mm]",
    "%m/%d/%Y %I:%M %p",
)
_WITHOUT_OFFSET = (
    _DASHBOARD,
    (_DASHBOARD[0].replace(" [AaPp]", f":{_MINUTES} [AaPp]"), "%m/%d/%Y %I:%M:%S %p"),
    (rf"{_DAY} {_CLOCK}:{_MINUTES}", "%Y-%m-%d %H:%M:%S"),
    (rf"{_DAY}T{_CLOCK}:{_MINUTES}", "%Y-%m-%dT%H:%M:%S"),
    (rf"{_DAY} {_CLOCK}", "%Y-%m-%d %H:%M"),
    (_DAY, "%Y-%m-%d"),
)
"""The forms of stamps: a pattern that a cell has to match in full, and how it is parsed then.

The pattern comes first because ``strptime`` takes two digits for a year, and an offset of 99 hours."""

_MIDDLE_YEARS = "(19[1-9][0-9]|[2-8][0-9]{3})"
"""Years that no offset can move out of bounds, so that nothing more has to be asked of most stamps."""

EXPECTED = {
    Kind.TIMESTAMP: "2025-03-30 14:30:00 +0200 or 3/30/2025 2:30 PM, in the years 1900 to 9999",
    Kind.BOOLEAN: "TRUE or FALSE",
    Kind.MONEY: "1234.50",
    Kind.INTEGER: "1234",
}
"""For messages: the form of the cells of each kind that can fail."""


def _stripped(cell: str) -> str:
    return f"nullif(trim({cell}), '')"


def _as_text(cell: str, _zone: str) -> str:
    return f"CASE WHEN trim({cell}) <> '' THEN {cell} END"


def _as_timestamp(cell: str, zone: str) -> str:
    value = _stripped(cell)
    parsed = _first_match(value, zone, _PIANO, *_WITHOUT_OFFSET)
    iso = f"WHEN regexp_full_match({value}, {text(_ISO_WITH_OFFSET)}) THEN try_cast({value} AS TIMESTAMPTZ)"
    moment = f"CASE {parsed} {iso} END"
    usual = [(form.replace("[0-9]{4}", _MIDDLE_YEARS), parse) for form, parse in (_PIANO, _DASHBOARD)]
    bounded = f"CASE {_first_match(cell, zone, *usual)} WHEN {in_bounds(moment)} THEN {moment} END"
    return f"CASE WHEN {cell} IS NOT NULL THEN {bounded} END"


def _first_match(value: str, zone: str, *forms: tuple[str, str]) -> str:
    """Build the ``WHEN`` branches that parse *value* by the first of *forms* that it matches."""
    return " ".join(
        f"WHEN regexp_full_match({value}, {text(form)}) THEN "
        + (parsed if "%z" in parse else f"timezone({text(zone)}, {parsed})")
        for form, parse in forms
        if (parsed := f"try_strptime({value}, {text(parse)})")
    )


def _as_boolean(cell: str, _zone: str) -> str:
    return (
        f"CASE lower({_stripped(cell)}) WHEN 'true' THEN true WHEN 'false' THEN false "
        "WHEN 'yes' THEN true WHEN 'no' THEN false WHEN '1' THEN true WHEN '0' THEN false END"
    )


def _as_money(cell: str, _zone: str) -> str:
    value = _stripped(cell)
    plain = f"replace(replace({value}, ',', ''), '$', '')"
    return f"CASE WHEN regexp_full_match({value}, {text(_MONEY)}) THEN try_cast({plain} AS {MONEY_TYPE}) END"


def _as_integer(cell: str, _zone: str) -> str:
    value = _stripped(cell)
    plain = f"replace({value}, ',', '')"
    return f"CASE WHEN regexp_full_match({value}, {text(_INTEGER)}) THEN try_cast({plain} AS BIGINT) END"


_CASTS: dict[Kind, Callable[[str, str], str]] = {
    Kind.TEXT: _as_text,
    Kind.TIMESTAMP: _as_timestamp,
    Kind.BOOLEAN: _as_boolean,
    Kind.MONEY: _as_money,
    Kind.INTEGER: _as_integer,
}


def cast(column: Column, zone: str, *, cell: str | None = None) -> str:
    """Make the SQL expression that casts a cell of *column*.

    Args:
        column: the column.
        zone: IANA name of the time zone of stamps that carry no offset.
        cell: SQL of the text; the quoted name of the column when None.
    """
    cell = cell or name(column.name)
    if column.name in REQUIRED:
        return id_value(cell)
    return _CASTS[column.kind](cell, zone)


def can_fail(column: Column) -> bool:
    """Return whether a cell of *column* may hold what cannot be cast."""
    return column.name in REQUIRED or column.kind is not Kind.TEXT


def failure(column: Column, *, cell: str, value: str | None = None) -> str:
    """Build the SQL condition that a cell of *column*, which can fail, holds something that cannot be cast.

    Args:
        column: the column.
        cell: SQL of the text.
        value: SQL of what was made of it; the quoted name of the column when None.
    """
    value = value or name(column.name)
    if column.name in REQUIRED:
        return f"({value} IS NULL)"
    return f"({value} IS NULL AND {cell} IS NOT NULL AND trim({cell}) <> '')"


def lacks_offset(cell: str) -> str:
    """Build the SQL condition that *cell*, SQL of a text, is a stamp without an offset.

    Most stamps have a sign as the fifth last character, so most are not looked at any further.
    """
    forms = text("|".join(f"({form})" for form, _ in _WITHOUT_OFFSET))
    return f"({cell} IS NOT NULL AND {cell}[-5] NOT IN ('+', '-') AND regexp_full_match(trim({cell}), {forms}))"

"""How the text of a cell becomes a value: one SQL expression for each kind of column.

Every cell is read as text. A cast answers NULL for a blank cell and for one it does not understand;
:func:`failure` tells the two apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from piano_engage_common.duck import name, text

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
_ISO_WITH_OFFSET = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[-+]\d\d(:?\d\d)?)"

_PIANO = "%Y-%m-%d %H:%M:%S %z"
_DASHBOARD = ("%m/%d/%Y %I:%M %p", "%m/%d/%Y %I:%M:%S %p")
_WITHOUT_OFFSET = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")


def _stripped(cell: str) -> str:
    return f"nullif(trim({cell}), '')"


def _as_text(cell: str, _zone: str) -> str:
    return f"CASE WHEN trim({cell}) <> '' THEN {cell} END"


def _as_timestamp(cell: str, zone: str) -> str:
    value = _stripped(cell)
    local = ", ".join(text(form) for form in _DASHBOARD + _WITHOUT_OFFSET)
    iso = f"CASE WHEN regexp_full_match({value}, {text(_ISO_WITH_OFFSET)}) THEN try_cast({value} AS TIMESTAMPTZ) END"
    starts_with_digit = f"{value} BETWEEN '0' AND ':'"  # strptime takes words such as "infinity" as well
    return (
        f"CASE WHEN {starts_with_digit} THEN coalesce(try_strptime({value}, {text(_PIANO)}), {iso}, "
        f"timezone({text(zone)}, try_strptime({value}, [{local}]))) END"
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
        return _stripped(cell)
    return _CASTS[column.kind](cell, zone)


def failure(column: Column, zone: str, *, cell: str | None = None) -> str | None:
    """Make the SQL condition that a cell of *column* holds something that cannot be cast; None if all can."""
    cell = cell or name(column.name)
    if column.name in REQUIRED:
        return f"({_stripped(cell)} IS NULL)"
    if column.kind is Kind.TEXT:
        return None
    return f"({_stripped(cell)} IS NOT NULL AND {cast(column, zone, cell=cell)} IS NULL)"

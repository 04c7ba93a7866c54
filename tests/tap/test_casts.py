"""Casts as tables of text and value."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import duckdb
import pytest
from tap_piano.casts import can_fail, cast, failure
from tap_piano.columns import BY_NAME, Column, Kind

BAD = object()
"""Stands for: cannot be cast."""


def moment(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


def value_of(column: Column, cell: str | None, zone: str = "UTC") -> object:
    """Cast one cell; BAD when the cell is counted as a failure."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        bad = failure(column, cell="cell", value="value") if can_fail(column) else "false"
        made = f"SELECT cell, {cast(column, zone, cell='cell')} AS value FROM (SELECT $1::VARCHAR AS cell)"
        sql = f"SELECT value, {bad} FROM ({made})"
        ((value, failed),) = connection.execute(sql, [cell]).fetchall()
    if failed:
        assert value is None
        return BAD
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def column(kind: Kind) -> Column:
    return Column("Some column", kind=kind)


BLANKS = [None, "", " ", "   "]


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("kind", Kind)
def test_blank_is_null_in_each_kind(kind: Kind, blank: str | None) -> None:
    assert value_of(column(kind), blank) is None


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("name", ["subscription_id", "user_id"])
def test_blank_id_is_a_failure(name: str, blank: str | None) -> None:
    assert value_of(BY_NAME[name], blank) is BAD


def test_id_loses_the_blanks_around_it() -> None:
    assert value_of(BY_NAME["user_id"], " u 1 ") == "u 1"


@pytest.mark.parametrize(
    "cell", ["x", " x ", "0123", "1,000", "NULL", "null", "N/A", "-", "TRUE", "a\nb\r\nc", 'say "no"', "é😀", "\t"]
)
def test_text_stays_as_it_is(cell: str) -> None:
    assert value_of(column(Kind.TEXT), cell) == cell


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        *[(cell, True) for cell in ("TRUE", "True", "true", "tRuE", "YES", "Yes", "yes", "1", " true ")],
        *[(cell, False) for cell in ("FALSE", "False", "false", "NO", "No", "no", "0")],
        *[(cell, BAD) for cell in ("y", "n", "on", "t", "2", "-1", "1.0", "null", "true false")],
    ],
)
def test_boolean(cell: str, expected: object) -> None:
    assert value_of(column(Kind.BOOLEAN), cell) is expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("12.5000", "12.5"),
        ("9.99", "9.99"),
        ("0", "0"),
        ("0.0001", "0.0001"),
        ("29", "29"),
        ("-3.50", "-3.5"),
        ("+3.50", "3.5"),
        ("1,234.50", "1234.5"),
        ("1,234,567", "1234567"),
        ("$12.50", "12.5"),
        ("-$1.00", "-1"),
        (" 5.00 ", "5"),
        ("0012.50", "12.5"),
        ("1.50000000", "1.5"),
        ("99999999999999.9999", "99999999999999.9999"),
        ("12,50", BAD),
        ("1.234,50", BAD),
        ("1,23", BAD),
        ("1e3", BAD),
        ("€5", BAD),
        ("5 EUR", BAD),
        ("nan", BAD),
        ("inf", BAD),
        ("--1", BAD),
        ("1.23456", BAD),
        (".", BAD),
        ("1.", BAD),
        ("0x10", BAD),
        ("1 000", BAD),
        ("9" * 20, BAD),
        ("١٢", BAD),
    ],
)
def test_money(cell: str, expected: str | object) -> None:
    assert value_of(column(Kind.MONEY), cell) == (expected if expected is BAD else Decimal(str(expected)))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("0", 0),
        ("84", 84),
        ("-1", -1),
        ("+7", 7),
        ("1,234", 1234),
        ("3.0", 3),
        ("3.00", 3),
        (" 12 ", 12),
        ("007", 7),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), BAD),
        ("3.5", BAD),
        ("1e3", BAD),
        ("12,34", BAD),
        ("five", BAD),
        ("$3", BAD),
        ("0x1f", BAD),
        ("1_000", BAD),
        ("٣", BAD),
        ("1,234.0", 1234),
    ],
)
def test_integer(cell: str, expected: object) -> None:
    assert value_of(column(Kind.INTEGER), cell) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("2025-03-10 09:15:27 +0100", moment(2025, 3, 10, 8, 15, 27)),
        ("2025-07-10 00:15:27 +0200", moment(2025, 7, 9, 22, 15, 27)),
        ("2025-03-10 09:15:27 -0430", moment(2025, 3, 10, 13, 45, 27)),
        ("2025-03-10 09:15:27 +0000", moment(2025, 3, 10, 9, 15, 27)),
        ("2024-02-29 12:00:00 +0000", moment(2024, 2, 29, 12)),
        ("2025-03-10T09:15:27Z", moment(2025, 3, 10, 9, 15, 27)),
        ("2025-03-10T09:15:27+01:00", moment(2025, 3, 10, 8, 15, 27)),
        ("2025-03-10 09:15:27+01", moment(2025, 3, 10, 8, 15, 27)),
        ("2025-03-10T09:15:27.125+01:00", moment(2025, 3, 10, 8, 15, 27, 125_000)),
        (" 2025-03-10 09:15:27 +0100 ", moment(2025, 3, 10, 8, 15, 27)),
        ("2025-02-29 12:00:00 +0000", BAD),
        ("2025-13-01 12:00:00 +0000", BAD),
        ("2025-03-10 25:00:00 +0000", BAD),
        ("10.03.2025", BAD),
        ("soon", BAD),
        ("0", BAD),
        ("1741598127", BAD),
        ("infinity", BAD),
        ("13/1/2025 1:00 AM", BAD),
        ("2025-03-10 09:15:27 CET", BAD),
        ("2025-03-10 09:15:27 +0100 x", BAD),
        ("1/2/2025 13:00 PM", BAD),
    ],
)
def test_timestamp_with_offset_becomes_utc(cell: str, expected: object) -> None:
    assert value_of(column(Kind.TIMESTAMP), cell, "Asia/Tokyo") == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("3/10/2025 9:15 AM", moment(2025, 3, 10, 8, 15)),
        ("03/10/2025 09:15 AM", moment(2025, 3, 10, 8, 15)),
        ("7/1/2025 12:00 AM", moment(2025, 6, 30, 22)),
        ("7/1/2025 12:00 PM", moment(2025, 7, 1, 10)),
        ("12/31/2025 11:59 pm", moment(2025, 12, 31, 22, 59)),
        ("7/1/2025 1:02:03 PM", moment(2025, 7, 1, 11, 2, 3)),
        ("2025-07-01 13:02:03", moment(2025, 7, 1, 11, 2, 3)),
        ("2025-07-01T13:02:03", moment(2025, 7, 1, 11, 2, 3)),
        ("2025-07-01 13:02", moment(2025, 7, 1, 11, 2)),
        ("2025-07-01", moment(2025, 6, 30, 22)),
        # the clock goes forward at 2:00 on 30 March, and back at 3:00 on 26 October
        ("3/30/2025 1:59 AM", moment(2025, 3, 30, 0, 59)),
        ("3/30/2025 3:00 AM", moment(2025, 3, 30, 1, 0)),
        ("10/26/2025 1:59 AM", moment(2025, 10, 25, 23, 59)),
        ("10/26/2025 3:00 AM", moment(2025, 10, 26, 2, 0)),
        ("2/29/2025 1:00 AM", BAD),
    ],
)
def test_timestamp_without_offset_is_taken_in_the_time_zone(cell: str, expected: object) -> None:
    assert value_of(column(Kind.TIMESTAMP), cell, "Europe/Amsterdam") == expected


@pytest.mark.parametrize(
    ("cell", "either"),
    [
        ("3/30/2025 2:30 AM", {moment(2025, 3, 30, 0, 30), moment(2025, 3, 30, 1, 30)}),  # no such time
        ("10/26/2025 2:30 AM", {moment(2025, 10, 26, 0, 30), moment(2025, 10, 26, 1, 30)}),  # twice that time
    ],
)
def test_time_that_a_change_of_clocks_makes_unsure_is_one_of_the_two(cell: str, either: set[datetime]) -> None:
    assert value_of(column(Kind.TIMESTAMP), cell, "Europe/Amsterdam") in either


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("2025-10-26 02:30:00 +0200", moment(2025, 10, 26, 0, 30)),
        ("2025-10-26 02:30:00 +0100", moment(2025, 10, 26, 1, 30)),
    ],
)
def test_offset_tells_the_two_hours_apart(cell: str, expected: datetime) -> None:
    assert value_of(column(Kind.TIMESTAMP), cell, "Europe/Amsterdam") == expected

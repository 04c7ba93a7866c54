"""The rule for ids: as a table, and the same in SQL and in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from piano_engage_common.ids import (
    BLANK,
    DAMAGED,
    MAX_CHARACTERS,
    TOO_LONG,
    clean_id,
    id_problem,
    id_value,
    problem_of_id,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD = [
    "RCX1", "u-1", "user-1", "5fa698a5-e1b2-4c3d-8e9f-001122334455", "550E8400-E29B-41D4-A716-446655440000", "0012",
    "12345", "123e4567890", "00000000000000000000000000000000000000012e456", "PNIabc123",
    "auth0|5f7c8ec7c33c6c004bbafe82", "ann@example.com", "o'brien@example.com", "1234567890.1600000000", "_guid_a==",
    "\xe9", "\xfc-1", "\u7528\u62371", "nullable", "nano", "none1", "N1", "may-flower", "dec", "10e30e5", "ann+x",
    "u 1", "x" * MAX_CHARACTERS, "9" * MAX_CHARACTERS,
]  # fmt: skip

ENDS = [
    "\t", "\n", "\r\n", " ", "\xa0", "\u200b", "\ufeff", "\u2060", "\u200e", "\u3000", "\u2028", "\xad", "\ufe0f",
]  # fmt: skip

DAMAGE = [
    'u"1', 'RC"X"1',
    "1.0E+14", "1.00457E+14", "1,00457E+14", "1E+14", "1e+21", "1.0e14", "1E14", "-1.5E+7", "1.E+5", "12345.0",
    "12345.00", "12345.", "12345,0", "-1.0", "1,234,567", "1.234.567", "12.345", "1,234,567.00", "#N/A", "#REF!",
    "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!", "#NV", "#BEZUG!", "#####", "Err:502", '="0013"', "=0013",
    "'0012", '"u-1"', "\u201cu-1\u201d", "\u2018u-1\u2019", "\u201eu-1\u201c", '"u-1', 'u-1"', "null", "NULL", "Null",
    "none", "None", "nil", "undefined", "NaN", "nan", "n/a", "N/A", "NA", "n.a.", "(null)", "<NA>", "NaT", "\\N",
    "true", "FALSE", "(blank)", "[null]", "{}", '["a"]', "[object", "-", "--", "?", ".", "...", "1-Mar", "12-Mar-25",
    "Mar-25", "3/30/2025", "3/30/25", "1 234 567", "[object Object]", "u\u200b1", "u\t1", "u\n1", "u\x001", "u\x7f1",
    "u\ufffd", "u\xa01", "\x01u",
]  # fmt: skip


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """One for all examples."""
    with duckdb.connect() as connection:
        yield connection


def in_sql(connection: duckdb.DuckDBPyConnection, value: str | None) -> tuple[str | None, str | None]:
    (found,) = connection.execute(
        f"SELECT {id_value('v')}, {id_problem('v')} FROM (SELECT $1::VARCHAR AS v)", [value]
    ).fetchall()
    return found[0], found[1]


@pytest.mark.parametrize("value", GOOD)
def test_id_stays_as_it_is(connection: duckdb.DuckDBPyConnection, value: str) -> None:
    assert (clean_id(value), problem_of_id(value)) == (value, None)
    assert in_sql(connection, value) == (value, None)


@pytest.mark.parametrize("end", ENDS)
def test_what_cannot_be_seen_is_trimmed_at_both_ends(connection: duckdb.DuckDBPyConnection, end: str) -> None:
    for value in (f"{end}u-1", f"u-1{end}", f"{end} u-1 {end}", f"{end}{end}u-1"):
        assert clean_id(value) == "u-1"
        assert in_sql(connection, value) == ("u-1", None)


@pytest.mark.parametrize("value", [None, "", *ENDS, "".join(ENDS)])
def test_blank_is_no_id(connection: duckdb.DuckDBPyConnection, value: str | None) -> None:
    assert (clean_id(value), problem_of_id(value)) == (None, BLANK)
    assert in_sql(connection, value) == (None, BLANK)


@pytest.mark.parametrize("value", DAMAGE)
def test_damage_is_no_id(connection: duckdb.DuckDBPyConnection, value: str) -> None:
    for dressed in (value, f" {value}\u200b"):
        assert clean_id(dressed) is None
        assert problem_of_id(dressed) not in {None, BLANK, TOO_LONG}
        assert in_sql(connection, dressed) == (None, DAMAGED)


def test_id_of_absurd_length_is_none(connection: duckdb.DuckDBPyConnection) -> None:
    value = "x1" * MAX_CHARACTERS
    assert (clean_id(value), problem_of_id(value)) == (None, TOO_LONG)
    assert in_sql(connection, value) == (None, TOO_LONG)


PIECES = st.sampled_from([*GOOD, *DAMAGE, *ENDS, *"0123456789eE+-.,/#='\"()<>[]{}\\ nul", "null", "\n", "\x1f", "\x85"])
ANY = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.lists(PIECES, max_size=4).map("".join),
    st.text("0123456789eE+-., ", max_size=8),
)


@given(value=ANY)
def test_sql_and_python_are_one_rule(connection: duckdb.DuckDBPyConnection, value: str) -> None:
    found, problem = in_sql(connection, value)
    expected = problem_of_id(value)
    assert found == clean_id(value)
    assert problem == (expected if expected in {None, BLANK, TOO_LONG} else DAMAGED)


def test_half_a_character_is_damage() -> None:
    assert clean_id("u\ud83d1") is None

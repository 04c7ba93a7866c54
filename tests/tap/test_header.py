"""Columns are found by their header, however the file is laid out."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tap.conftest import Exports, Tap

ROWS = [
    ["RC1", "u1", "Digital", "TRUE", "9.99"],
    ["RC2", "u2", 'Said "so", twice', "FALSE", ""],
    ["RC3", "u3", "one\ntwo\r\n\r\nthree", "", "1,000.5"],
    ["RC4", "u4", "Straße 😀", "no", "0"],
]
HEADERS = ["Subscription ID", "User ID (UID)", "Term name", "Auto-renew", "Total charged"]
EXPECTED = [
    ("RC1", "u1", "Digital", True, 9.99),
    ("RC2", "u2", 'Said "so", twice', False, None),
    ("RC3", "u3", "one\ntwo\r\n\r\nthree", None, 1000.5),
    ("RC4", "u4", "Straße 😀", False, 0),
]


def content(
    headers: list[str] = HEADERS, rows: list[list[str]] = ROWS, line_end: str = "\n", quoting: int = csv.QUOTE_MINIMAL
) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=line_end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(headers)
    writer.writerows(rows)
    return buffer.getvalue().encode()


def reordered() -> bytes:
    order = [4, 2, 0, 3, 1]
    return content([HEADERS[i] for i in order], [[row[i] for i in order] for row in ROWS])


LAYOUTS = {
    "plain": content(),
    "BOM": b"\xef\xbb\xbf" + content(),
    "CRLF": content(line_end="\r\n"),
    "BOM and CRLF and all cells in quotes": b"\xef\xbb\xbf" + content(line_end="\r\n", quoting=csv.QUOTE_ALL),
    "no line break at the end": content().rstrip(b"\n"),
    "blank lines": content().replace(b"\nRC2", b"\n\n\nRC2") + b"\n\n",
    "blank lines and CRLF": content(line_end="\r\n").replace(b"\nRC2", b"\n\r\n\r\nRC2") + b"\r\n",
    "reordered": reordered(),
    "another column": content([*HEADERS, "Shoe size"], [[*row, "42"] for row in ROWS]),
    "a column without a header": content([*HEADERS, ""], [[*row, "x"] for row in ROWS]),
    "other spellings": content(["SUBSCRIPTION_ID", "user id", " term-name ", "Auto renew", "total charged"]),
    "a line break in a header": content([*HEADERS, "Shoe\nsize"], [[*row, "42"] for row in ROWS]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_the_same_in_each_layout(layout: str, exports: Exports, sync: Tap) -> None:
    run = sync(exports.bytes(LAYOUTS[layout]))
    names = ("subscription_id", "user_id", "term_name", "auto_renew", "total_charged")
    assert [tuple(record[name] for name in names) for record in run.records] == EXPECTED


def test_missing_columns_are_named_in_one_warning_and_left_out(exports: Exports, sync: Tap) -> None:
    run = sync(exports.bytes(content()))
    (warning,) = [line for line in run.log.splitlines() if "WARNING" in line]
    assert "lacks the column(s) Access expiration date, Auto-renew disablement date, Billing period" in warning
    assert "Term name" not in warning
    assert set(run.records[0]) == {"subscription_id", "user_id", "term_name", "auto_renew", "total_charged"}


def test_sample_has_no_missing_column(sample: Path, sync: Tap) -> None:
    assert "WARNING" not in sync(sample).log


def test_unknown_columns_are_kept_as_text_when_selected(exports: Exports, sync: Tap) -> None:
    unknown = content([*HEADERS, "Shoe size (EU)", ""], [[*row, "042", " x "] for row in ROWS])
    run = sync(exports.bytes(unknown), columns=["Shoe size (EU)", "column_7"])
    assert {(record["shoe_size"], record["column_7"]) for record in run.records} == {("042", " x ")}
    (schema,) = run.of_type("SCHEMA")
    assert schema["schema"]["properties"]["shoe_size"]["type"] == ["string", "null"]


def test_unknown_columns_stay_unless_asked_for(exports: Exports, sync: Tap) -> None:
    run = sync(exports.bytes(LAYOUTS["another column"]))
    assert "shoe_size" not in run.records[0]

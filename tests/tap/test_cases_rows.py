"""Inputs that failed in the field: rows, cells, dates and ids. Each row is sent, rejected or superseded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import InputRefused, RowsLost
from tap_piano import log, staging
from tap_piano.files import Export
from tap_piano.sifting import Sifted, sift
from tap_piano.staging import Stage
from tap_piano.survey import EXCEL_LIMITS, Shape, check_row_limit

if TYPE_CHECKING:
    from tests.tap.conftest import Exports, MakeRow, Tap

CASES = Path(__file__).with_name("cases")
START, USER, MONEY = "Start date", "User ID (UID)", "Total charged"

OUTCOMES: dict[str, tuple[dict[str, str], list[tuple[int, str | None]], str]] = {
    # subscription → user of what is sent; line and column of each reject; part of the message
    "1-all-rows-lost-decimal-comma": ({}, [(2, None), (3, None), (4, None)], "more cells than the header"),
    "1-row-lost-silently-blank-before-quote": ({"RCX2": "u-2"}, [(2, None), (4, START)], "blanks beside them"),
    "1-wrong-line-named": (
        {f"RCX{number}": f"u-{number}" for number in range(1, 11)},
        [(2, None), (3, START)],
        "line 3, column 'Start date': is no timestamp ('soon')",
    ),
    "2-cells-slide-typographic-quotes": ({"RCX2": "u-2"}, [(2, None)], "more cells than the header"),
    "2-cells-slide-uid": ({"RCX2": "u-2"}, [(2, None)], "more cells than the header"),
    "2-cells-slide-unquoted-comma": ({"RCX2": "u-2"}, [(2, None)], "more cells than the header"),
    "3-offset-of-99-hours": ({}, [(2, START)], "like 2025-03-30 14:30:00 +0200"),
    "3-year-two-digits-excel": ({}, [(2, START), (3, START)], "or 3/30/2025 2:30 PM"),
    "3-year-two-digits-iso": ({}, [(2, START), (3, START)], "in the years 1900 to 9999"),
    "4-date-before-christ-sent": ({"RCX2": "u-2"}, [(2, START)], "in the years 1900 to 9999"),
    "4-date-before-christ-stops-target": ({"RCX2": "u-2"}, [(2, START)], "in the years 1900 to 9999"),
    "4-date-year-10000-sent": ({"RCX2": "u-2"}, [(2, START)], "in the years 1900 to 9999"),
    "7-id-excel-guards-and-errors": ({}, [(line, USER) for line in (2, 3, 4, 5)], "a spreadsheet's guard"),
    "7-id-excel-scientific": ({}, [(2, USER), (3, USER)], "scientific notation"),
    "7-id-invisible-characters": (dict.fromkeys(["RCX1", "RCX2", "RCX3"], "u-1"), [(5, USER)], "is blank"),
    "7-id-null-words": ({}, [(line, USER) for line in (2, 3, 4, 5)], "is a word for no value"),
    "7-id-tab-or-line-end-around": (dict.fromkeys(["RCX1", "RCX2", "RCX3"], "u-1"), [], ""),
    "13-row-of-commas-blocks-vanishing": (
        {f"RCX{number}": f"u-{number}" for number in range(1, 201)},
        [],
        "1 row(s) of blank cells",
    ),
    "13-traceback-leading-blank-line": ({f"RCX{number}": f"u-{number}" for number in range(1, 11)}, [], ""),
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_each_row_is_sent_or_rejected_with_its_line(case: str, sync: Tap) -> None:
    users, rejects, said = OUTCOMES[case]
    run = sync(CASES / f"{case}.csv", max_reject_fraction=1, timezone="America/New_York")
    assert {record["subscription_id"]: record["user_id"] for record in run.records} == users
    assert [(reject["line"], reject["column"]) for reject in run.rejects] == rejects
    assert said in run.log
    assert ("ACTIVATE_VERSION" in run.types) == (not rejects)
    assert f"{len(users) + len(rejects)} rows read" in run.log


@pytest.mark.parametrize("case", [case for case, (_, rejects, _) in OUTCOMES.items() if rejects])
def test_a_file_of_which_too_much_is_rejected_stops_the_run(case: str, sync: Tap) -> None:
    with pytest.raises(InputRefused, match="max_reject_fraction"):
        sync(CASES / f"{case}.csv")


def test_damaged_ids_of_users_are_in_no_message(sync: Tap) -> None:
    run = sync(CASES / "7-id-excel-guards-and-errors.csv", max_reject_fraction=1)
    assert "0013" not in run.log
    assert "0012" not in run.log


def test_a_rejected_row_among_trailing_commas_keeps_its_user(sync: Tap) -> None:
    night = CASES / "1-row-lost-silently-then-cleared-trailing-comma"
    assert "ACTIVATE_VERSION" in sync(night / "night-1.csv").types
    run = sync(night / "night-2.csv", max_reject_fraction=0.03)
    assert len(run.records) == 40
    assert "ACTIVATE_VERSION" not in run.types
    assert [(reject["line"], reject["column"]) for reject in run.rejects] == [(42, START)]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (
            "13-message-cr-cr-lf",
            "its lines end in CR CR LF, so line ends were converted twice. Save it with LF or CRLF.",
        ),
        (
            "13-data-in-message-part-without-header",
            "line 1: no column 'Subscription ID' and 'User ID (UID)'. None of its",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_sentence(case: str, said: str, sync: Tap) -> None:
    with pytest.raises(InputRefused) as stop:
        sync(CASES / f"{case}.csv")
    assert said in str(stop.value)
    assert "example.invalid" not in str(stop.value)
    assert "u-1" not in str(stop.value)


# Other forms of the same kinds

HEADER = "Subscription ID,User ID (UID),Total charged,Term name,Promo code"
GOOD = "RC9,u9,9.00,Monthly,"
FORMS: dict[str, tuple[list[str], list[int]]] = {
    # rows behind the header; lines that are rejected
    "surplus blank cell in one row": (["RC1,u1,1.00,Monthly,,", GOOD], [2]),
    "surplus cell of blanks": (["RC1,u1,1.00,Monthly,, ", GOOD], [2]),
    "surplus cell in quotes": (['RC1,u1,1.00,Monthly,,""', GOOD], [2]),
    "trailing commas, and a row without": (["RC1,u1,1.00,Monthly,,", "RC2,u2,2.00,Monthly,,", GOOD], [2, 3]),
    "trailing commas, and a row with one more": (["RC1,u1,1.00,Monthly,,", "RC2,u2,2.00,Mon,thly,,", f"{GOOD},"], [3]),
    "a name with a comma in every row": (["RC1,Doe, Ann,u1,,", "RC2,Roe, Bob,u2,,"], [2, 3]),
    "a price with a comma in every row": (["RC1,u1,29,9700,Monthly,", "RC2,u2,5,9000,Yearly,"], [2, 3]),
    "typographic quotes in every row": (
        ["RC1,u1,1.00,\u201cMon,thly\u201d,", "RC2,u2,,\u201cM,x\u201d,"],
        [2, 3],
    ),
    "decimal comma in quotes": (['RC1,u1,"29,9700",Monthly,', GOOD], [2]),
    "blank before a quote": (['RC1,u1,1.00, "Monthly",', GOOD], [2]),
    "blank behind a quote": (['RC1,u1,1.00,"Monthly" ,', GOOD], [2]),
    "blank before a quote over two lines": (['RC1,u1,1.00, "Monthly', 'x",', GOOD], [2, 3]),
    "blank before a quote, and lines like rows": (['RC1,u1,1.00, "M', "RC7,u8,7.00,Yearly,", 'x",', GOOD], [2, 3, 4]),
    "blank before a quote that is never closed": (['RC1,u1,1.00, "Monthly,', GOOD, 'RC8,u8,8.00,"a,b",'], [2]),
    "tab before a quote": (['RC1,u1,1.00,\t"Monthly, red",', GOOD], [2]),
    "text behind a quote": (['RC1,u1,1.00,"Mon"thly,', GOOD], [2]),
    "quotes that are not doubled": (['RC1,u1,1.00,"the "Monthly" one",', GOOD], [2]),
    "quote that is not closed, then a quoted row": (['RC1,u1,1.00,"Mon,', 'RC2,u2,2.00,"a,b",', GOOD], [2, 3]),
    "semicolons": (["RC1;u1;1.00;Monthly;", GOOD], [2]),
    "tabs": (["RC1\tu1\t1.00\tMonthly\t", GOOD], [2]),
    "the header again": ([GOOD, HEADER, "RC1,u1,1.00,Monthly,"], [3]),
    "rows of blank cells": ([",,,,", " , ,,,", '"","","","",""', ",,", ",,,,,,,,", GOOD], []),
    "an inch": (['RC1,u1,1.00,12" box,', GOOD], []),
    "a cell of several lines": (['RC1,,1.00,"a', "b", 'c",', "RC2,u2,x,Monthly,", GOOD], [2, 5]),
    "thousands with a dot": (["RC1,1.234.567,1.00,Monthly,", GOOD], [2]),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("form", FORMS)
def test_odd_row_is_rejected_with_its_line_and_the_others_are_sent(
    form: str, end: str, exports: Exports, sync: Tap
) -> None:
    rows, lines = FORMS[form]
    export = exports.bytes("".join(f"{row}{end}" for row in [HEADER, *rows]).encode())
    run = sync(export, columns="all", max_reject_fraction=1)
    assert [reject["line"] for reject in run.rejects] == lines
    assert ("ACTIVATE_VERSION" in run.types) == (not lines)
    for record in run.records:
        number = record["subscription_id"].removeprefix("RC")
        assert record["user_id"] == f"u{number}"
        assert record["term_name"] in {"Monthly", "a,b", '12" box', "Yearly"}


def test_blank_lines_anywhere_move_no_line_number(exports: Exports, sync: Tap) -> None:
    run = sync(
        exports.bytes(f"\n\n{HEADER}\n\n{GOOD}\n\n\nRC1,u1,x,Monthly,\n".encode()), columns="all", max_reject_fraction=1
    )
    assert [reject["line"] for reject in run.rejects] == [8]
    assert [record["user_id"] for record in run.records] == ["u9"]


def test_double_of_another_user_keeps_the_log_from_counting_as_complete(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    twice = [make_row(1), {**make_row(2), "Subscription ID": make_row(1)["Subscription ID"]}]
    run = sync(exports.csv([*twice, make_row(3)]), max_reject_fraction=1)
    assert len(run.records) == 2
    assert "ACTIVATE_VERSION" not in run.types


# Excel's limit


@pytest.mark.parametrize("rows", EXCEL_LIMITS)
def test_file_with_as_many_rows_as_a_worksheet_is_refused(rows: int) -> None:
    export = Export(Path("log.csv"), (0, 0, 0))
    with pytest.raises(InputRefused, match=f"has exactly {rows:,} rows with the header"):
        check_row_limit(export, rows)
    check_row_limit(export, rows - 1)
    check_row_limit(export, rows + 1)


@pytest.mark.parametrize("odd", [[], [",,"]], ids=["plain", "with a blank row"])
def test_file_cut_off_at_the_limit_stops_the_run(odd: list[str], exports: Exports, sync: Tap) -> None:
    rows = [f"RC{number},u{number},Monthly" for number in range(65_535 - len(odd))]
    export = exports.bytes("\n".join(["Subscription ID,User ID (UID),Term name", *rows, *odd, ""]).encode())
    with pytest.raises(InputRefused, match="65,536 rows"):
        sync(export)


# Doubles that are broken: the checks have to see it


def slid(exports: Exports) -> Path:
    return exports.bytes("\n".join([HEADER, *FORMS["surplus blank cell in one row"][0], ""]).encode())


def check_nothing_slides(exports: Exports, sync: Tap) -> None:
    run = sync(slid(exports), columns="all", max_reject_fraction=1)
    assert [record["subscription_id"] for record in run.records] == ["RC9"]


def test_a_tap_that_believes_the_database_fails_the_check(
    exports: Exports, sync: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_nothing_slides(exports, sync)
    monkeypatch.setattr(staging, "survey", lambda *_: Shape(records=2))
    with pytest.raises(AssertionError):
        check_nothing_slides(exports, sync)


def test_rows_that_do_not_add_up_stop_the_run(
    exports: Exports, make_row: MakeRow, sync: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a row with a bad cell is left out, and nobody counts it."""
    export = exports.csv([make_row(1), {**make_row(2), START: "soon"}, make_row(3)])
    settle = log.SubscriptionLog._settle_rejects

    def forgetful(self: log.SubscriptionLog, stages: list[Stage]) -> None:
        settle(self, stages)
        self.counts.rejected = 0

    assert len(sync(export, max_reject_fraction=1).records) == 2
    monkeypatch.setattr(log.SubscriptionLog, "_settle_rejects", forgetful)
    with pytest.raises(RowsLost, match="Of 3 rows read, 2 would be sent, 0 were rejected and 0 superseded") as stop:
        sync(export, max_reject_fraction=1)
    assert stop.value.exit_code == 70


def test_rows_are_counted_where_no_line_is_found(
    exports: Exports, make_row: MakeRow, sync: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stage, "read_rows", lambda _: iter(()))
    run = sync(exports.csv([make_row(1), {**make_row(2), START: "soon"}, make_row(3)]), max_reject_fraction=1)
    assert "1 of 3 rows rejected" in run.log
    assert "a row that could not be found, column 'Start date'" in run.log
    assert "ACTIVATE_VERSION" not in run.types
    assert [(reject["line"], reject["column"]) for reject in run.rejects] == [(None, START)]


def test_a_database_that_loses_a_row_stops_the_run(
    exports: Exports, sync: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losing(*args: Any) -> Sifted:  # noqa: ANN401 - those of sift
        sifted = sift(*args)
        content = sifted.path.read_bytes().splitlines(keepends=True)
        sifted.path.write_bytes(b"".join(content[1:]))
        return sifted

    monkeypatch.setattr(staging, "sift", losing)
    with pytest.raises(RowsLost, match="has 1 good rows, and the database read 0 of them"):
        sync(slid(exports), max_reject_fraction=1)

"""Rows that cannot be used: rejected by file, line and column, or too many of them and the run stops."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from piano_engage_common.stops import InputRefused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tap.conftest import Exports, MakeRow, Run, StartTap, Tap

INPUT_REFUSED, STORAGE_FAILED = 65, 74
GOOD_ROWS = 300


def rows_with(make_row: MakeRow, *bad: dict[str, str]) -> list[dict[str, str]]:
    """Two good rows, the bad ones from line 4 on, then good ones."""
    good = [make_row(number) for number in range(GOOD_ROWS)]
    return [*good[:2], *bad, *good[2:]]


CELLS = {
    # header, cell, what the message says of the value
    "timestamp": ("Start date", "2025-02-30 10:00:00 +0100", "is no timestamp ('2025-02-30 10:00:00 +0100')"),
    "timestamp of words": ("End date", "soon", "is no timestamp ('soon')"),
    "boolean": ("Auto-renew", "maybe", "is no boolean ('maybe')"),
    "money": ("Total charged", "12,50", "is no money ('12,50')"),
    "money in words": ("Regular price", "free", "is no money ('free')"),
    "integer": ("Days subscribed", "3.5", "is no integer ('3.5')"),
    "integer too large": ("Charge count", "9" * 30, f"is no integer ('{'9' * 30}')"),
    "long value": ("Days subscribed", "x" * 500, f"is no integer ('{'x' * 80}')"),
}


@pytest.mark.parametrize("case", CELLS)
def test_cell_that_cannot_be_cast_is_named_and_its_row_left_out(
    case: str, exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    header, cell, said = CELLS[case]
    run = sync(exports.csv(rows_with(make_row, {**make_row(999), header: cell})), columns="all")
    assert len(run.records) == GOOD_ROWS
    assert f"log.csv: line 4, column {header!r}: {said}" in run.log
    (reject,) = run.rejects
    assert (reject["line"], reject["column"]) == (4, header)
    assert reject["row"]["subscription_id"] == "RC0000000999"


def test_value_of_a_personal_column_is_not_shown(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    bad = {**make_row(999), "Days subscribed": "x", "User email": "marked@example.com", "Phone": "555-marked"}
    run = sync(exports.csv(rows_with(make_row, bad)), columns="all")
    assert run.rejects[0]["row"]["user_email"] == "(personal)"
    assert "marked" not in run.log
    assert "marked" not in "".join(path.read_text() for path in run.rejects_folder.iterdir())


def test_columns_that_are_not_selected_are_neither_judged_nor_shown(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    bad = {**make_row(999), "Trial price": "no number", "User email": "marked@example.com", "Days subscribed": "x"}
    run = sync(exports.csv(rows_with(make_row, bad)))
    assert [reject["column"] for reject in run.rejects] == ["Days subscribed"]
    assert set(run.rejects[0]["row"]) == {"subscription_id", "user_id", "days_subscribed"}


def test_unknown_column_with_an_unusual_name_is_masked_as_little_as_needed(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    bad = {**make_row(999), "Shoe size": "42", "Days subscribed": "x"}
    run = sync(exports.csv(rows_with(make_row, bad)), columns=["shoe_size", "days_subscribed"])
    assert run.rejects[0]["row"]["shoe_size"] == "42"


@pytest.mark.parametrize("blank", ["", "   "])
@pytest.mark.parametrize(("position", "header"), [(0, "Subscription ID"), (1, "User ID (UID)")])
def test_blank_id_is_a_reject(
    blank: str, position: int, header: str, exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    bad = make_row(999)
    bad[header] = blank
    run = sync(exports.csv(rows_with(make_row, bad)))
    assert len(run.records) == GOOD_ROWS
    assert f"line 4, column {header!r}: is blank" in run.log
    assert run.rejects[0]["row"][("subscription_id", "user_id")[position]] == blank


MALFORMED = {
    "too few cells": (b"RC999,u999\n", "line 4 has fewer cells than the header"),
    "too many cells": (b"RC999,u999,Digital,x\n", "line 4 has more cells than the header"),
    "text behind quotes": (b'RC999,u999,"Dig"ital\n', "line 4 has quotes that do not close, or text behind them"),
    "Latin-1": (b"RC999,u999,Stra\xdfe\n", "line 4 is not UTF-8"),
    "blanks only": (b"   \n", "line 4 has fewer cells than the header"),
    "longer than any row": (b"RC999,u999," + b"x" * 2_100_000 + b"\n", "line 4 is longer than 2 MB"),
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_malformed_row_is_left_out_and_the_lines_behind_it_are_counted_right(
    case: str, end: bytes, exports: Exports, sync: Tap
) -> None:
    bad, said = MALFORMED[case]
    lines = [b"Subscription ID,User ID (UID),Term name\n"]
    lines += [b"RC%d,u%d,Digital\n" % (number, number) for number in range(GOOD_ROWS)]
    lines[3:3] = [bad]
    lines[10:10] = [b"RC1000,,Digital\n"]
    run = sync(exports.bytes(b"".join(lines).replace(b"\n", end)))
    assert len(run.records) == GOOD_ROWS
    assert said in run.log
    assert "line 11, column 'User ID (UID)': is blank" in run.log
    assert [(reject["line"], reject["column"]) for reject in run.rejects] == [(4, None), (11, "User ID (UID)")]


def test_lines_are_counted_by_line_breaks_inside_cells_too(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    rows = rows_with(make_row, {**make_row(999), "Days subscribed": "x"})
    for row in rows[:2]:
        row["Summary"] = "one\ntwo\r\nthree"
    run = sync(exports.csv(rows))
    assert run.rejects[0]["line"] == 8


def test_two_bad_cells_of_a_row_are_two_entries_and_one_row(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    bad = {**make_row(999), "Days subscribed": "x", "Auto-renew": "y"}
    run = sync(exports.csv(rows_with(make_row, bad)))
    assert [reject["column"] for reject in run.rejects] == ["Days subscribed", "Auto-renew"]
    assert "1 of 301 rows rejected" in run.log


def test_subscription_that_stands_twice_with_other_content_keeps_the_later_row(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    twice = [{**make_row(999), "Term name": "first"}, {**make_row(999), "Term name": "second"}]
    run = sync(exports.csv(rows_with(make_row, *twice)))
    assert [record["term_name"] for record in run.records if record["subscription_id"] == "RC0000000999"] == ["second"]
    assert "line 4, column 'Subscription ID': the same subscription stands again in this file" in run.log
    assert run.rejects[0]["row"]["term_name"] == "first"


def test_subscription_that_stands_twice_with_the_same_content_is_no_reject(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    run = sync(exports.csv(rows_with(make_row, make_row(999), make_row(999))))
    assert len(run.records) == GOOD_ROWS + 1
    assert run.rejects == []
    assert "1 superseded" in run.log


def test_newer_modify_time_wins_among_rows_of_one_subscription(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    twice = [
        make_row(999, Term_name="newer", Modify_time="2025-05-02 10:00:00 +0200"),
        make_row(999, Term_name="older", Modify_time="2025-05-02 08:30:00 +0100"),
    ]
    run = sync(exports.csv(rows_with(make_row, *twice)))
    assert [record["term_name"] for record in run.records if record["subscription_id"] == "RC0000000999"] == ["newer"]


# How many are too many


def many_bad(make_row: MakeRow, good: int, bad: int) -> list[dict[str, str]]:
    return [make_row(number, Days_subscribed="1" if number < good else "x") for number in range(good + bad)]


def check_threshold(run_with: Callable[[int, int], Run]) -> None:
    """Ten of a thousand pass at 0.01, eleven do not."""
    assert len(run_with(990, 10).records) == 990
    with pytest.raises(InputRefused, match=r"11 of 1,000 rows rejected.*max_reject_fraction \(0\.01\)"):
        run_with(989, 11)


def test_more_rejects_than_allowed_stop_the_run(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    check_threshold(lambda good, bad: sync(exports.csv(many_bad(make_row, good, bad))))


def test_threshold_test_notices_a_tap_without_threshold(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    with pytest.raises(pytest.fail.Exception):
        check_threshold(lambda good, bad: sync(exports.csv(many_bad(make_row, good, bad)), max_reject_fraction=1))


def test_command_stops_before_the_first_row_and_leaves_the_rejects(
    exports: Exports, make_row: MakeRow, tap: Tap
) -> None:
    run = tap(exports.csv(many_bad(make_row, 5, 5)))
    assert run.code == INPUT_REFUSED
    assert run.types == ["SCHEMA"]
    assert "line 7, column 'Days subscribed': is no integer ('x')" in run.errors
    assert "raise the setting" in run.errors
    assert len(run.rejects) == 5
    assert run.leftovers == []


def test_no_reject_is_allowed_at_zero(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    with pytest.raises(InputRefused, match="1 of 500 rows rejected"):
        sync(exports.csv(many_bad(make_row, 499, 1)), max_reject_fraction=0)


def test_all_rows_may_be_rejected_when_asked_for(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    run: Run = sync(exports.csv(many_bad(make_row, 0, 3)), max_reject_fraction=1)
    assert run.records == []
    assert len(run.rejects) == 3


@pytest.mark.parametrize("obstacle", ["file", "forbidden"])
def test_rejects_folder_that_cannot_be_written_stops_the_run(
    obstacle: str, exports: Exports, make_row: MakeRow, tmp_path: Path, start_tap: StartTap
) -> None:
    start, wait = start_tap
    folder = tmp_path / "rejects"
    before: list[str] = []
    if obstacle == "file":
        folder.write_text("in the way")
    else:
        folder.mkdir(mode=0o500)
        before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    run = wait(start(exports.csv(many_bad(make_row, 999, 1)), before=before, rejects_path=str(folder)))
    assert run.code == STORAGE_FAILED, run.log
    assert str(folder) in run.errors
    assert run.types == ["SCHEMA"]
    assert run.leftovers == []

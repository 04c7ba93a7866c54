"""An export that is cut off, with exit 0: its rows are sent, and what it lacks comes with the next complete one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tap_piano import export_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tap.conftest import Exports, MakeRow, Run, Tap

    Night = Callable[..., Path]

ROWS = 60
PART = "it looks cut off or filtered"
LACKED = "the last export lacked subscriptions"


def state_of(run: Run) -> dict[str, Any]:
    return dict(run.of_type("STATE")[-1]["value"])


def users(run: Run) -> list[int]:
    return sorted(int(record["subscription_id"][2:]) for record in run.records)


@pytest.fixture
def night(exports: Exports, make_row: MakeRow) -> Night:
    """Writes the export of a night: each night another tenth of the subscriptions has changed."""

    def write(number: int, only: range = range(ROWS), name: str = "log.csv") -> Path:
        rows = []
        for one in only:
            changed = max((n for n in range(1, number + 1) if one % 10 == n), default=0)
            hour = 20 if one < ROWS // 3 else 3  # the last change of a night is in the first third
            stamp = f"2025-01-{changed + 1:02} {hour:02}:00:00 +0000"
            rows.append(make_row(one, Term_name=f"{changed}", Modify_time=stamp))
        return exports.csv(rows, name=name)

    return write


def sent(*runs: Run) -> dict[int, str]:
    """Return what a target holds after some runs."""
    return {int(one["subscription_id"][2:]): one["term_name"] for run in runs for one in run.records}


def check_all_is_right(last_night: int, *runs: Run) -> None:
    """Each subscription has the value of the last night."""
    assert sent(*runs) == {one: str(one % 10) if 0 < one % 10 <= last_night else "0" for one in range(ROWS)}


def test_what_a_partial_export_lacked_comes_with_the_next_complete_one(night: Night, sync: Tap) -> None:
    first = sync(night(1))
    second = sync(night(2, range(ROWS // 3)), state=state_of(first))
    assert PART in second.log
    assert "holds 20 subscriptions, and the last complete one held 60" in second.log
    assert users(second)  # what it holds is sent
    assert second.bookmark == first.bookmark
    assert ("ended" in second.states[-1], second.states[-1]["handed_on"]) == (False, None)
    third = sync(night(3), state=state_of(second))
    assert (PART in third.log, "ended" in third.states[-1]) == (False, True)
    check_all_is_right(3, first, second, third)
    fourth = sync(night(4), state=state_of(third))
    assert len(fourth.records) < ROWS
    check_all_is_right(4, first, second, third, fourth)


def test_the_check_notices_a_bookmark_that_passes(night: Night, sync: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_size.ExportSize, "is_shrunken", lambda *_: False)
    monkeypatch.setattr(export_size.ExportSize, "has_more_than", lambda *_: False)
    first = sync(night(1))
    second = sync(night(2, range(ROWS // 3)), state=state_of(first))
    third = sync(night(3), state=state_of(second))
    with pytest.raises(AssertionError):
        check_all_is_right(3, first, second, third)


def test_what_a_first_export_lacked_comes_too(night: Night, sync: Tap) -> None:
    first = sync(night(1, range(ROWS // 3)))
    second = sync(night(2), state=state_of(first))
    assert LACKED in second.log
    check_all_is_right(2, first, second)
    third = sync(night(3), state=state_of(second))
    assert LACKED not in third.log
    check_all_is_right(3, first, second, third)


def test_what_start_date_leaves_out_stays_out(night: Night, sync: Tap) -> None:
    first = sync(night(1, range(ROWS // 3)), start_date="2025-01-02")
    second = sync(night(2), state=state_of(first), start_date="2025-01-02")
    assert LACKED in second.log
    assert users(second) == [one for one in range(ROWS) if one % 10 in {1, 2}]


def test_what_is_missing_within_the_limit_comes_too(night: Night, sync: Tap) -> None:
    first = sync(night(1))
    second = sync(night(2, range(ROWS - 4)), state=state_of(first))
    assert PART not in second.log
    third = sync(night(2), state=state_of(second))
    check_all_is_right(2, first, second, third)


def test_an_interrupted_run_that_sends_all_is_made_good(night: Night, sync: Tap) -> None:
    first = sync(night(1, range(ROWS // 3)))
    second = sync(night(2), state=state_of(first))
    middle = second.of_type("STATE")[-2]["value"]
    assert middle["bookmarks"]["subscription_log"]["export_size"]["rows"] == ROWS // 3
    again = sync(night(2), state=middle)
    assert users(again) == list(range(ROWS))


def test_a_log_that_is_smaller_from_now_on_goes_through_by_a_full_refresh(night: Night, sync: Tap) -> None:
    first = sync(night(1))
    small = range(ROWS // 2)
    second = sync(night(2, small), state=state_of(first))
    third = sync(night(3, small), state=state_of(second))
    assert PART in third.log
    fourth = sync(night(3, small))
    fifth = sync(night(4, small), state=state_of(fourth))
    assert PART not in fourth.log + fifth.log
    assert "ended" in fifth.states[-1]
    assert len(fifth.records) < len(small)


def test_the_setting_lets_a_smaller_log_through(night: Night, sync: Tap) -> None:
    first = sync(night(1))
    second = sync(night(2, range(20)), state=state_of(first), min_export_share=0.3)
    assert PART not in second.log
    assert second.bookmark != first.bookmark
    off = sync(night(2, range(10)), state=state_of(first), min_export_share=0)
    assert PART not in off.log


def test_exports_of_changes_alone_may_differ_in_size(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    state: dict[str, Any] = {}
    for day, rows in enumerate([100, 7, 60, 3], start=1):
        path = exports.csv([make_row(one, Modify_time=f"2025-01-{day:02} 03:00:00 +0000") for one in range(rows)])
        run = sync(path, state=state)
        assert (PART in run.log, "ended" in run.states[-1], len(run.records)) == (False, True, rows)
        state = state_of(run)


def test_a_night_on_which_everything_changes_is_no_loss(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    def write(day: int) -> Path:
        return exports.csv([make_row(one, Modify_time=f"2025-01-{day:02} 03:00:00 +0000") for one in range(9)])

    first = sync(write(1))
    second = sync(write(2), state=state_of(first))
    assert PART not in second.log
    assert LACKED not in second.log
    assert len(second.records) == 9


def test_in_a_folder_of_exports_the_newest_one_is_weighed(night: Night, sync: Tap, exports: Exports) -> None:
    night(1, name="log-1.csv")
    first = sync(exports.folder)
    assert PART not in first.log
    night(2, range(ROWS // 3), name="log-2.csv")
    second = sync(exports.folder, state=state_of(first))
    assert PART in second.log
    assert second.bookmark == first.bookmark
    night(3, name="log-3.csv")
    third = sync(exports.folder, state=state_of(second))
    assert (PART in third.log, "ended" in third.states[-1]) == (False, True)
    check_all_is_right(3, first, second, third)


def test_parts_of_one_export_and_changes_beside_a_complete_one_are_no_loss(
    night: Night, sync: Tap, exports: Exports, make_row: MakeRow
) -> None:
    night(1, range(ROWS // 2), name="part-1.csv")
    night(1, range(ROWS // 2, ROWS), name="part-2.csv")
    first = sync(exports.folder)
    assert len(first.records) == ROWS
    exports.csv([make_row(5, Modify_time="2025-01-09 03:00:00 +0000")], name="part-3.csv")
    second = sync(exports.folder, state=state_of(first))
    assert PART not in first.log + second.log
    assert second.bookmark == "2025-01-09T03:00:00+00:00"


@pytest.mark.parametrize("found", [None, 7, {}, {"rows": "x"}, {"rows": 9, "settled": 1}])
def test_a_state_that_does_not_tell_is_no_comparison(found: object, night: Night, sync: Tap) -> None:
    run = sync(night(1), state={"bookmarks": {"subscription_log": {"export_size": found}}})
    assert len(run.records) == ROWS
    assert run.states[-1]["export_size"]["rows"] == ROWS


def test_a_full_table_is_left_to_the_target(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    first = sync(exports.csv([make_row(one) for one in range(9)]))
    second = sync(exports.csv([make_row(one) for one in range(2)]), state=state_of(first))
    assert "ACTIVATE_VERSION" in second.types
    assert "export_size" not in second.states[-1]

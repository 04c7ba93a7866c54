"""Several files, folders, globs and ZIPs: one row a subscription, the newest."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tap.conftest import Exports, MakeRow, Run, Tap


def names_by_id(run: Run) -> dict[str, str]:
    assert len({record["subscription_id"] for record in run.records}) == len(run.records)
    return {record["subscription_id"][-1]: record["term_name"] for record in run.records}


def two_days(exports: Exports, make_row: MakeRow, **stamps: tuple[str, str]) -> Path:
    """Subscription 1 stands in both files, 2 and 3 in one each."""
    headers = {header.replace("_", " "): values for header, values in stamps.items()}
    for day in range(2):
        cells = {header: values[day] for header, values in headers.items()}
        rows = [{**make_row(1, Term_name=f"day {day}"), **cells}, {**make_row(2 + day, Term_name="only"), **cells}]
        exports.csv(rows, name=f"log-{day}.csv")
    return exports.folder


def test_later_name_wins_where_nothing_tells_the_age(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    assert names_by_id(sync(two_days(exports, make_row))) == {"1": "day 1", "2": "only", "3": "only"}


EARLY, LATE = "2025-05-01 10:00:00 +0200", "2025-05-02 10:00:00 +0200"


@pytest.mark.parametrize("header", ["Modify_time", "Last_billing_date", "Create_date", "Auto-renew_disablement_date"])
def test_newest_stamps_tell_the_newest_file_whatever_its_name(
    header: str, exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    assert names_by_id(sync(two_days(exports, make_row, **{header: (LATE, EARLY)})))["1"] == "day 0"
    assert names_by_id(sync(two_days(exports, make_row, **{header: (EARLY, LATE)})))["1"] == "day 1"


def test_files_of_one_age_go_by_name(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    assert names_by_id(sync(two_days(exports, make_row, Modify_time=(LATE, LATE))))["1"] == "day 1"


def test_stamps_in_the_future_do_not_make_a_file_new(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    folder = two_days(exports, make_row, Create_date=(EARLY, LATE), Next_billing_date=("2099-01-01", "2098-01-01"))
    assert names_by_id(sync(folder))["1"] == "day 1"


def test_modify_time_of_the_row_goes_before_the_age_of_the_file(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    exports.csv([make_row(1, Term_name="changed late", Modify_time=LATE)], name="a.csv")
    exports.csv(
        [make_row(1, Term_name="stale", Modify_time=EARLY), make_row(2, Modify_time="2025-06-01 00:00:00 +0000")],
        name="b.csv",
    )
    assert names_by_id(sync(exports.folder))["1"] == "changed late"


def test_row_with_a_modify_time_wins_over_one_without(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    exports.csv([make_row(1, Term_name="known", Modify_time=EARLY)], name="a.csv")
    exports.csv([make_row(1, Term_name="unknown", Modify_time="")], name="b.csv")
    assert names_by_id(sync(exports.folder))["1"] == "known"


def test_older_file_with_other_content_is_superseded_and_not_rejected(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    run = sync(two_days(exports, make_row))
    assert run.rejects == []
    assert "4 rows read from 2 file(s), 0 rejected, 1 superseded, 3 to send" in run.log


def test_files_may_have_different_columns(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    exports.csv([make_row(1, Term_name="a")], name="a.csv")
    exports.csv([make_row(2, Auto_renew="TRUE"), make_row(3, Auto_renew="no")], name="b.csv")
    run = sync(exports.folder)
    assert {(r["subscription_id"][-1], r["term_name"], r["auto_renew"]) for r in run.records} == {
        ("1", "a", None),
        ("2", None, True),
        ("3", None, False),
    }
    assert "lacks the column(s)" in run.log


def test_folder_is_read_for_csv_and_zip_only(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    exports.csv([make_row(1)], name="a.CSV")
    exports.bytes(b"not for us", name="notes.txt")
    exports.csv([make_row(2)], name="deeper/b.csv")
    assert [record["subscription_id"][-1] for record in sync(exports.folder).records] == ["1"]


@pytest.mark.parametrize(
    ("pattern", "found"), [("*.csv", "1"), ("**/*.csv", "12"), ("?.txt", "3"), ("deeper/b.csv", "2")]
)
def test_glob(pattern: str, found: str, exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    exports.csv([make_row(1)], name="a.csv")
    exports.csv([make_row(2)], name="deeper/b.csv")
    exports.csv([make_row(3)], name="c.txt")
    run = sync(f"{exports.folder}/{pattern}")
    assert "".join(sorted(record["subscription_id"][-1] for record in run.records)) == found


def test_path_that_looks_like_a_glob_but_is_a_file(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    assert len(sync(exports.csv([make_row(1)], name="log[1].csv")).records) == 1


def test_home_is_expanded(exports: Exports, make_row: MakeRow, sync: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    exports.csv([make_row(1)])
    monkeypatch.setenv("HOME", str(exports.folder))
    assert len(sync("~/log.csv").records) == 1


def test_path_with_quotes_and_blanks(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    assert len(sync(exports.csv([make_row(1)], name='it\'s "the" log, of today.csv')).records) == 1


def test_zip_with_several_csvs_beside_other_files(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    one = exports.csv([make_row(1)], name="1.csv")
    two = exports.csv([make_row(2)], name="2.csv")
    archive = exports.bytes(b"", name="export.bin")  # told by its content, not by its name
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(one, "a/log.csv")
        packed.write(two, "b/LOG.CSV")
        packed.writestr("readme.txt", "hello")
    run = sync(archive)
    assert {record["subscription_id"][-1] for record in run.records} == {"1", "2"}
    assert "2 rows read from 2 file(s)" in run.log
    assert run.leftovers == []


def test_member_that_would_climb_out_of_its_folder_does_not(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    inside = exports.csv([make_row(1)])
    archive = exports.bytes(b"", name="evil.zip")
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(inside, "../../../climbed.csv")
    run = sync(archive)
    assert len(run.records) == 1
    assert not list(exports.folder.parent.rglob("climbed.csv"))


def test_symbolic_link_to_an_export(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    target = exports.csv([make_row(1)], name="store/real.csv")
    link = exports.folder / "latest.csv"
    link.symlink_to(target)
    assert len(sync(exports.folder).records) == 1

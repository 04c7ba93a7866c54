"""INCREMENTAL on modify_time, FULL_TABLE without it; what STATE and ACTIVATE_VERSION say is true when they say it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tap_piano import emit, log_stream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tap.conftest import Exports, MakeRow, Run, Tap

START = datetime(2025, 3, 30, tzinfo=UTC)
ROWS = 60
SLICE = 7


def stamp(number: int) -> str:
    """Every third row changed with its neighbours, and the clock is changed on the way."""
    moment = START + timedelta(minutes=10 * (number // 3))
    zone = timedelta(hours=1 if moment < START + timedelta(hours=1) else 2)
    return (moment + zone).strftime("%Y-%m-%d %H:%M:%S ") + f"+0{zone.seconds // 3600}00"


def iso(moment: datetime) -> str:
    return moment.isoformat()


@pytest.fixture
def log(exports: Exports, make_row: MakeRow) -> Path:
    """An export with modify times, in no order; two rows do not tell when they changed."""
    rows = [make_row(number, Modify_time=stamp(number)) for number in range(ROWS)]
    rows[5]["Modify time"] = rows[50]["Modify time"] = ""
    rows.sort(key=lambda cells: cells["Subscription ID"][::-1])
    return exports.csv(rows)


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_stream, "RECORDS_PER_STATE", SLICE)


def state(bookmark: str | None) -> dict[str, Any]:
    value = {"replication_key": "modify_time", "replication_key_value": bookmark}
    return {"bookmarks": {"subscription_log": value if bookmark else {}}}


def ids(run: Run) -> list[int]:
    return [int(record["subscription_id"][2:]) for record in run.records]


# INCREMENTAL


def test_rows_leave_in_the_order_of_the_bookmark_blanks_first(log: Path, sync: Tap) -> None:
    run = sync(log)
    assert ids(run) == [5, 50, *(number for number in range(ROWS) if number not in {5, 50})]
    times = [record["modify_time"] for record in run.records[2:]]
    assert times == sorted(times)
    assert "ACTIVATE_VERSION" not in run.types
    assert all("version" not in message for message in run.of_type("RECORD"))


def test_schema_names_key_and_bookmark(log: Path, sync: Tap) -> None:
    (schema,) = sync(log, aid="APP").of_type("SCHEMA")
    assert schema["key_properties"] == ["aid", "subscription_id"]
    assert schema["bookmark_properties"] == ["modify_time"]


def test_bookmark_ends_at_the_newest_row(log: Path, sync: Tap) -> None:
    assert sync(log).bookmark == iso(START + timedelta(minutes=190))


def test_bookmark_is_inclusive_and_rows_that_do_not_tell_always_leave(log: Path, sync: Tap) -> None:
    run = sync(log, state=state(iso(START + timedelta(minutes=180))), lookback=0)
    assert ids(run) == [5, 50, 54, 55, 56, 57, 58, 59]


@pytest.mark.parametrize(("minutes", "first"), [(0, 57), (9, 57), (10, 54), (60, 39), (100_000, 0)])
def test_lookback_reads_again_what_changed_before_the_bookmark(minutes: int, first: int, log: Path, sync: Tap) -> None:
    run = sync(log, state=state(iso(START + timedelta(minutes=190))), lookback=minutes)
    assert ids(run) == [5, 50, *(number for number in range(first, ROWS) if number not in {5, 50})]


@pytest.mark.parametrize("bookmark", ["2025-03-30T03:00:00Z", "2025-03-30T05:00:00+02:00", "2025-03-30T03:00:00"])
def test_bookmark_may_be_written_in_other_ways(bookmark: str, log: Path, sync: Tap) -> None:
    run = sync(log, state=state(bookmark), lookback=0)
    assert ids(run) == [5, 50, 54, 55, 56, 57, 58, 59]
    assert run.bookmark == iso(START + timedelta(minutes=190))


def test_nothing_new_leaves_the_bookmark_where_it_was(log: Path, sync: Tap) -> None:
    later = iso(START + timedelta(days=9))
    run = sync(log, state=state(later), lookback=0)
    assert ids(run) == [5, 50]
    assert run.bookmark == later


def test_only_rows_that_do_not_tell_leave_no_bookmark(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    run = sync(exports.csv([make_row(number, Modify_time="") for number in range(3)]))
    assert len(run.records) == 3
    assert run.bookmark is None


AHEAD = "2999-01-01 00:00:00 +0000"


@pytest.mark.parametrize("slow", [False, True])
def test_a_stamp_in_the_future_does_not_move_the_bookmark_past_a_change_that_comes_later(
    exports: Exports, make_row: MakeRow, sync: Tap, *, slow: bool
) -> None:
    settings: dict[str, Any] = {"stream_maps": {"subscription_log": {"term_name": "term_name"}}} if slow else {}
    path = exports.csv([make_row(1, Term_name="Monthly", Modify_time=stamp(0)), make_row(2, Modify_time=AHEAD)])
    first = sync(path, **settings)
    assert first.bookmark == iso(START)
    assert ids(first) == [1, 2]
    exports.csv([make_row(1, Term_name="Yearly", Modify_time=stamp(3)), make_row(2, Modify_time=AHEAD)])
    second = sync(path, state=first.of_type("STATE")[-1]["value"], lookback=0, **settings)
    assert second.records[0]["term_name"] == "Yearly"
    assert second.bookmark == iso(START + timedelta(minutes=10))


def test_only_stamps_in_the_future_leave_no_bookmark(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    assert sync(exports.csv([make_row(1, Modify_time=AHEAD)])).bookmark is None


def test_a_clock_that_is_a_little_ahead_of_ours_moves_the_bookmark_to_now(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    ahead = datetime.now(tz=UTC) + log_stream.CLOCK_SLACK - timedelta(minutes=1)
    run = sync(exports.csv([make_row(1, Modify_time=ahead.strftime("%Y-%m-%d %H:%M:%S +0000"))]))
    assert run.bookmark is not None
    assert datetime.now(tz=UTC) - timedelta(minutes=1) < datetime.fromisoformat(run.bookmark) <= datetime.now(tz=UTC)


def with_bad_row(exports: Exports, make_row: MakeRow, **cells: str) -> Path:
    rows = [make_row(number, Modify_time=stamp(number), Days_subscribed="1") for number in range(ROWS)]
    rows[30].update({header.replace("_", " "): cell for header, cell in cells.items()})
    return exports.csv(rows)


def test_bookmark_does_not_pass_a_rejected_row(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    run = sync(with_bad_row(exports, make_row, Days_subscribed="x"), max_reject_fraction=1)
    assert len(run.records) == ROWS - 1
    assert run.bookmark == iso(START + timedelta(minutes=100))


@pytest.mark.parametrize("cell", ["", "soon"])
def test_bookmark_stays_when_a_rejected_row_does_not_tell_when_it_changed(
    cell: str, exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    bad = with_bad_row(exports, make_row, Days_subscribed="x", Modify_time=cell)
    assert sync(bad, max_reject_fraction=1).bookmark is None
    kept = iso(START)
    assert sync(bad, max_reject_fraction=1, state=state(kept)).bookmark == kept


def test_bookmark_stays_when_a_row_is_malformed(log: Path, exports: Exports, sync: Tap) -> None:
    malformed = exports.bytes(log.read_bytes().replace(b"\n", b"\nRC1,u1,2025-03-30 02:00:00 +0100,x\n", 1))
    assert sync(malformed, max_reject_fraction=1).bookmark is None


def test_files_that_do_not_all_have_modify_time_are_a_full_table(
    log: Path, exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    exports.csv([make_row(1000)], name="b.csv")
    run = sync(log.parent)
    assert run.types[-2:] == ["ACTIVATE_VERSION", "STATE"]
    assert len(run.records) == ROWS + 1


# STATE is never ahead


def check_state_is_never_ahead(run: Run, everything: Run) -> None:
    """At each STATE, all rows that changed before its bookmark have left."""
    sent: set[str] = set()
    bookmarks = 0
    for message in run.messages:
        if message["type"] == "RECORD":
            sent.add(message["record"]["subscription_id"])
        elif message["type"] == "STATE":
            bookmark = message["value"]["bookmarks"].get("subscription_log", {}).get("replication_key_value")
            bookmarks += bookmark is not None
            due = {
                record["subscription_id"]
                for record in everything.records
                if bookmark and (record["modify_time"] or "") < bookmark
            }
            assert due <= sent
    assert bookmarks > ROWS // SLICE - 2


@pytest.mark.usefixtures("small_slices")
def test_state_is_never_ahead_of_the_records(log: Path, sync: Tap) -> None:
    run = sync(log)
    check_state_is_never_ahead(run, run)


@pytest.mark.usefixtures("small_slices")
def test_state_test_notices_a_tap_that_runs_ahead(log: Path, sync: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = iso(START + timedelta(minutes=190))
    monkeypatch.setattr(emit.OrderedRows, "_bookmark", lambda *_: newest)
    run = sync(log)
    with pytest.raises(AssertionError):
        check_state_is_never_ahead(run, run)


@pytest.mark.usefixtures("small_slices")
def test_interrupted_run_resumes_without_loss(log: Path, sync: Tap) -> None:
    run = sync(log)
    lines = run.out.splitlines()
    cuts = [number for number, line in enumerate(lines) if b'"STATE"' in line]
    assert len(cuts) >= ROWS // SLICE
    for cut in cuts[::3]:
        before = {json.loads(line)["record"]["subscription_id"] for line in lines[:cut] if b'"RECORD"' in line}
        after = sync(log, state=json.loads(lines[cut])["value"], lookback=0)
        assert before | {record["subscription_id"] for record in after.records} == {
            record["subscription_id"] for record in run.records
        }
        assert after.bookmark == run.bookmark


# FULL_TABLE


def test_full_table_has_one_version_and_activates_it_after_the_last_row(sample: Path, sync: Tap) -> None:
    run = sync(sample)
    assert run.types[0] == "SCHEMA"
    assert run.types[-2:] == ["ACTIVATE_VERSION", "STATE"]
    assert run.types.count("ACTIVATE_VERSION") == 1
    (activation,) = run.of_type("ACTIVATE_VERSION")
    assert {message["version"] for message in run.of_type("RECORD")} == {activation["version"]}
    assert len(run.records) == 2000
    assert run.bookmark is None


def test_version_grows_from_run_to_run(sample: Path, sync: Tap) -> None:
    first, second = (sync(sample).of_type("ACTIVATE_VERSION")[0]["version"] for _ in range(2))
    assert second > first


def test_rejected_rows_forbid_to_say_that_the_log_is_complete(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    rows = [make_row(number, Days_subscribed="1" if number else "x") for number in range(3)]
    run = sync(exports.csv(rows), max_reject_fraction=0.5)
    assert len(run.records) == 2
    assert "ACTIVATE_VERSION" not in run.types
    assert all("version" not in message for message in run.of_type("RECORD"))
    assert "no ACTIVATE_VERSION is sent" in run.log


def test_rejected_duplicates_do_not_make_the_log_incomplete(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    rows = [make_row(0, Days_subscribed="1"), make_row(1), make_row(0, Days_subscribed="2")]
    run = sync(exports.csv(rows), max_reject_fraction=0.5)
    assert "1 of 3 rows rejected" in run.log
    assert len(run.records) == 2
    assert run.types[-2:] == ["ACTIVATE_VERSION", "STATE"]


def test_catalog_may_ask_for_a_full_table_although_there_is_a_modify_time(log: Path, sync: Tap) -> None:
    catalog = streams_catalog(log)
    catalog["streams"][0].update(replication_method="FULL_TABLE", replication_key=None)
    run = sync(log, catalog=catalog, state=state(iso(START + timedelta(days=9))))
    assert len(run.records) == ROWS
    assert run.types[-2:] == ["ACTIVATE_VERSION", "STATE"]


def streams_catalog(export: Path) -> dict[str, Any]:
    from tap_piano.tap import TapPiano  # noqa: PLC0415 - only here

    catalog: dict[str, Any] = TapPiano(config={"export_path": str(export)}).catalog_dict
    return catalog

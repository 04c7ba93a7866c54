"""An export that was handed on before is not read again; what it holds decides, and what would be made of it."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import InputRefused
from tap_piano import handed_on, log_stream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tap.conftest import Exports, MakeRow, Run, Tap

QUIET = {"SCHEMA", "STATE"}


def last_state(run: Run) -> dict[str, Any]:
    return dict(run.of_type("STATE")[-1]["value"])


def claim(run: Run) -> Any:  # noqa: ANN401 - JSON
    return run.states[-1].get("handed_on")


def day(make_row: MakeRow, number: int, count: int = 3) -> list[dict[str, str]]:
    return [make_row(n, Modify_time=f"2025-01-0{number} 00:00:0{n} +0000", Term_name="A") for n in range(count)]


def skipped(run: Run) -> bool:
    assert ("is the one that was read before" in run.log) == (set(run.types) == QUIET)
    return set(run.types) == QUIET


@pytest.fixture
def export(exports: Exports, make_row: MakeRow) -> Path:
    return exports.csv(day(make_row, 1))


@pytest.mark.parametrize("form", ["RECORD", "BATCH"])
@pytest.mark.parametrize("method", ["INCREMENTAL", "FULL_TABLE"])
def test_what_was_handed_on_is_not_read_again(
    method: str, form: str, exports: Exports, make_row: MakeRow, tmp_path: Path, sync: Tap
) -> None:
    rows = day(make_row, 1) if method == "INCREMENTAL" else [make_row(1), make_row(2)]
    storage = {"encoding": {"format": "parquet"}, "storage": {"root": f"file://{tmp_path}/batches"}}
    path, settings = exports.csv(rows), {"batch_config": storage} if form == "BATCH" else {}
    first = sync(path, **settings)
    second = sync(path, state=last_state(first), **settings)
    third = sync(path, state=last_state(second), **settings)
    assert [skipped(run) for run in (first, second, third)] == [False, True, True]
    assert len(first.records) + len(first.batch_rows) == len(rows)
    assert third.states[-1] | {"ended": ""} == second.states[-1] | {"ended": ""}
    assert second.bookmark == first.bookmark
    signature = claim(first)["signature"]
    assert claim(first) == {"signature": signature, "after": None, "all": True}
    assert claim(second) == {"signature": signature, "after": signature, "all": False}


def test_name_and_time_of_a_file_mean_nothing(export: Path, sync: Tap) -> None:
    state = last_state(sync(export))
    os.utime(export, ns=(1, 1))
    moved = export.with_name("tonight.csv")
    shutil.move(export, moved)
    assert skipped(sync(moved, state=state))
    assert skipped(sync(moved.parent, state=state))


def test_a_file_that_is_overwritten_with_another_of_its_size_and_time_is_read(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    path = exports.csv(day(make_row, 1))
    before, state = path.stat(), last_state(sync(path))
    path.write_text(path.read_text().replace(",A\n", ",B\n"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    run = sync(path, state=state)
    assert {record["term_name"] for record in run.records} == {"B"}
    assert claim(run)["after"] == state["bookmarks"]["subscription_log"]["handed_on"]["signature"]


def test_a_double_that_looks_at_size_and_time_would_be_found(
    exports: Exports, make_row: MakeRow, sync: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "signature", lambda exports, **_: str([export.stamp[:2] for export in exports]))
    with pytest.raises(AssertionError, match="B"):
        test_a_file_that_is_overwritten_with_another_of_its_size_and_time_is_read(exports, make_row, sync)


def test_a_new_file_beside_the_old_one_has_both_read(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    old = exports.csv(day(make_row, 1), name="1.csv")
    state = last_state(sync(old.parent))
    exports.csv([*day(make_row, 2, 1), make_row(9, Modify_time="2024-12-31 00:00:00 +0000")], name="2.csv")
    run = sync(old.parent, state=state, start_date="2024-01-01")
    assert [record["subscription_id"][-1] for record in run.records] == ["9", "1", "2", "0"]  # 9 was in no export yet
    assert skipped(sync(old.parent, state=last_state(run), start_date="2024-01-01"))


def test_files_that_change_places_are_read_for_the_later_name_wins(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    one, two = (
        exports.csv([make_row(1, Term_name="A")], name="1.csv"),
        exports.csv([make_row(1, Term_name="B")], name="2.csv"),
    )
    state = last_state(sync(one.parent))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    assert [record["term_name"] for record in sync(one.parent, state=state).records] == ["A"]


def test_a_zip_is_known_again(export: Path, sync: Tap) -> None:
    packed = export.with_name("log.zip")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(export, "a.csv")
    state = last_state(sync(packed))
    assert skipped(sync(packed, state=state))
    assert not skipped(sync(export, state=state))


CHANGED: dict[str, dict[str, Any]] = {
    "columns": {"columns": "subscription_id,user_id,term_name"},
    "time zone": {"timezone": "Europe/Amsterdam"},
    "application": {"aid": "another"},
    "lookback": {"lookback": 5},
    "stream map": {"stream_maps": {"subscription_log": {"term_name": "term_name"}}},
}


@pytest.mark.parametrize("settings", CHANGED.values(), ids=list(CHANGED))
def test_other_settings_have_it_read_again(settings: dict[str, Any], export: Path, sync: Tap) -> None:
    state = last_state(sync(export))
    run = sync(export, state=state, **settings)
    assert not skipped(run)
    assert skipped(sync(export, state=last_state(run), **settings))


def test_another_selection_has_it_read_again(export: Path, sync: Tap) -> None:
    first = sync(export)
    from tap_piano.tap import TapPiano  # noqa: PLC0415

    catalog = json.loads(TapPiano(config={"export_path": str(export)}).catalog_json_text)
    for entry in catalog["streams"][0]["metadata"]:
        if entry["breadcrumb"] == ["properties", "term_name"]:
            entry["metadata"]["selected"] = False
    run = sync(export, state=last_state(first), catalog=catalog)
    assert not skipped(run)
    assert all("term_name" not in record for record in run.records)


@pytest.mark.parametrize("name", ["memory_limit", "rejects_path", "requests_per_second"])
def test_settings_that_change_no_row_do_not(name: str, export: Path, tmp_path: Path, sync: Tap) -> None:
    other = {"memory_limit": "400MB", "rejects_path": str(tmp_path / "elsewhere"), "requests_per_second": 1}
    assert skipped(sync(export, state=last_state(sync(export)), **{name: other[name]}))


def test_of_one_file_the_two_ways_of_reading_differ_in_the_first_part_of_their_signatures_only(
    export: Path, tap: Tap, sync: Tap
) -> None:
    catalog = json.loads(tap(export, "--discover").out)
    log = claim(sync(export))["signature"].split("-")
    catalog["streams"][0].update(replication_method="FULL_TABLE", replication_key=None)
    snapshot = claim(sync(export, catalog=catalog))["signature"].split("-")
    assert (len(log), log[0] == snapshot[0], log[1] == snapshot[1]) == (2, False, True)


def test_no_state_has_all_read(export: Path, sync: Tap) -> None:
    sync(export)
    assert len(sync(export).records) == 3


def test_nothing_is_skipped_when_the_setting_says_so(export: Path, sync: Tap) -> None:
    first = sync(export)
    again = sync(export, state=last_state(first), unchanged_files="read")
    assert len(again.records) == 3
    assert claim(again) is None
    assert not skipped(sync(export, state=last_state(again)))


def test_rejected_rows_are_looked_at_in_every_run(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    path = exports.csv([*day(make_row, 1), make_row(9, Total_charged="much")])
    first = sync(path, max_reject_fraction=0.5)
    assert claim(first) is None
    assert not skipped(sync(path, state=last_state(first), max_reject_fraction=0.5))


def test_what_follows_a_bookmark_is_not_all_also_where_nobody_can_name_what_was_handed_on(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    path = exports.csv([*day(make_row, 2), make_row(9, Total_charged="much", Modify_time="2025-01-03 00:00:00 +0000")])
    first = sync(path, max_reject_fraction=0.5)
    assert (claim(first), first.bookmark is None) == (None, False)
    exports.csv(day(make_row, 4))
    then = claim(sync(path, state=last_state(first)))
    assert (then["after"], then["all"]) == (None, False)


def test_nothing_is_claimed_before_the_last_row(
    exports: Exports, make_row: MakeRow, sync: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "RECORDS_PER_STATE", 1)
    path = exports.csv(day(make_row, 1))
    first = sync(path)
    exports.csv(day(make_row, 2))
    second = sync(path, state=last_state(first))
    old, new = claim(first)["signature"], claim(second)["signature"]
    assert [state.get("handed_on") for state in second.states] == [
        {"signature": old, "after": old, "all": False}, None, None, None,
        {"signature": new, "after": old, "all": False},
    ]  # fmt: skip


def test_an_export_that_is_refused_claims_nothing_new(exports: Exports, make_row: MakeRow, tap: Tap) -> None:
    path = exports.csv(day(make_row, 1))
    first = tap(path)
    path.write_text(path.read_text() + "cut")
    refused = tap(path, state=last_state(first))
    assert refused.code == InputRefused.exit_code
    signature = claim(first)["signature"]
    assert claim(refused) == {"signature": signature, "after": signature, "all": False}


def test_a_signature_has_no_secret_in_it() -> None:
    assert {"api_token", "export_path", "unchanged_files"} <= handed_on.HARMLESS

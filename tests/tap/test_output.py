"""RECORD and BATCH carry the same rows; what wants each record gets it through the SDK's own path."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tap_piano import log_stream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tap.conftest import Exports, MakeRow, Run, Tap

ENCODINGS: dict[str, dict[str, str]] = {
    "parquet": {"format": "parquet"},
    "jsonl": {"format": "jsonl", "compression": "none"},
    "jsonl.gz": {"format": "jsonl", "compression": "gzip"},
}
AWKWARD = ['quotes "x"', "back\\slash", "line\nbreak\r\n", "tab\t", "\x01\x1f\x7f", "😀 é \u2028", "'", "null", ","]


def as_set(rows: list[dict[str, Any]]) -> set[str]:
    return {json.dumps(row, sort_keys=True) for row in rows}


def batch_config(folder: Path, encoding: dict[str, str], size: int = 10_000) -> dict[str, Any]:
    return {"encoding": encoding, "storage": {"root": f"file://{folder}"}, "batch_size": size}


@pytest.fixture
def awkward(exports: Exports, make_row: MakeRow) -> Path:
    """Values of all types, blanks, and text that needs care; INCREMENTAL."""
    rows = [
        make_row(
            number,
            Term_name=text,
            Auto_renew=("TRUE", "FALSE", "")[number % 3],
            Total_charged=("-1,234.5000", "", "0")[number % 3],
            Days_subscribed=("84", "", "-1")[number % 3],
            Modify_time=("2025-03-30 01:59:59 +0100", "", "2025-03-30T01:00:00.123456Z")[number % 3],
            Start_date=("12/31/1999 11:59 PM", "", "2024-02-29 00:00:00 -0500")[number % 3],
        )
        for number, text in enumerate(AWKWARD)
    ]
    return exports.csv(rows)


def test_awkward_values_arrive_as_they_are(awkward: Path, sync: Tap) -> None:
    records = {record["subscription_id"]: record for record in sync(awkward).records}
    assert [record["term_name"] for _, record in sorted(records.items())] == AWKWARD
    first, second, third = (records[f"RC{number:010}"] for number in range(3))
    assert (first["auto_renew"], first["total_charged"], first["days_subscribed"]) == (True, -1234.5, 84)
    assert first["modify_time"] == "2025-03-30T00:59:59+00:00"
    assert third["modify_time"] == "2025-03-30T01:00:00.123456+00:00"
    assert first["start_date"] == "1999-12-31T23:59:00+00:00"
    assert third["start_date"] == "2024-02-29T05:00:00+00:00"
    assert {second[name] for name in ("auto_renew", "total_charged", "days_subscribed", "modify_time")} == {None} | (
        {False} - {second["auto_renew"]} if second["auto_renew"] else {False}
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [3, 10_000])
def test_batches_carry_the_same_rows_as_records(
    encoding: str, size: int, awkward: Path, tmp_path: Path, sync: Tap
) -> None:
    records = sync(awkward, aid="it's", columns="all")
    batches = sync(
        awkward, aid="it's", columns="all", batch_config=batch_config(tmp_path / "b", ENCODINGS[encoding], size)
    )
    assert "RECORD" not in batches.types
    assert len(batches.of_type("BATCH")) == (3 if size == 3 else 1)
    assert comparable(batches.batch_rows) == comparable(records.records)
    assert [row["subscription_id"] for row in batches.batch_rows] == [r["subscription_id"] for r in records.records]
    assert batches.bookmark == records.bookmark


def comparable(rows: list[dict[str, Any]]) -> set[str]:
    """As sets; Parquet is read back to whole seconds."""
    stamps = ("_time", "_date")
    return as_set(
        [
            {name: value[:19] if value and name.endswith(stamps) else value for name, value in row.items()}
            for row in rows
        ]
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_full_table_in_batches(encoding: str, sample: Path, tmp_path: Path, sync: Tap) -> None:
    records = sync(sample)
    run = sync(sample, batch_config=batch_config(tmp_path / "b", ENCODINGS[encoding], 700))
    assert as_set(run.batch_rows) == as_set(records.records)
    assert run.types == ["SCHEMA", "BATCH", "BATCH", "BATCH", "ACTIVATE_VERSION", "STATE"]
    assert {message["version"] for message in run.of_type("BATCH")} == {run.of_type("ACTIVATE_VERSION")[0]["version"]}
    assert run.of_type("SCHEMA")[0]["schema"] == records.of_type("SCHEMA")[0]["schema"]
    files = {path.as_uri() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert files == {uri for message in run.of_type("BATCH") for uri in message["manifest"]}


def test_state_follows_each_batch(awkward: Path, tmp_path: Path, sync: Tap) -> None:
    run = sync(awkward, batch_config=batch_config(tmp_path / "b", ENCODINGS["parquet"], 3))
    assert run.types[:7] == ["SCHEMA", "BATCH", "STATE", "BATCH", "STATE", "BATCH", "STATE"]
    bookmarks = [state.get("replication_key_value") for state in run.states]
    assert bookmarks[0] is None  # the first batch holds the rows that do not tell
    assert bookmarks[1] == "2025-03-30T00:59:59+00:00"
    assert bookmarks[2] == "2025-03-30T01:00:00.123456+00:00"


def test_batch_folder_may_be_a_plain_path(sample: Path, tmp_path: Path, sync: Tap) -> None:
    config = {**batch_config(tmp_path, ENCODINGS["parquet"]), "storage": {"root": str(tmp_path / "it's here")}}
    assert len(sync(sample, batch_config=config).batch_rows) == 2000


# The slower path


SLOWER: dict[str, dict[str, Any]] = {
    "stream map": {"stream_maps": {"subscription_log": {"subscription_id": "subscription_id"}}},
    "flattening": {"flattening_enabled": True, "flattening_max_depth": 1},
}
SAID = "the slower path"


@pytest.mark.parametrize("case", SLOWER)
@pytest.mark.parametrize("asked_for", ["records", "batches"])
def test_slower_path_sends_the_same(
    case: str, asked_for: str, awkward: Path, sample: Path, tmp_path: Path, sync: Tap
) -> None:
    extra = {"batch_config": batch_config(tmp_path / "b", ENCODINGS["parquet"])} if asked_for == "batches" else {}
    for export in (awkward, sample):
        fast = sync(export)
        slow = sync(export, **SLOWER[case], **extra)
        assert fast.log.count(SAID) == 0
        assert slow.log.count(SAID) == 1
        assert as_set(slow.records) == as_set(fast.records)
        assert slow.bookmark == fast.bookmark
        assert slow.types.count("ACTIVATE_VERSION") == fast.types.count("ACTIVATE_VERSION")
        assert slow.types[-1] == fast.types[-1] == "STATE"
        if "ACTIVATE_VERSION" in slow.types:
            assert slow.types[-2] == "ACTIVATE_VERSION"
            versions = {message["version"] for message in slow.of_type("RECORD")}
            assert versions == {slow.of_type("ACTIVATE_VERSION")[0]["version"]}
        assert slow.leftovers == []


def test_stream_map_does_its_work(sample: Path, sync: Tap) -> None:
    maps = {"subscription_log": {"user_id": "md5(user_id)", "__filter__": "subscription_status == 'Active'"}}
    run = sync(sample, stream_maps=maps)
    plain = sync(sample)
    active = [record for record in plain.records if record["subscription_status"] == "Active"]
    assert len(run.records) == len(active)
    assert all(len(record["user_id"]) == 32 for record in run.records)


def test_folder_elsewhere_is_left_to_the_sdk(sample: Path, tmp_path: Path, sync: Tap) -> None:
    config = {"encoding": {"format": "jsonl", "compression": "none"}, "storage": {"root": f"local://{tmp_path}/far"}}
    run = sync(sample, batch_config=config)
    assert run.log.count(SAID) == 1
    assert run.types.count("BATCH") >= 1
    assert all("/far/" in uri for message in run.of_type("BATCH") for uri in message["manifest"])


def test_slices_come_in_order_and_leave_nothing(sample: Path, sync: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sync(sample)
    monkeypatch.setattr(log_stream, "RECORDS_PER_STATE", 33)
    sliced = sync(sample)
    assert sliced.records == whole.records
    assert sliced.leftovers == []


def test_stamps_are_utc_wherever_the_machine_stands(awkward: Path, tap: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Run] = []
    for zone in ("UTC", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        runs.append(tap(awkward, columns="all"))
    assert runs[0].records == runs[1].records
    assert runs[0].bookmark == runs[1].bookmark

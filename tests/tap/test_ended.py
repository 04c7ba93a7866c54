"""The last STATE tells of each stream whether it ended well, and no STATE before that does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import InputRefused, Outage
from tap_piano import base, log_stream
from tap_piano.streams import API_STREAMS
from tap_piano.tap import TapPiano

from tests.tap.test_output import batch_config

if TYPE_CHECKING:
    from pathlib import Path

    from piano_engage_sandbox.server import Server

    from tests.tap.conftest import Exports, MakeRow, Run, Tap

LONG_AGO = "2020-01-01T00:00:00+00:00"
WAYS: dict[str, dict[str, Any]] = {
    "records": {},
    "slow path": {"stream_maps": {"subscription_log": {"term_name": "term_name"}}},
}


@pytest.fixture
def export(exports: Exports, make_row: MakeRow) -> Path:
    """An export without modify times."""
    return exports.csv([make_row(number) for number in range(5)])


def ended(run: Run) -> list[dict[str, str]]:
    """List, of each STATE, which streams ended well, and when."""
    return [
        {stream: bookmark["ended"] for stream, bookmark in message["value"]["bookmarks"].items() if "ended" in bookmark}
        for message in run.of_type("STATE")
    ]


def check_only_the_last_tells(run: Run, stream: str = "subscription_log") -> None:
    """Only the last STATE of the stream, behind its last row, has a moment, and it is in UTC and now."""
    *before, last = ended(run)
    assert all(stream not in one for one in before)
    assert run.types[-1] == "STATE"
    moment = datetime.fromisoformat(last[stream])
    assert moment.utcoffset() == timedelta(0)
    assert abs(datetime.now(tz=UTC) - moment) < timedelta(minutes=10)


@pytest.mark.parametrize("modified", [False, True], ids=["full table", "incremental"])
@pytest.mark.parametrize("way", [*WAYS, "batch"])
def test_a_stream_that_ended_says_so_at_its_end(
    way: str,
    exports: Exports,
    make_row: MakeRow,
    sync: Tap,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    modified: bool,
) -> None:
    monkeypatch.setattr(log_stream, "RECORDS_PER_STATE", 2)
    cells = {"Modify_time": "2025-01-01 00:00:00 +0000"} if modified else {}
    path = exports.csv([make_row(number, Term_name="Monthly", **cells) for number in range(5)])
    settings = WAYS.get(way) or {}
    if way == "batch":
        settings = {"batch_config": batch_config(tmp_path / "batches", {"format": "parquet"}, size=2)}
    old = {"bookmarks": {"subscription_log": {"ended": LONG_AGO}, "terms": {"ended": LONG_AGO}}}
    run = sync(path, state=old, **settings)
    check_only_the_last_tells(run)
    assert all("terms" not in one for one in ended(run))


def test_a_stream_with_nothing_new_ended_well_too(export: Path, sync: Tap) -> None:
    first = sync(export)
    again = sync(export, state=first.of_type("STATE")[-1]["value"])
    assert not again.records
    assert len(ended(again)) > 1
    check_only_the_last_tells(again)


def test_the_check_notices_a_tap_that_says_so_too_early(
    export: Path, sync: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TapPiano, "_reset_state_progress_markers", lambda _: None)
    run = sync(export, state={"bookmarks": {"subscription_log": {"ended": LONG_AGO}}})
    with pytest.raises(AssertionError):
        check_only_the_last_tells(run)


@pytest.mark.parametrize("spoil", [b"RC1,u1,x,x", b'RC9,"u9'], ids=["refused rows", "cut off"])
def test_a_run_that_is_refused_does_not(spoil: bytes, export: Path, tap: Tap) -> None:
    first = tap(export)
    assert ended(first)[-1]
    export.write_bytes(export.read_bytes() + spoil)
    refused = tap(export, state=first.of_type("STATE")[-1]["value"])
    assert refused.code == InputRefused.exit_code
    assert refused.of_type("STATE")
    assert not any(ended(refused))


def test_rows_that_are_rejected_within_the_limit_are_accounted_for(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    check_only_the_last_tells(
        sync(exports.csv([make_row(1), make_row(2, Total_charged="much")]), max_reject_fraction=0.5)
    )


def test_all_streams_say_so(settings: dict[str, Any], sync: Tap) -> None:
    names = {"subscription_log", *(stream.name for stream in API_STREAMS)}
    first = sync(None, **settings)
    assert ended(first)[-1].keys() == names
    again = sync(None, state=first.of_type("STATE")[-1]["value"], **settings)
    assert ended(again)[0] == {}
    assert ended(again)[-1].keys() == names


def test_a_stream_that_piano_let_down_and_those_behind_it_do_not(
    piano: Server, settings: dict[str, Any], tap: Tap
) -> None:
    piano.control("POST", "faults", {"part": "publisher", "path": "*/promotion/code/list", "status": 503, "times": 99})
    run = tap(None, **{**settings, "retry_attempts": 2})
    assert run.code == Outage.exit_code
    schemas = [message["stream"] for message in run.of_type("SCHEMA")]
    assert ended(run)[-1].keys() == set(schemas) - {"promo_codes"}
    assert {"promo_codes"} < set(schemas) < {"subscription_log", *(stream.name for stream in API_STREAMS)}


def test_the_name_is_the_one_that_targets_read() -> None:
    assert base.ENDED == "ended"

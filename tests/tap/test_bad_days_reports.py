"""Bad days of the Reports API: jobs that never finish, fail or vanish; links that die; downloads that break."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import AccessRefused, Outage

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.server import Server

    from tests.tap.conftest import Run, Tap

    Select = Callable[..., dict[str, Any]]

ROWS = 200
FILES = "/rest/export/files/*"


def ids(run: Run) -> list[str]:
    return sorted(record["subscription_id"] for record in run.records)


def script(server: Server, *words: str, **more: str) -> None:
    server.control("POST", "reports", {"script": list(words), **more})


def fault(server: Server, **members: Any) -> None:  # noqa: ANN401 - JSON
    server.control("POST", "faults", {"part": "reports", **members})


def asked(server: Server, part: str) -> list[dict[str, Any]]:
    return [one for one in server.control("GET", "requests") if part in one["path"]]


@pytest.fixture
def log_only(select: Select) -> dict[str, Any]:
    return select("subscription_log")


@pytest.mark.parametrize(
    "words",
    [
        ("CREATED", "IN_PROGRESS", "REPROCESS", "FINISHED"),
        ("QUEUED", "RUNNING", "A_WORD_OF_TOMORROW", "FINISHED"),
        ("INTERNAL_ERROR",),
        ("CREATED", "IN_PROGRESS", "INTERNAL_ERROR"),
        ("FAILED",),
        ("IN_PROGRESS", "REMOVED"),
    ],
    ids="-".join,
)
def test_a_job_that_comes_to_an_end_or_can_be_had_anew_brings_all_rows(
    words: tuple[str, ...], piano: Server, settings: dict[str, Any], sync: Tap, log_only: dict[str, Any]
) -> None:
    script(piano, *words)
    run = sync(None, catalog=log_only, **settings)
    assert len(ids(run)) == ROWS
    assert [path for path in run.leftovers if "tap-piano" in str(path)] == []


def test_an_unknown_status_is_warned_about_once(
    piano: Server, settings: dict[str, Any], sync: Tap, log_only: dict[str, Any]
) -> None:
    script(piano, "A_WORD_OF_TOMORROW", "A_WORD_OF_TOMORROW", "A_WORD_OF_TOMORROW", "FINISHED")
    run = sync(None, catalog=log_only, **settings)
    assert run.log.count("unknown status 'A_WORD_OF_TOMORROW'") == 1
    assert len(ids(run)) == ROWS


def test_a_job_that_never_finishes_ends_the_run_as_an_outage(piano: Server, settings: dict[str, Any], tap: Tap) -> None:
    piano.control("POST", "switches", {"reports.running_for": 1e9})
    run = tap(None, **settings, export_wait=0.3)
    assert run.code == Outage.exit_code
    assert "did not finish within 0.3 s (export_wait); Piano says IN_PROGRESS" in run.errors
    assert "Traceback" not in run.log
    assert [m for m in run.of_type("RECORD") if m["stream"] == "subscription_log"] == []
    assert run.leftovers == []


def test_a_duplicate_that_never_says_finished_is_had_all_the_same(
    piano: Server, settings: dict[str, Any], sync: Tap, log_only: dict[str, Any]
) -> None:
    piano.control("POST", "switches", {"reports.duplicate_converts": False})
    first = sync(None, catalog=log_only, **settings)
    run = sync(None, catalog=log_only, **settings)
    assert ids(run) == ids(first)
    assert "Piano hands back one that was asked for lately" in run.log


def test_the_age_of_an_export_made_for_somebody_else_is_told(
    piano: Server, settings: dict[str, Any], sync: Tap, log_only: dict[str, Any]
) -> None:
    sync(None, catalog=log_only, **settings)
    piano.control("POST", "clock", {"advance": "9m"})
    run = sync(None, catalog=log_only, **settings)
    assert "is an earlier one, 9 minutes old; what changed since comes with the next run" in run.log


def test_the_text_of_an_error_is_told_without_the_token(piano: Server, settings: dict[str, Any], tap: Tap) -> None:
    token = settings["api_token"]
    piano.control("POST", "switches", {"reports.duplicate_window": 0})
    fault(
        piano,
        path="*/status",
        status=200,
        body=f'{{"export_id": "x", "job_status": "INTERNAL_ERROR", "error_text": "disk of {token} is full"}}',
        headers={"Content-Type": "application/json"},
    )
    script(piano, "CREATED")
    piano.control("POST", "switches", {"reports.created_for": 1e9})
    run = tap(None, **settings)
    assert run.code == Outage.exit_code
    assert "ended as INTERNAL_ERROR: disk of (token) is full, 3 times in a row" in run.errors
    assert token not in run.log
    assert token.encode() not in run.out


@pytest.mark.parametrize(
    ("members", "times"),
    [({"status": 403}, 1), ({"status": 404}, 1), ({"status": 410}, 2)],
)
def test_a_link_that_died_is_asked_for_again(
    members: dict[str, Any],
    times: int,
    piano: Server,
    settings: dict[str, Any],
    sync: Tap,
    log_only: dict[str, Any],
) -> None:
    fault(piano, path=FILES, times=times, **members)
    run = sync(None, catalog=log_only, **settings)
    assert len(ids(run)) == ROWS
    assert len(asked(piano, "/download/url")) == times + 1


def test_an_export_that_vanishes_between_status_and_link_is_made_anew(
    piano: Server, settings: dict[str, Any], sync: Tap, log_only: dict[str, Any]
) -> None:
    piano.control("POST", "switches", {"reports.duplicate_window": 0})
    fault(piano, path="*/download/url", status=400, times=1)
    run = sync(None, catalog=log_only, **settings)
    assert len(ids(run)) == ROWS
    assert len(asked(piano, "/schedule/")) == 2
    assert "asking for a new one" in run.log


BROKEN: dict[str, dict[str, Any]] = {
    "cut": {"truncate": 30_000},
    "cut at once": {"truncate": 1},
    "reset": {"reset": True},
    "reset after the work": {"reset": True, "when": "after"},
    "503": {"status": 503},
    "HTML": {"html": True},
    "429": {"status": 429, "retry_after": "0"},
}


@pytest.mark.parametrize("ranges", [True, False], ids=["resumable", "not resumable"])
@pytest.mark.parametrize("members", BROKEN.values(), ids=list(BROKEN))
def test_a_download_that_breaks_goes_on_and_the_rows_are_those_of_the_file(
    members: dict[str, Any],
    ranges: bool,  # noqa: FBT001 - a parameter of the test
    piano: Server,
    settings: dict[str, Any],
    sync: Tap,
    log_only: dict[str, Any],
) -> None:
    plain = sync(None, catalog=log_only, **settings)
    piano.control("POST", "switches", {"reports.ranges": ranges})
    piano.control("POST", "reset", {})
    fault(piano, path=FILES, times=2, **members)
    run = sync(None, catalog=log_only, **settings)
    assert run.records == plain.records
    times = len(asked(piano, "/files/"))
    # what was answered before the reset may have come whole, and then nothing has to be asked again
    assert 1 <= times <= 3 if members.get("when") == "after" else times == 3


def test_a_download_that_never_comes_whole_is_an_outage_and_nothing_is_sent(
    piano: Server, settings: dict[str, Any], tap: Tap
) -> None:
    piano.control("POST", "switches", {"reports.ranges": False})
    fault(piano, path=FILES, truncate=30_000)
    run = tap(None, **settings, retry_attempts=2)
    assert run.code == Outage.exit_code
    assert "the download of export" in run.errors
    assert [m for m in run.of_type("RECORD") if m["stream"] == "subscription_log"] == []
    assert run.leftovers == []
    assert "signature" not in run.log


@pytest.mark.parametrize("phase", ["*/schedule/*", "*/status", "*/download/url", FILES])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_reset_at_any_phase_is_survived(
    phase: str, when: str, piano: Server, settings: dict[str, Any], sync: Tap, log_only: dict[str, Any]
) -> None:
    fault(piano, path=phase, reset=True, when=when, times=2)
    run = sync(None, catalog=log_only, **settings)
    assert len(ids(run)) == ROWS


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_may_not_export_is_refused_in_words(
    status: int, piano: Server, settings: dict[str, Any], tap: Tap
) -> None:
    piano.control("POST", "switches", {"reports.refused_token_status": status})
    fault(piano, token_refused=True)
    run = tap(None, **settings)
    assert run.code == AccessRefused.exit_code
    assert "whether the token may use the Reports API" in run.errors
    assert "Traceback" not in run.log


SWITCHES: dict[str, dict[str, Any]] = {
    "ZIP": {"reports.packed": "zip"},
    "BOM": {"reports.byte_order_mark": True},
    "CRLF": {"reports.crlf": True},
    "wrapped in data": {"reports.wrapped": "data"},
    "wrapped in export": {"reports.wrapped": "export"},
    "echo as text": {"reports.echo": "text"},
}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=list(SWITCHES))
def test_every_form_that_nobody_documents_is_read_alike(
    switches: dict[str, Any], piano: Server, settings: dict[str, Any], sync: Tap, log_only: dict[str, Any]
) -> None:
    plain = sync(None, catalog=log_only, **settings)
    piano.control("POST", "switches", {"reports.duplicate_window": 0, **switches})
    assert sync(None, catalog=log_only, **settings).records == plain.records


def test_the_token_can_travel_in_a_header(
    piano: Server, settings: dict[str, Any], sync: Tap, log_only: dict[str, Any]
) -> None:
    run = sync(None, catalog=log_only, **settings, reports_token_in="header")  # noqa: S106 - a place
    assert len(ids(run)) == ROWS
    assert all("api_token" not in one["query"] for one in asked(piano, "/export/"))


def test_only_the_groups_of_selected_columns_are_asked_for(piano: Server, settings: dict[str, Any], sync: Tap) -> None:
    sync(None, **settings)
    sync(None, **settings, columns="traits,promotion_id")
    groups = [one["query"]["attribute_groups"] for one in asked(piano, "/schedule/")]
    assert groups == [["DEFAULT", "MODIFY_TIME"], ["DEFAULT", "PAYMENT", "MODIFY_TIME"]]

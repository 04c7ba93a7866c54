"""A run whose tap failed is no good night: page, summary, ledger, health and metrics say so; the exit code stays."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from target_recurly_engage.cli import main
from target_recurly_engage.ended import Ends

from tests.target.conftest import PATIENCE, STREAM

if TYPE_CHECKING:
    from tests.target.conftest import Engage, Message, Run

ENDED = {"ended": "2026-03-28T06:00:00+00:00"}
BLIND = "from target_recurly_engage.ended import Ends\nEnds.problems = lambda *args: iter(())\n"
"""A broken double: whatever came, the tap ended well."""


@pytest.fixture(autouse=True)
def _any_age(engage: Engage) -> None:
    """Let health say nothing of how old the rows are."""
    engage.config["freshness_hours"] = 0


def state(**bookmarks: object) -> Message:
    return {"type": "STATE", "value": {"bookmarks": bookmarks}}


def rows(engage: Engage, count: int = 3, stream: str = STREAM) -> list[Message]:
    return [
        {"type": "RECORD", "stream": stream, "record": record} for record in engage.subscriptions(count)
    ]  # fmt: skip


def health(engage: Engage) -> tuple[int, dict[str, Any]]:
    path = engage.folder / "cli.json"
    path.write_text(json.dumps(engage.config), encoding="utf-8")
    done = CliRunner().invoke(main, ["--config", str(path), "health", "--json"])
    return done.exit_code, json.loads(done.output)


def page(engage: Engage) -> str:
    newest = max((engage.folder / "runs").glob("*.html"), key=lambda path: path.stat().st_mtime_ns)
    return newest.read_text(encoding="utf-8")


def all_say_incomplete(engage: Engage, words: str) -> None:
    summary = engage.summaries[-1]
    assert summary["status"] == "incomplete"
    assert words in " ".join(summary["incomplete"])
    assert words in summary["message"]
    assert engage.query("SELECT status, summary->>'$.incomplete[0]' FROM runs ORDER BY started_at DESC LIMIT 1") == [
        ("incomplete", summary["incomplete"][0])
    ]
    assert '<span class="status warn">incomplete</span>' in page(engage)
    assert "notice warn" in page(engage)
    code, answer = health(engage)
    assert (code, answer["status"]) == (1, "warning")
    assert any(words in problem for problem in answer["problems"])


def all_say_well(engage: Engage) -> None:
    assert engage.summaries[-1]["status"] == "finished"
    assert engage.summaries[-1]["incomplete"] == []
    assert '<span class="status good">finished</span>' in page(engage)
    assert health(engage)[1]["problems"] == []


# Real processes in a pipe

TAPS = {
    "dies in the middle": ("import os, sys; sys.stdout.write({lines!r}); sys.stdout.flush(); os._exit(1)", "broke off"),
    "is refused": ("import sys; sys.exit('a token is refused')", "Nothing came from the tap"),
    "is never there": (None, "Nothing came from the tap"),
}


@pytest.mark.parametrize("script", ["", BLIND], ids=["", "the broken double"])
@pytest.mark.parametrize(("tap", "words"), TAPS.values(), ids=list(TAPS))
def test_a_tap_that_fails_leaves_a_run_that_is_incomplete(
    tap: str | None, words: str, script: str, engage: Engage
) -> None:
    lines = lines_of([engage.schema(), *rows(engage)])
    tap_command = [sys.executable, "-c", tap.format(lines=lines)] if tap else ["/bin/sh", "-c", "no-such-tap 2>&-"]
    with subprocess.Popen(tap_command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as one:
        target = subprocess.run(
            engage.command(script or None), stdin=one.stdout, capture_output=True, timeout=PATIENCE, check=False
        )
    assert one.returncode != 0
    assert (target.returncode, target.stdout) == (0, b""), target.stderr
    if script:
        with pytest.raises(AssertionError):
            all_say_incomplete(engage, words)
        return
    all_say_incomplete(engage, words)
    assert len(engage.files) == (1 if words == "broke off" else 0), "what came is delivered all the same"
    assert engage.run(engage.snapshot(engage.subscriptions(3))).code == 0
    all_say_well(engage)


def lines_of(messages: list[Message]) -> str:
    return "".join(json.dumps(message) + "\n" for message in messages)


# What the messages tell

SCHEMA, ROW, VERSION = ("schema", "row", "version")
EVENTS: dict[str, tuple[list[object], bool]] = {
    "a STATE after the rows": ([SCHEMA, ROW, {"bookmarks": {}}], True),
    "a STATE that is no object of bookmarks": ([SCHEMA, ROW, {"anything": 1}], True),
    "a STATE before the last row": ([SCHEMA, ROW, {"bookmarks": {}}, ROW], False),
    "no STATE": ([SCHEMA, ROW], False),
    "a SCHEMA alone": ([SCHEMA], False),
    "a STATE before the SCHEMA": ([{"bookmarks": {"log": {}}}, SCHEMA], False),
    "no row, and a STATE": ([SCHEMA, {"bookmarks": {"log": {}}}], True),
    "a version after the rows": ([SCHEMA, ROW, VERSION], True),
    "a version before the rows": ([SCHEMA, VERSION, ROW], False),
    "progress markers": ([SCHEMA, ROW, {"bookmarks": {"log": {"progress_markers": {"a": 1}}}}], False),
    "progress markers in a partition": (
        [SCHEMA, ROW, {"bookmarks": {"log": {"partitions": [{"progress_markers": {"a": 1}}]}}}], False,
    ),
    "currently syncing": ([SCHEMA, ROW, {"bookmarks": {}, "currently_syncing": "log"}], False),
    "syncing another": ([SCHEMA, ROW, {"bookmarks": {}, "currently_syncing": "other"}], True),
    "marked": ([SCHEMA, ROW, {"bookmarks": {"log": ENDED}}], True),
    "another is marked": ([SCHEMA, ROW, {"bookmarks": {"log": {}, "other": ENDED}}], False),
    "bookmarks of another form": ([SCHEMA, ROW, {"bookmarks": {"log": "2026-03-28"}}], True),
    "a list of bookmarks": ([SCHEMA, ROW, {"bookmarks": ["log"]}], True),
}  # fmt: skip


@pytest.mark.parametrize(("events", "well"), EVENTS.values(), ids=list(EVENTS))
def test_what_the_messages_tell_of_a_stream(events: list[object], well: object) -> None:
    ends = Ends()
    for event in events:
        if event == VERSION:
            ends.version("log")
        elif event in (SCHEMA, ROW):
            ends.begun("log")
        else:
            ends.state(event)
    assert ends.well("log") is well


def run(engage: Engage, *messages: Message) -> Run:
    done = engage.run(messages)
    assert done.code == 0, done.log
    return done


def test_a_tap_that_marks_the_end_and_broke_off_after_a_state_is_found_out(engage: Engage) -> None:
    """The STATE came after the last row; only the absent marker tells, for an earlier run had it."""
    messages = (engage.schema(), *rows(engage))
    run(engage, *messages, state(**{STREAM: {"replication_key_value": "2026-03-27"} | ENDED}))
    all_say_well(engage)
    done = run(engage, *messages, state(**{STREAM: {"replication_key_value": "2026-03-28"}}))
    assert len(done.states) == 1, "the STATE goes on its way"
    all_say_incomplete(engage, f"stream {STREAM} did not end well")


def test_a_stream_that_an_earlier_run_brought_and_that_never_began_is_named(engage: Engage) -> None:
    schema = engage.schema(("term_id", "term_name", "aid"), "terms") | {"key_properties": ["term_id"]}
    terms = (schema, {"type": "RECORD", "stream": "terms", "record": {"term_id": "T1", "term_name": "Annual"}})
    log = (engage.schema(), *rows(engage))
    run(engage, *terms, state(terms=ENDED), *log, state(terms=ENDED, **{STREAM: ENDED}))
    all_say_well(engage)
    for _ in range(2):
        run(engage, *terms, state(terms=ENDED, **{STREAM: {}}))
        all_say_incomplete(engage, f"stream {STREAM} did not come")
    run(engage, *terms, state(terms=ENDED))  # a job of its own, whose state knows no log
    assert engage.summaries[-1]["status"] == "finished"


def test_streams_without_a_role_are_no_run(engage: Engage) -> None:
    schema = engage.schema(("id",), "invoices")
    done = run(engage, schema, {"type": "RECORD", "stream": "invoices", "record": {"id": "1"}}, state(invoices={}))
    assert len(done.states) == 1
    assert not engage.ledger.exists()


def test_a_state_alone_is_no_stream(engage: Engage) -> None:
    assert len(run(engage, state(**{STREAM: {}})).states) == 1
    all_say_incomplete(engage, "Nothing came from the tap")


def test_the_tap_that_fails_on_the_day_after_an_outage_is_no_reason_to_restore_a_ledger(engage: Engage) -> None:
    """The ledger took an export whose STATE never left; the tap begins with the state before, and fails at once."""

    def claims(signature: str, after: str | None, **more: object) -> Message:
        return state(**{STREAM: {"handed_on": {"signature": signature, "after": after}, **more}})

    first, second = "settings-aaaa", "settings-bbbb"
    run(engage, engage.schema(), *rows(engage, 3), claims(first, None, **ENDED))
    outage = """
from piano_engage_common.stops import Outage
from target_recurly_engage.delivery import file
def deliver(*args):
    raise Outage("the folder is out of reach")
file.FileDelivery.deliver = deliver
"""
    assert engage.run([engage.schema(), *rows(engage, 4), claims(second, first, **ENDED)], script=outage).code == 75
    done = run(engage, engage.schema(), claims(first, first))
    assert "--full-refresh" not in done.log
    assert engage.summaries[-1]["status"] == "incomplete"
    assert engage.run([engage.schema(), claims(first, first, **ENDED)]).code == 78, "an older export was put back"
    assert engage.run([engage.schema(), claims("settings-cccc", "settings-cccc")]).code == 78, "another ledger's state"
    run(engage, engage.schema(), *rows(engage, 4), claims(second, first, **ENDED))
    all_say_well(engage)


def test_metrics_and_alerts_tell_an_incomplete_run_from_a_good_one(engage: Engage) -> None:
    engage.config["metrics_path"] = str(engage.folder / "metrics")
    run(engage, engage.schema(), *rows(engage))
    (path,) = (engage.folder / "metrics").iterdir()
    text = path.read_text(encoding="utf-8")
    assert 'recurly_engage_run_success{application="default"} 0.0' in text
    assert 'recurly_engage_run_incomplete{application="default"} 1.0' in text
    assert 'recurly_engage_run_status{application="default",status="incomplete"} 1.0' in text
    assert 'recurly_engage_failing_kinds{application="default"} 1' in text
    assert "last_success" not in text

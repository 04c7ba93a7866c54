"""Killed at random moments, and ended by signals: nothing is missing, and no STATE is ahead of the records."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.target.conftest import ROUNDS

if TYPE_CHECKING:
    from piano_engage_sandbox.server import Server

    from tests.tap.conftest import Process, StartTap

KILLS = 8 * ROUNDS
KEYS = {
    "offers": "offer_id",
    "promo_codes": "promo_code_id",
    "promotions": "promotion_id",
    "resources": "resource_id",
    "subscription_log": "subscription_id",
    "subscriptions": "subscription_id",
    "term_change_options": "term_change_option_id",
    "terms": "term_id",
}
Kept = dict[tuple[str, str], dict[str, Any]]


class Target:
    """A target that keeps what it got: whole lines, the newest of each key, and the last STATE."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.kept: Kept = {}
        self.state: dict[str, Any] | None = None

    def read(self, process: Process) -> None:
        """Read until the tap has gone."""
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith(b"\n"):
                return
            message = json.loads(line)
            if message["type"] == "RECORD":
                record = message["record"]
                record.pop("read_at", None)
                self.kept[message["stream"], record[KEYS[message["stream"]]]] = record
            elif message["type"] == "STATE":
                self.state = message["value"]


def sync_into(target: Target, start_tap: StartTap, settings: dict[str, Any], kill_after: float | None = None) -> None:
    """Run the tap into a target; kill it after so many seconds, or see it end well."""
    begin, _ = start_tap
    process = begin(None, state=target.state, **settings)
    errors: list[bytes] = []
    assert process.stderr is not None
    reading = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reading.start()
    killer = threading.Timer(kill_after, process.kill) if kill_after is not None else None
    if killer:
        killer.start()
    target.read(process)
    process.wait()
    if killer:
        killer.cancel()
    reading.join()
    process.stdout.close()
    process.stderr.close()
    if kill_after is None:
        assert process.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.timeout(240 * ROUNDS)
def test_killed_again_and_again_nothing_is_missing(
    piano: Server, settings: dict[str, Any], start_tap: StartTap
) -> None:
    settings = {**settings, "page_size": 100}
    undisturbed = Target()
    began = time.monotonic()
    sync_into(undisturbed, start_tap, settings)
    took = time.monotonic() - began
    moments = random.Random(20)  # noqa: S311 - moments of a test
    target = Target()
    for number in range(KILLS):
        if number % 3 == 2:
            piano.control("POST", "clock", {"advance": "2d"})
        sync_into(target, start_tap, settings, moments.uniform(0.3 * took, took))
    sync_into(target, start_tap, settings)
    expected = Target()
    sync_into(expected, start_tap, settings)
    assert {stream for stream, _ in expected.kept} == set(KEYS)
    assert differing(target.kept, expected.kept) == {}


def differing(kept: Kept, expected: Kept) -> Kept:
    """What should have been kept and was not; what drifts from day to day without a change is left aside."""
    return {
        key: record
        for key, record in expected.items()
        if {**kept.get(key, {}), "days_subscribed": 0} != {**record, "days_subscribed": 0}
    }


def test_the_comparison_notices_a_state_that_was_ahead(settings: dict[str, Any], start_tap: StartTap) -> None:
    honest, ahead = Target(), Target()
    sync_into(honest, start_tap, settings)
    ahead.state = honest.state
    sync_into(ahead, start_tap, settings)
    assert len(differing(ahead.kept, honest.kept)) > 1000


@pytest.mark.parametrize(
    "members",
    [
        {"part": "publisher", "path": "*/promotion/code/list", "hang": True, "skip": 3},
        {"part": "publisher", "path": "*/term/list", "status": 429, "retry_after": "300"},
        {"part": "reports", "path": "*/status", "hang": True},
        {"part": "reports", "path": "/rest/export/files/*", "bytes_per_second": 1000},
    ],
    ids=["a worker hangs", "between attempts", "waiting for the job", "downloading"],
)
def test_a_signal_ends_the_run_and_the_next_one_brings_the_rest(
    members: dict[str, Any], piano: Server, settings: dict[str, Any], start_tap: StartTap
) -> None:
    begin, wait = start_tap
    piano.control("POST", "faults", members)
    with ThreadPoolExecutor(1) as reader:
        process = begin(None, **settings)
        ending = reader.submit(wait, process)
        while not any(one["status"] is None or one["fault"] for one in piano.control("GET", "requests")):
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGTERM)
        run = ending.result()
    assert run.code == 128 + signal.SIGTERM, run.log
    assert run.out.endswith(b"\n")
    assert run.leftovers == []
    target = Target()
    target.state = run.of_type("STATE")[-1]["value"] if run.of_type("STATE") else None
    for message in run.of_type("RECORD"):
        message["record"].pop("read_at", None)
        target.kept[message["stream"], message["record"][KEYS[message["stream"]]]] = message["record"]
    piano.control("DELETE", "faults")
    sync_into(target, start_tap, settings)
    expected = Target()
    sync_into(expected, start_tap, settings)
    assert differing(target.kept, expected.kept) == {}

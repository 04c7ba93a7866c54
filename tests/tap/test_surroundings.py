"""What goes wrong around the files: settings, disks, signals, pipes, and files that somebody still writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tap.conftest import Exports, MakeRow, Process, Run, StartTap, Tap

MAX_APPENDED_LINES = 20_000
FAILED, INPUT_REFUSED, STORAGE_FAILED, CONFIG_REFUSED = 1, 65, 74, 78


def assert_nothing_sent(run: Run) -> None:
    assert not {"RECORD", "BATCH", "ACTIVATE_VERSION", "STATE"}.intersection(run.types), run.log
    assert "Traceback" not in run.log
    assert run.leftovers == []


# Settings

SETTINGS: dict[str, tuple[dict[str, Any], int, list[str]]] = {
    "no such zone": ({"timezone": "Europe/Amsterdamn"}, CONFIG_REFUSED, ["timezone", "'Europe/Amsterdamn'", "IANA"]),
    "zone as a path": ({"timezone": "../etc/passwd"}, CONFIG_REFUSED, ["timezone", "IANA"]),
    "blank zone": ({"timezone": ""}, CONFIG_REFUSED, ["timezone", "IANA"]),
    "misspelt column": ({"columns": "traits, Usr email"}, CONFIG_REFUSED, ["columns", "'Usr email'", "'user_email'"]),
    "no such column": ({"columns": ["shoe size"]}, CONFIG_REFUSED, ["columns", "'shoe size'", "neither"]),
    "memory limit": ({"memory_limit": "lots"}, CONFIG_REFUSED, ["memory_limit", "'lots'"]),
    "fraction above 1": ({"max_reject_fraction": 2}, FAILED, ["2 is greater than the maximum of 1"]),
    "fraction in words": ({"max_reject_fraction": "few"}, FAILED, ["max_reject_fraction"]),
    "negative lookback": ({"lookback": -1}, FAILED, ["-1 is less than the minimum of 0"]),
    "columns as a number": ({"columns": 3}, FAILED, ["columns"]),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_setting_that_cannot_be_used_stops_the_run(case: str, sample: Path, tap: Tap) -> None:
    settings, code, fragments = SETTINGS[case]
    run = tap(sample, **settings)
    assert run.code == code, run.log
    for fragment in fragments:
        assert fragment in run.log
    assert_nothing_sent(run)


def test_without_an_export_path_the_run_names_the_setting(tap: Tap) -> None:
    run = tap(None)
    assert run.code == CONFIG_REFUSED
    assert "export_path" in run.errors
    assert "api_token" in run.errors
    assert_nothing_sent(run)


# Disks


def assert_disk_was_full(run: Run) -> None:
    assert run.code == STORAGE_FAILED, run.log
    assert "Make room" in run.errors
    assert not {"BATCH", "ACTIVATE_VERSION"}.intersection(run.types)
    assert all(state == {} for state in run.states)
    assert run.leftovers == []


@pytest.mark.parametrize("kilobytes", [4, 40, 400], ids=["while reading", "while ordering", "while sending"])
def test_file_that_cannot_grow_stops_the_run(kilobytes: int, sample: Path, start_tap: StartTap) -> None:
    start, wait = start_tap
    run = wait(start(sample, before=["prlimit", f"--fsize={kilobytes * 1024}"]))
    assert_disk_was_full(run)
    assert run.records == []


def test_full_disk_stops_the_run(sample: Path, tmp_path: Path, start_tap: StartTap) -> None:
    start, wait = start_tap
    mount = f"mount -t tmpfs -o size=64k none {tmp_path / 'tmp'}"
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    probe = subprocess.run([*shell[:-2], "mount -t tmpfs none /tmp"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"this machine lets nobody mount a small disk ({probe.stderr.decode().strip()}); prlimit stands in")
    run = wait(start(sample, before=shell))
    assert_disk_was_full(run)
    assert "No space left" in run.errors


def test_batch_that_does_not_fit_leaves_no_file(sample: Path, tmp_path: Path, start_tap: StartTap) -> None:
    start, wait = start_tap
    batches = tmp_path / "batches"
    config = {"encoding": {"format": "jsonl"}, "storage": {"root": f"file://{batches}"}}
    run = wait(start(sample, before=["prlimit", f"--fsize={400 * 1024}"], batch_config=config))
    assert_disk_was_full(run)
    assert list(batches.iterdir()) == []


def test_zip_that_does_not_fit_stops_the_run(sample: Path, exports: Exports, start_tap: StartTap) -> None:
    start, wait = start_tap
    path = exports.bytes(b"", name="log.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(sample, "log.csv")
    run = wait(start(path, before=["prlimit", f"--fsize={1000 * 1024}"]))
    assert_disk_was_full(run)


def test_export_that_may_not_be_read_stops_the_run(exports: Exports, make_row: MakeRow, start_tap: StartTap) -> None:
    start, wait = start_tap
    path = exports.csv([make_row(1)])
    path.chmod(0)
    before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    run = wait(start(path, before=before))
    assert run.code == STORAGE_FAILED
    assert f"Permission denied ({path}). Mend the permissions" in run.errors
    assert_nothing_sent(run)


# Files that change


def test_file_that_grows_while_it_is_read_stops_the_run(sample: Path, exports: Exports, start_tap: StartTap) -> None:
    start, wait = start_tap
    path = exports.bytes(sample.read_bytes())
    line = sample.read_bytes().rsplit(b"\n", 2)[1] + b"\n"
    process = start(path)
    with path.open("ab", buffering=0) as file:
        for _ in range(MAX_APPENDED_LINES):
            if process.poll() is not None:
                break
            file.write(line)  # often enough that it surely grows between the first look at it and the last
            time.sleep(0.002)
        else:
            process.kill()
    run = wait(process)
    assert run.code == INPUT_REFUSED, run.log
    assert "log.csv: changed while it was read. Wait until" in run.errors
    assert_nothing_sent(run)


# Signals and pipes


def start_and_let_it_fill_the_pipe(start: Callable[..., Process], export: Path) -> Process:
    """Start the tap and read one message: it now waits in the middle of many."""
    process: Process = start(export)
    assert process.stdout is not None
    assert b"SCHEMA" in os.read(process.stdout.fileno(), 1 << 20)
    assert b"RECORD" in os.read(process.stdout.fileno(), 4096)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_run_after_a_whole_line_and_without_state(
    number: signal.Signals, sample: Path, start_tap: StartTap
) -> None:
    start, wait = start_tap
    process = start_and_let_it_fill_the_pipe(start, sample)
    process.send_signal(number)
    run = wait(process)
    assert run.code == 128 + number, run.log
    lines = run.out.split(b"\n")
    assert lines[-1] == b""
    assert {json.loads(line)["type"] for line in lines[1:-1]} == {"RECORD"}
    assert len(lines) < 2000
    assert "Traceback" not in run.log
    assert run.leftovers == []


def test_reader_that_goes_away_ends_the_run(sample: Path, start_tap: StartTap) -> None:
    start, _ = start_tap
    process = start_and_let_it_fill_the_pipe(start, sample)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        log = stderr.read().decode()
    assert process.wait() == 128 + signal.SIGPIPE, log
    assert "Whoever read the output has gone" in log
    assert "Traceback" not in log

"""The command line of the data generator."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import piano_engage_sandbox
import pytest
from piano_engage_sandbox.cli import Progress, main
from piano_engage_sandbox.data import write_log

PACKAGES = str(Path(piano_engage_sandbox.__file__).parent.parent)
MODULE = (sys.executable, "-S", "-W", "error", "-m", "piano_engage_sandbox.data")


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command on a bare Python: -S leaves out every installed package."""
    return subprocess.run(
        [*MODULE, *arguments], env={**os.environ, "PYTHONPATH": PACKAGES}, capture_output=True, check=False
    )


def test_needs_nothing_but_python() -> None:
    done = run("--rows", "20", "--as-of", "2026-03-28T06:00")
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(list(csv.reader(io.StringIO(done.stdout.decode(), newline="")))) == 21


def test_help_tells_how_to_make_a_successor() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert b"--since 2026-03-28T06:00 --as-of 2026-03-31T06:00" in done.stdout


def test_options_reach_the_file(tmp_path: Path) -> None:
    by_command, by_function = tmp_path / "a.csv", tmp_path / "b.csv"
    options = "--rows 200 --seed 9 --as-of 2026-03-31T06:00 --since 2026-03-28T06:00 --aid OtHeR00001"
    switches = "--groups MODIFY_TIME,USER --timezone America/New_York --timestamps dashboard --crlf --bom"
    assert main([*options.split(), *switches.split(), "--output", str(by_command)]) == 0
    write_log(
        by_function, rows=200, seed=9, as_of="2026-03-31T06:00", since="2026-03-28T06:00", aid="OtHeR00001",
        groups=("USER", "MODIFY_TIME"), timezone="America/New_York", timestamps="dashboard", crlf=True, bom=True,
    )  # fmt: skip
    assert by_command.read_bytes() == by_function.read_bytes()


def test_all_groups_in_one_word(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["--readers", "0", "--groups", "ALL"]) == 0
    assert capfdbinary.readouterr().out.count(b",") == 98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rows 1 --readers 1", "not allowed with argument"),
        ("--rows many", "invalid int value: 'many'"),
        ("--rows -1", "rows must not be negative: -1"),
        ("--groups PAYMENTS", "unknown attribute group PAYMENTS"),
        ("--timezone Mars/Olympus", "unknown time zone 'Mars/Olympus'"),
        ("--as-of yesterday", "not a date-time: 'yesterday'"),
        ("--as-of 1999-01-01", "between 2019 and 2034"),
        ("--since 2026-03-02T00:00 --as-of 2026-03-01T00:00", "lies before since"),
        ("--timestamps iso", "invalid choice: 'iso'"),
        ("--jobs 0", "jobs must be 1 or more: 0"),
        ("--row-count 3", "unrecognized arguments"),
    ],
)
def test_bad_options_are_named(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments.split(), "--output", str(tmp_path / "log.csv")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "1", "--output", str(tmp_path / "nowhere" / "log.csv")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_a_reader_that_closes_the_pipe_is_no_traceback() -> None:
    with subprocess.Popen(
        [*MODULE, "--rows", "3000"],
        env={**os.environ, "PYTHONPATH": PACKAGES},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_progress_speaks_after_two_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr("piano_engage_sandbox.cli.time.monotonic", lambda: now)
    quick, slow = Progress(), Progress()
    now += 1.9
    quick(10)
    quick.done(10)
    slow(10)
    assert capsys.readouterr().err == ""
    now += 0.6
    slow(50_000)
    slow(50_001)
    slow.done(60_000)
    assert capsys.readouterr().err == "50,000 rows, 2 s, 20,000 rows/s\n60,000 rows in all, 2 s, 24,000 rows/s\n"

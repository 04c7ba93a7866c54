"""The command line of the data generator."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from piano_engage_sandbox.clock import ClockError
from piano_engage_sandbox.columns import GROUPS, GroupError
from piano_engage_sandbox.export import ExportError, Options, write_log

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = """Make a subscription log as Piano exports it, out of invented readers.

The same options give the same bytes. For a later export of the same readers keep all options, give the first one's
--as-of as --since, and a later --as-of:

  python -m piano_engage_sandbox.data --rows 2000 --as-of 2026-03-28T06:00 --output day-1.csv
  python -m piano_engage_sandbox.data --rows 2000 --since 2026-03-28T06:00 --as-of 2026-03-31T06:00 --output day-4.csv

The second has about 2,000 rows: new readers came, some subscriptions were deleted."""
QUIET_SECONDS = 2.0


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    p = argparse.ArgumentParser(
        prog="python -m piano_engage_sandbox.data",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = p.add_mutually_exclusive_group()
    size.add_argument("--rows", type=int, metavar="N", help="rows the file has at --since (default: 2000)")
    size.add_argument(
        "--readers", type=int, metavar="N",
        help="instead of --rows: readers 0 to N-1 of all who arrive from 2018 to 2034; about a quarter have by 2026",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=1, metavar="N", help="another seed, other readers (default: 1)")
    when = "local date-time like 2026-03-01T04:00"
    p.add_argument("--as-of", default="2026-03-01T04:00", metavar="WHEN", help=f"moment of the export, {when}")
    p.add_argument("--since", metavar="WHEN", help="moment at which --rows are counted (default: --as-of)")
    p.add_argument("--aid", default="ExAmPlE4a1", help="application; each has its own readers (default: %(default)s)")
    p.add_argument(
        "--groups", default="DEFAULT", metavar="LIST",
        help=f"attribute groups, separated by commas, or ALL: {', '.join(GROUPS)} (default: %(default)s)",
    )  # fmt: skip
    p.add_argument("--timezone", default="Europe/Amsterdam", metavar="ZONE", help="IANA name (default: %(default)s)")
    p.add_argument("--timestamps", choices=("piano", "dashboard"), default="piano",
                   help="2026-03-01 04:00:00 +0100, or 3/1/2026 4:00 AM (default: %(default)s)")  # fmt: skip
    p.add_argument("--crlf", action="store_true", help="end lines with CR LF instead of LF")
    p.add_argument("--bom", action="store_true", help="begin with a byte order mark")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes; the file is the same (default: 1)")
    p.add_argument("--output", default="-", metavar="PATH", help="file to write; .zip packs it; - is standard output")
    return p


class Progress:
    """Says on standard error how far it is, every two seconds, and nothing if it is over before."""

    def __init__(self) -> None:
        """Start the watch."""
        self._began = self._said = time.monotonic()
        self._spoke = False

    def __call__(self, rows: int) -> None:
        """Note the rows so far."""
        now = time.monotonic()
        if now - self._said >= QUIET_SECONDS:
            self._said, self._spoke = now, True
            self._say(rows, now)

    def done(self, rows: int) -> None:
        """Say the total, if anything was said before."""
        if self._spoke:
            self._say(rows, time.monotonic(), " in all")

    def _say(self, rows: int, now: float, what: str = "") -> None:
        seconds = now - self._began
        sys.stderr.write(f"{rows:,} rows{what}, {seconds:.0f} s, {rows / seconds:,.0f} rows/s\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 for options that make no sense, 1 when writing fails."""
    p = parser()
    given = p.parse_args(arguments)
    groups = tuple(GROUPS) if given.groups == "ALL" else tuple(g.strip() for g in given.groups.split(",") if g.strip())
    options: Options = {
        "rows": given.rows,
        "readers": given.readers,
        "seed": given.seed,
        "as_of": given.as_of,
        "since": given.since,
        "aid": given.aid,
        "groups": groups,
        "timezone": given.timezone,
        "timestamps": given.timestamps,
        "crlf": given.crlf,
        "bom": given.bom,
    }
    progress = Progress()
    try:
        progress.done(write_log(given.output, jobs=given.jobs, progress=progress, **options))
    except (ExportError, ClockError, GroupError) as e:
        p.error(str(e))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as e:
        sys.stderr.write(f"cannot write {given.output}: {e.strerror or e}\n")
        return 1
    return 0

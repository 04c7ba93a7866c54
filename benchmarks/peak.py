"""Run a command and write the peak memory of its processes, in MB by name of the program, as JSON.

``python peak.py <report> <command> ...``: the command keeps our standard input and output. Linux only: the peaks are
``VmHWM`` of the command and of its descendants, read ten times a second and kept at their highest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

PROC = Path("/proc")


def descendants(root: int) -> list[int]:
    """List a process and all below it."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def note(process: int, peaks: dict[str, float]) -> None:
    """Note the peak of one process under the name of its program."""
    try:
        status = (PROC / str(process) / "status").read_text(encoding="utf-8")
        words = (PROC / str(process) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return
    programs = [Path(word.decode(errors="replace")).name for word in words[:3] if word]
    program = programs[1] if len(programs) > 1 and programs[0].startswith("python") else (programs or ["?"])[0]
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            peaks[program] = max(peaks.get(program, 0), int(line.split()[1]) / 1024)


def main() -> int:
    """Run the command and watch it."""
    report, *command = sys.argv[1:]
    peaks: dict[str, float] = {}
    process = subprocess.Popen(command)  # noqa: S603 - what the benchmark gives
    while process.poll() is None:
        for member in descendants(process.pid):
            note(member, peaks)
        time.sleep(0.1)
    Path(report).write_text(json.dumps(peaks), encoding="utf-8")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())

"""`make run` as a newcomer sees it, and what the README shows of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHANGES = re.compile(
    r"\d{8}T\d{6}Z-[0-9a-f]+"  # names of files and runs
    r"|took .*"  # seconds and memory
    r"| +(?=what )"  # columns move with the length of names
)


def stable(text: str) -> list[str]:
    """The lines, without what differs from run to run."""
    return [CHANGES.sub("*", line).rstrip() for line in text.strip().splitlines()]


def test_make_run_prints_what_the_readme_shows() -> None:
    done = subprocess.run([sys.executable, ROOT / "demo" / "run.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- output of make run -->\n```text\n(.*?)```\n<!-- end -->", readme, re.DOTALL)
    assert shown is not None
    assert stable(done.stdout) == stable(shown[1])
    assert done.stderr == ""


def test_pins_are_those_of_the_lock() -> None:
    done = subprocess.run(["make", "check-constraints"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

"""The sample files: made by the commands beside them, and what happens between the two days."""

from __future__ import annotations

import csv
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from piano_engage_sandbox.cli import main
from piano_engage_sandbox.columns import TRAITS, headers

SAMPLES = Path(__file__).parents[2] / "samples"
COMMAND = re.compile(r"^python -m piano_engage_sandbox\.data (.*) --output samples/(\S+)$", re.MULTILINE)
COMMANDS = [(name, options) for options, name in COMMAND.findall((SAMPLES / "README.md").read_text())]
UID = "User ID (UID)"


def read(day: int) -> dict[str, dict[str, str]]:
    with (SAMPLES / f"subscription-log-day-{day}.csv").open(newline="", encoding="utf-8") as file:
        return {row["Subscription ID"]: row for row in csv.DictReader(file, strict=True)}


def test_both_files_have_a_command() -> None:
    assert [name for name, _ in COMMANDS] == ["subscription-log-day-1.csv", "subscription-log-day-4.csv"]


@pytest.mark.parametrize(("name", "options"), COMMANDS)
def test_the_command_makes_the_file(name: str, options: str, tmp_path: Path) -> None:
    assert main([*shlex.split(options), "--output", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes() == (SAMPLES / name).read_bytes()


def test_sizes() -> None:
    first, second = read(1), read(4)
    assert len(first) == 2000
    assert len(second) > 2000
    assert list(next(iter(first.values()))) == headers(("DEFAULT",))


def test_who_came_and_who_went() -> None:
    first, second = read(1), read(4)
    then, now = ({r[UID] for r in rows.values()} for rows in (first, second))
    gone = [r for i, r in first.items() if i not in second]
    assert len(now - then) >= 3
    assert len(then - now) == 1
    assert len([r for r in gone if r[UID] in now]) == 1


def test_what_happened_in_three_days() -> None:
    first, second = read(1), read(4)
    seen: Counter[str] = Counter()
    changed = set()
    for i, after in second.items():
        before = first.get(i)
        if before is None:
            continue
        seen["trial converted"] += (before["Trial status"], after["Trial status"]) == ("In trial", "Converted")
        seen["auto-renew off"] += (
            before["Auto-renew"] == "TRUE" and after["Auto-renew"] == "FALSE" and not after["End date"]
        )
        seen["into grace"] += before["Currently in grace period"] < after["Currently in grace period"]
        seen["lapsed"] += before["Subscription status"] != after["Subscription status"] == "Expired"
        upgraded = before["Subscription status"] != after["Subscription status"] == "Upgraded"
        seen["upgraded"] += upgraded and any(r["Upgrade from - subscription ID"] == i for r in second.values())
        seen["renewed"] += 0 < int(before["Charge count"]) < int(after["Charge count"])
        if any(before[t] != after[t] for t in TRAITS if t != "Days subscribed"):
            changed.add(after[UID])
    assert all(seen.values()), seen
    assert seen["renewed"] >= 5
    assert 0.03 < len(changed) / len({r[UID] for r in first.values()}) < 0.08

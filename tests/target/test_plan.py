"""apply(plan) == desired, and the plan after that is empty: over any history, against dictionaries in Python."""

from __future__ import annotations

import csv
import json
import logging
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from unittest.mock import patch

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from piano_engage_common.stops import RowsLost
from target_recurly_engage import slices
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.run import Run
from target_recurly_engage.traits import NAMES, TRAITS, Wording

from tests.target.conftest import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from target_recurly_engage.desired import Source
    from target_recurly_engage.plan import Plan

    from tests.target.conftest import Engage

NOW = "2026-03-28T06:00:00+00:00"
CONFIG = {
    "timezone": "UTC", "as_of": NOW, "clear_string": "none", "clear_number": -1, "clear_boolean": False,
    "clear_date": "9999-12-31", "brake_min_rows_fraction": 0, "brake_max_clear_fraction": 1,
    "brake_max_change_fraction": 1, "brake_max_identity_fraction": 1, "memory_limit": "200MB",
    "report": False,
    "streams": {}, "traits": "all", "thresholds": {}, "trait_prefix": "", "trait_names": {}, "leave_out": {},
    "primary": ["live", "renews", "paid", "latest_access_end", "latest_start"], "site_licences": "in", "segments": "",
    "segments_as": "booleans", "segment_prefix": "segment_", "experiments": [],
    "max_value_length": 1000, "dry_run": False, "csv_ingest_hours": 3,
    "resend_after_days": 80, "resend_over_days": 10,
    "checkout_terms": [], "single_use_codes": "promotion", "new_customers": "never_had",
}  # fmt: skip
# Any text but NUL, which the intake drops, and surrogates, which are no text.
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
CELL = TEXT | st.sampled_from([
    "NULL", "null", "\\N", "#", "# x", '"', '""', "'", ",", ";", "\t", "\r", "\n", "\r\n", "a\rb", "a\nb", " a",
    "a ",
    "\ufeff", "\u2028", "\x1a", "\x0b", "\x85", "=1+1", "-", "nan", "true", 'a"b', '"a"', 'a,"b"\n', "é", "😀", "\\",
    "\\,", '\\"',
])  # fmt: skip


class History:
    """A ledger, and what a dictionary says that Engage must have been told; *held* has all traits that were sent."""

    def __init__(self, folder: Path, traits: str = "all") -> None:
        """Begin."""
        self.folder = folder
        self.config = CONFIG | {
            "traits": traits,
            "ledger": str(folder / "ledger.duckdb"),
            "delivery": "file",
            "max_reject_fraction": 0.05,
            "output_path": str(folder / "out"),
            "runs_path": str(folder / "runs"),
        }
        self.piano: dict[str, dict[str, str]] = {}
        self.engage: dict[str, dict[str, str]] = {}
        self.held: dict[str, dict[str, str]] = {}

    def step(self, rows: dict[str, dict[str, str]], *, complete: bool) -> Plan:
        """Bring rows, run, and read what was sent with Python's csv."""
        run = Run(self.config, logging.getLogger("test"))
        names = ["subscription_id", "user_id", *NAMES[1:]]
        intake = run.sources.subscriptions()
        intake.expect("s", {"properties": {name: {} for name in names}})
        for key, row in rows.items():
            intake.take_line(record(row | {"subscription_id": key}))
        if complete:
            intake.complete("s", 1)
            self.piano = {}
        self.piano |= rows
        run.finish()
        run.end("finished")
        for file in run.summary.files:
            with Path(file.location).open(newline="", encoding="utf-8") as opened:
                for row in csv.DictReader(opened, strict=True):
                    self.engage[row["user_id"]] = {name: row[name] for name in NAMES}
                    self.held[row["user_id"]] = row
        assert run.summary.plan
        return run.summary.plan

    def desired(self) -> dict[str, dict[str, str]]:
        """Who is told what: of a reader's subscriptions the one with the smallest id, for all else is the same."""
        primary: dict[str, str] = {}
        for key in sorted(self.piano, reverse=True):
            primary[self.piano[key]["user_id"]] = key
        wanted = {
            user: blank() | {"subscription_id": key}
            | {name: value for name, value in self.piano[key].items() if value.strip(" \t\r\n") and name != "user_id"}
            for user, key in primary.items()
        }  # fmt: skip
        return {user: blank() for user in self.engage} | wanted

    @property
    def acknowledged(self) -> dict[str, dict[str, str]]:
        """What the ledger says."""
        with closing(Ledger(Path(self.config["ledger"]), memory_limit="200MB")) as ledger:
            rows = ledger.connection.sql(f"SELECT user_id, {', '.join(NAMES)} FROM delivered").fetchall()
        return {user: dict(zip(NAMES, values, strict=True)) for user, *values in rows}


def record(row: dict[str, str]) -> bytes:
    return json.dumps({"record": row}).encode()


def blank() -> dict[str, str]:
    """The values that clear; taken from the wording, whose own values are pinned in test_clearing."""
    return {trait.name: Wording().clear_value(trait) for trait in TRAITS}


ROW = st.fixed_dictionaries({"user_id": st.sampled_from(["a", "b", "c", "d"]), "term_name": CELL, "offer_name": CELL})
STEPS = st.lists(
    st.tuples(st.dictionaries(st.sampled_from([f"RC{n}" for n in range(6)]), ROW, max_size=6), st.booleans()),
    min_size=1,
    max_size=4,
)


@pytest.mark.slow
@settings(max_examples=6 * ROUNDS)
@given(steps=STEPS, at_once=st.sampled_from([1, 2, slices.AT_ONCE]), traits=st.sampled_from(["all", "all,computed"]))
def test_engage_holds_what_is_desired_after_each_run_and_the_next_plan_is_empty(
    steps: list[tuple[dict[str, dict[str, str]], bool]], at_once: int, traits: str
) -> None:
    with TemporaryDirectory() as folder, patch.object(slices, "AT_ONCE", at_once):
        history = History(Path(folder), traits)
        for rows, complete in steps:
            before = dict(history.engage)
            made = history.step(rows, complete=complete)
            assert history.engage == history.desired() == history.acknowledged
            changed = {user for user, told in history.engage.items() if before.get(user) != told}
            assert made.new == len(set(history.engage) - set(before))
            assert made.users == len(history.engage)
            cells = {
                name: sum(told[name] != before.get(user, blank())[name] for user, told in history.engage.items())
                for name in NAMES
            }
            counted = {name: one.new + one.changed + one.cleared for name, one in made.traits.items() if name in NAMES}
            assert counted == (cells if made.traits else {})
            assert (made.size == len(changed)) if traits == "all" else (made.size >= len(changed))
        again = history.step(history.piano, complete=True)
        assert again.size == 0


def test_slices_are_alike_also_of_rows_that_came_in_the_same_transaction(tmp_path: Path) -> None:
    """DuckDB gives rows of an open transaction row numbers far above all others."""
    whole, sizes = slices._slices, []

    def counted(ledger: Ledger, sources: tuple[Source, ...]) -> Sequence[str]:
        parts = whole(ledger, sources)
        sizes.append([ledger.count(f"SELECT count(*) FROM suspects WHERE {part}") for part in parts])
        return parts

    history = History(tmp_path, "all,computed")
    with patch.object(slices, "AT_ONCE", 50), patch.object(slices, "_slices", counted):
        history.step({f"RC{n:04}": {"user_id": f"u{n}"} for n in range(400)}, complete=True)
        history.config["clear_string"] = "nothing"  # all are told anew
        history.step({f"RC{n}": {"user_id": f"u{n}"} for n in range(9000, 9010)}, complete=False)
    assert [sum(of) for of in sizes] == [400, 410]
    assert all(max(of) < 100 for of in sizes), sizes


@pytest.mark.parametrize("lose", [slice(1, None), slice(-1)])
def test_a_slice_that_is_lost_is_found_out(tmp_path: Path, lose: slice) -> None:
    """The broken double: the plan is made of all slices but one."""
    whole = slices._slices
    rows = {f"RC{n:02}": {"user_id": f"u{n}"} for n in range(40)}

    def fewer(ledger: Ledger, sources: tuple[Source, ...]) -> Sequence[str]:
        return whole(ledger, sources)[lose]

    history = History(tmp_path, "all,computed")
    with patch.object(slices, "AT_ONCE", 10), patch.object(slices, "_slices", fewer), pytest.raises(RowsLost):
        history.step(rows, complete=True)
    assert not list(tmp_path.glob("out/*"))


@settings(max_examples=10 * ROUNDS)
@given(cells=st.lists(CELL, min_size=1, max_size=40))
def test_any_cell_comes_back_as_it_was(cells: list[str]) -> None:
    with TemporaryDirectory() as folder:
        history = History(Path(folder))
        rows = {f"RC{n:02}": {"user_id": f"u{n}", "term_name": cell} for n, cell in enumerate(cells)}
        history.step(rows, complete=True)
        assert history.engage == history.desired() == history.acknowledged


def test_a_fingerprint_that_forgets_a_trait_is_found_out(engage: Engage) -> None:
    """The broken double: the sieve lets a change fall through."""
    double = """
from target_recurly_engage import desired
desired._fingerprint = lambda source, wording: "hash(subscriptions.subscription_id)"
"""
    records = engage.subscriptions(3)
    engage.run(engage.snapshot(records), script=double)
    records[0]["term_name"] = "changed"
    run = engage.run(engage.snapshot(records), script=double)
    assert run.code == 0
    with pytest.raises(AssertionError):
        assert "1 changes" in run.log


def test_a_ledger_that_holds_a_reader_twice_mends_itself(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(3)))
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute("INSERT INTO delivered FROM delivered WHERE user_id = 'u2'")
        connection.execute("INSERT INTO delivered (user_id, term_name) VALUES (NULL, 'x')")
    assert "0 changes" in engage.run(engage.snapshot(engage.subscriptions(3))).log
    engage.run(engage.snapshot(engage.subscriptions(3, promo_code="P")))
    assert len(engage.sent()) == 3
    assert engage.query("SELECT count(*) FROM delivered WHERE user_id = 'u2'") == [(1,)]

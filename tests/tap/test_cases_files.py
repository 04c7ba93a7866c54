"""Inputs that failed in the field: companions, what is passed over, which export is the newer one, the bookmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from piano_engage_common.stops import InputRefused

if TYPE_CHECKING:
    from tests.tap.conftest import Run, Tap

CASES = Path(__file__).with_name("cases")
TEN = {f"u-{number}" for number in range(1, 11)}


def users(run: Run) -> set[str]:
    assert len({record["subscription_id"] for record in run.records}) == len(run.records)
    return {record["user_id"] for record in run.records}


def statuses(run: Run) -> dict[str, str]:
    return {record["user_id"]: record["subscription_status"] for record in run.records}


@pytest.mark.parametrize(
    "case", ["5-folder-with-appledouble", "5-folder-with-office-lock", "5-zip-with-macosx-companion.zip"]
)
def test_companions_are_ignored(case: str, sync: Tap) -> None:
    run = sync(CASES / case)
    assert users(run) == TEN
    assert run.types[-2:] == ["ACTIVATE_VERSION", "STATE"]
    assert "not read" not in run.log


def test_gzip_is_read(sync: Tap) -> None:
    run = sync(CASES / "6-folder-part-passed-over-gz")
    assert users(run) == {"u-1", "u-2"}
    assert "ACTIVATE_VERSION" in run.types


def test_what_is_passed_over_is_named_and_the_log_is_not_complete(sync: Tap) -> None:
    run = sync(CASES / "6-folder-part-passed-over-name")
    assert users(run) == {"u-1"}
    assert "ACTIVATE_VERSION" not in run.types
    (warning,) = [line for line in run.log.splitlines() if "are not read" in line]
    assert "2 file(s)" in warning
    assert "log-2.csv.1" in warning
    assert "2026-10/log-3.csv" in warning
    assert "ended" not in run.states[-1]


def test_both_members_of_one_name_are_read(sync: Tap) -> None:
    assert users(sync(CASES / "6-zip-two-members-of-one-name.zip")) == {"u-1", "u-2"}


@pytest.mark.parametrize(
    ("case", "tied"),
    [
        ("8-older-file-wins-absurd-stamp", False),
        ("8-older-file-wins-name-order-browser-copy", True),
        ("8-older-file-wins-name-order-numbers", True),
    ],
)
def test_the_newer_export_wins(case: str, sync: Tap, *, tied: bool) -> None:
    run = sync(CASES / case)
    assert set(statuses(run).values()) == {"Expired"}
    assert ("nothing in the files tells which one is the newer" in run.log) is tied


def test_a_modify_time_in_the_future_hides_no_change(sync: Tap) -> None:
    folder = CASES / "9-future-modify-time-hides-change"
    first = sync(folder / "night-1.csv")
    second = sync(folder / "night-2.csv", state=first.of_type("STATE")[-1]["value"])
    assert {record["user_id"]: record["term_name"] for record in second.records}["u-1"] == "Yearly"


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("13-message-zip-deflate64.zip", "is compressed with Deflate64"),
        ("13-message-zip-encrypted.zip", "is encrypted. Save the ZIP without a password"),
    ],
)
def test_a_zip_that_cannot_be_unpacked_is_refused_in_one_sentence(case: str, words: str, tap: Tap) -> None:
    run = tap(CASES / case)
    assert run.code == InputRefused.exit_code
    assert words in run.errors
    assert len(run.errors.splitlines()) == 1
    assert "Traceback" not in run.log

"""Cells that imitate whole rows mislead a parallel reader of CSV: the second opinion sees it."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest
from piano_engage_common.stops import InputRefused
from tap_piano import staging
from tap_piano.survey import Shape

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tap.conftest import Exports, Tap

HEADERS = ["Subscription ID", "User ID (UID)", "Term name"]
ROWS = 60
BUFFER = 64_000


@pytest.fixture
def imitation(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log whose cells hold lines like those of a log, and a reader that takes it in small pieces."""
    monkeypatch.setattr(staging, "BUFFER_BYTES", BUFFER)
    monkeypatch.setattr(staging, "MAX_ROW_BYTES", BUFFER // 2)
    fake = "\n" + "RCfake,fake,Digital\n" * 1000
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADERS)
    writer.writerows([f"RC{number}", f"u{number}", fake if number % 3 == 0 else "Digital"] for number in range(ROWS))
    return exports.bytes(buffer.getvalue().encode())


def check_rows_are_the_real_ones(sync: Tap, export: Path) -> None:
    run = sync(export)
    assert {record["subscription_id"] for record in run.records} == {f"RC{number}" for number in range(ROWS)}
    assert len(run.records) == ROWS
    assert run.rejects == []


def test_cells_that_imitate_rows_are_read_as_cells(imitation: Path, sync: Tap) -> None:
    check_rows_are_the_real_ones(sync, imitation)


def test_imitation_test_notices_a_tap_without_second_opinion(
    imitation: Path, sync: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Agreeing(int):
        """A count that agrees with any other."""

        __hash__ = int.__hash__

        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

    monkeypatch.setattr(staging, "survey", lambda *_: Shape(records=Agreeing(0)))
    monkeypatch.setattr(staging.Stager, "_unread", lambda *_: ())
    with pytest.raises((AssertionError, InputRefused)):
        check_rows_are_the_real_ones(sync, imitation)

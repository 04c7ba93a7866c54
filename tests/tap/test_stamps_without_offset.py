"""Stamps without an offset are read as times of the zone in the settings, and a warning says how many, and which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.tap.conftest import Exports, MakeRow, Tap

WITH = (
    "2025-03-30 14:30:00 +0200", "2025-03-30 14:30:00 -0500", "2025-03-30T14:30:00Z", "2025-03-30T14:30:00+02:00",
    "2025-03-30T14:30:00-05:00", "2025-03-30 14:30:00-05", " 2025-03-30 14:30:00 +0200 ", "", " ",
)  # fmt: skip
WITHOUT = (
    "3/30/2025 2:30 PM", "12/30/2025 12:30:59 PM", "2025-03-30 14:30:00", "2025-03-30T14:30:00", "2025-03-30 14:30",
    "2025-03-30", " 2025-03-30 ",
)  # fmt: skip


def test_they_are_counted_and_the_zone_is_named(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    rows = [make_row(number, Start_date=cell, End_date=cell) for number, cell in enumerate([*WITH, *WITHOUT])]
    run = sync(exports.csv(rows), timezone="Europe/Amsterdam")
    assert len(run.records) == len(rows)
    assert f"{2 * len(WITHOUT)} stamps carry no offset and are read as times of Europe/Amsterdam" in run.log


@pytest.mark.parametrize("cell", WITH)
def test_others_are_not_counted(cell: str, exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    run = sync(exports.csv([make_row(1, Start_date=cell, Term_name="2025-03-30")]))
    assert "carry no offset" not in run.log

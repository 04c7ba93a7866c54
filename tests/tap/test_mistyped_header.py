"""A header that is nearly the name of a missing column: on a first load a fault, later a warning."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tap_piano.selection import Selection

if TYPE_CHECKING:
    from tests.tap.conftest import Exports, Tap

HEADERS = b"Subscription ID,User ID (UID),Term name,%s\nRC1,u1,Monthly,2026-01-01 00:00:00 +0000\n"
TYPED = "Acess expiration date"


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        (TYPED, "Access expiration date"), ("Access expiration dates", "Access expiration date"),
        ("Subscripton status", "Subscription status"), ("Nxt billing date", "Next billing date"),
    ],
)  # fmt: skip
def test_it_stops_a_first_load_and_goes_on_by_the_setting(exports: Exports, tap: Tap, header: str, meant: str) -> None:
    path = exports.bytes(HEADERS % header.encode())
    run = tap(path)
    assert (run.code, run.records) == (65, [])
    assert f"{header!r}: did you mean {meant!r}?" in run.errors
    line = run.errors.rsplit("set columns: ", 1)[1].strip()
    assert len(tap(path, columns=line).records) == 1


def test_with_history_it_is_a_warning(exports: Exports, tap: Tap) -> None:
    path = exports.bytes(HEADERS % TYPED.encode())
    state = {"bookmarks": {"subscription_log": {"handed_on": {"signature": "a-b", "after": None, "all": True}}}}
    run = tap(path, state=state)
    assert (run.code, len(run.records)) == (0, 1), run.log
    assert f"{TYPED!r}: did you mean 'Access expiration date'?" in run.log


def test_other_headers_and_missing_columns_stop_nothing(exports: Exports, tap: Tap) -> None:
    for header in (b"Shoe size", b"Zugriff", b"", b"Access expiration date"):
        assert tap(exports.bytes(HEADERS % header)).code == 0


def test_a_tap_that_does_not_look_is_noticed(exports: Exports, sync: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken double: the row leaves without the date."""
    monkeypatch.setattr(Selection, "mistyped", lambda _self: {})
    run = sync(exports.bytes(HEADERS % TYPED.encode()))
    assert (run.code, "access_expiration_date" in json.dumps(run.records)) == (0, False)

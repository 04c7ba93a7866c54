"""The bounds of dates."""

from __future__ import annotations

import duckdb
import pytest
from piano_engage_common.dates import in_bounds


@pytest.mark.parametrize(
    ("moment", "inside"),
    [
        ("1900-01-01 00:00:00+00", True),
        ("9999-12-31 23:59:59.999999+00", True),
        ("1899-12-31 23:59:59+00", False),
        ("1900-01-01 00:00:00+01", False),
        ("9999-12-31 23:59:59-08", False),
        ("10000-01-01 00:00:00+00", False),
        ("0001-01-01 (BC) 00:00:00+00", False),
        ("infinity", False),
        ("-infinity", False),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_bounds_are_the_years_1900_to_9999_of_utc(moment: str, inside: bool, zone: str) -> None:  # noqa: FBT001
    with duckdb.connect() as connection:
        connection.execute(f"SET TimeZone = '{zone}'")
        assert connection.sql(
            f"SELECT {in_bounds('moment')} FROM (SELECT TIMESTAMPTZ '{moment}' AS moment)"
        ).fetchall() == [(inside,)]

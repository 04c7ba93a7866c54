"""Civil time: offsets as zoneinfo has them, calendar months, the hour that occurs twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from piano_engage_sandbox.clock import ClockError, Zone, end_of_utc_day, zone

ZONES = ("Europe/Amsterdam", "America/New_York", "Asia/Kolkata", "Pacific/Auckland", "America/St_Johns", "UTC")
MOMENTS = st.integers(
    int(datetime(2015, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2040, 1, 1, tzinfo=UTC).timestamp())
)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


@given(st.sampled_from(ZONES), MOMENTS)
def test_both_forms_of_date_times_say_what_zoneinfo_says(name: str, moment: int) -> None:
    local = datetime.fromtimestamp(moment, ZoneInfo(name))
    assert zone(name).piano(moment) == local.strftime("%Y-%m-%d %H:%M:%S %z")
    twelve = local.strftime("%I:%M %p").removeprefix("0")
    assert zone(name).dashboard(moment) == f"{local.month}/{local.day}/{local.year} {twelve}"


@given(st.sampled_from(ZONES), MOMENTS)
def test_wall_and_back(name: str, moment: int) -> None:
    civil = zone(name)
    back = civil.moment(civil.wall(moment))
    assert civil.wall(back) == civil.wall(moment)
    assert back <= moment


@given(st.sampled_from(ZONES), MOMENTS, st.integers(0, 60))
def test_months_keep_the_day_and_the_local_time(name: str, moment: int, months: int) -> None:
    civil = zone(name)
    before = datetime.fromtimestamp(moment, civil.info)
    after = datetime.fromtimestamp(civil.shift(moment, months), civil.info)
    assert (after.year - before.year) * 12 + after.month - before.month == months
    if after.day != before.day:
        assert (after + timedelta(days=1)).month != after.month
    if after.time() != before.time():
        skipped = after.replace(hour=before.hour, minute=before.minute, tzinfo=None).replace(tzinfo=civil.info)
        assert skipped.astimezone(UTC).astimezone(civil.info).time() != before.time()


@pytest.mark.parametrize(
    ("start", "months", "days", "end"),
    [
        ("2024-02-29T12:00+01:00", 12, 0, "2025-02-28T12:00+01:00"),
        ("2024-02-29T12:00+01:00", 48, 0, "2028-02-29T12:00+01:00"),
        ("2026-01-31T08:00+01:00", 1, 0, "2026-02-28T08:00+01:00"),
        ("2026-02-28T08:00+01:00", 1, 0, "2026-03-28T08:00+01:00"),
        ("2026-03-01T08:00+01:00", 1, 0, "2026-04-01T08:00+02:00"),
        ("2026-02-28T02:30+01:00", 1, 1, "2026-03-29T03:30+02:00"),  # 02:30 does not exist that night
        ("2026-09-25T02:30+02:00", 1, 0, "2026-10-25T02:30+02:00"),  # 02:30 occurs twice: the first
        ("2025-12-20T23:59:59+01:00", 0, 28, "2026-01-17T23:59:59+01:00"),
    ],
)
def test_shift(start: str, months: int, days: int, end: str) -> None:
    assert zone("Europe/Amsterdam").shift(at(start), months, days) == at(end)


def test_the_doubled_hour_is_written_with_both_offsets() -> None:
    amsterdam = zone("Europe/Amsterdam")
    assert amsterdam.piano(at("2025-10-26T00:30:00+00:00")) == "2025-10-26 02:30:00 +0200"
    assert amsterdam.piano(at("2025-10-26T01:30:00+00:00")) == "2025-10-26 02:30:00 +0100"
    assert at("2025-10-26T01:00:00+00:00") in amsterdam.repeated_hours


def test_no_moment_is_an_empty_cell() -> None:
    assert zone("UTC").piano(None) == zone("UTC").dashboard(None) == ""


def test_noon_and_midnight_on_the_dashboard() -> None:
    utc = zone("UTC")
    assert utc.dashboard(at("2026-03-01T00:05+00:00")) == "3/1/2026 12:05 AM"
    assert utc.dashboard(at("2026-11-20T12:00+00:00")) == "11/20/2026 12:00 PM"


def test_a_night_of_the_month() -> None:
    utc = zone("UTC")
    assert utc.month_day(at("2026-02-10T00:00+00:00"), 30) == at("2026-02-28T03:00+00:00")
    assert utc.month_day(at("2026-03-31T00:00+00:00"), 30) == at("2026-03-30T03:00+00:00")


def test_end_of_utc_day() -> None:
    assert end_of_utc_day(at("2025-06-10T09:15:26+02:00")) == at("2025-06-11T01:59:59+02:00")


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "Europe"])
def test_unknown_zone(name: str) -> None:
    with pytest.raises(ClockError, match="unknown time zone"):
        Zone(name)


def test_parse_reads_local_time_unless_there_is_an_offset() -> None:
    amsterdam = zone("Europe/Amsterdam")
    assert amsterdam.parse("2026-03-28T06:00") == amsterdam.parse("2026-03-28T05:00+00:00")
    with pytest.raises(ClockError, match=r"not a date-time: '28-3-2026'"):
        amsterdam.parse("28-3-2026")

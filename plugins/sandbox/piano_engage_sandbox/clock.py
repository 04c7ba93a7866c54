"""Civil time of an application, fast enough to stamp millions of cells.

Moments are whole seconds since 1970 in UTC. Piano shows them in the application's time zone, so offsets change with
daylight saving, and it bills on the same local clock time every period (reference sheet of Piano, 2.4 and 2.6).
`zoneinfo` decides all offsets; this module only keeps its answers in tables.
"""

from __future__ import annotations

from bisect import bisect_right
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAY = 86_400
FIRST_YEAR, LAST_YEAR = 2010, 2075
"""Years the tables cover; lives begin in 2018 at the earliest and are planned some thirty years ahead at most."""

_EPOCH = date(1970, 1, 1)
_DAY_ZERO = (date(FIRST_YEAR, 1, 1) - _EPOCH).days
_MONTH_LENGTHS = [monthrange(y, m)[1] for y in range(FIRST_YEAR, LAST_YEAR + 1) for m in range(1, 13)]
_MONTH_STARTS = [_DAY_ZERO + sum(_MONTH_LENGTHS[:k]) for k in range(len(_MONTH_LENGTHS))]
_MONTH_AND_DAY = [(k, d) for k, length in enumerate(_MONTH_LENGTHS) for d in range(1, length + 1)]


class ClockError(ValueError):
    """A time zone or a date-time nobody can place."""


def end_of_utc_day(moment: int) -> int:
    """Give the last second of the UTC day of a moment: where Piano lets a paid period's access end."""
    return moment - moment % DAY + DAY - 1


class Zone:
    """One IANA time zone as tables: offsets, calendar arithmetic, and the two ways Piano writes a date-time."""

    def __init__(self, name: str) -> None:
        """Read the zone's changes of offset; raises ClockError when the machine does not know the zone."""
        try:
            self.info = ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as e:
            hint = "give an IANA name like Europe/Amsterdam (is the system's tzdata installed?)"
            msg = f"unknown time zone {name!r}: {hint}"
            raise ClockError(msg) from e
        self.name = name
        self._changes, self._offsets = _offset_table(self.info)
        pairs = zip(self._changes, self._offsets, self._offsets[1:], strict=False)
        self._wall_changes = [at + max(before, after) for at, before, after in pairs]
        self._offset_texts = [_offset_text(offset) for offset in self._offsets]
        days = [_EPOCH + timedelta(days=_DAY_ZERO + n) for n in range(len(_MONTH_AND_DAY))]
        self._days = [f"{d.isoformat()} " for d in days]
        self._short_days = [f"{d.month}/{d.day}/{d.year} " for d in days]
        sixty = [f":{n:02}" for n in range(60)]
        self._clock = [f"{h:02}{m}{s} " for h in range(24) for m in sixty for s in sixty]
        self._short_clock = [f"{(h + 11) % 12 + 1}{m} {'AP'[h // 12]}M" for h in range(24) for m in sixty]

    @property
    def repeated_hours(self) -> list[int]:
        """Moments at which clocks are put back: the local time before and after each of them occurs twice."""
        pairs = zip(self._changes, self._offsets, self._offsets[1:], strict=False)
        return [at for at, before, after in pairs if after < before]

    def wall(self, moment: int) -> int:
        """Give the local clock reading of a moment, as seconds since 1970 on that clock."""
        return moment + self._offsets[bisect_right(self._changes, moment)]

    def moment(self, wall: int) -> int:
        """Turn a local clock reading into a moment: the first of two, and later by the gap if there is none."""
        return wall - self._offsets[bisect_right(self._wall_changes, wall)]

    def shift(self, moment: int, months: int, days: int = 0) -> int:
        """Move by calendar months, then days, at the same local time; 31 January plus a month is 28 or 29 February."""
        day, second = divmod(moment + self._offsets[bisect_right(self._changes, moment)], DAY)
        if months:
            month, day_of_month = _MONTH_AND_DAY[day - _DAY_ZERO]
            month += months
            length = _MONTH_LENGTHS[month]
            day = _MONTH_STARTS[month] - 1 + min(day_of_month, length)
        wall = (day + days) * DAY + second
        return wall - self._offsets[bisect_right(self._wall_changes, wall)]

    def months_between(self, start: int, end: int) -> int:
        """Count how many times the calendar month turns between two moments."""
        first = _MONTH_AND_DAY[self.wall(start) // DAY - _DAY_ZERO][0]
        return _MONTH_AND_DAY[self.wall(end) // DAY - _DAY_ZERO][0] - first

    def month_day(self, moment: int, day: int) -> int:
        """Give 03:00 on the given day (or the last one) of the month of a moment."""
        month = _MONTH_AND_DAY[self.wall(moment) // DAY - _DAY_ZERO][0]
        day = min(day, _MONTH_LENGTHS[month])
        return self.moment((_MONTH_STARTS[month] + day - 1) * DAY + 3 * 3600)

    def piano(self, moment: int | None) -> str:
        """Write `YYYY-MM-DD HH:MM:SS +ZZZZ`, the form of the Reports API; nothing for no moment."""
        if moment is None:
            return ""
        k = bisect_right(self._changes, moment)
        day, second = divmod(moment + self._offsets[k], DAY)
        return self._days[day - _DAY_ZERO] + self._clock[second] + self._offset_texts[k]

    def dashboard(self, moment: int | None) -> str:
        """Write `M/D/YYYY h:mm AM/PM`, the form dashboard exports use; nothing for no moment."""
        if moment is None:
            return ""
        day, second = divmod(self.wall(moment), DAY)
        return self._short_days[day - _DAY_ZERO] + self._short_clock[second // 60]

    def parse(self, text: str) -> int:
        """Read an ISO date-time, local unless it has an offset; raises ClockError with the text."""
        try:
            when = datetime.fromisoformat(text)
        except ValueError as e:
            msg = f"not a date-time: {text!r}; write it like 2026-03-01T04:00"
            raise ClockError(msg) from e
        return self.of(when)

    def of(self, when: datetime) -> int:
        """Give the moment of a date-time; one without an offset is read as local time."""
        if when.tzinfo is not None:
            return int(when.timestamp())
        return self.moment(int(when.replace(tzinfo=UTC).timestamp()))


@lru_cache(maxsize=8)
def zone(name: str) -> Zone:
    """Give the tables of a zone, made once a process."""
    return Zone(name)


def _offset_text(offset: int) -> str:
    sign = "-" if offset < 0 else "+"
    return f"{sign}{abs(offset) // 3600:02}{abs(offset) // 60 % 60:02}"


def _offset_table(info: ZoneInfo) -> tuple[list[int], list[int]]:
    """List the moments at which the offset changes, and the offsets before, between and after them.

    Looks once a week: in the years covered no zone has changed twice within less than four weeks.
    """

    def offset(moment: int) -> int:
        delta = datetime.fromtimestamp(moment, info).utcoffset()
        return int(delta.total_seconds()) if delta is not None else 0

    first = _DAY_ZERO * DAY
    changes: list[int] = []
    offsets = [offset(first)]
    for day in range(first, first + len(_MONTH_AND_DAY) * DAY, 7 * DAY):
        low, high = day, day + 7 * DAY
        if offset(high) == offsets[-1]:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offsets[-1] else (low, middle)
        changes.append(high)
        offsets.append(offset(high))
    return changes, offsets

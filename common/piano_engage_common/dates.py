"""The moments that a date can be: what lies outside is a fault of whoever wrote it, and no system takes it."""

from __future__ import annotations

from typing import Final

FIRST_DAY: Final = "1900-01-01"
LAST_DAY: Final = "9999-12-31"
"""Piano and others write this one for "never ends"."""


def in_bounds(moment: str) -> str:
    """Build the SQL condition that *moment*, SQL of a TIMESTAMP WITH TIME ZONE, is in the years 1900 to 9999 of UTC."""
    first, last = f"TIMESTAMPTZ '{FIRST_DAY} 00:00:00+00'", f"TIMESTAMPTZ '{LAST_DAY} 23:59:59.999999+00'"
    return f"{moment} BETWEEN {first} AND {last}"

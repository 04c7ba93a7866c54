"""Which versions of DuckDB may be used: those that the packages' bounds allow, whoever installed them."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

import duckdb

LOWEST: Final = (2, 0, 1)
"""2.0.0 loses rows that a transaction wrote and reads again, and older ones cannot open a file of 2.0."""
BELOW: Final = (3, 0, 0)
BOUNDS: Final = ">=2.0.1,<3"
"""The same as every ``pyproject.toml`` has it."""

_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(.*)")
_BEFORE: Final = re.compile(r"[-_.]?(a|b|c|rc|alpha|beta|pre|preview|dev)[-_.]?\d*", re.IGNORECASE)
"""The start of what marks a version as one that comes before the release of that number."""


def complaint(version: str) -> str | None:
    """Return why *version* of DuckDB must not be used, and what to do; None when it may."""
    if found := _VERSION.fullmatch(version):
        major, minor, patch, rest = found.groups()
        number = (int(major), int(minor), int(patch or 0))
        too_early = number == LOWEST and _BEFORE.match(rest)
        if LOWEST <= number < BELOW and not too_early:
            return None
    return (
        f"DuckDB {version} is installed, and this program runs with duckdb{BOUNDS} only: 2.0.0 loses rows, so that "
        "users would get wrong values, and other versions were never tested. Nothing was read or sent. Install the "
        f"plugin again, or put the engine right in its environment: pip install 'duckdb{BOUNDS}'"
    )


@cache
def installed_complaint() -> str | None:
    """Return :func:`complaint` of the DuckDB that is installed."""
    return complaint(duckdb.__version__)

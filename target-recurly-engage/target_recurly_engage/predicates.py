"""Segments as SQL: one predicate each, over columns that are named like the traits.

What is absent counts as the value that clears a trait for texts and booleans, as Engage sees it; a number or a date
that is absent is no number and no date, and no comparison with it holds.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import name, text

from target_recurly_engage.filters import value_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from target_recurly_engage.filters import Filter
    from target_recurly_engage.segments import Segment
    from target_recurly_engage.traits import Kind, Trait


def share(salt: str, user: str = "user_id") -> str:
    """Make the SQL of a number from 0 to below 1 that a reader has for *salt*, everywhere and for ever.

    It is the first 32 bits of SHA-256 over the salt, a colon and the user id in UTF-8, divided by two to the 32nd.
    """
    return f"(('0x' || substr(sha256({text(salt + ':')} || {user}), 1, 8))::UBIGINT / 4294967296)"


def predicate(segment: Segment, *, today: str, clear: Mapping[Kind, str]) -> str:
    """Make the SQL that says whether a reader is in the segment, before priority and hold-back.

    It reads columns named like the traits' keys, of their types, a day for a date; ``in <segment>`` for others; and
    ``may <promotion>``.

    Args:
        segment: the segment.
        today: the day that counts as today, as ISO 8601.
        clear: what stands for a text and a boolean that is absent.
    """
    return " AND ".join(holds(one, today, clear) for one in segment.filters) or "false"


def member(segment: str) -> str:
    """Name, quoted, of the column that says who matches a segment."""
    return name(f"in {segment}")


def delivered(segment: str) -> str:
    """Return the quoted name of the column that says for whom a segment is delivered, after priority and hold-back."""
    return name(f"told {segment}")


def may(promotion: str) -> str:
    """Name, quoted, of the column that says who may use a promotion."""
    return name(f"may {promotion}")


def holds(row: Filter, today: str, clear: Mapping[Kind, str]) -> str:
    """Make the SQL that says whether one filter holds; as :func:`predicate`."""
    if row.any_of:
        return f"({' OR '.join(holds(one, today, clear) for one in row.any_of)})"
    if row.promotion:  # NULL where the ledger does not know it, so neither of the two holds
        return f"coalesce({'NOT ' if row.exclude else ''}{may(row.promotion)}, false)"
    if row.segment:
        asked = member(row.segment)
    else:
        assert row.trait  # noqa: S101 - a filter asks of something
        asked = f"coalesce({_asks(row, row.trait, today, clear)}, false)"
    return f"NOT {asked}" if row.exclude else asked


def _asks(row: Filter, trait: Trait, today: str, clear: Mapping[Kind, str]) -> str:
    column, day = name(trait.key), f"DATE {text(today)}"
    written = [_written(value) for value in row.values]
    if row.operator == "one_of":
        if trait.kind in clear:
            column = f"coalesce({column}, {_written(value_of(trait.kind, trait.clear or clear[trait.kind]))})"
        return f"{column} IN ({', '.join(written)})"
    if row.operator == "within_next_days":
        return f"{column} BETWEEN {day} AND {day} + {written[0]}"
    if row.operator == "within_last_days":
        return f"{column} BETWEEN {day} - {written[0]} AND {day}"
    if row.operator == "is_set":
        return f"{column} IS NOT NULL"
    if row.operator == "between":
        return f"{column} BETWEEN {written[0]} AND {written[1]}"
    return f"{column} {_COMPARISONS[row.operator]} {written[0]}"


_COMPARISONS: Final = {"at_least": ">=", "at_most": "<=", "before": "<", "after": ">"}


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):
        return f"DATE {text(value.isoformat())}"
    return text(value) if isinstance(value, str) else str(value)


def told(segments: Sequence[Segment]) -> dict[str, str]:
    """Make for each segment the SQL that says who is told to be in it, from the columns that say who matches."""
    made = {}
    for segment in segments:
        rivals = [
            one for one in segments
            if segment.exclusive and one.exclusive == segment.exclusive and _place(one) < _place(segment)
        ]  # fmt: skip
        parts = [member(segment.name), *(f"NOT {member(one.name)}" for one in rivals)]
        if segment.holdback:
            parts.append(f"{share(f'holdback:{segment.name}')} >= {segment.holdback!r}")
        made[segment.name] = " AND ".join(parts)
    return made


def _place(segment: Segment) -> tuple[int, str]:
    return segment.priority, segment.name

"""What the page shows, taken from the store and the journal as templates want it. Nothing here looks at every user."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import accumulate, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from piano_engage_sandbox.engage.html import encodable
from piano_engage_sandbox.engage.values import CLEAR, kind_of, text_of
from piano_engage_sandbox.journal import ERROR, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from piano_engage_sandbox.engage.segments import Segment
    from piano_engage_sandbox.engage.store import Engage
    from piano_engage_sandbox.engage.traits import Trait
    from piano_engage_sandbox.engage.users import IngestedFile, User, Write
    from piano_engage_sandbox.engage.values import Clear, Value
    from piano_engage_sandbox.journal import Entry

PER_PAGE: Final = 50
MOST_FREQUENT: Final = 3
"""Values of a trait that are listed beside it."""

COMMON: Final = 0.03
"""Share from which on a value says something; below it, the number of different values says more."""

DISPLAYS: Final = {"slider": "slider", "multi_select": "multi-select", "date_range": "date range", None: ""}
SOURCES: Final = {"api": "API", "query": "API, query", "ping": "ping", "csv": "CSV"}
TONES: Final = {"done": "good", "refused": "bad", "waiting": "wait", "reading": "wait", "ignored": ""}
PARTS: Final = {
    Part.ENGAGE: "Engage",
    Part.PUBLISHER: "Piano Publisher",
    Part.REPORTS: "Piano Reports",
    Part.NOBODY: "unknown address",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a longer list. A number beyond the last gives the last."""

    wanted: int
    total: int
    path: str
    query: Mapping[str, str]
    per: int = PER_PAGE

    @property
    def last(self) -> int:
        """Number of the last page; an empty list has one."""
        return max(1, -(-self.total // self.per))

    @property
    def number(self) -> int:
        """Number of this one, from 1 on."""
        return min(max(self.wanted, 1), self.last)

    @property
    def offset(self) -> int:
        """How many rows stand on the pages before."""
        return (self.number - 1) * self.per

    @property
    def until(self) -> int:
        """Number of the last row on it, counted from 1."""
        return min(self.offset + self.per, self.total)

    def at(self, number: int) -> str:
        """Give the address of another page of the same list."""
        return f"{self.path}?{urlencode({**self.query, 'page': number})}"


def share(part: int, whole: int) -> float:
    """Give the share of a part from 0 to 1; nothing of nothing is 0."""
    return part / whole if whole else 0.0


def commonest(engage: Engage, limit: int, offset: int = 0) -> list[Trait]:
    """List traits by the number of users who have one, then by name."""
    ordered = sorted(engage.traits.values(), key=lambda trait: (-trait.users, trait.name))
    return ordered[offset : offset + limit]


def trait_row(trait: Trait, users: int) -> dict[str, Any]:
    """Show a trait with its most frequent values."""
    frequent = heapq.nlargest(MOST_FREQUENT, trait.values.items(), key=itemgetter(1))
    common = len(trait.values) <= MOST_FREQUENT or share(frequent[0][1], trait.users) >= COMMON
    return {
        "name": trait.name,
        "description": trait.description,
        "types": [kind for kind, _ in trait.kinds.most_common()],
        "type": trait.type,
        "set_apart": trait.by_hand is not None and set(trait.kinds) != {trait.type},
        "display": DISPLAYS[trait.display],
        "users": trait.users,
        "share": share(trait.users, users),
        "top": parts(frequent, trait.users) if common else [],
        "more": len(trait.values) - len(frequent),
        "distinct": len(trait.values),
        "full": trait.full,
    }


def parts(frequent: Sequence[tuple[str, int]], users: int) -> list[dict[str, Any]]:
    """Show values as parts of all: their share, and the share of those before them."""
    before = accumulate((n for _, n in frequent), initial=0)
    return [
        {"text": text, "share": share(n, users), "before": share(sum_before, users)}
        for (text, n), sum_before in zip(frequent, before, strict=False)
    ]


def value_rows(trait: Trait, page: Page) -> list[dict[str, Any]]:
    """Show the values of a trait that stand on a page, the most frequent first."""
    ordered = sorted(trait.values.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"text": text, "users": n, "share": share(n, trait.users), "search": search_address(trait.name, text)}
        for text, n in ordered[page.offset : page.until]
    ]


def search_address(trait: str, value: str) -> str:
    """Give the address that lists the users with a value; nothing where the search cannot say it."""
    words = f"{trait}={value}"
    sayable = "=" not in trait and encodable(words) and words == words.strip()
    return f"/users?{urlencode({'q': words})}" if sayable else ""


def segment_row(segment: Segment, users: int) -> dict[str, Any]:
    """Show a segment."""
    return {
        "name": segment.name,
        "description": segment.description,
        "enabled": segment.enabled,
        "rules": segment.rules,
        "size": segment.size,
        "share": share(segment.size, users),
    }


def user_row(user: User) -> dict[str, Any]:
    """Show a user in a list."""
    return {"id": user.id, "created": user.created, "traits": len(user.traits), "segments": user.segments}


def user_rows(engage: Engage, ids: Iterable[str]) -> list[dict[str, Any]]:
    """Show those users in a list."""
    return [user_row(user) for user in map(engage.user, ids) if user is not None]


def members(engage: Engage, segment: Segment, page: Page) -> list[dict[str, Any]]:
    """Show the members of a segment that stand on a page, in order of creation."""
    found = (user for user in engage.each_user() if user.id in segment.members)
    return [user_row(user) for user in islice(found, page.offset, page.until)]


def trait_of_user(user: User, name: str) -> dict[str, Any]:
    """Show one trait of a user: its value, and where it is from."""
    value, write = user.traits[name], user.written[name]
    return {
        "name": name,
        "text": text_of(value),
        "type": kind_of(value),
        "source": source(write.source),
        "written": write.at,
    }


def write_row(write: Write) -> dict[str, Any]:
    """Show a write: when, by what, and what it said."""
    said = [f"{name} = {written(value)}" for name, value in islice(write.properties.items(), 4)]
    rest = len(write.names) - len(said)
    return {
        "at": write.at,
        "source": source(write.source),
        "what": ", ".join(said) or "nothing",
        "rest": rest,
    }


def written(value: Value | Clear) -> str:
    """Say what was written to a trait."""
    return "(cleared)" if value is CLEAR else text_of(value)


def source(word: str) -> str:
    """Say what a write came by."""
    return SOURCES.get(word, word)


def collection_table(name: str, records: Sequence[Mapping[str, Value]]) -> dict[str, Any]:
    """Show a user's records of a collection."""
    names = list(dict.fromkeys(key for record in records for key in record))
    rows = [[text_of(record[key]) if key in record else "" for key in names] for record in records]
    return {"name": name, "names": names, "rows": rows}


def file_row(file: IngestedFile) -> dict[str, Any]:
    """Show a file."""
    dropped = [f"column not processed: {column}" for column in file.dropped]
    skipped = [f"{file.skipped:,} rows not processed"] if file.skipped else []
    return {
        "name": file.key,
        "size": file.size,
        "uploaded": file.uploaded,
        "read": file.read_at,
        "status": file.status,
        "tone": TONES[file.status],
        "rows": file.rows,
        "users": file.users,
        "errors": [*file.errors, *dropped, *skipped],
    }


def chart(minutes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Show requests and errors of each minute as bars of 0 to 100."""
    pairs = [
        tuple(sum(part[word] for part in minute["parts"].values()) for word in ("requests", "errors"))
        for minute in minutes
    ]
    peak = max(requests for requests, _ in pairs)
    total, errors = (sum(numbers) for numbers in zip(*pairs, strict=True))
    return {
        "bars": [{"all": height(requests, peak), "errors": height(bad, peak)} for requests, bad in pairs],
        "peak": peak,
        "requests": total,
        "errors": errors,
        "minutes": len(pairs),
    }


def height(number: int, peak: int) -> float:
    """Scale a bar; what is not nothing can be seen."""
    return round(max(98 * number / peak, 2.0), 1) if number else 0.0


def counters(minutes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Count requests by who answered: in this minute, in all of these minutes, and the errors among those."""
    return [
        {
            "name": name,
            "now": _of(minutes[-1:], part, "requests"),
            "all": _of(minutes, part, "requests"),
            "errors": _of(minutes, part, "errors"),
        }
        for part, name in PARTS.items()
        if part is not Part.NOBODY or _of(minutes, part, "requests")
    ]


def _of(minutes: Iterable[Mapping[str, Any]], part: Part, word: str) -> int:
    return sum(minute["parts"].get(str(part), {}).get(word, 0) for minute in minutes)


def request_row(entry: Entry) -> dict[str, Any]:
    """Show a request; the journal has masked it."""
    query = "&".join(
        f"{name}={value}"
        for name, values in entry.query.items()
        for value in (values if isinstance(values, list) else [values])
    )
    said = "in the air" if entry.ms is None else "answer lost" if entry.lost else ""
    good = entry.status is not None and entry.status < ERROR and not entry.lost
    return {
        "at": entry.at,
        "part": PARTS.get(entry.part, str(entry.part)),
        "method": entry.method,
        "address": f"{entry.path}?{query}" if query else entry.path,
        "status": "-" if entry.status is None else str(entry.status),
        "tone": "good" if good else "wait" if entry.ms is None else "bad",
        "note": ", ".join(filter(None, (entry.fault, said))),
        "ms": "-" if entry.ms is None else f"{entry.ms:.1f}",
    }

"""Files of messages and batches: where they lie, and the SQL that reads them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlparse

from piano_engage_common.duck import file_source, text
from piano_engage_common.stops import InputRefused

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import duckdb

MAX_RECORD_BYTES: Final = 16 << 20
MAX_DEPTH: Final = 100
_GZIP: Final = b"\x1f\x8b"


def json_lines(path: Path, columns: str) -> str:
    """Make the SQL that reads JSON lines; all as text, for a number that is none shall be named, not guessed at."""
    return (
        f"read_json({file_source(path)}, format = 'newline_delimited', columns = {columns}, "
        f"compression = {text(_compression(path))}, maximum_object_size = {MAX_RECORD_BYTES})"
    )


def whole_lines(path: Path) -> str:
    """Make the SQL that reads JSON lines as they stand, each in a column ``line``."""
    return (
        f"(SELECT json AS line FROM read_json_objects({file_source(path)}, format = 'newline_delimited', "
        f"compression = {text(_compression(path))}, maximum_object_size = {MAX_RECORD_BYTES}))"
    )


def _compression(path: Path) -> str:
    """Look into the file, for the message need not tell."""
    with path.open("rb") as file:
        return "gzip" if file.read(len(_GZIP)) == _GZIP else "uncompressed"


def local_path(url: str) -> Path:
    """Give the file that a BATCH message names.

    Raises:
        InputRefused: it is gone, or lies elsewhere.
    """
    address = urlparse(url)
    if address.scheme not in {"", "file"} or address.netloc not in {"", "localhost"}:
        msg = f"BATCH: {url} does not lie on this machine. Let the tap write its batches into a local folder."
        raise InputRefused(msg)
    path = Path(unquote(address.path))
    if not path.is_file():
        msg = f"BATCH: there is no file {path}. Do tap and target see the same file system?"
        raise InputRefused(msg)
    return path


def unreadable(label: str, error: duckdb.Error) -> InputRefused:
    """Say that *label* cannot be read, by the first line of what DuckDB says."""
    return InputRefused(f"{label}: holds what cannot be read: {str(error).splitlines()[0]}. Nothing was sent.")


@dataclass(slots=True)
class Rewritten:
    """What a file of JSON lines lost when it was rewritten.

    Attributes:
        rejected: lines that hold no record that can be used.
        ids: keys of these, as far as they have one.
        invalid: values that were taken out of the others, by property.
    """

    rejected: int = 0
    ids: list[str] = field(default_factory=list)
    invalid: Counter[str] = field(default_factory=Counter)

    def usable(
        self, record: dict[str, Any] | None, columns: Collection[str], key: Sequence[str], *, whole_rows: bool
    ) -> dict[str, Any] | None:
        """Return what can be used of a record, and count what cannot; None where the record has to go."""
        if record is None:
            self.rejected += 1
            return None
        odd = {one for one in columns if one in record and _is_odd(record[one])}
        if odd and whole_rows:
            self.rejected += 1
            self.ids += [one for one in [record.get(key[0])] if isinstance(one, str) and not _is_odd(one)]
            return None
        self.invalid.update(odd.difference(key))
        return {one: _plain(record[one]) for one in columns if one in record and one not in odd}


def rewrite_lines(
    path: Path, label: str, member: str | None, columns: Collection[str], key: Sequence[str], *, whole_rows: bool
) -> Rewritten:
    """Rewrite a file of JSON lines with no more than *columns*, and without what no JSON has.

    That is half a surrogate pair, a name that comes twice, or a record that is no object. It takes much longer than the
    database needs to read the file, so it is for files that the database does not read.

    Args:
        path: the file; gzip stays gzip.
        label: what to call it in messages.
        member: the member of each line that holds the record; None where the line is the record.
        columns: properties to keep.
        key: those without which a record is of no use; the first one names it.
        whole_rows: reject a record with a value that has to be taken out.

    Raises:
        InputRefused: a line is no JSON at all, in a file whose rows all matter.
    """
    found, part = Rewritten(), path.with_suffix(".part")
    try:
        with _opened(path, "rb") as lines, _opened(part, "wb", like=path) as kept:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    record = _record_of(
                        line, member, f"{label}: holds what cannot be read: line {number:,}", whole_rows
                    )
                    if record := found.usable(record, columns, key, whole_rows=whole_rows):
                        kept.write(json.dumps({member: record} if member else record).encode() + b"\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return found


def _opened(path: Path, mode: str, *, like: Path | None = None) -> IO[bytes]:
    packed = _compression(like or path) == "gzip"
    return gzip.open(path, mode) if packed else path.open(mode)  # type: ignore[return-value]


def _record_of(line: bytes, member: str | None, label: str, whole_rows: bool) -> dict[str, Any] | None:  # noqa: FBT001
    try:
        record = json.loads(line, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as e:
        if whole_rows or isinstance(e, _NotDistinctError):
            return None
        msg = f"{label} is no JSON. Nothing was sent; did the tap break off?"
        raise InputRefused(msg) from None
    if member is not None and isinstance(record, dict):
        record = record.get(member)
    return record if isinstance(record, dict) else None


class _NotDistinctError(ValueError):
    """A name stands twice in an object, so nobody can tell which of its values is meant."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotDistinctError
    return found


def _is_odd(value: object) -> bool:
    """Whether a value has text in it that is no Unicode, or is nested deeper than the database follows."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return True
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner for one in level if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]  # fmt: skip
    return bool(level)


def _plain(value: object) -> object:
    """Return lists and objects as their JSON text, as which they are kept."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if isinstance(value, dict | list) else value

"""Files of messages and batches: where they lie, and the SQL that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlparse

from piano_engage_common.duck import file_source, text
from piano_engage_common.stops import InputRefused

if TYPE_CHECKING:
    import duckdb

MAX_RECORD_BYTES: Final = 16 << 20
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

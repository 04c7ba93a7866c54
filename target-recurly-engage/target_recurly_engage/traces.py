"""Where a reader may be named outside of the ledger's tables of readers: summaries of runs, reports, CSVs.

Neither summaries nor reports hold readers, but a message or a reason of Engage that they quote may.
"""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from target_recurly_engage.ledger import Ledger

INSTEAD: Final = "[erased]"
_NOBODY: Final = frozenset({"run_id", "status", "started_at", "finished_at", "as_of", "plan", "sha256"})
"""Members of a summary that are words or moments of our own."""
_TEXTS: Final = frozenset({"reasons", "unknown_status_words", "invalid"})
_PARTS: Final = re.compile(r"(<style.*?</style>|<[^>]*>)|[^<]+", re.DOTALL)


def scrub(ledger: Ledger, config: Mapping[str, Any], words: Sequence[str]) -> None:
    """Take *words*, which stand for a reader, out of what is kept of runs: the ledger's copy, the JSON, the page.

    Only texts are searched, so that a count that looks like an id stays; a page only where its summary named him.
    """
    pattern = _pattern(words)
    for run_id, summary in ledger.connection.execute("SELECT run_id, summary FROM runs").fetchall():
        told = json.loads(summary) if summary else None
        if (scrubbed := _without(told, pattern)) != told:
            ledger.connection.execute("UPDATE runs SET summary = ? WHERE run_id = ?", [json.dumps(scrubbed), run_id])
    for path in Path(config["runs_path"]).glob("*.json"):
        with storage_errors(f"writing {path}"):
            told = _read(path)
            if (scrubbed := _without(told, pattern)) == told:
                continue
            page = path.with_suffix(".html")
            if page.exists():  # the summary last, for it says that there is something to do
                _replace(page, _without_on_page(page.read_text(encoding="utf-8"), _pattern(map(html.escape, words))))
            written = scrubbed if isinstance(told, str) else json.dumps(scrubbed, indent=2, ensure_ascii=False) + "\n"
            _replace(path, written)


def naming_files(folders: Iterable[str], user_id: str) -> list[Path]:
    """List the CSVs in folders for output that name a reader; they are somebody else's to remove."""
    found = []
    for path in sorted({path.resolve() for folder in folders for path in Path(folder).glob("*.csv")}):
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = csv.reader(file)
            if "user_id" in (header := next(rows, [])):
                place = header.index("user_id")
                found += [path] if any(row[place : place + 1] == [user_id] for row in rows) else []
    return found


def _read(path: Path) -> Any:  # noqa: ANN401 - JSON
    """Read a summary; what is none, in that folder, is a text to look through."""
    content = path.read_text(encoding="utf-8", errors="replace")
    try:
        return json.loads(content)
    except ValueError:
        return content


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    spelled = "|".join(map(re.escape, sorted(set(words), key=len, reverse=True)))
    return re.compile(rf"(?<![\w-])(?:{spelled})(?![\w-])")


def _without(told: Any, pattern: re.Pattern[str]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(told, str):
        return pattern.sub(INSTEAD, told)
    if isinstance(told, list):
        return [_without(one, pattern) for one in told]
    if isinstance(told, dict):
        return {
            key: value if key in _NOBODY else _texts(value, pattern) if key in _TEXTS else _without(value, pattern)
            for key, value in told.items()
        }
    return told


def _texts(told: Any, pattern: re.Pattern[str]) -> Any:  # noqa: ANN401 - JSON
    """As :func:`_without`, of a member whose keys are texts that somebody else wrote."""
    if isinstance(told, dict):
        return {pattern.sub(INSTEAD, key): _without(value, pattern) for key, value in told.items()}
    return _without(told, pattern)


def _without_on_page(page: str, pattern: re.Pattern[str]) -> str:
    """Take words out of what a page shows; its style and its tags stay as they are."""
    return _PARTS.sub(lambda part: part[0] if part[1] else pattern.sub(INSTEAD, part[0]), page)


def _replace(path: Path, content: str) -> None:
    part = path.with_suffix(f"{path.suffix}.part")
    part.write_text(content, encoding="utf-8")
    part.replace(path)

"""Where a reader may be named outside of the ledger's tables of readers: summaries of runs, reports, CSVs.

Neither summaries nor reports hold readers, but a message or a reason of Engage that they quote may.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import text
from piano_engage_common.stops import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from target_recurly_engage.ledger import Ledger

INSTEAD: Final = "[erased]"


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
                _replace(page, _pattern(map(html.escape, words)).sub(INSTEAD, page.read_text(encoding="utf-8")))
            written = scrubbed if isinstance(told, str) else json.dumps(scrubbed, indent=2, ensure_ascii=False) + "\n"
            _replace(path, written)


def naming_files(ledger: Ledger, config: Mapping[str, Any], user_id: str) -> list[Path]:
    """List the CSVs in the output folder that name a reader; they are somebody else's to remove."""
    found = []
    for path in sorted(Path(config["output_path"]).glob("*.csv")):
        source = f"read_csv({text(str(path))}, header = true, all_varchar = true, ignore_errors = true)"
        if ledger.count(f"SELECT count(*) FROM {source} WHERE user_id = ?", user_id):
            found.append(path)
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
        return {_without(key, pattern): _without(value, pattern) for key, value in told.items()}
    return told


def _replace(path: Path, content: str) -> None:
    part = path.with_suffix(f"{path.suffix}.part")
    part.write_text(content, encoding="utf-8")
    part.replace(path)

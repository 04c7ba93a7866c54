"""What the tap's state claims to have handed on, and whether export files hold nothing else.

What they hold decides, never their names or times: an exporter may write each night's export over the last one, with
the same size and, after a copy, with an older time. The stream's bookmark keeps, under :data:`KEY`,

``signature``
    of what was handed on in full: who did, which is the settings and the way of reading; a hyphen; and the content of
    the files. Two that read the same files, such as an hourly job and a nightly one, differ in the first part only;
``after``
    the signature of what was handed on before it, when only changes since then were sent: who has not taken that in
    lacks rows. A run that had nothing to read builds on what it claims itself. None when all rows were sent, or when
    nobody can name what was handed on before;
``all``
    whether all rows were sent.

What Piano makes at our request is read in every run, so its content need not be compared: in its place stands
:data:`JOB` and a number of its own.

A target that keeps what it takes in can hold this against what it has.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping, Sequence

    from piano_engage_common.progress import Progress

    from tap_piano.files import Export

KEY: Final = "handed_on"
SKIP, READ = "skip", "read"

JOB: Final = "job:"

BLOCK: Final = 1 << 20

HARMLESS: Final = frozenset({
    "export_path", "api_token", "region", "api_url", "reports_url", "reports_token_in", "page_size",
    "requests_per_second", "concurrency", "request_timeout", "retry_attempts", "retry_wait", "retry_seconds",
    "export_wait", "export_poll", "promo_code_refresh_days", "rejects_path", "memory_limit", "batch_config",
    "unchanged_files", "min_export_share",
})  # fmt: skip
"""Settings that change nothing about which rows leave and what stands in them; all others are part of the signature."""


def signature(
    exports: Sequence[Export],
    *,
    config: Mapping[str, Any],
    properties: Iterable[str],
    method: str,
    progress: Progress,
) -> str:
    """Give a name to what the files hold and to what is made of it.

    Args:
        exports: the files; of two rows alike, the order of the files decides, so it counts.
        config: the tap's settings.
        properties: what is selected.
        method: how the stream is replicated.
        progress: told how far the reading is.
    """
    sources = list(dict.fromkeys(export.source for export in exports))
    done, size = 0, sum(source.stat().st_size for source in sources)
    contents = []
    with progress.steps("subscription_log: is it a new export", lambda: 100 * done / max(size, 1)):
        for source in sources:
            content = hashlib.sha256()
            with source.open("rb") as file:
                while block := file.read(BLOCK):
                    content.update(block)
                    done += len(block)
            contents.append(content.hexdigest())
    return f"{_who(config, properties, method)}-{_digest(contents)}"


def signature_of_job(*, config: Mapping[str, Any], properties: Iterable[str], method: str) -> str:
    """Give a name to what comes of an export job; the arguments are those of :func:`signature`."""
    return f"{_who(config, properties, method)}-{JOB}{uuid.uuid4().hex}"


def _who(config: Mapping[str, Any], properties: Iterable[str], method: str) -> str:
    settings = {name: config[name] for name in config if name not in HARMLESS}
    return _digest([version("tap-piano"), settings, sorted(properties), method])[:16]


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def claimed(bookmark: Mapping[str, Any]) -> str | None:
    """Read from a bookmark what was handed on last; None when it does not tell."""
    claim = bookmark.get(KEY)
    found = claim.get("signature") if isinstance(claim, dict) else None
    return found if isinstance(found, str) else None


def claim(bookmark: MutableMapping[str, Any], of: str | None, *, after: str | None = None, whole: bool = False) -> None:
    """Write into a bookmark what was handed on; nothing, where a run may have handed on part of something."""
    if of is not None:
        bookmark[KEY] = {"signature": of, "after": after, "all": whole}
    elif KEY in bookmark:
        bookmark[KEY] = None  # not removed: whoever merges states would bring it back

"""What the report of a run tells: what came, what changed, what looks wrong, what is left to do, and the runs before.

All of it comes from the run's summary, from those of earlier runs in the ledger, and from counts over the ledger. No
reader is named: reasons that Engage gave lose ids and addresses before they are shown.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from target_recurly_engage.delivery.doubt import IN_DOUBT
from target_recurly_engage.ended import INCOMPLETE
from target_recurly_engage.pulse import DISPLAYS, TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger

RUNS: Final = 10
REASONS: Final = 20
TRAITS: Final = 15
"""Traits that get a row with a chart; of the others the numbers are listed."""
OLD_HOURS: Final = 36
_LONGEST_WORD: Final = 40
_ADDRESS: Final = re.compile(r"[^\s\"'<>(),;:]+@[^\s\"'<>(),;:]+")
_HIDDEN: Final = "…"
_TONES: Final = {"finished": "good", "dry run": "plain", INCOMPLETE: "warn"}
"""By how a run ended; all other ends are bad ones."""

Facts = dict[str, Any]


def facts(told: Mapping[str, Any], ledger: Ledger, contract: Contract, *, now: datetime) -> Facts:
    """Collect what the report shows.

    Args:
        told: the run's summary.
        ledger: holds the earlier ones, and what there is to count.
        contract: what may be sent.
        now: data is as old as it is at that moment.
    """
    acknowledged = _acknowledged(ledger)
    runs = [_of_run(told, acknowledged), *_earlier(ledger, told["run_id"], acknowledged)]
    shown: Facts = {
        "run": {**told, "tone": _TONES.get(told["status"], "bad"), "message": message_of(told)},
        "planned": _planned(told),
        "acknowledged": runs[0]["told"],
        "done": done_words(told),
        "sources": _sources(told),
        "freshness": _freshness(ledger, now),
        "funnel": _funnel(told, runs[0]["told"]),
        "segments": _segments(told, contract, runs),
        "traits": _traits(told, contract),
        "rejects": _rejects(ledger),
        "words": {_word(word): count for word, count in told["unknown_status_words"].items()},
        "to_do": _to_do(ledger, contract, told, runs),
        "runs": runs,
        "usual": _usual(runs),
    }
    return shown | {"attention": list(_attention(shown)), "headline": _headline(shown)}


# What happened


def _planned(told: Mapping[str, Any]) -> int:
    users = told["users"] or {}
    return sum(int(users.get(kind) or 0) for kind in ("new", "changed", "cleared", "again"))


def _acknowledged(ledger: Ledger) -> dict[str, int]:
    """Count by run the readers that Engage took, also of runs that broke off."""
    query = (
        "SELECT run_id, sum(users)::BIGINT FROM deliveries WHERE acknowledged_at IS NOT NULL AND status <> ? GROUP BY 1"
    )
    return dict(ledger.connection.execute(query, [IN_DOUBT]).fetchall())


def message_of(told: Mapping[str, Any]) -> str | None:
    """Say why the run ended; of an error that nobody foresaw only its name, for its words may hold a reader."""
    message = told["message"]
    if message and told["status"] == "failed":
        return f"{message.split(':')[0]}. The summary beside this page has its words, and the log all of it."
    return message and masked(message)


def masked(words: str) -> str:
    """Hide addresses of readers."""
    return _ADDRESS.sub(_HIDDEN, words)


def _word(word: str) -> str:
    """Show a status word; what is no such word may be a name or an address in the wrong column."""
    return f"(a text of {len(word)} characters)" if len(word) > _LONGEST_WORD or "@" in word else word or "(none)"


def _sources(told: Mapping[str, Any]) -> list[Facts]:
    """List the sources that came: rows before, among what came, vanished, and after."""
    merged = [("Subscriptions", told["subscriptions"]), *told["users_streams"].items(), *told["catalogue"].items()]
    merged.append(("Subscriptions of the API, for comparison", told["api_subscriptions"]))
    return [{"name": name, **counts} for name, counts in merged if counts]


def done_words(told: Mapping[str, Any]) -> str:
    """Return what became of what a run delivered: of a local folder nobody can tell whether Engage reads it."""
    is_folder = (told.get("destination") or {}).get("kind") == "folder"
    return "written into the folder" if is_folder else "acknowledged by Engage"


def _funnel(told: Mapping[str, Any], acknowledged: int) -> list[Facts]:
    users = told["users"] or {}
    steps = [
        ("Rows that came", told["rows"]["read"]),
        ("Subscriptions known", (told["subscriptions"] or {}).get("after")),
        ("Readers", users.get("total")),
        ("Readers with something to tell", _planned(told) if users else None),
        (f"{done_words(told)[:1].upper()}{done_words(told)[1:]}", acknowledged),
    ]
    most = max(count or 0 for _, count in steps)
    return [{"step": step, "count": count, "share": 100 * (count or 0) / (most or 1)} for step, count in steps]


def _segments(told: Mapping[str, Any], contract: Contract, runs: Sequence[Facts]) -> list[Facts]:
    """Give each segment's size, who enters and leaves, and its sizes in the runs that finished, the oldest first."""
    total = (told["users"] or {}).get("total") or 0
    meaning = {one.name: one.description for one in contract.segments}
    rows = []
    for name, sizes in told["segments"].items():
        before = [run["segments"][name] for run in reversed(runs[1:]) if run["finished"] and name in run["segments"]]
        share = 100 * sizes["readers"] / total if total else 0
        more = {"share": share, "meaning": meaning.get(name, ""), "sizes": [*before, sizes["readers"]]}
        rows.append({"name": name, **sizes, **more})
    return rows


def _traits(told: Mapping[str, Any], contract: Contract) -> Facts:
    """Give the traits that change, most readers first, each with its shares of a bar, and the number of the others.

    Those of segments are left out, for each segment has a row of its own.
    """
    of_segments = {f"told {one.name}" for one in contract.segments}
    apart = {trait.name for trait in contract.audience if trait.key in of_segments}
    rows = [
        {"name": name, **counts, "all": sum(counts.values())}
        for name, counts in (told["traits"] or {}).items()
        if name not in apart
    ]
    changed = sorted((row for row in rows if row["all"]), key=lambda row: (-row["all"], row["name"]))
    most = changed[0]["all"] if changed else 1
    kinds = ("new", "changed", "cleared")
    return {
        "rows": [row | {"parts": [100 * row[kind] / most for kind in kinds]} for row in changed[:TRAITS]],
        "fewer": changed[TRAITS:],
        "others": len(rows) - len(changed),
    }


def _freshness(ledger: Ledger, now: datetime) -> Facts | None:
    """Say how old the newest change is that Piano told us of."""
    query = (
        "SELECT max(coalesce(modify_time, start_date)) FROM subscriptions WHERE coalesce(modify_time, start_date) <= ?"
    )
    ((newest,),) = ledger.connection.execute(query, [now]).fetchall()
    if newest is None:
        return None
    hours = (now - newest.astimezone(UTC)).total_seconds() / 3600
    age = f"{hours:.1f} hours" if hours < 2 * OLD_HOURS else f"{hours / 24:,.0f} days"
    return {"newest": f"{newest.astimezone(UTC):%Y-%m-%d %H:%M} UTC", "age": age, "old": hours > OLD_HOURS}


def _rejects(ledger: Ledger) -> Facts:
    """Count those whom Engage rejects, by reason; a reason that repeats the reader's id is shown without it."""
    query = """
        SELECT status, CASE WHEN length(user_id) > 2 THEN replace(reason, user_id, ?) ELSE reason END AS told,
            count(*), max(attempts), strftime(timezone('UTC', min(first_at)), '%Y-%m-%d'),
            CASE WHEN isfinite(min(next_at)) THEN strftime(timezone('UTC', min(next_at)), '%Y-%m-%d %H:%M') END
        FROM rejects GROUP BY ALL ORDER BY count(*) DESC, told
    """
    names = ("status", "reason", "readers", "attempts", "since", "next")
    found: dict[tuple[int, str], Facts] = {}
    for row in ledger.connection.execute(query, [_HIDDEN]).fetchall():
        one = dict(zip(names, row, strict=True))
        one["reason"] = masked(one["reason"])
        same = found.setdefault((one["status"], one["reason"]), one | {"readers": 0})
        same["readers"] += one["readers"]
    rows = sorted(found.values(), key=lambda one: -one["readers"])
    return {
        "rows": rows[:REASONS],
        "readers": sum(one["readers"] for one in rows),
        "others": len(rows[REASONS:]),
        "readers_of_others": sum(one["readers"] for one in rows[REASONS:]),
    }


# The runs before


def _earlier(ledger: Ledger, run_id: str, acknowledged: Mapping[str, int]) -> list[Facts]:
    """Give the runs before this one, the newest first; of one that crashed nothing but its beginning is known."""
    query = "SELECT run_id, status, started_at, summary FROM runs WHERE run_id <> ? ORDER BY started_at DESC LIMIT ?"
    found = []
    for run, status, began, summary in ledger.connection.execute(query, [run_id, RUNS]).fetchall():
        known = json.loads(summary) if summary else {}
        at = began.astimezone(UTC).isoformat()
        found.append(_of_run({**known, "run_id": run, "status": status, "started_at": at}, acknowledged))
    return found


def _of_run(told: Mapping[str, Any], acknowledged: Mapping[str, int]) -> Facts:
    return {
        "run_id": told["run_id"],
        "status": told["status"],
        "finished": told["status"] == "finished",
        "began": told["started_at"][:16].replace("T", " "),
        "rows": (told.get("rows") or {}).get("read"),
        "readers": (told.get("users") or {}).get("total"),
        "told": acknowledged.get(told["run_id"], 0),
        "rejected": (told.get("requests") or {}).get("rejected", 0),
        "seconds": told.get("seconds"),
        "segments": {name: sizes["readers"] for name, sizes in (told.get("segments") or {}).items()},
    }


def _usual(runs: Sequence[Facts]) -> list[Facts]:
    """Set this run beside the finished ones before it."""
    measures = {
        "Rows that came": "rows", "Readers known": "readers", "Readers told": "told",
        "Readers rejected": "rejected", "Seconds": "seconds",
    }  # fmt: skip
    rows = []
    for name, key in measures.items():
        before = [run[key] for run in runs[1:] if run["finished"] and run[key] is not None]
        if before:
            rows.append(
                {"name": name, "now": runs[0][key], "low": min(before), "median": median(before), "high": max(before)}
            )
    return rows


# What is to be done


def _to_do(ledger: Ledger, contract: Contract, told: Mapping[str, Any], runs: Sequence[Facts]) -> Facts:
    """Say what an administrator should do in Pulse: files to upload, traits told first in this run, and lately."""
    started_at = datetime.fromisoformat(told["started_at"])
    first = dict(ledger.connection.execute("SELECT trait, first_at FROM traits").fetchall())
    since = datetime.fromisoformat(runs[-1]["began"]).replace(tzinfo=UTC)
    fresh = {trait for trait, at in first.items() if at >= started_at}
    lately = {trait for trait, at in first.items() if since <= at < started_at}
    clashes = [f"{trait}: {why}; rename it with trait_names" for trait, why in contract.clashes().items()]
    uploads = [one for one in told["data_sources"] if one["changed"]]
    return {
        "uploads": uploads,
        "clashes": clashes,
        "fresh": _steps(contract, fresh),
        "lately": _steps(contract, lately),
    }


def _steps(contract: Contract, names: set[str]) -> list[Facts]:
    """Give the steps for traits of these *names*: their types by group, and a row for each segment and arm."""
    by_type: dict[str, list[str]] = {}
    for trait in contract.traits:
        if trait.name in names:
            by_type.setdefault(f"type {TYPES[trait.kind]}, display {DISPLAYS[trait.kind]}", []).append(trait.name)
    steps = [{"do": f"Settings > User Traits: set {what}", "names": traits} for what, traits in by_type.items()]
    key = {trait.key: trait.name for trait in contract.audience if trait.name in names}
    told = [key[f"told {one.name}"] for one in contract.segments if f"told {one.name}" in key]
    listed = [f"{key['segments']} Include {one.name}" for one in contract.segments if "segments" in key]
    arms = [
        f"{key[f'experiment {one.name}']} Include {arm}"
        for one in contract.experiments
        for arm in one.arms
        if f"experiment {one.name}" in key
    ]
    rows = {
        "Segments: make one for each of these traits, with the row Include true, and enable it": told,
        "Segments: make one with each of these rows, and enable it": listed,
        "Prompts: one for each arm, with a segment of this row": arms,
    }
    return [*steps, *({"do": what, "names": each} for what, each in rows.items() if each)]


def _attention(shown: Mapping[str, Any]) -> Iterator[Facts]:
    """Yield what somebody should look at, the gravest first, each with the section that says more."""
    run = shown["run"]
    brake = run["brake"] or {}
    if run["message"]:
        at = "brake" if any(check["wrong"] for check in brake.get("checks", [])) else "funnel"
        yield {"tone": "warn" if run["status"] == INCOMPLETE else "bad", "text": run["message"], "at": at}
    if warning := (run.get("destination") or {}).get("warning"):
        yield {"tone": "warn", "text": f"{warning[0].upper()}{warning[1:]}.", "at": "funnel"}
    if brake.get("let_through"):
        yield {"tone": "warn", "text": "The brake found something, and somebody let this plan through.", "at": "brake"}
    yield from ({"tone": "warn", "text": text, "at": at} for at, text in _warnings(shown))
    if shown["to_do"]["fresh"]:
        yield {"tone": "plain", "text": "New traits were told: Pulse has to know their types.", "at": "todo"}
    if shown["to_do"]["uploads"]:
        yield {"tone": "plain", "text": "A data source has changed: Pulse has to get the new file.", "at": "todo"}


_OF_SEGMENTS: Final = ("unseen_values", "unusable_codes")
"""Members of a summary that hold warnings about segments and experiments."""


def _warnings(shown: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the section and the words of each warning."""
    run, freshness, rejects = shown["run"], shown["freshness"], shown["rejects"]
    if run["status"] != INCOMPLETE:  # then it is the run's message
        yield from (("came", problem) for problem in run["incomplete"])
    if freshness and freshness["old"]:
        age = freshness["age"]
        yield "came", f"The newest change that Piano told of is {age} old. Is an old export being read?"
    for words, count in shown["words"].items():
        yield "rejects", f"Piano's status word “{words}” is not in the map: {count:,} subscription(s) have no stage."
    yield from (("segments", warning) for found in _OF_SEGMENTS for warning in run.get(found) or [])
    counts = {
        ("rejects", "Engage rejects {:,} reader(s)."): rejects["readers"],
        ("rejects", "{:,} value(s) cannot be sent and count as absent."): sum((run["invalid"] or {}).values()),
        ("funnel", "{:,} reader(s) wait until Engage has read the last file."): (run["requests"] or {}).get("held"),
        ("todo", "{:,} trait(s) have names that somebody else writes as well."): len(shown["to_do"]["clashes"]),
    }
    yield from ((at, words.format(count)) for (at, words), count in counts.items() if count)


def _headline(shown: Mapping[str, Any]) -> str:
    """Say in one sentence what the run did."""
    run, planned, told = shown["run"], shown["planned"], shown["acknowledged"]
    total = (run["users"] or {}).get("total") or 0
    if run["status"] == "dry run":
        return f"A dry run: nothing was sent. {planned:,} of {total:,} readers would have been told something."
    if run["status"] not in {"finished", INCOMPLETE}:
        return f"{told:,} user(s) were {done_words(run)} before it ended." if told else "Nothing was sent."
    if run["users"] is None:
        return "Nothing came from the tap, and nothing was sent."
    if not told:
        return f"Nothing was told: {f'{planned:,} reader(s) wait' if planned else 'no trait changed'}."
    entering = sum(one["entering"] for one in shown["segments"])
    leaving = sum(one["leaving"] for one in shown["segments"])
    moved = f" Segments were entered {entering:,} times and left {leaving:,} times." if entering or leaving else ""
    rest = f"{planned - told:,} are still due" if planned > told else "of the others nothing changed"
    if done_words(run).startswith("written"):
        return f"What is new of {told:,} of {total:,} users was written into the folder; {rest}.{moved}"
    return f"Engage took what is new of {told:,} of {total:,} readers; {rest}.{moved}"

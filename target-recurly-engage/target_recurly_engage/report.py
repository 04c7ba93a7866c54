"""The report of a run: one HTML file that needs nothing else, for whoever wants to see what happened last night.

It holds counts, names of traits and segments, and reasons; never a reader's id or value.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader

from target_recurly_engage.pulse import DISPLAYS, TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.summary import Summary

RUNS: Final = 10
_OLD_HOURS: Final = 36


def write(path: Path, summary: Summary, ledger: Ledger, contract: Contract, *, now: datetime) -> None:
    """Write the report of a run that has ended into *path*, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_suffix(".part")
    try:
        part.write_text(render(facts(summary, ledger, contract, now=now)), encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def facts(summary: Summary, ledger: Ledger, contract: Contract, *, now: datetime) -> dict[str, Any]:
    """Collect what the report shows; data is as old as it is at *now*."""
    told = summary.as_dict()
    return {
        "run": told,
        "sent": _sent(told),
        "funnel": _funnel(told),
        "traits": _traits(told),
        "segments": [{"name": name, **sizes} for name, sizes in told["segments"].items()],
        "history": _history(ledger, told),
        "freshness": _freshness(ledger, now),
        "rejects": _rejects(ledger),
        "to_do": _to_do(ledger, contract, summary),
    }


def _sent(told: Mapping[str, Any]) -> int:
    users = told.get("users") or {}
    return sum(int(users.get(kind) or 0) for kind in ("new", "changed", "cleared", "again"))


def _acknowledged(told: Mapping[str, Any]) -> int:
    requests = told.get("requests") or {}
    return sum(int(file["users"]) for file in told.get("files") or []) + int(requests.get("acknowledged") or 0)


def _funnel(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    users, merged = told["users"] or {}, told["subscriptions"] or {}
    steps = [
        ("Rows that came", told["rows"]["read"]),
        ("Subscriptions known", merged.get("after", 0)),
        ("Readers", users.get("total", 0)),
        ("Readers with a change", _sent(told)),
        ("Acknowledged by Engage", _acknowledged(told)),
    ]
    most = max((count for _, count in steps), default=0)
    return [{"step": step, "count": count, "share": 100 * count / most if most else 0} for step, count in steps]


def _traits(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [
        {"name": name, **counts, "all": sum(counts.values())} for name, counts in (told["traits"] or {}).items()
    ]  # fmt: skip
    rows = sorted((row for row in rows if row["all"]), key=lambda row: -row["all"])
    most = rows[0]["all"] if rows else 0
    return [row | {"share": 100 * row["all"] / most} for row in rows]


def _history(ledger: Ledger, told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the last runs, the newest first; this one is among them."""
    query = "SELECT summary FROM runs WHERE summary IS NOT NULL AND run_id <> ? ORDER BY started_at DESC LIMIT ?"
    earlier = ledger.connection.execute(query, [told["run_id"], RUNS]).fetchall()
    runs = [told, *(json.loads(summary) for (summary,) in earlier)]
    rows = [
        {
            "run_id": run["run_id"], "status": run["status"], "started_at": run["started_at"][:16].replace("T", " "),
            "rows": run["rows"]["read"], "sent": _sent(run), "seconds": run["seconds"],
        }
        for run in runs
    ]  # fmt: skip
    most = max(row["sent"] for row in rows)
    return [row | {"share": 100 * row["sent"] / most if most else 0} for row in rows]


def _freshness(ledger: Ledger, now: datetime) -> dict[str, Any] | None:
    """Say how old the newest change is that Piano told us of."""
    query = (
        "SELECT max(coalesce(modify_time, start_date)) FROM subscriptions WHERE coalesce(modify_time, start_date) <= ?"
    )
    ((newest,),) = ledger.connection.execute(query, [now]).fetchall()
    if newest is None:
        return None
    hours = (now - newest.astimezone(UTC)).total_seconds() / 3600
    return {"newest": f"{newest.astimezone(UTC):%Y-%m-%d %H:%M} UTC", "hours": hours, "old": hours > _OLD_HOURS}


def _rejects(ledger: Ledger) -> list[dict[str, Any]]:
    query = (
        "SELECT status, reason, count(*), max(attempts), min(next_at)::VARCHAR FROM rejects "
        "GROUP BY ALL ORDER BY count(*) DESC, reason"
    )
    names = ("status", "reason", "readers", "attempts", "next_at")
    return [dict(zip(names, row, strict=True)) for row in ledger.connection.execute(query).fetchall()]


def _to_do(ledger: Ledger, contract: Contract, summary: Summary) -> list[str]:
    """Say what an administrator should do in Pulse now: traits told for the first time, files to upload."""
    query = "SELECT trait FROM traits WHERE first_at >= ?"
    fresh = {trait for (trait,) in ledger.connection.execute(query, [summary.started_at]).fetchall()}
    steps = [
        f"{trait.name}: set type {TYPES[trait.kind]} and display {DISPLAYS[trait.kind]}"
        for trait in contract.traits
        if trait.name in fresh
    ]
    names = {trait.key: trait.name for trait in contract.audience}
    rows = [
        f"Segment {one.name}: type in the row {names[f'told {one.name}']} Include true, and enable it"
        for one in contract.segments
        if not contract.listed and names[f"told {one.name}"] in fresh
    ]
    clashes = [f"{trait}: {why}; rename it" for trait, why in contract.clashes().items()]
    uploads = [
        f"Data sources: upload {one.location}, which has changed: {one.rows:,} offers are valid"
        for one in summary.data_sources
        if one.changed
    ]
    return [*uploads, *clashes, *steps, *rows]


def render(shown: Mapping[str, Any]) -> str:
    """Make the page."""
    environment = Environment(
        loader=PackageLoader("target_recurly_engage"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = lambda number: f"{number:,}"
    return environment.get_template("report.html.j2").render(shown)

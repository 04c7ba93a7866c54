"""A plan as a person sees it: counts, changes by trait, some readers, and by which way it would go."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name

from target_recurly_engage.delivery.overlap import overlap_of
from target_recurly_engage.plan import told_traits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.plan import Plan

SAMPLE: Final = 10
AUTO: Final = "auto"
INGEST: Final = "ingest"


def shown(
    ledger: Ledger, contract: Contract, config: Mapping[str, Any], made: Plan, *, warnings: Iterable[str] = ()
) -> dict[str, Any]:
    """Return what there is to see of a plan that was made just now, with *warnings* about it, as JSON takes it."""
    way = _way(ledger, config, made)
    rate = float(config["requests_per_second"])
    return {
        "users": {
            "new": made.new, "changed": made.changed - made.gone, "cleared": made.gone, "again": made.again,
            "unchanged": made.users - made.size,
        },
        "traits": {trait: asdict(counts) for trait, counts in made.traits.items() if any(asdict(counts).values())},
        "invalid": made.invalid,
        "warnings": list(warnings),
        "sample": [changes_of(ledger, contract, one) for one in _sample(ledger)],
        "delivery": way,
        "seconds_at_least": round(made.size / rate, 1) if way == INGEST and rate else None,
        "waiting": {"rejected": _rejected(ledger), "in_flight": _in_flight(ledger, config)},
        "fingerprint": made.fingerprint,
    }  # fmt: skip


def _way(ledger: Ledger, config: Mapping[str, Any], made: Plan) -> str:
    if config["delivery"] != AUTO:
        return str(config["delivery"])
    waiting = _rejected(ledger) + _in_flight(ledger, config)
    return INGEST if made.size - waiting <= int(config["ingest_max_users"]) else "s3"


def _rejected(ledger: Ledger) -> int:
    return ledger.count("SELECT count(*) FROM plan SEMI JOIN (FROM rejects WHERE next_at > now()) USING (user_id)")


def _in_flight(ledger: Ledger, config: Mapping[str, Any]) -> int:
    overlap = overlap_of(config)
    if overlap.again or config["delivery"] == "file":
        return 0
    overlap.mark(ledger, datetime.now(tz=UTC))
    return ledger.count("SELECT count(*) FROM plan SEMI JOIN in_flight USING (user_id)")


def _sample(ledger: Ledger) -> list[str]:
    rows = ledger.connection.execute(f"SELECT user_id FROM plan ORDER BY user_id LIMIT {SAMPLE}").fetchall()
    return [user_id for (user_id,) in rows]


def changes_of(ledger: Ledger, contract: Contract, user_id: str) -> dict[str, Any]:
    """Give what is to be sent of a reader in the plan, and what Engage was told before."""
    names = [trait.name for trait in told_traits(ledger, contract)]
    columns = ", ".join(map(name, names))
    ((*planned,),) = ledger.connection.execute(f"SELECT {columns} FROM plan WHERE user_id = ?", [user_id]).fetchall()
    known = ledger.connection.execute(f"SELECT {columns} FROM delivered WHERE user_id = ?", [user_id]).fetchall()
    told = known[0] if known else [None] * len(names)
    return {
        "user_id": user_id,
        "changes": {
            trait: {"from": before, "to": after}
            for trait, before, after in zip(names, told, planned, strict=True)
            if before != after
        },
    }


def words_of(answer: dict[str, Any]) -> Iterator[str]:
    """Put into words what :func:`shown` gave."""
    users = answer["users"]
    again = f"{users['again']:,} again in full, " if users["again"] else ""
    yield (
        f"{users['new']:,} new, {users['changed']:,} changed, {users['cleared']:,} cleared, {again}"
        f"{users['unchanged']:,} unchanged; delivery: {answer['delivery']}"
    )
    if answer["seconds_at_least"]:
        yield f"at least {answer['seconds_at_least']:,} s at the rate that is set"
    for reason, count in answer["waiting"].items():
        if count:
            yield f"of these {count:,} wait: {reason.replace('_', ' ')}"
    for trait, counts in answer["traits"].items():
        yield f"  {trait:32} {counts['new']:>9,} new {counts['changed']:>9,} changed {counts['cleared']:>9,} cleared"
    for words, count in answer["invalid"].items():
        yield f"  {count:,} invalid and counted as absent: {words}"
    yield from (f"  warning: {warning}" for warning in answer["warnings"])
    for one in answer["sample"]:
        yield f"  {one['user_id']}: " + (", ".join(arrows(one["changes"])) or "all once more")


def arrows(changes: dict[str, dict[str, str | None]]) -> Iterator[str]:
    """Put changes into words."""
    for trait, change in changes.items():
        yield f"{trait} {change['from'] or '(new)'} → {change['to']}"

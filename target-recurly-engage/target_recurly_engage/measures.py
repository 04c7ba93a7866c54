"""What each run measures of the ledger, so that a later one sees what changed too slowly, or all at once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text

from target_recurly_engage.statuses import is_unknown, word_of
from target_recurly_engage.traits import TRAITS, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger

DAYS: Final = 30
"""A measure counts for so many days."""
RULES: Final = (
    "traits", "trait_prefix", "trait_names", "primary", "leave_out", "site_licences", "segments_as", "segment_prefix",
    "experiments", "thresholds", "max_value_length", "new_customers", "streams", "timezone", "clear_string",
    "clear_number", "clear_boolean", "clear_date",
)  # fmt: skip
"""Settings that decide which value a trait has; a change of one may change every user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What one run measured of the ledger after it took in what came.

    Attributes:
        measured_at: when, by the clock of the machine.
        judged_at: the moment that counted as now.
        users: users that a source knows.
        subscriptions: subscriptions.
        newest: the newest creation or change of a subscription that is not after *judged_at*.
        ahead: subscriptions that were created or changed after *judged_at*.
        unknown_words: subscriptions whose status word is unknown.
        filled: subscriptions that have a value, by property.
        rules: a digest of each setting that decides values, and of the program.
        finished: its run ended well.
    """

    measured_at: datetime
    judged_at: datetime
    users: int = 0
    subscriptions: int = 0
    newest: datetime | None = None
    ahead: int = 0
    unknown_words: int = 0
    filled: dict[str, int] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)
    finished: bool = False

    def share(self, trait: str) -> float:
        """Return the share of subscriptions that have a value of a property."""
        return self.filled.get(trait, 0) / self.subscriptions if self.subscriptions else 0.0

    def changed_rules(self, later: Measure) -> list[str]:
        """Return the names of the settings that are others in a later measure."""
        return sorted(one for one, digest in later.rules.items() if self.rules.get(one, digest) != digest)


def digest_rules(config: Mapping[str, Any], contract: Contract) -> dict[str, str]:
    """Return a digest of each setting that decides values; segments may lie in a file, so as they were read."""
    given = {one: json.dumps(config.get(one), sort_keys=True, default=str) for one in RULES}
    given |= {"segments": repr(contract.segments), "(the program's version)": version("target-recurly-engage")}
    return {one: hashlib.sha256(value.encode()).hexdigest()[:12] for one, value in given.items()}


def take_measure(
    ledger: Ledger, *, users: int, measured_at: datetime, judged_at: datetime, rules: dict[str, str]
) -> Measure:
    """Measure the ledger as it is now."""
    changed = "coalesce(greatest(modify_time, create_date), modify_time, create_date)"
    late = f"{text(judged_at.isoformat())}::TIMESTAMPTZ + INTERVAL 1 DAY"
    word = word_of("subscription_status")
    counts = (
        f"count({name(one.name)})" if one.kind is not Kind.STRING else f"count_if({name(one.name)} <> '')"
        for one in TRAITS
    )
    query = f"""
        SELECT count(*), max(changed) FILTER (changed <= {late}), max(start_date) FILTER (start_date <= {late}),
            count_if(changed > {late}), {", ".join(counts)}
        FROM (SELECT *, {changed} AS changed FROM subscriptions)
    """
    ((subscriptions, newest, started, ahead, *filled),) = ledger.connection.execute(query).fetchall()
    unknown = f"""
        SELECT sum(subscriptions)
        FROM (SELECT subscription_status, count(*) AS subscriptions FROM subscriptions GROUP BY 1)
        WHERE {is_unknown(word)}
    """
    return Measure(
        measured_at=measured_at,
        judged_at=judged_at,
        users=users,
        subscriptions=subscriptions,
        newest=newest or started,
        ahead=ahead or 0,
        unknown_words=ledger.count(unknown),
        filled={trait.name: count or 0 for trait, count in zip(TRAITS, filled, strict=True)},
        rules=rules,
    )


def recall_measures(ledger: Ledger, now: datetime) -> Sequence[Measure]:
    """Return what the runs of the last days measured, the oldest first; at least the newest measure there is."""
    query = """
        SELECT measured_at, judged_at, users, subscriptions, newest, ahead, unknown_words, filled, rules,
            coalesce(runs.status = 'finished', false)
        FROM measures LEFT JOIN runs USING (run_id)
        WHERE measured_at >= least(?, (SELECT max(measured_at) FROM measures)) ORDER BY measured_at
    """
    rows = ledger.connection.execute(query, [now - timedelta(days=DAYS)]).fetchall()
    names = ("measured_at", "judged_at", "users", "subscriptions", "newest", "ahead", "unknown_words")
    return [
        Measure(
            **dict(zip(names, row, strict=False)), filled=json.loads(filled), rules=json.loads(rules), finished=ended
        )
        for *row, filled, rules, ended in rows
    ]


def record_measure(ledger: Ledger, run_id: str, measure: Measure, *, afresh: bool) -> None:
    """Record a measure and forget those that count no more.

    Args:
        ledger: the ledger.
        run_id: the run.
        measure: what it measured.
        afresh: somebody accepted what was found, so earlier measures count no more.
    """
    execute, oldest = ledger.connection.execute, measure.measured_at - timedelta(days=DAYS)
    execute("DELETE FROM measures WHERE ? OR measured_at < ?", [afresh, oldest])
    execute(
        "INSERT INTO measures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            run_id, measure.measured_at, measure.judged_at, measure.users, measure.subscriptions, measure.newest,
            measure.ahead, measure.unknown_words, json.dumps(measure.filled), json.dumps(measure.rules),
        ],
    )  # fmt: skip

"""The primary subscription: which of a reader's subscriptions speaks for him (decision 8), by a rule of settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text

from target_recurly_engage.problems import suggestion
from target_recurly_engage.statuses import Meaning, is_one_of, word_of
from target_recurly_engage.traits import NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from target_recurly_engage.problems import Problems

DEFAULT_ORDER: Final = ("live", "renews", "paid", "latest_access_end", "latest_start")
SITE_LICENCES: Final = ("specific email addresses contract", "email domain contract", "ip range contract")
"""Types of terms that an employer or a school pays for (fact sheet of Piano, 3.1)."""
FREE_TERMS: Final = ("registration", "newsletter", "ad view", "custom", "access granted")

MOMENT: Final = "moment"
"""Stands for the moment at which to judge, in the SQL made here; whoever uses it gives a column of that name."""


def words(spelled: tuple[str, ...]) -> str:
    """Make the SQL of a list of texts."""
    return ", ".join(map(text, spelled))


TERM_TYPE: Final = "coalesce(lower(trim(term_type)), '')"

_WORD: Final = word_of("subscription_status")
_GOES_ON: Final = is_one_of(_WORD, Meaning.RUNS, Meaning.LEAVES)

HELD: Final = (
    f"NOT {is_one_of(_WORD, Meaning.REPLACED, Meaning.AWAITED, Meaning.APART)} AND ("
    "coalesce(currently_in_grace_period, false) OR CASE WHEN access_expiration_date IS NULL "
    f"THEN {_GOES_ON} ELSE access_expiration_date > {MOMENT} END)"
)
"""Held is a subscription whose access has not ended, or that is in its grace period; it may begin later."""

LATER: Final = f"coalesce(start_date > {MOMENT}, false)"
"""The SQL that says whether a subscription begins later, whatever its status says."""

LIVE: Final = f"{HELD} AND NOT {LATER}"
"""Live is a subscription that is held, and has begun."""

SOLD: Final = f"{TERM_TYPE} NOT IN ({words(FREE_TERMS)})"
"""The SQL that says whether a subscription is to a term that is sold, and not given for a registration, say."""

TAKES_OVER: Final = "takes_over"
"""Table of the ids of subscriptions that take over from an upgraded one, and column that says so of one; whoever judges
more than one subscription makes the table first."""

_LIVE: Final = f"({TAKES_OVER} OR ({LIVE}))"
_RENEWS: Final = (
    f"({TAKES_OVER} OR ({LIVE} AND {is_one_of(_WORD, Meaning.RUNS)})) AND coalesce(auto_renew, false) AND {SOLD}"
)
"""A subscription renews if it is live and sold, its status lets it go on, and auto-renew is on."""

_ACCESS_END: Final = (
    "CASE WHEN access_expiration_date IS NOT NULL THEN epoch_us(access_expiration_date) "
    f"WHEN {TAKES_OVER} OR {_GOES_ON} THEN 9223372036854775807 ELSE coalesce(epoch_us(end_date), 0) END"
)
"""Access without an end is the latest end; where the status says that it ended, the end of the subscription counts."""

TIER: Final = (
    f"CASE WHEN trial_period_end_date > {MOMENT} THEN 1 WHEN {TERM_TYPE} IN ({words(FREE_TERMS)}) THEN 2 ELSE 0 END"
)
"""Paid 0, in trial 1, free 2."""

_CRITERIA: Final[dict[str, str]] = {
    "live": f"NOT {_LIVE}",
    "renews": f"NOT ({_RENEWS})",
    "paid": TIER,
    "not_site_licence": f"{TERM_TYPE} IN ({words(SITE_LICENCES)})",
    "latest_access_end": f"-({_ACCESS_END})",
    "latest_start": "-coalesce(epoch_us(start_date), 0)",
    "earliest_start": "coalesce(epoch_us(start_date), 9223372036854775807)",
    "highest_total_charged": "-coalesce(total_charged, 0)",
}
"""By the word for it, the SQL of a number that is smallest for the best subscription."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Values of a property in the order in which they are preferred; all others come after.

    Attributes:
        column: the property of the log.
        values: as the log writes them, in any case.
    """

    column: str
    values: tuple[str, ...]

    @property
    def sql(self) -> str:
        """The SQL of the place in the list."""
        cases = " ".join(f"WHEN {text(value.lower())} THEN {i}" for i, value in enumerate(self.values))
        return f"CASE lower(trim({name(self.column)}::VARCHAR)) {cases} ELSE {len(self.values)} END"


@dataclass(frozen=True, slots=True)
class PrimaryRule:
    """How the primary subscription is chosen.

    Attributes:
        order: criteria, the first one that tells two subscriptions apart decides; the id settles ties.
        left_out: by property, values of subscriptions that count for nothing.
    """

    order: tuple[str | Preference, ...] = DEFAULT_ORDER
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def criteria(self) -> dict[str, str]:
        """Give the SQL of each criterion by a name for people, the id last; smaller is better."""
        given = {
            (one if isinstance(one, str) else f"{one.column}: {', '.join(one.values)}"): (
                _CRITERIA[one] if isinstance(one, str) else one.sql
            )
            for one in self.order
        }
        return given | {"subscription_id": "subscription_id"}

    @property
    def sql(self) -> str:
        """The SQL of a struct that is smallest for the primary subscription, from the relation of :func:`judged`."""
        members = (f"c{i} := {sql}" for i, sql in enumerate(self.criteria().values()))
        return f"struct_pack({', '.join(members)})"

    @property
    def counts(self) -> str:
        """The SQL that says whether a subscription counts at all."""
        out = [
            f"coalesce(lower(trim({name(column)}::VARCHAR)), '') IN ({words(tuple(one.lower() for one in values))})"
            for column, values in self.left_out.items()
        ]
        return f"NOT ({' OR '.join(out)})" if out else "true"


def rule_of(config: Mapping[str, Any], problems: Problems) -> PrimaryRule:
    """Read the settings ``primary``, ``leave_out`` and ``site_licences``."""
    order: list[str | Preference] = []
    for i, one in enumerate(config["primary"]):
        path = f"primary[{i}]"
        if isinstance(one, str):
            if one not in _CRITERIA:
                problems.add(path, f"{one!r} is no criterion{suggestion(one, _CRITERIA)}")
                continue
            order.append(one)
        else:
            order += [Preference(column, values) for column, values in _values(path, one, problems).items()]
    left_out = _values("leave_out", config["leave_out"], problems)
    if config["site_licences"] == "out":
        left_out["term_type"] = (*left_out.get("term_type", ()), *SITE_LICENCES)
    return PrimaryRule(tuple(order), left_out)


def _values(path: str, given: Mapping[str, Any], problems: Problems) -> dict[str, tuple[str, ...]]:
    found = {}
    for column, values in given.items():
        if column not in NAMES:
            problems.add(f"{path}.{column}", f"no property of the log that the ledger keeps{suggestion(column, NAMES)}")
        elif not isinstance(values, list) or not values:
            problems.add(f"{path}.{column}", "takes a list of values, such as [Dynamic, Payment]")
        else:
            found[column] = tuple(str(value).strip() for value in values)
    return found


# A subscription that takes over from one that was upgraded

TAKES_OVER_DAYS: Final = 7
"""Days after an upgrade in which the new subscription, as long as it is awaited, counts as live."""
_AWAITED: Final = (
    f"({is_one_of(_WORD, Meaning.AWAITED)} OR ({_GOES_ON} AND {LATER})) "
    f"AND coalesce(access_expiration_date > {MOMENT}, true)"
)
_UPGRADED: Final = (
    f"{is_one_of(_WORD, Meaning.REPLACED)} AND coalesce(greatest(end_date, access_expiration_date) > "
    f"{MOMENT} - INTERVAL {TAKES_OVER_DAYS} DAY, true)"
)


def at(now: str) -> str:
    """Build the SQL of a relation with the column ``moment``: *now*, which is ISO 8601."""
    return f"(SELECT {text(now)}::TIMESTAMPTZ AS {MOMENT})"


def taking_over(rule: PrimaryRule, now: str) -> str:
    """Build the SQL of the ids of awaited subscriptions of users who were upgraded a short while ago.

    Piano ends the old subscription when it takes on a change of term, and the new one may begin later or wait for a
    payment. In between no subscription of the user is live by itself, and the user is a customer all the same.
    """
    counted = f"FROM subscriptions CROSS JOIN {at(now)} WHERE {rule.counts}"
    return f"""
        SELECT subscription_id {counted} AND {_AWAITED}
            AND user_id IN (SELECT user_id {counted} AND {_UPGRADED})
    """


def judged(now: str, *cells: str) -> str:
    """Build the SQL of all subscriptions, with ``takes_over`` and ``moment``, which criteria read, and *cells*."""
    takes_over = f"{TAKES_OVER}.subscription_id IS NOT NULL AS {TAKES_OVER}"
    return f"""
        SELECT {", ".join(["subscriptions.*", takes_over, MOMENT, *cells])}
        FROM subscriptions CROSS JOIN {at(now)}
        LEFT JOIN {TAKES_OVER} ON {TAKES_OVER}.subscription_id = subscriptions.subscription_id
    """

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

DEFAULT_ORDER: Final = ("live", "paid", "latest_access_end", "latest_start")
SITE_LICENCES: Final = ("specific email addresses contract", "email domain contract", "ip range contract")
"""Types of terms that an employer or a school pays for (fact sheet of Piano, 3.1)."""
FREE_TERMS: Final = ("registration", "newsletter", "ad view", "custom", "access granted")

MOMENT: Final = "moment"
"""Stands for the moment at which to judge, in the SQL made here; whoever uses it gives a column of that name."""


def words(spelled: tuple[str, ...]) -> str:
    """Make the SQL of a list of texts."""
    return ", ".join(map(text, spelled))


TERM_TYPE: Final = "coalesce(lower(trim(term_type)), '')"

LIVE: Final = (
    f"NOT {is_one_of(word_of('subscription_status'), Meaning.REPLACED, Meaning.APART)} AND ("
    "coalesce(currently_in_grace_period, false) OR CASE WHEN access_expiration_date IS NULL "
    f"THEN {is_one_of(word_of('subscription_status'), Meaning.RUNS, Meaning.LEAVES)} "
    f"ELSE access_expiration_date > {MOMENT} END)"
)
"""Live is a subscription whose access has not ended, or that is in its grace period."""

TIER: Final = (
    f"CASE WHEN trial_period_end_date > {MOMENT} THEN 1 WHEN {TERM_TYPE} IN ({words(FREE_TERMS)}) THEN 2 ELSE 0 END"
)
"""Paid 0, in trial 1, free 2."""

_CRITERIA: Final[dict[str, str]] = {
    "live": f"NOT ({LIVE})",
    "paid": TIER,
    "not_site_licence": f"{TERM_TYPE} IN ({words(SITE_LICENCES)})",
    "latest_access_end": "-coalesce(epoch_us(access_expiration_date), 0)",
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
        """The SQL of a struct that is smallest for the primary subscription; it reads a column ``moment``."""
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

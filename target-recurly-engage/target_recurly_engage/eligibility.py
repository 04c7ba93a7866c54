"""Which promotions a reader may use: worked out for the promotions that segments ask of.

A reader may use a promotion when it is valid now, he has not used it, he is a new customer where it is for new ones,
and a term that it is for is open to him. What of that is a guess about Piano is told in ``docs/promotions.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text

from target_recurly_engage.predicates import may
from target_recurly_engage.primary import HELD, SOLD, at
from target_recurly_engage.problems import suggestion
from target_recurly_engage.promotions import make_held_codes, promotions_of, spelled
from target_recurly_engage.statuses import Meaning, is_one_of, word_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.promotions import Promotion

NEVER_HAD: Final = "never_had"
NEVER_PAID: Final = "never_paid"

BEGAN: Final = f"NOT {is_one_of(word_of('subscription_status'), Meaning.AWAITED, Meaning.APART)}"
"""The SQL that says whether a subscription was bought, be it to begin later, and was not taken back."""

CUSTOMERS: Final = {NEVER_HAD: f"{SOLD} AND {BEGAN}", NEVER_PAID: "total_charged > 0"}
"""By the setting ``new_customers``, the SQL of a subscription after which a reader is no new customer."""

USED: Final = "used it already"
NOT_NEW: Final = "it is for new customers"
NO_TERM: Final = "no term that it is for is open to him"
AGAINST: Final = (USED, NOT_NEW, NO_TERM)


def against(promotion_id: str, reason: str) -> str:
    """Return the quoted name of the column that says whether a reason stands against a user."""
    return name(f"{promotion_id}: {reason}")


def asked_of(contract: Contract) -> tuple[str, ...]:
    """List the promotions that segments ask of."""
    return tuple(sorted({one for segment in contract.segments for one in segment.promotions}))


def unknown_promotions(ledger: Ledger, contract: Contract) -> Iterator[str]:
    """Yield a warning for each promotion that a segment asks of and that the ledger does not know."""
    known = dict(
        ledger.connection.execute("SELECT promotion_id, promotion_name FROM promotions ORDER BY ALL").fetchall()
    )
    for one in asked_of(contract):
        if one in known:
            continue
        by_name = next((id_ for id_, called in known.items() if str(called).lower() == one.lower()), None)
        near = f"; {by_name} is called that" if by_name else suggestion(one, known)
        yield (
            f"segments ask of the promotion {one}, which the ledger does not know{near}. Nobody counts as one who may "
            "use it, nor as one who may not"
            + ("" if known else "; no promotion came yet: let the tap send the stream promotions")
        )


def make_eligible(ledger: Ledger, contract: Contract, now: str, wanted: Iterable[str]) -> dict[str, Promotion]:
    """Make ``eligible`` for this connection, and return those of the *wanted* promotions that the ledger knows.

    It has a row for each reader with a subscription: for each promotion, what stands against his using it, and
    whether he may. All subscriptions count, for Piano knows nothing of ``leave_out``.
    """
    found = promotions_of(ledger, now)
    asked = {one: found[one] for one in sorted(wanted) if one in found}
    make_held_codes(ledger)
    used = "".join(f", bool_or(promotion_id = {text(one)}) AS {name(f'used {one}')}" for one in asked)
    facts = f"""
        SELECT user_id, coalesce(bool_or({CUSTOMERS[contract.new_customers]}), false) AS customer,
            list(DISTINCT term_id) FILTER ({HELD}) AS live_terms{used}
        FROM subscriptions CROSS JOIN {at(now)}
        LEFT JOIN held_codes ON code = {spelled("promo_code")}
        GROUP BY user_id
    """
    conditions = [
        f"{sql} AS {against(one.id, reason)}" for one in asked.values() for reason, sql in _conditions(one).items()
    ]
    may_use = [
        f"{'true' if one.why_not is None else 'false'} AND NOT "
        f"({' OR '.join(against(one.id, reason) for reason in AGAINST)}) AS {may(one.id)}"
        for one in asked.values()
    ]
    judged = f"SELECT {', '.join(['user_id', *conditions])} FROM ({facts})"
    ledger.connection.execute(
        f"CREATE OR REPLACE TEMP TABLE eligible AS SELECT {', '.join(['*', *may_use])} FROM ({judged})"
    )
    return asked


def _conditions(one: Promotion) -> dict[str, str]:
    """Make for each reason the SQL that says whether it stands against a reader."""
    return {
        USED: f"coalesce({name(f'used {one.id}')}, false)",
        NOT_NEW: "customer" if one.new_customers_only else "false",
        NO_TERM: _no_term(one),
    }


def _no_term(one: Promotion) -> str:
    if one.renews or not one.all_known:
        return "false"
    return f"CASE WHEN customer THEN {_all_live(_open(one, new=False))} ELSE {_all_live(_open(one, new=True))} END"


def _open(one: Promotion, *, new: bool) -> list[str]:
    return [term for term in one.terms if new or term not in one.new_terms]


def _all_live(terms: Sequence[str]) -> str:
    if not terms:
        return "true"
    return f"list_has_all(coalesce(live_terms, []), [{', '.join(map(text, terms))}])"


def may_without_subscription(one: Promotion) -> bool:
    """Say whether a reader without any subscription may use a promotion."""
    return one.why_not is None and not _no_term_at_all(one)


def _no_term_at_all(one: Promotion) -> bool:
    return not one.renews and one.all_known and not one.terms


def counts(ledger: Ledger, promotions: Mapping[str, Promotion]) -> dict[str, dict[str, Any]]:
    """Count, for each promotion, readers with a subscription who may use it, and against how many what stands."""
    found = {}
    for one in promotions.values():
        cells = ", ".join(f"count_if({cell})" for cell in _cells(one))
        ((able, *counted),) = ledger.connection.execute(f"SELECT {cells} FROM eligible").fetchall()
        found[one.id] = {
            "name": one.name,
            "why_not": one.why_not,
            "readers": able or 0,
            "against": {reason: count or 0 for reason, count in zip(AGAINST, counted, strict=True)},
        }
    return found


def _cells(one: Promotion) -> list[str]:
    return [may(one.id), *(against(one.id, reason) for reason in AGAINST)]


def reasons(ledger: Ledger, promotions: Mapping[str, Promotion], user_id: str) -> dict[str, dict[str, Any]]:
    """Say of one reader, promotion by promotion, whether he may use it, and what stands against it."""
    found = {}
    for one in promotions.values():
        query = f"SELECT {', '.join(_cells(one))} FROM eligible WHERE user_id = ?"
        rows = ledger.connection.execute(query, [user_id]).fetchall()
        alone = (may_without_subscription(one), False, False, _no_term_at_all(one))
        able, *judged = rows[0] if rows else alone
        why = [reason for reason, holds in zip(AGAINST, judged, strict=True) if holds]
        found[one.id] = {"name": one.name, "may": able, "why_not": [one.why_not, *why] if one.why_not else why}
    return found

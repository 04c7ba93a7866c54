"""Promo codes that experiments and segments hand to users who may not use them.

An arm of an experiment is a promo code, or the id or the prefix of a promotion, and a segment hands out the promotions
that its filters include. A user who sees a code and is refused at the checkout is worse than one who sees none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import name, text

from target_recurly_engage.eligibility import AGAINST, against, may_without_subscription
from target_recurly_engage.experiments import CONTROL
from target_recurly_engage.predicates import delivered, may
from target_recurly_engage.promotions import promotions_of, spelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.promotions import Promotion


@dataclass(frozen=True, slots=True)
class Handed:
    """A code, or a promotion, that users get.

    Attributes:
        by: what hands it out, for a person.
        code: what is handed out, as the settings spell it.
        users: SQL over ``audience`` that says which users get it.
        promotions: ids of the promotions that it is of; any of them will do.
    """

    by: str
    code: str
    users: str
    promotions: tuple[str, ...]


def promotions_of_arms(ledger: Ledger, contract: Contract) -> dict[str, tuple[str, ...]]:
    """Return the ids of the promotions of each arm that is a code, an id or a prefix which the ledger knows."""
    arms = sorted({arm for one in contract.experiments for arm in one.arms if arm != CONTROL})
    if not arms:
        return {}
    rows = ledger.connection.execute(
        f"""
        WITH known AS (
            SELECT promotion_id, unnest([promotion_id, fixed_promotion_code, promotion_code_prefix]) AS code
            FROM promotions
            UNION ALL SELECT promotion_id, promo_code FROM promo_codes SEMI JOIN promotions USING (promotion_id)
        )
        SELECT arm, list(DISTINCT promotion_id ORDER BY promotion_id)
        FROM (SELECT unnest(?) AS arm) JOIN known ON {spelled("arm")} = {spelled("code")} GROUP BY arm
        """,
        [arms],
    ).fetchall()
    return {arm: tuple(found) for arm, found in rows}


def unusable_codes(ledger: Ledger, contract: Contract, now: str) -> Iterator[str]:
    """Yield a warning for each code that is handed to users who may not use it; ``desire`` made the tables just now.

    Args:
        ledger: the ledger, with the tables ``audience`` and ``eligible``.
        contract: which experiments and segments there are.
        now: the moment that counts as now, as ISO 8601.
    """
    handed = list(_handed(ledger, contract))
    if not handed:
        return
    known = promotions_of(ledger, now)
    handed = [one for one in handed if all(promotion in known for promotion in one.promotions)]
    cells = [cell for one in handed for cell in _counts(one, known)]
    if not cells:
        return
    query = f"SELECT {', '.join(cells)} FROM audience LEFT JOIN eligible USING (user_id)"
    ((*counts,),) = ledger.connection.execute(query).fetchall()
    for i, one in enumerate(handed):
        refused, all_users, *reasons = (count or 0 for count in counts[i * _CELLS : (i + 1) * _CELLS])
        if refused:
            yield _warning(one, known, refused, all_users, reasons)


_CELLS: Final = 2 + len(AGAINST)


def _handed(ledger: Ledger, contract: Contract) -> Iterator[Handed]:
    of_arms = promotions_of_arms(ledger, contract)
    for one in contract.experiments:
        for arm in one.arms:
            if arm in of_arms:
                users = f"coalesce({name(one.key)} = {text(arm)}, false)"
                yield Handed(f"experiment {one.name}", arm, users, of_arms[arm])
    for segment in contract.segments:
        included = {row.promotion for one in segment.filters for row in one.walk() if row.promotion and not row.exclude}
        for promotion in sorted(included):
            yield Handed(f"segment {segment.name}", promotion, delivered(segment.name), (promotion,))


def _counts(one: Handed, known: dict[str, Promotion]) -> Iterator[str]:
    """Yield the SQL of how many users get it and may not use it, how many get it, and how many each reason concerns."""
    able = " OR ".join(
        f"coalesce(eligible.{may(id_)}, {str(may_without_subscription(known[id_])).lower()})" for id_ in one.promotions
    )
    refused = f"{one.users} AND NOT ({able})"
    yield f"count_if({refused})"
    yield f"count_if({one.users})"
    for reason in AGAINST:
        why = " OR ".join(f"coalesce(eligible.{against(id_, reason)}, false)" for id_ in one.promotions)
        yield f"count_if({refused} AND ({why}))"


def _warning(one: Handed, known: dict[str, Promotion], refused: int, users: int, reasons: list[int]) -> str:
    why = [known[id_].why_not for id_ in one.promotions]
    told = [f"it is not valid now, {', '.join(filter(None, why))}"] if all(why) else []
    told += [f"{reason} {count:,}" for reason, count in zip(AGAINST, reasons, strict=True) if count]
    first = one.promotions[0]
    return (
        f"{one.by}: hands {one.code} ({known[first].name}) to {users:,} user(s), of which {refused:,} may not use it"
        f"{': ' if told else ''}{', '.join(told)}. Narrow it with the filter {{promotion: {first}, include: true}}, or "
        "hand out another code"
    )

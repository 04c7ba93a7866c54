"""Promotions as they stand at a moment: which are valid, which terms they are for, and whose code is whose.

Facts are those of the Publisher API (fact sheet of Piano, 3.2). Where a status and a date disagree, the date decides:
it was true when the row came, and the passage of time brings no row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import text

from target_recurly_engage.traits import blank_is_null

if TYPE_CHECKING:
    from target_recurly_engage.ledger import Ledger

NOT_STARTED: Final = "not started"
EXPIRED: Final = "expired"
DELETED: Final = "deleted"
USED_UP: Final = "used up"
NO_CODE: Final = "no free code"
FREE: Final = "active"
"""State of a code that nobody has claimed or reserved."""

_SPELLED: Final = "upper(trim({}))"

PROMOTIONS: Final = f"""
    WITH pools AS (
        SELECT promotion_id, count(*) AS codes, count_if(state_value = {text(FREE)} AND deleted IS NOT TRUE) AS free
        FROM promo_codes GROUP BY promotion_id
    ), given AS (
        SELECT promotions.*, {blank_is_null("fixed_promotion_code")} AS fixed_code, coalesce(codes, 0) AS codes,
            coalesce(free, 0) AS free, (SELECT count(*) FROM promo_codes) > 0 AS codes_came,
            lower(trim(status)) AS word
        FROM promotions LEFT JOIN pools USING (promotion_id)
    )
    SELECT given.*,
        CASE WHEN unlimited_uses IS NOT TRUE AND uses_allowed IS NOT NULL
            THEN greatest(uses_allowed - coalesce(uses, 0), 0) END AS remaining,
        CASE
            WHEN deleted THEN '{DELETED}'
            WHEN start_date > moment THEN '{NOT_STARTED}'
            WHEN end_date <= moment OR word = 'expired' THEN '{EXPIRED}'
            WHEN word = 'new' AND start_date IS NULL THEN '{NOT_STARTED}'
            WHEN word NOT IN ('active', 'new') THEN 'the status ' || status || ' is not known'
            WHEN unlimited_uses IS NOT TRUE AND coalesce(uses, 0) >= uses_allowed THEN '{USED_UP}'
            WHEN fixed_code IS NULL AND codes_came AND free = 0 THEN '{NO_CODE}'
        END AS why_not
    FROM given CROSS JOIN (SELECT {{now}}::TIMESTAMPTZ AS moment)
"""
"""One row a promotion: those of the ledger, with ``why_not``, which is NULL for one that is valid."""

APPLIES: Final = """
    SELECT promotion_id, terms.term_id, coalesce(term_name, terms.term_id) AS term_name,
        coalesce(payment_new_customers_only, false) AS new_only
    FROM promotions CROSS JOIN terms
    WHERE coalesce(json_type(term_ids), '') <> 'ARRAY' AND coalesce(term_dependency_type, 'all') = 'all'
        AND payment_allow_promo_codes
    UNION ALL
    SELECT promotion_id, term_id, coalesce(term_name, term_id), coalesce(payment_new_customers_only, false)
    FROM (
        SELECT promotion_id, unnest(from_json(term_ids, '["VARCHAR"]')) AS term_id
        FROM promotions WHERE json_type(term_ids) = 'ARRAY'
    ) LEFT JOIN terms USING (term_id) WHERE payment_allow_promo_codes IS NOT FALSE
"""
"""One row a promotion and term it is for, as far as the ledger knows; a term that takes no promo code is none."""


def promotions_sql(now: str) -> str:
    """Make the SQL of all promotions, judged at *now*, which is ISO 8601."""
    return PROMOTIONS.format(now=text(now))


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """A promotion at a moment.

    Attributes:
        id: Piano's id.
        name: its name.
        why_not: why its codes are not good now; None when they are.
        new_customers_only: only for new customers.
        renews: it may also be used by somebody who has the term already, on renewal.
        terms: ids of the terms it is for, as far as known.
        new_terms: of these, those that only new customers may buy.
        all_known: whether *terms* are known; else nothing can be said of them.
    """

    id: str
    name: str
    why_not: str | None
    new_customers_only: bool
    renews: bool
    terms: tuple[str, ...]
    new_terms: tuple[str, ...]
    all_known: bool


def promotions_of(ledger: Ledger, now: str) -> dict[str, Promotion]:
    """Read all promotions as they stand at *now*."""
    terms_came = ledger.count("SELECT count(*) FROM terms") > 0
    rows = ledger.connection.execute(f"""
        SELECT promotion_id, coalesce(any_value(promotion_name), promotion_id), any_value(why_not),
            coalesce(any_value(new_customers_only), false), coalesce(any_value(can_be_applied_on_renewal), false),
            list(term_id ORDER BY term_id) FILTER (term_id IS NOT NULL),
            list(term_id ORDER BY term_id) FILTER (new_only), coalesce(bool_or(json_type(term_ids) = 'ARRAY'), false),
            coalesce(any_value(term_dependency_type), 'all') = 'all'
        FROM ({promotions_sql(now)}) LEFT JOIN ({APPLIES}) USING (promotion_id)
        GROUP BY promotion_id ORDER BY promotion_id
    """).fetchall()
    return {
        id_: Promotion(
            id=id_, name=called, why_not=why_not, new_customers_only=new_only, renews=renews,
            terms=tuple(terms or ()), new_terms=tuple(new_terms or ()),
            all_known=listed or (for_all and terms_came),
        )
        for id_, called, why_not, new_only, renews, terms, new_terms, listed, for_all in rows
    }  # fmt: skip


def spelled(code: str) -> str:
    """Make the SQL of a code as codes are compared: nobody documents whether case matters, so it does not."""
    return _SPELLED.format(code)


def make_held_codes(ledger: Ledger) -> None:
    """Make ``held_codes`` for this connection: each code that a subscription came with, and the promotion it is of.

    That is the one whose shared code it is, or that has it among its codes. Of a code that is known nowhere it is the
    promotion with the longest prefix that it begins with: a pool may have grown since it was listed.
    """
    ledger.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE held_codes AS
        WITH held AS (
            SELECT DISTINCT {spelled("promo_code")} AS code FROM subscriptions
            WHERE {blank_is_null("promo_code")} IS NOT NULL
        ), known AS (
            SELECT {spelled("fixed_promotion_code")} AS code, promotion_id FROM promotions
            UNION SELECT {spelled("promo_code")}, promotion_id FROM promo_codes
        ), exact AS (SELECT code, promotion_id FROM held JOIN known USING (code)
        ), begun AS (
            SELECT code, arg_max(promotion_id, length(promotion_code_prefix)) AS promotion_id
            FROM (FROM held ANTI JOIN exact USING (code)) JOIN promotions
            ON {blank_is_null("promotion_code_prefix")} IS NOT NULL
                AND starts_with(code, {spelled("promotion_code_prefix")})
            GROUP BY code
        )
        FROM exact UNION ALL FROM begun
    """)

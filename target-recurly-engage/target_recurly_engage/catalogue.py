"""What the publisher sells, as the ledger keeps it: promotions, their codes, and terms; of Piano's tap or any other.

The tap sends what changed, so the ledger keeps the rest: rows are put in by their key. Of a stream that comes as a
snapshot, what it lacks has vanished. Nothing about a reader is kept: who claimed a code does not stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import name

from target_recurly_engage.merge import Merge, merged
from target_recurly_engage.values import JSON

if TYPE_CHECKING:
    from collections.abc import Mapping

    from target_recurly_engage.ledger import Ledger

_TEXT, _FLAG, _COUNT, _NUMBER, _MOMENT = "VARCHAR", "BOOLEAN", "BIGINT", "DECIMAL(18,4)", "TIMESTAMP WITH TIME ZONE"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one kind of thing.

    Attributes:
        role: of the streams that bring it, and name of the table.
        key: the property that tells two apart.
        types: SQL types of the properties that are kept.
    """

    role: str
    key: str
    types: Mapping[str, str]


KEPT: Final[dict[str, Kept]] = {
    one.role: one
    for one in (
        Kept("promotions", "promotion_id", {
            "aid": _TEXT, "promotion_id": _TEXT, "promotion_name": _TEXT, "status": _TEXT,
            "fixed_promotion_code": _TEXT, "promotion_code_prefix": _TEXT, "unlimited_uses": _FLAG,
            "uses_allowed": _COUNT, "uses": _COUNT, "new_customers_only": _FLAG, "discount_type": _TEXT,
            "discount": _TEXT, "discount_amount": _NUMBER, "discount_currency": _TEXT,
            "percentage_discount": _NUMBER, "fixed_discount_list": JSON, "term_dependency_type": _TEXT,
            "term_ids": JSON, "start_date": _MOMENT, "end_date": _MOMENT, "can_be_applied_on_renewal": _FLAG,
            "deleted": _FLAG,
        }),
        Kept("promo_codes", "promo_code_id", {
            "aid": _TEXT, "promo_code_id": _TEXT, "promotion_id": _TEXT, "promo_code": _TEXT, "state_value": _TEXT,
            "deleted": _FLAG,
        }),
        Kept("terms", "term_id", {
            "aid": _TEXT, "term_id": _TEXT, "term_name": _TEXT, "type": _TEXT, "resource_id": _TEXT,
            "resource_name": _TEXT, "payment_new_customers_only": _FLAG, "payment_allow_promo_codes": _FLAG,
        }),
    )
}  # fmt: skip
"""By role. The tables are made by a migration of the ledger; the names are those of ``docs/streams.md``."""


def merge_catalogue(ledger: Ledger, kept: Kept, incoming: str, *, complete: bool) -> Merge:
    """Bring the table of *kept* up to date with the rows that came; to be called inside a transaction.

    Args:
        ledger: the ledger.
        kept: what came.
        incoming: name, quoted, of the table it came into, which goes.
        complete: the rows are all there are, so what they lack has vanished.
    """
    execute, table, key = ledger.connection.execute, name(kept.role), name(kept.key)
    before = ledger.count(f"SELECT count(*) FROM {table}")
    came = ledger.count(f"SELECT count(*) FROM {incoming}")
    absent = ledger.count(f"SELECT count(*) FROM {table} ANTI JOIN {incoming} USING ({key})")
    if complete:
        execute(f"DELETE FROM {table}")
    else:
        execute(f"DELETE FROM {table} USING {incoming} WHERE {table}.{key} = {incoming}.{key}")
    execute(f"INSERT INTO {table} BY NAME FROM {incoming}")
    execute(f"DROP TABLE {incoming}")
    return merged(ledger, table, before=before, came=came, absent=absent, complete=complete)

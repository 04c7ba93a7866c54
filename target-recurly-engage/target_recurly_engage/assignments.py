"""When a reader was first told the arm of an experiment: the one thing about an arm that no hash can tell.

Who is in which arm can be worked out at any time; who was in the segment on that day cannot. So the moment is kept
once Engage has acknowledged the trait, and ``recurly-engage promo results`` counts from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from piano_engage_common.duck import name, text

from target_recurly_engage.erased import any_erased, is_erased

if TYPE_CHECKING:
    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger


def note_assignments(ledger: Ledger, contract: Contract, now: str | None) -> int:
    """Note arms that Engage was told of readers and that are not noted yet, and count them.

    What a crash kept from being noted is noted by the next run. A reader who leaves the experiment stays noted.

    Args:
        ledger: the ledger, after a delivery.
        contract: which experiments there are.
        now: the moment that counts as now, as ISO 8601; None is that of the acknowledgement.
    """
    traits, columns = {trait.key: trait for trait in contract.audience}, ledger.columns("delivered")
    moment = "coalesce(acknowledged_at, started_at)" if now is None else f"{text(now)}::TIMESTAMPTZ"
    gone = is_erased("told.user_id") if any_erased(ledger) else "false"
    noted = 0
    for experiment in contract.experiments:
        trait = traits[experiment.key]
        if trait.name not in columns:
            continue
        arm, arms = f"delivered.{name(trait.name)}", ", ".join(map(text, experiment.arms))
        known = f"SELECT user_id, arm FROM assignments WHERE experiment = {text(experiment.name)}"
        noted += ledger.count(f"""
            INSERT INTO assignments
            SELECT {text(experiment.name)}, told.user_id, told.arm, {moment}
            FROM (SELECT user_id, {arm} AS arm, delivery_id FROM delivered WHERE {arm} IN ({arms})) AS told
            JOIN deliveries USING (delivery_id) ANTI JOIN ({known}) AS known USING (user_id, arm)
            WHERE NOT {gone}
        """)
    return noted

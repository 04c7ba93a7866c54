"""Which arm of an experiment a reader is in: by the very SQL of the target, so that both say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import connect
from piano_engage_common.stops import ConfigRefused
from target_recurly_engage.experiments import CONTROL
from target_recurly_engage.predicates import delivered

if TYPE_CHECKING:
    from target_recurly_engage.contract import Contract

__all__ = ["CONTROL", "arm_of"]

_USER: Final = "SELECT ?::VARCHAR AS user_id"


def arm_of(contract: Contract, experiment: str, user_id: str) -> str | None:
    """Give the arm of a reader, a promo code as a rule, or ``control``; None where the shares leave him out.

    Whether he is in the experiment's segment is not asked: the prompt is shown to that segment by Engage.

    Raises:
        ConfigRefused: the target's settings have no such experiment.
    """
    found = next((one for one in contract.experiments if one.name == experiment), None)
    if found is None:
        known = ", ".join(one.name for one in contract.experiments) or "none"
        msg = f"experiment {experiment!r}: is not among the target's setting experiments ({known})."
        raise ConfigRefused(msg)
    inside = f", true AS {delivered(found.segment)}" if found.segment else ""
    with connect() as connection:
        rows = connection.execute(f"SELECT {found.sql} FROM ({_USER}{inside})", [user_id]).fetchall()
    return None if rows[0][0] is None else str(rows[0][0])

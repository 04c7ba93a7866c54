"""Change options as `Term.change_options` and term/change/option/create write them (reference sheet of Piano, 3.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from piano_engage_sandbox.catalogue import TERM_BY_ID

if TYPE_CHECKING:
    from piano_engage_sandbox.actions import ChangeOption


def option_shape(option: ChangeOption) -> dict[str, Any]:
    """Write a `TermChangeOption`; no term of ours is on a delivery schedule, so no period has a name."""
    one, other = TERM_BY_ID[option.from_term], TERM_BY_ID[option.to_term]
    shape: dict[str, Any] = {"term_change_option_id": option.option_id}
    for side, term in (("from", one), ("to", other)):
        shape |= {
            f"{side}_term_id": term.term_id,
            f"{side}_term_name": term.name,
            f"{side}_period_id": None,
            f"{side}_period_name": None,
            f"{side}_resource_id": term.resource.rid,
            f"{side}_resource_name": term.resource.name,
            f"{side}_billing_plan": term.plan,
        }
    return shape | {
        "billing_timing": option.billing_timing,
        "immediate_access": option.immediate_access,
        "prorate_access": option.prorate_access,
        "description": option.description,
        "include_trial": False,
        "to_scheduled": False,
        "from_scheduled": False,
        "shared_account_count": other.shared,
        "collect_address": False,
        "upgrade_offers": [],
        "advanced_options": {"show_options": []},
    }

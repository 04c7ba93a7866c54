"""Ready-made segments: the audiences that retention teams ask for first, in the form of the setting ``segments``."""

from __future__ import annotations

from typing import Any, Final


def _row(trait: str, way: str, operator: str, value: object) -> dict[str, Any]:
    return {"trait": trait, way: {operator: value}}


_GOES_ON: Final = ["trial", "active", "grace", "pending_cancel"]

_READY: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": "trial_users",
        "description": "Readers in a trial: show them what they would miss.",
        "filters": [_row("in_trial", "include", "one_of", [True])],
    },
    {
        "name": "trial_ending",
        "description": "The trial ends within three days: the moment to convert.",
        "filters": [
            _row("in_trial", "include", "one_of", [True]),
            _row("days_to_trial_end", "include", "between", [0, 3]),
        ],
    },
    {
        "name": "grace",
        "description": "A payment failed and access goes on: ask for another card.",
        "filters": [_row("in_grace_period", "include", "one_of", [True])],
    },
    {
        "name": "late_grace",
        "description": "In the grace period for five days or more: the last reminder.",
        "filters": [
            _row("in_grace_period", "include", "one_of", [True]),
            _row("days_in_grace", "include", "at_least", 5),
        ],
    },
    {
        "name": "cancel_pending",
        "description": "Auto-renew is off and access goes on: there is still time to ask why.",
        "filters": [_row("lifecycle_stage", "include", "one_of", ["pending_cancel"])],
    },
    {
        "name": "cancel_pending_soon",
        "description": "Auto-renew is off and access ends within seven days: the last offer to stay.",
        "filters": [
            _row("lifecycle_stage", "include", "one_of", ["pending_cancel"]),
            _row("days_to_access_end", "include", "between", [0, 7]),
        ],
    },
    {
        "name": "recent_lapse",
        "description": "Access ended less than 30 days ago: one click brings them back.",
        "filters": [
            _row("lifecycle_stage", "include", "one_of", ["lapsed"]),
            _row("days_since_lapse", "include", "between", [0, 29]),
        ],
    },
    {
        "name": "win_back",
        "description": "Access ended 30 to 180 days ago: a low price to begin again.",
        "filters": [
            _row("lifecycle_stage", "include", "one_of", ["lapsed"]),
            _row("days_since_lapse", "include", "between", [30, 180]),
        ],
    },
    {
        "name": "promo_eligible",
        "description": "Nobody who pays or has bought what begins later, and never used a promo code: a first offer.",
        "filters": [
            _row("has_used_promo", "include", "one_of", [False]),
            _row("lifecycle_stage", "include", "one_of", ["none", "lapsed"]),
            _row("active_subscription_count", "exclude", "at_least", 1),
            _row("start_date", "exclude", "within_next_days", 3650),
        ],
    },
    {
        "name": "upgrade_candidates",
        "description": "Monthly for 120 days or more, renewing, no upgrade under way: offer the year.",
        "filters": [
            _row("lifecycle_stage", "include", "one_of", ["active"]),
            _row("billing_period", "include", "one_of", ["1 month"]),
            _row("subscription_age", "include", "at_least", 120),
            _row("auto_renew", "include", "one_of", [True]),
            _row("upgrade_status", "include", "one_of", ["No upgrade", "none"]),
        ],
    },
    {
        "name": "never_converted",
        "description": "Had a subscription, never paid for one, and has none now: tried and left.",
        "filters": [
            _row("subscription_count", "include", "at_least", 1),
            _row("has_ever_paid", "include", "one_of", [False]),
            _row("lifecycle_stage", "exclude", "one_of", [*_GOES_ON, "unknown"]),
        ],
    },
)

BY_NAME: Final[dict[str, dict[str, Any]]] = {one["name"]: one for one in _READY}
"""The segments, by name."""

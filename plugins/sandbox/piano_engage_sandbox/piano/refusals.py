"""What Piano answers when an action names nobody, or is refused: one table for all actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piano_engage_sandbox.actions import Refused
from piano_engage_sandbox.piano.envelope import Answer, ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.piano.envelope import Call
    from piano_engage_sandbox.world import Entry

UNKNOWN: Final = 8005
NO_OPTION: Final = 1012
ANY: Final = "*"
REFUSALS: Final[dict[str, dict[str, int | None]]] = {
    "cancel": {"refund_failed": 8004, ANY: 8002},
    "cancel_deferred": {ANY: None},
    "update": {"bill_date_past": 8001, ANY: None},
    "change": {ANY: NO_OPTION},
    "change_cancel": {ANY: NO_OPTION},
}
"""The error code by action and reason; None is `data: false` with code 0 (reference sheet of Piano, 3.4 and 3.6).

The codes are documented; which of the remaining reasons meets which is our guess. What a refused resume meets is a
switch.
"""
_RESUME: Final[dict[str, int | None]] = {"data_false": None, "code_2": 2, "code_8005": UNKNOWN}


def known(call: Call, name: str = "subscription_id", *, action: bool = False) -> Entry:
    """Give the subscription a parameter names; for actions the code of an unknown one is a switch."""
    entry = call.application.world.get(call.params.required(name))
    if entry is None:
        raise ApiError(call.sandbox.switches.publisher.unknown_subscription if action else UNKNOWN)
    return entry


def acted(call: Call, action: str, act: Callable[[], None]) -> Answer:
    """Do something to a subscription and answer `data`: true when it is done, false or an error when it is refused."""
    try:
        act()
    except Refused as e:
        code = refusal(call, action, e.reason)
        if code is not None:
            raise ApiError(code) from e
        return Answer("data", value=False)
    return Answer("data", value=True)


def refusal(call: Call, action: str, reason: str) -> int | None:
    """Look the answer to a refusal up: an error code, or None for `data: false`."""
    if action == "resume":
        return _RESUME[call.sandbox.switches.publisher.resume_refusal]
    codes = REFUSALS[action]
    return codes[reason] if reason in codes else codes[ANY]

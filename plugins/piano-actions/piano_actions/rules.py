"""What the target's settings say that the actions go by: the primary subscription, traits, Engage's address."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Final

from piano_engage_common.stops import ConfigRefused
from target_recurly_engage.cli.asking import settings_of as target_settings
from target_recurly_engage.contract import contract_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from target_recurly_engage.contract import Contract

_FILE: Final = "--config "
"""What the target's message about a file of settings begins with: there it is an option."""


def target_config(given: str) -> Mapping[str, Any]:
    """Read the target's settings: ``ENV`` for its environment variables, else the path of a file.

    Raises:
        ConfigRefused: one of them cannot be used.
    """
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        return target_settings((given,))
    except ConfigRefused as e:
        if not str(e).startswith(_FILE):
            raise
        msg = f"target_config {str(e).removeprefix(_FILE)}"
        raise ConfigRefused(msg) from e
    finally:  # the target takes over signals, which are ours here; in other threads than the first it takes none
        for number, handler in before.items():
            signal.signal(number, handler)


def contract(config: Mapping[str, Any]) -> Contract:
    """Read what may be sent, and how."""
    return contract_of(config)

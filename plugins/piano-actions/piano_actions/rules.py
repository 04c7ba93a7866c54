"""What the target's settings say that the actions go by: the primary subscription, traits, Engage's address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from target_recurly_engage.cli.asking import settings_of as target_settings
from target_recurly_engage.contract import contract_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from target_recurly_engage.contract import Contract


def target_config(given: str) -> Mapping[str, Any]:
    """Read the target's settings: ``ENV`` for its environment variables, else the path of a file.

    Raises:
        ConfigRefused: one of them cannot be used.
    """
    return target_settings((given,))


def contract(config: Mapping[str, Any]) -> Contract:
    """Read what may be sent, and how."""
    return contract_of(config)

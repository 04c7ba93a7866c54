"""Engage, by the address and the key in the target's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from piano_engage_common.transport import Transport
from target_recurly_engage.engage import IngestClient, access_of

from piano_actions import conversions

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from piano_actions.outcome import Outcome
    from piano_actions.settings import Settings


@dataclass(frozen=True, slots=True)
class Engage:
    """What is told to Engage at once.

    Attributes:
        config: the target's settings.
        transport: sends and retries.
        ingest: writes traits.
        tracker: id of the custom tracker, where none is named.
    """

    config: Mapping[str, Any]
    transport: Transport
    ingest: IngestClient
    tracker: str | None

    def converted(self, user_id: str, tracker: str) -> Outcome:
        """Tell that a reader finished a checkout."""
        return conversions.tell(
            self.transport,
            url=self.config["api_url"],
            app_id=self.config["app_id"],
            user_id=user_id,
            tracker=tracker,
        )


def engage_of(settings: Settings, config: Mapping[str, Any], logger: logging.Logger, *, at_once: int = 4) -> Engage:
    """Make what talks to Engage.

    Raises:
        ConfigRefused: the target's settings have no application id or key.
    """
    access = access_of(config)
    transport = Transport(
        patience=settings.patience,
        rate=float(config["requests_per_second"]),
        logger=logger,
        at_once=at_once,
        afterwards="it is kept, and sent later",
    )
    return Engage(config, transport, IngestClient(transport, access), settings.tracker)

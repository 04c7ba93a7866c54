"""Engage, by the address and the key in the target's settings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from target_recurly_engage.engage import IngestClient, access_of
from target_recurly_engage.handover import Message, moment_of

from piano_actions import conversions
from piano_actions.messages import name_for
from piano_actions.watch import transport_of

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from piano_engage_common.transport import Transport

    from piano_actions.outcome import Outcome
    from piano_actions.settings import Settings
    from piano_actions.watch import Watch


@dataclass(frozen=True, slots=True)
class Engage:
    """What is told to Engage at once.

    Attributes:
        config: the target's settings.
        transport: sends and retries.
        ingest: writes traits.
        tracker: id of the custom tracker, where none is named.
        logger: told where no word can be left for the next run.
    """

    config: Mapping[str, Any]
    transport: Transport
    ingest: IngestClient
    tracker: str | None
    logger: logging.Logger

    def converted(self, user_id: str, tracker: str, checkout_id: str) -> Outcome:
        """Tell that a reader finished a checkout, and leave word of it for the results of the next run."""
        told = conversions.tell(
            self.transport,
            url=self.config["api_url"],
            app_id=self.config["app_id"],
            user_id=user_id,
            tracker=tracker,
        )
        if self.config.get("handover_path"):
            moment = moment_of(time.time())
            message = Message(user_id=user_id, at=moment, piano_at=moment, traits={}, checkouts={checkout_id: tracker})
            try:
                message.leave(Path(self.config["handover_path"]), name_for(user_id))
            except OSError as e:  # Engage was told: to be told that it was not would have it told again
                self.logger.error(  # noqa: TRY400 - what is wrong with the folder is all there is to say
                    "Engage was told of a finished checkout, but no word of it could be left for the next run: %s. "
                    "Look at handover_path of the target.",
                    e,
                )
        return told


def engage_of(
    settings: Settings,
    config: Mapping[str, Any],
    logger: logging.Logger,
    *,
    at_once: int = 4,
    watch: Watch | None = None,
) -> Engage:
    """Make what talks to Engage; with a *watch*, attempts that fail are told of by that.

    Raises:
        ConfigRefused: the target's settings have no application id or key.
    """
    access = access_of(config)
    transport = transport_of(
        settings.patience,
        float(config["requests_per_second"]),
        logger=logger,
        watch=watch,
        at_once=at_once,
        afterwards="it is kept, and sent later",
    )
    return Engage(config, transport, IngestClient(transport, access), settings.tracker, logger)

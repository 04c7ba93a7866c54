"""What all commands share: the settings, the ledger, the moment, the form of an answer."""

from __future__ import annotations

import json
import logging
import os
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from piano_engage_common.given import take_own
from piano_engage_common.stops import ConfigRefused, NoInput, exits
from singer_sdk.exceptions import ConfigValidationError

from target_recurly_engage.destinations import viewed
from target_recurly_engage.settings import OF_ACCOUNT, PREFIX
from target_recurly_engage.shared.ledger import open_for_writing
from target_recurly_engage.shared.snapshots import exists, none_yet, open_for_reading
from target_recurly_engage.target import TargetRecurlyEngage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.ledger import Ledger

LOGGER = logging.getLogger("recurly-engage")

as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


def settings_of(configs: tuple[str, ...]) -> Mapping[str, Any]:
    """Read the target's settings from files, or from the environment for ``ENV``.

    Raises:
        ConfigRefused: a file cannot be read, or a setting cannot be used.
    """
    given: dict[str, Any] = {}
    take_own(os.environ, PREFIX, OF_ACCOUNT)
    for path in (Path(one) for one in configs if one != "ENV"):
        try:
            given |= json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as e:
            msg = f"--config {path}: cannot be read as an object of JSON ({e})."
            raise ConfigRefused(msg) from e
    try:
        return TargetRecurlyEngage(config=given, parse_env_config="ENV" in configs).config
    except ConfigValidationError as e:
        raise ConfigRefused("; ".join(e.errors)) from e


@contextmanager
def open_ledger(config: Mapping[str, Any], *, changes: bool = False, as_it_is: bool = False) -> Iterator[Ledger]:
    """Open the ledger for the ``with`` block; what ends it becomes a message and an exit code.

    Args:
        config: the target's settings.
        changes: the command changes something, so nobody else may have the ledger meanwhile.
        as_it_is: the tables stay those of the current destination, whatever the settings name.
    """
    with exits(LOGGER):
        if not changes:
            with open_for_reading(config, LOGGER) as ledger, nullcontext() if as_it_is else viewed(ledger, config):
                yield ledger
            return
        if not exists(config, LOGGER):
            raise NoInput(none_yet(config))
        command = click.get_current_context().command_path
        with closing(open_for_writing(config, who=f"`{command}`", logger=LOGGER)) as ledger:
            try:
                yield ledger
            finally:
                ledger.close()
                ledger.give_back()


def now_of(config: Mapping[str, Any]) -> str:
    """Give the moment that counts as now, as ISO 8601."""
    return str(config.get("as_of") or datetime.now(tz=UTC).isoformat())


def json_of(answer: object) -> str:
    """Write an answer as JSON."""
    return json.dumps(answer, indent=2, ensure_ascii=False)

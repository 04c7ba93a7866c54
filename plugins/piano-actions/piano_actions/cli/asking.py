"""What all commands share: settings, the desk, the form of an answer, exit codes."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from piano_engage_common.duck import connect
from piano_engage_common.stops import StorageFailed, exits
from sqlalchemy.exc import InterfaceError, OperationalError

from piano_actions import rules
from piano_actions.aside import Aside
from piano_actions.desk import Desk
from piano_actions.engage import Engage, engage_of
from piano_actions.outcome import Outcome, Status
from piano_actions.pushes import Pusher
from piano_actions.rows import primary_of
from piano_actions.settings import Settings, client_of, settings_of
from piano_actions.store import InFlight, KeyTaken, ReaderBusy, Store
from piano_actions.traits import Reckoner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tap_piano.client import PianoClient
    from target_recurly_engage.contract import Contract

    from piano_actions.subscriptions import Subscription
    from piano_actions.watch import Watch
    from piano_actions.words import Wording

LOGGER: Final = logging.getLogger("piano-actions")
EXIT_REFUSED: Final = 65
EXIT_UNKNOWN: Final = 75
LONGEST_KEY: Final = 128
EXITS: Final = {Status.REFUSED: EXIT_REFUSED, Status.UNKNOWN: EXIT_UNKNOWN}
"""Of outcomes that are not what was asked for; all others are 0."""

NEXT: Final = {
    "unknown_user": "--user takes Piano's uid of the reader, no address.",
    "unknown_subscription": "look the subscription up in Piano; without --subscription it is looked for.",
    "not_yours": "look up in Piano whose it is; without --subscription the reader's own is looked for.",
    "ambiguous": "name one of subscription_ids with --subscription, or let --when-ambiguous=primary choose.",
    "ambiguous_change": "name one of subscription_ids with --subscription.",
    "unknown_term": "`piano-actions upgrade options` lists the terms between which Piano offers a change.",
    "not_configured": "`piano-actions upgrade options` lists the changes that Piano offers.",
    "other_term": "`piano-actions upgrade options` lists the changes that Piano offers.",
    "several_options": "give --to the id of an option; `piano-actions upgrade options` lists them.",
    "promotion_unknown": "`piano-actions promo list` lists the promotions that hold now.",
    "no_code_left": "add codes to the promotion in Piano, or switch make_codes on.",
    "erased": "`piano-actions erase --user ID --allow` lets the reader in again.",
    "unanswered": "`piano-actions recover` looks again; a running service does so by itself.",
}
"""What whoever asked by hand can do about an outcome, by its reason."""

as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")


_Command = TypeVar("_Command", bound="Callable[..., Any]")


def _key(_context: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    if given is not None and not (1 <= len(given) <= LONGEST_KEY and given.isprintable()):
        msg = f"1 to {LONGEST_KEY} visible characters, please"
        raise click.BadParameter(msg)
    return given


def key_option(said: str) -> Callable[[_Command], _Command]:
    """Make the option of the key of a request."""
    return click.option("--key", callback=_key, help=said)


key = key_option("Two requests with the same key are one, for 24 hours.")
user = click.option("--user", required=True, help="The reader: Piano's UID.")


class Context:
    """What a command works with; each part is made when it is first asked for."""

    def __init__(self, config: Path | None) -> None:
        """Remember where settings stand."""
        self._config = config
        self.watches: Mapping[str, Watch] = {}
        """Who is told of attempts that fail, by ``piano`` and ``engage``; without, each is told of."""

    @cached_property
    def settings(self) -> Settings:
        """The settings."""
        return settings_of(self._config)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Open the notes for the ``with`` block; what ends it becomes a message and an exit code."""
        with exits(LOGGER):
            store = Store(self.settings.store_url)
            try:
                yield store
            except (OperationalError, InterfaceError) as e:
                msg = (
                    f"store_url: the notes cannot be read or written: {str(e.__cause__ or e).splitlines()[0]}. "
                    "Look at the database, then ask again."
                )
                raise StorageFailed(msg) from e
            finally:
                store.close()

    @contextmanager
    def piano(self) -> Iterator[PianoClient]:
        """Give the Publisher API for the ``with`` block."""
        with exits(LOGGER):
            yield client_of(self.settings, LOGGER)

    @contextmanager
    def desk(self, *, when_ambiguous: str | None = None) -> Iterator[Desk]:
        """Open the desk for the ``with`` block."""
        with self.store() as store:
            piano = client_of(self.settings, LOGGER)
            told = when_ambiguous or self.settings.when_ambiguous
            pusher = self.pusher(piano, store) if self.tells else None
            try:
                yield Desk(
                    piano,
                    store,
                    choose=self.choose if told == "primary" else None,
                    engage=lambda: self.engage,
                    tell=pusher.push if pusher else None,
                    make_codes=self.settings.make_codes,
                    new_customers=lambda: self.new_customers,
                    upgrade_wait=self.settings.upgrade_wait,
                    logger=LOGGER,
                )
            finally:
                if pusher:
                    pusher.close()

    @cached_property
    def wording(self) -> Wording:
        """How outcomes are put into words for users, with days in the target's zone."""
        return self.settings.wording(self.target["timezone"])

    @property
    def new_customers(self) -> str:
        """The target's setting ``new_customers``."""
        return str(self.target["new_customers"])

    @property
    def tells(self) -> bool:
        """Whether Engage is told at once."""
        return self.settings.push and bool(self.target.get("app_id") and self.target.get("api_key"))

    def pusher(self, piano: PianoClient, store: Store, *, aside: bool = False) -> Pusher:
        """Make what tells Engage at once.

        Args:
            piano: the Publisher API.
            store: the notes.
            aside: traits are worked out in a process of its own.

        Raises:
            ConfigRefused: the target's settings have no application id or key.
        """
        ingest, typed = self.engage.ingest, self.target["ingest_values"] == "typed"
        reckoner = Aside(self.target) if aside else Reckoner(self.contract, typed=typed)
        return Pusher(piano, ingest, store, reckoner, self.target, logger=LOGGER)

    @contextmanager
    def pushing(self) -> Iterator[Pusher]:
        """Give what tells Engage for the ``with`` block."""
        with self.store() as store:
            pusher = self.pusher(client_of(self.settings, LOGGER), store)
            try:
                yield pusher
            finally:
                pusher.close()

    @cached_property
    def target(self) -> Mapping[str, Any]:
        """The settings of the target."""
        return rules.target_config(self.settings.target_config)

    @cached_property
    def contract(self) -> Contract:
        """What may be sent, and how, by those settings."""
        return rules.contract(self.target)

    @cached_property
    def engage(self) -> Engage:
        """What talks to Engage."""
        return engage_of(self.settings, self.target, LOGGER, watch=self.watches.get("engage"))

    def choose(self, candidates: list[Subscription]) -> str | None:
        """Pick one of several subscriptions by the target's rule."""
        with connect() as connection:
            return primary_of(connection, self.contract.primary, candidates, max(one.read_at for one in candidates))


def tell(outcome: Outcome, *, as_json: bool) -> None:
    """Print an outcome in the usual language, and leave with its exit code."""
    context = click.get_current_context().find_object(Context)
    assert context  # noqa: S101 - every command has one
    with exits(LOGGER):
        outcome = context.wording.say(outcome)
    if as_json:
        click.echo(json_of(outcome.as_dict()))
    else:
        click.echo(f"{outcome.status}: {outcome.message}")
        click.echo(f"  reason: {outcome.reason}")
        for name, value in outcome.details.items():
            click.echo(f"  {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    if outcome.reason in NEXT and outcome.status in EXITS:
        click.echo(f"Next: {NEXT[outcome.reason]}", err=True)
    sys.exit(EXITS.get(outcome.status, 0))


@contextmanager
def usage() -> Iterator[None]:
    """Turn a key that stands for something else, and a reader for whom somebody else is at work, into a message."""
    try:
        yield
    except (InFlight, ReaderBusy):
        LOGGER.error("Another action of this reader has been under way for a minute. Look at `audit`, then ask again.")  # noqa: TRY400 - a traceback would hide it
        sys.exit(EXIT_UNKNOWN)
    except KeyTaken:
        msg = "--key: was used for another request within the last 24 hours; choose another one"
        raise click.UsageError(msg) from None


def counted(counts: Mapping[str, int]) -> str:
    """Write counts for a person, without those that are 0."""
    told = [f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items() if count]
    return ", ".join(told) or "nothing was waiting"


def json_of(answer: object) -> str:
    """Write an answer as JSON."""
    return json.dumps(answer, indent=2, ensure_ascii=False)

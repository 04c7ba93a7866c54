"""The command that serves actions over HTTP."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import click
import uvicorn
from piano_engage_common.stops import ConfigRefused, exits
from typing_extensions import override

from piano_actions.checkout import check
from piano_actions.cli.asking import LOGGER
from piano_actions.desk import Desk
from piano_actions.inbox import Inbox
from piano_actions.service.app import make_app
from piano_actions.service.counter import Counter
from piano_actions.service.gate import Gate, Limits
from piano_actions.service.hooks import Hooks
from piano_actions.service.metrics import Metrics
from piano_actions.settings import client_of
from piano_actions.store import Store
from piano_actions.watch import Watch
from piano_actions.webhooks import LONGEST_DATA, reader_of

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from piano_actions.cli.asking import Context
    from piano_actions.settings import Settings

STOP_SECONDS: Final = 60
"""How long actions that are under way may take when the service is stopped."""
LONGEST_HEAD: Final = 4 * LONGEST_DATA
"""Bytes of a request's head: an event stands in it, and one that is too long shall be taken, for quarantine."""
SHORTEST_SECRET: Final = 16
PATIENCE: Final = 30.0


def app_of(context: Context, *, aside: bool = False) -> FastAPI:
    """Put the service together from the settings.

    Args:
        context: has the settings.
        aside: traits are worked out in a process of its own.

    Raises:
        ConfigRefused: a setting that is needed is missing, or a secret is too short.
        StorageFailed: the store cannot be opened.
    """
    settings = context.settings
    gate = _gate(settings)
    reader = reader_of(settings)
    if settings.checkout_url:
        check(settings.checkout_url)
    _ = context.target  # read now: what is wrong with it shall not be told at a click only
    wording = context.wording
    store = Store(settings.store_url)
    context.watches = {"piano": Watch("Asking Piano", LOGGER), "engage": Watch("Asking Engage", LOGGER)}
    piano = client_of(settings, LOGGER, at_once=settings.workers, watch=context.watches["piano"])
    pusher = context.pusher(piano, store, aside=aside) if context.tells else None
    desk = Desk(
        piano,
        store,
        choose=context.choose if settings.when_ambiguous == "primary" else None,
        engage=lambda: context.engage,
        make_codes=settings.make_codes,
        new_customers=lambda: context.new_customers,
        upgrade_wait=settings.upgrade_wait,
        logger=LOGGER,
    )
    metrics = Metrics()
    inbox = Inbox(store, tells=pusher is not None, days=settings.webhook_days)
    counter = Counter(
        desk,
        pusher,
        limits=Limits(settings.reader_actions_per_minute, settings.actions_per_second),
        metrics=metrics,
        workers=settings.workers,
        patience=PATIENCE,
        sweep=inbox.sweep,
        logger=LOGGER,
    )

    def close() -> None:
        if pusher:
            pusher.close()
        store.close()

    hooks = Hooks(reader, inbox, metrics) if reader else None
    if pusher and hooks:
        pusher.courtesy = hooks.courtesy
    return make_app(
        counter,
        gate,
        metrics,
        hooks=hooks,
        checkout_url=settings.checkout_url,
        wording=wording,
        close=close,
    )


def _gate(settings: Settings) -> Gate:
    """Say who is let in."""
    given = settings.secrets.get_secret_value() if settings.secrets else ""
    secrets = tuple(secret for secret in (one.strip() for one in given.split(",")) if secret)
    if not secrets or min(map(len, secrets)) < SHORTEST_SECRET:
        msg = (
            f"secrets: needs one of {SHORTEST_SECRET} characters or more, such as `openssl rand -hex 32` prints. "
            "Set PIANO_ACTIONS_SECRETS."
        )
        raise ConfigRefused(msg)
    signed = settings.hmac_secret.get_secret_value() if settings.hmac_secret else ""
    if signed and len(signed) < SHORTEST_SECRET:
        msg = f"hmac_secret: needs {SHORTEST_SECRET} characters or more, such as `openssl rand -hex 32` prints."
        raise ConfigRefused(msg)
    return Gate(secrets, signed or None)


class _Server(uvicorn.Server):
    """A server that says where it listens once it does, and in words where it cannot."""

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        host, port = self.config.host, self.config.port
        try:
            await super().startup(sockets)
        except SystemExit as e:
            if self.lifespan.should_exit:  # it was not for the address
                raise
            msg = (
                f"host, port: the service cannot listen at {host}:{port}. Is another one running there? "
                "Set PIANO_ACTIONS_PORT to another port."
            )
            raise ConfigRefused(msg) from e
        if self.started:
            taken = self.servers[0].sockets[0].getsockname()[1]
            click.echo(f"serving on http://{host}:{taken}", err=True)


def server_of(context: Context, *, aside: bool = False) -> uvicorn.Server:
    """Make the server; it is stopped by SIGTERM or SIGINT, and lets what is under way come to an end."""
    config = uvicorn.Config(
        app_of(context, aside=aside),
        host=context.settings.host,
        port=context.settings.port,
        access_log=False,  # paths and addresses say nothing that the audit does not
        log_level=logging.WARNING,
        server_header=False,
        http="h11",
        h11_max_incomplete_event_size=LONGEST_HEAD,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return _Server(config)


@click.command()
@click.pass_obj
def serve(context: Context) -> None:
    """Serve actions over HTTP, for Engage's API actions, until it is stopped."""
    with exits(LOGGER):
        server_of(context, aside=True).run()


COMMANDS = (serve,)

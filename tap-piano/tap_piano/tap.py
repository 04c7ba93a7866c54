"""The tap: its settings and its streams."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

from piano_engage_common.given import typed
from piano_engage_common.progress import Progress
from piano_engage_common.stops import AccessRefused, exits
from piano_engage_common.transport import Stopping
from singer_sdk import Tap
from typing_extensions import override

from tap_piano.api_stream import Listings
from tap_piano.base import ENDED
from tap_piano.diagnosis import diagnose, skew_words
from tap_piano.listing import Listing, list_exports
from tap_piano.log_stream import SubscriptionLogStream
from tap_piano.reports import ExportJob, ExportOptions
from tap_piano.settings import SETTINGS, check, client_of, transport_of
from tap_piano.streams import API_STREAMS
from tap_piano.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    import click
    from piano_engage_common.transport import Transport
    from singer_sdk import Stream

    from tap_piano.client import PianoClient

SIGNAL_BASE = 128
"""A process that a signal ended exits with this and the signal's number."""


class TapPiano(Tap):
    """Singer tap for Piano: the subscription log from files or the Reports API, the rest from the Publisher API."""

    name = "tap-piano"
    package_name = "tap-piano"
    message_writer_class = Wire

    config_jsonschema: ClassVar[dict[str, Any]] = SETTINGS.to_dict()

    @override
    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        """As the SDK's; numbers that came as text, from the environment, are numbers before."""
        self.append_builtin_config(self.config_jsonschema)
        self._config = typed(self._config, self.config_jsonschema)
        return super()._validate_config(raise_errors=raise_errors)

    @override
    def discover_streams(self) -> list[Stream]:
        """Make the streams: the log always, those of the Publisher API with a token.

        Raises:
            ConfigRefused: a setting cannot be used.
            InputRefused: the header of an export cannot be read.
            NoInput: there is no export at the path.
        """
        check(self.config)
        path = self.config.get("export_path")
        listing = list_exports(path) if path else Listing()
        if not self.config.get("api_token"):
            return [SubscriptionLogStream(self, listing)]
        job = None if path else self._export_job()
        listings = Listings(self.client)
        return [SubscriptionLogStream(self, listing, job), *(stream(self, listings) for stream in API_STREAMS)]

    @cached_property
    def transport(self) -> Transport:
        """What sends requests to Piano."""
        return transport_of(self.config, self.logger, self.stopping)

    @cached_property
    def client(self) -> PianoClient:
        """The Publisher API."""
        return client_of(self.config, self.transport, self.logger)

    @cached_property
    def stopping(self) -> Stopping:
        """Wakes the threads that wait, when the run is to end."""
        return Stopping()

    def _export_job(self) -> ExportJob:
        options = ExportOptions(
            url=self.config["reports_url"],
            aid=self.config["aid"],
            token=self.config["api_token"],
            token_in=self.config["reports_token_in"],
            wait=float(self.config["export_wait"]),
            poll=float(self.config["export_poll"]),
        )
        return ExportJob(self.transport, options, progress=Progress(self.logger), logger=self.logger)

    def catalog_changed(self) -> None:
        """Take in what a stream found out about its schema only when its sync began."""
        self._catalog = None
        self.setup_mapper()

    @override
    def _reset_state_progress_markers(self) -> None:
        """As the SDK's, before the first STATE; that one must not claim more than what this run builds on."""
        super()._reset_state_progress_markers()
        for name, bookmark in self.state.get("bookmarks", {}).items():
            bookmark.pop(ENDED, None)
            if isinstance(stream := self.streams.get(name), SubscriptionLogStream):
                stream.stand_on(bookmark)

    @override
    def setup_mapper(self) -> None:
        """Let the streams narrow the catalog first, so that the SCHEMA message names only what leaves."""
        _ = self.streams  # made on first use, and applying the catalog as they are made
        super().setup_mapper()

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        self.logger.info("%s: ending", signal.Signals(signum).name)
        self.stopping.event.set()
        self.wire.end(signum)

    @property
    def wire(self) -> Wire:
        """Where the messages go."""
        return cast("Wire", self.message_writer)

    @classmethod
    @override
    def invoke(cls, **kwargs: Any) -> None:
        with _prompt_ends(), exits(cls.logger):
            super().invoke(**kwargs)

    @classmethod
    @override
    def cb_discover(cls, ctx: click.Context, param: click.Option, value: bool) -> None:
        with exits(cls.logger):
            super().cb_discover(ctx, param, value)

    @classmethod
    @override
    def cb_test(cls, ctx: click.Context, param: click.Option, value: str) -> None:
        if value == "disabled":
            return
        given = ctx.params["config"]
        with exits(cls.logger):
            tap = cls(config=given.config, parse_env_config=given.parse_env)
            if value == "schema":
                tap.write_schemas()
            else:
                tap.try_out()
        ctx.exit()

    def try_out(self) -> None:
        """Read one record of each stream, and say in words whether all is well.

        Raises:
            AccessRefused: Piano refuses; the message says which of token, application and region is wrong.
            RunStopped: a stream cannot be read.
        """
        try:
            self.run_connection_test()
        except AccessRefused as e:
            msg = f"{e} {diagnose(self.config, self.logger)}"
            raise AccessRefused(msg) from e
        if self.config.get("api_token") and (words := skew_words(self.client.skew)):
            self.logger.warning("%s", words)
        self.logger.info("All is well: %d stream(s) can be read (%s)", len(self.streams), ", ".join(self.streams))


@contextmanager
def _prompt_ends() -> Iterator[None]:
    """End at once after a signal: threads may still wait for Piano, and nothing they bring is wanted any more."""
    try:
        yield
    except SystemExit as e:
        if isinstance(e.code, int) and e.code > SIGNAL_BASE and threading.active_count() > 1:
            logging.shutdown()
            sys.stdout.flush()
            os._exit(e.code)
        raise

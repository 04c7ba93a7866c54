"""The tap: its settings and its streams."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Any, ClassVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from piano_engage_common.duck import DEFAULT_MEMORY_LIMIT
from piano_engage_common.stops import ConfigRefused, exits
from singer_sdk import Tap
from singer_sdk import typing as th
from typing_extensions import override

from tap_piano.files import find, open_exports, read_header
from tap_piano.streams import SubscriptionLogStream
from tap_piano.wire import Wire

if TYPE_CHECKING:
    from types import FrameType

    import click
    from singer_sdk import Stream


class TapPiano(Tap):
    """Singer tap for Piano: the subscription log, from the Console's export files."""

    name = "tap-piano"
    package_name = "tap-piano"
    message_writer_class = Wire

    config_jsonschema: ClassVar[dict[str, Any]] = th.PropertiesList(
        th.Property(
            "export_path",
            th.StringType,
            required=True,
            title="Export path",
            description=(
                "Where the exports of the subscription log lie: a file, a folder or a glob; CSV, or ZIP with CSVs "
                "in it. Of several files the newest row of a subscription wins."
            ),
        ),
        th.Property(
            "aid",
            th.StringType,
            title="Application id",
            description="Piano's id of the application; written into every row and made part of the key.",
        ),
        th.Property(
            "columns",
            th.CustomType({"type": ["string", "array"], "items": {"type": "string"}}),
            default="traits",
            title="Columns",
            description=(
                "Which columns may leave: `traits` (the 30 that Engage names, and the modify time), `all`, or names "
                "of columns, by commas or as a list; the two words may stand among them. Personal columns leave "
                "only when `all` or their own name stands here."
            ),
        ),
        th.Property(
            "timezone",
            th.StringType,
            default="UTC",
            title="Time zone",
            description="IANA time zone of stamps that carry no offset, such as those of the dashboard's exports.",
        ),
        th.Property(
            "lookback",
            th.IntegerType(minimum=0),
            default=60,
            title="Lookback",
            description="Minutes before the bookmark from which rows are read again, for changes that came late.",
        ),
        th.Property(
            "rejects_path",
            th.StringType,
            default="output/rejects",
            title="Rejects path",
            description="Folder for the files of rows that cannot be used; made when there are any.",
        ),
        th.Property(
            "max_reject_fraction",
            th.NumberType(minimum=0, maximum=1),
            default=0.01,
            title="Max reject fraction",
            description="More bad rows than this share stop the run before a row is sent.",
        ),
        th.Property(
            "memory_limit",
            th.StringType,
            default=DEFAULT_MEMORY_LIMIT,
            title="Memory limit",
            description="Memory for DuckDB; what does not fit is spilled to disk. The process needs about 200 MB more.",
        ),
    ).to_dict()

    @override
    def discover_streams(self) -> list[Stream]:
        """Make the streams.

        Raises:
            ConfigRefused: a setting cannot be used.
            InputRefused: the header of an export cannot be read.
            NoInput: there is no export at the path.
        """
        _check_zone(self.config["timezone"])
        _check_memory_limit(self.config["memory_limit"])
        path = self.config.get("export_path")
        exports = [(export, read_header(export)) for export in open_exports(find(path))] if path else []
        return [SubscriptionLogStream(self, exports)]

    @override
    def setup_mapper(self) -> None:
        """Let the streams narrow the catalog first, so that the SCHEMA message names only what leaves."""
        _ = self.streams  # made on first use, and applying the catalog as they are made
        super().setup_mapper()

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        self.logger.info("%s: ending", signal.Signals(signum).name)
        self.wire.end(signum)

    @property
    def wire(self) -> Wire:
        """Where the messages go."""
        return cast("Wire", self.message_writer)

    @classmethod
    @override
    def invoke(cls, **kwargs: Any) -> None:
        with exits(cls.logger):
            super().invoke(**kwargs)

    @classmethod
    @override
    def cb_discover(cls, ctx: click.Context, param: click.Option, value: bool) -> None:
        with exits(cls.logger):
            super().cb_discover(ctx, param, value)

    @classmethod
    @override
    def cb_test(cls, ctx: click.Context, param: click.Option, value: str) -> None:
        with exits(cls.logger):
            super().cb_test(ctx, param, value)


def _check_zone(zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as e:
        msg = f"timezone: {zone!r} is no IANA time zone. Write it like 'Europe/Amsterdam' or 'UTC'."
        raise ConfigRefused(msg) from e


def _check_memory_limit(limit: str) -> None:
    if not re.fullmatch(r"[1-9]\d*(\.\d+)? ?[KMGT]i?B", limit, re.IGNORECASE):
        msg = f"memory_limit: {limit!r} is no amount of memory. Write it like '320MB' or '2GB'."
        raise ConfigRefused(msg)

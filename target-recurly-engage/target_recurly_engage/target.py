"""The target: its settings, and the way of messages through it."""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager
from datetime import date, datetime
from typing import IO, TYPE_CHECKING, Any, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from piano_engage_common.duck import DEFAULT_MEMORY_LIMIT
from piano_engage_common.given import typed
from piano_engage_common.stops import ConfigRefused, InputRefused, RunStopped, exits, storage_errors
from singer_sdk import Target
from singer_sdk import typing as th
from singer_sdk.configuration._dict_config import merge_missing_config_jsonschema
from singer_sdk.exceptions import ConfigValidationError, RecordsWithoutSchemaException
from singer_sdk.helpers.capabilities import (
    ACTIVATE_VERSION_CONFIG,
    CapabilitiesEnum,
    PluginCapabilities,
)
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.plugin_base import PluginBase, _ConfigInput
from singer_sdk.singerlib.encoding import SimpleSingerReader
from singer_sdk.singerlib.json import deserialize_json, serialize_json
from typing_extensions import override

from target_recurly_engage.run import Run
from target_recurly_engage.sinks import LeftAloneSink, SubscriptionsSink

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from singer_sdk.sinks import Sink

SUBSCRIPTIONS_ROLE = "subscriptions"


class MessageReader(SimpleSingerReader):
    """Reads the SDK's messages, but shows no line that it cannot read: there are people in it."""

    @override
    def deserialize_json(self, line: str) -> dict[str, Any]:
        try:
            message: Any = deserialize_json(line)
        except json.JSONDecodeError as e:
            msg = f"standard input: a line is no JSON (character {e.pos:,} of {len(line):,}). Did the tap break off?"
            raise InputRefused(msg) from None
        if not isinstance(message, dict) or "type" not in message:
            msg = "standard input: a line is no Singer message. Is it a tap that writes there?"
            raise InputRefused(msg)
        return message


class TargetRecurlyEngage(Target):
    """Singer target for Recurly Engage: user traits from Piano's subscriptions, only those that changed."""

    name = "target-recurly-engage"
    package_name = "target-recurly-engage"
    default_sink_class = LeftAloneSink
    message_reader_class = MessageReader
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        PluginCapabilities.ABOUT,
        PluginCapabilities.STREAM_MAPS,
        PluginCapabilities.FLATTENING,
        PluginCapabilities.STRUCTURED_LOGGING,
        PluginCapabilities.ACTIVATE_VERSION,
        PluginCapabilities.BATCH,
    ]

    config_jsonschema: ClassVar[dict[str, Any]] = th.PropertiesList(
        th.Property(
            "ledger",
            th.StringType,
            default=".meltano/ledger.duckdb",
            title="Ledger",
            description="File that says what Piano holds and what Engage was told. Keep it: see docs/ledger.md.",
        ),
        th.Property(
            "delivery",
            th.StringType,
            default="file",
            allowed_values=["file", "s3", "ingest"],
            title="Delivery",
            description=(
                "How traits reach Engage: `ingest` sends what changed to the Ingest API, `s3` puts CSVs into Engage's "
                "ingest folder, `file` writes the same CSVs into a local folder."
            ),
        ),
        th.Property(
            "output_path",
            th.StringType,
            default="output/ingest",
            title="Output path",
            description="Folder for the CSVs of the delivery `file`.",
        ),
        th.Property(
            "s3_bucket",
            th.StringType,
            title="S3 bucket",
            description="Bucket of the delivery `s3`; Pulse shows it under Show Credentials.",
        ),
        th.Property(
            "s3_prefix",
            th.StringType,
            title="S3 prefix",
            description="Folder in the bucket that Engage reads, such as `example-daily-1a2b3c/ingest/`.",
        ),
        th.Property(
            "s3_region",
            th.StringType,
            default="us-west-2",
            title="S3 region",
            description="Region of the bucket.",
        ),
        th.Property(
            "s3_endpoint_url",
            th.StringType,
            title="S3 endpoint URL",
            description="Address of an S3-compatible server other than Amazon's.",
        ),
        th.Property(
            "aws_access_key_id",
            th.StringType,
            title="AWS access key id",
            description="Key for the bucket. Without it the default chain of AWS is asked: environment, profile, role.",
        ),
        th.Property(
            "aws_secret_access_key",
            th.StringType,
            secret=True,
            title="AWS secret access key",
            description="Secret of that key.",
        ),
        th.Property(
            "aws_session_token",
            th.StringType,
            secret=True,
            title="AWS session token",
            description="Token of credentials that are good for a time.",
        ),
        th.Property(
            "app_id",
            th.StringType,
            title="App id",
            description="Engage's id of the application; the Ingest API needs it.",
        ),
        th.Property(
            "api_key",
            th.StringType,
            secret=True,
            title="API key",
            description="Key of the Ingest API; Pulse shows it under Settings > Application.",
        ),
        th.Property(
            "api_url",
            th.StringType,
            default="https://conduit.redfast.com",
            title="API URL",
            description="Address of the Ingest API, without its path.",
        ),
        th.Property(
            "ingest_form",
            th.StringType,
            default="json",
            allowed_values=["json", "query"],
            title="Ingest form",
            description="How traits are written: `json` in the body, or the older `query` in the address.",
        ),
        th.Property(
            "ingest_key_in",
            th.StringType,
            default="basic",
            allowed_values=["basic", "query", "both"],
            title="Ingest key in",
            description="Where the key goes: Basic auth with the app id as user, a parameter of the query, or both.",
        ),
        th.Property(
            "ingest_key_parameter",
            th.StringType(min_length=1),
            default="api_key",
            title="Ingest key parameter",
            description="Name of that parameter. Engage's pages speak of one and print no name; ask for it.",
        ),
        th.Property(
            "ingest_values",
            th.StringType,
            default="strings",
            allowed_values=["strings", "typed"],
            title="Ingest values",
            description="`strings` as in Engage's examples, or `typed`: numbers, true and false as JSON has them.",
        ),
        th.Property(
            "requests_per_second",
            th.NumberType(minimum=0),
            default=20,
            title="Requests per second",
            description=(
                "Requests a second to the Ingest API, never more; 0 is no limit. Engage documents none. Halved while "
                "Engage is busy."
            ),
        ),
        th.Property(
            "concurrency",
            th.IntegerType(minimum=1),
            default=8,
            title="Concurrency",
            description="Requests to the Ingest API in flight at the same time.",
        ),
        th.Property(
            "retry_wait",
            th.NumberType(minimum=0),
            default=1,
            title="Retry wait",
            description="Seconds before the second attempt; doubled each time, never less than `Retry-After`.",
        ),
        th.Property(
            "retry_seconds",
            th.NumberType(minimum=0),
            default=600,
            title="Retry seconds",
            description="Seconds after which no further attempt of a request begins.",
        ),
        th.Property(
            "max_reject_fraction",
            th.NumberType(minimum=0, maximum=1),
            default=0.05,
            title="Max reject fraction",
            description="More than this share of a run's readers rejected for the first time: it ends with code 81.",
        ),
        th.Property(
            "request_timeout",
            th.NumberType(exclusive_minimum=0),
            default=60,
            title="Request timeout",
            description="Seconds without a byte after which a request counts as lost.",
        ),
        th.Property(
            "retry_attempts",
            th.IntegerType(minimum=1),
            default=5,
            title="Retry attempts",
            description="How often a request is sent at most.",
        ),
        th.Property(
            "runs_path",
            th.StringType,
            default="runs",
            title="Runs path",
            description="Folder for the summaries, one JSON a run.",
        ),
        th.Property(
            "streams",
            th.ObjectType(
                additional_properties=th.ObjectType(
                    th.Property("role", th.StringType, required=True, allowed_values=[SUBSCRIPTIONS_ROLE])
                )
            ),
            default={"subscription_log": {"role": SUBSCRIPTIONS_ROLE}},
            title="Streams",
            description="What each stream holds: the role `subscriptions` makes traits. Other streams are left alone.",
        ),
        th.Property(
            "timezone",
            th.StringType,
            default="UTC",
            title="Time zone",
            description="IANA time zone in which a moment becomes a date; that of the Piano application, as a rule.",
        ),
        th.Property(
            "as_of",
            th.DateTimeType,
            title="As of",
            description="Moment that counts as now when the primary subscription is chosen; for old exports and tests.",
        ),
        th.Property(
            "clear_string",
            th.StringType(min_length=1),
            default="none",
            title="Clear string",
            description="Sent for a text that is absent. Nothing documents that a blank clears a trait at Engage.",
        ),
        th.Property(
            "clear_number",
            th.NumberType,
            default=-1,
            title="Clear number",
            description="Sent for a number that is absent.",
        ),
        th.Property(
            "clear_boolean",
            th.BooleanType,
            default=False,
            title="Clear boolean",
            description="Sent for a true/false that is absent.",
        ),
        th.Property(
            "clear_date",
            th.DateType,
            default="9999-12-31",
            title="Clear date",
            description=(
                "Sent for a date that is absent. Far ahead, so that no filter on the past or on the next days takes it."
            ),
        ),
        th.Property(
            "brake_min_rows_fraction",
            th.NumberType(minimum=0, maximum=1),
            default=0.9,
            title="Brake: min rows fraction",
            description="A complete log with less than this share of the known subscriptions stops the run.",
        ),
        th.Property(
            "brake_max_clear_fraction",
            th.NumberType(minimum=0, maximum=1),
            default=0.05,
            title="Brake: max clear fraction",
            description="More than this share of the known readers losing all traits at once stops the run.",
        ),
        th.Property(
            "memory_limit",
            th.StringType,
            default=DEFAULT_MEMORY_LIMIT,
            title="Memory limit",
            description="Memory for DuckDB; what does not fit is spilled to disk. The process needs about 200 MB more.",
        ),
    ).to_dict()

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - as the SDK's
        """Check what the JSON schema cannot."""
        self._run: Run | None = None
        self._signal: int | None = None
        self._left_alone: set[str] = set()
        super().__init__(**kwargs)
        _check_settings(self.config)

    @override
    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        """As the SDK's; numbers that came as text, from the environment, are numbers before."""
        self.append_builtin_config(self.config_jsonschema)
        self._config = typed(self._config, self.config_jsonschema)
        return super()._validate_config(raise_errors=raise_errors)

    @classmethod
    @override
    def append_builtin_config(cls, config_jsonschema: dict[str, Any]) -> None:
        """Add only the SDK's settings that have a meaning here."""
        merge_missing_config_jsonschema(ACTIVATE_VERSION_CONFIG, config_jsonschema)
        PluginBase.append_builtin_config.__func__(cls, config_jsonschema)  # type: ignore[attr-defined]

    @classmethod
    @override
    def invoke(  # type: ignore[override]
        cls,
        *,
        about: bool = False,
        about_format: str | None = None,
        config: _ConfigInput | None = None,
        file_input: IO[str] | None = None,
    ) -> None:
        """As the SDK's, but what ends a run is told in its summary, and the exit code says why."""
        PluginBase.invoke.__func__(cls, about=about, about_format=about_format)  # type: ignore[attr-defined]
        cls.print_version(print_fn=cls.logger.info)
        given = config or _ConfigInput()
        with exits(cls.logger):
            try:
                target = cls(config=given.config, parse_env_config=given.parse_env, validate_config=True)
            except ConfigValidationError as e:
                raise ConfigRefused("; ".join(e.errors)) from e
            with target.told():
                target.listen(file_input)

    @property
    def run(self) -> Run:
        """The run; it begins, and the ledger is opened, when the first stream that matters is announced."""
        if self._run is None:
            self._run = Run(self.config, self.logger)
        return self._run

    # Messages

    @override
    def get_sink_class(self, stream_name: str) -> type[Sink]:
        role = self.config["streams"].get(stream_name, {}).get("role")
        if role == SUBSCRIPTIONS_ROLE:
            return SubscriptionsSink
        self._left_alone.add(stream_name)
        return LeftAloneSink

    @override
    def _process_record_message(self, message_dict: dict[str, Any]) -> None:
        """Hand a RECORD on as the line it came in, unless a stream map wants to see it."""
        stream = self._announced(message_dict)
        sink = self._sinks_active.get(stream)
        line: str | None = self.message_reader._current_message  # noqa: SLF001
        if isinstance(sink, LeftAloneSink):
            return
        if isinstance(sink, SubscriptionsSink) and self._is_plain(stream) and "record" in message_dict and line:
            sink.take_line(message_dict, line)
            return
        super()._process_record_message(message_dict)

    def _announced(self, message: dict[str, Any]) -> str:
        stream = str(message.get("stream"))
        if stream not in self.mapper.stream_maps:
            msg = f"a {message['type']} of stream {stream!r} came before its SCHEMA. Mend the tap."
            raise RecordsWithoutSchemaException(msg)
        return stream

    def _is_plain(self, stream: str) -> bool:
        return [type(stream_map) for stream_map in self.mapper.stream_maps.get(stream, [])] == [SameRecordTransform]

    @override
    def _process_batch_message(self, message_dict: dict[str, Any]) -> None:
        """As the SDK's, but a stream map is heard: then the rows go its way one by one."""
        stream = self._announced(message_dict)
        maps = self.mapper.stream_maps[stream]
        for sink in [self.get_sink(stream_map.stream_alias) for stream_map in maps]:
            if isinstance(sink, SubscriptionsSink):
                sink.note_version(message_dict.get("version"))
        if self._is_plain(stream) or not any(self._is_ours(stream_map.stream_alias) for stream_map in maps):
            super()._process_batch_message(message_dict)
            return
        self.logger.info("%s: a stream map wants to see each row: the slower path", stream)
        encoding = message_dict["encoding"]["format"]
        for record in self.run.intake.records(encoding, message_dict["manifest"]):
            super()._process_record_message({"type": "RECORD", "stream": stream, "record": record})

    def _is_ours(self, stream: str) -> bool:
        return isinstance(self._sinks_active.get(stream), SubscriptionsSink)

    @override
    def _process_activate_version_message(self, message_dict: dict[str, Any]) -> None:
        """As the SDK's, without its words about metadata columns, which mean nothing here."""
        for stream_map in self.mapper.stream_maps[self._announced(message_dict)]:
            sink = self.get_sink(stream_map.stream_alias)
            if sink.process_activate_version_messages:
                sink.activate_version(message_dict["version"])

    @override
    def _handle_max_record_age(self) -> None:
        """The SDK would drain and let STATE out in the middle; nothing is delivered before the end of the pipe."""

    # The end

    @override
    def process_endofpipe(self) -> None:
        """Deliver, and only then let STATE out."""
        if self._left_alone:
            self.logger.warning("left alone, for no role is set for them: %s", ", ".join(sorted(self._left_alone)))
        if self._run is None:
            self.logger.warning("no stream of subscriptions came; nothing to do")
            super().process_endofpipe()
            return
        self._run.finish()
        try:
            self._run.end("finished")
        finally:
            super().process_endofpipe()  # it was delivered, whether that could be noted or not
        self._run.check_rejects()

    @override
    def _write_state_message(self, state: dict[str, Any]) -> None:
        """As the SDK's, which fails on a number with a decimal point, for its reader makes a Decimal of it."""
        sys.stdout.write(f"{serialize_json(state)}\n")
        sys.stdout.flush()

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        """End with 128 + *signum*; a delivery that is under way is finished first, and so is its STATE.

        The SDK's handler drains all sinks, and lets STATE out for rows that were never delivered
        (meltano/sdk#3775).
        """
        if self._signal is not None:
            return
        self._signal = signum
        if self._run is not None and self._run.delivering:
            self.logger.warning("signal %d: finishing what is under way first", signum)
            self._run.interrupt()
            return
        self.logger.warning("signal %d: nothing is sent", signum)
        sys.exit(128 + signum)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Whatever ends the run inside the ``with`` block is told in its summary; a signal decides the exit code.

        Raises:
            RunStopped: as raised inside.
            SystemExit: a signal came.
        """
        try:
            with storage_errors("taking in rows"), _in_our_words():
                yield
        except RunStopped as stop:
            self._end("stopped", str(stop))
            if self._signal is None:
                raise
            self.logger.error("%s", stop)  # noqa: TRY400 - the message is for the person, a traceback would hide it
        except BaseException as e:
            # DuckDB turns what the handler raised while it was busy into an error of its own.
            if self._signal is None:
                self._end("failed", f"{type(e).__name__}: {e}")
                raise
            self._end("interrupted", f"signal {self._signal}")
        if self._signal is not None:
            sys.exit(128 + self._signal)

    def _end(self, status: str, message: str) -> None:
        if self._run is not None:
            self._run.end(status, message)


@contextmanager
def _in_our_words() -> Iterator[None]:
    """What the SDK raises for what no Singer tap may send."""
    try:
        yield
    except (RecordsWithoutSchemaException, UnicodeDecodeError) as e:
        msg = f"standard input: {e}"
        raise InputRefused(msg) from e


def _check_settings(config: Mapping[str, Any]) -> None:
    """Check what a JSON schema cannot.

    Raises:
        ConfigRefused: a setting is null, or a time zone, a date or an amount of memory is none.
    """
    for setting, schema in TargetRecurlyEngage.config_jsonschema["properties"].items():
        if "default" in schema and config[setting] is None:
            msg = f"{setting}: null is no value. Leave the setting out to have its default, {schema['default']!r}."
            raise ConfigRefused(msg)
    try:
        ZoneInfo(config["timezone"])
    except (ZoneInfoNotFoundError, ValueError) as e:
        msg = f"timezone: {config['timezone']!r} is no IANA time zone. Write it like 'Europe/Amsterdam' or 'UTC'."
        raise ConfigRefused(msg) from e
    if not re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", config["memory_limit"], re.IGNORECASE):
        msg = f"memory_limit: {config['memory_limit']!r} is no amount of memory. Write it like '320MB' or '1.5GB'."
        raise ConfigRefused(msg)
    for setting, parse in (("as_of", datetime.fromisoformat), ("clear_date", date.fromisoformat)):
        try:
            parse(config.get(setting) or "2000-01-01")
        except ValueError as e:
            msg = f"{setting}: {config[setting]!r} cannot be read. Write it like '2026-03-28' in ISO 8601."
            raise ConfigRefused(msg) from e

"""The target: its settings, and the way of messages through it."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, ClassVar

import click
from piano_engage_common.given import is_text_or_list, texts_or_lists, typed
from piano_engage_common.stops import ConfigRefused, InputRefused, RunStopped, exits, storage_errors
from singer_sdk import Target
from singer_sdk.configuration._dict_config import merge_missing_config_jsonschema, parse_environment_config
from singer_sdk.exceptions import ConfigValidationError, RecordsWithoutSchemaException
from singer_sdk.helpers._classproperty import classproperty
from singer_sdk.helpers.capabilities import (
    ACTIVATE_VERSION_CONFIG,
    CapabilitiesEnum,
    PluginCapabilities,
)
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.plugin_base import PluginBase, _ConfigInput
from singer_sdk.singerlib.json import serialize_json
from typing_extensions import override

from target_recurly_engage.claims import claims_of, ended_of
from target_recurly_engage.ended import INCOMPLETE, Ends
from target_recurly_engage.messages import MessageReader
from target_recurly_engage.run import Run
from target_recurly_engage.settings import SETTINGS, check
from target_recurly_engage.sinks import SINKS, LeftAloneSink, TakenInSink
from target_recurly_engage.watch.watcher import Watcher, as_given

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from singer_sdk.sinks import Sink

    from target_recurly_engage.summary import Summary


class TargetRecurlyEngage(Target):
    """Singer target for Recurly Engage: user traits from Piano's subscriptions, only those that changed."""

    name = "target-recurly-engage"
    package_name = "target-recurly-engage"
    default_sink_class = LeftAloneSink
    message_reader_class = MessageReader
    message_reader: MessageReader
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        PluginCapabilities.ABOUT,
        PluginCapabilities.STREAM_MAPS,
        PluginCapabilities.FLATTENING,
        PluginCapabilities.STRUCTURED_LOGGING,
        PluginCapabilities.ACTIVATE_VERSION,
        PluginCapabilities.BATCH,
    ]

    config_jsonschema: ClassVar[dict[str, Any]] = SETTINGS

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - as the SDK's
        """Check what the JSON schema cannot."""
        self._run: Run | None = None
        self._signal: int | None = None
        self._left_alone: set[str] = set()
        self._ends = Ends()
        super().__init__(**kwargs)
        check(self.config)
        self.message_reader.skip = self._skip

    @classproperty
    def _env_var_config(cls) -> dict[str, Any]:  # noqa: N805 - as the SDK's
        """As the SDK's, but that what may be a text or a list is read as either."""
        cls.append_builtin_config(cls.config_jsonschema)
        properties = cls.config_jsonschema["properties"]
        others = {"properties": {name: one for name, one in properties.items() if not is_text_or_list(one)}}
        either = texts_or_lists(cls.config_jsonschema, cls._env_var_prefix, os.environ)
        return parse_environment_config(others, cls._env_var_prefix) | either

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
    def get_singer_command(cls) -> click.Command:
        """As the SDK's, with the two settings that are for one run only."""
        command = super().get_singer_command()
        command.params += [
            click.Option(["--accept"], help="Let the plan with this fingerprint through once; the brake names it."),
            click.Option(["--dry-run", "dry_run"], is_flag=True, help="Tell what would be sent, and send nothing."),
        ]
        return command

    @classmethod
    @override
    def invoke(  # type: ignore[override]
        cls,
        *,
        about: bool = False,
        about_format: str | None = None,
        config: _ConfigInput | None = None,
        file_input: IO[str] | None = None,
        accept: str | None = None,
        dry_run: bool = False,
    ) -> None:
        """As the SDK's, but what ends a run is told in its summary, and the exit code says why."""
        PluginBase.invoke.__func__(cls, about=about, about_format=about_format)  # type: ignore[attr-defined]
        cls.print_version(print_fn=cls.logger.info)
        given = config or _ConfigInput()
        once = ({"accept": accept} if accept else {}) | ({"dry_run": True} if dry_run else {})
        watched = as_given({**given.config, **once}, environment=given.parse_env)
        with exits(cls.logger), Watcher(watched, cls.logger) as watcher:
            try:
                target = cls(config={**given.config, **once}, parse_env_config=given.parse_env, validate_config=True)
            except ConfigValidationError as e:
                raise ConfigRefused("; ".join(e.errors)) from e
            watcher.target = target
            with target.told():
                target.listen(file_input)

    @property
    def run(self) -> Run:
        """The run; it begins, and the ledger is opened, when the first stream that matters is announced."""
        if self._run is None:
            self._run = Run(self.config, self.logger)
        return self._run

    @property
    def summary(self) -> Summary | None:
        """What became of the run, once it has begun."""
        return self._run.summary if self._run else None

    @property
    def streams(self) -> list[str]:
        """The streams that came, and that have a role."""
        return [name for name, sink in self._sinks_active.items() if isinstance(sink, TakenInSink)]

    # Messages

    @override
    def get_sink_class(self, stream_name: str) -> type[Sink]:
        if sink := SINKS.get(self.config["streams"].get(stream_name, {}).get("role")):
            return sink
        self._left_alone.add(stream_name)
        return LeftAloneSink

    @override
    def _process_schema_message(self, message_dict: dict[str, Any]) -> None:
        self._ends.begun(str(message_dict.get("stream")))
        super()._process_schema_message(message_dict)

    @override
    def _process_state_message(self, message_dict: dict[str, Any]) -> None:
        super()._process_state_message(message_dict)
        self._ends.state(message_dict["value"])

    @override
    def _process_record_message(self, message_dict: dict[str, Any]) -> None:
        """Hand a RECORD on as the line it came in, unless a stream map wants to see it."""
        stream = self._announced(message_dict)
        self._ends.begun(stream)
        sink = self._sinks_active.get(stream)
        if isinstance(sink, LeftAloneSink):
            return
        if not isinstance(message_dict.get("record"), dict):
            for one in self._taking(stream):
                one.reject_record(message_dict)
            return
        if self.message_reader.odd and isinstance(sink, TakenInSink):
            sink.note_version(message_dict.get("version"))
            sink.intake.take_odd(message_dict["record"])
            return
        if isinstance(sink, TakenInSink) and self._is_plain(stream):
            sink.take_line(message_dict, self.message_reader.line)
            return
        super()._process_record_message(message_dict)

    def _taking(self, stream: str) -> list[TakenInSink]:
        """List the sinks that take in the rows of *stream*."""
        found = [self.get_sink(stream_map.stream_alias) for stream_map in self.mapper.stream_maps[stream]]
        return [sink for sink in found if isinstance(sink, TakenInSink)]

    def _skip(self, stream: str) -> bool:
        """Reject a RECORD that cannot be read, where *stream* is one beside the users; else it ends the run."""
        sinks = self._taking(stream) if stream in self.mapper.stream_maps else []
        if not sinks or not all(sink.intake.whole_rows for sink in sinks):
            return False
        for sink in sinks:
            sink.intake.reject_record()
        return True

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
        self._ends.begun(stream)
        sinks = self._taking(stream)
        for sink in sinks:
            sink.note_version(message_dict.get("version"))
        if self._is_plain(stream) or not sinks:
            super()._process_batch_message(message_dict)
            return
        self.logger.info("%s: a stream map wants to see each row: the slower path", stream)
        encoding = message_dict["encoding"]["format"]
        for record in sinks[0].intake.records(encoding, message_dict["manifest"]):
            super()._process_record_message({"type": "RECORD", "stream": stream, "record": record})

    @override
    def _process_activate_version_message(self, message_dict: dict[str, Any]) -> None:
        """As the SDK's, without its words about metadata columns, which mean nothing here."""
        stream = self._announced(message_dict)
        self._ends.version(stream)
        for stream_map in self.mapper.stream_maps[stream]:
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
        if self._run is None and (self._left_alone or self.config["dry_run"]):
            self.logger.warning("no stream that the setting `streams` knows came; nothing to do")
            super().process_endofpipe()
            return
        came = self._taken_in()
        if self._run is None:
            self._run = Run(self.config, self.logger, idle=True)
        self._run.note_ends(self._ends, came)
        if came:
            self._run.claims = list(claims_of(self._latest_state, came, ended=self._run.ended))
            for stream in ended_of(self._latest_state, came):
                for sink in self._taking(stream):
                    sink.intake.end(sink.stream_name)
            self._run.finish()
        if self.config["dry_run"]:
            self._run.end("dry run")
            self._run.give_back()
            return
        try:
            self._run.end(INCOMPLETE if self._run.summary.incomplete else "finished")
        finally:
            self._run.give_back()  # STATE must not be ahead of the ledger that the next run has
            super().process_endofpipe()  # it was delivered, whether that could be noted or not
        self._run.check_rejects()

    def _taken_in(self) -> list[str]:
        """List the streams, by the names that the tap gives them, whose rows were for the run."""
        return [
            stream
            for stream, maps in self.mapper.stream_maps.items()
            if any(isinstance(self._sinks_active.get(one.stream_alias), TakenInSink) for one in maps)
        ]

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
            self._run.give_back(failing=True)


@contextmanager
def _in_our_words() -> Iterator[None]:
    """What the SDK raises for what no Singer tap may send."""
    try:
        yield
    except RecordsWithoutSchemaException as e:
        msg = f"standard input: {e}"
        raise InputRefused(msg) from e

"""The sinks: one for streams of subscriptions, one for all others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from singer_sdk.sinks import Sink
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from singer_sdk.helpers._batch import BaseBatchFileEncoding
    from singer_sdk.sinks.core import BaseJSONSchemaValidator

    from target_recurly_engage.target import TargetRecurlyEngage


class SubscriptionsSink(Sink):
    """Passes what it gets to the intake of the run."""

    def __init__(
        self,
        target: TargetRecurlyEngage,
        stream_name: str,
        schema: dict[str, Any],
        key_properties: Sequence[str] | None,
    ) -> None:
        """Check the schema once, instead of each record."""
        super().__init__(target, stream_name, schema, key_properties)
        self._intake = target.run.intake
        self._intake.expect(stream_name, schema)

    @override
    def get_validator(self) -> BaseJSONSchemaValidator | None:
        return None

    def take_line(self, message: dict[str, Any], line: str) -> None:
        """Take a RECORD message as the line it came in."""
        self.note_version(message.get("version"))
        self._intake.take_line(line.encode())

    def note_version(self, version: int | None) -> None:
        """Note that rows of a snapshot came, unless snapshots are switched off."""
        if self.process_activate_version_messages:
            self._intake.note_version(self.stream_name, version)

    @override
    def process_record(self, record: dict[str, Any], context: dict[str, Any]) -> None:
        self._intake.take_line(json.dumps({"record": record}, default=str).encode())

    @override
    def process_batch_files(self, encoding: BaseBatchFileEncoding, files: Sequence[str]) -> None:
        self._intake.flush()
        self._intake.take_files(encoding.format, files)

    @override
    def process_batch(self, context: dict[str, Any]) -> None:
        """Nothing waits in the sink; the intake has it all."""

    @override
    def activate_version(self, new_version: int) -> None:
        self._intake.complete(self.stream_name, new_version)


class LeftAloneSink(Sink):
    """Takes what nobody asked for, and leaves it alone."""

    @override
    def get_validator(self) -> BaseJSONSchemaValidator | None:
        return None

    @override
    def process_record(self, record: dict[str, Any], context: dict[str, Any]) -> None:
        """Leave it."""

    @override
    def process_batch_files(self, encoding: BaseBatchFileEncoding, files: Sequence[str]) -> None:
        """Leave them."""

    @override
    def process_batch(self, context: dict[str, Any]) -> None:
        """Nothing was kept."""

    @override
    def activate_version(self, new_version: int) -> None:
        """Nothing was kept."""

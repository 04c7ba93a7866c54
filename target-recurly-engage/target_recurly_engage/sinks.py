"""The sinks: one for streams of each role, one for all others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from singer_sdk.sinks import Sink
from typing_extensions import override

from target_recurly_engage.catalogue import KEPT
from target_recurly_engage.streams import RECONCILE_ROLE, SUBSCRIPTIONS_ROLE, USERS_ROLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from singer_sdk.helpers._batch import BaseBatchFileEncoding
    from singer_sdk.sinks.core import BaseJSONSchemaValidator

    from target_recurly_engage.intake import Intake
    from target_recurly_engage.run import Run
    from target_recurly_engage.target import TargetRecurlyEngage


class _PlainSink(Sink):
    """Takes records as they are: what is wrong with one is the intake's business, and ends no run."""

    @override
    def get_validator(self) -> BaseJSONSchemaValidator | None:
        return None

    @override
    def _validate_and_parse(self, record: dict[str, Any]) -> dict[str, Any]:
        return record

    @override
    def _singer_validate_message(self, record: dict[str, Any]) -> None:
        """Leave a record without its key to the intake, which counts it."""


class TakenInSink(_PlainSink):
    """Passes what it gets to an intake of the run."""

    def __init__(
        self,
        target: TargetRecurlyEngage,
        stream_name: str,
        schema: dict[str, Any],
        key_properties: Sequence[str] | None,
    ) -> None:
        """Check the schema once, instead of each record."""
        super().__init__(target, stream_name, schema, key_properties)
        self.intake = self._intake_of(target.run, schema)
        self.intake.expect(stream_name, schema)

    def _intake_of(self, run: Run, schema: dict[str, Any]) -> Intake:
        """Say what takes in the rows."""
        raise NotImplementedError

    def take_line(self, message: dict[str, Any], line: bytes) -> None:
        """Take a RECORD message as the line it came in."""
        self.note_version(message.get("version"))
        self.intake.take_line(line)

    def reject_record(self, message: dict[str, Any]) -> None:
        """Count a RECORD message that holds no object."""
        self.note_version(message.get("version"))
        self.intake.reject_record()

    def note_version(self, version: int | None) -> None:
        """Note that rows of a snapshot came, unless snapshots are switched off."""
        if self.process_activate_version_messages:
            self.intake.note_version(self.stream_name, version)

    @override
    def process_record(self, record: dict[str, Any], context: dict[str, Any]) -> None:
        self.intake.take_line(json.dumps({"record": record}, default=str).encode())

    @override
    def process_batch_files(self, encoding: BaseBatchFileEncoding, files: Sequence[str]) -> None:
        self.intake.flush()
        self.intake.take_files(encoding.format, files)

    @override
    def process_batch(self, context: dict[str, Any]) -> None:
        """Nothing waits in the sink; the intake has it all."""

    @override
    def activate_version(self, new_version: int) -> None:
        self.intake.complete(self.stream_name, new_version)


class SubscriptionsSink(TakenInSink):
    """For a stream with the role ``subscriptions``."""

    @override
    def _intake_of(self, run: Run, schema: dict[str, Any]) -> Intake:
        return run.sources.subscriptions()


class UsersSink(TakenInSink):
    """For a stream with the role ``users``."""

    @override
    def _intake_of(self, run: Run, schema: dict[str, Any]) -> Intake:
        return run.users(self.stream_name, schema)


class ReconcileSink(TakenInSink):
    """For a stream with the role ``reconcile``."""

    @override
    def _intake_of(self, run: Run, schema: dict[str, Any]) -> Intake:
        return run.sources.api()


class CatalogueSink(TakenInSink):
    """For a stream with one of the roles of what the publisher sells."""

    @override
    def _intake_of(self, run: Run, schema: dict[str, Any]) -> Intake:
        return run.sources.catalogue(self.config["streams"][self.stream_name]["role"])


class LeftAloneSink(_PlainSink):
    """Takes what nobody asked for, and leaves it alone."""

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


SINKS: Final[dict[str, type[TakenInSink]]] = {
    SUBSCRIPTIONS_ROLE: SubscriptionsSink,
    USERS_ROLE: UsersSink,
    RECONCILE_ROLE: ReconcileSink,
    **dict.fromkeys(KEPT, CatalogueSink),
}
"""By the role of a stream."""

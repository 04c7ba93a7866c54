"""What others told Engage between two runs, and left in a folder for the next one: so that it need not be told again.

One file a message, JSON on one line, as :class:`Message` has it. A run notes the values in ``delivered``, as if it had
told them itself. The subscriptions that were read from Piano stand in for the log's rows until the log is newer than
they are; else an export made before a change would take it back.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text

from target_recurly_engage.delivery.overlap import S3
from target_recurly_engage.destinations import CURRENT, known, serving
from target_recurly_engage.erased import was_erased
from target_recurly_engage.invariants import check
from target_recurly_engage.traits import SQL_TYPES, TRAITS

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable
    from pathlib import Path

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger

CHANNEL: Final = "actions"
SUFFIX: Final = ".json"
BAD: Final = ".bad"
LONGEST: Final = timedelta(days=3)
"""After so long a subscription that was handed over counts no more, whatever the log says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What was told of one reader.

    Attributes:
        user_id: the reader.
        at: when Engage took it, as ISO 8601 by our clock.
        piano_at: when Piano was asked, as ISO 8601 by Piano's clock.
        traits: values as they were told, by trait.
        application: the application of Engage that took it, as a destination has it; None where that is not known.
        subscriptions: rows as in the ledger's table ``subscriptions``, moments as ISO 8601.
        checkouts: finished ones of which Engage was told, tracker by id; an id that comes twice is one.
    """

    user_id: str
    at: str
    piano_at: str
    traits: dict[str, str]
    application: str | None = None
    subscriptions: list[dict[str, Any]] = field(default_factory=list)
    checkouts: dict[str, str] = field(default_factory=dict)

    def leave(self, folder: Path, called: str) -> Path:
        """Write the message into *folder*, whole or not at all; *called* is its name without the suffix."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{called}{SUFFIX}"
        part = folder / f".{called}.part"
        with part.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        return path

    @classmethod
    def read(cls, path: Path) -> Message:
        """Read a message.

        Raises:
            ValueError: it is none.
        """
        found = json.loads(path.read_text(encoding="utf-8"))
        try:
            message = cls(**found)
            datetime.fromisoformat(message.at)
            datetime.fromisoformat(message.piano_at)
            traits = {str(trait): str(value) for trait, value in message.traits.items()}
            rows = [dict(row) for row in message.subscriptions if row["subscription_id"]]
            checkouts = {str(key): str(tracker) for key, tracker in message.checkouts.items()}
        except (TypeError, KeyError, AttributeError) as e:
            msg = f"no message: {e}"
            raise ValueError(msg) from e
        return replace(message, user_id=str(message.user_id), traits=traits, subscriptions=rows, checkouts=checkouts)


class Handover:
    """The folder, for one run.

    Args:
        folder: where messages lie; None where there is none.
        logger: told of messages that cannot be read.
    """

    def __init__(self, folder: Path | None, logger: logging.Logger) -> None:
        """Look at nothing yet."""
        self._folder = folder
        self._logger = logger
        self._taken: list[Path] = []

    def take(self, ledger: Ledger, contract: Contract, *, run_id: str, clock: str, csv_hours: float) -> int:
        """Note what was told, and let the subscriptions stand in for older rows; within a transaction.

        Args:
            ledger: the ledger, with the rows that came.
            contract: which traits there are.
            run_id: the run.
            clock: the moment at which this is done, as ISO 8601.
            csv_hours: hours until a file in Engage's folder counts as read.

        Returns:
            How many readers were told.
        """
        messages = [one for one in self._messages() if not was_erased(ledger, one.user_id)]
        readers = 0
        if messages:
            for number, theirs in _by_destination(ledger, messages).items():
                of = f"{CHANNEL}-{run_id}" if number is None else f"{CHANNEL}-{run_id}-{number}"
                with serving(ledger, number):
                    readers += _note_told(ledger, contract, theirs, run_id=run_id, delivery_id=of, csv_hours=csv_hours)
            _keep_rows(ledger, messages)
            _keep_checkouts(ledger, messages)
        _stand_in(ledger, clock)
        return readers

    def done(self) -> None:
        """Remove what was taken; to be called once that is committed."""
        for path in self._taken:
            path.unlink(missing_ok=True)
        self._taken = []

    def _messages(self) -> Iterable[Message]:
        if self._folder is None or not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                message = Message.read(path)
            except (OSError, ValueError):
                self._logger.warning("%s cannot be read as a message of what was told, and is put aside", path)
                path.rename(path.with_suffix(BAD))
                continue
            self._taken.append(path)
            yield message


def _by_destination(ledger: Ledger, messages: list[Message]) -> dict[int | None, list[Message]]:
    """Group messages by the destination that took them; None is the current one, also where nobody knows."""
    numbers = {one.addresses.application: None if one.is_current else one.number for one in reversed(known(ledger))}
    found: dict[int | None, list[Message]] = {}
    for message in messages:
        found.setdefault(numbers.get(message.application) if message.application else None, []).append(message)
    return found


def _note_told(
    ledger: Ledger, contract: Contract, messages: list[Message], *, run_id: str, delivery_id: str, csv_hours: float
) -> int:
    """Write into ``delivered`` what was told after what stands there."""
    execute = ledger.connection.execute
    rows = [(one.user_id, one.at, trait, value) for one in messages for trait, value in one.traits.items()]
    execute("CREATE OR REPLACE TEMP TABLE said (user_id VARCHAR, told_at TIMESTAMPTZ, trait VARCHAR, value VARCHAR)")
    execute(
        "INSERT INTO said SELECT unnest(?::VARCHAR[]), unnest(?::VARCHAR[])::TIMESTAMPTZ, unnest(?::VARCHAR[]), "
        "unnest(?::VARCHAR[])",
        [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []],
    )
    execute(
        "DELETE FROM said USING (SELECT user_id, acknowledged_at FROM delivered JOIN deliveries USING (delivery_id)) "
        "AS told WHERE said.user_id = told.user_id AND said.told_at <= told.acknowledged_at"
    )
    readers = ledger.count("SELECT count(DISTINCT user_id) FROM said")
    if readers:
        _note_new(ledger, run_id, delivery_id)
        for trait in contract.traits:
            column = name(trait.name)
            execute(f"ALTER TABLE delivered ADD COLUMN IF NOT EXISTS {column} VARCHAR")
            execute(
                f"UPDATE delivered SET {column} = latest.value, fingerprint = NULL "
                "FROM (SELECT user_id, arg_max(value, told_at) AS value FROM said WHERE trait = ? GROUP BY user_id) "
                "AS latest WHERE delivered.user_id = latest.user_id",
                [trait.name],
            )
        execute(  # a file that was read after it has told the older values once more
            "INSERT INTO overtaken SELECT user_id, acknowledged_at + ? "
            "FROM delivered JOIN deliveries USING (delivery_id) "
            "JOIN (SELECT user_id, max(told_at) AS told_at FROM said GROUP BY user_id) USING (user_id) "
            "WHERE channel = ? AND told_at < acknowledged_at + ?",
            [timedelta(hours=csv_hours), S3, timedelta(hours=csv_hours)],
        )
    execute("DROP TABLE said")
    return readers


def _note_new(ledger: Ledger, run_id: str, delivery_id: str) -> None:
    """Give readers of whom no run has told yet a row, under a delivery of their own."""
    execute = ledger.connection.execute
    new = "FROM said ANTI JOIN delivered USING (user_id)"
    users = ledger.count(f"SELECT count(DISTINCT user_id) {new}")
    if not users:
        return
    execute(
        "INSERT INTO deliveries "
        "(delivery_id, run_id, channel, location, status, users, started_at, acknowledged_at, destination) "
        f"SELECT ?, ?, ?, '', 'acknowledged', ?, min(told_at), max(told_at), {CURRENT} {new}",
        [delivery_id, run_id, CHANNEL, users],
    )
    execute(f"INSERT INTO delivered (user_id, delivery_id) SELECT DISTINCT user_id, ? {new}", [delivery_id])


def _keep_rows(ledger: Ledger, messages: list[Message]) -> None:
    """Keep the newest row of each subscription that was handed over."""
    rows = [
        (one.user_id, str(row["subscription_id"]), one.at, one.piano_at, json.dumps(row))
        for one in messages
        for row in one.subscriptions
    ]
    if not rows:
        return
    execute = ledger.connection.execute
    execute(
        "INSERT INTO handed_over SELECT unnest(?::VARCHAR[]), unnest(?::VARCHAR[]), "
        "unnest(?::VARCHAR[])::TIMESTAMPTZ, unnest(?::VARCHAR[])::TIMESTAMPTZ, unnest(?::VARCHAR[])",
        [list(column) for column in zip(*rows, strict=True)],
    )
    newest = "max(struct_pack(piano_at, told_at))"
    execute(
        f"DELETE FROM handed_over USING (SELECT subscription_id, {newest} AS newest FROM handed_over GROUP BY ALL) "
        "AS kept WHERE handed_over.subscription_id = kept.subscription_id "
        "AND struct_pack(handed_over.piano_at, handed_over.told_at) < kept.newest"
    )


def _keep_checkouts(ledger: Ledger, messages: list[Message]) -> None:
    """Keep finished checkouts, each once."""
    rows = [(key, one.user_id, tracker, one.at) for one in messages for key, tracker in one.checkouts.items()]
    if rows:
        ledger.connection.execute(
            "INSERT INTO checkouts SELECT DISTINCT ON (checkout_id) * "
            "FROM (SELECT unnest(?::VARCHAR[]) AS checkout_id, unnest(?::VARCHAR[]), unnest(?::VARCHAR[]), "
            "unnest(?::VARCHAR[])::TIMESTAMPTZ) "
            "ANTI JOIN checkouts USING (checkout_id)",
            [list(column) for column in zip(*rows, strict=True)],
        )


def _stand_in(ledger: Ledger, clock: str) -> None:
    """Put rows that were handed over in the place of older ones of the log.

    How old the log is, its content says: the newest creation or change in it.
    """
    execute = ledger.connection.execute
    if not ledger.count("SELECT count(*) FROM handed_over"):
        return
    age = (
        "SELECT max(greatest(coalesce(create_date, modify_time), coalesce(modify_time, create_date))) "
        "FROM subscriptions WHERE subscription_id NOT IN (SELECT subscription_id FROM handed_over)"
    )
    execute(f"DELETE FROM handed_over WHERE told_at < ?::TIMESTAMPTZ - ? OR piano_at < ({age})", [clock, LONGEST])
    execute(
        "DELETE FROM handed_over USING subscriptions AS log WHERE handed_over.subscription_id = log.subscription_id "
        "AND log.modify_time > handed_over.piano_at"
    )
    members = {trait.name: SQL_TYPES[trait.kind] for trait in TRAITS if trait.name != "subscription_id"}
    cells = ", ".join(
        f"TRY_CAST(content->>{text(member)} AS {kind}) AS {name(member)}" for member, kind in members.items()
    )
    execute(
        "CREATE OR REPLACE TEMP TABLE standing AS "
        f"SELECT content->>'aid' AS aid, user_id, subscription_id, piano_at AS modify_time, {cells} "
        "FROM (SELECT DISTINCT ON (subscription_id) * REPLACE (content::JSON AS content) FROM handed_over)"
    )
    others = ledger.count("SELECT count(*) FROM subscriptions ANTI JOIN standing USING (subscription_id)")
    expected = ledger.count("SELECT count(*) FROM standing") + others
    execute("DELETE FROM subscriptions USING standing WHERE subscriptions.subscription_id = standing.subscription_id")
    execute("INSERT INTO subscriptions BY NAME FROM standing")
    found = ledger.count("SELECT count(*) FROM subscriptions")
    check("subscriptions after those that were handed over", found=found, expected=expected)
    execute("DROP TABLE standing")


def moment_of(seconds: float) -> str:
    """Write epoch seconds as a message has them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()

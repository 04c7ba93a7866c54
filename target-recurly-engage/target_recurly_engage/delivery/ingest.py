"""Delivery by the Ingest API: of each reader only the traits that changed, one reader a request.

What Engage took is acknowledged in groups while others are in flight. A crash loses at most the acknowledgements of
the last group and of what is in flight; whom it left open counts as unknown and is sent in full once (`doubt.py`). What
Engage rejects is kept with its reason and tried again in later runs, with the newest values and at growing distances.
"""

from __future__ import annotations

import json
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text
from piano_engage_common.stops import Outage, storage_errors
from piano_engage_common.transport import RunEnds

from target_recurly_engage.delivery.doubt import settle_open, take_as_unknown
from target_recurly_engage.delivery.overlap import note_told
from target_recurly_engage.destinations import CURRENT
from target_recurly_engage.plan import told_traits
from target_recurly_engage.traits import Kind

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

    from piano_engage_common.progress import Progress

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.delivery.overlap import Overlap
    from target_recurly_engage.engage import IngestClient, Outcome, Refusal
    from target_recurly_engage.ledger import Ledger

CHANNEL: Final = "ingest"
PAGE: Final = 2_000
"""Requests that are read from the ledger at a time."""

GROUP: Final = 250
"""Outcomes after which they are noted, at the latest; the first of these limits counts."""

GROUP_SECONDS: Final = 1.0
FIRST_DISTANCE: Final = timedelta(hours=1)
LONGEST_DISTANCE: Final = timedelta(days=7)


@dataclass(slots=True, kw_only=True)
class Requests:
    """What became of the readers of a plan.

    Attributes:
        location: where they were sent.
        users: readers that were to be sent.
        acknowledged: of these, what Engage took.
        rejected: what Engage rejected.
        again: of these, what it had rejected before.
        waiting: what it rejected before, and whose time has not come again; not counted in `users`.
        held: readers whose file Engage may not have read yet; not counted in `users`.
        unknown: users whom Engage may have taken without an answer; they are sent in full once.
        reasons: how often by status and reason.
        seconds: that it took.
        interrupted: a signal came before all were sent.
    """

    location: str
    users: int
    acknowledged: int = 0
    rejected: int = 0
    again: int = 0
    waiting: int = 0
    held: int = 0
    unknown: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False


@dataclass(slots=True)
class _Outcomes:
    """What is known, and not noted yet."""

    taken: list[str] = field(default_factory=list)
    refused: list[tuple[str, Refusal]] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        """Whether it is time to note them."""
        count = len(self.taken) + len(self.refused) + len(self.unclear)
        return count >= GROUP or (count > 0 and time.monotonic() - self.since >= GROUP_SECONDS)


class IngestDelivery:
    """Sends plans to the Ingest API.

    Args:
        ledger: notes and acknowledges what is sent.
        contract: what is sent.
        client: the Ingest API.
        location: its address, for the ledger.
        concurrency: requests in flight at a time.
        typed: numbers and booleans go as such; else everything is text.
        overlap: what becomes of readers whose file may not have been read.
        logger: for a line about each delivery.
        progress: told how far it is.
    """

    channel: Final = CHANNEL

    def __init__(  # noqa: PLR0913 - the parts it is put together from
        self,
        ledger: Ledger,
        contract: Contract,
        client: IngestClient,
        *,
        location: str,
        concurrency: int,
        typed: bool,
        overlap: Overlap,
        logger: logging.Logger,
        progress: Progress,
    ) -> None:
        """Remember where to send."""
        self._ledger = ledger
        self._contract = contract
        self._client = client
        self._location = location
        self._concurrency = concurrency
        self._typed = typed
        self._overlap = overlap
        self._logger = logger
        self._progress = progress
        self._interrupted = False

    def check(self) -> None:
        """Nothing can be asked of the Ingest API without writing a trait."""

    def settle(self) -> None:
        """Take as unknown whom a delivery that was broken off left open; what Engage took before is acknowledged."""
        settle_open(self._ledger, self._logger)

    def interrupt(self) -> None:
        """Send no further request; what is in flight ends by itself. May be called by the handler of a signal."""
        self._interrupted = True
        self._client.transport.stopping.event.set()

    # Sending

    def deliver(self, run_id: str, delivery_id: str) -> Requests | None:
        """Send the table ``plan``; an empty plan sends nothing.

        Args:
            run_id: the run that delivers.
            delivery_id: as in the table ``plan``.

        Raises:
            AccessRefused, AnswerRefused, Outage: Engage lets us down; what it took is acknowledged, the rest stays due.
            StorageFailed: the ledger cannot be written.
        """
        now = datetime.now(tz=UTC)
        with self._ledger.transaction():
            self._overlap.mark(self._ledger, now)
            done = Requests(location=self._location, users=self._fill_outbox(now))
            left = self._ledger.count("SELECT count(*) FROM plan ANTI JOIN outbox USING (user_id)")
            if left and not self._overlap.again:
                done.held = self._ledger.count("SELECT count(*) FROM plan SEMI JOIN in_flight USING (user_id)")
            done.waiting = left - done.held
            if left:  # so that the plan is what may be sent, for whoever finds it after a crash
                self._ledger.connection.execute("DELETE FROM plan WHERE user_id NOT IN (SELECT user_id FROM outbox)")
            if done.users:
                self._ledger.connection.execute(
                    "INSERT INTO deliveries "
                    "(delivery_id, run_id, channel, location, status, users, started_at, destination) "
                    f"VALUES (?, ?, ?, ?, 'sending', ?, ?, {CURRENT})",
                    [delivery_id, run_id, CHANNEL, self._location, done.users, now],
                )
        if not done.users:
            self._ledger.connection.execute("DROP TABLE plan")
            return done if left else None
        started = time.monotonic()
        try:
            self._ledger.announce(delivery_id)
            with self._progress.steps(
                "sending traits",
                lambda: 100 * (done.acknowledged + done.rejected) / done.users,
                size=f"{done.users:,} users",
            ):
                self._send_all(done)
        finally:
            done.seconds = round(time.monotonic() - started, 3)
            complete = done.acknowledged + done.rejected == done.users
            self._ledger.connection.execute(
                "UPDATE deliveries SET status = ?, users = ?, acknowledged_at = ? WHERE delivery_id = ?",
                ["acknowledged" if complete else "broken off", done.acknowledged, datetime.now(tz=UTC), delivery_id],
            )
            if done.unknown:
                self._logger.warning(
                    "%d user(s) got no clear answer; whether Engage took them is not known, so they are sent in full "
                    "once",
                    done.unknown,
                )
        self._ledger.connection.execute("DROP TABLE plan")
        self._logger.info(
            "sent to %s: %d users taken, %d rejected, %d waiting for their time, %d for a file, %.1f s",
            self._location, done.acknowledged, done.rejected, done.waiting, done.held, done.seconds,
        )  # fmt: skip
        return done

    def count_due(self, now: datetime) -> int:
        """Count the readers of the plan that would be sent; the table ``in_flight`` must have been marked."""
        return self._ledger.count(f"SELECT count(*) FROM plan WHERE {self._is_due(now)}")

    def _is_due(self, now: datetime) -> str:
        """Make the SQL that says whether a reader of the plan is sent: neither rejected lately, nor in flight."""
        moment = text(now.isoformat())
        rejected = f"""
            FROM rejects WHERE rejects.user_id = plan.user_id AND rejects.next_at > {moment}::TIMESTAMPTZ
            AND (isfinite(rejects.next_at) OR rejects.fingerprint IS NOT DISTINCT FROM plan.fingerprint)
        """
        flying = "" if self._overlap.again else "AND plan.user_id NOT IN (SELECT user_id FROM in_flight)"
        return f"NOT EXISTS ({rejected}) {flying}"

    def _fill_outbox(self, now: datetime) -> int:
        """Make the table of what is to be sent: of known readers the traits that differ, of others all."""
        rows = f"(SELECT * FROM plan WHERE {self._is_due(now)})"
        differences = properties(self._ledger, self._contract, rows, typed=self._typed)
        self._ledger.connection.execute(
            f"CREATE OR REPLACE TEMP TABLE outbox AS SELECT row_number() OVER () - 1 AS number, * FROM ({differences})"
        )
        return self._ledger.count("SELECT count(*) FROM outbox")

    def _outbox(self) -> Iterator[tuple[str, dict[str, Any]]]:
        start = 0
        while rows := self._ledger.connection.execute(
            "SELECT user_id, properties FROM outbox WHERE number >= ? AND number < ? ORDER BY number",
            [start, start + PAGE],
        ).fetchall():
            start += PAGE
            for user_id, properties in rows:
                yield user_id, json.loads(properties)

    def _send_all(self, done: Requests) -> None:
        """Keep as many requests in flight as are allowed, and note outcomes beside them."""
        outcomes, error = _Outcomes(), None
        readers = self._outbox()
        flying: dict[Future[Outcome], str] = {}
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="ingest")
        try:
            ended = False
            while flying or not ended:
                error = error or self._lost()
                while not ended and len(flying) < self._concurrency * 2:
                    reader = None if self._interrupted or error else next(readers, None)
                    if reader is None:
                        ended = True
                        break
                    flying[pool.submit(self._client.attempt, *reader)] = reader[0]
                landed, _ = wait(flying, timeout=GROUP_SECONDS / 4, return_when=FIRST_COMPLETED)
                for future in landed:
                    error = self._take(future, flying.pop(future), outcomes) or error
                if error and not self._client.transport.stopping.event.is_set():
                    ended = True
                    self._client.transport.stopping.event.set()  # nobody waits for another attempt any more
                    for future in deque(flying):  # those that have not begun shall not
                        if future.cancel():
                            del flying[future]
                if outcomes.due:
                    outcomes = self._note(outcomes, done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._note(outcomes, done)
        done.interrupted = self._interrupted
        if error:
            raise error

    def _lost(self) -> Exception | None:
        """Give the reason why nothing more may be sent, if there is one; what is in flight lands."""
        try:
            self._ledger.hold()
        except Outage as e:
            return e
        return None

    @staticmethod
    def _take(future: Future[Outcome], user_id: str, outcomes: _Outcomes) -> Exception | None:
        outcome = future.result()
        if outcome.unclear:
            outcomes.unclear.append(user_id)
        if outcome.error is not None:
            return None if isinstance(outcome.error, RunEnds) else outcome.error
        if outcome.refusal is None:
            outcomes.taken.append(user_id)
        else:
            outcomes.refused.append((user_id, outcome.refusal))
        return None

    # Noting

    def _note(self, outcomes: _Outcomes, done: Requests) -> _Outcomes:
        """Acknowledge what Engage took, and keep what it rejected, and what is unknown; in one transaction."""
        with storage_errors(f"writing {self._ledger.path}"), self._ledger.transaction():
            self._keep_unknown(outcomes.unclear)
            self._acknowledge(outcomes.taken)
            again = sum(self._reject(user_id, refusal) for user_id, refusal in outcomes.refused)
        done.acknowledged += len(outcomes.taken)
        done.rejected += len(outcomes.refused)
        done.unknown += len(outcomes.unclear)
        done.again += again
        for _, refusal in outcomes.refused:
            words = f"{refusal.status} {refusal.reason}"
            done.reasons[words] = done.reasons.get(words, 0) + 1
        return _Outcomes()

    def _keep_unknown(self, user_ids: list[str]) -> None:
        if user_ids:
            chosen = ", ".join(map(text, user_ids))
            take_as_unknown(self._ledger, f"FROM plan WHERE user_id IN ({chosen})")

    def _acknowledge(self, user_ids: list[str]) -> None:
        if not user_ids:
            return
        execute = self._ledger.connection.execute
        execute("CREATE OR REPLACE TEMP TABLE taken AS SELECT unnest(?::VARCHAR[]) AS user_id", [user_ids])
        execute(
            "DELETE FROM earlier_deliveries USING taken SEMI JOIN again USING (user_id) "
            "WHERE earlier_deliveries.user_id = taken.user_id"
        )
        execute(
            "INSERT INTO earlier_deliveries SELECT user_id, delivery_id "
            "FROM delivered SEMI JOIN taken USING (user_id) ANTI JOIN again USING (user_id) "
            "WHERE delivery_id IS NOT NULL"
        )
        execute("DELETE FROM delivered USING taken WHERE delivered.user_id = taken.user_id")
        execute("INSERT INTO delivered BY NAME FROM plan SEMI JOIN taken USING (user_id)")
        execute("DELETE FROM rejects USING taken WHERE rejects.user_id = taken.user_id")
        note_told(self._ledger, "taken", datetime.now(tz=UTC))

    def _reject(self, user_id: str, refusal: Refusal) -> bool:
        """Keep a rejected reader, who is settled by that, and answer whether there was one before."""
        execute, now = self._ledger.connection.execute, datetime.now(tz=UTC)
        found = execute("SELECT attempts, first_at FROM rejects WHERE user_id = ?", [user_id]).fetchall()
        before, first_at = found[0] if found else (0, now)
        distance = min(FIRST_DISTANCE * 2 ** min(before, 10), LONGEST_DISTANCE)
        execute("DELETE FROM rejects WHERE user_id = ?", [user_id])
        execute(
            "INSERT INTO rejects (user_id, status, reason, attempts, first_at, last_at, next_at, fingerprint) "
            "SELECT ?, ?, ?, ?, ?, ?, ?, any_value(fingerprint) FROM plan WHERE user_id = ?",
            [user_id, refusal.status, refusal.reason, before + 1, first_at, now, now + distance, user_id],
        )
        execute("DELETE FROM plan WHERE user_id = ?", [user_id])
        return bool(before)


def properties(ledger: Ledger, contract: Contract, rows: str, *, typed: bool) -> str:
    """Make the SQL of ``user_id`` and ``properties``, a JSON: of known readers the traits that differ, of others all.

    Args:
        ledger: holds ``delivered`` and the temporary table ``again``.
        contract: what is sent.
        rows: SQL of rows like those of ``plan``.
        typed: numbers and booleans go as such; else everything is text.
    """
    members = ", ".join(
        f"CASE WHEN plan.{column} IS NOT NULL AND (in_full OR plan.{column} IS DISTINCT FROM told.{column}) "
        f"THEN {text(json.dumps(trait.name) + ':')} || {_json(trait.kind, f'plan.{column}', typed=typed)} END"
        for trait in told_traits(ledger, contract)
        for column in (name(trait.name),)
    )
    return f"""
        SELECT user_id, '{{' || concat_ws(',', {members}) || '}}' AS properties
        FROM (
            SELECT *, user_id NOT IN (SELECT user_id FROM delivered) OR user_id IN (FROM again) AS in_full FROM {rows}
        ) AS plan LEFT JOIN delivered AS told USING (user_id)
    """


def _json(kind: Kind, value: str, *, typed: bool) -> str:
    if typed and kind in {Kind.NUMBER, Kind.MONEY, Kind.BOOLEAN}:
        return value
    return f"to_json({value})::VARCHAR"

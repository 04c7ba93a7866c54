"""Erasing a reader: cleared at Engage, forgotten in the ledger, and kept from coming back.

The steps, of which each can be taken again after a crash; what has been done is read from the ledger::

    mark     his rows leave the ledger, but for what Engage was told of him; a hash keeps him out from now on
    clear    Engage is told the clearing value of every trait that it was told of him
    forget   once that is acknowledged, and only then, what Engage was told of him leaves the ledger too
    close    the ledger becomes a copy of itself that holds no byte of the rows that were deleted

With the delivery ``ingest`` or ``auto`` all happens at once. Files go out with runs, so with ``file`` or ``s3``, and
while a file with his last traits may not have been read, the next run clears and forgets him.

Each destination that got the user's traits is cleared by itself: the one of the settings as said above, a local folder
by a file at once, and an Engage application that the settings do not name by the next run that delivers there.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text
from piano_engage_common.stops import NoInput, storage_errors

from target_recurly_engage.delivery.choice import clearing_of
from target_recurly_engage.delivery.csvs import Delivered
from target_recurly_engage.delivery.file import FileDelivery
from target_recurly_engage.destinations import asides, each_in_turn, everywhere
from target_recurly_engage.erased import any_erased, digest_of, is_erased
from target_recurly_engage.plan import told_traits
from target_recurly_engage.traces import scrub

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping

    from piano_engage_common.progress import Progress

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.delivery.ingest import IngestDelivery
    from target_recurly_engage.destinations import Destination
    from target_recurly_engage.ledger import Ledger

CLEARING: Final = "clearing"
"""Engage has not acknowledged the clearing values yet."""
FORGOTTEN: Final = "forgotten"
"""It has, and no table names the reader; only the file may still hold bytes of deleted rows."""
DONE: Final = "done"

_WHAT: Final = "SHA-256 of the ledger's own random salt and the reader's id"
_USER: Final = "user_id"
_TO_CLEAR: Final = {'"delivered"', '"overtaken"'}
"""Tables, quoted, that say what is to be cleared at a destination, and when."""


class Erasure:
    """The erasure of one reader.

    Args:
        ledger: the ledger, deliveries that a crash left open settled.
        contract: what is sent, and how.
        config: the target's settings.
        user_id: the reader.
        logger: for what is sent.
        progress: told how far that is.
    """

    def __init__(
        self,
        ledger: Ledger,
        contract: Contract,
        config: Mapping[str, Any],
        user_id: str,
        *,
        logger: logging.Logger,
        progress: Progress,
    ) -> None:
        """Find out whether it has begun."""
        self._ledger = ledger
        self._contract = contract
        self._config = config
        self._user_id = user_id
        self._tools: Any = {"logger": logger, "progress": progress}

    def run(self) -> dict[str, Any]:
        """Take the steps that are left, but for the last, :func:`close_erasures`; give the receipt.

        Raises:
            NoInput: the ledger knows no such reader.
            AccessRefused, AnswerRefused, Outage: Engage could not be told; the next attempt goes on from here.
        """
        if status_of(self._ledger, self._user_id) is None:
            self.mark()
        if status_of(self._ledger, self._user_id) == CLEARING:
            for one in each_in_turn(self._ledger):
                if _is_cleared(self._ledger, self._contract, self._user_id):
                    self._note_cleared_before()
                elif one.is_current:
                    self.clear(clearing_of(self._config, self._ledger, self._contract, **self._tools))
                else:
                    self._clear_elsewhere(one.addresses)
                if _is_cleared(self._ledger, self._contract, self._user_id):
                    self.forget()
        return receipt_of(self._ledger, self._user_id) or {}

    def mark(self) -> None:
        """Let his rows leave the ledger, but for ``delivered``, and keep a hash of him.

        Raises:
            NoInput: the ledger knows no such reader.
        """
        ledger = self._ledger
        known = {table: ledger.count(f"SELECT count(*) FROM {table} WHERE {ours}", self._user_id)
                 for table, ours in _places(ledger, self._contract)}  # fmt: skip
        if not any(known.values()):
            msg = f"{self._user_id}: the ledger knows no such reader. Nothing was sent; check the id, or the ledger."
            raise NoInput(msg)
        scrub(ledger, self._config, [self._user_id, *_subscriptions(ledger, self._user_id)])
        receipt: dict[str, Any] = {
            "status": CLEARING,
            "hash": _WHAT,
            "requested_at": _now(),
            "rows": {table.strip('"'): count for table, count in known.items() if count},
        }
        with ledger.transaction():
            told = [_told(ledger, self._contract, self._user_id) for _ in everywhere(ledger)]
            receipt["cleared"] = list(dict.fromkeys(trait for traits in told for trait in traits))
            digest = digest_of(ledger, self._user_id)
            ledger.connection.execute(
                "INSERT INTO erased (digest, status, requested_at, receipt) VALUES (?, ?, now(), ?)",
                [digest, CLEARING, json.dumps({"digest": digest} | receipt)],
            )
            _forget(ledger, self._contract, self._user_id, but=_TO_CLEAR | _aside_to_clear(ledger))
            for table in _crumbs(ledger):
                ledger.connection.execute(f"DROP TABLE {name(table)}")

    def _clear_elsewhere(self, addresses: Destination) -> None:
        """Clear the user at a destination that is not that of the settings, where it can be reached."""
        if addresses.folder and Path(addresses.folder).is_dir():
            self.clear(FileDelivery(self._ledger, self._contract, Path(addresses.folder), **self._tools))
        elif addresses.folder:  # nothing is left that could be read
            self._ledger.connection.execute("DELETE FROM delivered WHERE user_id = ?", [self._user_id])

    def clear(self, delivery: IngestDelivery | FileDelivery | None) -> None:
        """Send the clearing value of every trait that the current destination holds, by a delivery if there is one."""
        if delivery is None:
            self._note(answer=f"the next run clears by {self._config['delivery']}")
            return
        execute, delivery_id = self._ledger.connection.execute, uuid.uuid4().hex
        traits = told_traits(self._ledger, self._contract)
        cells = ", ".join(
            f"CASE WHEN {column} IS NOT NULL THEN {text(self._contract.wording.clear_value(trait))} END AS {column}"
            for trait in traits
            for column in (name(trait.name),)
        )
        told = f"FROM delivered WHERE user_id = {text(self._user_id)}"
        with self._ledger.transaction():
            execute(
                f"CREATE OR REPLACE TABLE plan AS "
                f"SELECT user_id, {text(delivery_id)} AS delivery_id, 0::UBIGINT AS fingerprint, {cells} {told}"
            )
            execute(f"CREATE OR REPLACE TEMP TABLE again AS SELECT user_id {told}")
            execute("DELETE FROM rejects WHERE user_id = ?", [self._user_id])
        try:
            done = delivery.deliver(f"erase-{delivery_id[:8]}", delivery_id)
        finally:
            execute("DROP TABLE IF EXISTS plan")
        if isinstance(done, Delivered):
            self._note(answer="written", channel="file", cleared_at=_now())
        elif done is not None and done.acknowledged:
            late = self._ledger.count("SELECT count(*) FROM overtaken WHERE user_id = ?", self._user_id)
            answer = "taken; once more after a file with his last traits that counts as unread" if late else "taken"
            self._note(answer=answer, channel="ingest", cleared_at=_now())
        elif done is not None and done.rejected:
            ((status,),) = execute("SELECT max(status) FROM rejects WHERE user_id = ?", [self._user_id]).fetchall()
            self._note(answer=f"Engage rejected it with {status}; runs try again", channel="ingest")
        else:
            self._note(answer="waits: a file with his last traits counts as unread; the first run after that clears")

    def forget(self) -> None:
        """Let what Engage was told of him leave the ledger; it must have acknowledged the clearing values."""
        scrub(self._ledger, self._config, [self._user_id])
        _forget_told(self._ledger, self._contract, self._user_id)

    def _note_cleared_before(self) -> None:
        receipt = receipt_of(self._ledger, self._user_id) or {}
        if receipt["cleared"] and not receipt.get("cleared_at"):
            self._note(answer="acknowledged before", cleared_at=_now())

    def _note(self, **facts: str) -> None:
        _note(self._ledger, digest_of(self._ledger, self._user_id), **facts)


def allow(ledger: Ledger, user_id: str) -> bool:
    """Let a reader who was erased in again, and answer whether there was one; he comes with the next complete log."""
    digest = digest_of(ledger, user_id)
    return ledger.count("DELETE FROM erased WHERE digest = ?", digest) > 0


# What a run does


def reopen_overtaken(ledger: Ledger, clock: str) -> None:
    """Have readers who are to be erased cleared once more, where a file with their traits came after the clearing."""
    if not any_erased(ledger):
        return
    execute = ledger.connection.execute
    late = f"SELECT user_id FROM overtaken WHERE after <= {text(clock)}::TIMESTAMPTZ"
    columns = (column for column in ledger.columns("delivered") if column not in {"user_id", "delivery_id"})
    values = ", ".join(
        f"{name(one)} = CASE WHEN {name(one)} IS NOT NULL THEN '' END" if one != "fingerprint" else "fingerprint = NULL"
        for one in columns
    )
    chosen = f"user_id IN ({late}) AND {is_erased('user_id', status=CLEARING)}"
    execute(f"UPDATE delivered SET {values} WHERE {chosen}")
    execute(f"DELETE FROM overtaken WHERE after <= ?::TIMESTAMPTZ AND {is_erased('user_id')}", [clock])


def forget_cleared(ledger: Ledger, contract: Contract, config: Mapping[str, Any]) -> None:
    """Forget readers to be erased whose clearing values have been acknowledged."""
    if not any_erased(ledger):
        return
    waiting = f"SELECT user_id FROM delivered WHERE {is_erased('user_id', status=CLEARING)}"
    for (user_id,) in ledger.connection.execute(waiting).fetchall():
        if not _is_cleared(ledger, contract, user_id):
            continue
        ((channel,),) = ledger.connection.execute(
            "SELECT max(channel) FROM delivered JOIN deliveries USING (delivery_id) WHERE user_id = ?", [user_id]
        ).fetchall() or [(None,)]
        digest = digest_of(ledger, user_id)
        _note(ledger, digest, answer="acknowledged by a run", channel=str(channel), cleared_at=_now())
        scrub(ledger, config, [user_id])
        _forget_told(ledger, contract, user_id)


def close_erasures(ledger: Ledger, runs: Path) -> list[dict[str, Any]]:
    """Take the last step of all erasures that have come so far, and write their receipts.

    The ledger is closed where there was anything to do.

    Args:
        ledger: the ledger, about to be closed.
        runs: folder of the summaries.

    Returns:
        The receipts, which were written into the folder ``erasures`` below.
    """
    rows = ledger.connection.execute(
        "SELECT digest, status, receipt FROM erased WHERE status IN (?, ?)", [CLEARING, FORGOTTEN]
    ).fetchall()
    receipts, changes = [json.loads(receipt) for _, _, receipt in rows], []
    for receipt in receipts:
        if receipt["status"] == FORGOTTEN:
            receipt |= {"status": DONE, "file_rewritten_at": _now()}
            statement = 'UPDATE "fresh copy".erased SET status = ?, receipt = ? WHERE digest = ?'
            changes.append((statement, [DONE, json.dumps(receipt), receipt["digest"]]))
    if changes:
        ledger.close_afresh(*changes)
        ledger.forgets = True
    for receipt in receipts:
        write_receipt(runs, receipt)
    return receipts


# What is kept


def status_of(ledger: Ledger, user_id: str) -> str | None:
    """Say how far the erasure of a reader is; None when there is none."""
    return (receipt_of(ledger, user_id) or {}).get("status")


def receipt_of(ledger: Ledger, user_id: str) -> dict[str, Any] | None:
    """Give the receipt of a reader's erasure, which names nobody; None when there is none."""
    found = ledger.connection.execute(
        "SELECT receipt FROM erased WHERE digest = sha256((SELECT salt FROM salt) || ?)", [user_id]
    ).fetchall()
    return json.loads(found[0][0]) if found else None


def write_receipt(runs: Path, receipt: Mapping[str, Any]) -> Path:
    """Write a receipt into the folder ``erasures`` below that of the summaries, whole or not at all."""
    path = runs / "erasures" / f"{receipt['digest'][:16]}.json"
    with storage_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(receipt, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
    return path


def _note(ledger: Ledger, digest: str, **facts: str | list[str]) -> None:
    ((receipt,),) = ledger.connection.execute("SELECT receipt FROM erased WHERE digest = ?", [digest]).fetchall()
    noted = json.loads(receipt) | facts
    ledger.connection.execute(
        "UPDATE erased SET status = ?, receipt = ? WHERE digest = ?", [noted["status"], json.dumps(noted), digest]
    )


# What is there of a reader


def _places(ledger: Ledger, contract: Contract) -> Iterator[tuple[str, str]]:
    """List the tables of readers, quoted, with the SQL that finds a reader's rows; its one parameter is the id."""
    keys = {stream.table: name(stream.user_id) for stream in contract.users}
    for table in map(name, ledger.tables()):
        columns = ledger.columns(table)
        if table in keys:
            yield table, f"{keys[table]} = ?"
        elif _USER in columns:
            yield table, f"{_USER} = ?"
        elif table.startswith('"users_'):  # of a stream that has left the settings: what is unique may name the reader
            unique = [one for one in map(name, columns) if _is_unique(ledger, table, one)]
            yield table, f"list_contains([{', '.join(unique)}]::VARCHAR[], ?)"


def _is_unique(ledger: Ledger, table: str, column: str) -> bool:
    return not ledger.count(f"SELECT count(*) - count(DISTINCT {column}) FROM {table}")


def _mentions(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """List tables that are not of readers, and their columns, quoted, that name one beside something else."""
    for table in ledger.tables():
        columns = ledger.columns(name(table))
        if _USER not in columns and not table.startswith("users_"):
            yield from ((name(table), name(one)) for one in columns if one.endswith(_USER))


def _crumbs(ledger: Ledger) -> list[str]:
    """List tables that a run which broke off has left."""
    return [one for one in ledger.tables() if one in {"incoming", "plan"} or one.startswith("incoming_")]


def _aside_to_clear(ledger: Ledger) -> set[str]:
    """List the tables, quoted, that say of other destinations what is to be cleared there."""
    return {aside for table in _TO_CLEAR for aside in asides(ledger, table.strip('"'))}


def _forget(ledger: Ledger, contract: Contract, user_id: str, *, but: set[str]) -> None:
    for table, ours in _places(ledger, contract):
        if table not in but:
            ledger.connection.execute(f"DELETE FROM {table} WHERE {ours}", [user_id])
    for table, column in _mentions(ledger):
        ledger.connection.execute(f"UPDATE {table} SET {column} = NULL WHERE {column} = ?", [user_id])


def _forget_told(ledger: Ledger, contract: Contract, user_id: str) -> None:
    with ledger.transaction():
        _forget(ledger, contract, user_id, but=_aside_to_clear(ledger))
        theirs = "SELECT count(*) FROM delivered WHERE user_id = ?"
        left = [one.addresses.name for one in everywhere(ledger) if ledger.count(theirs, user_id)]
        done = {} if left else {"status": FORGOTTEN, "forgotten_at": _now()}
        _note(ledger, digest_of(ledger, user_id), waiting_for=left, **done)


def _told(ledger: Ledger, contract: Contract, user_id: str) -> list[str]:
    """List the traits that Engage was told of a reader."""
    columns = ", ".join(name(trait.name) for trait in told_traits(ledger, contract)) or "NULL"
    rows = ledger.connection.execute(f"SELECT {columns} FROM delivered WHERE user_id = ?", [user_id]).fetchall()
    cells = zip(told_traits(ledger, contract), rows[0] if rows else (), strict=False)
    return [trait.name for trait, value in cells if value is not None]


def _is_cleared(ledger: Ledger, contract: Contract, user_id: str) -> bool:
    """Whether Engage has acknowledged the value that clears of each trait it was told, and no file may come after."""
    differs = " OR ".join(
        f"{name(trait.name)} <> {text(contract.wording.clear_value(trait))}" for trait in told_traits(ledger, contract)
    )
    told = ledger.count(f"SELECT count(*) FROM delivered WHERE user_id = ? AND coalesce({differs}, false)", user_id)
    return not told and not ledger.count("SELECT count(*) FROM overtaken WHERE user_id = ?", user_id)


def _subscriptions(ledger: Ledger, user_id: str) -> list[str]:
    query = "SELECT subscription_id FROM {} WHERE user_id = ?"
    tables = ("subscriptions", "api_subscriptions")
    rows = [ledger.connection.execute(query.format(table), [user_id]).fetchall() for table in tables]
    return sorted({str(one) for found in rows for (one,) in found if one})


def _now() -> str:
    return datetime.now(tz=UTC).isoformat(timespec="seconds")

"""Erasing a reader, and letting him in again."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from piano_engage_common.progress import Progress
from piano_engage_common.stops import NoInput, PartlyRejected

from target_recurly_engage.cli.asking import LOGGER, as_json, json_of, open_ledger
from target_recurly_engage.contract import contract_of
from target_recurly_engage.delivery.choice import delivery_of
from target_recurly_engage.destinations import destination_of, known, select
from target_recurly_engage.erase import DONE, Erasure, allow, close_erasures, write_receipt
from target_recurly_engage.handover import Handover
from target_recurly_engage.traces import naming_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger


@click.command("erase")
@click.option("--user", required=True, help="The reader.")
@click.option("--allow", "allowed", is_flag=True, help="Let a reader who was erased in again.")
@as_json
@click.pass_obj
def erase_user(config: Mapping[str, Any], user: str, allowed: bool, as_json: bool) -> None:  # noqa: FBT001 - click
    """Clear a reader at Engage, forget him, and keep him from coming back; leaves a receipt that names nobody."""
    with open_ledger(config, changes=True) as ledger:
        if allowed:
            if not allow(ledger, user):
                msg = f"{user}: was not erased here, so there is nothing to allow."
                raise NoInput(msg)
            click.echo("let in again: he comes back with the next complete log")
            return
        receipt, files = _erase(ledger, config, user)
        click.echo(json_of(receipt) if as_json else "\n".join(_words(receipt, files, Path(config["runs_path"]))))
        if str(receipt.get("answer", "")).startswith("Engage rejected"):
            raise PartlyRejected(receipt["answer"])


def _erase(ledger: Ledger, config: Mapping[str, Any], user: str) -> tuple[dict[str, Any], list[Path]]:
    contract, progress = contract_of(config).with_kinds(ledger.kinds()), Progress(LOGGER)
    delivery_of(config, ledger, contract, logger=LOGGER, progress=progress).settle()
    wanted = destination_of(config)
    folders = [str(config["output_path"])]
    with ledger.transaction():
        if wanted is not None:
            select(ledger, wanted)
        folders += [one.addresses.folder for one in known(ledger) if one.addresses.folder]
    _take_handover(ledger, contract, config)
    receipt = Erasure(ledger, contract, config, user, logger=LOGGER, progress=progress).run()
    runs = Path(config["runs_path"])
    if receipt["status"] == DONE:
        write_receipt(runs, receipt)
    else:
        digest = receipt["digest"]
        receipt = next(one for one in close_erasures(ledger, runs) if one["digest"] == digest)
    return receipt, naming_files(folders, user)


def _take_handover(ledger: Ledger, contract: Contract, config: Mapping[str, Any]) -> None:
    """Note what was told between two runs, for all of it has to be cleared."""
    folder = config.get("handover_path")
    handover = Handover(Path(folder) if folder else None, LOGGER)
    clock = datetime.now(tz=UTC).isoformat()
    with ledger.transaction():
        handover.take(
            ledger, contract, run_id=f"erase-{uuid.uuid4().hex[:8]}", clock=clock,
            csv_hours=float(config["csv_ingest_hours"]),
        )  # fmt: skip
    handover.done()


def _words(receipt: dict[str, Any], files: list[Path], runs: Path) -> Iterator[str]:
    done = receipt["status"] == DONE
    yield "erased" if done else "marked to be erased: nothing more is sent of this reader but what clears him"
    if receipt["cleared"]:
        yield f"{len(receipt['cleared'])} trait(s) cleared at Engage: {receipt.get('answer')}"
    else:
        yield "nothing was ever delivered of this user"
    for place in receipt.get("waiting_for", []):
        yield f"still to be cleared at {place}: by the next run that delivers there"
    rows = ", ".join(f"{table} {count}" for table, count in receipt["rows"].items())
    yield f"rows that the ledger had of him: {rows}"
    yield f"receipt: {runs / 'erasures' / (receipt['digest'][:16] + '.json')}"
    for path in files:
        yield f"still names him, remove it once Engage has read it: {path}"


COMMANDS = (erase_user,)

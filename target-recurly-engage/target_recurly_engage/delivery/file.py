"""Delivery into a local folder: CSVs that Engage's S3 ingest folder takes as they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from target_recurly_engage.delivery.csvs import CsvDelivery, sha256_of

if TYPE_CHECKING:
    import logging

    from piano_engage_common.progress import Progress

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger


class FileDelivery(CsvDelivery):
    """Writes plans into a folder.

    Args:
        ledger: notes and acknowledges what is written.
        contract: what is sent.
        folder: where the files go.
        logger: for a line about each file.
        progress: told how far the writing is.
    """

    channel: ClassVar[str] = "file"
    done: ClassVar[str] = "written"
    verb: ClassVar[str] = "written"

    def __init__(
        self, ledger: Ledger, contract: Contract, folder: Path, *, logger: logging.Logger, progress: Progress
    ) -> None:
        """Remember where to write."""
        super().__init__(ledger, contract, logger=logger, progress=progress)
        self._folder = folder

    @override
    def check(self) -> None:
        """A folder needs no test: the file is written there before it appears."""

    @override
    def _location_of(self, file_name: str) -> str:
        return str((self._folder / file_name).resolve())

    @override
    def _part_of(self, location: str) -> Path:
        """Name the unfinished file: hidden, and with an ending that nobody takes for a CSV."""
        path = Path(location)
        return path.with_name(f".{path.name}.part")

    @override
    def _appeared(self, location: str, size: int, sha256: str) -> bool:
        path = Path(location)
        return path.is_file() and path.stat().st_size == size and sha256_of(path) == sha256

    @override
    def _never_left(self, location: str) -> bool:
        return self._part_of(location).exists()  # renaming is all or nothing

    @override
    def _publish(self, part: Path, location: str, size: int, sha256: str) -> None:
        path = Path(location)
        part.rename(path)
        _sync_folder(path.parent)

    @override
    def _forget(self, location: str) -> None:
        self._part_of(location).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Folders for files in between, which the next run sweeps when a crash left them behind."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

import psutil

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Self

PREFIX = "tap-piano-"
STALE_SECONDS = 24 * 3600
CLOCK_SLACK = 1.0
"""Seconds by which the system's idea of when a process began may be off."""


class RunFolder:
    """A folder of one run below *root*; its name tells which process made it and which started that one.

    Args:
        root: where run folders are made. Those of dead runs are removed on the way: nobody reads them any more
            when both the tap and its parent (Meltano, or a shell) are gone, or after a day.
    """

    def __init__(self, root: Path) -> None:
        """Sweep, then make the folder."""
        root.mkdir(parents=True, exist_ok=True)
        self.swept = [folder for folder in root.glob(f"{PREFIX}*") if _is_dead(folder)]
        for folder in self.swept:
            shutil.rmtree(folder, ignore_errors=True)
        self.path = root / f"{PREFIX}{os.getppid()}-{os.getpid()}-{time.time_ns()}"
        self.path.mkdir()

    def __enter__(self) -> Self:
        """Begin to use the folder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the folder and all in it."""
        self.remove_all_but(())

    def remove_all_but(self, kept: Collection[Path]) -> None:
        """Remove all but the files *kept*, which somebody still has to read; then the folder if there are none."""
        for path in set(self.path.iterdir()).difference(kept):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not kept:
            self.path.rmdir()


def local_folder(root: str) -> Path | None:
    """Read the ``root`` of a ``batch_config``; None where it is not on this machine."""
    address = urlparse(root)
    if address.scheme == "file":
        return Path(unquote(address.path))
    return None if address.scheme else Path(root).resolve()


def _is_dead(folder: Path) -> bool:
    try:
        parent, process, born = (int(part) for part in folder.name.removeprefix(PREFIX).split("-"))
    except ValueError:
        return False
    age = time.time() - born / 1e9
    return age > STALE_SECONDS or not (_runs(process, age) or (parent != 1 and _runs(parent, age)))


def _runs(process: int, age: float) -> bool:
    """Say whether a process that is older than *age* seconds still runs under that number."""
    try:
        found = psutil.Process(process)
        return found.status() != psutil.STATUS_ZOMBIE and time.time() - found.create_time() > age - CLOCK_SLACK
    except psutil.NoSuchProcess:
        return False

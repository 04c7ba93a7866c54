"""Who is at something, and whether he still is: processes look at each other, or, between machines, at the clock."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from functools import cache
from pathlib import Path
from typing import Final

import psutil

LEASE_SECONDS: Final = 120.0
"""After so long an action of a process that cannot be looked at counts as left behind; none takes nearly as long."""
_TELLS_MACHINES_APART: Final = (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid"))


def is_held(owner: str | None, lease_until: float | None) -> bool:
    """Whether somebody is telling of a reader: a process that lives, and has not been at it for too long."""
    return bool(owner) and (lease_until or 0.0) > time.time() and not is_gone(str(owner), lease_until or 0.0)


def me() -> str:
    """Name this process so that another one on the same machine can tell whether it still runs."""
    return f"{_machine()}/{os.getpid()}/{_born(os.getpid())}"


def is_gone(owner: str, lease_until: float) -> bool:
    """Whether a process has ended, or, on another machine, has not been heard of for long."""
    machine, pid, born = owner.split("/")[:3]
    if machine != _machine():
        return lease_until < time.time()
    try:
        return _born(int(pid)) != born or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


@cache
def _machine() -> str:
    """Name what has process numbers of its own: a machine since it was started, or a container.

    Containers in one network, and machines that were copied, may have the same host name.
    """
    said = "".join(map(_read, _TELLS_MACHINES_APART))
    return f"{socket.gethostname()}+{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def _read(path: Path) -> str:
    try:
        return os.readlink(path) if path.is_symlink() else path.read_text(encoding="ascii")  # noqa: PTH115 - it leads nowhere
    except OSError:  # no Linux
        return ""


def _born(pid: int) -> str:
    """Say when a process began, by a clock that nobody sets: ticks since the machine was started.

    Raises:
        psutil.Error: there is no such process.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except OSError:  # it has ended, or this is no Linux
        return f"{psutil.Process(pid).create_time():.2f}"

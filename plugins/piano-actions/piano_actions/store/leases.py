"""Who is at something, and whether he still is: processes look at each other, or, between machines, at the clock."""

from __future__ import annotations

import os
import socket
import time
from typing import Final

import psutil

LEASE_SECONDS: Final = 120.0
"""After so long an action of a process that cannot be looked at counts as left behind; none takes nearly as long."""


def is_held(owner: str | None, lease_until: float | None) -> bool:
    """Whether somebody is telling of a reader: a process that lives, and has not been at it for too long."""
    return bool(owner) and (lease_until or 0.0) > time.time() and not is_gone(str(owner), lease_until or 0.0)


def me() -> str:
    """Name this process so that another one on the same machine can tell whether it still runs."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def is_gone(owner: str, lease_until: float) -> bool:
    """Whether a process has ended, or, on another machine, has not been heard of for long."""
    host, pid, born = owner.split("/")[:3]
    if host != socket.gethostname():
        return lease_until < time.time()
    try:
        process = psutil.Process(int(pid))
        return f"{process.create_time():.2f}" != born or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True

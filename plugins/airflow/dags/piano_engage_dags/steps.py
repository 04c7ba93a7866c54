"""Running one step of one application: alone, in a system folder of its own, stopped when it takes too long."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from piano_engage_dags.told import Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from piano_engage_dags.settings import Settings


class Busy(Exception):  # noqa: N818 - what is the case
    """Another step of the application is under way."""


@dataclass(frozen=True)
class Ended:
    """How a step ended.

    Attributes:
        code: of Meltano; minus a signal that killed it.
        told: what its log told.
        stopped: whether it was stopped for having taken too long.
    """

    code: int
    told: Told
    stopped: bool = False

    @property
    def codes(self) -> list[int]:
        """The codes that count: those of the plugins, where Meltano told them."""
        return [code for code in self.told.codes.values() if code] or [self.code]


def run_step(
    settings: Settings,
    application: str,
    blocks: Sequence[str],
    env: Mapping[str, str],
    say: Callable[[str], object],
    *,
    wait: bool = True,
) -> Ended:
    """Run blocks of one application, alone on this machine.

    Args:
        settings: how.
        application: its name.
        blocks: arguments of `meltano run`.
        env: of the schedule.
        say: takes each line of the log.
        wait: whether to wait for another step of it that is under way.

    Raises:
        Busy: there is one, and it is not to be waited for.
    """
    system = system_folder(settings, application)
    environment = ["--environment", settings.environment] if settings.environment else []
    command = [
        settings.meltano, "--log-format", "json", *environment,
        # Meltano counts a run that was killed as running for five minutes more. Nothing else of the application runs
        # here, for we have its lock, and the ledger keeps out who comes from elsewhere.
        "run", "--no-install", "--force", *blocks,
    ]  # fmt: skip
    surroundings = {
        **os.environ,
        "MELTANO_DATABASE_URI": settings.database,
        **env,
        "MELTANO_PROJECT_ROOT": str(settings.project),
        "MELTANO_SYS_DIR_ROOT": str(system),
        "NO_COLOR": "1",
    }
    with alone(system / "lock", application, say if wait else None) as lock:
        say(shlex.join(command))
        return _followed(command, settings, surroundings, lock, say)


def system_folder(settings: Settings, application: str) -> Path:
    """Give the system folder of an application, with the plugins that `meltano install` makes in the project's.

    What is not installed yet has its place all the same: Meltano would make one here, where nothing is ever installed.
    """
    folder = settings.system / application
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("extractors", "loaders", "utilities"):
        there = settings.project / ".meltano" / kind
        with contextlib.suppress(OSError):  # a project that cannot be written has what it ever will have
            there.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            if there.exists():
                (folder / kind).symlink_to(there)
    return folder


@contextlib.contextmanager
def alone(path: Path, application: str, say: Callable[[str], object] | None) -> Iterator[int]:
    """Hold a lock of this machine for the ``with`` block; gives its descriptor.

    Where somebody else holds it, he is waited for, and *say* is told; without *say*, :class:`Busy` is raised.

    A child that inherits it holds the lock as well: it outlives a worker that was killed as long as its Meltano runs
    on, and no longer. Without that, ``--force`` would let a second run in beside the orphan.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"another step of {application} is under way"
            if say is None:
                raise Busy(msg) from None
            say(f"{msg}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _followed(
    command: Sequence[str], settings: Settings, env: Mapping[str, str], lock: int, say: Callable[[str], object]
) -> Ended:
    """Run a command as a process group of its own, which holds *lock* too; tell its log, stop it when it is late."""
    told, late = Told(), threading.Event()
    process = subprocess.Popen(  # noqa: S603 - the operator's own program
        command, cwd=settings.project, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True, pass_fds=(lock,),
    )  # fmt: skip

    def stop() -> None:
        late.set()
        _stop(process, settings.grace)

    timer = threading.Timer(settings.timeout, stop)
    timer.daemon = True
    timer.start()
    with process:
        try:
            for line in process.stdout or ():
                say(told.read(line.rstrip()))
            code = process.wait()
        finally:  # also when Airflow ends the task: whatever is in flight is finished first
            timer.cancel()
            if process.poll() is None:
                _stop(process, settings.grace)
    return Ended(code, told, late.is_set())


def _stop(process: subprocess.Popen[str], grace: float) -> None:
    """Ask a process group to end, and kill what is left of it after a while."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


SHOWN: Final = "run_id", "status", "message", "seconds", "rows", "users"


def result_of(ended: Ended) -> dict[str, Any]:
    """Give what other tasks may want to know, for XCom: counts and paths, no reader."""
    found: dict[str, Any] = {"code": ended.code, "codes": ended.told.codes}
    if ended.told.summary:
        found |= {"summary": ended.told.summary, "report": ended.told.page}
        with contextlib.suppress(OSError, ValueError):
            whole = json.loads(Path(ended.told.summary).read_text(encoding="utf-8"))
            found["run"] = {name: whole.get(name) for name in SHOWN}
    return found

"""A process that has imported the programs, and forks for each run of one: as separate as any process, a second faster.

A run has streams, environment, memory and exit code of its own, can be killed, and reads its settings anew; what it
shares with others is what Python imports. As a program, this is that process: it takes requests from a socket.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROGRAMS: Final = {
    "target-recurly-engage": "from target_recurly_engage.target import TargetRecurlyEngage as T; T.cli()",
    "recurly-engage": "from target_recurly_engage.cli import main; main()",
    "piano-actions": "from piano_actions.cli import main; main()",
    "tap-piano": "from tap_piano.tap import TapPiano; TapPiano.cli()",
}
"""As the entry points of the packages have them."""

_LENGTH = struct.Struct("!I")
_PID = struct.Struct("!q")


@dataclass(slots=True)
class Process:
    """A run that was started; as far as it goes like :class:`subprocess.Popen`."""

    pid: int
    _ends: socket.socket
    returncode: int | None = None
    stdout: IO[bytes] | None = None
    stderr: IO[bytes] | None = None

    def poll(self) -> int | None:
        """Give its exit code if it has ended."""
        if self.returncode is None and select.select([self._ends], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Read what it writes, both streams at once, and see it end; raises as :meth:`wait` does."""
        assert self.stdout is not None
        assert self.stderr is not None
        with self.stdout, self.stderr, ThreadPoolExecutor(2) as readers:
            out, log = (readers.submit(stream.read) for stream in (self.stdout, self.stderr))
            self.wait(timeout)
            return out.result(), log.result()

    def wait(self, timeout: float | None = None) -> int:
        """Give its exit code, minus the signal that killed it; raises TimeoutError after it was killed for that."""
        if self.returncode is None:
            self._ends.settimeout(timeout)
            try:
                self.returncode = os.waitstatus_to_exitcode(_PID.unpack(_all(self._ends, _PID.size))[0])
            except TimeoutError:
                self.kill()
                raise
            finally:
                self._ends.close()
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill it at once."""
        self.send_signal(signal.SIGKILL)


def run(
    program: str, arguments: Sequence[object], *, script: str = "", given: bytes = b"", patience: float = 120
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, *script* before it; gives what :func:`subprocess.run` would."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        stdin.write(given)
        stdin.seek(0)
        code = start(program, arguments, script=script, stdin=stdin, stdout=out, stderr=log).wait(patience)
        out.seek(0)
        log.seek(0)
        return subprocess.CompletedProcess([program, *map(str, arguments)], code, out.read(), log.read())


def piped(program: str, arguments: Sequence[object], *, environment: Mapping[str, str], folder: Path) -> Process:
    """Start a program whose output and log are read from `stdout` and `stderr`, in a folder and an environment."""
    (out, drain), (log, log_drain) = os.pipe(), os.pipe()
    process = start(program, arguments, stdout=drain, stderr=log_drain, environment=environment, folder=folder)
    os.close(drain)
    os.close(log_drain)
    process.stdout, process.stderr = open(out, "rb"), open(log, "rb")  # noqa: PTH123, SIM115 - pipes, closed by who reads
    return process


def start(  # noqa: PLR0913 - as subprocess.Popen
    program: str,
    arguments: Sequence[object],
    *,
    stdin: IO[bytes] | int | None = None,
    stdout: IO[bytes] | int,
    stderr: IO[bytes] | int,
    script: str = "",
    environment: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Process:
    """Start a program, *script* before it, on files that are open."""
    ours, theirs = socket.socketpair()
    request = json.dumps(
        {
            "argv": [str(Path(sys.executable).with_name(program)), *map(str, arguments)],
            "source": script + "\n" + PROGRAMS[program],
            "environment": dict(environment),
            "folder": str(folder or Path.cwd()),
        }
    ).encode()
    with theirs, Path(os.devnull).open("rb") as nothing:
        streams = [one if isinstance(one, int) else one.fileno() for one in (stdin or nothing, stdout, stderr)]
        socket.send_fds(_warm(), [_LENGTH.pack(len(request))], [*streams, theirs.fileno()])
        _warm().sendall(request)
    return Process(_PID.unpack(_all(ours, _PID.size))[0], ours)


@cache
def _warm() -> socket.socket:
    """Start the process that forks; it ends before this one does."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _all(source: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        more = source.recv(length - len(found))
        if not more:
            msg = "the process that forks is gone"
            raise EOFError(msg)
        found += more
    return found


# The process that forks


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for each request, and return in the fork with it; in this process return at the end with nothing."""
    while True:
        length, descriptors, _, _ = socket.recv_fds(requests, _LENGTH.size, 4)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, 0 if not length else os.WNOHANG)[0]:
                pass
        if not length:
            return None
        request = json.loads(_all(requests, _LENGTH.unpack(length)[0]))
        if os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        requests.close()
        *streams, told = descriptors
        if pid := os.fork():
            for descriptor in streams:
                os.close(descriptor)
            os.write(told, _PID.pack(pid))
            os.write(told, _PID.pack(os.waitpid(pid, 0)[1]))
            os._exit(0)
        os.close(told)
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return dict(request)


def _warm_up() -> None:
    """Do once what is the same in every run; nothing that opens a database, for threads do not fork."""
    import boto3.s3.transfer  # noqa: PLC0415
    import tap_piano.tap  # noqa: F401, PLC0415
    import target_recurly_engage.cli  # noqa: PLC0415
    import target_recurly_engage.target  # noqa: F401, PLC0415
    from target_recurly_engage import report  # noqa: PLC0415

    report.page()
    boto3.client("s3", region_name="us-west-2", aws_access_key_id="any", aws_secret_access_key="any")  # noqa: S106


def _main() -> NoReturn:
    _warm_up()
    gc.collect()
    gc.freeze()  # a run need not look through all that again
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        _leave(0)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    tempfile.tempdir = None  # that of the environment
    sys.argv = request["argv"]
    _leave(_run(request["source"]))


def _run(source: str) -> int:
    """Run a program to its end, as the interpreter would; gives the exit code."""
    try:
        exec(compile(source, "<run>", "exec"), {"__name__": "__main__"})  # noqa: S102 - our own
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int):
            return e.code or 0
        sys.stderr.write(f"{e.code}\n")
        return 1
    except Exception:  # noqa: BLE001 - whatever it is
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _leave(code: int) -> NoReturn:
    """End as the interpreter would, but for taking apart all that was imported, which takes longer than a small run."""
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120  # as the interpreter has it
    os._exit(code)


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    _main()

"""Jobs of the Reports API: what was asked for, how far it is by the sandbox's clock, and its file.

The file shows the moment at which its job was scheduled and is made at once; the switches decide when it may be seen.
A test can give the statuses the next job shows instead (`Exports.script`).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from piano_engage_sandbox.columns import DEFAULT, ordered_groups
from piano_engage_sandbox.export import snapshot
from piano_engage_sandbox.piano.files import BIG, Workshop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from piano_engage_sandbox.application import Application
    from piano_engage_sandbox.export import Options
    from piano_engage_sandbox.service import Sandbox

CREATED: Final = "CREATED"
IN_PROGRESS: Final = "IN_PROGRESS"
DUPLICATE: Final = "DUPLICATE"
FINISHED: Final = "FINISHED"
INTERNAL_ERROR: Final = "INTERNAL_ERROR"
REMOVED: Final = "REMOVED"
FAILED: Final = "FAILED"
OVER: Final = frozenset({INTERNAL_ERROR, FAILED, REMOVED})
"""Statuses after which the same request makes a new job: a guess."""
SCRIPTED_ERROR: Final = "The report could not be made"
SMALL_PATIENCE: Final = 10.0
"""Real seconds a poll waits for a small file whose time has come, so that a moved clock shows it at once."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a job was asked for."""

    aid: str
    start_date_from: str = ""
    start_date_to: str = ""
    file_name: str = ""
    groups: tuple[str, ...] = ()

    def key(self, *, with_name: bool) -> tuple[object, ...]:
        """Give what makes two requests the same; the order of groups makes no difference, nor does naming DEFAULT."""
        groups = ordered_groups(self.groups or (DEFAULT,))
        return self.aid, self.start_date_from, self.start_date_to, groups, self.file_name if with_name else None

    def echo(self) -> dict[str, Any]:
        """Give what was asked for as `report_request` repeats it: what was not given is left out."""
        given: dict[str, Any] = {
            "aid": self.aid,
            "start_date_from": self.start_date_from,
            "start_date_to": self.start_date_to,
            "file_name": self.file_name,
            "attribute_groups": list(self.groups),
        }
        return {name: value for name, value in given.items() if value}


@dataclass(slots=True, eq=False)
class Job:
    """One export. Moments are those of the sandbox's clock."""

    export_id: str
    request: Request
    path: Path
    """Where the file is once it is made, in a folder of its own. Its name is what the link shows."""
    scheduled: float
    created_until: float
    running_until: float
    small: bool
    """Whether it is made so soon that it counts as made when it was scheduled."""
    script: deque[str] | None = None
    error: str = ""
    rows: int = 0
    share: float = 0.0
    """How much of the file is made."""
    made_at: float | None = None
    shown: str = CREATED
    """The last status told, of a job that follows a script."""
    stuck: bool = False
    """Whether it stays DUPLICATE, by switch."""
    dropped: bool = False
    """Whether its file was removed."""
    task: asyncio.Task[None] | None = None

    def status(self, now: float, removed_after: float) -> str:
        """Say what it truly is: as the script has it, or as clock and file have it."""
        if self.script is not None:
            return self._scripted(now, removed_after)
        if self.error:
            return INTERNAL_ERROR
        if now < self.created_until:
            return CREATED
        if self.made_at is None or now < self.running_until:
            return IN_PROGRESS
        return REMOVED if self.dropped or now >= self._finished_at + removed_after else FINISHED

    @property
    def _finished_at(self) -> float:
        return max(self.running_until, self.made_at or 0.0)

    def _scripted(self, now: float, removed_after: float) -> str:
        if self.shown != FINISHED:
            return self.shown
        if self.error:
            return INTERNAL_ERROR
        if self.made_at is None and not self.dropped:
            return IN_PROGRESS
        return REMOVED if self.dropped or now >= self._finished_at + removed_after else FINISHED

    def next_word(self) -> None:
        """Go on in the script; the last word stays."""
        if self.script:
            self.shown = self.script.popleft()

    def due(self, now: float) -> bool:
        """Whether only the file is missing."""
        if self.made_at is not None or self.error:
            return False
        return self.shown == FINISHED if self.script is not None else self.small and now >= self.running_until

    def percent(self, now: float) -> int:
        """Say how far it is: as far as both the file and the clock are, never 100 before it is finished."""
        planned = self.running_until - self.created_until
        by_clock = min(1.0, (now - self.created_until) / planned) if planned > 0 else 1.0
        return min(99, int(100 * min(self.share, by_clock)))


@dataclass(slots=True)
class Script:
    """The statuses a job will show, and the text of an error among them."""

    words: Sequence[str]
    error_text: str = ""


class Exports:
    """All jobs and their files. A part: `sandbox.part(Exports)`."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Begin without jobs."""
        self.sandbox = sandbox
        self.jobs: dict[str, Job] = {}
        self.workshop = Workshop(BIG)
        self._scripts: dict[str, deque[Script]] = {}
        self._texts: dict[str, str] = {}
        self._folder: Path | None = None
        self._dropping: set[asyncio.Task[None]] = set()

    def script(self, aid: str, words: Sequence[str], error_text: str = "") -> None:
        """Say what the next job of an application shows: first its schedule answer, then poll by poll.

        The last word stays. FINISHED is only said when the file is there. Several scripts are for as many jobs; no
        words at all take back those that wait. Raises ValueError for an application nobody knows.
        """
        if aid not in self.sandbox.piano:
            msg = f"no application {aid!r}; there are: {', '.join(self.sandbox.piano)}"
            raise ValueError(msg)
        scripts = self._scripts.setdefault(aid, deque())
        if words:
            scripts.append(Script(tuple(words), error_text))
        else:
            scripts.clear()

    def configure(self, given: dict[str, Any]) -> None:
        """Take a script as JSON: `script` is a list of words, `aid` may be left out where there is one application.

        `error_text` goes with INTERNAL_ERROR. Raises ValueError that names the member.
        """
        if unknown := sorted(set(given) - {"aid", "script", "error_text"}):
            msg = f"unknown member {unknown[0]!r}; there are: aid, error_text, script"
            raise ValueError(msg)
        words = given.get("script")
        if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
            msg = f"'script' is a list of statuses such as CREATED: {words!r}"
            raise ValueError(msg)
        aid = given.get("aid")
        if aid is None and len(self.sandbox.piano) > 1:
            msg = f"say which 'aid': {', '.join(self.sandbox.piano)}"
            raise ValueError(msg)
        self.script(str(aid or next(iter(self.sandbox.piano))), words, str(given.get("error_text") or ""))

    def status(self) -> dict[str, Any]:
        """Say what jobs there are and which scripts wait, without moving anything on."""
        now, removed_after = self.sandbox.now(), self.sandbox.switches.reports.removed_after
        return {
            "jobs": [
                {
                    "export_id": job.export_id, "aid": job.request.aid, "job_status": job.status(now, removed_after),
                    "scheduled": job.scheduled, "file": job.path.name, "rows": job.rows, "share": round(job.share, 3),
                    "error": job.error,
                }
                for job in self.jobs.values()
            ],
            "scripts": {aid: [list(one.words) for one in waiting] for aid, waiting in self._scripts.items()},
            "child": self.workshop.child,
        }  # fmt: skip

    async def schedule(self, application: Application, request: Request) -> tuple[Job, str]:
        """Take a request: give its job, or the one that the same request made lately, and the status to answer."""
        self.sweep()
        scripts = self._scripts.get(request.aid)
        script = scripts.popleft() if scripts else None
        earlier = None if script else self._same(request)
        if earlier is not None:
            earlier.stuck = not self.sandbox.switches.reports.duplicate_converts
            return earlier, DUPLICATE
        job = self._new(application, request)
        if script is not None:
            job.script = deque(script.words)
            self._texts[job.export_id] = script.error_text or SCRIPTED_ERROR
            return job, await self.poll(job)
        return job, CREATED

    async def poll(self, job: Job) -> str:
        """Give the status a poll is told."""
        self.sweep()
        job.next_word()
        if job.task is not None and job.due(self.sandbox.now()):
            await asyncio.wait([job.task], timeout=SMALL_PATIENCE if job.small else None)
        status = self.true_status(job)
        if status == REMOVED:
            self.drop(job)
        return DUPLICATE if job.stuck and status not in OVER else status

    def true_status(self, job: Job) -> str:
        """Say what a job is now, DUPLICATE aside."""
        return job.status(self.sandbox.now(), self.sandbox.switches.reports.removed_after)

    def described(self, job: Job, status: str) -> dict[str, Any]:
        """Give the job object (`ReportExportJobInfo`; reference sheet of Piano, 2.1)."""
        info: dict[str, Any] = {"export_id": job.export_id, "report_request": job.request.echo(), "job_status": status}
        if status == INTERNAL_ERROR:
            info["error_text"] = job.error or self._texts.get(job.export_id, SCRIPTED_ERROR)
        if status == IN_PROGRESS:
            info["percent_complete"] = job.percent(self.sandbox.now())
        elif status == FINISHED:
            info["percent_complete"] = 100
        return info

    def _same(self, request: Request) -> Job | None:
        """Find the job of the same request within the window, unless it came to nothing."""
        switches, now = self.sandbox.switches.reports, self.sandbox.now()
        key = request.key(with_name=switches.duplicate_sees_file_name)
        for job in reversed(self.jobs.values()):
            same = job.request.key(with_name=switches.duplicate_sees_file_name) == key
            if same and now - job.scheduled < switches.duplicate_window and self.true_status(job) not in OVER:
                return job
        return None

    def _new(self, application: Application, request: Request) -> Job:
        switches, now = self.sandbox.switches.reports, self.sandbox.now()
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="sandbox-exports-"))
        options: Options = {
            "rows": application.rows, "seed": application.seed, "aid": application.aid,
            "timezone": application.timezone, "since": application.begins, "as_of": int(now),
            "start_date_from": request.start_date_from or None, "start_date_to": request.start_date_to or None,
            "groups": request.groups or (DEFAULT,), "crlf": switches.crlf, "bom": switches.byte_order_mark,
            "touched": snapshot(application.world.touched) if application.world_is_made else b"",
        }  # fmt: skip
        created_until = now + switches.created_for
        export_id = uuid4().hex
        job = Job(
            export_id=export_id,
            request=request,
            path=self._folder / export_id / _file_name(application, request, int(now), switches.packed),
            scheduled=now,
            created_until=created_until,
            running_until=created_until + switches.running_for,
            small=not self.workshop.is_big(options),
        )
        self.jobs[export_id] = job
        job.task = asyncio.get_running_loop().create_task(self._make(job, options))
        return job

    async def _make(self, job: Job, options: Options) -> None:
        rows = max(1, options["rows"] or 0)

        def told(written: int, counted: int) -> None:
            job.rows, job.share = written, min(1.0, counted / rows)

        try:
            await asyncio.to_thread(job.path.parent.mkdir)
            job.rows = await self.workshop.make(job.path, options, told)
        except Exception as e:  # noqa: BLE001 - whatever went wrong, the job has to end
            job.error = str(e) or type(e).__name__
        else:
            job.share = 1.0
            job.made_at = job.scheduled if job.small else self.sandbox.now()

    def sweep(self) -> None:
        """Remove the files of exports whose time is over."""
        for job in self.jobs.values():
            if not job.dropped and self.true_status(job) == REMOVED:
                self.drop(job)

    def drop(self, job: Job) -> None:
        """Remove a job's file, and stop making it; the job is remembered."""
        if job.dropped:
            return
        job.dropped = True
        dropping = asyncio.get_running_loop().create_task(_drop(job))
        self._dropping.add(dropping)
        dropping.add_done_callback(self._dropping.discard)

    async def close(self) -> None:
        """Stop all making and remove all files."""
        tasks = [job.task for job in self.jobs.values() if job.task is not None and not job.task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._dropping, return_exceptions=True)
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


async def _drop(job: Job) -> None:
    if job.task is not None:
        job.task.cancel()
        await asyncio.gather(job.task, return_exceptions=True)
    await asyncio.to_thread(shutil.rmtree, job.path.parent, ignore_errors=True)


def _file_name(application: Application, request: Request, now: int, packed: str) -> str:
    """Name the file: what was asked for, the dates if any, and the extension (reference sheet of Piano, 2.1)."""
    day = application.zone.piano(now)[:10]
    dates = [part for part in (request.start_date_from, request.start_date_to) if part]
    return "_".join([request.file_name or f"subscriptionLog_{application.aid}_{day}", *dates]) + f".{packed}"

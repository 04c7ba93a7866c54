"""The Reports API: exports of the subscription log as jobs (reference sheet of Piano, section 2).

Schedule, ask for the status until it is FINISHED, ask for a link, download. The token goes in the query (what is seen
in production), a header or a form. Errors are HTTP statuses here; what their bodies say is a guess: the envelope of
the Publisher API, with a `message` that names the parameter. So are 401 for a wrong token, 403 for a dead link and 404
for a file that was removed.
"""

from __future__ import annotations

import json
import re
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from piano_engage_sandbox.columns import GROUPS
from piano_engage_sandbox.piano.downloads import Signer, send
from piano_engage_sandbox.piano.envelope import ApiError, Params, wrong
from piano_engage_sandbox.piano.jobs import FINISHED, Exports, Job, Request
from piano_engage_sandbox.service import SANDBOX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from piano_engage_sandbox.application import Application
    from piano_engage_sandbox.service import Sandbox

    Endpoint = Callable[[web.Request, Sandbox, Application, Params], Awaitable[web.Response]]

BASE: Final = "/rest/export"
NAME_LENGTH: Final = 100
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f/\\.][^\x00-\x1f\x7f/\\]*")
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


class Links(Signer):
    """The signer of a sandbox. A part: `sandbox.part(Links)`."""

    def __init__(self, _sandbox: Sandbox) -> None:
        """Make a key for this sandbox."""
        super().__init__()


class HttpError(Exception):
    """An answer with an HTTP status other than 200 or 400."""

    def __init__(self, status: int, code: int, message: str) -> None:
        """Say which, and what its body says."""
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def routes() -> list[web.RouteDef]:
    """List the routes of this part."""
    found = [web.get(BASE + "/files/{export_id}/{name}", _file)]
    for path, endpoint, verbs in (
        ("/schedule/vx/subscriptionLog", _schedule, ("POST", "GET")),
        ("/status", _status, ("GET", "POST")),
        ("/download/url", _link, ("GET", "POST")),
    ):
        found += [web.route(verb, BASE + path, _handler(endpoint)) for verb in verbs]
    return found


async def running(app: web.Application) -> AsyncIterator[None]:
    """Clean up the files of exports when the server stops."""
    yield
    await app[SANDBOX].part(Exports).close()


def _handler(endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Put parameters, access and errors around an endpoint."""

    async def handle(request: web.Request) -> web.Response:
        sandbox = request.app[SANDBOX]
        params = Params([*request.query.items(), *await _form(request)])
        try:
            application = _admitted(sandbox, params, request.headers.get("api_token", ""))
            return await endpoint(request, sandbox, application, params)
        except ApiError as e:
            return _refusal(sandbox, 400, e.code, e.message)
        except HttpError as e:
            return _refusal(sandbox, e.status, e.code, e.message)

    return handle


async def _form(request: web.Request) -> list[tuple[str, str]]:
    if request.method != "POST" or request.content_type not in _FORMS:
        return []
    return [(name, value) for name, value in (await request.post()).items() if isinstance(value, str)]


def _admitted(sandbox: Sandbox, params: Params, header: str) -> Application:
    """Give the application a call is about: 401 unless the token is one of ours and its own, 400 for a wrong aid."""
    token = header or params.text("api_token")
    owner = next((one for one in sandbox.piano.values() if token and one.token == token), None)
    refused = HttpError(sandbox.switches.reports.refused_token_status, 2, "Access denied")
    if owner is None:
        raise refused
    aid = params.required("aid")
    if aid not in sandbox.piano:
        raise wrong("aid", f"is unknown: {aid!r}")
    if sandbox.piano[aid] is not owner:
        raise refused
    return owner


async def _schedule(_request: web.Request, sandbox: Sandbox, application: Application, params: Params) -> web.Response:
    first, last = _day(params, "start_date_from"), _day(params, "start_date_to")
    if first and last and first > last:
        raise wrong("start_date_from", f"is after start_date_to: {first} > {last}")
    name = params.text("file_name")
    if name and (not _NAME.fullmatch(name) or len(name.encode()) > NAME_LENGTH):
        raise wrong("file_name", f"is no name of a file of up to {NAME_LENGTH} bytes: {name!r}")
    groups = params.many("attribute_groups", GROUPS)
    wanted = Request(application.aid, first, last, name, tuple(dict.fromkeys(groups)))
    exports = sandbox.part(Exports)
    job, status = await exports.schedule(application, wanted)
    return _job_answer(sandbox, exports.described(job, status))


async def _status(_request: web.Request, sandbox: Sandbox, application: Application, params: Params) -> web.Response:
    exports = sandbox.part(Exports)
    job = _job(exports, application, params)
    return _job_answer(sandbox, exports.described(job, await exports.poll(job)))


async def _link(request: web.Request, sandbox: Sandbox, application: Application, params: Params) -> web.Response:
    exports = sandbox.part(Exports)
    job = _job(exports, application, params)
    status = exports.true_status(job)
    if status != FINISHED:
        raise wrong("export_id", f"is not finished: {job.export_id!r} is {status}")
    expires = sandbox.now() + sandbox.switches.reports.link_lives
    path = sandbox.part(Links).link(job.export_id, job.path.name, expires)
    return _json({"url": f"{request.url.origin()}{path}"})


async def _file(request: web.Request) -> web.StreamResponse:
    """Send the file of a signed link."""
    sandbox = request.app[SANDBOX]
    exports, links = sandbox.part(Exports), sandbox.part(Links)
    export_id, name, query = request.match_info["export_id"], request.match_info["name"], request.query
    expires = query.get("expires", "")
    if not links.fits(export_id, name, expires, query.get("signature", "")):
        return _refusal(sandbox, 403, 403, "The signature of the link is wrong")
    if sandbox.now() >= float(expires):
        return _refusal(sandbox, 403, 403, "The link has expired")
    job = exports.jobs[export_id]
    gone = _refusal(sandbox, 404, 404, "The file was removed")
    if exports.true_status(job) != FINISHED:
        return gone
    made_at = job.scheduled if job.made_at is None else job.made_at
    ranges = sandbox.switches.reports.ranges
    try:
        return await send(request, job.path, f'"{export_id}"', ranges=ranges, modified=made_at, now=sandbox.now())
    except FileNotFoundError:
        return gone


def _day(params: Params, name: str) -> str:
    """Read a date as Piano wants it, yyyy-MM-dd; empty for none."""
    text = params.text(name)
    if not text:
        return ""
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text).isoformat()
    except ValueError:
        pass
    raise wrong(name, f"is not a date like 2026-03-01: {text!r}")


def _job(exports: Exports, application: Application, params: Params) -> Job:
    export_id = params.required("export_id")
    job = exports.jobs.get(export_id)
    if job is None or job.request.aid != application.aid:
        raise wrong("export_id", f"is unknown: {export_id!r}")
    return job


def _job_answer(sandbox: Sandbox, described: dict[str, Any]) -> web.Response:
    """Answer with a job object, bare or under a key by switch."""
    switches = sandbox.switches.reports
    if switches.echo == "text":
        described["report_request"] = json.dumps(described["report_request"], ensure_ascii=False)
    if switches.wrapped == "bare":
        return _json(described)
    return _json({"code": 0, "ts": int(sandbox.now()), switches.wrapped: described})


def _refusal(sandbox: Sandbox, status: int, code: int, message: str) -> web.Response:
    return _json({"code": code, "ts": int(sandbox.now()), "message": message}, status)


def _json(content: dict[str, Any], status: int = 200) -> web.Response:
    body = json.dumps(content, ensure_ascii=False).encode()
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")

"""The control endpoint of what Piano does by itself: exports and webhooks.

Where there is one application its `aid` may be left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from piano_engage_sandbox.control_parts import ControlError, body_of
from piano_engage_sandbox.piano.jobs import Exports
from piano_engage_sandbox.piano.webhooks import Webhooks
from piano_engage_sandbox.rules import read_member

if TYPE_CHECKING:
    from aiohttp import web

    from piano_engage_sandbox.control_parts import Action
    from piano_engage_sandbox.service import Sandbox

SETTINGS: Final[dict[str, Any]] = {
    "url": str,
    "enabled": bool,
    "hmac": bool,
    "events": dict[str, bool],
    "repeat": int,
    "swap": int,
    "drop": int,
}
"""What can be said of webhooks; the last three say how many of the coming events go astray."""
ASTRAY: Final = ("repeat", "swap", "drop")


def aid_of(sandbox: Sandbox, aid: object) -> str:
    """Give the application that is meant; raises ControlError when it is unknown, or not said and not plain."""
    if aid is None and len(sandbox.piano) > 1:
        msg = f"say which aid: {', '.join(sandbox.piano)}"
        raise ControlError(msg)
    found = next(iter(sandbox.piano)) if aid is None else str(aid)
    if found not in sandbox.piano:
        msg = f"no application {found!r}; there are: {', '.join(sandbox.piano)}"
        raise ControlError(msg)
    return found


async def get_reports(_: web.Request, sandbox: Sandbox) -> object:
    """Tell the export jobs, and the scripts that wait for one."""
    return sandbox.part(Exports).status()


async def post_reports(request: web.Request, sandbox: Sandbox) -> object:
    """Say what the next export job shows, poll by poll: `{"script": ["CREATED", "REPROCESS", "FINISHED"]}`."""
    sandbox.part(Exports).configure(await body_of(request))
    return sandbox.part(Exports).status()


async def get_webhooks(request: web.Request, sandbox: Sandbox) -> object:
    """Tell how the webhooks of an application are doing: `?aid=…`."""
    return sandbox.part(Webhooks).status(aid_of(sandbox, request.query.get("aid")))


async def post_webhooks(request: web.Request, sandbox: Sandbox) -> object:
    """Set where events go, which, and what goes astray: `{"url": "http://…", "repeat": 1, "swap": 1, "drop": 1}`."""
    return configure_webhooks(sandbox, await body_of(request, {"aid", *SETTINGS}))


def configure_webhooks(sandbox: Sandbox, given: dict[str, Any]) -> object:
    """Set what is said of webhooks; raises ValueError that names the member."""
    aid = aid_of(sandbox, given.get("aid"))
    said = {name: _member(name, value) for name, value in given.items() if name != "aid"}
    webhooks = sandbox.part(Webhooks)
    webhooks.misbehave(aid, **{name: said.pop(name) for name in ASTRAY if name in said})
    return webhooks.configure(aid, **said)


def _member(name: str, value: object) -> Any:  # noqa: ANN401 - as SETTINGS says
    if name != "events":
        return read_member(name, SETTINGS[name], value)
    if not isinstance(value, dict) or not all(isinstance(wanted, bool) for wanted in value.values()):
        msg = f"events takes an object of true and false, not {value!r}"
        raise ControlError(msg)
    return value


async def get_webhook_log(request: web.Request, sandbox: Sandbox) -> object:
    """List the events of an application, oldest first: `?aid=…`."""
    aid = aid_of(sandbox, request.query.get("aid"))
    return [webhook.as_dict() for webhook in sandbox.part(Webhooks).log(aid)]


async def post_webhook_test(request: web.Request, sandbox: Sandbox) -> object:
    """Queue a test event."""
    given = await body_of(request, {"aid"})
    return sandbox.part(Webhooks).send_test(aid_of(sandbox, given.get("aid"))).as_dict()


async def post_webhook_skip(request: web.Request, sandbox: Sandbox) -> object:
    """Take an event out of the queue."""
    return sandbox.part(Webhooks).skip(request.match_info["id"]).as_dict()


async def post_webhook_resend(request: web.Request, sandbox: Sandbox) -> object:
    """Send an event once more, out of turn, and tell what the receiver said."""
    attempt = await sandbox.part(Webhooks).resend(request.match_info["id"])
    return {"succeeded": attempt.succeeded, "status": attempt.status, "problem": attempt.problem}


TABLE: Final[list[tuple[str, str, Action]]] = [
    ("GET", "/_sandbox/reports", get_reports),
    ("POST", "/_sandbox/reports", post_reports),
    ("GET", "/_sandbox/webhooks", get_webhooks),
    ("POST", "/_sandbox/webhooks", post_webhooks),
    ("GET", "/_sandbox/webhooks/log", get_webhook_log),
    ("POST", "/_sandbox/webhooks/test", post_webhook_test),
    ("POST", "/_sandbox/webhooks/{id}/skip", post_webhook_skip),
    ("POST", "/_sandbox/webhooks/{id}/resend", post_webhook_resend),
]

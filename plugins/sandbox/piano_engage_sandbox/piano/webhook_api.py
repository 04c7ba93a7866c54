"""Endpoints of the Publisher API about webhooks: settings, the log, and what can be done by hand.

Paths, parameters and field names are those of the official SDK 16.988 (reference sheet of Piano, 4.4); the data keys
but those of settings and status are our guess by the naming rule of 1.4.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

from piano_engage_sandbox.piano import shapes
from piano_engage_sandbox.piano.envelope import Answer, ApiError, paged, wrong
from piano_engage_sandbox.piano.event_fields import FIELDS
from piano_engage_sandbox.piano.events import EVENT_TYPES
from piano_engage_sandbox.piano.webhook_line import Status, WebhookError
from piano_engage_sandbox.piano.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from piano_engage_sandbox.piano.envelope import Call
    from piano_engage_sandbox.piano.webhook_line import Attempt, Webhook

T = TypeVar("T")

NO_ENDPOINT: Final = 4002
DESCRIPTIONS: Final = {
    "disabled": "Webhooks are switched off",
    "failure": "An event fails and holds back the later ones",
    "normal": "Webhooks are delivered",
}
DEPRECATED: Final = frozenset({"term_changed"})
"""Types that `skip_deprecated_webhooks` leaves out; which ones Piano means is not documented."""


def settings(call: Call) -> Answer:
    """Answer webhook/settings: where events go, and which event is of which type."""
    line = _hooks(call).settings(call.application.aid)
    configs = [
        {"key": key, "label": label, "enabled": key not in line.muted, "type": kind}
        for key, (kind, label) in EVENT_TYPES.items()
    ]
    url = line.url
    return Answer("webhook_settings", {"url": url, "enabled": bool(url) and line.enabled, "configs": configs})


def settings_update(call: Call) -> Answer:
    """Answer webhook/settings/update. `configs` is JSON: a list of objects with `key` and `enabled`."""
    params = call.params
    try:
        _hooks(call).configure(
            call.application.aid,
            url=params.text("url") if "url" in params else None,
            enabled=params.boolean("enabled") if "enabled" in params else None,
            events=_configs(params.text("configs", "[]")),
        )
    except ValueError as e:
        raise wrong("url", "is not an http or https URL") from e
    return Answer("data", True)  # noqa: FBT003 - the value


def _configs(text: str) -> dict[str, bool]:
    """Read which events are wanted."""
    try:
        found = {config["key"]: config["enabled"] for config in json.loads(text)}
    except (ValueError, TypeError, KeyError) as e:
        raise wrong("configs", "is not a JSON list of objects with key and enabled") from e
    for key, enabled in found.items():
        if key not in EVENT_TYPES or not isinstance(enabled, bool):
            raise wrong("configs", f"cannot set {key!r} to {enabled!r}")
    return found


def status(call: Call) -> Answer:
    """Answer webhook/status: disabled, failure or normal."""
    word = _hooks(call).status(call.application.aid)["status"]
    return Answer("webhook_status", {"status": word, "description": DESCRIPTIONS[word]})


def events(call: Call) -> Answer:
    """Answer webhook/events: the types there are."""
    skipped = DEPRECATED if call.params.boolean("skip_deprecated_webhooks") else frozenset()
    return Answer("data", [kind for kind in FIELDS if kind not in skipped])


def webhook_list(call: Call) -> Answer:
    """Answer webhook/list; `keyword` is looked for in ids and values of the event."""
    params = call.params
    wanted = params.choice("status", [str(one) for one in Status])
    keys, kinds, keyword = params.many("event_type"), params.many("type"), params.text("keyword").casefold()
    found = [
        one
        for one in _hooks(call).log(call.application.aid)
        if (not wanted or one.status == wanted)
        and (not keys or one.payload["event"] in keys)
        and (not kinds or one.payload["type"] in kinds)
        and (not keyword or keyword in f"{one.id} {json.dumps(one.payload, ensure_ascii=False)}".casefold())
    ]
    orders = {"create_date": lambda one: one.create_date, "update_date": lambda one: one.update_date}
    return paged(call, _latest_first(found, call, orders), key="webhook_events", shape=lambda one: _event(call, one))


def webhook_get(call: Call) -> Answer:
    """Answer webhook/get."""
    return Answer("webhook_event", _event(call, _found(call)))


def skip(call: Call) -> Answer:
    """Answer webhook/skip, which changes state though it is a GET."""
    webhook = _found(call)
    try:
        _hooks(call).skip(webhook.id)
    except WebhookError as e:
        raise ApiError(e.code, str(e)) from e
    return Answer("webhook_event", _event(call, webhook))


def response_list(call: Call) -> Answer:
    """Answer webhook/response/list: the attempts to deliver an event, the latest first."""
    found = _latest_first(_found(call).attempts, call, {"create_date": lambda attempt: attempt.at})
    return paged(call, found, key="webhook_responses", shape=_response)


def resend(call: Call) -> Answer:
    """Answer webhook/response/resend with the last attempt so far: the new one is made after the answer."""
    hooks, webhook = _hooks(call), _found(call)
    if not hooks.settings(call.application.aid).url:
        raise ApiError(NO_ENDPOINT, "There is no webhook endpoint")
    hooks.resend_soon(webhook.id)
    return Answer("webhook_response", _response(webhook.attempts[-1]) if webhook.attempts else {"status": "PENDING"})


def _hooks(call: Call) -> Webhooks:
    return call.sandbox.part(Webhooks)


def _found(call: Call) -> Webhook:
    try:
        return _hooks(call).find(call.params.required("webhook_id"), call.application.aid)
    except WebhookError as e:
        raise ApiError(e.code, str(e)) from e


def _latest_first(items: Iterable[T], call: Call, keys: dict[str, Callable[[T], int]]) -> list[T]:
    """Sort by `order_by`, a create date by default, descending by default; of equals the later one counts as later."""
    by = call.params.choice("order_by", keys, "create_date")
    found = sorted(items, key=keys[by])
    return found if call.params.choice("order_direction", ("asc", "desc"), "desc") == "asc" else found[::-1]


def _event(call: Call, webhook: Webhook) -> dict[str, Any]:
    """Write a `WebhookEvent`."""
    payload, attempts = webhook.payload, webhook.attempts
    kind, event = payload["type"], payload["event"]
    known = call.application.world.person_of(payload["uid"]) if payload.get("uid") else None
    shape = {
        "webhook_id": webhook.id,
        "status": str(webhook.status),
        "status_localized": webhook.status.capitalize(),
        "retried": str(max(0, len(attempts) - 1)),
        "create_date": webhook.create_date,
        "update_date": webhook.update_date,
        "last_webhook_response": _response(attempts[-1]) if attempts else None,
        "user": shapes.user(call, known[1]) if known else None,
        "type": kind,
        "type_localized": _words(kind),
        "event": event,
        "event_localized": _words(event),
        "event_type": event,
        "responses_count": len(attempts),
    }
    return {name: value for name, value in shape.items() if value is not None}


def _response(attempt: Attempt) -> dict[str, Any]:
    """Write a `WebhookResponse`; `status` is the HTTP status, or why there is none."""
    status_text = str(attempt.status or attempt.problem)
    phrase = HTTPStatus(attempt.status).phrase if attempt.status in set(HTTPStatus) else "No answer"
    return {
        "status": status_text,
        "status_localized": phrase,
        "response_headers": attempt.headers,
        "response_body": attempt.body,
        "create_date": attempt.at,
        "request_url": attempt.url,
        "request_data": attempt.data,
    }


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


ENDPOINTS: Final[dict[str, Callable[[Call], Answer]]] = {
    "webhook/settings": settings,
    "webhook/settings/update": settings_update,
    "webhook/status": status,
    "webhook/events": events,
    "webhook/list": webhook_list,
    "webhook/get": webhook_get,
    "webhook/skip": skip,
    "webhook/response/list": response_list,
    "webhook/response/resend": resend,
}
WITHOUT_AID: Final = frozenset(
    {"webhook/settings", "webhook/get", "webhook/skip", "webhook/response/list", "webhook/response/resend"}
)
"""Endpoints whose `aid` is no parameter, or not a required one (SDK)."""

"""Webhooks through the Publisher API, called with Piano's own client."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox.application import DEFAULT_AID
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.piano.events import EVENT_TYPES
from piano_engage_sandbox.piano.webhooks import Webhooks
from piano_engage_sandbox.testing import serving
from pianosdk.exceptions import ApiException
from pianosdk.piano_client import Client
from pianosdk.publisher.models.webhook_response import WebhookResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.server import Server
    from pianosdk.publisher.models.webhook_event import WebhookEvent

DEADLINE = 20.0


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


class Endpoint:
    """Answers with a status, and counts."""

    def __init__(self) -> None:
        self.status = 200
        self.calls = 0
        self.url = ""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            found.calls += 1
            self.send_response(found.status)
            self.end_headers()
            self.wfile.write(b"noted")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


class Piano:
    """A sandbox and the SDK's three classes about webhooks."""

    def __init__(self, server: Server) -> None:
        self.server = server
        app = server.sandbox.piano[DEFAULT_AID]
        client = Client(api_host=server.url, api_token=app.token, private_key=app.private_key)
        self.session = client.config.http_client.session
        self.api = client.publisher_webhook_api
        self.responses = client.publisher_webhook_response_api
        self.settings = client.publisher_webhook_settings_api
        self.hooks = server.sandbox.part(Webhooks)

    def update(self, **settings: Any) -> bool:  # noqa: ANN401 - those of the endpoint
        return bool(self.settings.update_settings(DEFAULT_AID, **settings).data)

    def list(self, **filters: Any) -> list[WebhookEvent]:  # noqa: ANN401 - those of the endpoint
        return list(self.api.list(DEFAULT_AID, **filters).data)

    def tests(self, count: int) -> None:
        for _ in range(count):
            self.server.call(lambda: self.hooks.send_test(DEFAULT_AID))


@contextmanager
def piano(url: str = "") -> Iterator[Piano]:
    slow = {"webhooks.first_pause": 3600, "webhooks.longest_pause": 3600}
    with serving(rows=50, switches=slow) as server:
        found = Piano(server)
        if url:
            found.update(url=url)
        try:
            yield found
        finally:
            found.session.close()


def test_settings_are_read_and_changed(endpoint: Endpoint):
    with piano() as p:
        settings = p.api.get_settings(DEFAULT_AID).data
        assert (settings.url, settings.enabled) == ("", False)
        assert {config.key: config.type for config in settings.configs} == {k: v[0] for k, v in EVENT_TYPES.items()}
        off = json.dumps([{"key": "payment_completed", "enabled": False}])
        assert p.update(url=endpoint.url, enabled=True, configs=off)
        settings = p.api.get_settings(DEFAULT_AID).data
        assert (settings.url, settings.enabled) == (endpoint.url, True)
        assert [config.key for config in settings.configs if not config.enabled] == ["payment_completed"]


@pytest.mark.parametrize("wrong", [
    {"url": "nonsense"}, {"configs": "{"}, {"configs": "[1]"}, {"configs": '[{"key": "moon", "enabled": true}]'},
    {"configs": '[{"key": "new_purchase", "enabled": "yes"}]'},
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, str]):
    with piano() as p:
        with pytest.raises(ApiException) as caught:
            p.update(**wrong)
        assert caught.value.error_code == 400
        assert p.api.get_settings(DEFAULT_AID).data.url == ""


def test_status_tells_how_the_queue_is_doing(endpoint: Endpoint):
    with piano() as p:
        assert p.api.status(DEFAULT_AID).data.status == "disabled"
        p.update(url=endpoint.url)
        assert p.api.status(DEFAULT_AID).data.status == "normal"
        endpoint.status = 500
        p.tests(1)
        until(lambda: p.api.status(DEFAULT_AID).data.status == "failure")
        p.update(enabled=False)
        assert p.api.status(DEFAULT_AID).data.status == "disabled"


def test_the_log_is_listed_and_filtered(endpoint: Endpoint):
    with piano(endpoint.url) as p:
        p.server.call(lambda: p.server.sandbox.now.advance(10 * DAY))
        p.tests(2)
        until(lambda: not p.list(status="PENDING"))
        everything = p.list(limit=1000)
        assert [one.create_date for one in everything] == sorted((one.create_date for one in everything), reverse=True)
        assert p.list(order_direction="asc", limit=1000)[0].webhook_id == everything[-1].webhook_id
        assert all(one.status == "SUCCEEDED" and one.responses_count == 1 for one in everything)
        renewals = p.list(type=["subscription_renewal", "test"])
        assert {one.type for one in renewals} == {"subscription_renewal", "test"}
        assert {one.event for one in p.list(event_type=["test"])} == {"test"}
        someone = next(one for one in everything if one.user)
        assert {one.user.uid for one in p.list(keyword=someone.user.uid)} == {someone.user.uid}
        page = p.api.list(DEFAULT_AID, limit=3, offset=2)
        assert (page.count, page.total) == (3, len(everything))
        assert [one.webhook_id for one in page.data] == [one.webhook_id for one in everything[2:5]]
        one = p.api.get_event(everything[0].webhook_id).data
        assert (one.webhook_id, one.last_webhook_response.status) == (everything[0].webhook_id, "200")
        assert one.last_webhook_response.response_body == "noted"


def test_a_failing_event_is_skipped(endpoint: Endpoint):
    endpoint.status = 503
    with piano(endpoint.url) as p:
        p.tests(2)
        until(lambda: p.list(status="FAILED"))
        endpoint.status = 200
        failed = p.list(status="FAILED")[0]
        assert p.api.skip(failed.webhook_id).data.status == "SKIPPED"
        until(lambda: [one.status for one in p.list()] == ["SUCCEEDED", "SKIPPED"])
        with pytest.raises(ApiException) as caught:
            p.api.skip(failed.webhook_id)
        assert caught.value.error_code == 4006


def test_an_event_is_resent_and_its_responses_are_listed(endpoint: Endpoint):
    endpoint.status = 503
    with piano(endpoint.url) as p:
        p.tests(1)
        until(lambda: p.list(status="FAILED"))
        webhook_id = p.list()[0].webhook_id
        endpoint.status = 200
        assert p.responses.resend(webhook_id).data.status == "503"
        until(lambda: p.list()[0].status == "SUCCEEDED")
        found = p.responses.get_responses(webhook_id).data
        assert all(isinstance(one, WebhookResponse) for one in found)
        assert [(one.status, one.status_localized) for one in found] == [("200", "OK"), ("503", "Service Unavailable")]
        assert endpoint.calls == 2


def test_the_types_of_events_are_listed():
    with piano() as p:
        kinds = p.api.events(DEFAULT_AID).data
        assert {"subscription_updated", "term_changed", "test"} <= set(kinds)
        assert set(kinds) - set(p.api.events(DEFAULT_AID, skip_deprecated_webhooks=True).data) == {"term_changed"}


@pytest.mark.parametrize("call", ["get_event", "skip"])
def test_an_unknown_webhook_is_not_found(call: str):
    with piano() as p:
        with pytest.raises(ApiException) as caught:
            getattr(p.api, call)("WHNOBODY0000")
        assert caught.value.error_code == 404


def test_without_an_endpoint_nothing_is_resent():
    with piano() as p:
        p.tests(1)
        with pytest.raises(ApiException) as caught:
            p.responses.resend(p.list()[0].webhook_id)
        assert caught.value.error_code == 4002

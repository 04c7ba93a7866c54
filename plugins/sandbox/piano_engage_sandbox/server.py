"""The HTTP server: routes of all parts on one port, in a thread of its own or in the foreground."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from aiohttp import web

from piano_engage_sandbox import control, journal, limits, spoils
from piano_engage_sandbox.engage import bucket, ingest, page
from piano_engage_sandbox.journal import PARTS, Part
from piano_engage_sandbox.piano import publisher, reports, webhooks
from piano_engage_sandbox.service import SANDBOX, Options, Sandbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

START_SECONDS = 30.0
T = TypeVar("T")


ROUTES = {
    Part.PUBLISHER: publisher.routes,
    Part.REPORTS: reports.routes,
    Part.ENGAGE: ingest.routes,
    Part.PAGE: page.routes,
    Part.CONTROL: control.routes,
}


def application(sandbox: Sandbox) -> web.Application:
    """Put all parts together: their routes, what stands before them, and what runs beside them."""
    before = [journal.middleware, limits.middleware, spoils.middleware]
    app = web.Application(client_max_size=1 << 30, middlewares=before)
    app[SANDBOX] = sandbox
    parts: dict[object, Part] = {
        route.resource: part for part, routes in ROUTES.items() for route in app.add_routes(routes())
    }
    app[PARTS] = parts
    app.on_shutdown.append(spoils.release)
    app.cleanup_ctx.extend([webhooks.running, bucket.running, reports.running])
    return app


class Server:
    """The sandbox behind a socket, served by a thread until it is closed; a context manager."""

    def __init__(self, options: Options | None = None) -> None:
        """Make the sandbox; it is served from `__enter__` on."""
        self.sandbox = Sandbox(options or Options())
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], Awaitable[None]] | None = None

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return f"http://{self.sandbox.options.host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """Give the lines for `.env`: where both vendors are, and their credentials."""
        sandbox = self.sandbox
        app = next(iter(sandbox.piano.values()))
        return {
            "TAP_PIANO_AID": app.aid,
            "TAP_PIANO_TIMEZONE": app.timezone,
            "TAP_PIANO_API_TOKEN": app.token,
            "TAP_PIANO_API_URL": f"{self.url}/api/v3",
            "TAP_PIANO_REPORTS_URL": f"{self.url}/rest",
            "PIANO_ACTIONS_AID": app.aid,
            "PIANO_ACTIONS_API_TOKEN": app.token,
            "PIANO_ACTIONS_API_URL": f"{self.url}/api/v3",
            "PIANO_ACTIONS_PRIVATE_KEY": app.private_key,
            "TARGET_RECURLY_ENGAGE_TIMEZONE": app.timezone,
            "TARGET_RECURLY_ENGAGE_APP_ID": sandbox.app_id,
            "TARGET_RECURLY_ENGAGE_API_KEY": sandbox.api_key,
            "TARGET_RECURLY_ENGAGE_API_URL": self.url,
            **self._bucket(),
        }

    def _bucket(self) -> dict[str, str]:
        if self.sandbox.options.s3_port is None:
            return {}
        part = self.sandbox.part(bucket.Bucket)
        return {
            "TARGET_RECURLY_ENGAGE_S3_BUCKET": part.name,
            "TARGET_RECURLY_ENGAGE_S3_PREFIX": part.prefix,
            "TARGET_RECURLY_ENGAGE_S3_ENDPOINT_URL": part.endpoint,
            "TARGET_RECURLY_ENGAGE_AWS_ACCESS_KEY_ID": part.access_key,
            "TARGET_RECURLY_ENGAGE_AWS_SECRET_ACCESS_KEY": part.secret_key,
        }

    def call(self, work: Callable[[], T]) -> T:
        """Run something in the server's loop, between two requests, and give what it returns."""
        if self._loop is None or self._loop.is_closed():
            msg = "the sandbox is not serving"
            raise RuntimeError(msg)

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(START_SECONDS)

    def control(self, method: str, path: str, content: object = None) -> Any:  # noqa: ANN401 - JSON
        """Call the control endpoint, as in `control("POST", "clock", {"advance": "3d"})`.

        Returns:
            The JSON it answers.

        Raises:
            ValueError: It refused; the message is its own.
        """
        connection = http.client.HTTPConnection(self.sandbox.options.host, self.port, timeout=START_SECONDS)
        try:
            body = None if content is None else json.dumps(content)
            connection.request(method, f"/_sandbox/{path.lstrip('/')}", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise ValueError(answer["error"])
        return answer

    def __enter__(self) -> Self:
        """Begin to serve; raises OSError when the port is taken."""
        started = threading.Event()
        problem: list[BaseException] = []

        def serve() -> None:
            loop = self._loop = asyncio.new_event_loop()
            try:
                loop.run_until_complete(self._start())
            except BaseException as e:  # noqa: BLE001 - raised again where the server was asked for
                problem.append(e)
                started.set()
                loop.close()
                return
            started.set()
            loop.run_forever()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

        self._thread = threading.Thread(target=serve, name="sandbox", daemon=True)
        self._thread.start()
        started.wait(START_SECONDS)
        if problem:
            raise problem[0]
        return self

    async def _start(self) -> None:
        runner = web.AppRunner(application(self.sandbox), access_log=None, shutdown_timeout=1.0)
        try:
            await runner.setup()
            await web.TCPSite(runner, self.sandbox.options.host, self.sandbox.options.port, backlog=1024).start()
        except BaseException:
            await runner.cleanup()
            raise
        self.port = runner.addresses[0][1]
        self.sandbox.url = self.url
        self._stop = runner.cleanup

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        if self._loop is None or self._stop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._stop_all(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)

    async def _stop_all(self) -> None:
        if self._stop is not None:
            await self._stop()

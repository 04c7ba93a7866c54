"""The application: one POST an action, three GETs for whoever watches over it, and its description as OpenAPI."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from piano_engage_common.stops import Outage, RunStopped
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from piano_actions.service.asked import FORM, JSON, KEY, LONGEST_BODY, MODELS, OtherType, Unreadable, request_of
from piano_actions.service.counter import TooMany
from piano_actions.service.hooks import add_hooks
from piano_actions.store import InFlight, KeyTaken, ReaderBusy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from piano_actions.service.counter import Counter
    from piano_actions.service.gate import Gate
    from piano_actions.service.hooks import Hooks
    from piano_actions.service.metrics import Metrics

READY_SECONDS: Final = 5.0


class Told(BaseModel):
    """What became of an action."""

    action: str
    status: str
    """done, already, pending, refused or unknown."""
    reason: str
    """A word for a program."""
    message: str
    """A sentence that a prompt can show."""
    details: dict[str, Any] | None = None


class Problem(BaseModel):
    """Why a request was not taken, or not done."""

    error: str
    message: str


class Turned(Exception):  # noqa: N818 - what happens to the request
    """A request that is turned away.

    Args:
        status: of HTTP.
        error: a word for a program.
        message: for a person; it shows nothing of the request.
        headers: of the answer.
    """

    def __init__(self, status: int, error: str, message: str, **headers: str) -> None:
        """Remember the answer."""
        super().__init__(message)
        self.status = status
        self.error = error
        self.message = message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


_PROBLEMS: Final[dict[int, str]] = {
    400: "The key or the signature cannot be used.",
    401: "The secret is missing or wrong, or the signature does not fit or is stale.",
    409: "The key stands for another request.",
    413: "The body is too long.",
    415: "The body is neither JSON nor a form.",
    422: "A member is missing or cannot be used.",
    429: "Too many actions; come again after Retry-After.",
    502: "Piano or Engage refuses us; somebody has to look at the settings.",
    503: "Piano, Engage or the store is down, or the reader is busy. Come again with the same key.",
}
_STORE: Final = "The store does not answer. Come again with the same key: nothing is done twice."


def make_app(
    counter: Counter, gate: Gate, metrics: Metrics, *, hooks: Hooks | None = None, close: Callable[[], None]
) -> FastAPI:
    """Make the application.

    Args:
        counter: takes the requests.
        gate: says who may ask.
        metrics: counts.
        hooks: takes webhooks; None where there is no key for them.
        close: called at the end.
    """

    @asynccontextmanager
    async def lives(_app: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(counter.tidy())
        yield
        tidying.cancel()
        with suppress(asyncio.CancelledError):
            await tidying
        if hooks:
            await hooks.close()
        await counter.close()
        close()

    app = FastAPI(title="piano-actions", version="0.1.0", lifespan=lives, docs_url=None, redoc_url=None)

    _add_problems(app, metrics)
    for action in MODELS:
        app.add_api_route(
            f"/actions/{action}",
            _endpoint(action, counter, gate),
            methods=["POST"],
            operation_id=action,
            summary=(MODELS[action].__doc__ or "").strip().splitlines()[0],
            response_model=Told,
            response_model_exclude_none=True,
            responses={status: {"model": Problem, "description": said} for status, said in _PROBLEMS.items()},
            openapi_extra=_described(action),
        )

    _add_watching(app, counter, gate, metrics, hooks)
    if hooks:
        add_hooks(app, hooks)
    _with_security(app)
    return app


def _add_problems(app: FastAPI, metrics: Metrics) -> None:
    """Have what goes wrong answered in one form."""

    @app.exception_handler(Turned)
    async def turned(_request: Request, why: Turned) -> JSONResponse:
        metrics.refuse(why.error)
        body = Problem(error=why.error, message=why.message).model_dump()
        return JSONResponse(body, why.status, headers=why.headers)

    @app.exception_handler(SQLAlchemyError)
    async def not_noted(_request: Request, _why: SQLAlchemyError) -> JSONResponse:
        metrics.refuse("store")
        return JSONResponse(Problem(error="store", message=_STORE).model_dump(), 503, headers={"Retry-After": "10"})


_SECURED: Final[dict[str, Any]] = {"security": [{"secret": []}]}


def _add_watching(app: FastAPI, counter: Counter, gate: Gate, metrics: Metrics, hooks: Hooks | None) -> None:
    """Add what monitors ask for."""

    @app.get("/healthz", operation_id="healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """Say that the process runs."""
        return "ok\n"

    @app.get(
        "/readyz", operation_id="readyz", response_class=PlainTextResponse,
        responses={503: {"model": Problem, "description": "The store does not answer."}},
    )  # fmt: skip
    async def readyz() -> str:
        """Say that requests can be taken: the store answers."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(READY_SECONDS):
                await loop.run_in_executor(None, counter.desk.store.answers)
        except (SQLAlchemyError, TimeoutError):
            raise Turned(503, "store", "The store does not answer.") from None
        return "ready\n"

    @app.get(
        "/metrics", operation_id="metrics", response_class=PlainTextResponse,
        responses={401: {"model": Problem, "description": _PROBLEMS[401]}}, openapi_extra=_SECURED,
    )  # fmt: skip
    async def metrics_(request: Request) -> str:
        """Give counters in the text form of Prometheus."""
        _let_in(gate, request)
        loop = asyncio.get_running_loop()
        waiting = await loop.run_in_executor(None, counter.desk.store.pushes)
        inbox = await loop.run_in_executor(None, hooks.inbox.counts) if hooks else {}
        return metrics.text({"in_flight": counter.in_flight, "pushes_pending": len(waiting), **inbox})


def _with_security(app: FastAPI) -> None:
    plain = app.openapi

    def described() -> dict[str, Any]:
        schema = plain()
        parts = schema.setdefault("components", {})
        parts["securitySchemes"] = {"secret": {"type": "http", "scheme": "bearer"}}
        parts.setdefault("schemas", {}).update({model.__name__: model.model_json_schema() for model in MODELS.values()})
        return schema

    app.openapi = described  # type: ignore[method-assign]


def _described(action: str) -> dict[str, Any]:
    """Describe the body, which is read by hand, and the key."""
    schema = {"$ref": f"#/components/schemas/{MODELS[action].__name__}"}
    return {
        "requestBody": {"required": True, "content": {JSON: {"schema": schema}, FORM: {"schema": schema}}},
        "parameters": [
            {"name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string", "pattern": KEY}}
        ],
        **_SECURED,
    }


def _let_in(gate: Gate, request: Request) -> None:
    if not gate.lets_in(request.headers):
        raise Turned(401, "unauthorized", _PROBLEMS[401], WWW_Authenticate="Bearer")


async def _body(request: Request) -> bytes:
    """Read the body, and no more of it than may be."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY:
            raise Turned(413, "too_long", _PROBLEMS[413], Connection="close")
    return bytes(body)


def _endpoint(action: str, counter: Counter, gate: Gate) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        _let_in(gate, request)
        body = await _body(request)
        if not gate.is_signed(request.headers, body):
            raise Turned(401, "unauthorized", _PROBLEMS[401], WWW_Authenticate="Bearer")
        key = request.headers.get("idempotency-key")
        if key is not None and not (1 <= len(key) <= 128 and key.isascii() and key.isprintable() and " " not in key):  # noqa: PLR2004 - as KEY says
            raise Turned(400, "key", "Idempotency-Key: 1 to 128 visible ASCII characters, please.")
        try:
            wanted = request_of(action, request.headers.get("content-type", ""), body, key)
        except OtherType:
            raise Turned(415, "type", _PROBLEMS[415]) from None
        except Unreadable as e:
            raise Turned(422, "body", str(e)) from None
        return JSONResponse((await _answered(counter, wanted)).as_dict())

    return endpoint


async def _answered(counter: Counter, wanted: Any) -> Any:  # noqa: ANN401 - Request and Outcome of ours
    try:
        return await counter.run(wanted)
    except KeyTaken:
        raise Turned(409, "key_taken", _PROBLEMS[409]) from None
    except TooMany as e:
        raise Turned(429, "too_many", _PROBLEMS[429], Retry_After=str(int(e.seconds) + 1)) from None
    except (InFlight, ReaderBusy):
        raise Turned(503, "busy", _PROBLEMS[503], Retry_After="2") from None
    except Outage:
        raise Turned(503, "outage", _PROBLEMS[503], Retry_After="10") from None
    except RunStopped as e:
        raise Turned(HTTPStatus.BAD_GATEWAY, type(e).__name__, _PROBLEMS[502]) from None

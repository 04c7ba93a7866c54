"""The application: one POST an action, three GETs for whoever watches over it, and its description as OpenAPI."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from piano_engage_common.stops import Outage, RunStopped
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError

from piano_actions import pool
from piano_actions.checkout import linked
from piano_actions.outcome import Status
from piano_actions.service.asked import FORM, JSON, KEY, LONGEST_BODY, MODELS, OtherType, Unreadable, request_of
from piano_actions.service.bodies import body_of
from piano_actions.service.counter import TooMany
from piano_actions.service.hooks import PATH, add_hooks, described
from piano_actions.service.problems import PROBLEMS, Problem, Turned, add_problems, problems
from piano_actions.store import InFlight, KeyTaken, ReaderBusy
from piano_actions.words import SENTENCES, Wording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from piano_actions.service.counter import Counter
    from piano_actions.service.gate import Gate
    from piano_actions.service.hooks import Hooks
    from piano_actions.service.metrics import Metrics

READY_SECONDS: Final = 5.0


class Told(BaseModel):
    """What became of an action."""

    action: str = Field(json_schema_extra={"enum": list(MODELS)})
    status: str = Field(json_schema_extra={"enum": [str(one) for one in Status if one is not Status.WOULD]})
    reason: str = Field(json_schema_extra={"enum": list(SENTENCES)})
    """A word for a program."""
    message: str
    """A sentence that a prompt can show."""
    details: dict[str, Any] | None = None


def make_app(
    counter: Counter,
    gate: Gate,
    metrics: Metrics,
    *,
    hooks: Hooks | None = None,
    checkout_url: str | None = None,
    wording: Wording | None = None,
    close: Callable[[], None],
) -> FastAPI:
    """Make the application.

    Args:
        counter: takes the requests.
        gate: says who may ask.
        metrics: counts.
        hooks: takes webhooks; None where there is no key for them.
        checkout_url: template of the link that goes with a promo code.
        wording: puts outcomes into words for users.
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

    app = FastAPI(
        title="piano-actions", version="0.1.0", lifespan=lives, docs_url=None, redoc_url=None, redirect_slashes=False
    )  # fmt: skip
    add_problems(app, metrics)
    for action in MODELS:
        app.add_api_route(
            f"/actions/{action}",
            _endpoint(action, counter, gate, checkout_url, wording or Wording()),
            methods=["POST"],
            operation_id=action,
            summary=(MODELS[action].__doc__ or "").strip().splitlines()[0],
            response_model=Told,
            response_model_exclude_none=True,
            responses=problems(*PROBLEMS),
            openapi_extra=_described(action),
        )

    _add_watching(app, counter, gate, metrics, hooks)
    if hooks:
        add_hooks(app, hooks)
    _describe(app, with_hooks=hooks is not None)
    return app


_SECURED: Final[dict[str, Any]] = {"security": [{"secret": []}]}


def _add_watching(app: FastAPI, counter: Counter, gate: Gate, metrics: Metrics, hooks: Hooks | None) -> None:
    """Add what monitors ask for."""

    @app.get("/healthz", operation_id="healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """Say that the process runs."""
        return "ok\n"

    @app.get("/readyz", operation_id="readyz", response_class=PlainTextResponse, responses=problems(503))
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
        responses=problems(401, 503), openapi_extra=_SECURED,
    )  # fmt: skip
    async def metrics_(request: Request) -> str:
        """Give counters in the text form of Prometheus."""
        _let_in(gate, request)
        loop = asyncio.get_running_loop()
        waiting = await loop.run_in_executor(None, counter.desk.store.pushes)
        inbox = await loop.run_in_executor(None, hooks.inbox.counts) if hooks else {}
        return metrics.text({"in_flight": counter.in_flight, "pushes_pending": len(waiting), **inbox})


def _describe(app: FastAPI, *, with_hooks: bool) -> None:
    """Add to the description what FastAPI cannot know: the secret, bodies that are read by hand, and webhooks."""
    plain = app.openapi

    def whole() -> dict[str, Any]:
        schema = plain()
        parts = schema.setdefault("components", {})
        parts["securitySchemes"] = {"secret": {"type": "http", "scheme": "bearer"}}
        models: tuple[type[BaseModel], ...] = (Problem, *MODELS.values())
        parts.setdefault("schemas", {}).update({model.__name__: model.model_json_schema() for model in models})
        if with_hooks:
            schema["paths"][PATH] = described()
        return schema

    app.openapi = whole  # type: ignore[method-assign]


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
        raise Turned(401, "unauthorized", PROBLEMS[401], WWW_Authenticate="Bearer")


def _endpoint(
    action: str, counter: Counter, gate: Gate, checkout_url: str | None, wording: Wording
) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        _let_in(gate, request)
        body = await body_of(request, longest=LONGEST_BODY)
        if body is None:
            raise Turned(413, "too_long", PROBLEMS[413], Connection="close")
        if not gate.is_signed(request.headers, body):
            raise Turned(401, "unauthorized", PROBLEMS[401], WWW_Authenticate="Bearer")
        key = request.headers.get("idempotency-key")
        if key is not None and not (1 <= len(key) <= 128 and key.isascii() and key.isprintable() and " " not in key):  # noqa: PLR2004 - as KEY says
            raise Turned(400, "key", "Idempotency-Key: 1 to 128 visible ASCII characters, please.")
        try:
            wanted = request_of(action, request.headers.get("content-type", ""), body, key)
        except OtherType:
            raise Turned(415, "type", PROBLEMS[415]) from None
        except Unreadable as e:
            raise Turned(422, "body", str(e)) from None
        found = wording.say(await _answered(counter, wanted), wanted.language)
        if action == pool.ACTION:
            given = {name: wanted.params.get(name) for name in ("offer_id", "term_id")}
            found = linked(found, checkout_url, user_id=wanted.user_id, **given)
        return JSONResponse(found.as_dict())

    return endpoint


async def _answered(counter: Counter, wanted: Any) -> Any:  # noqa: ANN401 - Request and Outcome of ours
    try:
        return await counter.run(wanted)
    except KeyTaken:
        raise Turned(409, "key_taken", PROBLEMS[409]) from None
    except TooMany as e:
        raise Turned(429, "too_many", PROBLEMS[429], Retry_After=str(int(e.seconds) + 1)) from None
    except (InFlight, ReaderBusy):
        raise Turned(503, "busy", PROBLEMS[503], Retry_After="2") from None
    except Outage:
        raise Turned(503, "outage", PROBLEMS[503], Retry_After="10") from None
    except RunStopped as e:
        raise Turned(HTTPStatus.BAD_GATEWAY, type(e).__name__, PROBLEMS[502]) from None

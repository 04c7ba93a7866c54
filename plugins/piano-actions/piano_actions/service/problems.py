"""What is answered where a request is not taken, or not done: always the same small object."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request  # noqa: TC002 - FastAPI looks at the types of what it calls
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from piano_actions.service.asked import JSON

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piano_actions.service.metrics import Metrics


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


PROBLEMS: Final[dict[int, str]] = {
    400: "The key cannot be used, or the request is no HTTP.",
    401: "The secret is missing or wrong, or the signature does not fit or is stale.",
    408: "The body did not come.",
    409: "The key stands for another request.",
    413: "The body is too long.",
    415: "The body is neither JSON nor a form.",
    422: "A member is missing or cannot be used.",
    429: "Too many actions; come again after Retry-After.",
    500: "A fault of ours; it was noted.",
    502: "Piano or Engage refuses us, or a setting is missing. The log of the service says which.",
    503: "Piano, Engage or the store is down, or the reader is busy. Come again with the same key.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe answers that say what was wrong; in JSON, whatever the others are."""
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": PROBLEMS[status], "content": content} for status in statuses}


def add_problems(app: FastAPI, metrics: Metrics) -> None:
    """Have all that goes wrong answered alike, be it a path that is not there or a fault of ours."""

    def problem(status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        metrics.refuse(error)
        return JSONResponse(Problem(error=error, message=message).model_dump(), status, headers=headers)

    @app.exception_handler(Turned)
    async def turned(_request: Request, why: Turned) -> JSONResponse:
        return problem(why.status, why.error, why.message, why.headers)

    @app.exception_handler(HTTPException)
    async def unrouted(_request: Request, why: HTTPException) -> JSONResponse:
        status = HTTPStatus(why.status_code)
        return problem(status, status.phrase.lower().replace(" ", "_"), f"{status.phrase}.", why.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _why: ClientDisconnect) -> JSONResponse:
        return problem(400, "gone", "The caller hung up.")  # nobody hears it, but it is counted, and is no fault

    @app.exception_handler(SQLAlchemyError)
    async def unstored(_request: Request, _why: SQLAlchemyError) -> JSONResponse:
        said = "The store does not answer. Come again with the same key: nothing is done twice."
        return problem(503, "store", said, {"Retry-After": "10"})

    @app.exception_handler(Exception)
    async def fault(_request: Request, _why: Exception) -> JSONResponse:
        return problem(500, "fault", PROBLEMS[500])

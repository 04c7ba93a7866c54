"""What an answer of Piano's Publisher API means.

Facts are those of the project's fact sheet of the Piano API, 1.1 to 1.9: HTTP 200 with a `code` for errors, one data
key beside the envelope's own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import AccessRefused, AnswerRefused, Outage
from piano_engage_common.transport import TryAgain

if TYPE_CHECKING:
    from piano_engage_common.transport import Answer

ENVELOPE: Final = frozenset(
    {
        "code", "ts", "limit", "offset", "total", "count",
        "message", "localizedMessage", "validation_errors", "error_code_list",
    }
)  # fmt: skip
"""Keys of an answer that are not its data."""


class Decision(Enum):
    """What to do about an answer."""

    USE = auto()
    RETRY = auto()
    NO_ACCESS = auto()
    UNKNOWN_APPLICATION = auto()
    NOT_FOUND = auto()
    GIVE_UP = auto()


OF_STATUS: Final[dict[int, Decision]] = {
    HTTPStatus.UNAUTHORIZED: Decision.NO_ACCESS,
    HTTPStatus.FORBIDDEN: Decision.NO_ACCESS,
    HTTPStatus.NOT_FOUND: Decision.GIVE_UP,
}
"""By HTTP status; 408, 429 and 5xx never come so far, other statuses from 300 on are given up."""

OF_CODE: Final[dict[int, Decision]] = {
    0: Decision.USE,
    200: Decision.USE,
    1: Decision.RETRY,
    2: Decision.NO_ACCESS,
    402: Decision.UNKNOWN_APPLICATION,
    602: Decision.UNKNOWN_APPLICATION,
    403: Decision.NOT_FOUND,
    404: Decision.NOT_FOUND,
    1001: Decision.NOT_FOUND,
    2004: Decision.NOT_FOUND,
    8005: Decision.NOT_FOUND,
}
"""By the `code` in the body (fact sheet, 1.5); all others are given up. 429 there is "term name empty"."""

CODE_BAD_PARAMETERS: Final = 400


class PianoRefused(AnswerRefused):
    """Piano answered with a code that says no.

    Args:
        message: for a person.
        code: Piano's, from the body; None where there was none.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        """Remember the code."""
        super().__init__(message)
        self.code = code


class NotFound(PianoRefused):
    """What was asked about does not exist, or no more."""


class BadParameters(PianoRefused):
    """Piano takes a parameter for wrong."""


class Unanswered(Outage):
    """A write was sent and not answered as it should: Piano may have done it. Read back before doing it again."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer.

    Attributes:
        data: what stands under the one data key; None when there is no such key.
        ts: Piano's clock in epoch seconds.
        total: all items that match; None outside lists.
    """

    data: Any
    ts: int
    total: int | None = None

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items of a list; an empty object in place of a single one that is none.

        Raises:
            AnswerRefused: the data is no list of objects.
        """
        items = self.data or []
        if isinstance(items, list) and (not items or any(isinstance(item, dict) for item in items)):
            return [item if isinstance(item, dict) else {} for item in items]
        msg = "Piano answered something other than a list of objects where a list was asked for."
        raise AnswerRefused(msg)


def judge(label: str, answer: Answer) -> Page:
    """Decide what an answer of the Publisher API means; *label* names the request.

    Raises:
        TryAgain: Piano had a problem of its own.
        AccessRefused: token, application and region do not belong together, or may not do this.
        NotFound: what was asked about does not exist.
        AnswerRefused: the answer cannot be used.
    """
    body = answer.body or {}
    code = body.get("code", answer.status)
    decision = OF_STATUS.get(answer.status)
    if decision is None and answer.status >= HTTPStatus.MULTIPLE_CHOICES and "code" not in body:
        decision = Decision.GIVE_UP
    if decision is None:
        decision = OF_CODE.get(code, Decision.GIVE_UP) if isinstance(code, int) else Decision.GIVE_UP
    if decision is Decision.USE:
        return _page(label, body)
    what = f"code {code}" if "code" in body else "no code"
    problem = f"{label} was answered with HTTP {answer.status} and {what}"
    if decision is Decision.RETRY:
        msg = f"was answered with {what}, an error inside Piano"
        raise TryAgain(msg)
    if decision is Decision.NO_ACCESS:
        msg = (
            f"{problem}: access denied. Token, application id and region belong together: check api_token, aid and "
            "region; `tap-piano --test` says which of them is wrong."
        )
        raise AccessRefused(msg)
    if decision is Decision.UNKNOWN_APPLICATION:
        msg = f"{problem}: Piano does not know this application. Check aid, and that region is the application's own."
        raise AccessRefused(msg)
    if decision is Decision.NOT_FOUND:
        msg = f"{problem}: there is no such thing."
        raise NotFound(msg, code)
    if code == CODE_BAD_PARAMETERS:
        msg = f"{problem}: a parameter is wrong. Is api_url the base of Piano's Publisher API, version 3?"
        raise BadParameters(msg, code)
    msg = f"{problem}, which cannot be used. Is api_url the base of Piano's Publisher API, version 3?"
    raise PianoRefused(msg, code if "code" in body and isinstance(code, int) else None)


def judge_write(label: str, answer: Answer) -> Page:
    """Decide what an answer to a write means; *label* names the request.

    A write that is not surely done and not surely refused is unanswered: nobody can tell from here which it is.

    Raises:
        Unanswered: the answer does not say.
        AccessRefused: the token may do nothing.
        PianoRefused: Piano says no, with this code. Code 2 is among them: it stands for "not this one" as well.
    """
    body = answer.body or {}
    code = body.get("code")
    if OF_STATUS.get(answer.status) is Decision.NO_ACCESS:
        msg = f"{label} was answered with HTTP {answer.status}: access denied. Check api_token, aid and region."
        raise AccessRefused(msg)
    if not isinstance(code, int) or OF_CODE.get(code) is Decision.RETRY:
        what = f"code {code}" if isinstance(code, int) else "no code"
        msg = f"{label} was answered with HTTP {answer.status} and {what}, so it may be done or not"
        raise Unanswered(msg)
    if OF_CODE.get(code) is Decision.USE:
        try:
            return _page(label, body)
        except AnswerRefused as e:  # done, whatever else it says
            raise Unanswered(str(e)) from e
    msg = f"{label} was refused with code {code}"
    raise PianoRefused(msg, code)


def _page(label: str, body: dict[str, Any]) -> Page:
    keys = body.keys() - ENVELOPE
    if len(keys) > 1:
        msg = f"{label} was answered with several data keys ({', '.join(sorted(keys))}) where one is expected."
        raise AnswerRefused(msg)
    data = body[next(iter(keys))] if keys else None
    total = body.get("total")
    ts = body.get("ts")
    return Page(data, ts if isinstance(ts, int) else int(time.time()), total if isinstance(total, int) else None)

"""What all endpoints of the Publisher API share: parameters, errors, pages and the envelope of an answer.

Facts are those of the reference sheet of Piano, 1.3 to 1.9: HTTP 200 with a `code` for errors, one data key beside
the envelope's own, arrays as repeated keys or separated by commas, booleans in any case, dates as epoch seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from piano_engage_sandbox.application import Application
    from piano_engage_sandbox.service import Sandbox

T = TypeVar("T")

ERRORS: Final = {
    1: "Internal error",
    2: "Access denied",
    302: "The start of the period is after its end",
    400: "Invalid request parameters",
    401: "Invalid user",
    402: "Invalid aid",
    403: "Invalid rid",
    404: "Not found",
    429: "The name of the term is empty",
    434: "Empty request",
    602: "Invalid app id",
    950: "Period not found",
    1000: "The title of the term is used already",
    1001: "Term not found",
    1002: "Invalid term type",
    1004: "Wrong syntax of the billing plan",
    1005: "The term has conversions and cannot be updated",
    1008: "Grace period",
    1009: "The access is held already",
    1010: "Registered already",
    1012: "Change option of the term not found",
    1062: "Upgrade options are not allowed for this term type",
    1069: "The upgrade option is already configured",
    1093: "The feature of dynamic terms is off",
    2000: "The user exists",
    2001: "Invalid uid",
    2002: "Invalid email",
    2004: "User not found",
    3000: "The percentage of the discount is missing",
    3002: "Wrong amount of the fixed discount",
    3003: "Invalid period",
    3004: "Fixed code and prefix are both set",
    3005: "The limit of the promotion is exhausted",
    3012: "Wrong currency of the fixed discount",
    3013: "The currency is not one of the app",
    3015: "The currency is present already",
    4000: "Wrong webhook status",
    4002: "There is no webhook endpoint",
    4004: "Wrong webhook type",
    4006: "The webhook cannot be skipped",
    4007: "Wrong webhook group",
    5003: "Invalid access id",
    5007: "The access belongs to a subscription",
    8001: "The next bill date must be later than today",
    8002: "The subscription could not be cancelled",
    8004: "The refund failed, the subscription was not cancelled",
    8005: "Subscription not found",
    8213: "Shared account not found",
    11001: "The export is not completed",
    11003: "The filter cannot be mapped",
    11004: "The end date must be before today",
    11005: "The export cannot be run again",
    11006: "The date must be yyyy-MM-dd",
    14001: "The refund failed",
    14002: "Wrong amount",
    16001: "The currency is not of ISO 4217",
}
"""Error codes and our words for them (reference sheet of Piano, 1.5)."""
TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}
DEFAULT_LIMIT: Final = 100


class ApiError(Exception):
    """An answer with a `code` other than 0. `fields` names the parameters at fault, for `validation_errors`."""

    def __init__(self, code: int, message: str = "", *, fields: dict[str, str] | None = None) -> None:
        """Take the text of the code when there is no better one."""
        self.code = code
        self.message = message or ERRORS[code]
        self.fields = fields or {}
        super().__init__(f"{code}: {self.message}")


def wrong(name: str, why: str) -> ApiError:
    """Make the error of a parameter: code 400, which is our guess; the sheet only says what 400 means."""
    return ApiError(400, f"{ERRORS[400]}: {name} {why}", fields={name: why})


class Params:
    """The parameters of a call, from query and form alike. An empty text counts as not given."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Collect the values of each name, in their order."""
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            if value:
                self._values.setdefault(name, []).append(value)

    def __contains__(self, name: object) -> bool:
        """Whether a parameter was given."""
        return name in self._values

    def text(self, name: str, default: str = "") -> str:
        """Give a text; the first where there are several."""
        return self._values[name][0] if name in self._values else default

    def required(self, name: str) -> str:
        """Give a text that must be there."""
        if name not in self._values:
            raise wrong(name, "is required")
        return self._values[name][0]

    def integer(self, name: str, default: int = 0, *, least: int | None = None) -> int:
        """Give a whole number, or epoch seconds; ask `name in params` first where absence matters."""
        if name not in self._values:
            return default
        text = self._values[name][0]
        try:
            value = int(text)
        except ValueError as e:
            raise wrong(name, f"is not a whole number: {text!r}") from e
        if least is not None and value < least:
            raise wrong(name, f"is less than {least}: {text!r}")
        return value

    def boolean(self, name: str, default: bool = False) -> bool:  # noqa: FBT001, FBT002 - it is the value asked for
        """Give a truth value, spelled in any case."""
        if name not in self._values:
            return default
        text = self._values[name][0]
        if text.lower() not in TRUTH:
            raise wrong(name, f"is neither true nor false: {text!r}")
        return TRUTH[text.lower()]

    def many(self, name: str, choices: Iterable[str] | None = None) -> tuple[str, ...]:
        """Give a list: repeated keys, texts separated by commas, or both."""
        found = tuple(part for value in self._values.get(name, ()) for part in value.split(",") if part)
        if choices is not None:
            known = tuple(choices)
            for part in found:
                if part not in known:
                    raise wrong(name, f"is not one of {', '.join(known)}: {part!r}")
        return found

    def choice(self, name: str, choices: Iterable[str], default: str = "") -> str:
        """Give one of some words."""
        if name not in self._values:
            return default
        text, known = self._values[name][0], tuple(choices)
        if text not in known:
            raise wrong(name, f"is not one of {', '.join(known)}: {text!r}")
        return text


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an endpoint: by whom (the application its token belongs to) and with what."""

    sandbox: Sandbox
    application: Application
    params: Params

    @property
    def now(self) -> int:
        """The moment of the sandbox's clock, in epoch seconds."""
        return int(self.sandbox.now())


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list an answer holds."""

    limit: int
    offset: int
    total: int
    count: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint answers: one data key and its value, and the page of a list.

    An empty key leaves the data out. `void` calls answer nothing but success, whose code is a switch.
    """

    key: str = ""
    value: Any = None
    page: Page | None = None
    void: bool = field(default=False, kw_only=True)


def paged(
    call: Call,
    items: Sequence[T],
    *,
    key: str,
    shape: Callable[[T], Any],
    default_limit: int = DEFAULT_LIMIT,
) -> Answer:
    """Answer with the part of a list that `limit` and `offset` ask for; only that part is shaped."""
    switches = call.sandbox.switches.publisher
    limit = call.params.integer("limit", default_limit, least=0)
    offset = call.params.integer("offset", 0, least=0)
    most = switches.max_limit
    if most and limit > most:
        if switches.over_limit == "code_400":
            raise wrong("limit", f"is more than {most}: {limit}")
        limit = most
    part = items[offset : offset + limit]
    return Answer(key, [shape(item) for item in part], Page(limit, offset, len(items), len(part)))


def ordered(items: Iterable[T], call: Call, keys: dict[str, Callable[[T], Any]], default: str = "") -> list[T]:
    """Sort by `order_by` and `order_direction`; without either in the order given. Absent values (None) come first."""
    by = call.params.choice("order_by", keys, default)
    down = call.params.choice("order_direction", ("asc", "desc"), "asc") == "desc"
    found = list(items)
    if by:
        key = keys[by]
        found.sort(key=lambda item: _sortable(key(item)), reverse=down)
    elif down:
        found.reverse()
    return found


def _sortable(value: object) -> tuple[bool, Any]:
    return (False, 0) if value is None else (True, value.casefold() if isinstance(value, str) else value)

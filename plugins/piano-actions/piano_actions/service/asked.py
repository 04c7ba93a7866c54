"""What may be asked for over HTTP: one flat model an action, from JSON or a form."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn
from urllib.parse import parse_qsl

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError
from pydantic import WithJsonSchema as Described

from piano_actions import conversions, pool, resubscribe, upgrade
from piano_actions.store import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_BODY: Final = 16_384
"""Bytes; a flat payload of ours has some hundred."""
JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
KEY: Final = r"^[!-~]{1,128}$"

LONGEST_TEXT: Final = 200
LARGEST_NUMBER: Final = 2**53 - 1
"""The largest whole number that every program reads as it was written (RFC 7493)."""
_CONTROLS: Final = r"\x00-\x1f\x7f"


def _text_of(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Write a whole number as a text; other things stay, and are refused."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(int(value)) if number and 0 <= value <= LARGEST_NUMBER and value == int(value) else value


def _described(pattern: str, *others: dict[str, Any]) -> Described:
    text = {"type": "string", "maxLength": LONGEST_TEXT, "pattern": pattern}
    return Described({"anyOf": [text, {"type": "integer", "minimum": 0, "maximum": LARGEST_NUMBER}, *others]})


_Plain = Annotated[
    str,
    StringConstraints(max_length=LONGEST_TEXT, pattern=f"^[^{_CONTROLS}]*$"),
    AfterValidator(str.strip),
    BeforeValidator(_text_of),
]
Text = Annotated[_Plain, _described(rf"^[^{_CONTROLS}]*[^\s{_CONTROLS}][^{_CONTROLS}]*$")]
"""A member that is needed: a text that is not empty, or a number."""
MayBe = Annotated[_Plain | None, _described(f"^[^{_CONTROLS}]*$", {"type": "null"})]
"""One that may be left out; an empty text is the same as none."""


class Asked(BaseModel):
    """What all actions take. Other members are ignored, for Engage may send more than we know."""

    model_config = ConfigDict(extra="ignore")

    user_id: Text
    """The reader: Piano's UID."""
    offer: MayBe = None
    """Names the prompt or offer; with user and action it is the key where no header gives one."""
    language: MayBe = None
    """The user's language, such as ``nl`` or ``nl-BE``: the message is in it where the settings have sentences."""


class Resubscribe(Asked):
    """Have a subscription that is about to end renew by itself again."""

    subscription_id: MayBe = None


class Upgrade(Asked):
    """Change the term of a subscription."""

    to_term: Text
    from_term: MayBe = None
    subscription_id: MayBe = None


class CancelUpgrade(Asked):
    """Withdraw a change of term that waits."""

    subscription_id: MayBe = None


class PromoCode(Asked):
    """Give a reader his code of a promotion."""

    promotion: Text
    term_id: MayBe = None
    offer_id: MayBe = None
    """Piano's offer, for the link to the checkout."""


class Conversion(Asked):
    """Tell Engage of a finished checkout."""

    tracker: MayBe = None


MODELS: Final[dict[str, type[Asked]]] = {
    resubscribe.ACTION: Resubscribe,
    upgrade.ACTION: Upgrade,
    upgrade.CANCEL: CancelUpgrade,
    pool.ACTION: PromoCode,
    conversions.ACTION: Conversion,
}
"""By the name of the action, which is the last part of its path."""


class Unreadable(Exception):  # noqa: N818 - what is wrong with a request
    """The body is not what it must be; the message says why, and never shows it."""


class OtherType(Exception):  # noqa: N818 - as above
    """The body is neither JSON nor a form."""


def request_of(action: str, content_type: str, body: bytes, key: str | None) -> Request:
    """Read a request.

    Args:
        action: what is asked for.
        content_type: as the header says; empty counts as JSON.
        body: as it came.
        key: of the header ``Idempotency-Key``.

    Raises:
        OtherType, Unreadable: it cannot be read.
    """
    given = _flat(content_type, body)
    try:
        asked = MODELS[action].model_validate({name: value for name, value in given.items() if not _absent(value)})
    except ValidationError as e:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in e.errors(include_input=False))
        raise Unreadable(told) from None
    params = asked.model_dump(exclude_none=True)
    user_id, language = params.pop("user_id"), params.pop("language", None)
    made = key or _made(action, user_id, params)
    return Request(action, user_id, params, made, made=not key, language=language)


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _flat(content_type: str, body: bytes) -> Mapping[str, Any]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in {"", JSON, FORM}:
        raise OtherType
    try:
        text = body.decode()
        given = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=50)) if kind == FORM else _json(text)
    except (ValueError, RecursionError):
        msg = "the body is neither JSON nor a form in UTF-8"
        raise Unreadable(msg) from None
    if not isinstance(given, dict):
        msg = "the body is no object"
        raise Unreadable(msg)
    return given


def _json(text: str) -> Any:  # noqa: ANN401 - JSON
    """Read JSON, without the numbers that Python takes and JSON has not."""

    def refuse(_word: str) -> NoReturn:
        raise ValueError

    return json.loads(text, parse_constant=refuse)


def _made(action: str, user_id: str, params: Mapping[str, Any]) -> str:
    """Make a key of user, action and offer; without an offer, of all that is asked for."""
    what = params.get("offer") or json.dumps(dict(params), sort_keys=True)
    digest = hashlib.sha256(json.dumps([action, user_id, what]).encode("utf-8", "surrogatepass"))
    return f"made-{digest.hexdigest()}"

"""What may be asked for over HTTP: one flat model an action, from JSON or a form."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from piano_actions import conversions, pool, resubscribe, upgrade
from piano_actions.store import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_BODY: Final = 16_384
"""Bytes; a flat payload of ours has some hundred."""
JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
KEY: Final = r"^[!-~]{1,128}$"

Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Asked(BaseModel):
    """What all actions take. Other members are ignored, for Engage may send more than we know."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    user_id: Text
    """The reader: Piano's UID."""
    offer: Text | None = None
    """Names the prompt or offer; with user and action it is the key where no header gives one."""


class Resubscribe(Asked):
    """Have a subscription that is about to end renew by itself again."""

    subscription_id: Text | None = None


class Upgrade(Asked):
    """Change the term of a subscription."""

    to_term: Text
    from_term: Text | None = None
    subscription_id: Text | None = None


class CancelUpgrade(Asked):
    """Withdraw a change of term that waits."""

    subscription_id: Text | None = None


class PromoCode(Asked):
    """Give a reader his code of a promotion."""

    promotion: Text
    term_id: Text | None = None


class Conversion(Asked):
    """Tell Engage of a finished checkout."""

    tracker: Text | None = None


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
        asked = MODELS[action].model_validate({name: value for name, value in given.items() if value not in {None, ""}})
    except ValidationError as e:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in e.errors(include_input=False))
        raise Unreadable(told) from None
    params = asked.model_dump(exclude_none=True)
    user_id = params.pop("user_id")
    return Request(action, user_id, params, key or _made(action, user_id, params), made=not key)


def _flat(content_type: str, body: bytes) -> Mapping[str, Any]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in {"", JSON, FORM}:
        raise OtherType
    try:
        text = body.decode()
        given = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=50)) if kind == FORM else json.loads(text)
    except (ValueError, RecursionError):
        msg = "the body is neither JSON nor a form in UTF-8"
        raise Unreadable(msg) from None
    if not isinstance(given, dict):
        msg = "the body is no object"
        raise Unreadable(msg)
    if any(isinstance(value, dict | list) for value in given.values()):
        msg = "the body is not flat: members are texts"
        raise Unreadable(msg)
    return {
        name: value if value is None or isinstance(value, str) else json.dumps(value) for name, value in given.items()
    }


def _made(action: str, user_id: str, params: Mapping[str, Any]) -> str:
    """Make a key of user, action and offer; without an offer, of all that is asked for."""
    what = params.get("offer") or json.dumps(dict(params), sort_keys=True)
    digest = hashlib.sha256(json.dumps([action, user_id, what]).encode("utf-8", "surrogatepass"))
    return f"made-{digest.hexdigest()}"

"""Piano's webhooks: unwrapped, checked, and read for no more than whom they are about (sheet of Piano, 4.2 and 4.3).

A payload has no moment and no number, so nothing can be told of its order, and its values are trusted for nothing: it
says that something about a reader may have changed. Hence a valid event that somebody sends again does no harm.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from piano_engage_common.stops import ConfigRefused

if TYPE_CHECKING:
    from piano_actions.settings import Settings

BLOCK: Final = 16
KEY_LENGTH: Final = 32
FILLER: Final = "X"
SEPARATOR: Final = "~~~"
LONGEST_DATA: Final = 65_536
"""Letters; events of Piano have one or two thousand."""
_ENCODED: Final = re.compile(r"[A-Za-z0-9_-]+")
_WRAPPED: Final = re.compile(r"[A-Za-z0-9_=~-]+")
_WORD: Final = re.compile(r"[^\x00-\x20\x7f]{1,64}")
_UID: Final = re.compile(r"[^\x00-\x1f\x7f]{1,200}")

SUBSCRIPTION_TYPES: Final = frozenset({
    "subscription_created", "subscription_updated", "subscription_renewal", "subscription_ended",
    "subscription_auto_renew_changed", "term_change", "term_changed", "term_change_finished",
    "access_granted", "access_modified", "access_revoked",
    "payment_initiated", "payment_pending", "payment_completed", "payment_failed", "payment_refund",
    "async_payment_initiated", "async_payment_pending", "async_payment_completed", "async_payment_failed",
    "user_payment_method", "shared_subscription_child",
    "shared_access_granted", "shared_access_modified", "shared_access_revoked",
    "contract_redeemed", "contract_user_access_expired", "contract_user_access_revoked",
})  # fmt: skip
"""After which a reader's subscriptions may look otherwise: he is read again."""
OTHER_TYPES: Final = frozenset({
    "test", "user_created", "user_updated", "user_disabled", "user_email_confirmed", "address_updated",
    "user_address_updated", "voucher_purchased", "voucher_delivered", "voucher_redeemed", "voucher_revoked",
    "contract_created", "contract_updated", "contract_deleted", "contract_renewed", "contract_user_created",
    "licensee_created", "licensee_updated", "licensee_invite_to_contract", "content_algorithm", "unknown",
    "unsupported", "gift_access_granted", "gift_access_modified", "gift_access_revoked",
})  # fmt: skip
_SUBSCRIPTION_IDS: Final = ("subscription_id", "new_subscription_id", "previous_subscription_id")


class Poison(Exception):  # noqa: N818 - what is wrong with a webhook
    """A webhook that cannot be used.

    Args:
        reason: a word: too_long, hmac_missing, wrong_hmac, not_decrypted, no_json, fields, other_application.
    """

    def __init__(self, reason: str) -> None:
        """Remember why."""
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Event:
    """What is kept of a webhook.

    Attributes:
        content: the decrypted text, for its digest only.
        type: Piano's class of events.
        event: Piano's finer reason; None where it is left out.
        aid: the application.
        user_id: the reader who has to be read again; None where nobody has.
        subscription_id: as far as the event names one.
        word: why it is ignored; None where it is not.
    """

    content: str
    type: str
    event: str | None
    aid: str
    user_id: str | None
    subscription_id: str | None
    word: str | None


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads webhooks.

    Attributes:
        key: the private key of the application.
        aid: the application; events of others are poison.
        hmac: whether an event must bring an HMAC.
    """

    key: str
    aid: str
    hmac: bool = False

    def read(self, data: str) -> Event:
        """Unwrap an event and look at it.

        Raises:
            Poison: it cannot be used.
        """
        text = unwrap(data, self.key, hmac_needed=self.hmac)
        try:
            payload = json.loads(text)
        except (ValueError, RecursionError):
            raise Poison("no_json") from None
        if not isinstance(payload, dict):
            raise Poison("no_json")
        kind, aid = _given(payload, "type", _WORD), _given(payload, "aid", _WORD)
        if kind is None or aid is None:
            raise Poison("fields")
        if aid != self.aid:
            raise Poison("other_application")
        user_id = _given(payload, "uid", _UID)
        subscription = next(filter(None, (_given(payload, name, _WORD) for name in _SUBSCRIPTION_IDS)), None)
        word = _why_ignored(kind, user_id, subscription)
        return Event(text, kind, _given(payload, "event", _WORD), aid, None if word else user_id, subscription, word)


def reader_of(settings: Settings) -> Reader | None:
    """Make what reads webhooks; None where there is no private key.

    Raises:
        ConfigRefused: the private key cannot be one.
    """
    key = settings.private_key.get_secret_value() if settings.private_key else ""
    if not key.isascii():
        msg = "private_key: is none of Piano, which are made of ASCII characters. Piano shows it beside the aid."
        raise ConfigRefused(msg)
    return Reader(key, settings.aid, settings.webhook_hmac) if key else None


def _why_ignored(kind: str, user_id: str | None, subscription: str | None) -> str | None:
    """Say why nobody has to be read again after an event; None where somebody has.

    Raises:
        Poison: it is about a subscription, but names no reader.
    """
    if kind in OTHER_TYPES:
        return "no_subscription"
    if kind not in SUBSCRIPTION_TYPES:
        return None if user_id and subscription else "unknown_type"
    if user_id is None:
        raise Poison("fields")
    return None


def _given(payload: dict[str, Any], name: str, form: re.Pattern[str]) -> str | None:
    """Give a text; None where there is none.

    Raises:
        Poison: there is something else.
    """
    value = payload.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not form.fullmatch(value) or not value.isprintable():
        raise Poison("fields")
    return value


# The wrapping


def unwrap(data: str, key: str, *, hmac_needed: bool = False) -> str:
    """Decrypt what Piano sends; an HMAC that is there must fit.

    Padding is removed as Piano's Python SDK does it: it adds none to a text that fills its last block.

    Raises:
        Poison: it was not wrapped with this key, or was changed since.
    """
    if len(data) > LONGEST_DATA:
        raise Poison("too_long")
    encoded, *signatures = data.split(SEPARATOR)
    if hmac_needed and not signatures:
        raise Poison("hmac_missing")
    if len(signatures) > 1:
        raise Poison("wrong_hmac")
    if signatures and not hmac.compare_digest(_ascii(signatures[0]), _ascii(signature(encoded, key))):
        raise Poison("wrong_hmac")
    bare = encoded.rstrip("=")
    if not _ENCODED.fullmatch(bare):
        raise Poison("not_decrypted")
    try:
        coder = _cipher(key).decryptor()
        plain = coder.update(urlsafe_b64decode(bare + "=" * (-len(bare) % 4))) + coder.finalize()
        return plain[: -plain[-1] if 1 <= plain[-1] <= BLOCK else None].decode()
    except (ValueError, IndexError):
        raise Poison("not_decrypted") from None


def looks_wrapped(data: str) -> bool:
    """Whether something may be an event as Piano sends it, and so is no plain text."""
    return len(data) <= LONGEST_DATA and _WRAPPED.fullmatch(data) is not None


def wrap(text: str, key: str, *, with_hmac: bool = True) -> str:
    """Wrap a text as Piano does, for trials of an endpoint."""
    content = text.encode()
    missing = BLOCK - len(content) % BLOCK
    coder = _cipher(key).encryptor()
    encoded = _encode(coder.update(content + bytes([missing]) * missing) + coder.finalize())
    return f"{encoded}{SEPARATOR}{signature(encoded, key)}" if with_hmac else encoded


def signature(encoded: str, key: str) -> str:
    """Give the HMAC of an encoded text, made with the full key."""
    return _encode(hmac.new(key.encode(), encoded.encode("utf-8", "surrogatepass"), hashlib.sha256).digest())


def _cipher(key: str) -> Cipher[ECB]:
    return Cipher(AES(key[:KEY_LENGTH].ljust(KEY_LENGTH, FILLER).encode()), ECB())  # noqa: S305 - the vendor's choice


def _encode(content: bytes) -> str:
    return urlsafe_b64encode(content).decode().rstrip("=")


def _ascii(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")

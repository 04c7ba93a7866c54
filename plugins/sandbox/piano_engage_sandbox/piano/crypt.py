"""How Piano wraps webhooks and user references with an application's private key (reference sheet of Piano, 4.2).

AES-256 in ECB mode over UTF-8, URL-safe base64 without `=`, and behind `~~~` an HMAC-SHA256 of the encoded text.
ECB is weak and would be nobody's choice today; it is what the vendor sends.
"""

from __future__ import annotations

import hashlib
import hmac as hmac_code
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, Literal

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

BLOCK: Final = 16
KEY_LENGTH: Final = 32
FILLER: Final = "X"
SEPARATOR: Final = "~~~"

Padding = Literal["block", "none"]
"""What a text gets that fills its last block already: a whole `block` (PHP, OpenSSL) or `none` (Python SDK)."""


class CryptError(ValueError):
    """A key that cannot be used, or a message that was not wrapped with it."""


def encrypt(text: str, key: str, *, hmac: bool = True, padding: Padding = "block") -> str:
    """Wrap a text with a private key; raises CryptError for a key with letters beyond ASCII in its first 32."""
    data = text.encode()
    missing = BLOCK - len(data) % BLOCK
    if padding == "none":
        missing %= BLOCK
    coder = _cipher(key).encryptor()
    encoded = _encode(coder.update(data + bytes([missing]) * missing) + coder.finalize())
    return f"{encoded}{SEPARATOR}{signature(encoded, key)}" if hmac else encoded


def decrypt(text: str, key: str) -> str:
    """Unwrap what `encrypt` gave, as Piano's Python SDK reads it: the HMAC is checked if there is one.

    A text whose last character is a control character below 17 is read wrong if it was wrapped with padding `none`;
    JSON never ends so. Raises CryptError for what was changed on its way or wrapped with another key.
    """
    encoded, *signatures = text.split(SEPARATOR)
    if len(signatures) > 1:
        msg = f"a message has one {SEPARATOR!r} at most, this one has {len(signatures)}"
        raise CryptError(msg)
    if signatures and not hmac_code.compare_digest(signatures[0].encode(), signature(encoded, key).encode()):
        msg = "the HMAC does not fit the message: another key, or the message was changed"
        raise CryptError(msg)
    try:
        coder = _cipher(key).decryptor()
        return _unpadded(coder.update(_decode(encoded)) + coder.finalize()).decode()
    except (ValueError, IndexError) as e:
        msg = "the message cannot be read: another key, or it was changed"
        raise CryptError(msg) from e


def signature(encoded: str, key: str) -> str:
    """Give the HMAC-SHA256 of an encoded text, made with the full key, not the one that was cut."""
    return _encode(hmac_code.new(key.encode(), encoded.encode(), hashlib.sha256).digest())


def _cipher(key: str) -> Cipher[ECB]:
    fitted = key[:KEY_LENGTH].ljust(KEY_LENGTH, FILLER)
    if not fitted.isascii():
        msg = f"a private key is made of ASCII characters; this one is not, among its first {KEY_LENGTH}"
        raise CryptError(msg)
    return Cipher(AES(fitted.encode()), ECB())  # noqa: S305 - the vendor's choice


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _unpadded(data: bytes) -> bytes:
    padding = data[-1]
    return data[:-padding] if 0 < padding <= BLOCK else data

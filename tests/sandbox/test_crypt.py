"""How webhooks are wrapped: both ways against Piano's own SDK, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from piano_engage_sandbox.piano.crypt import SEPARATOR, CryptError, decrypt, encrypt, signature
from pianosdk import utils as sdk

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.piano.crypt import Padding

KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="~"), min_size=1, max_size=70)
ENDINGS = st.characters(min_codepoint=17, exclude_categories=("Cs",))
"""Last characters that nobody takes for padding; those of more bytes end in bytes above 127."""
TEXTS = st.builds(str.__add__, st.text(), ENDINGS)
JSON = st.none() | st.booleans() | st.integers() | st.text()
PADDINGS = st.sampled_from(["block", "none"])
KEY = "0123456789abcdef0123456789abcdef"


@given(text=TEXTS, key=KEYS, hmac=st.booleans(), padding=PADDINGS)
def test_what_is_wrapped_is_unwrapped(text: str, key: str, hmac: bool, padding: Padding):  # noqa: FBT001
    assert decrypt(encrypt(text, key, hmac=hmac, padding=padding), key) == text


@given(text=st.text(), key=KEYS)
def test_with_a_whole_block_of_padding_any_text_survives(text: str, key: str):
    assert decrypt(encrypt(text, key), key) == text


@given(text=TEXTS, key=KEYS, hmac=st.booleans(), padding=PADDINGS)
def test_the_sdk_reads_it(text: str, key: str, hmac: bool, padding: Padding):  # noqa: FBT001
    assert sdk._decrypt(key, encrypt(text, key, hmac=hmac, padding=padding)) == text


@given(text=TEXTS, key=KEYS)
def test_it_reads_what_the_sdk_wraps(text: str, key: str):
    assert decrypt(sdk._encrypt(key, text), key) == text


@given(value=st.dictionaries(st.text(), JSON), key=KEYS)
def test_without_padding_it_is_letter_for_letter_what_the_sdk_writes(value: dict[str, Any], key: str):
    text = json.dumps(value, ensure_ascii=False)
    assert encrypt(text, key, padding="none") == sdk._encrypt(key, text)


@pytest.mark.parametrize(("length", "padding", "blocks"), [
    (0, "block", 1), (15, "block", 1), (16, "block", 2), (17, "block", 2),
    (0, "none", 0), (15, "none", 1), (16, "none", 1), (17, "none", 2),
])  # fmt: skip
def test_padding_of_a_text_that_fills_its_block(length: int, padding: Padding, blocks: int):
    letters = len(encrypt("}" * length, KEY, hmac=False, padding=padding))
    assert letters == -(-blocks * 16 * 8 // 6)


def test_a_known_message():
    # openssl enc -aes-256-ecb -K <KEY with X to 32, in hex> | basenc --base64url, with PHP's padding
    assert encrypt('{"a": 1}', "short", hmac=False) == "cPYV3-sT0ebqUZW6rCLEDw"


def test_a_short_key_is_filled_and_a_long_one_cut_but_the_hmac_is_made_with_the_full_key():
    filled, cut = "short".ljust(32, "X"), "k" * 32
    assert encrypt("{}", "short", hmac=False) == encrypt("{}", filled, hmac=False)
    assert encrypt("{}", cut + "tail", hmac=False) == encrypt("{}", cut, hmac=False)
    assert signature("abc", "short") != signature("abc", filled)
    assert signature("abc", cut + "tail") != signature("abc", cut)


@given(key=KEYS, text=TEXTS)
def test_it_can_stand_in_a_url_as_it_is(key: str, text: str):
    letters = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")
    assert set(encrypt(text, key)) <= letters


@pytest.mark.parametrize("spoil", [
    lambda text: "A" + text[1:] if text[0] != "A" else "B" + text[1:],
    lambda text: text[:-1],
    lambda text: text + SEPARATOR + "more",
    lambda text: text + "x",
    lambda text: SEPARATOR + text.partition(SEPARATOR)[2],
])  # fmt: skip
def test_a_changed_message_is_refused(spoil: Callable[[str], str]):
    with pytest.raises(CryptError):
        decrypt(spoil(encrypt('{"a": 1}', KEY)), KEY)


@pytest.mark.parametrize("text", ["", "abc", "ÿÿÿÿ", SEPARATOR])
def test_what_was_never_wrapped_is_refused(text: str):
    with pytest.raises(CryptError):
        decrypt(text, KEY)


def test_another_key_is_refused():
    with pytest.raises(CryptError, match="HMAC"):
        decrypt(encrypt("{}", KEY), KEY[::-1])
    with pytest.raises(CryptError, match="cannot be read"):
        decrypt(encrypt('{"a": "é"}', KEY, hmac=False), KEY[::-1])


def test_a_key_that_is_not_ascii_is_refused():
    with pytest.raises(CryptError, match="ASCII"):
        encrypt("{}", "clé")

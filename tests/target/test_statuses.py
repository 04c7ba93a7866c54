"""Answers of Engage that no list has: judged by their class, and nothing raises on one."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from piano_engage_common.stops import AnswerRefused
from piano_engage_common.transport import Answer, Patience, Stopping, Transport
from target_recurly_engage.engage import Access, IngestClient, Refusal

CLIENT = IngestClient(
    Transport(patience=Patience(), rate=0, logger=logging.getLogger("tests"), stopping=Stopping()),
    Access(url="http://localhost", app_id="app", api_key="key"),
)


@pytest.mark.parametrize("status", [400, 406, 410, 418, 419, 420, 422, 430, 440, 451, 460, 499])
def test_any_other_4xx_is_the_user_s(status: int) -> None:
    refusal = CLIENT._judge(Answer(status, {}))
    assert refusal is not None
    assert (refusal.status, refusal.unclear) == (status, False)
    assert refusal.reason


@pytest.mark.parametrize("status", [100, 102, 103, 199, 300, 304, 399, 404, 405])
def test_an_answer_of_another_class_is_no_ingest_api(status: int) -> None:
    with pytest.raises(AnswerRefused):
        CLIENT._judge(Answer(status, {}))


BODIES: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "success": ({"success": True}, True, False),
    "success as text": ({"success": "true"}, True, False),
    "nothing": ({}, True, False),
    "success is false": ({"success": False}, False, False),
    "errors": ({"errors": ["a"]}, False, True),
    "errors beside success": ({"success": True, "errors": [{"message": "a"}]}, False, True),
    "success is null": ({"success": None}, False, True),
    "another object": ({"status": "queued?"}, False, True),
}


@pytest.mark.parametrize("status", [200, 202, 204, 299])
@pytest.mark.parametrize(("body", "taken", "unclear"), BODIES.values(), ids=list(BODIES))
def test_which_2xx_acknowledge(body: dict[str, Any], taken: object, unclear: object, status: int) -> None:
    refusal = CLIENT._judge(Answer(status, body))
    assert (refusal is None) is taken
    assert not isinstance(refusal, Refusal) or refusal.unclear is unclear

"""A STATE that claims more than the ledger has taken in is refused; nothing else that a tap may put there matters."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import ConfigRefused

from tests.target.conftest import STREAM

if TYPE_CHECKING:
    from tests.target.conftest import Engage, Message, Run

CREDULOUS = """
from target_recurly_engage import run
run.take_at_its_word = lambda ledger, claim: None
"""
"""A broken double: whatever the state says is believed."""


def state(signature: str | None, after: str | None = None, **more: bool) -> dict[str, Any]:
    claim = None if signature is None else {"signature": signature, "after": after, **more}
    return {"bookmarks": {STREAM: {"replication_key_value": "2026-03-28", "handed_on": claim}}}


def export(engage: Engage, signature: str | None, after: str | None = None, *, readers: int = 3) -> list[Message]:
    """What a tap sends of a complete export."""
    return engage.snapshot(engage.subscriptions(readers), state=state(signature, after))


def unchanged(engage: Engage, signature: str) -> list[Message]:
    """What a tap sends that has handed all of it on before."""
    return engage.messages([], state=state(signature, signature))


def taken(engage: Engage) -> list[str | None]:
    return [signature for (signature,) in engage.query("SELECT signature FROM taken_in ORDER BY number")]


def assert_refused(engage: Engage, run: Run) -> None:
    assert run.code == ConfigRefused.exit_code, run.log
    assert "Run once with --full-refresh" in run.errors
    assert STREAM in run.errors
    assert str(engage.ledger) in run.errors
    assert run.out == ""


def test_what_the_ledger_has_taken_in_is_believed(engage: Engage) -> None:
    engage.run(export(engage, "A"))
    run = engage.run(unchanged(engage, "A"))
    assert (run.code, run.states, len(engage.files)) == (0, [state("A", "A")], 1)
    assert "0 changes" in run.log
    assert engage.run(export(engage, "B", "A", readers=4)).code == 0
    assert engage.run(unchanged(engage, "B")).code == 0
    assert (taken(engage), len(engage.files)) == (["A", "B"], 2)


def test_time_goes_on_over_an_export_that_does_not_come_again(engage: Engage) -> None:
    engage.config["traits"] = ["subscription_id", "days_to_access_end"]
    ends = {"auto_renew": False, "access_expiration_date": "2026-04-01T22:00:00+00:00"}
    engage.run(engage.snapshot([engage.subscription(**ends)], state=state("A")))
    assert engage.sent()["u1"]["days_to_access_end"] == "4"
    assert engage.run(unchanged(engage, "A"), as_of="2026-03-30T06:00:00+00:00").code == 0
    assert engage.sent()["u1"]["days_to_access_end"] == "2"


@pytest.mark.parametrize("messages", ["unchanged", "newer"])
def test_a_ledger_that_was_lost_is_noticed_and_made_good_by_all_rows(messages: str, engage: Engage) -> None:
    engage.run(export(engage, "A"))
    engage.ledger.unlink()
    came = unchanged(engage, "A") if messages == "unchanged" else export(engage, "B", "A", readers=1)
    for _ in range(2):
        assert_refused(engage, engage.run(came))
    assert len(engage.files) == 1
    assert engage.run(export(engage, "A")).code == 0
    assert (len(engage.files), len(engage.sent())) == (2, 3)
    assert engage.run(unchanged(engage, "A")).code == 0


def test_a_ledger_of_yesterday_is_noticed(engage: Engage) -> None:
    engage.run(export(engage, "A"))
    shutil.copy(engage.ledger, engage.folder / "backup")
    engage.run(export(engage, "B", "A", readers=4))
    shutil.copy(engage.folder / "backup", engage.ledger)
    assert_refused(engage, engage.run(unchanged(engage, "B")))
    assert_refused(engage, engage.run(export(engage, "C", "B", readers=1)))
    assert taken(engage) == ["A"]
    assert engage.run(export(engage, "B", readers=4)).code == 0


def test_a_double_that_believes_everything_leaves_readers_untold(engage: Engage) -> None:
    engage.run(export(engage, "A"), CREDULOUS)
    engage.ledger.unlink()
    run = engage.run(unchanged(engage, "A"), CREDULOUS)
    with pytest.raises(AssertionError):
        assert_refused(engage, run)
    assert engage.told_all() == {}


def test_a_state_that_did_not_come_back_costs_a_reading_and_no_refusal(engage: Engage) -> None:
    engage.run(export(engage, "A"))
    for _ in range(2):  # the ledger took it in, and the STATE was lost on its way
        assert engage.run(export(engage, "B", "A", readers=4)).code == 0
    assert engage.run(export(engage, "C", "A", readers=5)).code == 0
    assert taken(engage) == ["A", "B", "C"]


def test_an_export_that_is_put_back_is_not_the_newest(engage: Engage) -> None:
    engage.run(export(engage, "A"))
    engage.run(export(engage, "B", "A", readers=4))
    assert_refused(engage, engage.run(unchanged(engage, "A")))


def test_two_taps_may_read_one_export_in_turn(engage: Engage) -> None:
    """As an hourly job and a nightly one do, each with a state of its own; the end of a signature is the content."""
    for message in (export(engage, "log-A"), export(engage, "night-A")):
        assert engage.run(message).code == 0
    for signature in ("log-A", "night-A", "log-A", "log-A"):
        assert engage.run(unchanged(engage, signature)).code == 0
    assert taken(engage) == ["log-A", "night-A"]
    assert engage.run(export(engage, "log-B", "log-A", readers=4)).code == 0
    assert_refused(engage, engage.run(unchanged(engage, "night-A")))
    assert engage.run(export(engage, "night-B", "night-A", readers=4)).code == 0
    assert engage.run(unchanged(engage, "log-B")).code == 0


@pytest.mark.parametrize("claim", ["other-A", "A", "log-A-B", "log-B"])
def test_a_tap_that_handed_nothing_on_is_not_believed_for_another_one_did(claim: str, engage: Engage) -> None:
    engage.run(export(engage, "log-A"))
    assert_refused(engage, engage.run(unchanged(engage, claim)))
    engage.run(export(engage, None, readers=4))
    assert_refused(engage, engage.run(unchanged(engage, "log-A")))


def test_what_nobody_can_name_is_not_passed_by(engage: Engage) -> None:
    engage.run(export(engage, "A"))
    assert engage.run(export(engage, None, readers=4)).code == 0
    assert_refused(engage, engage.run(unchanged(engage, "A")))


def test_what_piano_makes_between_does_not_bring_an_unchanged_file_into_doubt(engage: Engage) -> None:
    """As where an hourly job reads the API, and a nightly one a file, into one ledger."""
    engage.run(export(engage, "night-A"))
    jobs = [state("log-job:1", all=True), state("log-job:2", "log-job:1"), state("log-job:3", "log-job:2")]
    for one in jobs:
        assert engage.run(engage.messages([engage.subscription()], state=one)).code == 0
        assert engage.run(unchanged(engage, "night-A")).code == 0
    assert taken(engage) == ["night-A", "log-job:1", "log-job:2", "log-job:3"]
    assert_refused(engage, engage.run(unchanged(engage, "night-B")))
    engage.run(export(engage, "night-B", "night-A"))
    assert_refused(engage, engage.run(unchanged(engage, "night-A")))
    engage.ledger.unlink()
    assert_refused(engage, engage.run(engage.messages([], state=state("log-job:4", "log-job:3"))))


@pytest.mark.parametrize(
    ("value", "warned"),
    [
        (state("log-job:1", all=True), False), (state("log-A", all=True), False), (state("log-A", all=False), True),
        (state("log-A"), True), (state(None), True), (None, True),
    ],
)  # fmt: skip
def test_a_new_ledger_is_warned_of_unless_the_tap_says_that_all_was_sent(
    value: object, *, warned: bool, engage: Engage
) -> None:
    run = engage.run(engage.messages(engage.subscriptions(3), state=value))
    assert run.code == 0, run.log
    assert any("the ledger is new" in line for line in run.warnings) is warned


def test_what_was_held_or_tried_was_not_taken_in(engage: Engage) -> None:
    engage.run(export(engage, "A", readers=9))
    assert engage.run(export(engage, "B", "A", readers=1)).code == 80
    assert engage.run(export(engage, "C", "A", readers=9), dry_run=True).code == 0
    assert taken(engage) == ["A"]
    assert engage.run(unchanged(engage, "A")).code == 0


ODD: list[object] = [
    None, 7, [], "text", {}, {"bookmarks": None}, {"bookmarks": [1]}, {"bookmarks": {STREAM: 7}},
    *({"bookmarks": {STREAM: {"handed_on": odd}}} for odd in (7, "A", [], {}, {"signature": 7, "after": "A"})),
    {"bookmarks": {"another": {"handed_on": {"signature": "A", "after": "A"}}}},
    {"handed_on": {"signature": "A", "after": "A"}, "bookmarks": {}},
]  # fmt: skip


def test_states_of_any_other_shape_claim_nothing(engage: Engage) -> None:
    messages = engage.snapshot(engage.subscriptions(1), state=None)
    states = [{"type": "STATE", "value": odd} for odd in ODD]
    for one in (states[-2:], states[4:6], states):  # the last one counts, all must be read
        run = engage.run([*messages, *one])
        assert run.code == 0, run.log
        assert run.states == [one[-1]["value"]]
    assert taken(engage) == []


def test_streams_of_other_taps_may_keep_what_they_like_in_their_state(engage: Engage) -> None:
    users: Message = {
        "type": "SCHEMA", "stream": "crm", "key_properties": ["id"],
        "schema": {"properties": {"id": {"type": "string"}, "vip": {"type": "boolean"}}},
    }  # fmt: skip
    config = {"streams": {"crm": {"role": "users", "user_id": "id", "traits": ["vip"]}}}
    record = {"type": "RECORD", "stream": "crm", "record": {"id": "u1", "vip": True}}
    value = {
        "bookmarks": {"crm": {"page": [1, 2], "handed_on": "yesterday"}, STREAM: {"handed_on": {"signature": "Z"}}}
    }
    run = engage.run([users, record, {"type": "STATE", "value": value}], **config)
    assert (run.code, run.states) == (0, [value]), run.log
    assert taken(engage) == []

"""Settings that cannot be used: one line that names them, exit code 78, and no ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from piano_engage_common.stops import ConfigRefused
from singer_sdk.exceptions import ConfigValidationError
from target_recurly_engage.target import TargetRecurlyEngage

if TYPE_CHECKING:
    from tests.target.conftest import Engage

CONFIG_REFUSED = 78

UNUSABLE = [
    ("timezone", "Mars/Olympus"), ("timezone", "../../etc/passwd"), ("timezone", ""),
    ("as_of", "yesterday"), ("as_of", "2026-02-30"), ("clear_date", "31-12-9999"), ("clear_date", "never"),
    ("clear_number", "x"), ("clear_string", ""), ("clear_string", None), ("delivery", "pigeon"),
    ("brake_min_rows_fraction", 1.5), ("brake_max_clear_fraction", -1), ("memory_limit", "plenty"),
    ("memory_limit", "10"), ("streams", {"subscription_log": {"role": "king"}}), ("streams", {"a": {}}),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "value"), UNUSABLE)
def test_a_setting_that_cannot_be_used_is_refused(setting: str, value: object) -> None:
    with pytest.raises((ConfigRefused, ConfigValidationError)):
        TargetRecurlyEngage(config={setting: value})


@pytest.mark.parametrize(("setting", "value"), UNUSABLE[::5])
def test_the_command_names_it_in_one_line_and_makes_no_ledger(engage: Engage, setting: str, value: object) -> None:
    run = engage.run(engage.messages(engage.subscriptions(1)), **{setting: value})
    assert (run.code, run.out) == (CONFIG_REFUSED, "")
    assert setting in run.errors or str(value) in run.errors
    assert "Traceback" not in run.log
    assert not engage.ledger.exists()


@pytest.mark.parametrize("as_of", ["2026-03-28", "20260328T060000Z"])
def test_a_moment_may_be_written_in_any_way_of_iso_8601(engage: Engage, as_of: str) -> None:
    assert engage.run(engage.messages(engage.subscriptions(1)), as_of=as_of).code == 0

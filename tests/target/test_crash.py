"""kill -9 at any point, then run again: files and ledger end as in an undisturbed run, and nobody is sent twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.target.conftest import PATIENCE, ROUNDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.target.conftest import Engage, Record

KILL = """
import os
from target_recurly_engage import run, sources, target
from target_recurly_engage.delivery import choice, csvs, file
from target_recurly_engage.shared import ledger as opening
"""
DIE = "os.kill(os.getpid(), 9)"

POINTS = {
    "before the ledger appears": f"import pathlib\npathlib.Path.hardlink_to = lambda *a: {DIE}",
    "while migrating": f"""
from contextlib import contextmanager
class Ledger(opening.Ledger):
    @contextmanager
    def transaction(self):
        with super().transaction():
            yield
            {DIE}
opening.Ledger = Ledger
""",
    "before the rows are loaded": f"sources.SubscriptionsIntake._load = lambda *a, **k: {DIE}",
    "after the rows are loaded": f"""
class Intake(sources.SubscriptionsIntake):
    def _load(self, *args, **options):
        super()._load(*args, **options)
        {DIE}
sources.SubscriptionsIntake = Intake
""",
    "in the middle of the merge": f"run.make_plan = lambda *a, **k: {DIE}",
    "before the delivery is noted": f"choice.FileDelivery.deliver = lambda *a: {DIE}",
    "after it is noted": f"choice.FileDelivery._write = lambda *a: {DIE}",
    "after the file is written": f"csvs.sha256_of = lambda path: {DIE}",
    "before it is renamed": f"file.Path.rename = lambda *a: {DIE}",
    "after it is renamed": f"file._sync_folder = lambda path: {DIE}",
    "before it is acknowledged": f"choice.FileDelivery._acknowledge = lambda *a: {DIE}",
    "while it is acknowledged": f"choice.FileDelivery._set_status = lambda *a: {DIE}",
    "after it is acknowledged": f"run.Run.end = lambda *a: {DIE}",
    "before STATE": f"target.TargetRecurlyEngage._write_state_message = lambda *a: {DIE}",
}


def days(engage: Engage) -> tuple[list[Record], list[Record]]:
    first = engage.subscriptions(40, promo_code="P")
    second = [record | {"promo_code": None} if not number % 5 else record for number, record in enumerate(first)]
    return first, [*second[:-1], engage.subscription(99)]


@pytest.fixture(scope="module")
def undisturbed(make_engage: Callable[[], Engage]) -> tuple[Any, Any]:
    other = make_engage()
    for records in days(other):
        assert other.run(other.snapshot(records)).code == 0
    return outcome(other)


@pytest.fixture(scope="module")
def day_1(make_engage: Callable[[], Engage]) -> Path:
    """A ledger and an output folder after the first day; to be copied."""
    engage = make_engage()
    assert engage.run(engage.snapshot(days(engage)[0])).code == 0
    return engage.folder


def after_day_1(engage: Engage, day_1: Path) -> None:
    shutil.copytree(day_1, engage.folder, dirs_exist_ok=True)


def outcome(engage: Engage) -> tuple[Any, Any]:
    told = engage.told()
    told["deliveries"] = [delivery for delivery in told["deliveries"] if "discarded" not in delivery]
    return engage.sent_sets, told


def leftovers(engage: Engage) -> list[Path]:
    return [path for path in engage.folder.rglob("*") if path.suffix in {".part", ".work", ".wal", ".jsonl", ".new"}]


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_was_killed_is_made_good_by_the_next(
    engage: Engage, day_1: Path, undisturbed: tuple[Any, Any], point: str
) -> None:
    first, second = days(engage)
    migrating = point in {"before the ledger appears", "while migrating"}
    if not migrating:
        after_day_1(engage, day_1)
    killed = engage.run(engage.snapshot(first if migrating else second), script=KILL + POINTS[point])
    assert (killed.code, killed.out) == (-signal.SIGKILL, "")
    for records in (first, second) if migrating else (second,):
        again = engage.run(engage.snapshot(records))
        assert (again.code, len(again.states)) == (0, 1)
    assert outcome(engage) == undisturbed
    assert leftovers(engage) == []
    if not migrating:
        assert engage.query("SELECT count(*) FROM runs WHERE status = 'crashed'") == [
            (0 if point == "before STATE" else 1,)
        ]


def test_a_delivery_that_is_acknowledged_too_early_is_found_out(
    engage: Engage, day_1: Path, undisturbed: tuple[Any, Any]
) -> None:
    """The broken double: it says yes before the file is there."""
    double = (
        """
class Early(choice.FileDelivery):
    def _write(self, delivery_id, path, users):
        self._acknowledge(delivery_id)
        """
        + DIE
        + """
choice.FileDelivery = Early
"""
    )
    _, second = days(engage)
    after_day_1(engage, day_1)
    assert engage.run(engage.snapshot(second), script=KILL + double).code == -signal.SIGKILL
    engage.run(engage.snapshot(second))
    with pytest.raises(AssertionError):
        assert outcome(engage) == undisturbed


def test_a_file_that_somebody_changed_after_a_crash_counts_as_not_delivered(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(3)), script=KILL + POINTS["before it is acknowledged"])
    (path,) = engage.files
    path.write_bytes(path.read_bytes()[:-10])
    engage.run(engage.snapshot(engage.subscriptions(3)))
    assert len(engage.files) == 2
    assert len(engage.sent()) == 3


@pytest.mark.slow
def test_kill_at_random_moments(engage: Engage, make_engage: Callable[[], Engage]) -> None:
    """Ten readers change a day; each run is killed at some moment, then run again."""
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)  # noqa: T201 - shown when the test fails
    dice = random.Random(seed)  # noqa: S311 - moments, no secrets
    other = make_engage()
    records = engage.subscriptions(1000, term_id="TM1", term_name="Monthly")
    longest = 0.7
    for day in range(3 * ROUNDS):
        for record in dice.sample(records, 10):
            record["promo_code"] = f"DAY{day}"
        with Path(os.devnull).open("wb") as out:
            process = engage.start(engage.snapshot(records), out)
        time.sleep(dice.uniform(0, longest))
        process.kill()
        process.wait(PATIENCE)
        started = time.monotonic()
        assert engage.run(engage.snapshot(records)).code == 0
        longest = time.monotonic() - started
        assert other.run(other.snapshot(records)).code == 0
        assert outcome(engage) == outcome(other)
        assert leftovers(engage) == []

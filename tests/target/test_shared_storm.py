"""A shared ledger among kills, outages and lost leases at random moments: never torn, never two writers, right at last.

What is right is worked out by an undisturbed target with a local ledger, which gets the last log of all.
"""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.target.conftest import PATIENCE, ROUNDS, Engage
from tests.target.shelf import GOES_AWAY, STANDS_STILL, STOPS_AT, Shelf
from tests.target.test_shared_ledger import Machines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Record

REQUESTS = 14
"""Of a run that has its copy at hand: two of the probe, the pointer, taking it, what lies there, what is sent (put,
look, point to it), renewing, the version (put, look, point to it), and what is removed."""
LOOSE = {
    "brake_max_clear_fraction": 1, "brake_min_rows_fraction": 0, "brake_max_change_fraction": 1,
    "brake_max_identity_fraction": 1,
}  # fmt: skip
MOMENTS = [(number, before, machine) for number in range(1, REQUESTS) for before in (True, False) for machine in "ab"]
SAMPLE = [(8, False, "b"), (12, False, "a")]
"""It is noted what is sent; the new version is pointed to, and nobody here knows."""


@pytest.fixture
def machines(server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machines]:
    shelf = Shelf.of(server, request)
    stored = shelf.gate._stored
    shelf.watch()
    yield Machines(shelf, tmp_path)
    shelf.gate._stored = stored


def undisturbed(make_engage: Callable[[], Engage], records: list[Record]) -> dict[str, Any]:
    engage = make_engage()
    assert engage.run(engage.snapshot(records), report=False).code == 0
    return engage.told_all()


def held_and_told(machines: Machines, records: list[Record]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Engage holds, and the ledger says it was told, of the readers of the last log; all others are cleared."""
    here = {str(record["user_id"]) for record in records}
    held, told = machines.held(), machines.shelf.told()
    assert held == told
    assert {traits["subscription_status"] for user, traits in held.items() if user not in here} <= {"none"}
    return {user: held[user] for user in here}, {user: told[user] for user in here}


@pytest.mark.parametrize(("number", "before", "machine"), MOMENTS if ROUNDS > 1 else SAMPLE)
def test_a_kill_at_each_request_is_made_good_on_whatever_machine(
    number: int,
    before: bool,  # noqa: FBT001 - a parameter of the test
    machine: str,
    machines: Machines,
    make_engage: Callable[[], Engage],
) -> None:
    first = machines.readers(3)
    assert machines.run(first).code == 0
    changed = [record | {"promo_code": "LOST"} for record in first]
    killed = machines.run(changed, script=STOPS_AT.format(number=number, before=before, signal="SIGKILL"))
    assert (killed.code, killed.states) == (-signal.SIGKILL, [])
    machines.shelf.age()
    sent = machines.sent()
    again = machines.run(first, machine)  # all is taken back
    assert (again.code, len(again.states)) == (0, 1), again.log
    assert machines.sent() - sent <= 3
    held, told = held_and_told(machines, first)
    assert held == told == undisturbed(make_engage, first)
    assert machines.shelf.faults() == []
    kept = [machines.shelf.current["current"], *machines.shelf.current["kept"]]
    assert machines.shelf.keys("versions/") == sorted(f"versions/{one['name']}.duckdb" for one in kept)


@pytest.mark.skipif(ROUNDS == 1, reason="goes with the moments, which are a sample only")
def test_the_moments_are_all_that_there_are(machines: Machines) -> None:
    """One more request than is known would be a moment that nobody tried."""
    assert machines.run(machines.readers(1)).code == 0
    for number, code in ((REQUESTS, 0), (REQUESTS - 1, -signal.SIGKILL)):
        done = machines.run(
            machines.readers(1, promo_code=str(number)),
            script=STOPS_AT.format(number=number, before=True, signal="SIGKILL"),
        )
        machines.shelf.age()
        assert done.code == code


LOOKS = 5
"""The request that lists what lies there; what nobody named is removed after it."""


def test_a_run_that_was_overtaken_while_it_looked_for_orphans_removes_nothing_of_the_other(machines: Machines) -> None:
    assert machines.run(machines.readers(3), "a").code == 0
    engage, config = machines.engage, machines.config("a", **LOOSE)
    script = STOPS_AT.format(number=LOOKS, before=True, signal="SIGSTOP")
    with (machines.folder / "overtaken.out").open("wb") as out:
        run = engage.start(engage.snapshot(machines.readers(3, promo_code="A")), out, script=script, **config)
        assert _stood_still(run.pid)
        machines.shelf.age()
        assert machines.run(machines.readers(3, promo_code="B"), "b").code == 0
        run.send_signal(signal.SIGCONT)
        assert run.wait(PATIENCE) == 75
    assert machines.shelf.faults() == []
    kept = [machines.shelf.current["current"], *machines.shelf.current["kept"]]
    assert machines.shelf.keys("versions/") == sorted(f"versions/{one['name']}.duckdb" for one in kept)


# Seeds


class Storm:
    """One seed: logs that change, machines that are killed, lose the bucket, or are taken over from."""

    def __init__(self, machines: Machines, seed: int) -> None:
        self.machines = machines
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.story: list[str] = []

    def log(self) -> list[Record]:
        """A log of some of eight readers, with one of three values each, so that values come back."""
        chosen = [one for one in self.machines.readers(8) if self.chance.random() < 0.8]
        return [one | {"promo_code": self.chance.choice(["A", "B", "C"])} for one in chosen] or chosen

    def step(self) -> None:
        fate = self.chance.choice([self.calm, self.kill, self.outage, self.mute, self.overtaken])
        machine, number = self.chance.choice("ab"), self.chance.randrange(1, REQUESTS + 3)
        self.story.append(f"{fate.__name__} {machine} {number}")
        fate(self.log(), machine, number)
        self.machines.shelf.age()

    def calm(self, records: list[Record], machine: str, number: int) -> None:
        del number
        done = self.machines.run(records, machine, **LOOSE)
        assert (done.code, len(done.states)) == (0, 1), done.log

    def kill(self, records: list[Record], machine: str, number: int) -> None:
        script = STOPS_AT.format(number=number, before=self.chance.random() < 0.5, signal="SIGKILL")
        done = self.machines.run(records, machine, script=script, **LOOSE)
        assert done.code in {0, -signal.SIGKILL}, done.log

    def outage(self, records: list[Record], machine: str, number: int, *, heard: bool = False) -> None:
        """The bucket is gone, for good or for some requests."""
        back = number + self.chance.choice([0, 1, 2, 5]) if self.chance.random() < 0.5 else 0
        script = GOES_AWAY.format(number=number, back=back, heard=heard)
        done = self.machines.run(records, machine, script=script, **LOOSE)
        assert done.code in {0, 75}, done.log
        assert bool(done.states) == (done.code == 0)

    def mute(self, records: list[Record], machine: str, number: int) -> None:
        """The bucket does as it is asked, and its answers do not come."""
        self.outage(records, machine, number, heard=True)

    def overtaken(self, records: list[Record], machine: str, number: int) -> None:
        """A run stands still until its lease is over and another machine has run; then it goes on."""
        engage, other = self.machines.engage, "b" if machine == "a" else "a"
        script = STANDS_STILL.format(number=number, before=self.chance.random() < 0.5)
        path = self.machines.folder / "overtaken.out"
        with path.open("wb") as out:
            config = self.machines.config(machine, **LOOSE)
            run = engage.start(engage.snapshot(records), out, script=script, **config)
            if _stood_still(run.pid):
                self.machines.shelf.age()
                self.calm(self.log(), other, 0)
                sent = self.machines.sent()
                run.send_signal(signal.SIGCONT)
                code = run.wait(PATIENCE)
                assert code in {0, 74, 75}
                if code:
                    assert self.machines.sent() == sent  # it has not sent anything any more
            else:
                code = run.wait(PATIENCE)
        assert bool(path.read_bytes()) == (code == 0)


def _stood_still(pid: int) -> bool:
    """Wait until a process has stopped itself; False where it has ended before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123 - no path of ours
                state = file.read().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state in {"T", "Z", "X"}:
            return state == "T"
        time.sleep(0.01)
    raise AssertionError(pid)


@pytest.mark.parametrize("seed", range(30 if ROUNDS > 1 else 1))
def test_whatever_happens_the_end_is_that_of_an_undisturbed_run(
    seed: int, machines: Machines, make_engage: Callable[[], Engage]
) -> None:
    storm = Storm(machines, seed if ROUNDS > 1 else random.SystemRandom().randrange(10**6))
    for _ in range(8 if ROUNDS > 1 else 4):
        storm.step()
    last = storm.log()
    storm.calm(last, storm.chance.choice("ab"), 0)
    held, told = held_and_told(machines, last)
    assert held == told == undisturbed(make_engage, last), storm.story
    assert machines.shelf.faults() == [], storm.story

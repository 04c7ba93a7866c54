"""Webhooks over real sockets: what a receiver gets, in which order, and what happens while it fails."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from piano_engage_sandbox import actions
from piano_engage_sandbox.application import DEFAULT_AID, Application
from piano_engage_sandbox.clock import DAY, zone
from piano_engage_sandbox.now import Now
from piano_engage_sandbox.piano.event_fields import FIELDS
from piano_engage_sandbox.piano.events import events_of, trial_event
from piano_engage_sandbox.piano.webhook_line import Line, Status, Webhook, WebhookError
from piano_engage_sandbox.piano.webhooks import Webhooks
from piano_engage_sandbox.server import Server
from piano_engage_sandbox.service import App, Options
from piano_engage_sandbox.testing import BEGINS
from pianosdk.piano_client import Client
from pianosdk.utils import _decrypt
from pianosdk.webhook_events import _event_types_mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.piano.webhook_line import Delivery
    from piano_engage_sandbox.states import State
    from piano_engage_sandbox.world import Change, Entry, World

DEADLINE = 20.0
QUICK = {"webhooks.first_pause": 0.01, "webhooks.longest_pause": 0.02}
Fault = str | int
"""What happens to one call: an HTTP status, `hang`, `reset` (before an answer) or `half` (in the middle of one)."""
OK = 200


def until(holds: Callable[[], object], problem: Callable[[], object] = lambda: "it never came true") -> None:
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, problem()
        time.sleep(0.005)


class Receiver:
    """Reads events with Piano's own SDK. `taken` are the payloads it answered with 200, `calls` all that came."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.sdk = Client(private_key=key)
        self.url = ""
        self.taken: list[dict[str, Any]] = []
        self.parsed: list[Any] = []
        self.calls: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self.verbs: list[str] = []
        self.faults: list[Fault] = []
        """What happens to the next calls; after them all is well."""
        self.delay = 0.0
        self.at_once = self.most_at_once = 0
        self.over = threading.Event()
        self._lock = threading.Lock()

    def take(self, verb: str, data: str) -> Fault:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            payload = json.loads(_decrypt(self.key, data))
            self.verbs.append(verb)
            self.texts.append(data)
            self.calls.append(payload)
            fault = self.faults.pop(0) if self.faults else OK
        if self.delay:
            self.over.wait(self.delay)
        with self._lock:
            self.at_once -= 1
            if fault == OK:
                self.parsed.append(self.sdk.parse_webhook_data(data))
                self.taken.append(payload)  # last, for that is what a test waits for
        return fault

    def wait(self, count: int) -> list[dict[str, Any]]:
        until(lambda: len(self.taken) >= count, lambda: f"{len(self.taken)} of {count} events came")
        return self.taken


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(parse_qs(urlsplit(self.path).query)["data"][0])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer(parse_qs(body)["data"][0])

    def _answer(self, data: str) -> None:
        fault = self.receiver.take(self.command, data)
        if fault == "hang":
            self.receiver.over.wait(DEADLINE)
        if isinstance(fault, str):
            if fault == "half":
                self.wfile.write(b"HTTP/1.1 20")
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        self.send_response(fault)
        self.send_header("Location", f"{self.receiver.url}?data={data}")
        body = b"" if fault == 204 else b"ok"
        if body:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        pass  # a sender that has gone away is no news


@contextmanager
def receiving(key: str, port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(key)
    server = _HttpServer(("127.0.0.1", port), type("Handler", (_Handler,), {"receiver": receiver}))
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Sender:
    """A served sandbox whose webhooks go to a receiver; all is done in the server's loop, as its handlers do it."""

    def __init__(self, server: Server, receiver: Receiver) -> None:
        self.server, self.receiver = server, receiver
        self.hooks = server.sandbox.part(Webhooks)
        self.application = server.sandbox.piano[DEFAULT_AID]

    def configure(self, **settings: object) -> dict[str, Any]:
        return self.server.call(lambda: self.hooks.configure(DEFAULT_AID, **cast("Any", settings)))

    def misbehave(self, **counts: int) -> None:
        self.server.call(lambda: self.hooks.misbehave(DEFAULT_AID, **counts))

    def advance(self, days: float) -> None:
        self.server.call(lambda: self.server.sandbox.now.advance(days * DAY))

    def act(self, action: Callable[[World], object]) -> None:
        self.server.call(lambda: action(self.application.world))

    def status(self) -> dict[str, Any]:
        return self.server.call(lambda: self.hooks.status(DEFAULT_AID))

    def log(self) -> list[Webhook]:
        return self.server.call(lambda: self.hooks.log(DEFAULT_AID))

    def tests(self, count: int, *, begin: int = 0) -> list[int]:
        """Queue numbered test events, at once, and give their numbers."""
        numbers = list(range(begin, begin + count))
        line = self.hooks.settings(DEFAULT_AID)

        def add() -> None:
            for number in numbers:
                line.add(trial_event(DEFAULT_AID, number), int(self.server.sandbox.now()))
            self.hooks._wake(DEFAULT_AID, retry=False)

        self.server.call(add)
        return numbers

    def numbers(self) -> list[int]:
        """Give the numbers of the test events that were taken."""
        return [payload["timestamp"] for payload in self.receiver.taken]


@contextmanager
def sending(
    kind: type[Webhooks] = Webhooks,
    *,
    rows: int = 50,
    running: bool = False,
    url: str | None = None,
    **switches: object,
) -> Iterator[Sender]:
    named = {f"webhooks.{name}": value for name, value in switches.items()}
    options = Options(apps=(App(rows=rows),), begins=BEGINS, running=running, switches=QUICK | named)
    server = Server(options)
    server.sandbox._parts[Webhooks] = kind(server.sandbox)
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving(server.sandbox.piano[DEFAULT_AID].private_key))
        stack.enter_context(server)
        sender = Sender(server, receiver)
        sender.configure(url=receiver.url if url is None else url)
        yield sender


def some(world: World, which: Callable[[Entry], bool]) -> Entry:
    return next(entry for entry in world.entries.values() if which(entry))


def renewing(entry: Entry) -> bool:
    state = entry.state
    return state.live and state.auto_renew and state.charge_count > 0 and state.status == "Active"


# What is sent


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Any]]:
    """One event of each type and key that a year and all actions cause, in a world of its own."""
    now = Now(zone("Europe/Amsterdam").parse(BEGINS), running=False)
    application = Application(aid=DEFAULT_AID, name="", now=now, rows=1000)
    world = application.world
    found: dict[tuple[str, str], dict[str, Any]] = {}

    def hear(change: Change) -> None:
        for payload in events_of(change, aid=DEFAULT_AID, world=world):
            found.setdefault((payload["type"], payload["event"]), payload)

    world.listeners.append(hear)
    now.advance(365 * DAY)
    world = application.world
    options = actions.default_options()
    static = some(world, lambda entry: renewing(entry) and entry.fate.term.type == "Payment")
    actions.update(world, static, next_bill_date=int(now()) + 9 * DAY, payment_method="other")
    waits = some(
        world,
        lambda entry: renewing(entry) and (found := actions.option_for(options, entry)) and found.billing_timing == "1",
    )
    option = actions.option_for(options, waits)
    assert option is not None
    actions.change(
        world, waits, option.to_term, options=options, billing_timing="1",
        immediate_access=option.immediate_access, prorate_access=option.prorate_access,
    )  # fmt: skip
    actions.change_cancel(world, waits)
    return [*found.values(), trial_event(DEFAULT_AID, int(now()))]


@pytest.mark.parametrize("hmac", [True, False])
def test_each_event_is_read_by_the_sdk_into_its_class_with_nothing_lost(samples: list[dict[str, Any]], hmac: bool):  # noqa: FBT001
    with sending(hmac=hmac) as sender:
        line = sender.hooks.settings(DEFAULT_AID)
        for payload in samples:
            line.add(payload, 0)
        sender.configure()
        taken = sender.receiver.wait(len(samples))
        assert taken == samples
        assert [type(event) for event in sender.receiver.parsed] == [_event_types_mapping[p["type"]] for p in samples]
        assert [event.model_dump(mode="json") for event in sender.receiver.parsed] == [as_sdk(p) for p in samples]
        assert all(("~~~" in text) is hmac for text in sender.receiver.texts)
    assert {payload["type"] for payload in samples} == set(FIELDS)


def as_sdk(payload: dict[str, Any]) -> dict[str, Any]:
    """Write the moments within shared accounts as the SDK's `datetime` fields come out."""
    shared = payload.get("shared_accounts")
    if not shared:
        return payload
    stamps = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one["redeemed"])) for one in shared]
    return payload | {"shared_accounts": [one | {"redeemed": at} for one, at in zip(shared, stamps, strict=True)]}


@pytest.mark.parametrize(
    ("switches", "verb"), [({}, "GET"), ({"method": "POST"}, "POST"), ({"padding": "none"}, "GET")]
)
def test_the_way_it_is_sent_is_a_switch(switches: dict[str, str], verb: str):
    with sending(**switches) as sender:
        sender.tests(17)
        sender.receiver.wait(17)
        assert set(sender.receiver.verbs) == {verb}


def test_the_query_of_the_endpoint_is_kept():
    with sending() as sender:
        sender.configure(url=f"{sender.receiver.url}?key=a%2Fb&x=1")
        sender.tests(1)
        sender.receiver.wait(1)


def test_the_hmac_can_be_set_for_one_application():
    with sending() as sender:
        assert sender.configure(hmac=False)["hmac"] is False
        sender.tests(1)
        sender.receiver.wait(1)
        assert "~~~" not in sender.receiver.texts[0]


def test_absent_fields_can_be_left_out_which_the_sdk_does_not_survive(samples: list[dict[str, Any]]):
    sample = next(payload for payload in samples if payload["type"] == "access_granted")
    with sending(absent="left_out") as sender:
        sender.receiver.faults = [500]
        sender.hooks.settings(DEFAULT_AID).add(sample, 0)
        sender.configure()
        until(lambda: sender.receiver.calls)
        sent = sender.receiver.calls[0]
        assert sent == {name: value for name, value in sample.items() if value is not None} != sample
        with pytest.raises(ValueError, match="Field required"):
            sender.receiver.sdk.parse_webhook_data(sender.receiver.texts[0])


# Order


def check_order(sender: Sender, faults: list[Fault], count: int = 12) -> None:
    """Fail some calls, and look whether each event arrived exactly once, in order, one at a time."""
    sender.receiver.faults = list(faults)
    sender.receiver.delay = 0.005
    expected = sender.tests(count)
    until(lambda: all(one.status is Status.SUCCEEDED for one in sender.log()), sender.status)
    assert sender.numbers() == expected
    assert sender.receiver.most_at_once == 1
    heard = [call["timestamp"] for call in sender.receiver.calls]
    assert heard == sorted(heard), "an event overtook one that had failed"
    assert len(heard) == count + sum(fault != OK for fault in faults)


@pytest.mark.parametrize("fault", [500, 404, 429, 201, 204, 302, "reset", "half", "hang"])
def test_nothing_but_200_is_a_success_and_the_order_survives(fault: Fault):
    with sending(timeout=1.0 if fault == "hang" else 10) as sender:
        check_order(sender, [OK, OK, fault, fault, OK, fault])
        answers = [attempt.status for one in sender.log() for attempt in one.attempts]
        assert answers.count(fault if isinstance(fault, int) else None) == 3
        problems = {attempt.problem for one in sender.log() for attempt in one.attempts if attempt.status is None}
        assert all(problems)


def test_a_receiver_that_is_not_there_yet_gets_everything_in_order():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = int(one.getsockname()[1])
    with sending(url=f"http://127.0.0.1:{port}/hook") as sender:
        expected = sender.tests(10)
        until(lambda: len(sender.log()[0].attempts) > 2)
        assert sender.status()["status"] == "failure"
        assert all(not one.attempts for one in sender.log()[1:])
        with receiving(sender.application.private_key, port) as late:
            late.wait(10)
            assert [payload["timestamp"] for payload in late.taken] == expected
        assert sender.status()["status"] == "normal"


class DoesNotWait(Webhooks):
    """A broken sender: whatever the receiver says, an event counts as delivered."""

    async def deliver(self, line: Line, delivery: Delivery) -> None:
        await self._attempt(line, delivery.webhook)
        delivery.webhook.status = Status.SUCCEEDED
        line.done(delivery)


class TwoAtOnce(Webhooks):
    """A broken sender: two events are on their way at a time, each tried until it is through."""

    async def send(self, line: Line) -> None:
        self._one_at_a_time[line.aid] = asyncio.Semaphore(2)  # type: ignore[assignment]
        while True:
            pair = [line._queue.popleft() for _ in range(min(2, len(line._queue)))]
            await asyncio.gather(*(self._through(line, webhook) for webhook in pair), asyncio.sleep(0.001))

    async def _through(self, line: Line, webhook: Webhook) -> None:
        while not (await self._attempt(line, webhook)).succeeded:
            pass


class Restless(Webhooks):
    """A broken sender: it sends again what was taken already."""

    async def deliver(self, line: Line, delivery: Delivery) -> None:
        await self._attempt(line, delivery.webhook)
        await super().deliver(line, delivery)


@pytest.mark.parametrize("broken", [DoesNotWait, TwoAtOnce, Restless])
def test_the_check_of_the_order_finds_broken_senders(broken: type[Webhooks]):
    with sending(broken) as sender, pytest.raises(AssertionError):
        check_order(sender, [OK, OK, 500, OK, OK, 500])


def test_a_receiver_may_be_slow_but_not_too_slow():
    with sending(timeout=1.0) as sender:
        sender.receiver.faults = ["hang"]
        sender.tests(1)
        sender.receiver.wait(1)
        until(lambda: len(sender.log()[0].attempts) > 1)  # noted after the receiver has it
        assert [attempt.problem for attempt in sender.log()[0].attempts] == ["no answer within 1 s", ""]


class Patient(Webhooks):
    """Notes the pauses instead of making them."""

    pauses: list[float]

    async def pause(self, again: asyncio.Event, seconds: float) -> bool:  # noqa: ARG002
        self.__dict__.setdefault("pauses", []).append(seconds)
        return False


def test_pauses_double_up_to_the_longest():
    with sending(Patient, first_pause=1, longest_pause=10) as sender:
        sender.receiver.faults = [500] * 6
        sender.tests(1)
        sender.receiver.wait(1)
        assert isinstance(sender.hooks, Patient)
        assert sender.hooks.pauses == [1, 2, 4, 8, 10, 10]


def test_an_event_can_be_given_up_after_some_attempts():
    with sending(attempts=3) as sender:
        sender.receiver.faults = [500] * 3
        sender.tests(3)
        sender.receiver.wait(2)
        assert sender.numbers() == [1, 2]
        until(lambda: sender.log()[-1].attempts)  # noted after the receiver has it
        assert [(one.status, len(one.attempts)) for one in sender.log()] == [
            (Status.FAILED, 3), (Status.SUCCEEDED, 1), (Status.SUCCEEDED, 1),
        ]  # fmt: skip


# Misbehaviour on command


def test_events_can_be_repeated():
    with sending() as sender:
        sender.misbehave(repeat=2)
        sender.tests(4)
        sender.receiver.wait(6)
        assert sender.numbers() == [0, 0, 1, 1, 2, 3]


def test_events_can_be_swapped_in_pairs():
    with sending() as sender:
        sender.misbehave(swap=2)
        sender.tests(5)
        sender.receiver.wait(5)
        assert sender.numbers() == [1, 0, 3, 2, 4]


def test_an_event_to_be_swapped_waits_for_a_second_one():
    with sending() as sender:
        sender.misbehave(swap=1)
        sender.tests(1)
        assert sender.status()["waiting"] == 1
        sender.tests(1, begin=1)
        sender.receiver.wait(2)
        assert sender.numbers() == [1, 0]


def test_events_can_be_lost_though_they_count_as_sent():
    with sending() as sender:
        sender.misbehave(drop=2)
        sender.tests(4)
        sender.receiver.wait(2)
        assert sender.numbers() == [2, 3]
        until(lambda: sender.status()["counts"]["SUCCEEDED"] == 4)
        assert [one.misbehaviour for one in sender.log()] == ["dropped", "dropped", "", ""]


def test_a_swapped_event_that_fails_keeps_its_place():
    with sending() as sender:
        sender.receiver.faults = [500, OK, 500]
        sender.misbehave(swap=1)
        sender.tests(3)
        sender.receiver.wait(3)
        assert [call["timestamp"] for call in sender.receiver.calls] == [1, 1, 0, 0, 2]


# By hand


def test_skipping_the_failing_event_lets_the_others_through():
    with sending(first_pause=3600, longest_pause=3600) as sender:
        sender.receiver.faults = [500]
        sender.tests(3)
        until(lambda: sender.log()[0].attempts)
        first, second, _ = sender.log()
        sender.server.call(lambda: sender.hooks.skip(first.id))
        sender.receiver.wait(2)
        assert sender.numbers() == [1, 2]
        assert first.status is Status.SKIPPED
        until(lambda: second.status is Status.SUCCEEDED)
        with pytest.raises(WebhookError, match="does not wait"):
            sender.server.call(lambda: sender.hooks.skip(second.id))


def test_resending_ends_the_wait_of_a_failing_event():
    with sending(first_pause=3600, longest_pause=3600) as sender:
        sender.receiver.faults = [500]
        sender.tests(2)
        until(lambda: sender.log()[0].attempts)
        first = sender.log()[0]
        sender.server.call(lambda: sender.hooks.resend_soon(first.id))
        sender.receiver.wait(2)
        assert sender.numbers() == [0, 1]
        until(lambda: [one.status for one in sender.log()] == [Status.SUCCEEDED] * 2)


def test_an_event_that_was_taken_can_be_sent_again():
    with sending() as sender:
        sender.tests(2)
        sender.receiver.wait(2)
        sender.server.call(lambda: sender.hooks.resend_soon(sender.hooks.log(DEFAULT_AID)[0].id))
        sender.receiver.wait(3)
        assert sender.numbers() == [0, 1, 0]


def test_another_endpoint_is_tried_at_once():
    with sending(first_pause=3600, longest_pause=3600) as sender:
        sender.configure(url="http://127.0.0.1:9/nobody")
        expected = sender.tests(3)
        until(lambda: sender.log()[0].attempts)
        sender.configure(url=sender.receiver.url)
        sender.receiver.wait(3)
        assert sender.numbers() == expected


def test_a_test_event_can_be_sent():
    with sending() as sender:
        sender.server.call(lambda: sender.hooks.send_test(DEFAULT_AID))
        now = int(sender.server.sandbox.now())
        expected = {"version": 2, "type": "test", "event": "test", "aid": DEFAULT_AID, "timestamp": now}
        assert sender.receiver.wait(1) == [expected]


def test_a_new_event_does_not_shorten_the_pause_after_a_failure():
    with sending(first_pause=3600, longest_pause=3600) as sender:
        sender.receiver.faults = [500]
        sender.tests(1)
        until(lambda: sender.log()[0].attempts)
        sender.tests(1, begin=1)
        sender.server.call(lambda: sender.hooks.send_test(DEFAULT_AID))
        sender.advance(5)
        sender.server.call(sender.hooks.look)
        assert sender.numbers() == []
        assert len(sender.receiver.calls) == 1


@pytest.mark.parametrize("url", ["ftp://example.com", "nonsense", "http://", "/hook"])
def test_an_endpoint_that_is_no_url_is_refused(url: str):
    with sending() as sender, pytest.raises(ValueError, match="http"):
        sender.configure(url=url)


# From the clock and from actions


def test_without_an_endpoint_no_world_is_made_for_it():
    with sending(url="") as sender:
        sender.advance(3)
        assert sender.status()["status"] == "disabled"
        assert not sender.application.world_is_made


def test_only_what_changes_after_an_endpoint_is_set_is_sent():
    with sending(url="") as sender:
        sender.act(lambda world: world)
        sender.advance(30)
        sender.configure(url=sender.receiver.url)
        assert sender.log() == []
        sender.advance(5)
        begins = min(one.create_date for one in sender.log())
        assert begins > sender.server.sandbox.now() - 5 * DAY


def test_ten_days_yield_the_events_that_the_states_before_and_after_say():
    with sending(rows=300) as sender:
        world = sender.server.call(lambda: sender.application.world)
        before = {entry.id: entry.state for entry in world.entries.values()}
        sender.advance(10)
        count = len(sender.log())
        sent = sender.receiver.wait(count)
        assert count > 50
        assert [one.payload for one in sender.log()] == sent
        assert [one.create_date for one in sender.log()] == sorted(one.create_date for one in sender.log())
        for subscription, entry in world.entries.items():
            check_subscription(subscription, before.get(subscription), entry.state, sent)
        assert {p["subscription_id"] for p in sent if "subscription_id" in p} <= before.keys() | world.entries.keys()


def check_subscription(subscription: str, before: State | None, after: State, sent: list[dict[str, Any]]) -> None:
    """Compare what was sent about one subscription with how it looked before and looks after."""
    about = [payload for payload in sent if payload.get("subscription_id") == subscription]
    types = [payload["type"] for payload in about]
    changed = [payload for payload in sent if payload.get("previous_subscription_id") == subscription]
    assert types.count("payment_completed") == after.charge_count - (before.charge_count if before else 0)
    assert types.count("subscription_created") == (before is None and after.fate.upgraded_from is None)
    ended = not after.live and (before is None or before.live)
    upgraded = after.status == "Upgraded"
    assert types.count("subscription_ended") == (ended and not upgraded)
    assert [p["type"] for p in changed].count("term_change") == (ended and upgraded)
    assert types.count("payment_refund") == (after.total_refunded > (before.total_refunded if before else 0))
    if before is after:
        assert not about
    full = [payload for payload in about if "next_bill_date" in payload]
    if full:
        last = full[-1]
        assert (last["next_bill_date"], last["auto_renew"]) == (after.next_billing, after.auto_renew)
        assert (last["is_in_grace"], last["grace_period_start_date"]) == (after.in_grace, after.grace_start)


def test_a_clock_that_runs_sends_by_itself():
    with sending(running=True, rows=200) as sender:
        sender.act(lambda world: sender.server.sandbox.now.set(world._coming[0][0] - 0.3))
        sender.receiver.wait(1)


def test_a_clock_moved_from_another_thread_sends_too():
    with sending(rows=200) as sender:
        sender.server.sandbox.now.advance(5 * DAY)
        sender.receiver.wait(1)


def test_an_action_sends_who_did_it():
    with sending() as sender:
        chosen: list[Entry] = []

        def cancel(world: World) -> None:
            chosen.append(some(world, renewing))
            actions.cancel(world, chosen[0], refund=True)

        sender.act(cancel)
        refund, ended, revoked = sender.receiver.wait(3)
        assert (refund["type"], refund["event"]) == ("payment_refund", "purchase_refund")
        assert refund["amount"] == chosen[0].state.last_amount / 100
        assert (ended["type"], ended["event"], ended["ended_by"]) == (
            "subscription_ended",
            "subscription_canceled",
            "api",
        )
        assert ended["status"] == "cancelled"
        assert (revoked["type"], revoked["event"]) == ("access_revoked", "subscription_canceled")
        assert revoked["access_id"] == ended["access_id"] == refund["access_id"]


def test_switching_auto_renew_sends_its_event_with_a_text():
    with sending() as sender:
        sender.act(
            lambda world: actions.update(
                world, some(world, lambda e: renewing(e) and e.fate.term.type == "Payment"), auto_renew=False
            )
        )
        sender.act(lambda world: actions.cancel_deferred(world, some(world, dynamic)))
        updated, deferred = sender.receiver.wait(2)
        assert (updated["type"], updated["event"]) == ("subscription_updated", "subscription_auto_renew_disabled")
        assert (deferred["event"], deferred["auto_renew"]) == ("subscription_deferred_canceled", False)


def dynamic(entry: Entry) -> bool:
    return renewing(entry) and entry.fate.term.type == "Dynamic"


def test_events_made_while_switched_off_are_kept_but_not_sent():
    with sending() as sender:
        sender.configure(events={"test": False})
        sender.tests(1)
        sender.configure(events={"test": True}, enabled=False)
        sender.tests(1, begin=1)
        assert sender.status()["status"] == "disabled"
        sender.configure(enabled=True)
        sender.tests(1, begin=2)
        sender.receiver.wait(1)
        assert sender.numbers() == [2]
        assert [one.status for one in sender.log()][:2] == [Status.INACTIVE] * 2


def test_the_log_goes_back_30_days():
    with sending() as sender:
        sender.tests(2)
        sender.receiver.wait(2)
        sender.advance(29)
        assert len([one for one in sender.log() if one.payload["type"] == "test"]) == 2
        sender.advance(2)
        assert not [one for one in sender.log() if one.payload["type"] == "test"]


def test_what_still_waits_stays_in_the_log_however_old():
    with sending(first_pause=3600, longest_pause=3600) as sender:
        sender.receiver.faults = [500]
        sender.tests(2)
        until(lambda: sender.log()[0].attempts)
        sender.advance(40)
        assert [one.payload["timestamp"] for one in sender.log()[:2]] == [0, 1]

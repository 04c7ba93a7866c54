"""The files of the Reports API over sockets: content, forms, filters by date, parts of a file, big ones made apart."""

from __future__ import annotations

import csv
import http.client
import io
import json
import os
import signal
import time
import zipfile
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode, urlsplit
from zoneinfo import ZoneInfo

import pytest
from piano_engage_sandbox import actions
from piano_engage_sandbox.columns import GROUPS
from piano_engage_sandbox.data import log_rows, write_log
from piano_engage_sandbox.piano import jobs
from piano_engage_sandbox.piano.downloads import span_of
from piano_engage_sandbox.piano.files import Workshop
from piano_engage_sandbox.piano.jobs import Exports
from piano_engage_sandbox.service import App
from piano_engage_sandbox.testing import BEGINS, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.server import Server
    from piano_engage_sandbox.world import Entry, World

AID = "ExAmPlE4a1"
ROWS = 200
AMSTERDAM = ZoneInfo("Europe/Amsterdam")
DEADLINE = 60.0
Rows = list[dict[str, str]]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Goes through the whole life of an export."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.application = server.sandbox.piano[AID]

    def get(self, target: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request(method, target, headers={k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def ask(self, path: str, **params: object) -> dict[str, Any]:
        query = urlencode({"aid": AID, "api_token": self.application.token, **params}, doseq=True)
        answer = self.get(f"/rest/export/{path}?{query}")
        assert answer.status == 200, answer.body
        content: dict[str, Any] = json.loads(answer.body)
        return content

    def schedule(self, **params: object) -> str:
        return str(self.ask("schedule/vx/subscriptionLog", **params)["export_id"])

    def wait(self, export_id: str, *ends: str) -> list[dict[str, Any]]:
        told = []
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            told.append(self.ask("status", export_id=export_id))
            if told[-1]["job_status"] in (ends or ("FINISHED",)):
                return told
            time.sleep(0.02)
        pytest.fail(f"still {told[-1]}")

    def link(self, **params: object) -> str:
        export_id = self.schedule(**params)
        self.wait(export_id)
        parts = urlsplit(self.ask("download/url", export_id=export_id)["url"])
        return f"{parts.path}?{parts.query}"

    def download(self, **params: object) -> bytes:
        answer = self.get(self.link(**params))
        assert answer.status == 200
        return answer.body

    def rows(self, **params: object) -> Rows:
        return list(csv.DictReader(io.StringIO(self.download(**params).decode(), newline=""), strict=True))

    def set(self, **switches: object) -> None:
        for name, value in switches.items():
            self.server.sandbox.switches.set(f"reports.{name}", value)

    def act(self, work: Callable[[World], Entry]) -> Entry:
        return self.server.call(lambda: work(self.application.world))


@pytest.fixture
def client() -> Iterator[Client]:
    with serving(rows=ROWS, switches={"reports.duplicate_window": 0}) as server:
        yield Client(server)


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    """One server for tests that leave its clock and switches alone."""
    with serving(rows=ROWS, switches={"reports.duplicate_window": 0}) as server:
        yield Client(server)


def written(folder: Path, **options: Any) -> bytes:  # noqa: ANN401 - those of write_log
    given: dict[str, Any] = {"rows": ROWS, "since": BEGINS, "as_of": BEGINS, **options}
    write_log(folder / "log.csv", **given)
    return (folder / "log.csv").read_bytes()


@pytest.mark.parametrize(
    "groups",
    [["MODIFY_TIME"], list(GROUPS), ",".join(GROUPS), ["DEFAULT", "USER,PAYMENT"], "DEFAULT"],
    ids=["one", "repeated", "commas", "both", "default"],
)
def test_attribute_groups_in_both_forms(shared: Client, tmp_path: Path, groups: list[str] | str) -> None:
    wanted = groups.split(",") if isinstance(groups, str) else ",".join(groups).split(",")
    assert shared.download(attribute_groups=groups) == written(tmp_path, groups=tuple(wanted))


def test_without_groups_there_are_the_78_base_columns(shared: Client, tmp_path: Path) -> None:
    data = shared.download()
    assert data == written(tmp_path)
    assert len(data.splitlines()[0].split(b",")) == 78


def test_all_groups_make_99_columns(shared: Client) -> None:
    assert {len(row) for row in shared.rows(attribute_groups=list(GROUPS))} == {99}


def test_the_file_shows_the_moment_its_job_was_scheduled(client: Client, tmp_path: Path) -> None:
    client.set(running_for=86_400, removed_after=10 * 86_400)
    export_id = client.schedule()
    client.server.sandbox.now.advance(86_400)
    client.wait(export_id)
    url = client.ask("download/url", export_id=export_id)["url"]
    assert client.get(url.removeprefix(client.server.url)).body == written(tmp_path)


def test_a_later_export_shows_what_happened_since(client: Client, tmp_path: Path) -> None:
    client.server.sandbox.now.advance(3 * 86_400)
    client.server.call(lambda: client.application.world)
    later = datetime.fromtimestamp(client.server.sandbox.now(), AMSTERDAM).isoformat()
    data = client.download(attribute_groups=list(GROUPS))
    assert data == written(tmp_path, as_of=later, groups=tuple(GROUPS))
    assert data != written(tmp_path, groups=tuple(GROUPS))


def test_zip_by_switch(client: Client, tmp_path: Path) -> None:
    client.set(packed="zip")
    answer = client.get(client.link(file_name="krant é"))
    assert answer.headers["content-type"] == "application/zip"
    assert unquote(answer.headers["content-disposition"]).endswith("''krant é.zip")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.namelist() == ["krant é.csv"]
        assert archive.read("krant é.csv") == written(tmp_path)


def test_byte_order_mark_and_line_ends_by_switch(client: Client, tmp_path: Path) -> None:
    client.set(byte_order_mark=True, crlf=True)
    data = client.download()
    assert data == written(tmp_path, bom=True, crlf=True)
    assert data.startswith(b"\xef\xbb\xbfSubscription ID,")
    assert data.endswith(b"\r\n")


def test_dates_and_name_go_into_the_file_name(shared: Client) -> None:
    assert "/weekly_2024-01-01_2025-01-01.csv?" in shared.link(
        file_name="weekly", start_date_from="2024-01-01", start_date_to="2025-01-01"
    )
    assert "/subscriptionLog_ExAmPlE4a1_2026-03-28.csv?" in shared.link()


def moment(row: dict[str, str]) -> datetime:
    return datetime.strptime(row["Start date"], "%Y-%m-%d %H:%M:%S %z").astimezone(UTC)


def between(rows: Rows, first: str | None, last: str | None) -> Rows:
    """Filter by moments, not by the text of the column: from midnight to midnight where the application is."""

    def midnight(day: date) -> datetime:
        return datetime(day.year, day.month, day.day, tzinfo=AMSTERDAM).astimezone(UTC)

    low = midnight(date.fromisoformat(first)) if first else datetime.min.replace(tzinfo=UTC)
    high = midnight(date.fromisoformat(last) + timedelta(days=1)) if last else datetime.max.replace(tzinfo=UTC)
    return [row for row in rows if low <= moment(row) < high]


@pytest.fixture(scope="module")
def many() -> Iterator[Client]:
    with serving(rows=2000, switches={"reports.duplicate_window": 0}) as server:
        yield Client(server)


@pytest.fixture(scope="module")
def near_midnight() -> dict[str, Any]:
    """The rows of that application, and one of them whose Start date is another day in UTC."""
    rows = list(log_rows(rows=2000, since=BEGINS, as_of=BEGINS))
    row = next(row for row in rows if row["Start date"][:10] != moment(row).date().isoformat())
    return {"rows": rows, "local": row["Start date"][:10], "utc": moment(row).date().isoformat()}


@pytest.mark.parametrize(("first", "last"), [("local", "local"), ("local", None), (None, "utc"), ("utc", "utc")])
def test_date_filters_know_the_day_of_the_application(
    many: Client, near_midnight: dict[str, Any], first: str | None, last: str | None
) -> None:
    rows = near_midnight["rows"]
    given = {
        name: near_midnight[which]
        for name, which in (("start_date_from", first), ("start_date_to", last))
        if which is not None
    }
    expected = between(rows, given.get("start_date_from"), given.get("start_date_to"))
    assert 0 < len(expected) < len(rows)
    assert many.rows(**given) == expected
    in_utc = [
        row
        for row in rows
        if given.get("start_date_from", "") <= moment(row).date().isoformat() <= given.get("start_date_to", "9")
    ]
    assert in_utc != expected, "a filter by days of UTC would not be noticed"


def test_the_day_the_clocks_change_is_a_day_of_23_hours(many: Client, near_midnight: dict[str, Any]) -> None:
    for day in ("2025-03-30", "2025-10-26"):
        expected = between(near_midnight["rows"], day, day)
        assert many.rows(start_date_from=day, start_date_to=day) == expected


def test_no_rows_leave_the_header(shared: Client) -> None:
    data = shared.download(start_date_from="2031-01-01")
    assert data.count(b"\n") == 1
    assert data.startswith(b"Subscription ID,")


def test_what_actions_did_is_in_the_export_and_nothing_else_changed(client: Client) -> None:
    before = {row["Subscription ID"]: row for row in client.rows(attribute_groups=list(GROUPS))}

    def cancel(world: World) -> Entry:
        entry = next(
            e for e in world.entries.values() if e.state.live and e.state.auto_renew and actions.guards(e).cancelable
        )
        actions.cancel(world, entry)
        return entry

    entry = client.act(cancel)
    after = {row["Subscription ID"]: row for row in client.rows(attribute_groups=list(GROUPS))}
    assert before[entry.id]["Subscription status"] == "Active"
    assert after[entry.id]["Subscription status"] == "Cancelled"
    assert {id_: row for id_, row in after.items() if id_ != entry.id} == {
        id_: row for id_, row in before.items() if id_ != entry.id
    }
    client.server.sandbox.now.advance(40 * 86_400)
    shown = {row["Subscription ID"]: row["Subscription status"] for row in client.rows()}
    world = client.server.call(lambda: client.application.world)
    assert shown == {id_: one.state.status for id_, one in world.entries.items()}


def test_a_term_change_by_action_shows_both_subscriptions(client: Client) -> None:
    def change(world: World) -> Entry:
        for entry in list(world.entries.values()):
            option = actions.option_for(client.application.change_options, entry)
            if option is not None and actions.guards(entry).cancelable and entry.state.upgrade_status == "No upgrade":
                actions.change(
                    world, entry, option.to_term, options=[option], billing_timing=option.billing_timing,
                    immediate_access=option.immediate_access, prorate_access=option.prorate_access,
                )  # fmt: skip
                return entry
        pytest.fail("nobody can change")

    old = client.act(change)
    assert old.fate.upgraded_to is not None
    seconds = max(0, old.fate.stop_at - int(client.server.sandbox.now()))
    client.server.sandbox.now.advance(seconds)
    world = client.server.call(lambda: client.application.world)
    new = world.id_of(old.fate.upgraded_to)
    rows = {row["Subscription ID"]: row for row in client.rows(attribute_groups=list(GROUPS))}
    assert set(rows) == set(world.entries)
    assert rows[old.id]["Upgrade to subscription ID"] == new
    assert rows[new]["Upgrade from - subscription ID"] == old.id
    client.server.sandbox.now.advance(400 * 86_400)
    assert {row["Subscription ID"] for row in client.rows()} == client.server.call(
        lambda: set(client.application.world.entries)
    )


def test_a_job_keeps_what_was_when_it_was_scheduled(client: Client) -> None:
    """An action after the request does not show in the file, though it may still be in the making."""

    def cancel(world: World) -> Entry:
        entry = next(e for e in world.entries.values() if actions.guards(e).cancelable)
        actions.cancel(world, entry)
        return entry

    client.act(cancel)
    first = client.schedule()
    second = client.act(cancel)
    client.wait(first)
    url = str(client.ask("download/url", export_id=first)["url"]).removeprefix(client.server.url)
    rows = csv.DictReader(io.StringIO(client.get(url).body.decode(), newline=""))
    (status,) = [row["Subscription status"] for row in rows if row["Subscription ID"] == second.id]
    assert status != "Cancelled"


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-99", slice(0, 100)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-999999999", slice(5, None)),
    ],
)
def test_parts_of_a_file(shared: Client, asked: str, part: slice) -> None:
    link = shared.link()
    whole = shared.get(link)
    assert whole.headers["accept-ranges"] == "bytes"
    answer = shared.get(link, Range=asked)
    assert answer.status == 206
    assert answer.body == whole.body[part]
    start = len(whole.body[: part.start or 0]) if (part.start or 0) >= 0 else len(whole.body) + part.start
    end = start + len(answer.body) - 1
    assert answer.headers["content-range"] == f"bytes {start}-{end}/{len(whole.body)}"
    assert answer.headers["etag"] == whole.headers["etag"]


def test_what_is_no_range_gets_the_whole_file_or_416(shared: Client) -> None:
    link = shared.link()
    size = len(shared.get(link).body)
    for nonsense in ("bytes=", "bytes=-", "lines=1-2", "bytes=9-3", "bytes=0-1,4-5"):
        assert len(shared.get(link, Range=nonsense).body) == size
    beyond = shared.get(link, Range=f"bytes={size}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")


def test_a_part_only_of_the_same_file(shared: Client) -> None:
    link = shared.link()
    whole = shared.get(link)
    for condition, status in (
        (whole.headers["etag"], 206),
        (whole.headers["last-modified"], 206),
        ('"other"', 200),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 200),
    ):
        assert shared.get(link, Range="bytes=5-9", If_Range=condition).status == status


def test_no_ranges_by_switch(client: Client) -> None:
    client.set(ranges=False)
    link = client.link()
    answer = client.get(link, Range="bytes=0-9")
    assert answer.status == 200
    assert "accept-ranges" not in answer.headers


def test_head_says_how_long_it_is(shared: Client) -> None:
    link = shared.link()
    head = shared.get(link, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) == len(shared.get(link).body)


def test_ranges_are_read_as_the_standard_says() -> None:
    assert span_of(None, 10) is None
    for header, start, end in (("bytes=0-0", 0, 1), ("bytes=-20", 0, 10), ("bytes=9-9", 9, 10)):
        span = span_of(header, 10)
        assert span is not None
        assert (span.start, span.end) == (start, end)
    for header in ("bytes=10-", "bytes=-0"):
        with pytest.raises(ValueError, match="nothing at"):
            span_of(header, 10)


def test_a_fault_cuts_a_download_and_a_range_brings_the_rest(client: Client) -> None:
    link = client.link()
    whole = client.get(link).body
    client.server.control("POST", "faults", {"part": "reports", "path": "*/files/*", "truncate": 1000, "times": 1})
    with pytest.raises(http.client.IncompleteRead) as cut:
        client.get(link)
    begun = cut.value.partial
    assert begun == whole[:1000]
    assert begun + client.get(link, Range="bytes=1000-").body == whole


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Every file is made in a process."""
    monkeypatch.setattr(jobs, "BIG", 0)
    with serving(apps=(App(rows=3000),)) as server:
        yield Client(server)


def test_a_process_makes_the_same_file_and_tells_how_far_it_is(apart: Client, tmp_path: Path) -> None:
    export_id = apart.schedule(attribute_groups="USER")
    told = apart.wait(export_id)
    shares = [one["percent_complete"] for one in told]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert all(share < 100 for share in shares[:-1])
    url = str(apart.ask("download/url", export_id=export_id)["url"]).removeprefix(apart.server.url)
    assert apart.get(url).body == written(tmp_path, rows=3000, groups=("USER",))
    assert apart.server.sandbox.part(Exports).status()["child"] is None


def child_of(client: Client) -> int:
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        child = client.server.sandbox.part(Exports).workshop.child
        if child is not None:
            return child
        time.sleep(0.001)
    pytest.fail("no process was started")


def test_a_process_that_dies_makes_an_internal_error(apart: Client) -> None:
    export_id = apart.schedule()
    os.kill(child_of(apart), signal.SIGKILL)
    told = apart.wait(export_id, "FINISHED", "INTERNAL_ERROR")[-1]
    assert told["job_status"] == "INTERNAL_ERROR"
    assert "ended with -9" in told["error_text"] or "broke off" in told["error_text"]
    again = apart.schedule()
    assert again != export_id
    apart.wait(again)


def test_what_a_process_cannot_make_is_said(apart: Client) -> None:
    apart.server.sandbox.now.advance(9 * 366 * 86_400)
    told = apart.wait(apart.schedule(), "INTERNAL_ERROR")[-1]
    assert "as_of must lie between 2019 and 2034" in told["error_text"]


def test_what_a_thread_cannot_make_is_said(client: Client) -> None:
    client.server.sandbox.now.advance(9 * 366 * 86_400)
    told = client.wait(client.schedule(), "INTERNAL_ERROR")[-1]
    assert "as_of must lie between 2019 and 2034" in told["error_text"]


def test_a_server_that_stops_takes_its_process_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BIG", 0)
    with serving(rows=2_000_000) as server:
        client = Client(server)
        export = server.sandbox.part(Exports).jobs[client.schedule()]
        child = child_of(client)
    assert not Path(f"/proc/{child}").exists()
    assert not export.path.parent.parent.exists()


def test_a_removed_job_stops_its_process(apart: Client) -> None:
    exports = apart.server.sandbox.part(Exports)
    exports.script(AID, ["CREATED", "REMOVED"])
    export_id = apart.schedule()
    child = child_of(apart)
    apart.wait(export_id, "REMOVED")
    until = time.monotonic() + DEADLINE
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists()


def test_only_worlds_with_many_rows_are_made_apart() -> None:
    workshop = Workshop()
    assert not workshop.is_big({"rows": 2000})
    assert workshop.is_big({"rows": 20_000})

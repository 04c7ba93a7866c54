"""What a run leaves for monitors: metrics that Prometheus reads, one alert a change of status, and health."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from click.testing import CliRunner
from piano_engage_common.stops import ConfigRefused
from piano_engage_sandbox.testing import serving
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus
from target_recurly_engage.cli import main
from target_recurly_engage.watch import alerts, metrics
from target_recurly_engage.watch.status import FILE, Status

from tests.target.conftest import places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.target.conftest import Engage

NOW = datetime(2026, 3, 28, 6, tzinfo=UTC)
SECRET = "s3cr3t-key-of-the-application"  # noqa: S105 - of nobody


@dataclass
class Receiver:
    """Takes what is posted and put, over real HTTP, and answers with *status*."""

    url: str
    status: int = 200
    got: list[tuple[str, str, bytes]] = field(default_factory=list)
    meanwhile: Callable[[], object] | None = None
    """Happens once, before a message is answered, and has two seconds for it."""

    @property
    def texts(self) -> list[str]:
        """The texts of the messages, in the form that Slack takes."""
        return [json.loads(body)["text"] for _, _, body in self.got]


@contextmanager
def receiving() -> Iterator[Receiver]:
    found = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def take(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append((self.command, self.path, body))
            if found.meanwhile:
                meanwhile, found.meanwhile = found.meanwhile, None
                meanwhile()
                time.sleep(2)
            self.send_response(found.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = take  # noqa: N815 - as http.server calls them

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        found.url = f"http://127.0.0.1:{server.server_port}"
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def values(text: str, parse: Any = read_openmetrics) -> dict[tuple[str, ...], float]:  # noqa: ANN401 - a parser
    """Samples by name and the values of their labels but the application's."""
    return {
        (sample.name.removeprefix("recurly_engage_"), *(v for k, v in sample.labels.items() if k != "application")):
            sample.value
        for family in parse(text)
        for sample in family.samples
    }  # fmt: skip


def test_metrics_of_a_run_are_what_it_did_for_both_parsers(engage: Engage, receiver: Receiver) -> None:
    rows = engage.subscriptions(20, modify_time="2026-03-27T18:00:00+00:00")
    folder = engage.folder / "collector"
    done = engage.run(
        engage.snapshot(rows), application='title "2"\n', metrics_path=str(folder), metrics_url=receiver.url + "/"
    )
    assert done.code == 0, done.log
    (path,) = folder.iterdir()
    assert path.name == "recurly_engage_title__2__.prom"
    text = path.read_text(encoding="utf-8")
    for parse in (read_openmetrics, read_prometheus):
        found = values(text, parse)
        (summary,) = engage.summaries
        expected = {
            ("run_exit_code",): 0, ("run_success",): 1, ("run_status", "finished"): 1, ("run_status", "failed"): 0,
            ("run_rows", "read"): 20, ("run_rows", "rejected"): 0, ("run_readers", "new"): 20,
            ("run_readers", "changed"): 0, ("run_files",): 1, ("run_delivered_bytes",): engage.files[0].stat().st_size,
            ("run_brake_findings",): 0, ("ledger_subscriptions",): 20, ("ledger_readers",): 20,
            ("rejects", "waiting"): 0, ("newest_change_age_seconds",): 12 * 3600,
            ("newest_change_timestamp_seconds",): datetime(2026, 3, 27, 18, tzinfo=UTC).timestamp(),
            ("run_duration_seconds",): summary["seconds"],
        }  # fmt: skip
        assert {name: found.get(name) for name in expected} == expected
    applications = {sample.labels["application"] for family in read_openmetrics(text) for sample in family.samples}
    assert applications == {'title "2"\n'}
    ((method, at, body),) = receiver.got
    assert (method, at, body.decode()) == (
        "PUT", "/metrics/job/recurly_engage/application/title%20%222%22%0A", text,
    )  # fmt: skip


def test_a_metric_without_the_end_or_with_two_types_would_be_refused() -> None:
    """The double: what this suite's parser says of text that is not as it must be."""
    good = metrics.text(Status(), NOW)
    for broken in (
        good.replace("# EOF\n", ""),
        good + good,
        good.replace('application="default"', "application=default"),
    ):
        with pytest.raises(ValueError, match=r"."):
            list(read_openmetrics(broken))


def test_segments_have_their_sizes(engage: Engage) -> None:
    folder = engage.folder / "collector"
    engage.run(
        engage.snapshot(engage.subscriptions(3)), segments="all", traits="all,computed", metrics_path=str(folder)
    )
    (summary,) = engage.summaries
    found = values((folder / "recurly_engage_default.prom").read_text(encoding="utf-8"))
    sizes = {name: one["readers"] for name, one in summary["segments"].items()}
    assert sizes
    assert {name[1]: value for name, value in found.items() if name[0] == "segment_readers"} == sizes


def test_one_alert_a_change_of_status_and_one_when_it_is_well_again(engage: Engage, receiver: Receiver) -> None:
    """Well, brake, brake, outage, well, well: three messages; the exit codes are what they are without alerts."""
    watched: dict[str, Any] = {"alert_url": f"{receiver.url}/hook", "application": "title2", "freshness_hours": 0}
    rows = engage.subscriptions(20)
    gone = {"delivery": "ingest", "app_id": "a", "api_key": SECRET, "api_url": "http://127.0.0.1:9",
            "retry_attempts": 1, "retry_wait": 0}  # fmt: skip
    changed = [rows[0] | {"total_charged": 99}, *rows[1:]]
    runs = [
        engage.run(engage.snapshot(rows), **watched),
        engage.run(engage.snapshot(rows[:3]), **watched),
        engage.run(engage.snapshot(rows[:3]), **watched),
        engage.run(engage.snapshot(changed), **watched, **gone),
        engage.run(engage.snapshot(changed), **watched),
        engage.run(engage.snapshot(changed), **watched),
    ]
    assert [run.code for run in runs] == [0, 80, 80, 75, 0, 0]
    brake, outage, well = receiver.texts
    assert brake.startswith("title2: run ")
    assert " of subscription_log ended with 80 (the brake): " in brake
    assert " of subscription_log ended with 75 (outage): " in outage
    assert well.startswith("title2: well again: run ")
    assert SECRET not in b"".join(body for _, _, body in receiver.got).decode()
    assert {at for _, at, _ in receiver.got} == {"/hook"}


FORGETFUL = """
from target_recurly_engage.watch.status import Status
Status.told = property(lambda self: {}, lambda self, value: None)
"""
"""A broken double: what the receiver was told is forgotten."""


def test_a_double_that_forgets_tells_twice(engage: Engage, receiver: Receiver) -> None:
    watched: dict[str, Any] = {"alert_url": receiver.url, "freshness_hours": 0}
    rows = engage.subscriptions(20)
    engage.run(engage.snapshot(rows), **watched)
    for _ in range(2):
        engage.run(engage.snapshot(rows[:3]), FORGETFUL, **watched)
    assert len(receiver.got) == 2


def test_a_job_that_goes_well_says_nothing_of_another_kind(engage: Engage, receiver: Receiver) -> None:
    """The log is held by the brake each time, the catalogue goes well between: one alert, and one when both came."""
    watched: dict[str, Any] = {"alert_url": receiver.url, "freshness_hours": 0}
    rows = engage.subscriptions(20)
    terms = engage.messages([{"term_id": "T1"}], stream="terms", properties=("term_id", "term_name"), version=1)
    assert engage.run(engage.snapshot(rows), **watched).code == 0
    for _ in range(2):
        assert engage.run(engage.snapshot(rows[:3]), **watched).code == 80
        assert engage.run(terms, **watched).code == 0
    assert len(receiver.got) == 1
    assert health(engage)[0] == 2
    assert engage.run([*engage.snapshot(rows), *terms], **watched).code == 0
    assert [" well again: " in text for text in receiver.texts] == [False, True]


def test_a_refused_setting_is_told_as_far_as_it_can_be(engage: Engage, receiver: Receiver) -> None:
    watched = {"alert_url": receiver.url, "application": "t"}
    done = engage.run(engage.snapshot([]), timezone="Mars/Olympus", **watched)
    assert done.code == 78
    (text,) = receiver.texts
    assert "t: a run ended with 78 (configuration refused): timezone: 'Mars/Olympus'" in text
    assert engage.run(engage.snapshot([]), freshness_hours="x", alert_template=7, **watched).code == 78
    assert len(receiver.got) == 1, "the same status is not told twice"


def test_a_message_that_does_not_arrive_fails_no_run_and_is_sent_by_the_next(
    engage: Engage, receiver: Receiver
) -> None:
    address = f"{receiver.url}/{SECRET}"
    watched: dict[str, Any] = {"alert_url": address, "metrics_url": address, "freshness_hours": 0}
    receiver.status = 500
    rows = engage.subscriptions(20)
    assert engage.run(engage.snapshot(rows), **watched).code == 0
    done = engage.run(engage.snapshot(rows[:3]), **watched)
    assert done.code == 80
    assert "an alert (run subscription_log: 80) could not be told: the receiver answered 500" in done.log
    away = {"alert_url": f"http://127.0.0.1:9/{SECRET}", "metrics_path": "/dev/null/x", "freshness_hours": 0}
    nowhere = engage.run(engage.snapshot(rows[:3]), **away)
    assert nowhere.code == 80
    assert SECRET not in done.log + nowhere.log
    receiver.status, receiver.got = 200, []
    engage.run(engage.snapshot(rows[:3]), alert_url=receiver.url, freshness_hours=0)
    assert len(receiver.got) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_message_that_was_sent_elsewhere_has_not_arrived(status: int, engage: Engage, receiver: Receiver) -> None:
    """As where an address begins with http, and the receiver wants https: nothing is taken, and nothing followed."""
    watched = {"alert_url": receiver.url, "metrics_url": receiver.url, "application": "t"}
    receiver.status = status
    done = engage.run(engage.snapshot([]), timezone="Mars/Olympus", **watched)
    assert [method for method, _, _ in receiver.got] == ["PUT", "POST"]
    for what in ("metrics", "an alert (run: 78)"):
        assert f"{what} could not be told: the receiver answered {status}" in done.log
    receiver.status = 200
    engage.run(engage.snapshot([]), timezone="Mars/Olympus", **watched)
    assert [method for method, _, _ in receiver.got] == ["PUT", "POST"] * 2


def test_a_dry_run_tells_nobody(engage: Engage, receiver: Receiver) -> None:
    done = engage.run(engage.snapshot(engage.subscriptions(2)), dry_run=True, alert_url=receiver.url,
                      metrics_path=str(engage.folder / "collector"))  # fmt: skip
    assert done.code == 0
    assert receiver.got == []
    assert not (engage.folder / "collector").exists()


def test_no_person_stands_in_alert_status_and_metrics(engage: Engage, receiver: Receiver) -> None:
    """A reader called by an address, whom the Ingest API rejects by that name; and one in a message of a refusal."""
    reader, folder = "somebody@example.com", engage.folder / "collector"
    watched: dict[str, Any] = {"metrics_path": str(folder), "alert_url": receiver.url}
    row = engage.subscription(1, user=reader, subscription_status=reader)
    with serving(s3_port=0) as server:
        server.control(
            "POST", "faults", {"part": "engage", "status": 422, "body": f'{{"message": "no {reader}"}}', "times": 9}
        )
        rejected = engage.run(engage.snapshot([row]), **watched, **places(server), delivery="ingest")
    refused = engage.run(f'{{"type": "RECORD", "stream": "{reader}", "record": {{}}}}\n'.encode(), **watched)
    assert (rejected.code, refused.code) == (81, 65)
    assert reader in "".join(path.read_text(encoding="utf-8") for path in (engage.folder / "runs").glob("*.json")), (
        "else this shows nothing"
    )
    assert reader in refused.log, "else this shows nothing"
    left = [path.read_text(encoding="utf-8") for path in (*folder.iterdir(), engage.folder / "runs" / FILE)]
    assert len(receiver.got) >= 2
    assert reader not in "".join([*left, *receiver.texts])


# Templates


@pytest.mark.parametrize("words", ['a "quoted" word', "a\\path", "two\nlines", '{"text": 1}', "{application}", "ö\x00"])
def test_whatever_a_message_holds_stays_within_its_text(words: str) -> None:
    status = Status(application="a", message=words, exit_code=80, run_id="r")
    alert = alerts.Alert(condition="run", state="80", text=f"run: {words}")
    template = {"text": "<{text}>", "blocks": [{"type": "section", "n": 1, "of": "{message}"}], "up": None}
    body = json.loads(json.dumps(alerts.body_of(template, alert, status, NOW)))
    assert body == {"text": f"<run: {words}>", "blocks": [{"type": "section", "n": 1, "of": words}], "up": None}


def test_a_template_with_an_unknown_field_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigRefused, match=r"alert_template: there is no field \{reader\}. Take \{text\}, "):
        alerts.check_template({"text": "{reader}"})


# Freshness and health


def ended(engage: Engage, **values: object) -> Path:
    """Leave the status of a run that ended an hour ago."""
    at = datetime.now(tz=UTC) - timedelta(hours=1)
    known: dict[str, Any] = {
        "application": "title2", "run_id": "r1", "run_status": "finished", "started_at": at.isoformat(),
        "finished_at": at.isoformat(), "succeeded_at": at.isoformat(),
        "ledger": {"newest_change": (at - timedelta(hours=2)).isoformat(), "bytes": 5, "rejected": 0},
    }  # fmt: skip
    Status(**(known | values)).write(engage.folder / "runs")
    duckdb.connect(str(engage.ledger)).close()
    return engage.folder / "runs"


def health(engage: Engage, *arguments: str, **config: object) -> tuple[int, str]:
    path = engage.folder / "health.json"
    settings = {name: value for name, value in engage.config.items() if name != "as_of"}
    path.write_text(json.dumps(settings | {"application": "title2"} | config), encoding="utf-8")
    done = CliRunner().invoke(main, ["--config", str(path), "health", *arguments])
    return done.exit_code, done.stdout


HOURS_AGO = "2020-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("values", "code", "says"),
    [
        ({}, 0, "title2: ok"),
        ({"ends": {"a+b": {"exit_code": 80, "message": "few"}}}, 2, "the last run of a, b ended with 80: few"),
        ({"ends": {"": {"exit_code": 75, "message": "down"}}}, 1, "the last run ended with 75: down"),
        ({"exit_code": 143}, 1, "the last run ended with 143"),
        ({"ledger": {"newest_change": HOURS_AGO}}, 2, "the newest change that Piano told of is"),
        ({"finished_at": HOURS_AGO}, 2, "no run has ended for"),
        ({"ledger": {"open_deliveries": 2}}, 1, "2 deliveries are not finished"),
    ],
)
def test_health_says_what_is_wrong_and_ends_with_the_code_of_a_monitor(
    engage: Engage, values: dict[str, Any], code: int, says: str
) -> None:
    ended(engage, **values)
    assert health(engage)[0] == code
    assert says in health(engage)[1]


def test_health_of_what_never_ran_is_unknown_and_a_ledger_that_is_gone_is_critical(engage: Engage) -> None:
    code, told = health(engage)
    assert (code, told.splitlines()[0]) == (3, "title2: unknown")
    ended(engage)
    engage.ledger.unlink()
    assert health(engage)[0] == 2


def test_a_ledger_that_cannot_be_opened_is_critical(engage: Engage) -> None:
    ended(engage)
    engage.ledger.write_bytes(b"what a bad disk left" * 900)
    code, told = health(engage)
    assert code == 2
    assert f"the ledger cannot be opened: {engage.ledger}" in told


def test_where_no_run_ever_ended_that_is_told_as_well(engage: Engage, receiver: Receiver) -> None:
    """As where no job but `health` ever came to its end."""
    for _ in range(2):
        assert health(engage, "--alert", alert_url=receiver.url)[0] == 0
        assert health(engage)[0] == 3
    assert receiver.got == []
    found = Status.read(engage.folder / "runs")
    assert found
    found.watched_since = HOURS_AGO
    found.write(engage.folder / "runs")
    for _ in range(2):
        assert health(engage, "--alert", alert_url=receiver.url)[0] == 0
    (text,) = receiver.texts
    assert text.startswith("title2: no run has ended for ")
    engage.run(engage.snapshot(engage.subscriptions(1)), alert_url=receiver.url, freshness_hours=0)
    assert receiver.texts[1].endswith("runs end again.")


def test_a_run_that_ends_while_health_is_sending_is_not_forgotten(engage: Engage, receiver: Receiver) -> None:
    ended(engage, finished_at=HOURS_AGO)
    watched: dict[str, Any] = {"alert_url": receiver.url, "application": "title2"}
    with tempfile.TemporaryFile() as out:
        runs = []
        receiver.meanwhile = lambda: runs.append(engage.start(engage.snapshot([]), out, timezone="Mars", **watched))
        assert health(engage, "--alert", **watched)[0] == 0
        assert [run.wait(100) for run in runs] == [78]
    left = Status.read(engage.folder / "runs")
    assert left
    assert {kind: end["exit_code"] for kind, end in left.failing.items()} == {"": 78}
    assert [text.split(": ")[1][:12] for text in receiver.texts] == ["no run has e", "a run ended ", "runs end aga"]


def test_health_in_json_tells_the_same(engage: Engage) -> None:
    ended(engage, exit_code=80, ends={"a": {"exit_code": 80, "message": "few"}})
    code, told = health(engage, "--json")
    answer = json.loads(told)
    assert (code, answer["status"], answer["application"]) == (2, "critical", "title2")
    assert answer["last_run"]["exit_code"] == 80
    assert answer["newest_change_hours"] == pytest.approx(3, abs=0.2)
    assert answer["ledger"]["bytes"] == 5


def test_old_data_and_silence_are_told_once_by_health_and_so_is_their_end(engage: Engage, receiver: Receiver) -> None:
    ended(engage, ledger={"newest_change": HOURS_AGO}, finished_at=HOURS_AGO)
    for _ in range(2):
        assert health(engage, "--alert", alert_url=receiver.url)[0] == 0
    old, silent = receiver.texts
    assert "title2: the newest change that Piano told of is" in old
    assert "title2: no run has ended for" in silent
    told = Status.read(engage.folder / "runs")
    assert told is not None
    ended(engage, told=told.told)
    health(engage, "--alert", alert_url=receiver.url)
    assert [text[:20] for text in receiver.texts[2:]] == ["title2: fresh again:", "title2: runs end aga"]


def test_a_run_on_an_old_export_is_told(engage: Engage, receiver: Receiver) -> None:
    rows = engage.subscriptions(2, modify_time="2026-03-26T17:00:00+00:00")  # 37 hours before as_of
    assert engage.run(engage.snapshot(rows), alert_url=receiver.url).code == 0
    assert "is 37.0 hours old, more than the 36 of freshness_hours" in receiver.texts[0]
    assert engage.run(engage.snapshot(rows), alert_url=receiver.url, freshness_hours=40).code == 0
    assert ": fresh again: " in receiver.texts[1]


# Two jobs of one application


def test_a_run_waits_for_another_one_that_has_the_ledger_and_without_the_setting_says_who_does(engage: Engage) -> None:
    """The second run is let in when the first one closes the ledger, and not before."""
    assert engage.run(engage.snapshot(engage.subscriptions(2))).code == 0
    with duckdb.connect(str(engage.ledger)), tempfile.TemporaryFile() as out:
        waiting = engage.start(engage.snapshot(engage.subscriptions(3)), out, ledger_wait=100)
        assert engage.run(engage.snapshot(engage.subscriptions(3))).code == 74
        os.kill(waiting.pid, 0)  # it is still there
    assert waiting.wait(100) == 0
    assert len(engage.told_all()) == 3

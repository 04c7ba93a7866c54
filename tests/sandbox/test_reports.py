"""The Reports API over sockets: jobs from their request to the link, every status, duplicates, and what is refused."""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import pytest
from piano_engage_sandbox.application import Application
from piano_engage_sandbox.piano.downloads import Signer
from piano_engage_sandbox.piano.jobs import Exports, Job
from piano_engage_sandbox.service import App
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.server import Server

AID = "ExAmPlE4a1"
SCHEDULE = "/rest/export/schedule/vx/subscriptionLog"
STATUS = "/rest/export/status"
LINK = "/rest/export/download/url"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.body)
        return content


@dataclass
class Client:
    """Asks the Reports API, with the token in the query as it is seen in production."""

    server: Server
    aid: str = AID

    @property
    def token(self) -> str:
        return self.server.sandbox.piano[self.aid].token

    def ask(self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def call(self, method: str, path: str, **params: object) -> Answer:
        query = urlencode({"aid": self.aid, "api_token": self.token, **params}, doseq=True)
        return self.ask(method, f"{path}?{query}")

    def schedule(self, **params: object) -> dict[str, Any]:
        answer = self.call("POST", SCHEDULE, **params)
        assert answer.status == 200, answer.body
        return answer.json

    def status(self, job: dict[str, Any]) -> dict[str, Any]:
        answer = self.call("GET", STATUS, export_id=job["export_id"])
        assert answer.status == 200, answer.body
        return answer.json

    def link(self, job: dict[str, Any]) -> str:
        answer = self.call("GET", LINK, export_id=job["export_id"])
        assert answer.status == 200, answer.body
        assert list(answer.json) == ["url"]
        return str(answer.json["url"])

    def fetch(self, url: str, method: str = "GET", **headers: str) -> Answer:
        parts = urlsplit(url)
        assert f"{parts.scheme}://{parts.netloc}" == self.server.url
        return self.ask(method, f"{parts.path}?{parts.query}", headers=headers)

    def advance(self, seconds: float) -> None:
        self.server.sandbox.now.advance(seconds)

    def set(self, **switches: object) -> None:
        for name, value in switches.items():
            self.server.sandbox.switches.set(f"reports.{name}", value)

    def finished(self, **params: object) -> dict[str, Any]:
        job = self.schedule(**params)
        assert self.status(job)["job_status"] == "FINISHED"
        return job

    @property
    def exports(self) -> Exports:
        return self.server.sandbox.part(Exports)


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    """One server for tests that leave its clock and switches alone and use file names of their own."""
    with serving() as server:
        yield Client(server)


@pytest.fixture
def client() -> Iterator[Client]:
    with serving() as server:
        yield Client(server)


def test_a_whole_life_without_waiting(client: Client) -> None:
    job = client.schedule(file_name="whole")
    assert job == {
        "export_id": job["export_id"],
        "report_request": {"aid": AID, "file_name": "whole"},
        "job_status": "CREATED",
    }
    done = client.status(job)
    assert done == {**job, "job_status": "FINISHED", "percent_complete": 100}
    file = client.fetch(client.link(job))
    assert file.status == 200
    assert file.body.startswith(b"Subscription ID,Summary,")
    assert file.headers["content-type"] == "text/csv; charset=utf-8"
    assert int(file.headers["content-length"]) == len(file.body)
    assert 'filename="whole.csv"' in file.headers["content-disposition"]


def test_a_whole_life_by_the_clock(client: Client) -> None:
    client.set(created_for=30, running_for=60)
    job = client.schedule()
    assert [client.status(job)["job_status"] for _ in range(2)] == ["CREATED", "CREATED"]
    assert "percent_complete" not in client.status(job)
    client.advance(29.5)
    assert client.status(job)["job_status"] == "CREATED"
    client.advance(0.5)
    assert client.status(job)["job_status"] == "IN_PROGRESS"
    client.advance(30)
    assert client.status(job)["percent_complete"] <= 50
    client.advance(29)
    assert client.status(job)["job_status"] == "IN_PROGRESS"
    client.advance(1)
    assert client.status(job)["job_status"] == "FINISHED"


def test_a_finished_export_is_removed_in_the_end(client: Client) -> None:
    client.set(removed_after=1000, link_lives=10_000)
    job = client.finished()
    link = client.link(job)
    folder = client.exports.jobs[job["export_id"]].path.parent
    client.advance(999)
    assert client.status(job)["job_status"] == "FINISHED"
    assert folder.exists()
    client.advance(1)
    gone = client.status(job)
    assert gone["job_status"] == "REMOVED"
    assert "percent_complete" not in gone
    assert client.call("GET", LINK, export_id=job["export_id"]).status == 400
    assert client.fetch(link).status == 404


def test_a_removed_export_and_a_stopped_server_leave_no_files() -> None:
    with serving() as server:
        client = Client(server)
        job = client.finished()
        other = client.finished(file_name="other", start_date_from="2025-01-01")
        paths = [client.exports.jobs[one["export_id"]].path for one in (job, other)]
        assert all(path.exists() for path in paths)
        client.exports.script(AID, ["REMOVED"])
        client.schedule()
        top = paths[0].parent.parent
    assert not top.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["CREATED", "REPROCESS", "INTERNAL_ERROR"],
        ["CREATED", "IN_PROGRESS", "DUPLICATE", "IN_PROGRESS", "FINISHED"],
        ["QUEUED", "RUNNING", "error"],
        ["CREATED", "FAILED"],
        ["CREATED", "REMOVED"],
        ["DUPLICATE", "FINISHED"],
        ["FINISHED"],
        ["IN_PROGRESS"],
    ],
)
def test_a_script_is_followed_word_by_word_and_its_last_word_stays(client: Client, words: list[str]) -> None:
    client.exports.script(AID, words)
    job = client.schedule()
    told = [job, *(client.status(job) for _ in words)]
    assert [one["job_status"] for one in told] == [*words, words[-1]]
    for one in told:
        assert ("error_text" in one) == (one["job_status"] == "INTERNAL_ERROR")
    link = client.call("GET", LINK, export_id=job["export_id"])
    assert link.status == (200 if words[-1] == "FINISHED" else 400)
    if words[-1] == "FINISHED":
        assert client.fetch(link.json["url"]).status == 200


def test_a_script_is_for_one_job_and_one_application() -> None:
    with serving(apps=(App(rows=20), App(aid="OtHeR00001", rows=20))) as server:
        one, other = Client(server), Client(server, "OtHeR00001")
        one.exports.configure({"aid": AID, "script": ["FAILED"]})
        one.exports.configure({"aid": AID, "script": ["CREATED", "INTERNAL_ERROR"], "error_text": "no more disk"})
        assert one.exports.status()["scripts"] == {AID: [["FAILED"], ["CREATED", "INTERNAL_ERROR"]]}
        assert other.schedule()["job_status"] == "CREATED"
        assert one.schedule()["job_status"] == "FAILED"
        assert one.status(one.schedule())["error_text"] == "no more disk"
        assert one.status(one.schedule())["job_status"] == "FINISHED"
        one.exports.script(AID, ["FAILED"])
        one.exports.script(AID, [])
        assert one.schedule(file_name="x")["job_status"] == "DUPLICATE"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"script": "CREATED"}, "'script' is a list"),
        ({"script": [1]}, "'script' is a list"),
        ({}, "'script' is a list"),
        ({"script": ["A"], "aid": "nobody"}, "no application 'nobody'; there are: ExAmPlE4a1"),
        ({"script": ["A"], "words": 1}, "unknown member 'words'"),
    ],
)
def test_scripts_that_make_no_sense(shared: Client, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shared.exports.configure(given)


def test_the_state_of_jobs_is_told_without_moving_them_on(client: Client) -> None:
    client.exports.script(AID, ["CREATED", "REPROCESS"])
    job = client.schedule(file_name="a")
    for _ in range(3):
        (told,) = client.exports.status()["jobs"]
        assert (told["export_id"], told["job_status"], told["file"]) == (job["export_id"], "CREATED", "a.csv")
    assert client.status(job)["job_status"] == "REPROCESS"


def test_the_same_request_gets_the_earlier_job_within_the_window(client: Client) -> None:
    job = client.schedule(attribute_groups=["USER", "DEFAULT"], start_date_to="2026-01-01")
    client.advance(599)
    again = client.schedule(attribute_groups="DEFAULT,USER", start_date_to="2026-01-01")
    assert again == {**again, "export_id": job["export_id"], "job_status": "DUPLICATE"}
    assert client.status(again)["job_status"] == "FINISHED"
    client.advance(1)
    later = client.schedule(attribute_groups=["DEFAULT", "USER"], start_date_to="2026-01-01")
    assert later["job_status"] == "CREATED"
    assert later["export_id"] != job["export_id"]


@pytest.mark.parametrize("other", [{"attribute_groups": "USER"}, {"start_date_from": "2020-01-01"}])
def test_another_request_gets_a_job_of_its_own(client: Client, other: dict[str, str]) -> None:
    first = client.schedule()
    assert client.schedule(**other)["job_status"] == "CREATED"
    assert client.schedule()["export_id"] == first["export_id"]


@pytest.mark.parametrize(("sees", "status"), [(False, "DUPLICATE"), (True, "CREATED")])
def test_whether_a_file_name_makes_another_request_is_a_switch(client: Client, sees: bool, status: str) -> None:  # noqa: FBT001
    client.set(duplicate_sees_file_name=sees)
    client.schedule(file_name="monday")
    assert client.schedule(file_name="tuesday")["job_status"] == status
    assert client.schedule(file_name="monday")["job_status"] == "DUPLICATE"


def test_a_duplicate_may_stay_one_for_ever(client: Client) -> None:
    client.set(duplicate_converts=False)
    first = client.finished()
    again = client.schedule()
    assert [client.status(again)["job_status"] for _ in range(3)] == ["DUPLICATE"] * 3
    assert client.fetch(client.link(first)).status == 200
    client.advance(86_400)
    assert client.status(again)["job_status"] == "REMOVED"


def test_no_window_no_duplicates(client: Client) -> None:
    client.set(duplicate_window=0)
    assert client.schedule()["export_id"] != client.schedule()["export_id"]


@pytest.mark.parametrize("end", ["INTERNAL_ERROR", "FAILED", "REMOVED"])
def test_what_came_to_nothing_is_no_duplicate(client: Client, end: str) -> None:
    client.exports.script(AID, [end])
    assert client.schedule()["job_status"] == end
    assert client.schedule()["job_status"] == "CREATED"


def dies_in_time(client: Client) -> None:
    """Check that a link works to its last second and no longer, and that a new one may be asked for."""
    job = client.finished()
    link = client.link(job)
    client.advance(1799)
    assert client.fetch(link).status == 200
    client.advance(1)
    dead = client.fetch(link)
    assert dead.status == 403
    assert "expired" in dead.json["message"]
    again = client.link(job)
    assert again != link
    assert client.fetch(again).status == 200


def waits_for_the_end(client: Client) -> None:
    """Check that there is no link before the job is finished."""
    client.set(created_for=10, running_for=10)
    job = client.schedule(start_date_from="2020-02-02")
    for status in ("CREATED", "IN_PROGRESS"):
        early = client.call("GET", LINK, export_id=job["export_id"])
        assert early.status == 400
        assert f"is not finished: '{job['export_id']}' is {status}" in early.json["message"]
        client.advance(10)
    assert client.status(job)["job_status"] == "FINISHED"
    client.link(job)


def keeps_duplicates(client: Client) -> None:
    """Check that the same request gets the same job."""
    assert client.schedule()["export_id"] == client.schedule()["export_id"]


def removes(client: Client) -> None:
    """Check that an export is REMOVED after a day."""
    job = client.finished()
    client.advance(86_400)
    assert client.status(job)["job_status"] == "REMOVED"


PROMISES = [dies_in_time, waits_for_the_end, keeps_duplicates, removes]


@pytest.mark.parametrize("check", PROMISES)
def test_promises_a_tap_leans_on(client: Client, check: Callable[[Client], None]) -> None:
    check(client)


def immortal(patch: pytest.MonkeyPatch) -> None:
    link = Signer.link
    patch.setattr(Signer, "link", lambda self, export, name, expires: link(self, export, name, expires + 1e6))


def hasty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Exports, "true_status", lambda _self, _job: "FINISHED")


def forgetful(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Exports, "_same", lambda _self, _request: None)


def hoarding(patch: pytest.MonkeyPatch) -> None:
    status = Job.status
    patch.setattr(Job, "status", lambda self, now, _after: status(self, now, 1e9))


@pytest.mark.parametrize(
    ("spoil", "check"),
    list(zip([immortal, hasty, forgetful, hoarding], PROMISES, strict=True)),
    ids=lambda f: f.__name__,
)
def test_a_sandbox_that_breaks_a_promise_is_caught(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[pytest.MonkeyPatch], None],
    check: Callable[[Client], None],
) -> None:
    spoil(monkeypatch)
    with pytest.raises(AssertionError):
        check(client)


@pytest.mark.parametrize("part", ["signature", "expires", "name", "export"])
def test_a_link_cannot_be_made_up(shared: Client, part: str) -> None:
    job = shared.finished(start_date_to="2030-01-01")
    link = shared.link(job)
    changed = {
        "signature": link[:-1] + ("0" if link[-1] != "0" else "1"),
        "expires": link.replace("expires=", "expires=9"),
        "name": link.replace(".csv", ".zip"),
        "export": link.replace(job["export_id"], "0" * 32),
    }[part]
    assert shared.fetch(link).status == 200
    answer = shared.fetch(changed)
    assert answer.status == 403
    assert "signature" in answer.json["message"]
    assert shared.fetch(link.partition("?")[0] + "?").status == 403


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"start_date_from": "01-02-2026"}, "start_date_from is not a date like 2026-03-01: '01-02-2026'"),
        ({"start_date_to": "2026-02-30"}, "start_date_to is not a date"),
        ({"start_date_to": "20260228"}, "start_date_to is not a date"),
        ({"start_date_to": "2026-W09-1"}, "start_date_to is not a date"),
        ({"start_date_from": "2026-02-02", "start_date_to": "2026-02-01"}, "start_date_from is after start_date_to"),
        ({"attribute_groups": "USER,NOBODY"}, "attribute_groups is not one of DEFAULT, .*: 'NOBODY'"),
        ({"attribute_groups": ["USER", "default"]}, "attribute_groups is not one of"),
        ({"file_name": "../x"}, "file_name is no name of a file"),
        ({"file_name": "a/b"}, "file_name is no name of a file"),
        ({"file_name": "x" * 101}, "file_name is no name of a file"),
        ({"aid": "nobody"}, "aid is unknown: 'nobody'"),
        ({"aid": ""}, "aid is required"),
    ],
)
def test_bad_parameters(shared: Client, params: dict[str, Any], message: str) -> None:
    answer = shared.call("POST", SCHEDULE, **params)
    assert answer.status == 400
    assert answer.json["code"] == 400
    assert re.search(message, answer.json["message"])


@pytest.mark.parametrize("path", [STATUS, LINK])
def test_unknown_exports(shared: Client, path: str) -> None:
    assert "export_id is unknown: 'nothing'" in shared.call("GET", path, export_id="nothing").json["message"]
    assert shared.call("GET", path, export_id="nothing").status == 400
    assert "export_id is required" in shared.call("GET", path).json["message"]


def test_an_export_belongs_to_its_application() -> None:
    with serving(apps=(App(rows=20), App(aid="OtHeR00001", rows=20))) as server:
        one, other = Client(server), Client(server, "OtHeR00001")
        job = one.finished()
        assert other.call("GET", STATUS, export_id=job["export_id"]).status == 400
        assert one.call("POST", SCHEDULE, api_token=other.token).status == 401


@pytest.mark.parametrize("path", [SCHEDULE, STATUS, LINK])
@pytest.mark.parametrize("status", [401, 403])
def test_wrong_tokens(client: Client, path: str, status: int) -> None:
    client.set(refused_token_status=status)
    for token in ("wrong", "", client.token + "x"):
        answer = client.call("GET", path, api_token=token)
        assert answer.status == status
        assert answer.json["code"] == 2
        assert client.token not in answer.body.decode()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_token_in_a_header(shared: Client, method: str) -> None:
    headers = {"API_TOKEN": shared.token}
    assert shared.ask(method, f"{SCHEDULE}?aid={AID}&start_date_from=2019-01-01", headers=headers).status == 200


def test_all_in_a_form(shared: Client) -> None:
    given = {"aid": AID, "api_token": shared.token, "file_name": "form", "start_date_from": "2019-02-03"}
    body = urlencode([*given.items(), ("attribute_groups", "USER"), ("attribute_groups", "PAYMENT")])
    answer = shared.ask("POST", SCHEDULE, body, FORM)
    assert answer.status == 200
    echo = {"aid": AID, "start_date_from": "2019-02-03", "file_name": "form", "attribute_groups": ["USER", "PAYMENT"]}
    assert answer.json["report_request"] == echo


@pytest.mark.parametrize("key", ["data", "export"])
def test_jobs_may_come_in_an_envelope(client: Client, key: str) -> None:
    client.set(wrapped=key)
    told = client.schedule()
    assert list(told) == ["code", "ts", key]
    assert told["code"] == 0
    assert client.status(told[key])[key]["job_status"] == "FINISHED"
    assert client.link(told[key])


def test_the_request_may_be_repeated_as_text(client: Client) -> None:
    client.set(echo="text")
    assert json.loads(client.schedule(file_name="é")["report_request"]) == {"aid": AID, "file_name": "é"}


def test_an_export_does_not_make_the_world(client: Client) -> None:
    client.finished()
    application = client.server.sandbox.piano[AID]
    assert isinstance(application, Application)
    assert not application.world_is_made


def test_no_token_and_no_signature_stays_in_the_journal(client: Client) -> None:
    client.fetch(client.link(client.finished()))
    kept = json.dumps(client.server.control("GET", "requests"))
    assert "/rest/export/files/" in kept
    assert client.token not in kept
    assert "signature=" not in kept

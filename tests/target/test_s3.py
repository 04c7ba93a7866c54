"""Delivery into an S3 bucket: the sandbox's, and servers that fail in their own ways."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from piano_engage_common.stops import AccessRefused, ConfigRefused, Outage
from piano_engage_sandbox.testing import serving
from typing_extensions import override

from tests.target.conftest import EARLY_STATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Engage, Message

LINE = "TARGET_RECURLY_ENGAGE_"
NAMES = ("s3_bucket", "s3_prefix", "s3_endpoint_url", "aws_access_key_id", "aws_secret_access_key")


@pytest.fixture
def server() -> Iterator[Server]:
    """A bucket whose files Engage reads at once."""
    with serving(s3_port=0, rows=5, switches={"engage.csv_delay": 0}) as one:
        yield one


@pytest.fixture
def settings(server: Server) -> dict[str, Any]:
    lines = server.environment()
    found = {name: lines[f"{LINE}{name.upper()}"] for name in NAMES}
    return {"delivery": "s3", **found, "request_timeout": 10, "retry_attempts": 2, "csv_ingest_hours": 0}


def client(settings: dict[str, Any]) -> Any:  # noqa: ANN401 - boto3 has no types
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings["s3_endpoint_url"],
        region_name="us-west-2",
        aws_access_key_id=settings["aws_access_key_id"],
        aws_secret_access_key=settings["aws_secret_access_key"],
    )


def keys(settings: dict[str, Any]) -> list[str]:
    found = client(settings).list_objects_v2(Bucket=settings["s3_bucket"])
    return [entry["Key"] for entry in found.get("Contents", [])]


def uploads(settings: dict[str, Any]) -> list[dict[str, Any]]:
    found = client(settings).list_multipart_uploads(Bucket=settings["s3_bucket"])
    return list(found.get("Uploads", []))


def files_read(server: Server, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 30
    while True:
        files = [file for file in server.control("GET", "engage")["files"] if file["status"] == "done"]
        if len(files) >= count:
            return files
        assert time.monotonic() < deadline, server.control("GET", "engage")["files"]
        time.sleep(0.01)


def held(server: Server, user: str) -> dict[str, str] | None:
    found = server.control("GET", f"engage/user/{user}")
    return None if found is None else found["traits"]


def test_engage_holds_all_then_the_changes_and_an_empty_plan_sends_nothing(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    records = engage.subscriptions(30)
    first = engage.run(engage.snapshot(records), **settings)
    assert (first.code, len(first.states)) == (0, 1), first.log
    assert [file["users"] for file in files_read(server, 1)] == [30]
    assert held(server, "u7") == dict(engage.query("SELECT trait, value FROM delivered_traits WHERE user_id = 'u7'"))
    records[6]["promo_code"] = "BACK7"
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert engage.run(engage.snapshot(records), **settings).code == 0
    second = files_read(server, 2)[1]
    assert second["users"] == 1
    traits = held(server, "u7")
    assert traits is not None
    assert traits["promo_code"] == "BACK7"
    assert len(keys(settings)) == 2
    assert all(
        re.fullmatch(rf"{settings['s3_prefix']}traits-\d{{8}}T\d{{6}}Z-[0-9a-f]{{8}}\.csv", key)
        for key in keys(settings)
    )
    assert engage.files == []
    (file,) = engage.summaries[1]["files"]
    assert file["location"].startswith(f"s3://{settings['s3_bucket']}/{settings['s3_prefix']}traits-")
    assert engage.query("SELECT DISTINCT channel, status FROM deliveries") == [("s3", "acknowledged")]
    assert uploads(settings) == []


def wide(engage: Engage, rows: int) -> list[Message]:
    """Readers with much to tell of each: 3,300 of them need two parts."""
    much = dict.fromkeys(("promo_code", "term_name", "offer_name", "template_name", "resource_name"), "P" * 400)
    much["term_id"] = "TM1"
    return engage.snapshot(engage.subscriptions(rows, **much))


SMALL_PARTS = "from target_recurly_engage import bucket\nbucket.PART_BYTES = 5 << 20\n"


def test_a_large_file_goes_in_parts_and_its_checksum_is_compared(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    run = engage.run(wide(engage, 3_300), script=SMALL_PARTS, **settings)
    assert run.code == 0, run.log
    assert files_read(server, 1)[0]["users"] == 3_300
    (key,) = keys(settings)
    told = client(settings).head_object(Bucket=settings["s3_bucket"], Key=key, ChecksumMode="ENABLED")
    assert told["ETag"].strip('"').endswith("-2")
    ((size, sha256),) = engage.query("SELECT bytes, sha256 FROM deliveries")
    assert (told["ContentLength"], told["Metadata"]["sha256"]) == (size, sha256)


# Refusals

REFUSALS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "secret": ({"aws_secret_access_key": "planted-secret"}, AccessRefused, "SignatureDoesNotMatch"),
    "key": ({"aws_access_key_id": "NOSUCHKEY"}, AccessRefused, "InvalidAccessKeyId"),
    "bucket of somebody else": ({"s3_bucket": "another-bucket"}, AccessRefused, "AccessDenied"),
    "no bucket": ({"s3_bucket": None}, ConfigRefused, "s3_bucket: is needed"),
    "no prefix": ({"s3_prefix": ""}, ConfigRefused, "s3_prefix: is needed"),
    "half a key": ({"aws_secret_access_key": None}, ConfigRefused, "go together"),
    "no bucket's name": ({"s3_bucket": "a b"}, ConfigRefused, "Check s3_bucket"),
    "nobody there": ({"s3_endpoint_url": "http://127.0.0.1:9"}, Outage, "Nothing is lost"),
}


@pytest.mark.parametrize(("change", "kind", "words"), REFUSALS.values(), ids=list(REFUSALS))
def test_a_refusal_is_told_before_the_work_and_nothing_is_sent(
    change: dict[str, Any],
    kind: Any,  # noqa: ANN401 - a class of ours
    words: str,
    settings: dict[str, Any],
    engage: Engage,
) -> None:
    run = engage.run(engage.snapshot(engage.subscriptions(3)), **{**settings, **change})
    assert run.code == kind.exit_code, run.log
    assert words in run.errors
    assert "Traceback" not in run.log
    assert "planted-secret" not in run.log
    assert run.states == []
    assert keys(settings) == []
    again = engage.run(engage.snapshot(engage.subscriptions(3)), **settings)
    assert again.code == 0
    assert len(keys(settings)) == 1


def test_without_any_credentials_the_message_says_so(
    settings: dict[str, Any], engage: Engage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(engage.folder / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(engage.folder / "none"))
    absent = {"aws_access_key_id": None, "aws_secret_access_key": None}
    run = engage.run(engage.snapshot(engage.subscriptions(3)), **{**settings, **absent})
    assert run.code == ConfigRefused.exit_code
    assert "no credentials" in run.errors


def test_the_chain_of_aws_is_asked(
    server: Server, settings: dict[str, Any], engage: Engage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", settings.pop("aws_access_key_id"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", settings.pop("aws_secret_access_key"))
    assert engage.run(engage.snapshot(engage.subscriptions(3)), **settings).code == 0
    assert files_read(server, 1)[0]["users"] == 3


def test_the_debug_log_tells_neither_secret_nor_signature(settings: dict[str, Any], engage: Engage) -> None:
    debug = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"err": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}},
        "root": {"level": "DEBUG", "handlers": ["err"]},
    }
    path = engage.folder / "logging.json"
    path.write_text(json.dumps(debug))
    script = f"import os\nos.environ['SINGER_SDK_LOG_CONFIG'] = {str(path)!r}\n"
    run = engage.run(engage.snapshot(engage.subscriptions(3)), script=script, **settings)
    assert run.code == 0
    assert "Skipping parse of env var settings" in run.log
    assert settings["aws_secret_access_key"] not in run.log + run.out
    assert "Signature" not in run.log
    for path in engage.folder.rglob("*"):
        if path.is_file() and not path.name.startswith("config-"):
            assert settings["aws_secret_access_key"].encode() not in path.read_bytes()


# Servers that fail


class FailingServer(ThreadingHTTPServer):
    """An S3 of its own kind: takes parts and objects, and answers some requests with an error."""

    daemon_threads = True

    def __init__(self, failing: str = "nothing", status: int = 503, page: str | None = None) -> None:
        """Fail for requests whose method and path match *failing*, once the first upload was given up.

        A *status* of 0 is none: the connection ends. A *page* is answered from the first request on.
        """
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                line = f"{self.command} {self.path}"
                server.asked.append(line)
                ready = any(one.startswith("DELETE") for one in server.asked)
                body, status = b"", 200
                if page is not None and re.search(failing, line):
                    status, body = server.status, page.encode()
                elif ready and re.search(failing, line):
                    if not server.status:
                        self.close_connection = True
                        return
                    code = {403: "AccessDenied", 404: "NoSuchBucket"}.get(server.status, "InternalError")
                    status, body = server.status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                elif "?uploads" in self.path:
                    body = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"1"')
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - as http.server wants them

            @override
            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.status = status
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


OWN = {
    "delivery": "s3",
    "s3_bucket": "bucket",
    "s3_prefix": "example/ingest/",
    "aws_access_key_id": "key",
    "aws_secret_access_key": "secret",
    "request_timeout": 5,
    "retry_attempts": 2,
}


REQUESTS: dict[str, tuple[str, int]] = {
    "put": ("^PUT ", 5),
    "create-multipart": (r"^POST \S+traits\S+\?uploads", 3_300),
    "second part": ("^PUT .*partNumber=2", 3_300),
    "complete-multipart": (r"^POST \S+uploadId=", 3_300),
    "looking afterwards": ("^HEAD ", 5),
}
"""What a delivery asks of S3, and how many readers make a file for which it does."""


@pytest.mark.parametrize(
    ("request_made", "status"),
    [*((name, 503) for name in REQUESTS), ("put", 0), ("complete-multipart", 0), ("looking afterwards", 0)],
)
def test_a_server_that_fails_on_an_upload_is_an_outage_and_the_plan_stays_due(
    request_made: str, status: int, settings: dict[str, Any], server: Server, engage: Engage
) -> None:
    failing, rows = REQUESTS[request_made]
    with FailingServer(failing, status=status) as broken:
        run = engage.run(wide(engage, rows), script=SMALL_PARTS, **{**OWN, "s3_endpoint_url": broken.url})
        broken.shutdown()
    assert any(re.search(failing, line) for line in broken.asked)
    assert run.code == Outage.exit_code, run.log
    assert "Nothing is lost" in run.errors
    assert run.states == []
    assert engage.query("SELECT count(*) FROM delivered") == [(0,)]
    assert list(engage.folder.rglob("*.csv")) == []
    again = engage.run(wide(engage, rows), **settings)
    assert again.code == 0, again.log
    assert files_read(server, 1)[0]["users"] == rows


NOT_IMPLEMENTED = "<Error><Code>NotImplemented</Code><Message>no</Message></Error>"


@pytest.mark.parametrize(
    ("failing", "status", "page", "words"),
    [
        (r"^POST \S+\?uploads", 200, "<html>Sign in</html>", "not S3's answer, such as a page of HTML"),
        (r"^POST \S+\?uploads", 501, NOT_IMPLEMENTED, "does not offer that call: check the setting of its address"),
        ("^HEAD ", 200, "<html>Sign in</html>", "It does not count as delivered: run again"),
    ],
    ids=["page", "call it lacks", "page when it is asked for the object"],
)
def test_what_is_no_answer_of_s3_is_an_outage_in_words(
    failing: str, status: int, page: str, words: str, engage: Engage
) -> None:
    with FailingServer(failing, status=status, page=page) as broken:
        run = engage.run(wide(engage, 5), **{**OWN, "s3_endpoint_url": broken.url})
        broken.shutdown()
    assert (run.code, run.states) == (Outage.exit_code, []), run.log
    assert words in run.errors
    assert "Traceback" not in run.log
    assert engage.query("SELECT count(*) FROM delivered") == [(0,)]


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(403, AccessRefused, "AccessDenied"), (404, ConfigRefused, "NoSuchBucket")],
    ids=["read-only", "gone"],
)
def test_a_bucket_that_is_another_in_the_middle_of_a_run_is_told_and_the_plan_stays_due(
    status: int,
    kind: Any,  # noqa: ANN401 - a class of ours
    code: str,
    settings: dict[str, Any],
    server: Server,
    engage: Engage,
) -> None:
    messages = engage.snapshot(engage.subscriptions(5))
    with FailingServer("^PUT ", status=status) as broken:
        run = engage.run(messages, **{**OWN, "s3_endpoint_url": broken.url})
        broken.shutdown()
    assert run.code == kind.exit_code, run.log
    assert code in run.errors
    assert (run.states, engage.query("SELECT count(*) FROM delivered")) == ([], [(0,)])
    assert engage.run(messages, **settings).code == 0
    assert files_read(server, 1)[0]["users"] == 5


def test_a_target_that_lets_state_out_before_the_upload_is_found_out(engage: Engage) -> None:
    """The broken double of the tests where an upload fails."""
    with FailingServer("PUT") as broken:
        run = engage.run(
            engage.snapshot(engage.subscriptions(5)), script=EARLY_STATE, **{**OWN, "s3_endpoint_url": broken.url}
        )
        broken.shutdown()
    assert run.code == Outage.exit_code, run.log
    with pytest.raises(AssertionError):
        assert run.states == []


def test_an_object_that_is_not_what_was_sent_does_not_count_as_delivered(engage: Engage) -> None:
    """The server says yes to everything, and tells of an empty object afterwards."""
    with FailingServer() as liar:
        run = engage.run(engage.snapshot(engage.subscriptions(5)), **{**OWN, "s3_endpoint_url": liar.url})
        liar.shutdown()
    assert run.code == Outage.exit_code, run.log
    assert "is not the file that was sent" in run.errors
    assert engage.query("SELECT count(*) FROM delivered") == [(0,)]


def test_who_does_not_compare_believes_the_liar(engage: Engage) -> None:
    """The broken double of the test above."""
    script = "from target_recurly_engage import bucket\nbucket.BucketClient._compare = lambda *a: None\n"
    with FailingServer() as liar:
        run = engage.run(
            engage.snapshot(engage.subscriptions(5)), script=script, **{**OWN, "s3_endpoint_url": liar.url}
        )
        liar.shutdown()
    assert run.code == 0
    assert engage.query("SELECT count(*) FROM delivered") == [(5,)]


def test_who_may_write_but_not_look_delivers(engage: Engage) -> None:
    with FailingServer("HEAD", status=403) as blind:
        run = engage.run(engage.snapshot(engage.subscriptions(5)), **{**OWN, "s3_endpoint_url": blind.url})
        blind.shutdown()
    assert run.code == 0, run.log
    assert "may be written, but not looked at" in run.log
    assert any(line.startswith("PUT /bucket/example/ingest/traits-") for line in blind.asked)


# Kills

DIE = "import os; os.kill(os.getpid(), 9)"
KILL = f"""
from target_recurly_engage import bucket, run
from target_recurly_engage.delivery import choice
from target_recurly_engage.delivery import csvs, s3
def die(*args, **options):
    {DIE}
"""
POINTS = {
    "before the upload": "s3.S3Delivery._publish = die",
    "after the upload": "bucket.BucketClient._compare = die",
    "before it is acknowledged": "s3.S3Delivery._acknowledge = die",
    "while it is acknowledged": "s3.S3Delivery._set_status = die",
    "after it is acknowledged": "run.Run.end = die",
    "between two parts": """
bucket.PART_BYTES = 5 << 20
import threading
from botocore.client import BaseClient
done = threading.Semaphore(1)
def call(self, operation, parameters, original=BaseClient._make_api_call):
    answer = original(self, operation, parameters)
    if operation == "UploadPart":
        die()
    return answer
BaseClient._make_api_call = call
""",
}


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_was_killed_is_made_good_by_the_next(
    point: str, settings: dict[str, Any], server: Server, engage: Engage
) -> None:
    rows = 3_300 if "parts" in point else 20
    killed = engage.run(wide(engage, rows), script=KILL + POINTS[point], **settings)
    assert (killed.code, killed.out) == (-signal.SIGKILL, "")
    assert len(uploads(settings)) == (1 if "parts" in point else 0)
    again = engage.run(wide(engage, rows), **settings)
    assert (again.code, len(again.states)) == (0, 1), again.log
    assert [file["users"] for file in files_read(server, 1)] == [rows]
    assert len(keys(settings)) == 1
    assert uploads(settings) == []
    assert engage.query("SELECT count(*) FROM delivered") == [(rows,)]
    assert engage.query("SELECT count(*) FROM deliveries WHERE status = 'acknowledged'") == [(1,)]
    assert [path for path in engage.folder.rglob("*") if path.suffix in {".csv", ".part", ".work"}] == []


def test_an_object_somebody_replaced_after_a_crash_counts_as_not_delivered(
    settings: dict[str, Any], engage: Engage
) -> None:
    messages = engage.snapshot(engage.subscriptions(4))
    engage.run(messages, script=KILL + POINTS["before it is acknowledged"], **settings)
    (key,) = keys(settings)
    client(settings).put_object(Bucket=settings["s3_bucket"], Key=key, Body=b"user_id\n")
    assert engage.run(messages, **settings).code == 0
    assert len(keys(settings)) == 2


def test_a_channel_that_says_yes_too_early_is_found_out(settings: dict[str, Any], engage: Engage) -> None:
    """The broken double: it acknowledges before the upload, and dies in it."""
    script = f"""{KILL}
class Early(s3.S3Delivery):
    def _write(self, delivery_id, location, users):
        self._acknowledge(delivery_id)
        die()
choice.S3Delivery = Early
"""
    messages = engage.snapshot(engage.subscriptions(4))
    assert engage.run(messages, script=script, **settings).code == -signal.SIGKILL
    engage.run(messages, **settings)
    with pytest.raises(AssertionError):
        assert len(keys(settings)) == 1


def test_another_channel_sends_what_a_crash_left_open(settings: dict[str, Any], engage: Engage) -> None:
    messages = engage.snapshot(engage.subscriptions(4))
    engage.run(messages, script=KILL + POINTS["before the upload"], **settings)
    assert engage.run(messages).code == 0
    assert len(engage.sent()) == 4
    assert keys(settings) == []
    assert sorted(engage.query("SELECT channel, status FROM deliveries")) == [
        ("file", "written"),
        ("s3", "in doubt"),
    ]


def test_a_full_disk_while_the_file_is_made_sends_nothing(settings: dict[str, Any], engage: Engage) -> None:
    script = f"""{KILL}
import errno
def full(path):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))
csvs.sha256_of = full
"""
    messages = engage.snapshot(engage.subscriptions(4))
    run = engage.run(messages, script=script, **settings)
    assert run.code == 74
    assert "No space left on device" in run.errors
    assert keys(settings) == []
    assert engage.run(messages, **settings).code == 0
    assert len(keys(settings)) == 1

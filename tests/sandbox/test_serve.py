"""The command `sandbox serve`: its options, from flags and from the environment, and how it begins and ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from piano_engage_sandbox import serve
from piano_engage_sandbox.serve import from_environment, options_of, parser
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

COMMAND = Path(sys.executable).with_name("sandbox")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("SANDBOX_")}


class Process:
    """`sandbox` as a process of its own, on free ports."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.lines_file = folder / "env"
        temporary = folder / "temporary"
        temporary.mkdir()
        self.temporary = temporary
        command = [COMMAND, *arguments]
        settings = {"SANDBOX_PORT": "0", "SANDBOX_S3_PORT": "0", "SANDBOX_ENV_FILE": str(self.lines_file)}
        self.process = subprocess.Popen(
            command, env={**CLEAN, **settings, "TMPDIR": str(temporary), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        self.first = self.process.stderr.readline()

    @property
    def lines(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.lines_file.read_text(encoding="utf-8").splitlines())

    def get(self, path: str) -> tuple[int, bytes]:
        address = urlsplit(self.lines["TARGET_RECURLY_ENGAGE_API_URL"])
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        found = response.status, response.read()
        connection.close()
        return found

    def end(self, number: int) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    found: list[Process] = []
    yield found
    for one in found:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def given(*arguments: str) -> Any:  # noqa: ANN401 - a namespace
    return options_of(parser().parse_args(["serve", *arguments]))


def test_it_serves_when_nothing_is_said_and_prints_the_lines_to_paste(tmp_path: Path, processes: list[Process]) -> None:
    process = Process(tmp_path)
    processes.append(process)
    assert process.first.startswith("sandbox: serving at http://127.0.0.1:")
    assert process.get("/")[0] == 200
    assert json.loads(process.get("/_sandbox/clock")[1])["running"] is True
    lines = process.lines
    code, out, err = process.end(signal.SIGTERM)
    assert out.splitlines()[1:] == [f"{name}={value}" for name, value in lines.items()]
    assert lines["TAP_PIANO_AID"] == "ExAmPlE4a1"
    assert lines["TARGET_RECURLY_ENGAGE_S3_ENDPOINT_URL"].startswith("http://127.0.0.1:")
    assert (code, err) == (0, "sandbox: stopping\n")


def test_ctrl_c_ends_it_cleanly_and_no_file_is_left(tmp_path: Path, processes: list[Process]) -> None:
    process = Process(tmp_path, "serve", "--frozen", "--rows=50")
    processes.append(process)
    base = "/rest/export"
    access = f"aid={process.lines['TAP_PIANO_AID']}&api_token={process.lines['TAP_PIANO_API_TOKEN']}"
    assert process.get(f"{base}/schedule/vx/subscriptionLog?{access}")[0] == 200
    assert process.end(signal.SIGINT)[::2] == (0, "sandbox: stopping\n")
    assert list(process.temporary.rglob("*")) == []


def test_a_taken_port_is_a_clear_error(tmp_path: Path, processes: list[Process]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for name in ("SANDBOX_PORT", "SANDBOX_S3_PORT"):
            folder = tmp_path / name
            folder.mkdir()
            process = Process(folder, **{name: port})
            processes.append(process)
            out, err = process.process.communicate(timeout=30)
            assert process.first.startswith("sandbox: cannot serve: ")
            assert "choose --port and --s3-port" in process.first
            assert (process.process.returncode, out, err) == (1, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--begins", "yesterday"], "not a date-time: 'yesterday'"),
        (["--switch", "reports.packed"], "--switch takes NAME=VALUE, not 'reports.packed'"),
        (["--switch", "reports.pack=zip"], "no switch 'reports.pack'"),
        (["--fault", "status=soon"], "fault: status takes a whole number"),
        (["--limit", "part=engage"], "limit: say 'rate'"),
        (["--app", ":Europe/Amsterdam"], "--app takes AID[:ZONE[:ROWS]], not ':Europe/Amsterdam'"),
        (["--app", "A:Nowhere/City"], "unknown time zone 'Nowhere/City'"),
        (["--segments", "missing.yaml"], "--segments: cannot read missing.yaml"),
        (["--port", "many"], "argument --port: invalid int value: 'many'"),
        (["--webhook-url", "nowhere"], "nowhere"),
    ],
)
def test_an_option_that_makes_no_sense_ends_with_2_and_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(os, "environ", CLEAN)
    with pytest.raises(SystemExit) as caught:
        serve.main(["serve", "--port=0", "--s3-port=0", "--rows=50", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_options_come_from_the_environment_and_flags_stand_above_them() -> None:
    environment = {
        "SANDBOX_PORT": "1", "SANDBOX_S3_PORT": "2", "SANDBOX_SEED": "3", "SANDBOX_ROWS": "", "SANDBOX_FROZEN": "true",
        "SANDBOX_SWITCH": '["reports.packed=zip", "engage.null=clear"]', "SANDBOX_APP": "A:UTC:7",
        "SANDBOX_HOST": "::1", "SANDBOX_EXPORT_PATH": "of another command",
    }  # fmt: skip
    options = given(*from_environment(environment), "--port=9")
    assert (options.port, options.s3_port, options.seed, options.host) == (9, 2, 3, "::1")
    assert options.running is False
    assert options.switches == {"reports.packed": "zip", "engage.null": "clear"}
    assert [(app.aid, app.timezone, app.rows) for app in options.apps] == [("A", "UTC", 7)]
    assert from_environment({"SANDBOX_FROZEN": "false"}) == []


def test_every_option_has_a_variable() -> None:
    values = {"frozen": "true", "begins": "2026-01-01T00:00"}
    names = set(vars(parser().parse_args(["serve"]))) - {"command"}
    for name in names:
        (option,) = from_environment({f"SANDBOX_{name.upper()}": values.get(name, "1")})
        assert option.split("=")[0] == f"--{name.replace('_', '-')}"


def test_applications_have_their_zone_and_rows_or_those_of_all() -> None:
    apps = given("--rows=5", "--app=A", "--app=B:UTC", "--app=C:Asia/Tokyo:9").apps
    assert [(app.aid, app.timezone, app.rows) for app in apps] == [
        ("A", "Europe/Amsterdam", 5),
        ("B", "UTC", 5),
        ("C", "Asia/Tokyo", 9),
    ]


def test_flags_for_faults_limits_and_segments_hold_from_the_first_request(
    tmp_path: Path, processes: list[Process]
) -> None:
    segments = tmp_path / "segments.yaml"
    segments.write_text("- name: Trials\n  filters: [{trait: in_trial, values: ['true']}]\n", encoding="utf-8")
    flags = ["--fault=part=engage,status=503", "--limit=part=engage,rate=3", f"--segments={segments}"]
    flags.append("--webhook-url=http://127.0.0.1:9/")
    process = Process(tmp_path, "--rows=50", "--frozen", *flags)
    processes.append(process)
    assert process.get("/ping")[0] == 503
    assert json.loads(process.get("/_sandbox/limits")[1])[0]["requests"] == 1
    assert [s["name"] for s in json.loads(process.get("/_sandbox/engage")[1])["segments"]] == ["All Users", "Trials"]
    assert json.loads(process.get("/_sandbox/webhooks")[1])["url"] == "http://127.0.0.1:9/"
    assert process.end(signal.SIGINT)[0] == 0


def test_a_server_can_be_told_something_in_its_loop_only_while_it_serves(sandbox: Server) -> None:
    assert sandbox.call(lambda: 17) == 17
    with serving() as other:
        pass
    with pytest.raises(RuntimeError):
        other.call(lambda: 17)


def test_the_fixtures_serve_with_and_without_s3(sandbox: Server, sandbox_s3: Server) -> None:
    assert sandbox.port != sandbox_s3.port
    assert "TARGET_RECURLY_ENGAGE_S3_BUCKET" not in sandbox.environment()
    assert sandbox_s3.environment()["TARGET_RECURLY_ENGAGE_S3_BUCKET"]

"""The two small clients, `sandbox export` and `sandbox upload`, against the sandbox."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest
from piano_engage_sandbox import client
from piano_engage_sandbox.client import ClientError
from piano_engage_sandbox.serve import main

if TYPE_CHECKING:
    from pathlib import Path

    from piano_engage_sandbox.server import Server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "POLL_SECONDS", 0.001)


def files(server: Server) -> list[str]:
    """Names of the files that reached the ingest folder."""
    return [file["key"].rpartition("/")[2] for file in server.control("GET", "engage")["files"]]


def test_an_export_is_the_complete_log_with_all_its_columns(sandbox: Server, tmp_path: Path) -> None:
    path = tmp_path / "new" / "export.csv"
    assert client.export(str(path), sandbox.environment()) == 0
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert (len(header), len(rows)) == (99, 200)
    assert [entry.name for entry in path.parent.iterdir()] == ["export.csv"]


def test_an_export_waits_until_the_job_is_finished(sandbox: Server, tmp_path: Path) -> None:
    sandbox.control("POST", "reports", {"script": ["CREATED", "IN_PROGRESS", "REPROCESS", "FINISHED"]})
    assert client.export(str(tmp_path / "export.csv"), sandbox.environment()) == 0


def test_a_job_that_failed_is_told(sandbox: Server, tmp_path: Path) -> None:
    sandbox.control("POST", "reports", {"script": ["CREATED", "INTERNAL_ERROR"], "error_text": "no luck"})
    with pytest.raises(ClientError, match="ended as INTERNAL_ERROR: no luck"):
        client.export(str(tmp_path / "export.csv"), sandbox.environment())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "members",
    [
        {"path": "/rest/export/files/*", "truncate": 1000},
        {"path": "/rest/export/files/*", "reset": True},
        {"path": "/rest/export/files/*", "reset": True, "when": "after", "truncate": 1000},
        {"path": "/rest/export/files/*", "status": 503},
    ],
)
def test_a_broken_download_leaves_the_file_of_yesterday(
    sandbox: Server, tmp_path: Path, members: dict[str, object]
) -> None:
    path = tmp_path / "export.csv"
    path.write_text("yesterday", encoding="utf-8")
    sandbox.control("POST", "faults", {"part": "reports", **members})
    with pytest.raises(ClientError, match="download"):
        client.export(str(path), sandbox.environment())
    assert path.read_text(encoding="utf-8") == "yesterday"
    assert [entry.name for entry in tmp_path.iterdir()] == ["export.csv"]


def test_a_streamed_download_can_be_slow_and_comes_whole(sandbox: Server, tmp_path: Path) -> None:
    assert client.export(str(tmp_path / "quick.csv"), sandbox.environment()) == 0
    size = (tmp_path / "quick.csv").stat().st_size
    sandbox.control("POST", "faults", {"path": "/rest/export/files/*", "bytes_per_second": size * 5})
    assert client.export(str(tmp_path / "slow.csv"), sandbox.environment()) == 0
    assert (tmp_path / "slow.csv").read_bytes() == (tmp_path / "quick.csv").read_bytes()
    assert sandbox.control("GET", "requests?fault=bytes_per_second")[-1]["ms"] >= 150


def test_errors_name_the_route_and_never_the_token(
    sandbox: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = "planted-7f3a"
    for name, value in {**sandbox.environment(), "TAP_PIANO_API_TOKEN": planted}.items():
        monkeypatch.setenv(name, value)
    assert main(["export", "--output", str(tmp_path / "export.csv")]) == 1
    told = capsys.readouterr().err
    assert told == "sandbox: POST /export/schedule/vx/subscriptionLog answered 401\n"
    monkeypatch.setenv("TAP_PIANO_REPORTS_URL", "http://127.0.0.1:9/rest")
    assert main(["export", "--output", str(tmp_path / "export.csv")]) == 1
    told = capsys.readouterr().err
    assert "is the sandbox serving?" in told
    assert planted not in told


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(ClientError, match="SANDBOX_EXPORT_PATH is not set"):
        client.export(None, {})
    with pytest.raises(ClientError, match="TAP_PIANO_AID is not set; paste the lines"):
        client.export("x.csv", {})
    with pytest.raises(ClientError, match="TARGET_RECURLY_ENGAGE_S3_BUCKET is not set"):
        client.upload(["x.csv"], {})


def test_each_file_is_uploaded_once(sandbox_s3: Server, tmp_path: Path) -> None:
    environment = {**sandbox_s3.environment(), "SANDBOX_UPLOAD_PATH": str(tmp_path)}
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text(f"user_id,stage\n{name},trial\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("no CSV", encoding="utf-8")
    assert client.upload([], environment) == 0
    assert sorted(files(sandbox_s3)) == ["one.csv", "two.csv"]
    (tmp_path / "three.csv").write_text("user_id,stage\nu3,trial\n", encoding="utf-8")
    assert client.upload([], environment) == client.upload([], environment) == 0
    assert sorted(files(sandbox_s3)) == ["one.csv", "three.csv", "two.csv"]


def test_another_sandbox_gets_the_files_anew(sandbox_s3: Server, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("user_id,stage\nu1,trial\n", encoding="utf-8")
    client.upload([str(tmp_path)], sandbox_s3.environment())
    memory = next(tmp_path.glob(".*.json"))
    memory.write_text(memory.read_text(encoding="utf-8").replace("http://127", "http://128"), encoding="utf-8")
    client.upload([str(tmp_path / "one.csv")], sandbox_s3.environment())
    assert files(sandbox_s3) == ["one.csv", "one.csv"]


def test_a_folder_that_does_not_exist_yet_has_nothing_to_upload(sandbox_s3: Server, tmp_path: Path) -> None:
    assert client.upload([str(tmp_path / "later")], sandbox_s3.environment()) == 0
    assert files(sandbox_s3) == []


def test_a_refused_upload_is_told_and_tried_again_next_time(sandbox_s3: Server, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("user_id,stage\nu1,trial\n", encoding="utf-8")
    good = sandbox_s3.environment()
    with pytest.raises(ClientError, match="the upload failed"):
        client.upload([str(tmp_path)], {**good, "TARGET_RECURLY_ENGAGE_AWS_SECRET_ACCESS_KEY": "wrong"})
    assert client.upload([str(tmp_path)], good) == 0
    assert files(sandbox_s3) == ["one.csv"]

"""The small client, `sandbox upload`, against the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from piano_engage_sandbox import client
from piano_engage_sandbox.client import ClientError

if TYPE_CHECKING:
    from pathlib import Path

    from piano_engage_sandbox.server import Server


def files(server: Server) -> list[str]:
    """Names of the files that reached the ingest folder."""
    return [file["key"].rpartition("/")[2] for file in server.control("GET", "engage")["files"]]


def test_a_missing_variable_is_named(sandbox_s3: Server) -> None:
    with pytest.raises(ClientError, match="SANDBOX_UPLOAD_PATH is not set"):
        client.upload([], sandbox_s3.environment())
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

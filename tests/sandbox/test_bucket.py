"""The bucket from outside: boto3 over sockets with the lines of `.env`, and what the control endpoint then tells."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from piano_engage_sandbox.server import Server

DEADLINE = 60.0
PART = 8 * 1024 * 1024
"""Bytes of a part, as the aws command line and boto3 have it."""
CHECKSUMS = ["when_supported", "when_required"]
"""Clients of today add a checksum to all they send, older ones to nothing."""
LINE = "TARGET_RECURLY_ENGAGE_"


@contextmanager
def connected(server: Server, *, config: dict[str, Any] | None = None, **other: str) -> Iterator[Any]:
    """Connect with what the sandbox prints for `.env`; its users know no more."""
    lines = server.environment()
    given: dict[str, Any] = {
        "aws_access_key_id": lines[f"{LINE}AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": lines[f"{LINE}AWS_SECRET_ACCESS_KEY"],
        "endpoint_url": lines[f"{LINE}S3_ENDPOINT_URL"],
        "region_name": "us-west-2",
        **other,
    }
    settings = Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}, **(config or {}))
    client = boto3.session.Session().client("s3", config=settings, **given)
    try:
        yield client
    finally:
        client.close()


def place(server: Server, name: str) -> dict[str, str]:
    """Give bucket and key of a file in the ingest folder."""
    lines = server.environment()
    return {"Bucket": lines[f"{LINE}S3_BUCKET"], "Key": lines[f"{LINE}S3_PREFIX"] + name}


def files(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.control("GET", "engage")["files"]
    return found


def read(server: Server, name: str) -> dict[str, Any]:
    """Wait until a file was read, and give what is told of it."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        for file in files(server):
            if file["key"].endswith(f"/{name}") and file["status"] not in {"waiting", "reading"}:
                return file
        time.sleep(0.01)
    return pytest.fail(f"{name} was not read: {files(server)}")


def traits(server: Server, user: str) -> dict[str, Any] | None:
    found = server.control("GET", f"engage/user/{user}")
    return None if found is None else found["traits"]


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    """Give status and code of a refused call."""
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


@pytest.fixture(name="server")
def server_fixture() -> Iterator[Server]:
    with serving(s3_port=0, switches={"engage.csv_delay": 0}) as server:
        yield server


@pytest.fixture(scope="module", name="large")
def large_fixture() -> bytes:
    """A file of three parts whose rows lie across their borders."""
    filler = "x" * 1500
    content = ("user_id,number,filler\n" + "".join(f"user-{n},{n},{filler}\n" for n in range(12_000))).encode()
    assert 2 * PART < len(content) < 3 * PART
    return content


def check_large(server: Server, name: str, content: bytes) -> None:
    file = read(server, name)
    assert (file["status"], file["rows"], file["users"], file["errors"]) == ("done", 12_000, 12_000, [])
    assert file["size"] == len(content)
    assert server.control("GET", "engage")["traits"]["number"]["users"] == 12_000
    for at in (PART, 2 * PART):
        number = content[:at].count(b"\n") - 1  # the row that a border cuts in two
        assert traits(server, f"user-{number}") == {"number": str(number), "filler": "x" * 1500}


@pytest.mark.parametrize("checksums", CHECKSUMS)
def test_put_object_makes_traits(server: Server, checksums: str) -> None:
    with connected(server, config={"request_checksum_calculation": checksums}) as client:
        client.put_object(**place(server, "a.csv"), Body=b"user_id,auto_renew,score\nann,true,7\nbob,false,8\n")
    file = read(server, "a.csv")
    assert (file["status"], file["rows"], file["users"], file["skipped"]) == ("done", 2, 2, 0)
    assert traits(server, "ann") == {"auto_renew": "true", "score": "7"}
    assert traits(server, "bob") == {"auto_renew": "false", "score": "8"}
    assert server.control("GET", "engage/user/ann")["source"] == "csv"


def test_a_key_with_signs_that_must_be_escaped_is_signed_and_read(server: Server) -> None:
    name = "Traits é+ (1) 100%&=~.csv"
    with connected(server) as client:
        client.put_object(**place(server, name), Body=b"user_id,a\nann,1\n")
        assert client.get_object(**place(server, name))["Body"].read() == b"user_id,a\nann,1\n"
    assert read(server, name)["status"] == "done"


@pytest.mark.parametrize("checksums", CHECKSUMS)
def test_upload_file_in_parts_makes_traits(server: Server, tmp_path: Path, large: bytes, checksums: str) -> None:
    path = tmp_path / "large.csv"
    path.write_bytes(large)
    where = place(server, "large.csv")
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART)
    with connected(server, config={"request_checksum_calculation": checksums}) as client:
        client.upload_file(str(path), where["Bucket"], where["Key"], Config=config)
        assert client.head_object(**where)["ETag"].endswith('-3"')  # three parts
    check_large(server, "large.csv", large)


def test_parts_by_hand_make_traits_once_completed_in_whatever_order_they_came(server: Server, large: bytes) -> None:
    where = place(server, "by-hand.csv")
    with connected(server) as client:
        upload = {**where, "UploadId": client.create_multipart_upload(**where)["UploadId"]}
        client.upload_part(**upload, PartNumber=2, Body=b"a part that is sent again")
        tags = {
            number: client.upload_part(**upload, PartNumber=number, Body=large[(number - 1) * PART : number * PART])
            for number in (3, 1, 2)
        }
        assert files(server) == []
        assert [part["PartNumber"] for part in client.list_parts(**upload)["Parts"]] == [1, 2, 3]
        parts = [{"PartNumber": number, "ETag": tags[number]["ETag"]} for number in sorted(tags)]
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    check_large(server, "by-hand.csv", large)
    assert len(files(server)) == 1


def test_an_upload_that_is_aborted_is_no_file(server: Server) -> None:
    where = place(server, "aborted.csv")
    with connected(server) as client:
        upload = {**where, "UploadId": client.create_multipart_upload(**where)["UploadId"]}
        client.upload_part(**upload, PartNumber=1, Body=b"user_id,a\nann,1\n")
        client.abort_multipart_upload(**upload)
    assert files(server) == []


@pytest.mark.parametrize("folder", ["exports/", "", "ingest.csv/", "Ingest/"])
def test_only_the_ingest_folder_is_read(server: Server, folder: str) -> None:
    where = place(server, "a.csv")
    beside = where["Key"].removesuffix("ingest/a.csv") + folder + "a.csv"
    with connected(server) as client:
        client.put_object(Bucket=where["Bucket"], Key=beside, Body=b"user_id,a\nann,1\n")
        client.put_object(Bucket=where["Bucket"], Key=f"ingest/{folder}a.csv", Body=b"user_id,a\nann,1\n")
        assert client.head_object(Bucket=where["Bucket"], Key=beside)["ContentLength"] == 16
        client.put_object(**place(server, "b.csv"), Body=b"user_id,a\nbob,1\n")
    read(server, "b.csv")
    assert [file["key"] for file in files(server)] == [place(server, "b.csv")["Key"]]
    assert traits(server, "ann") is None


def test_a_mark_of_a_folder_is_no_file(server: Server) -> None:
    with connected(server) as client:
        client.put_object(**place(server, ""), Body=b"")
        client.put_object(**place(server, "sub/"), Body=b"")
    assert files(server) == []


# Credentials --------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "secret": ({"aws_secret_access_key": "wrong" * 8}, "SignatureDoesNotMatch"),
    "key": ({"aws_access_key_id": "SANDBOXUNKNOWN000000"}, "InvalidAccessKeyId"),
    "region": ({"region_name": "us-east-1"}, "SignatureDoesNotMatch"),
    "nothing": ({"config": {"signature_version": UNSIGNED}}, "AccessDenied"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_credentials_neither_write_nor_read(server: Server, wrong: str) -> None:
    other, code = WRONG[wrong]
    where = place(server, "a.csv")
    with connected(server, **other) as client:
        assert refusal(lambda: client.put_object(**where, Body=b"user_id,a\nann,1\n")) == (403, code)
        assert refusal(lambda: client.get_object(**where)) == (403, code)
        assert refusal(lambda: client.list_objects_v2(Bucket=where["Bucket"])) == (403, code)
        assert refusal(lambda: client.create_multipart_upload(**where)) == (403, code)
    assert files(server) == []
    with connected(server) as client:
        assert client.list_objects_v2(Bucket=where["Bucket"])["KeyCount"] == 0


def test_the_key_may_not_list_buckets(server: Server) -> None:
    with connected(server) as client:
        assert refusal(client.list_buckets) == (403, "AccessDenied")


def test_the_key_opens_no_other_bucket(server: Server) -> None:
    with serving(s3_port=0) as neighbour, connected(server) as client:
        other = place(neighbour, "a.csv")
        assert refusal(lambda: client.put_object(**other, Body=b"user_id,a\nann,1\n")) == (403, "AccessDenied")
        assert refusal(lambda: client.list_objects_v2(Bucket=other["Bucket"])) == (403, "AccessDenied")
        assert refusal(lambda: client.create_bucket(Bucket="a-new-one")) == (403, "AccessDenied")
        assert files(neighbour) == []


def test_the_key_copies_nothing_out_of_another_bucket(server: Server) -> None:
    where = place(server, "mine.csv")
    with serving(s3_port=0, switches={"engage.csv_delay": 10_800}) as neighbour:
        source = place(neighbour, "theirs.csv")
        with connected(neighbour) as client:
            client.put_object(**source, Body=b"user_id,a\nann,theirs\n")
        with connected(server) as client:
            assert refusal(lambda: client.copy_object(**where, CopySource=source)) == (403, "AccessDenied")
            part = {**where, "UploadId": client.create_multipart_upload(**where)["UploadId"], "PartNumber": 1}
            assert refusal(lambda: client.upload_part_copy(**part, CopySource=source)) == (403, "AccessDenied")
    assert files(server) == []


def test_a_copy_within_the_bucket_into_the_ingest_folder_is_read(server: Server) -> None:
    where = place(server, "a.csv")
    draft = {"Bucket": where["Bucket"], "Key": "drafts/é a.csv"}
    with connected(server) as client:
        client.put_object(**draft, Body=b"user_id,a\nann,1\n")
        client.copy_object(**where, CopySource=draft)
    assert read(server, "a.csv")["status"] == "done"
    assert traits(server, "ann") == {"a": "1"}


def test_the_connection_goes_on_after_a_refusal(server: Server) -> None:
    where = place(server, "a.csv")
    with connected(server, config={"max_pool_connections": 1}) as client:
        refusal(lambda: client.put_object(Bucket="another", Key="a.csv", Body=b"x" * 100_000))
        client.put_object(**where, Body=b"user_id,a\nann,1\n")
    assert read(server, "a.csv")["status"] == "done"


def test_two_sandboxes_do_not_see_each_others_files(server: Server) -> None:
    with serving(s3_port=0, switches={"engage.csv_delay": 0}) as other, connected(other) as client:
        client.put_object(**place(other, "one.csv"), Body=b"user_id,a\nann,1\n")
        assert read(other, "one.csv")["status"] == "done"
        assert traits(other, "ann") == {"a": "1"}
        assert files(server) == []

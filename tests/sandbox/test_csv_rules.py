"""Each rule for files of traits, from outside: a small file is put into the bucket, the control endpoint tells."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

DEADLINE = 60.0
DELAY = 10_800
"""Engage's own figure: within three hours."""
MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
LINE = "TARGET_RECURLY_ENGAGE_"


class Folder:
    """The ingest folder of a sandbox, and what is told of its files and users."""

    def __init__(self, server: Server, client: Any) -> None:  # noqa: ANN401 - boto3 makes its classes as it runs
        lines = server.environment()
        self.server, self.client = server, client
        self.name, self.prefix = lines[f"{LINE}S3_BUCKET"], lines[f"{LINE}S3_PREFIX"]

    def set(self, **switches: object) -> None:
        self.server.control("POST", "switches", {f"engage.{name}": value for name, value in switches.items()})

    def put(self, content: str | bytes, name: str = "traits.csv") -> None:
        body = content.encode() if isinstance(content, str) else content
        self.client.put_object(Bucket=self.name, Key=self.prefix + name, Body=body)

    def files(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.server.control("GET", "engage")["files"]
        return found

    def read(self) -> dict[str, Any]:
        """Wait until all files were read, and give the last."""
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            found = self.files()
            if found and not {"waiting", "reading"} & {file["status"] for file in found}:
                return found[-1]
            time.sleep(0.005)
        return pytest.fail(f"not read: {self.files()}")

    def load(self, content: str | bytes, name: str = "traits.csv") -> dict[str, Any]:
        self.put(content, name)
        return self.read()

    def traits(self, user: str) -> dict[str, Any] | None:
        found = self.server.control("GET", f"engage/user/{user}")
        return None if found is None else found["traits"]

    def advance(self, seconds: int) -> None:
        self.server.control("POST", "clock", {"advance": seconds})

    def clock(self) -> float:
        return float(self.server.sandbox.now())


@pytest.fixture(scope="module", name="shared")
def shared_fixture() -> Iterator[Folder]:
    """One sandbox for the rules of this file; each test gets it empty, with all switches as they were."""
    with serving(s3_port=0) as server:
        lines = server.environment()
        client = boto3.session.Session().client(
            "s3",
            region_name="us-west-2",
            endpoint_url=lines[f"{LINE}S3_ENDPOINT_URL"],
            aws_access_key_id=lines[f"{LINE}AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=lines[f"{LINE}AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
        )
        try:
            yield Folder(server, client)
        finally:
            client.close()


@pytest.fixture(name="folder")
def folder_fixture(shared: Folder) -> Iterator[Folder]:
    before = shared.server.control("GET", "switches")
    shared.set(csv_delay=0)
    yield shared
    if shared.files():  # nothing may be left for the next test to meet
        shared.set(csv_delay=0)
        shared.advance(1)
        shared.read()
    for found in shared.client.list_objects_v2(Bucket=shared.name).get("Contents", []):
        shared.client.delete_object(Bucket=shared.name, Key=found["Key"])
    shared.server.control("POST", "reset")
    shared.server.control("POST", "switches", before)


# Documented ---------------------------------------------------------------------------------------------------------


def test_a_column_whose_header_has_a_space_is_dropped(folder: Folder) -> None:
    file = folder.load("user_id,Auto renew,status, lead,tail \nann,true,active,x,y\n")
    assert (file["status"], file["dropped"]) == ("done", ["Auto renew", " lead", "tail "])
    assert len(file["errors"]) == 3
    assert "column 2, 'Auto renew'" in file["errors"][0]
    assert folder.traits("ann") == {"status": "active"}
    assert set(folder.server.control("GET", "engage")["traits"]) == {"status"}


def test_of_two_equal_headers_the_first_counts(folder: Folder) -> None:
    file = folder.load("user_id,a,a\nann,1,2\n")
    assert (file["status"], file["dropped"]) == ("done", ["a"])
    assert folder.traits("ann") == {"a": "1"}


def test_keys_are_case_sensitive(folder: Folder) -> None:
    folder.load("user_id,status,Status\nann,low,high\n", "one.csv")
    folder.load("user_id,STATUS\nann,loud\n", "two.csv")
    assert folder.traits("ann") == {"status": "low", "Status": "high", "STATUS": "loud"}
    assert set(folder.server.control("GET", "engage")["traits"]) == {"status", "Status", "STATUS"}


@pytest.mark.parametrize(
    "header", ["status,user_id", "User_ID,status", "USER_ID,status", "id,status", '" user_id",status', "user_id;status"]
)
def test_a_file_without_user_id_first_is_refused_whole(folder: Folder, header: str) -> None:
    file = folder.load(f"{header}\nann,ann\nbob,bob\n")
    assert (file["status"], file["rows"], file["users"]) == ("refused", 0, 0)
    assert file["errors"][0].startswith("the first column must be user_id, not ")
    assert folder.server.control("GET", "engage")["users"] == 0


def test_a_file_is_read_after_the_delay_and_not_before(folder: Folder) -> None:
    folder.set(csv_delay=DELAY)
    folder.put("user_id,a\nann,1\n")
    uploaded = folder.clock()
    folder.advance(DELAY - 1)
    stays_unread(folder)
    assert folder.traits("ann") is None
    folder.advance(1)
    file = folder.read()
    assert (file["status"], file["uploaded"], file["read_at"]) == ("done", uploaded, uploaded + DELAY)
    assert folder.traits("ann") == {"a": "1"}


def stays_unread(folder: Folder) -> None:
    """Give the reader of files many turns, as each question is a turn of the same loop; none may begin one."""
    for _ in range(50):
        assert [file["status"] for file in folder.files()] == ["waiting"]


def test_a_sandbox_that_reads_a_second_too_early_is_found_out(folder: Folder) -> None:
    folder.set(csv_delay=DELAY - 1)
    folder.put("user_id,a\nann,1\n")
    folder.advance(DELAY - 1)
    with pytest.raises(AssertionError):
        stays_unread(folder)


def test_a_delta_file_changes_its_cells_and_nothing_else(folder: Folder) -> None:
    folder.load("user_id,a,b\nann,1,2\nbob,3,4\n", "full.csv")
    file = folder.load("user_id,a,c\nann,9,new\ncid,5,6\n", "delta.csv")
    assert (file["status"], file["users"]) == ("done", 2)
    assert folder.traits("ann") == {"a": "9", "b": "2", "c": "new"}
    assert folder.traits("bob") == {"a": "3", "b": "4"}
    assert folder.traits("cid") == {"a": "5", "c": "6"}


def test_a_header_alone_is_a_file_without_users(folder: Folder) -> None:
    file = folder.load("user_id,a\n")
    assert (file["status"], file["rows"], file["users"], file["errors"]) == ("done", 0, 0, [])


@pytest.mark.parametrize("header", ["Id,ChannelType,Address,User.UserId", "User.UserId,Address,Id,ChannelType"])
def test_push_tokens_are_told_by_their_header(folder: Folder, header: str) -> None:
    file = folder.load(f"{header}\nx,x,x,x\n", "traits.csv")
    assert (file["status"], file["users"]) == ("ignored", 0)
    assert "push tokens" in file["errors"][0]
    assert folder.server.control("GET", "engage")["users"] == 0


def test_a_header_like_that_of_push_tokens_is_none(folder: Folder) -> None:
    assert folder.load("Id,ChannelType,Address\nx,x,x\n", "tokens.csv")["status"] == "refused"
    assert folder.load("user_id,Id,ChannelType,Address\nann,1,2,3\n", "traits.csv")["status"] == "done"
    assert folder.traits("ann") == {"Id": "1", "ChannelType": "2", "Address": "3"}


def test_the_state_and_errors_of_each_file_are_shown(folder: Folder) -> None:
    folder.set(csv_delay=60)
    folder.put("user_id,a\nann,1\nbob\n,3\n", "good.csv")
    folder.put("a,b\n1,2\n", "bad.csv")
    waiting = folder.files()
    assert [(file["key"], file["status"], file["read_at"]) for file in waiting] == [
        (f"{folder.prefix}good.csv", "waiting", None),
        (f"{folder.prefix}bad.csv", "waiting", None),
    ]
    folder.advance(60)
    folder.read()
    good, bad = folder.files()
    assert (good["status"], good["rows"], good["users"], good["skipped"]) == ("done", 3, 1, 2)
    assert good["errors"] == ["line 3: 1 cells where the header has 2", "line 4: no user_id"]
    assert (bad["status"], bad["errors"]) == ("refused", ["the first column must be user_id, not 'a'"])


# Not documented, and no switch: what a careful reader of CSVs does ---------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"user_id,a\nann,1\nbob,\xe9\n", "not UTF-8: byte 0xe9"),
        (b'user_id,a\nann,1\nbob,"2\n', "no CSV"),
        (b"PK\x03\x04\x00\x00", "first column must be user_id"),
    ],
)
def test_what_cannot_be_read_to_its_end_changes_nothing(folder: Folder, content: bytes, why: str) -> None:
    file = folder.load(content)
    assert (file["status"], file["users"]) == ("refused", 0)
    assert why in file["errors"][0]
    assert folder.traits("ann") is None


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quoted_cells_and_both_line_ends_are_read(folder: Folder, end: str) -> None:
    folder.load(end.join(["user_id,a,b", 'ann,"x, ""y""","one\ntwo"', "zoë,ü,€"]))
    assert folder.traits("ann") == {"a": 'x, "y"', "b": "one\ntwo"}
    assert folder.server.control("GET", "engage")["users"] == 2


def test_a_file_replaced_before_its_time_does_not_count(folder: Folder) -> None:
    folder.set(csv_delay=60)
    folder.put("user_id,a\nann,old\n")
    folder.put("user_id,a\nbob,new\n")
    folder.advance(60)
    folder.read()
    assert [file["status"] for file in folder.files()] == ["refused", "done"]
    assert folder.traits("ann") is None
    assert folder.traits("bob") == {"a": "new"}


# Switches, each way --------------------------------------------------------------------------------------------------

SWITCHED: list[tuple[str, object, str, str, dict[str, str]]] = [
    ("csv_empty", "ignore", "user_id,a,b\nann,,x\n", "done", {"a": "before", "b": "x"}),
    ("csv_empty", "clear", "user_id,a,b\nann,,x\n", "done", {"b": "x"}),
    ("csv_empty", "store", "user_id,a,b\nann,,x\n", "done", {"a": "", "b": "x"}),
    ("csv_repeated_user", "last", "user_id,a,b\nann,1,1\nbob,5,5\nann,2,\n", "done", {"a": "2"}),
    ("csv_repeated_user", "first", "user_id,a,b\nann,1,1\nbob,5,5\nann,2,\n", "done", {"a": "1", "b": "1"}),
    ("csv_repeated_user", "refuse", "user_id,a,b\nann,1,1\nbob,5,5\nann,2,\n", "refused", {"a": "before"}),
    ("csv_trim", True, "user_id,a\n ann , x \n", "done", {"a": "x"}),
    ("csv_trim", False, "user_id,a\n ann ,1\nann, x \n", "done", {"a": " x "}),
    ("csv_byte_order_mark", "accept", f"{MARK}user_id,a\nann,x\n", "done", {"a": "x"}),
    ("csv_byte_order_mark", "refuse", f"{MARK}user_id,a\nann,x\n", "refused", {"a": "before"}),
]


@pytest.mark.parametrize(("switch", "value", "content", "status", "traits"), SWITCHED)
def test_a_switch_decides_what_a_file_does(
    folder: Folder, switch: str, value: object, content: str, status: str, traits: dict[str, str]
) -> None:
    folder.load("user_id,a\nann,before\n", "before.csv")
    folder.set(**{switch: value})
    assert folder.load(content, "after.csv")["status"] == status
    assert folder.traits("ann") == traits


def test_which_rows_are_of_the_same_user_is_told(folder: Folder) -> None:
    folder.set(csv_repeated_user="refuse")
    file = folder.load("user_id,a\nann,1\nbob,5\n ann ,2\n")
    assert file["errors"] == ["rows 1 and 3 are of the same user"]
    assert folder.traits("bob") is None


@pytest.mark.parametrize(("value", "found", "skipped"), [("create", {"a": "1"}, 0), ("skip", None, 1)])
def test_users_never_seen_are_created_or_skipped(
    folder: Folder, value: str, found: dict[str, str] | None, skipped: int
) -> None:
    folder.load("user_id,a\nann,before\n", "before.csv")
    folder.set(csv_unknown_user=value)
    file = folder.load("user_id,a\nann,after\nbob,1\n", "after.csv")
    assert (file["status"], file["skipped"]) == ("done", skipped)
    assert folder.traits("ann") == {"a": "after"}
    assert folder.traits("bob") == found


@pytest.mark.parametrize(("removed", "left"), [(False, 1), (True, 0)])
def test_read_files_stay_in_the_bucket_or_vanish(folder: Folder, *, removed: bool, left: int) -> None:
    folder.set(csv_removed=removed)
    assert folder.load("user_id,a\nann,1\n")["status"] == "done"
    assert folder.client.list_objects_v2(Bucket=folder.name)["KeyCount"] == left
    assert folder.traits("ann") == {"a": "1"}


def test_each_switch_of_files_is_tried_each_way(folder: Folder) -> None:
    tried = {f"engage.{switch}" for switch, *_ in SWITCHED}
    elsewhere = {"engage.csv_delay", "engage.csv_unknown_user", "engage.csv_removed"}
    known = {name for name in folder.server.control("GET", "switches") if name.startswith("engage.csv_")}
    assert tried | elsewhere == known

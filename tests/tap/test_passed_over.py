"""What lies beside exports: companions are ignored, what looks like data is read or named, the rest is ignored."""

from __future__ import annotations

import gzip
import io
import zipfile
from typing import TYPE_CHECKING

import pytest
from piano_engage_common.stops import InputRefused, NoInput
from tap_piano.listing import list_exports, natural_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tap.conftest import Exports, MakeRow, Run, Tap

LOG = b"Subscription ID,User ID (UID),Term name\nRC7,u7,Digital\n"
COMPANIONS = (
    "._log.csv",
    "__MACOSX/._log.csv",
    "__MACOSX/log.csv",
    "~$log.csv",
    "~$log.xlsx",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    ".~lock.log.csv#",
    "@eaDir/log.csv",
    ".Trash-0/log.csv",
    ".gitkeep",
)
UNFINISHED = (
    "log-2.csv.part",
    "log-2.csv.crdownload",
    "Unconfirmed 12.crdownload",
    "log-2.csv.tmp",
    "log-2.csv.filepart",
)
LIKE_DATA = (
    *UNFINISHED,
    "log-2.csv.1",
    "log-2.CSV.bak",
    "log-2.csv~",
    "log-2.csv (1)",
    "log-2.csv_old",
    "log-2.zip.001",
    "log-2.z01",
    "log-2.txt",
    "log-2.tsv",
    "log-2",
    "log-2.dat",
    "log-2.xlsx",
    "log-2.xls",
    "log-2.ods",
    "log-2.tar.gz",
    "log-2.csv.bz2",
    "log-2.csv.zst",
    "log-2.7z",
    "log-2.parquet",
    ".log-2.csv",
    ".log-2.csv.Xa3b9",
    "older/log-2.csv",
    "2026/11/log-2.csv.gz",
    "2026/11/log-2.txt",
)


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def folder(exports: Exports, make_row: MakeRow) -> Path:
    """A folder with one export."""
    exports.csv([make_row(1)])
    return exports.folder


def complete(run: Run) -> bool:
    return "ACTIVATE_VERSION" in run.types and "ended" in run.states[-1]


def test_companions_in_a_folder_and_in_a_zip_are_ignored(folder: Path, exports: Exports, sync: Tap) -> None:
    for name in COMPANIONS:
        exports.bytes(LOG, name=name)
    run = sync(folder)
    assert ([one["user_id"] for one in run.records], complete(run)) == (["user-1"], True)
    inside = {
        **dict.fromkeys((name for name in COMPANIONS if "/" not in name or "MACOSX" in name), LOG),
        "log.csv": LOG,
    }
    run = sync(exports.bytes(zipped(**inside), name="x.zip"))
    assert ([one["user_id"] for one in run.records], complete(run)) == (["u7"], True)
    run = sync(f"{folder}/**/*.csv")
    assert {one["user_id"] for one in run.records} == {"user-1", "u7"}  # @eaDir, where the glob says so


@pytest.mark.parametrize("name", ["._log.csv", "~$log.csv", ".DS_Store", "__MACOSX/log.csv"])
def test_a_companion_that_is_named_is_refused(name: str, exports: Exports, tap: Tap) -> None:
    run = tap(exports.bytes(LOG, name=name))
    assert run.code == InputRefused.exit_code
    assert "Name the export itself" in run.errors


def test_a_folder_of_companions_is_empty(exports: Exports, tap: Tap) -> None:
    exports.bytes(LOG, name="._log.csv")
    run = tap(exports.folder)
    assert run.code == NoInput.exit_code
    assert "holds no .csv" in run.errors


@pytest.mark.parametrize("name", UNFINISHED)
def test_an_unfinished_download_is_refused_where_it_is_named(name: str, exports: Exports, tap: Tap) -> None:
    run = tap(exports.bytes(LOG, name=name))
    assert run.code == InputRefused.exit_code
    assert "not finished" in run.errors


@pytest.mark.parametrize("name", LIKE_DATA)
def test_what_looks_like_data_is_named(name: str, folder: Path, exports: Exports) -> None:
    exports.bytes(LOG, name=name)
    listing = list_exports(str(folder))
    assert len(listing.exports) == len(listing.passed_over) == 1
    assert listing.passed_over[0].startswith(f"{name} (")


@pytest.mark.parametrize("name", ["notes.txt", "README", "state.json", "old/notes.txt", "run.tmp"])
def test_what_does_not_look_like_data_is_ignored(name: str, folder: Path, exports: Exports) -> None:
    exports.bytes(b"Dear team, here is the export you asked for.\n", name=name)
    assert list_exports(str(folder)).passed_over == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [b",", b";", b"\t"])
def test_a_log_is_known_by_its_first_row(encoding: str, delimiter: bytes, folder: Path, exports: Exports) -> None:
    exports.bytes(LOG.replace(b",", delimiter).decode().encode(encoding), name="data")
    assert list_exports(str(folder)).passed_over == ["data (only .csv, .zip, .csv.gz are read)"]


def test_a_link_that_leads_nowhere_is_named(folder: Path) -> None:
    (folder / "today.csv").symlink_to(folder / "gone.csv")
    assert list_exports(str(folder)).passed_over == ["today.csv (is packed twice, or is no file)"]


@pytest.mark.parametrize("name", ["log.zip", "log.xlsx", "log.csv.gz", "log.csv.1", "log.txt"])
def test_what_a_zip_holds_beside_a_csv_is_named(name: str, exports: Exports, sync: Tap) -> None:
    run = sync(exports.bytes(zipped(**{"a.csv": LOG, f"x/{name}": LOG}), name="x.zip"))
    assert [one["user_id"] for one in run.records] == ["u7"]
    assert f"x.zip!x/{name} (" in run.log
    assert not complete(run)


def test_a_glob_says_what_is_wanted(folder: Path, exports: Exports, sync: Tap) -> None:
    for name in ("log-2.csv.1", "older/log-2.csv"):
        exports.bytes(LOG, name=name)
    assert not complete(sync(folder))
    assert not complete(sync(f"{folder}/*"))
    run = sync(f"{folder}/*.csv")
    assert ([one["user_id"] for one in run.records], complete(run)) == (["user-1"], True)
    assert {one["user_id"] for one in sync(f"{folder}/**/*.csv").records} == {"user-1", "u7"}


def test_the_bookmark_stays_and_nothing_is_claimed_where_something_was_passed_over(
    exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    path = exports.csv([make_row(1, Modify_time="2025-01-01 00:00:00 +0000")])
    aside = exports.bytes(LOG, name="log-2.csv.1")
    first = sync(exports.folder)
    assert (first.bookmark, first.states[-1].get("handed_on")) == (None, None)
    aside.unlink()
    second = sync(exports.folder, state=first.of_type("STATE")[-1]["value"])
    assert (len(second.records), "ended" in second.states[-1]) == (1, True)
    aside.write_bytes(LOG)
    third = sync(exports.folder, state=second.of_type("STATE")[-1]["value"])
    assert "not read" in third.log
    assert "ended" not in third.states[-1]
    assert third.bookmark == second.bookmark
    assert path.exists()


@pytest.mark.parametrize("name", ["log.csv.gz", "LOG.CSV.GZ", "log.csv", "log.gz", "log.bin"])
def test_gzip_is_read_whatever_its_name(name: str, exports: Exports, sync: Tap) -> None:
    run = sync(exports.bytes(gzip.compress(LOG), name=name))
    assert [one["user_id"] for one in run.records] == ["u7"]
    assert run.leftovers == []


def test_gzip_of_several_members_is_one_csv(exports: Exports, sync: Tap) -> None:
    content = gzip.compress(LOG[:50]) + gzip.compress(LOG[50:]) + gzip.compress(b"RC8,u8,Digital\n") + bytes(512)
    run = sync(exports.bytes(content, name="log.csv.gz"))
    assert [one["user_id"] for one in run.records] == ["u7", "u8"]


def test_a_csv_that_is_called_gzip_is_read(exports: Exports, sync: Tap) -> None:
    assert len(sync(exports.bytes(LOG, name="log.csv.gz")).records) == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_usual_ways_to_make_a_zip_are_read(method: int, exports: Exports, sync: Tap) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in ("/etc/log.csv", "../../log.csv", "C:\\log.csv", "lög.csv"):
            archive.writestr(name, LOG)
    assert len(sync(exports.bytes(buffer.getvalue(), name="x.zip")).records) == 1


ORDERED = (
    ["log-9.csv", "log-10.csv", "log-11.csv.gz"],
    ["log.csv", "log (1).csv", "log (2).csv", "log (10).csv"],
    ["2025/log-12.csv", "2026/log-1.csv"],
    ["9/log.csv", "10/log.csv"],
    ["Log-1.csv", "log-2.CSV", "LOG-3.zip"],
    ["log-2026-9-30.csv", "log-2026-10-01.csv"],
    ["log.csv", "log copy.csv", "log copy 2.csv"],
    ["log.csv", "log - Copy.csv", "log - Copy (2).csv"],
    ["a", "b/c"],
)


@pytest.mark.parametrize("names", ORDERED, ids=lambda names: names[0])
def test_names_are_in_the_order_in_which_people_count(names: list[str], tmp_path: Path) -> None:
    paths = [tmp_path / name for name in names]
    assert sorted(set(paths), key=natural_key) == paths

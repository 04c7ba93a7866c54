"""Files that are no subscription log, or a damaged one: the command says what is wrong, and sends nothing."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from typing import TYPE_CHECKING

import duckdb
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tap.conftest import Exports, Run, Tap

INPUT_REFUSED, NO_INPUT = 65, 66

HEADER = b"Subscription ID,User ID (UID),Term name\n"
GOOD = HEADER + b"".join(b"RC%d,u%d,Digital\n" % (number, number) for number in range(300))


def packed(content: bytes = GOOD, name: str = "log.csv", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def with_flipped_byte(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def locked(content: bytes) -> bytes:
    """Set the flag "encrypted" in the local and in the central header of a ZIP with one member."""
    central = content.index(b"PK\x01\x02")
    out = bytearray(content)
    out[6] |= 1
    out[central + 8] |= 1
    return bytes(out)


def by_method(content: bytes, method: int) -> bytes:
    """Say in both headers of a ZIP with one member that it is compressed by another method."""
    central = content.index(b"PK\x01\x02")
    out = bytearray(content)
    out[8:10] = out[central + 10 : central + 12] = struct.pack("<H", method)
    return bytes(out)


def split(content: bytes) -> bytes:
    """Say at the end of a ZIP that it is the second of two parts."""
    end = content.index(b"PK\x05\x06")
    return content[: end + 4] + struct.pack("<HH", 1, 1) + content[end + 8 :]


def many_bombs() -> bytes:
    """Pack many CSVs, each just small enough to be harmless."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(6):
            archive.writestr(f"{number}.csv", bytes(9_900_000))
    return buffer.getvalue()


def lying_about_its_size(content: bytes) -> bytes:
    """Say in both headers of a ZIP that its member is small."""
    central = content.index(b"PK\x01\x02")
    out = bytearray(content)
    out[22:26] = out[central + 24 : central + 28] = struct.pack("<I", 4096)
    return bytes(out)


WHOLE_FILES: dict[str, tuple[bytes, list[str]]] = {
    # no CSV at all
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", ["PDF", "as CSV"]),
    "workbook": (packed(b"<workbook/>", "xl/workbook.xml"), ["ZIP without a CSV", "Excel", "save it as CSV"]),
    "old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), ["Excel workbook", "save it as CSV"]),
    "ZIP without members": (packed()[-22:-14] + bytes(14), ["ZIP without a CSV"]),
    "web page": (b"<!DOCTYPE html>\n<html><title>Sign in</title></html>\n", ["web page", "ownload"]),
    "JSON": (b'{"code": 401, "message": "Access denied"}\n', ["JSON", "as CSV"]),
    "gzip in gzip": (gzip.compress(gzip.compress(GOOD)), ["gzip within gzip", "unpack"]),
    "ZIP in gzip": (gzip.compress(packed()), ["ZIP within gzip", "unpack"]),
    "tar in gzip": (gzip.compress(b"log.csv" + bytes(93) + b"0000644" + bytes(405) + GOOD), ["zero bytes"]),
    "gzip cut off": (gzip.compress(GOOD)[:-9], ["broken gzip", "Download"]),
    "gzip with a tail": (gzip.compress(GOOD) + b"tail", ["broken gzip", "Download"]),
    "gzip with another checksum": (with_flipped_byte(gzip.compress(GOOD, 0), 3000), ["broken gzip", "Download"]),
    "gzip bomb": (gzip.compress(HEADER + b"RC1,u1," + b"x" * 30_000_000 + b"\n"), ["log.csv", "unpacks to"]),
    "companion of macOS": (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ", ["companion", "macOS"]),
    "Parquet": (b"PAR1\x15\x04\x15" + bytes(99) + b"PAR1", ["Parquet", "CSV"]),
    "prose": (b"Dear team, here is the export you asked for.\n", ["line 1", "no column", "None of its 2 cells"]),
    # another delimiter
    "semicolons": (GOOD.replace(b",", b";"), ["line 1", "semicolons", "commas"]),
    "tabs": (GOOD.replace(b",", b"\t"), ["line 1", "tabs", "commas"]),
    "bars": (GOOD.replace(b",", b"|"), ["line 1", "bars", "commas"]),
    # nothing in it
    "empty": (b"", ["is empty", "Download"]),
    "only a BOM": (b"\xef\xbb\xbf", ["is empty", "Download"]),
    "only line breaks": (b"\n\n\r\n", ["is empty", "Download"]),
    "header only": (HEADER, ["no rows", "filters"]),
    "header without its line break": (HEADER.strip(), ["no rows", "filters"]),
    # columns
    "no subscription id": (b"User ID (UID),Term name\nu1,Digital\n", ["line 1", "'Subscription ID'"]),
    "no user id": (b"Subscription ID,Term name\nRC1,Digital\n", ["line 1", "'User ID (UID)'"]),
    "neither id": (b"Term name,Device\nDigital,Mobile\n", ["'Subscription ID' and 'User ID (UID)'", "'Term name'"]),
    "same header twice": (
        b"Subscription ID,User ID (UID),Device,Device\nRC1,u1,a,b\n",
        ["line 1", "columns 3 and 4", "'Device'", "Remove one"],
    ),
    "two spellings of one header": (
        b"Subscription ID,User ID (UID),user-id\nRC1,u1,u2\n",
        ["line 1", "columns 2 and 3", "'User ID (UID)' and 'user-id'", "Remove one"],
    ),
    "two spellings of an unknown header": (
        b"Subscription ID,User ID (UID),Shoe size,shoe_size\nRC1,u1,42,43\n",
        ["line 1", "columns 3 and 4", "Remove one"],
    ),
    # cut off
    "ends inside quotes": (GOOD + b'RC998,"u998', ["line 302", "quotes", "cut off", "Download"]),
    "ends inside quotes after line breaks": (
        GOOD + b'RC998,u998,"a\nb\n\nc\n',
        ["line 302", "never closed", "cut off"],
    ),
    "ends in the middle of the last row": (GOOD + b"RC998,u9", ["line 302", "last row is cut off", "Download"]),
    "ends in the header": (b'Subscription ID,User ID (UID),"Term na', ["line 1", "quotes", "cut off"]),
    # ZIP
    "ZIP cut off": (packed()[:-40], ["broken ZIP", "Download"]),
    "ZIP with another checksum": (with_flipped_byte(packed(method=zipfile.ZIP_STORED), 4000), ["broken ZIP", "CRC"]),
    "ZIP under a password": (locked(packed()), ["encrypted", "without a password"]),
    "ZIP bomb": (packed(HEADER + b"RC1,u1," + b"x" * 30_000_000 + b"\n"), ["log.csv", "unpacks to 30,000,048 bytes"]),
    "ZIP bomb that lies": (
        lying_about_its_size(packed(HEADER + b"RC1,u1," + b"x" * 30_000_000 + b"\n")),
        ["log.csv", "broken ZIP"],
    ),
    "ZIP by Deflate64": (by_method(packed(), 9), ["log.csv", "Deflate64", "Unpack it"]),
    "ZIP by Zstandard": (by_method(packed(), 93), ["log.csv", "Zstandard", "Unpack it"]),
    "ZIP by a method of tomorrow": (by_method(packed(), 77), ["log.csv", "method 77", "Unpack it"]),
    "first part of a split ZIP": (b"PK\x07\x08" + packed()[:200], ["broken ZIP", "Download"]),
    "last part of a split ZIP": (split(packed()), ["part of a split ZIP", "whole ZIP"]),
    "ZIP of bombs": (many_bombs(), ["unpacks to", "by hand"]),
    "ZIP of a ZIP": (packed(packed(), "log.zip"), ["ZIP without a CSV", "log.zip"]),
    "ZIP of companions": (packed(b"Mac OS X", "__MACOSX/._log.csv"), ["ZIP without a CSV"]),
    "ZIP with an empty CSV": (packed(b""), ["log.csv", "is empty"]),
    # encodings and line ends
    "UTF-16 with BOM": (GOOD.decode().encode("utf-16"), ["UTF-16", "UTF-8"]),
    "UTF-16 without BOM": (GOOD.decode().encode("utf-16-le"), ["zero bytes", "UTF-8"]),
    "header in Latin-1": (b"Subscription ID,User ID (UID),Stra\xdfe\nRC1,u1,a\n", ["line 1", "not UTF-8", "Save"]),
    "zero bytes": (GOOD + b"RC998,u998,Dig\0tal\n" + GOOD[len(HEADER) :], ["line 302", "zero bytes", "Download"]),
    "a tail of zero bytes": (GOOD + bytes(4096), ["line 302", "zero bytes"]),
    "CR alone": (GOOD.replace(b"\n", b"\r"), ["CR alone", "LF or CRLF"]),
}


def assert_stopped(run: Run, code: int, fragments: list[str]) -> None:
    assert run.code == code, run.log
    assert len(run.errors.splitlines()) == 1, run.log
    for fragment in fragments:
        assert fragment in run.errors
    assert "Traceback" not in run.log
    assert not {"RECORD", "BATCH", "ACTIVATE_VERSION"}.intersection(run.types)
    assert run.leftovers == []
    assert list(run.rejects_folder.glob("*.part")) == []


@pytest.mark.parametrize("case", WHOLE_FILES)
def test_file_that_is_no_log_stops_the_run(case: str, exports: Exports, tap: Tap) -> None:
    content, fragments = WHOLE_FILES[case]
    run = tap(exports.bytes(content))
    assert_stopped(run, INPUT_REFUSED, ["log.csv", *fragments])


def test_stopped_run_writes_no_batch_file(exports: Exports, tap: Tap, tmp_path: Path) -> None:
    batches = tmp_path / "batches"
    config = {"encoding": {"format": "parquet"}, "storage": {"root": f"file://{batches}"}}
    run = tap(exports.bytes(GOOD + b"RC998,u9"), batch_config=config)
    assert_stopped(run, INPUT_REFUSED, ["last row is cut off"])
    assert list(batches.iterdir()) == []


def test_truncated_file_inside_a_zip_is_named_with_its_member(exports: Exports, tap: Tap) -> None:
    run = tap(exports.bytes(packed(GOOD + b'RC9,"', "logs/day.csv"), name="export.zip"))
    assert_stopped(run, INPUT_REFUSED, ["export.zip!logs/day.csv: line 302", "cut off"])


def test_one_bad_file_among_good_ones_stops_all(exports: Exports, tap: Tap) -> None:
    exports.bytes(GOOD, name="1.csv")
    exports.bytes(GOOD.replace(b",", b";"), name="2.csv")
    run = tap(exports.folder)
    assert_stopped(run, INPUT_REFUSED, ["2.csv", "semicolons"])


@pytest.mark.parametrize(
    ("path", "fragments"),
    [
        ("nowhere.csv", ["no file at", "nowhere.csv"]),
        ("nowhere/*.csv", ["no file at", "nowhere/*.csv"]),
        ("empty", ["the folder", "holds no .csv"]),
    ],
)
def test_missing_path_stops_the_run(path: str, fragments: list[str], tmp_path: Path, tap: Tap) -> None:
    (tmp_path / "empty").mkdir()
    assert_stopped(tap(tmp_path / path), NO_INPUT, ["export_path", *fragments])


def test_discovery_names_a_bad_file_too(exports: Exports, tap: Tap) -> None:
    run = tap(exports.bytes(b"%PDF-1.7"), "--discover")
    assert run.code == INPUT_REFUSED
    assert "PDF" in run.errors
    assert run.out == b""


def test_real_parquet_is_refused_by_its_name_too(exports: Exports, tap: Tap) -> None:
    path = exports.folder / "log.parquet"
    path.parent.mkdir(parents=True)
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 'RC1' AS subscription_id) TO '{path}'")
    assert_stopped(tap(path), INPUT_REFUSED, ["log.parquet", "Parquet"])


@pytest.mark.parametrize("ends", [(b"\n", b"\r\n"), (b"\r\n", b"\n")])
def test_mixed_line_ends_lose_no_row_or_stop_the_run(ends: tuple[bytes, bytes], exports: Exports, tap: Tap) -> None:
    lines = GOOD.splitlines()
    content = b"".join(line + ends[number % 2] for number, line in enumerate(lines))
    assert_stopped(tap(exports.bytes(content)), INPUT_REFUSED, ["log.csv", "line 2", "line ends are mixed", "one kind"])


def test_error_is_one_line_of_json_in_a_structured_log(
    exports: Exports, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    run = tap(exports.bytes(b"%PDF-1.7"))
    assert run.out.splitlines() == []
    assert json.dumps("log.csv: is a PDF")[1:-1] in run.errors

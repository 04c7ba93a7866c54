"""Packed exports: CSVs inside ZIP and gzip, and what makes an archive unusable."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from contextlib import contextmanager
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Final, cast

from piano_engage_common.stops import InputRefused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_RATIO: Final = 200
"""A real export shrinks by a factor of 10 to 30; more than this is not an export but a trap."""

HARMLESS_BYTES: Final = 10_000_000
"""What unpacks to no more than this may shrink as it likes."""

END_BYTES: Final = 22
"""What ends a ZIP without a comment."""

CHUNK_BYTES: Final = 1 << 20
ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_ZIP_SIGNATURES: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00")
_GZIP_SIGNATURE: Final = b"\x1f\x8b"
_METHODS: Final = {
    zipfile.ZIP_STORED: "", zipfile.ZIP_DEFLATED: "", zipfile.ZIP_BZIP2: "", zipfile.ZIP_LZMA: "",
    9: "Deflate64", 93: "Zstandard", 95: "XZ", 97: "WavPack", 98: "PPMd", 99: "AES encryption",
}  # fmt: skip
"""What the methods of compression that cannot be unpacked here are called; blank for those that can."""


class Packing(StrEnum):
    """How an export is packed."""

    NONE = "none"
    GZIP = "gzip"
    ZIP = "ZIP"


def packing_of(path: Path) -> Packing:
    """Return how a file is packed, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(4)
    if start in _ZIP_SIGNATURES:
        return Packing.ZIP
    return Packing.GZIP if start.startswith(_GZIP_SIGNATURE) else Packing.NONE


def members_of(path: Path, label: str) -> list[zipfile.ZipInfo]:
    """Return the members of a ZIP, in the order in which they were added; two may have one name.

    Raises:
        InputRefused: the ZIP is broken, a part of one, or far larger inside than any export.
    """
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - END_BYTES, 0))
        end = file.read()
    if end.startswith(b"PK\x05\x06") and end[4:6] != b"\0\0":  # the number of this part
        msg = f"{label}: is one part of a split ZIP. Give the whole ZIP in one file, or unpack it first."
        raise InputRefused(msg)
    with archive_errors(label, Packing.ZIP), zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    size = path.stat().st_size
    check_size(sum(member.file_size for member in members), size, label)
    return members


def check_readable(member: zipfile.ZipInfo, label: str) -> None:
    """Make sure that a member can be unpacked.

    Raises:
        InputRefused: it is encrypted, or compressed by a method that is not known here.
    """
    if member.flag_bits & ENCRYPTED or member.compress_type == 99:  # noqa: PLR2004 - AES
        msg = f"{label}: is encrypted. Save the ZIP without a password."
        raise InputRefused(msg)
    method = _METHODS.get(member.compress_type, f"method {member.compress_type}")
    if method:
        msg = (
            f"{label}: is compressed with {method}, which cannot be read here. Unpack it and give the CSV, or pack it "
            "with the usual method (Deflate)."
        )
        raise InputRefused(msg)


@contextmanager
def open_packed(path: Path, packing: Packing, member: zipfile.ZipInfo | None, label: str) -> Iterator[IO[bytes]]:
    """Open a file, or what is packed in it, for reading.

    Raises:
        InputRefused: inside the block as well, for an archive that is broken or cut off.
    """
    with archive_errors(label, packing):
        if member is not None:
            with zipfile.ZipFile(path) as archive, archive.open(member) as file:
                yield file
        elif packing is Packing.GZIP:
            with gzip.open(path) as unzipped:
                yield cast("IO[bytes]", unzipped)
        else:
            with path.open("rb") as file:
                yield file


def unpack(file: IO[bytes], target: Path, packed_size: int, label: str) -> None:
    """Copy what is unpacked from *file* into *target*.

    Raises:
        InputRefused: it is far larger than any export of *packed_size* bytes.
    """
    size = 0
    with target.open("wb") as unpacked:
        while chunk := file.read(CHUNK_BYTES):
            size += len(chunk)
            check_size(size, packed_size, label)
            unpacked.write(chunk)


def check_size(size: int, packed_size: int, label: str) -> None:
    """Make sure that what is unpacked is not far larger than what was packed.

    Raises:
        InputRefused: it is.
    """
    if size > max(MAX_RATIO * packed_size, HARMLESS_BYTES):
        msg = (
            f"{label}: unpacks to {size:,} bytes from {packed_size:,}, which no export does. Unpack it by hand "
            "if you trust it."
        )
        raise InputRefused(msg)


@contextmanager
def archive_errors(label: str, packing: Packing) -> Iterator[None]:
    """Turn what a broken archive raises into one sentence.

    Raises:
        InputRefused: the archive is broken.
    """
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile, NotImplementedError, RuntimeError) as e:
        if packing is Packing.NONE:
            raise
        msg = f"{label}: is a broken {packing} ({e}). Download the export again."
        raise InputRefused(msg) from e

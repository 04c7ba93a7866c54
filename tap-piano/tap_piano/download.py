"""The file of an export job, from its signed link to the disk; the link stands in no log, error or state."""

from __future__ import annotations

import gzip
import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from piano_engage_common.stops import AnswerRefused
from piano_engage_common.transport import TryAgain

from tap_piano.archives import Packing, check_size, packing_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

    from tap_piano.reports import ExportJob

CHUNK_BYTES: Final = 1 << 20
DEAD_LINK: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
NOT_A_FILE: Final = (b"<", b"{", b"[")
"""How pages and messages begin that come in place of the file."""

UNPACKED: Final = frozenset({"gzip", "x-gzip", "deflate"})
"""The values of ``Content-Encoding`` that are undone. None is asked for, and some servers and proxies add one."""


class LinkDied(Exception):  # noqa: N818 - what happened
    """The link works no more; another one may."""


class Download:
    """One download, gone on with where it broke off if the server can.

    Bytes are counted and kept as they come; an encoding of the transfer is undone when all of them are there.

    Args:
        job: whose file it is.
        link: signed; never shown.
        target: where the file goes, written under another name until it is complete.
    """

    def __init__(self, job: ExportJob, link: str, target: Path) -> None:
        """Begin with nothing."""
        self._job = job
        self._link = link
        self._target = target
        self._part = target.with_name(f"{target.name}.part")
        self._part.unlink(missing_ok=True)
        self._have = 0
        self._size: int | None = None
        self._tag: str | None = None
        self._encodings: list[str] = []

    def __repr__(self) -> str:
        """Show all but the link."""
        return f"{type(self).__name__}({self._target.name!r})"

    def go(self) -> None:
        """Download what is missing.

        Raises:
            TryAgain: the connection broke, or what came was not the file.
        """
        headers = {"Accept-Encoding": "identity"}
        if self._have and self._tag:
            headers |= {"Range": f"bytes={self._have}-", "If-Range": self._tag}
        with self._job.transport.open("GET", self._link, headers=headers, follow=True) as response:
            self._check_status(response)
            self._begin(response)
            self._read(response)
        self._check()
        self._decode()
        self._check_begin()
        self._part.rename(self._target)

    def _check_status(self, response: requests.Response) -> None:
        if response.status_code in DEAD_LINK:
            raise LinkDied
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._have, self._tag = 0, None
            msg = "cannot be gone on with where it broke off"
            raise TryAgain(msg)
        if response.status_code not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            msg = f"The file of export {self._job.export_id} was answered with HTTP {response.status_code}."
            raise AnswerRefused(msg)

    def _begin(self, response: requests.Response) -> None:
        """Note how much there is, and begin anew unless the server goes on at the right place."""
        chunked = "Transfer-Encoding" in response.headers  # then a length means nothing
        length = "" if chunked else response.headers.get("Content-Length", "")
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            span, _, size = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            if span.partition("-")[0] != str(self._have):
                self._have, self._tag = 0, None
                msg = "was gone on with at the wrong place"
                raise TryAgain(msg)
            self._size = int(size) if size.isdecimal() else self._size
            return
        self._have = 0
        self._size = int(length) if length.isdecimal() else None
        ranges = response.headers.get("Accept-Ranges", "") == "bytes"
        tag = response.headers.get("ETag", "")
        self._tag = tag if ranges and tag and not tag.startswith("W/") else None
        self._encodings = _encodings(response.headers.get("Content-Encoding", ""))
        if unknown := [one for one in self._encodings if one not in UNPACKED]:
            msg = (
                f"The file of export {self._job.export_id} comes in an encoding that was not asked for and cannot be "
                f"undone (Content-Encoding: {unknown[0][:40]})."
            )
            raise AnswerRefused(msg)
        self._job.tell_of_file(response, self._size)

    def _read(self, response: requests.Response) -> None:
        size = self._size
        label = f"export {self._job.export_id}: downloading"
        amount = f"{size / 1e6:,.0f} MB" if size else ""
        with (
            self._part.open("r+b" if self._have else "wb") as file,
            self._job.progress.steps(label, lambda: 100 * self._have / size if size else 0.0, size=amount),
        ):
            file.seek(self._have)
            while chunk := response.raw.read(CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                self._have += len(chunk)

    def _check(self) -> None:
        """Make sure that all of it came."""
        if self._size is not None and self._have != self._size:
            msg = f"ended after {self._have:,} of {self._size:,} bytes"
            raise TryAgain(msg)

    def _decode(self) -> None:
        """Undo the encodings of the transfer, the last one first."""
        for encoding in reversed(self._encodings):
            size, decoded = self._part.stat().st_size, self._part.with_suffix(".decoded")
            done = 0
            try:
                with decoded.open("wb") as file:
                    for piece in _pieces(self._part, encoding):
                        done += len(piece)
                        check_size(done, size, f"export {self._job.export_id}")
                        file.write(piece)
            except (zlib.error, EOFError, gzip.BadGzipFile) as e:
                self._have = 0
                msg = f"came broken or cut short (Content-Encoding: {encoding})"
                raise TryAgain(msg) from e
            decoded.rename(self._part)

    def _check_begin(self) -> None:
        """Make sure that it is a file."""
        with self._part.open("rb") as file:
            begins = file.read(64).lstrip()
        if begins.startswith(NOT_A_FILE):
            self._have = 0
            msg = "brought a web page or a message in place of the file"
            raise TryAgain(msg)


def _encodings(header: str) -> list[str]:
    values = (value.strip().lower() for value in header.split(","))
    return [value for value in values if value not in {"", "identity"}]


def _pieces(path: Path, encoding: str) -> Iterator[bytes]:
    """Yield the content of a file without an encoding; one that says gzip and is none is taken as it is."""
    if encoding == "deflate":
        yield from _inflated(path)
        return
    packed = packing_of(path) is Packing.GZIP
    with gzip.open(path) if packed else path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _inflated(path: Path) -> Iterator[bytes]:
    """Yield what "deflate" holds: with the header of zlib, as the standard says, or without, as some servers send it.

    Raises:
        EOFError: it is cut short.
    """
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        has_header = (
            len(start) == len(b"\x78\x9c") and start[0] & 0xF == zlib.DEFLATED and not int.from_bytes(start) % 31
        )
        inflater = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        while chunk := file.read(CHUNK_BYTES):
            piece = inflater.decompress(chunk, CHUNK_BYTES)
            while piece:
                yield piece
                piece = inflater.decompress(inflater.unconsumed_tail, CHUNK_BYTES)
        if not inflater.eof:
            raise EOFError

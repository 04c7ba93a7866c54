"""The download of an export: what a server or a proxy may do to a body on its way, over real sockets."""

from __future__ import annotations

import gzip
import logging
import socket
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.progress import Progress
from piano_engage_common.stops import AnswerRefused, InputRefused, Outage
from piano_engage_common.transport import Patience, Transport
from tap_piano.download import Download

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CASE = Path(__file__).parent / "cases" / "11-download-of-the-export-content-encoding-gzip.http"
CSV = b"Subscription ID,User ID (UID)\n" + b"".join(b"RC%d,u%d\n" % (number, number) for number in range(3000))


def answer(body: bytes, *headers: str, length: int | None = -1, status: str = "200 OK") -> bytes:
    """Write an answer; a length of -1 is the true one, None is none."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: text/csv", "Connection: close", *headers]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes) -> bytes:
    pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serve canned answers, one a connection, the last one again and again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answers: list[bytes] = []

        def work() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answers.pop(0) if len(answers) > 1 else answers[0])

        def start(*given: bytes) -> str:
            answers.extend(given)
            threading.Thread(target=work, daemon=True).start()
            return f"http://127.0.0.1:{server.getsockname()[1]}/file"

        yield start
        server.shutdown(socket.SHUT_RDWR)


def download(link: str, folder: Path) -> bytes:
    logger = logging.getLogger("test")
    patience = Patience(timeout=60, attempts=2, wait=0, total=60)
    transport = Transport(patience=patience, rate=0, logger=logger)
    job: Any = SimpleNamespace(
        transport=transport, export_id="x", progress=Progress(logger), tell_of_file=lambda *_: None
    )
    target = folder / "export"
    transport.retrying("the download", Download(job, link, target).go)
    assert list(folder.iterdir()) == [target]
    return target.read_bytes()


GZIP, DEFLATE = "Content-Encoding: gzip", "Content-Encoding: deflate"
WHOLE: dict[str, bytes] = {
    "plain": answer(CSV),
    "without a length": answer(CSV, length=None),
    "chunked": answer(chunked(CSV), "Transfer-Encoding: chunked", length=None),
    "chunked and a length": answer(chunked(CSV), "Transfer-Encoding: chunked", length=7),
    "gzip": answer(gzip.compress(CSV), GZIP),
    "gzip in capitals": answer(gzip.compress(CSV), "Content-Encoding: X-GZIP"),
    "gzip without a length": answer(gzip.compress(CSV), GZIP, length=None),
    "gzip, chunked": answer(chunked(gzip.compress(CSV)), GZIP, "Transfer-Encoding: chunked", length=None),
    "gzip of two members": answer(gzip.compress(CSV[:999]) + gzip.compress(CSV[999:]), GZIP),
    "gzip that is none": answer(CSV, GZIP),
    "gzip twice": answer(gzip.compress(gzip.compress(CSV)), "Content-Encoding: gzip, gzip"),
    "deflate": answer(zlib.compress(CSV), DEFLATE),
    "deflate without a header": answer(raw_deflate(CSV), DEFLATE),
    "deflate, then gzip": answer(gzip.compress(zlib.compress(CSV)), "Content-Encoding: deflate, gzip"),
    "identity": answer(CSV, "Content-Encoding: identity"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_whatever_the_way_the_file_arrives(case: str, serve: Callable[..., str], tmp_path: Path) -> None:
    assert download(serve(WHOLE[case]), tmp_path) == CSV


def test_the_case_from_the_field_completes(serve: Callable[..., str], tmp_path: Path) -> None:
    assert download(serve(CASE.read_bytes()), tmp_path).startswith(b"Subscription ID,User ID (UID)")


def test_a_file_that_is_gzip_itself_stays_gzip(serve: Callable[..., str], tmp_path: Path) -> None:
    packed = gzip.compress(CSV)
    assert download(serve(answer(gzip.compress(packed), GZIP)), tmp_path) == packed


CUT: dict[str, bytes] = {
    "plain": answer(CSV[:-9], length=len(CSV)),
    "gzip": answer(gzip.compress(CSV)[:-9], GZIP, length=len(gzip.compress(CSV))),
    "gzip without a length": answer(gzip.compress(CSV)[:-9], GZIP, length=None),
    "deflate without a length": answer(zlib.compress(CSV)[:-9], DEFLATE, length=None),
    "deflate without anything": answer(raw_deflate(CSV)[:-9], DEFLATE, length=None),
    "chunked": answer(chunked(CSV)[:-40], "Transfer-Encoding: chunked", length=None),
    "a page, packed": answer(gzip.compress(b"<html>Sorry</html>"), GZIP),
    "noise for deflate": answer(b"\xff" * 99, DEFLATE),
}


@pytest.mark.parametrize("case", CUT)
def test_a_body_cut_short_is_asked_for_again(case: str, serve: Callable[..., str], tmp_path: Path) -> None:
    assert download(serve(CUT[case], WHOLE["gzip"]), tmp_path) == CSV


@pytest.mark.parametrize("case", CUT)
def test_a_body_that_is_always_cut_short_is_an_outage(case: str, serve: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(Outage):
        download(serve(CUT[case]), tmp_path)
    assert not (tmp_path / "export").exists()


def test_an_encoding_that_is_not_known_is_refused(serve: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(AnswerRefused, match="Content-Encoding: br"):
        download(serve(answer(CSV, "Content-Encoding: br")), tmp_path)


def test_a_bomb_is_not_unpacked(serve: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="unpacks to"):
        download(serve(answer(gzip.compress(bytes(30_000_000)), GZIP)), tmp_path)

"""Who may do what in the S3 server: one static key pair, limited to one bucket.

moto lets everybody do everything, so this stands in front of it and checks what Amazon would: the key is known, the
signature (version 4) is right, and the request is about the bucket the key was made for. The key cannot list, make or
remove buckets; the documents hint at that (reference sheet of Engage, 2).

moto looks at ``If-Match`` and ``If-None-Match`` before it writes, and two who ask at once may both be let through.
Amazon lets one: here writes with a condition come one after another.
"""

from __future__ import annotations

import hmac
import re
import threading
from contextlib import nullcontext
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

SCHEME: Final = "AWS4-HMAC-SHA256"
READING: Final = {"GET", "HEAD"}
OBJECT: Final = re.compile(r"/(?P<bucket>[^/]*)(?:/(?P<key>.*))?", re.DOTALL)

ERRORS: Final = {
    "AccessDenied": "Access Denied",
    "InvalidAccessKeyId": "The AWS Access Key Id you provided does not exist in our records.",
    "SignatureDoesNotMatch": "The request signature we calculated does not match the signature you provided. "
    "Check your key and signing method.",
}
"""Codes and messages of Amazon S3; all are 403."""


class Gate:
    """A WSGI application before moto's: refuses what the key may not, and tells of objects that were put."""

    def __init__(
        self, app: WSGIApplication, *, bucket: str, keys: tuple[str, str], region: str, stored: Callable[[str], None]
    ) -> None:
        """Let `keys` (access key, secret key) use `bucket`; `stored` is called with the key a request wrote to."""
        self._app = app
        self._bucket = bucket
        self._access_key = keys[0]
        self._secret_key = keys[1]
        self._region = region
        self._stored = stored
        self._one_at_a_time = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        method, target = environ["REQUEST_METHOD"], urlsplit(environ.get("RAW_URI") or environ["PATH_INFO"])
        found = OBJECT.fullmatch(unquote(target.path))
        bucket, key = found.group("bucket", "key") if found else ("", "")
        refusal = self._refusal(environ, method, bucket, key or "")
        if refusal:
            return _refuse(environ, start_response, refusal)
        status: list[str] = []

        def noting(line: str, *args: object) -> object:
            status.append(line)
            return start_response(line, *args)  # type: ignore[arg-type]

        conditional = method not in READING and {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"} & environ.keys()
        with self._one_at_a_time if conditional else nullcontext():
            body = self._app(environ, noting)  # type: ignore[arg-type]
            if method not in READING and key and status and status[0].startswith("2"):
                self._stored(key)
        return body

    def _refusal(self, environ: WSGIEnvironment, method: str, bucket: str, key: str) -> str | None:
        """Say why a request is refused, as Amazon's code; None if it is not."""
        given = _authorization(environ.get("HTTP_AUTHORIZATION", ""))
        if given is None:
            return "AccessDenied"
        access_key, _, scope = given["Credential"].partition("/")
        if access_key != self._access_key:
            return "InvalidAccessKeyId"
        if scope.split("/")[1:] != [self._region, "s3", "aws4_request"] or not self._signed(environ, method, given):
            return "SignatureDoesNotMatch"
        source = unquote(environ.get("HTTP_X_AMZ_COPY_SOURCE", "")).removeprefix("/").partition("/")[0]
        if bucket != self._bucket or source not in {"", self._bucket}:
            return "AccessDenied"
        deleting = method == "POST" and "delete" in environ.get("QUERY_STRING", "")
        return None if key or method in READING or deleting else "AccessDenied"

    def _signed(self, environ: WSGIEnvironment, method: str, given: dict[str, str]) -> bool:
        """Whether the signature is that of the secret key."""
        target = urlsplit(environ.get("RAW_URI") or environ["PATH_INFO"])
        names = given["SignedHeaders"].split(";")
        lines = [
            method,
            target.path,
            _canonical_query(target.query),
            *(f"{name}:{' '.join(_header(environ, name).split())}" for name in names),
            "",
            given["SignedHeaders"],
            _header(environ, "x-amz-content-sha256"),
        ]
        _, _, scope = given["Credential"].partition("/")
        digest = sha256("\n".join(lines).encode()).hexdigest()
        text = "\n".join([SCHEME, _header(environ, "x-amz-date"), scope, digest])
        key = f"AWS4{self._secret_key}".encode()
        for part in (*scope.split("/"), text):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.compare_digest(key.hex().encode(), given["Signature"].encode())


def _authorization(header: str) -> dict[str, str] | None:
    """Read a signed request's header; None for any other."""
    scheme, _, rest = header.partition(" ")
    given = dict(part.strip().split("=", 1) for part in rest.split(",") if "=" in part)
    complete = {"Credential", "SignedHeaders", "Signature"} <= given.keys()
    return given if scheme == SCHEME and complete and given["Credential"].count("/") >= 4 else None  # noqa: PLR2004 - date, region, service, end


def _header(environ: WSGIEnvironment, name: str) -> str:
    name = name.upper().replace("-", "_")
    return str(environ.get(name if name in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{name}", ""))


def _canonical_query(query: str) -> str:
    """Order a query as signatures want it; it stays encoded as it came."""
    pairs = (part.partition("=") for part in query.split("&") if part)
    return "&".join(f"{name}={value}" for name, _, value in sorted(pairs))


def _refuse(environ: WSGIEnvironment, start_response: StartResponse, code: str) -> list[bytes]:
    """Answer 403 as Amazon does, and read what was sent, so that the connection can go on."""
    _drain(environ)
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{escape(ERRORS[code])}</Message>'
    )
    content = f"{body}<RequestId>SANDBOX</RequestId></Error>".encode()
    length = str(len(content))
    start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", length)])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]


def _drain(environ: WSGIEnvironment) -> None:
    left = int(environ.get("CONTENT_LENGTH") or 0)
    while left > 0 and (data := environ["wsgi.input"].read(min(left, 1 << 20))):
        left -= len(data)

"""Two small clients, so that the pair can be tried against the sandbox over HTTP.

`export` takes the subscription log from the Reports API; `upload` puts CSVs into Engage's ingest folder. They read the
lines that `sandbox serve` prints from the environment, and would work with the vendors themselves.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

GROUPS: Final = ("DEFAULT", "RENEWABLE_GIFT", "USER", "PAYMENT", "UPGRADES", "AUTORENEW", "MODIFY_TIME")
BAD: Final = frozenset({"INTERNAL_ERROR", "REMOVED", "FAILED"})
"""States of a job that never end well (reference sheet of Piano, 2.3)."""
POLL_SECONDS: Final = 0.5
WAIT_SECONDS: Final = 7200.0
TIMEOUT: Final = 60.0
S3_NAMES: Final = ("S3_BUCKET", "S3_PREFIX", "S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
REMEMBERED: Final = ".uploaded.json"
"""File beside the CSVs that says which of them were uploaded."""


class ClientError(Exception):
    """What the vendor or the environment lacks; the message says what to check."""


def wanted(environment: Mapping[str, str], *names: str) -> list[str]:
    """Give variables; raises ClientError that names the missing one."""
    for name in names:
        if not environment.get(name):
            msg = f"{name} is not set; paste the lines that `sandbox serve` prints into .env"
            raise ClientError(msg)
    return [environment[name] for name in names]


def export(output: str | None, environment: Mapping[str, str]) -> int:
    """Write the complete subscription log to a file: schedule, poll, link, download. Raises ClientError."""
    (path,) = [output] if output else wanted(environment, "SANDBOX_EXPORT_PATH")
    aid, token, base = wanted(environment, "TAP_PIANO_AID", "TAP_PIANO_API_TOKEN", "TAP_PIANO_REPORTS_URL")

    def call(method: str, route: str, **query: str | Sequence[str]) -> dict[str, Any]:
        pairs = urllib.parse.urlencode({"aid": aid, "api_token": token, **query}, doseq=True)
        answer = json.loads(_fetch(f"{base}{route}?{pairs}", method, route))
        return dict(answer.get("export") or answer.get("data") or answer)

    job = call("POST", "/export/schedule/vx/subscriptionLog", attribute_groups=GROUPS)
    number, deadline = str(job.get("export_id")), time.monotonic() + WAIT_SECONDS
    while job.get("job_status") != "FINISHED":
        if job.get("job_status") in BAD or time.monotonic() > deadline:
            msg = f"export {number} ended as {job.get('job_status')}: {job.get('error_text', 'no reason given')}"
            raise ClientError(msg)
        time.sleep(POLL_SECONDS)
        job = call("GET", "/export/status", export_id=number)
    size = _download(str(call("GET", "/export/download/url", export_id=number)["url"]), Path(path))
    sys.stderr.write(f"sandbox: exported {size:,} bytes to {path}\n")
    return 0


def _fetch(url: str, method: str, route: str) -> bytes:
    """Call and give the body; errors name the route and never the query, which has the token in it."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=TIMEOUT) as answer:  # noqa: S310 - the user's own
            return bytes(answer.read())
    except urllib.error.HTTPError as e:
        msg = f"{method} {route} answered {e.code}"
        e.close()
        raise ClientError(msg) from None
    except OSError as e:
        msg = f"{method} {route} failed: {getattr(e, 'reason', e)}; is the sandbox serving?"
        raise ClientError(msg) from None


def _download(url: str, path: Path) -> int:
    """Write a link's bytes to a file that appears once it is whole; returns its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, part.open("wb") as file:  # noqa: S310 - the vendor's own
            length = answer.headers.get("Content-Length")
            while piece := answer.read(1 << 20):
                file.write(piece)
            size = file.tell()
        if length is not None and int(length) != size:
            msg = f"the download broke off after {size} of {length} bytes; export again"
            raise ClientError(msg)
        part.replace(path)
    except urllib.error.HTTPError as e:
        e.close()
        msg = f"the download link answered {e.code}"
        raise ClientError(msg) from None
    except OSError as e:
        msg = f"the download failed: {getattr(e, 'reason', e)}"
        raise ClientError(msg) from None
    finally:
        part.unlink(missing_ok=True)
    return size


def upload(paths: Sequence[str], environment: Mapping[str, str]) -> int:
    """Put CSVs into the ingest folder, those that are not there yet. Raises ClientError."""
    import boto3  # type: ignore[import-untyped]  # noqa: PLC0415 - takes a third of a second
    from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # noqa: PLC0415
    from botocore.exceptions import ClientError as S3Error  # noqa: PLC0415

    bucket, folder, endpoint, key, secret = wanted(environment, *(f"TARGET_RECURLY_ENGAGE_{n}" for n in S3_NAMES))
    s3 = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-west-2", aws_access_key_id=key, aws_secret_access_key=secret
    )
    sent = 0
    try:
        for file in _files(paths or wanted(environment, "SANDBOX_UPLOAD_PATH")):
            memory = file.with_name(REMEMBERED)
            known = json.loads(memory.read_text(encoding="utf-8")) if memory.exists() else {}
            mark = f"{endpoint}/{bucket} {hashlib.sha256(file.read_bytes()).hexdigest()}"
            if known.get(file.name) == mark:
                continue
            s3.upload_file(str(file), bucket, f"{folder.strip('/')}/{file.name}".lstrip("/"))
            memory.write_text(json.dumps({**known, file.name: mark}, indent=1), encoding="utf-8")
            sent += 1
    except (Boto3Error, BotoCoreError, S3Error, OSError) as e:
        msg = f"the upload failed: {e}"
        raise ClientError(msg) from e
    finally:
        s3.close()
    sys.stderr.write(f"sandbox: uploaded {sent} file(s) to s3://{bucket}/{folder.strip('/')}/\n")
    return 0


def _files(paths: Iterable[str]) -> Iterator[Path]:
    """List CSVs, those of a folder by age; a folder that does not exist yet has none."""
    for path in map(Path, paths):
        if path.suffix == ".csv":
            yield path
        else:
            yield from sorted(path.glob("*.csv"), key=lambda file: (file.stat().st_mtime_ns, file.name))

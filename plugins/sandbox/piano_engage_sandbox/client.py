"""A small client, so that the pair can be tried against the sandbox: `upload` puts CSVs into Engage's ingest folder.

It reads the lines that `sandbox serve` prints from the environment, and would work with the vendor itself.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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

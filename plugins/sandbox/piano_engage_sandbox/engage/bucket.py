"""The S3 bucket and its ingest folder (reference sheet of Engage, 2).

The server is moto's, in threads of its own; what may be done there decides the gate before it. What is put into the
ingest folder is read into the same users the Ingest API writes, `engage.csv_delay` seconds after the upload.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Final

from piano_engage_sandbox.application import invented
from piano_engage_sandbox.engage.intake import Intake
from piano_engage_sandbox.service import SANDBOX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web
    from moto.s3.models import FakeKey

    from piano_engage_sandbox.engage.storage import Storage
    from piano_engage_sandbox.service import Sandbox

REGION: Final = "us-west-2"
"""Documented for one connector, assumed for all."""


class Bucket:
    """The bucket: what an administrator finds under Show Credentials. A part: `sandbox.part(Bucket)`."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Invent name and credentials; `start` serves it.

        On a free port all of them differ from run to run: several sandboxes of a process share moto's storage.
        """
        seed = sandbox.options.seed
        chance = secrets.token_hex(4) if sandbox.options.s3_port == 0 else ""
        self.name = "-".join(filter(None, ["engage-sandbox", invented("bucket", seed, "")[:8], chance]))
        self.prefix = f"example-daily-{invented('location', seed, '')[:6]}/ingest/"
        """The Upload Location: files whose keys begin with it are read."""
        self.access_key = f"SANDBOX{invented('access key', seed, chance)[:13].upper()}"
        self.secret_key = invented("secret key", seed, chance) + invented("secret key's end", seed, chance)[:8]
        self.region = REGION
        self.endpoint = ""
        """Where it is served; empty if it is not."""
        self._options = sandbox.options
        self._storage: Storage | None = None

    def start(self, intake: Intake) -> None:
        """Serve; raises OSError when the port is taken."""
        from piano_engage_sandbox.engage.storage import Storage  # noqa: PLC0415 - moto takes a second to import

        host = self._options.host
        self._storage = Storage(
            (host, self._options.s3_port or 0),
            bucket=self.name,
            keys=(self.access_key, self.secret_key),
            region=self.region,
            stored=lambda key: self._tell(intake, key),
        )
        everywhere = host in {"0.0.0.0", ""}  # noqa: S104 - compared only
        self.endpoint = f"http://{'127.0.0.1' if everywhere else host}:{self._storage.port}"

    def stop(self) -> None:
        """Stop serving, and forget what is in it."""
        if self._storage is not None:
            self._storage.stop()
        self._storage, self.endpoint = None, ""

    def object(self, key: str) -> FakeKey | None:
        """Give what is stored under a key now."""
        return None if self._storage is None else self._storage.object(key)

    def remove(self, key: str) -> None:
        """Take an object away."""
        if self._storage is not None:
            self._storage.remove(key)

    def _tell(self, intake: Intake, key: str) -> None:
        """Tell of a file for the ingest folder; parts of an upload and marks of folders are none."""
        found = self.object(key) if key.startswith(self.prefix) and not key.endswith("/") else None
        if found is not None:
            intake.uploaded(key, found)


async def running(app: web.Application) -> AsyncIterator[None]:
    """Serve the bucket and read what is put into it while the server runs."""
    sandbox = app[SANDBOX]
    if sandbox.options.s3_port is None:
        yield
        return
    bucket = sandbox.part(Bucket)
    intake = Intake(sandbox, bucket, asyncio.get_running_loop())
    await asyncio.to_thread(bucket.start, intake)
    reading = asyncio.create_task(intake.run())
    yield
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    await asyncio.to_thread(bucket.stop)

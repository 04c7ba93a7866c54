"""moto's S3 server and its storage, behind the gate. Imported only where a bucket is served: moto takes a second."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

from piano_engage_sandbox.engage.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from moto.s3.models import FakeKey, S3Backend


class QuietHandler(MotoRequestHandler):
    """moto's handler, without a line for each request and without delays between answers on one connection."""

    disable_nagle_algorithm = True

    def log(self, *_: object) -> None:
        """Say nothing."""


class Storage:
    """One bucket and the server before it. All of a process share moto's storage, so its name must be its own."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        bucket: str,
        keys: tuple[str, str],
        region: str,
        stored: Callable[[str], None],
    ) -> None:
        """Make the bucket, empty, and serve it in threads; raises OSError when the port is taken."""
        self._bucket = bucket
        self._remove()
        self._backend.create_bucket(bucket, region)
        gate = Gate(
            DomainDispatcherApplication(create_backend_app), bucket=bucket, keys=keys, region=region, stored=stored
        )
        # A socket of our own: where the port is taken, werkzeug's would print a text and end the process.
        with socket.create_server(address, backlog=128) as listening:
            self._server = make_server(
                *address, gate, threaded=True, request_handler=QuietHandler, fd=listening.fileno()
            )
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="sandbox-s3", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, and forget the bucket."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._remove()

    def object(self, key: str) -> FakeKey | None:
        """Give what is stored under a key now."""
        return self._backend.get_object(self._bucket, key)

    def remove(self, key: str) -> None:
        """Take an object away."""
        self._backend.delete_object(self._bucket, key)

    def put(self, key: str, content: bytes) -> None:
        """Store an object."""
        self._backend.put_object(self._bucket, key, content)

    @property
    def _backend(self) -> S3Backend:
        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]

    def _remove(self) -> None:
        found = self._backend.buckets.pop(self._bucket, None)
        if found is not None:
            for stored in found.keys.values():
                stored.dispose()

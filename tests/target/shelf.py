"""A ledger on the sandbox's S3 server, as tests see it: settings, states, and time that passes."""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from piano_engage_sandbox.engage.bucket import Bucket

from tests.target.conftest import places

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest
    from piano_engage_sandbox.engage.gate import Gate
    from piano_engage_sandbox.server import Server

STOPS_AT = """
import os, signal
from botocore.httpsession import URLLib3Session
asked = 0
def send(self, request, original=URLLib3Session.send):
    global asked
    asked += 1
    if asked == {number} and {before}:
        os.kill(os.getpid(), signal.{signal})
    answer = original(self, request)
    if asked == {number} and not {before}:
        os.kill(os.getpid(), signal.{signal})
    return answer
URLLib3Session.send = send
"""
"""Stops a process before or after its n-th request to the bucket."""

STANDS_STILL = (
    STOPS_AT.replace("{signal})", "SIGSTOP); an_hour_later()")
    + """
def an_hour_later():
    from target_recurly_engage.shared import lease
    lease._seconds = lambda original=lease._seconds: original() + 3600
"""
)
"""Stops a process in the same way, and lets an hour pass by its clock until it goes on, as `Shelf.age` does at the
server; without that a lease that is over for all others would have lasted milliseconds for the process itself."""

GOES_AWAY = """
from botocore.exceptions import EndpointConnectionError
from botocore.httpsession import URLLib3Session
asked = 0
def send(self, request, original=URLLib3Session.send):
    global asked
    asked += 1
    if asked >= {number} and not ({back} and asked >= {back}):
        if {heard}:
            original(self, request)
        raise EndpointConnectionError(endpoint_url=request.url)
    return original(self, request)
URLLib3Session.send = send
import botocore.retryhandler, time
time.sleep = lambda seconds, original=time.sleep: original(min(seconds, 0.01))
"""
"""From its n-th request on the bucket is not there for a process; with `heard` it does as asked, but says nothing."""


@dataclass(slots=True)
class Shelf:
    """A ledger on the sandbox's server.

    Attributes:
        server: the sandbox.
        key: the ledger's folder in the bucket.
        states: all that ``current.json`` ever said, once `watch` was called.
    """

    server: Server
    key: str
    states: list[dict[str, Any]] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, server: Server, request: pytest.FixtureRequest) -> Shelf:
        """Give a test one of its own."""
        return cls(server, f"ledgers/{request.node.name[:40].strip('[]')}-{uuid.uuid4().hex[:8]}")

    def settings(self, cache: Path, **more: object) -> dict[str, Any]:
        """Settings of a machine whose copies lie in *cache*."""
        found = places(self.server)
        return {
            "ledger": f"s3://{found['s3_bucket']}/{self.key}",
            "ledger_s3_endpoint_url": found["s3_endpoint_url"],
            "ledger_s3_region": "us-west-2",
            "ledger_aws_access_key_id": found["aws_access_key_id"],
            "ledger_aws_secret_access_key": found["aws_secret_access_key"],
            "ledger_cache": str(cache),
            "ledger_wait": 0,
            "retry_attempts": 2,
        } | more

    @property
    def gate(self) -> Gate:
        """What stands before moto."""
        return self.server.sandbox.part(Bucket)._storage._server.app  # type: ignore[union-attr, return-value]

    # What is there

    def content(self, key: str) -> bytes:
        """What lies below the ledger's folder under that key."""
        found = self.server.sandbox.part(Bucket).object(f"{self.key}/{key}")
        assert found is not None, key
        return bytes(found.value)

    def put(self, key: str, content: bytes) -> None:
        """Put something below the ledger's folder."""
        self.server.sandbox.part(Bucket)._storage.put(f"{self.key}/{key}", content)  # type: ignore[union-attr]

    def remove(self, key: str) -> None:
        """Remove something below the ledger's folder."""
        self.server.sandbox.part(Bucket).remove(f"{self.key}/{key}")

    @property
    def current(self) -> dict[str, Any]:
        """What ``current.json`` says."""
        return dict(json.loads(self.content("current.json")))

    def keys(self, folder: str = "") -> list[str]:
        """The keys below the ledger's folder."""
        prefix = f"{self.key}/{folder}"
        storage = self.server.sandbox.part(Bucket)._storage
        stored = storage._backend.buckets[storage._bucket].keys  # type: ignore[union-attr]
        return sorted(key.removeprefix(f"{self.key}/") for key in stored if key.startswith(prefix))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the newest version."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "newest.duckdb"
            path.write_bytes(self.content(f"versions/{self.current['current']['name']}.duckdb"))
            with duckdb.connect(str(path), read_only=True) as connection:
                return connection.execute(sql).fetchall()

    def told(self) -> dict[str, dict[str, str]]:
        """What Engage was told, by the newest version."""
        found: dict[str, dict[str, str]] = {}
        for user, trait, value in self.query("SELECT user_id, trait, value FROM delivered_traits"):
            found.setdefault(user, {})[trait] = value
        return found

    # Time

    def age(self, **time: float) -> None:
        """Let the last word about the ledger be older, by the server's clock."""
        found = self.server.sandbox.part(Bucket).object(f"{self.key}/current.json")
        if found is not None:
            found.last_modified -= timedelta(**(time or {"hours": 1}))

    # All states

    def watch(self) -> None:
        """Note every state from now on, and whether its version is whole at that moment."""
        gate = self.gate
        stored = gate._stored

        def note(key: str) -> None:
            if key == f"{self.key}/current.json":
                state = self.current
                self.states.append(state)
                self.torn += [why] if (why := self._torn(state)) else []
            stored(key)

        gate._stored = note

    def _torn(self, state: Mapping[str, Any]) -> str:
        version = state["current"]
        if not version["bytes"]:
            return ""
        found = self.server.sandbox.part(Bucket).object(f"{self.key}/versions/{version['name']}.duckdb")
        if found is None:
            return f"{version['name']} is not there"
        right = hashlib.sha256(bytes(found.value)).hexdigest() == version["sha256"]
        return "" if right else f"{version['name']} is another file"

    def faults(self) -> list[str]:
        """What is wrong with the states: torn versions, two who wrote at once, a version that was made of another."""
        found = list(self.torn)
        for before, after in zip(self.states, self.states[1:], strict=False):
            taken = before["by"] != after["by"]
            if after["fence"] != before["fence"] + taken:
                found.append(f"{after['by']} wrote while {before['by']} had it")
            if after["current"] == before["current"]:
                continue
            if taken or before["holder"] is None:
                found.append(f"{after['current']['name']} was written by one who did not have the ledger")
            if after["current"]["base"] != before["current"]["name"]:
                found.append(f"{after['current']['name']} was not made of {before['current']['name']}")
        return found

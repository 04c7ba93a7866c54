"""Marked secrets and personal data in two runs' artefacts: none where it should not be."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from piano_engage_sandbox.testing import serving

from tests.target.conftest import PROPERTIES, places
from tests.target.test_cli import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Engage

PERSON = "canary-person@example.com"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(rows=5, s3_port=0, switches={"engage.csv_delay": 0}) as one:
        yield one


@pytest.fixture
def settings(server: Server) -> dict[str, Any]:
    return places(server) | {"requests_per_second": 0, "retry_wait": 0, "retry_attempts": 2, "csv_ingest_hours": 0}


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Everything a run left: files as they are, the pages among them; ledgers also cell by cell."""
    for path in folder.rglob("*"):
        if path.name.startswith("config-") or path.name == "cli.json" or not path.is_file():
            continue  # the settings themselves
        if path.suffix == ".duckdb":
            with duckdb.connect(str(path), read_only=True) as connection:
                for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
                    yield f"{path}:{table}", repr(connection.execute(f'FROM "{table}"').fetchall())
        yield str(path), path.read_bytes().decode(errors="replace")


def leaks(engage: Engage, words: list[str]) -> list[tuple[str, str]]:
    return [(place, word) for place, content in texts(engage.folder) for word in words if word in content]


@pytest.mark.parametrize("fault", [None, {"status": 422, "times": 2}, {"status": 401}, {"status": 503}])
@pytest.mark.parametrize(
    "way", [("ingest", "json", "both"), ("ingest", "query", "query"), ("s3", "json", "basic")], ids=" ".join
)
def test_no_secret_and_no_person_is_left_anywhere(
    server: Server, settings: dict[str, Any], engage: Engage, monkeypatch: pytest.MonkeyPatch,
    way: tuple[str, str, str], fault: dict[str, Any] | None,
) -> None:  # fmt: skip
    delivery, form, key_in = way
    monkeypatch.setenv("TARGET_RECURLY_ENGAGE_LOGLEVEL", "DEBUG")
    need = {"basic": "basic", "query": "key", "both": "both"}[key_in]
    server.control("POST", "switches", {"engage.auth": need, "engage.query_auth": need})
    if fault:
        server.control("POST", "faults", {"part": "engage"} | fault)
    settings |= {"delivery": delivery, "ingest_form": form, "ingest_key_in": key_in}
    columns = [*PROPERTIES, "email", "first_name"]
    records = [engage.subscription(number, email=PERSON, first_name=PERSON) for number in range(1, 6)]
    run = engage.run(engage.snapshot(records, properties=columns), **settings)
    asked = ask(engage, "rejects", "list", **settings)
    (engage.folder / "output.log").write_text(run.out + run.log + asked.stdout + asked.stderr)
    assert "DEBUG" in run.log
    pair = base64.b64encode(f"{settings['app_id']}:{settings['api_key']}".encode()).decode()
    assert leaks(engage, [settings["api_key"], pair, settings["aws_secret_access_key"], PERSON]) == []
    assert leaks(engage, ["RC000001"]) != [], "a scan that finds nothing at all shows nothing"
    places_seen = {place for place, _ in texts(engage.folder)}
    assert {place.rpartition(".")[2] for place in places_seen} >= {"html", "json", "log", "duckdb", "duckdb:delivered"}


def test_a_log_that_tells_of_requests_is_found_out(server: Server, settings: dict[str, Any], engage: Engage) -> None:
    """The broken double."""
    assert server
    double = """
import logging
from target_recurly_engage.engage import IngestClient
def write(self, user_id, properties, *more, original=IngestClient.write):
    logging.getLogger("target-recurly-engage").warning("sending %s", self._headers | self._params)
    return original(self, user_id, properties, *more)
IngestClient.write = write
"""
    settings |= {"delivery": "ingest", "ingest_key_in": "both"}
    run = engage.run(engage.snapshot(engage.subscriptions(1)), script=double, **settings)
    (engage.folder / "output.log").write_text(run.log)
    with pytest.raises(AssertionError):
        assert leaks(engage, [settings["api_key"]]) == []

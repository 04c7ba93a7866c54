"""How the tests of the tap feed it: real files, through the real command or through the real class."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlparse

import duckdb
import pytest
from piano_engage_sandbox.testing import serving
from tap_piano.tap import TapPiano

from tests import warm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from piano_engage_sandbox.server import Server

UNTIL_THE_END = contextlib.ExitStack()
"""What is closed at the end of the session, whichever tests ran; later, threads of an executor cannot be waited for."""


def pytest_sessionfinish() -> None:
    UNTIL_THE_END.close()


COMMAND = Path(sys.executable).with_name("tap-piano")
SAMPLE = Path(__file__).parents[2] / "samples" / "subscription-log-day-1.csv"
IDS = ("Subscription ID", "User ID (UID)")
PATIENCE = 120


@dataclass(frozen=True)
class Run:
    """What one run of the tap left: exit code, messages, log."""

    code: int
    out: bytes
    log: str
    tmp: Path
    rejects_folder: Path

    @cached_property
    def messages(self) -> list[dict[str, Any]]:
        """The Singer messages, parsed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def types(self) -> list[str]:
        """The kinds of the messages, in order."""
        return [message["type"] for message in self.messages]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """The messages of one kind."""
        return [message for message in self.messages if message["type"] == kind]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records of the RECORD messages."""
        return [message["record"] for message in self.of_type("RECORD")]

    @property
    def states(self) -> list[dict[str, Any]]:
        """The bookmarks of the stream in the STATE messages."""
        return [message["value"]["bookmarks"].get("subscription_log", {}) for message in self.of_type("STATE")]

    @property
    def bookmark(self) -> str | None:
        """The bookmark in the last STATE message."""
        return self.states[-1].get("replication_key_value") if self.states else None

    @property
    def errors(self) -> str:
        """The lines of the log that are errors."""
        return "\n".join(line for line in self.log.splitlines() if "| ERROR" in line)

    @property
    def leftovers(self) -> list[Path]:
        """Files and run folders that stayed behind in the folder for temporary files."""
        return [path for path in self.tmp.rglob("*") if path.is_file() or path.name.startswith("tap-piano-")]

    @property
    def rejects(self) -> list[dict[str, Any]]:
        """The entries of the rejects files."""
        files = sorted(self.rejects_folder.glob("*"))
        return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]

    @property
    def batch_rows(self) -> list[dict[str, Any]]:
        """The rows of the BATCH files in the order of the manifests, as JSON would carry them."""
        return [row for message in self.of_type("BATCH") for uri in message["manifest"] for row in read_batch(uri)]


def read_batch(uri: str) -> list[dict[str, Any]]:
    """Read one BATCH file as a target would; stamps become the text that a RECORD carries."""
    path = unquote(urlparse(uri).path).replace("'", "''")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        if not path.endswith(".parquet"):
            return [
                json.loads(text)
                for (text,) in connection.sql(f"SELECT json FROM read_json_objects('{path}')").fetchall()
            ]
        relation = connection.sql(f"FROM read_parquet('{path}')")
        columns = ", ".join(
            f'strftime("{name}", \'%Y-%m-%dT%H:%M:%S+00:00\') AS "{name}"' if "TIME" in str(kind) else f'"{name}"'
            for name, kind in zip(relation.columns, relation.types, strict=True)
        )
        return [
            json.loads(text)
            for (text,) in connection.sql(f"SELECT to_json(r) FROM (SELECT {columns} FROM relation) r").fetchall()
        ]


@dataclass(slots=True)
class Exports:
    """Writes export files below a folder."""

    folder: Path
    written: list[Path] = field(default_factory=list)

    def csv(
        self,
        rows: Iterable[Mapping[str, str] | Sequence[str]] = (),
        *,
        name: str = "log.csv",
        headers: Sequence[str] | None = None,
        delimiter: str = ",",
        line_end: str = "\n",
        encoding: str = "utf-8",
    ) -> Path:
        """Write a CSV; a row may be cells by header, or a plain list of cells."""
        rows = list(rows)
        if headers is None:
            seen = dict.fromkeys([*IDS, *(key for row in rows if isinstance(row, dict) for key in row)])
            headers = list(seen)
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator=line_end)
        writer.writerow(headers)
        writer.writerows(
            [[row.get(header, "") for header in headers] if isinstance(row, dict) else list(row) for row in rows]
        )
        return self.bytes(buffer.getvalue().encode(encoding), name=name)

    def bytes(self, content: bytes, *, name: str = "log.csv") -> Path:
        """Write *content* as it is."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.written.append(path)
        return path


class Tap(Protocol):
    """Runs the tap on an export."""

    def __call__(
        self,
        export: Path | str | None,
        *args: str,
        state: Mapping[str, Any] | None = None,
        catalog: Mapping[str, Any] | None = None,
        **settings: Any,  # noqa: ANN401
    ) -> Run:
        """Run and wait."""
        ...


class MakeRow(Protocol):
    """Makes a row of a subscription."""

    def __call__(self, number: int, **cells: str) -> dict[str, str]:
        """Make it; further cells by header, with underscores for blanks."""
        ...


Process = subprocess.Popen[bytes] | warm.Process
StartTap = tuple[Callable[..., Process], Callable[[Process], Run]]
"""The command, not waited for: a function that starts it, and one that waits."""


def row(number: int, **cells: str) -> dict[str, str]:
    """Make a row of a subscription; further cells by header, with underscores for blanks."""
    return {
        "Subscription ID": f"RC{number:010}",
        "User ID (UID)": f"user-{number}",
        **{header.replace("_", " "): cell for header, cell in cells.items()},
    }


@pytest.fixture
def make_row() -> MakeRow:
    """The maker of rows."""
    return row


@pytest.fixture
def exports(tmp_path: Path) -> Exports:
    """A place for export files."""
    return Exports(tmp_path / "in")


@pytest.fixture
def sample() -> Path:
    """The export that ships with the project: 2,000 rows, 78 columns."""
    return SAMPLE


def _prepare(tmp_path: Path, export: Path | str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    config = {"rejects_path": str(tmp_path / "rejects"), **settings}
    if export is not None:
        config["export_path"] = str(export)
    return config


def start(
    tmp_path: Path,
    export: Path | str | None,
    *args: str,
    state: Mapping[str, Any] | None = None,
    catalog: Mapping[str, Any] | None = None,
    before: Sequence[str] = (),
    **settings: Any,  # noqa: ANN401
) -> Process:
    """Start the command ``tap-piano`` and do not wait for it; *before* stands in front of it on the command line."""
    files = {"config": _prepare(tmp_path, export, settings), "state": state, "catalog": catalog}
    options: list[str] = []
    for option, content in files.items():
        if content is not None:
            path = tmp_path / f"{option}.json"
            path.write_text(json.dumps(content))
            options += [f"--{option}", str(path)]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    if not before:
        return warm.piped(COMMAND.name, [*options, *args], environment=environment, folder=tmp_path)
    return subprocess.Popen(
        [*before, str(COMMAND), *options, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment,
    )


def finish(process: Process, tmp_path: Path) -> Run:
    """Wait for the command."""
    out, log = process.communicate(timeout=PATIENCE)
    return Run(process.returncode, out, log.decode(), tmp_path / "tmp", tmp_path / "rejects")


@pytest.fixture
def tap(tmp_path: Path) -> Tap:
    """The command ``tap-piano``, in a process of its own."""

    def run(
        export: Path | str | None,
        *args: str,
        state: Mapping[str, Any] | None = None,
        catalog: Mapping[str, Any] | None = None,
        **settings: Any,  # noqa: ANN401
    ) -> Run:
        return finish(start(tmp_path, export, *args, state=state, catalog=catalog, **settings), tmp_path)

    return run


@pytest.fixture
def start_tap(tmp_path: Path) -> StartTap:
    """The command, not waited for: a function that starts it, and one that waits."""

    def begin(export: Path | str | None, *args: str, **settings: Any) -> Process:  # noqa: ANN401
        return start(tmp_path, export, *args, **settings)

    def wait(process: Process) -> Run:
        return finish(process, tmp_path)

    return begin, wait


@pytest.fixture
def sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Tap:
    """The tap inside the test's own process: what the command does, without its start-up.

    A run that stops raises, as the class does.
    """

    def run(
        export: Path | str | None,
        *args: str,
        state: Mapping[str, Any] | None = None,
        catalog: Mapping[str, Any] | None = None,
        **settings: Any,  # noqa: ANN401
    ) -> Run:
        assert not args, "arguments are for the command"
        config = _prepare(tmp_path, export, settings)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        monkeypatch.chdir(tmp_path)
        buffer = io.BytesIO()
        caplog.clear()
        with caplog.at_level("INFO"), contextlib.redirect_stdout(io.TextIOWrapper(buffer, write_through=True)):
            one = TapPiano(config=config, state=dict(state or {}), catalog=dict(catalog) if catalog else None)
            one.sync_all()
            sys.stdout.flush()
            out = buffer.getvalue()
        log = "\n".join(f"{record.name} | {record.levelname} | {record.getMessage()}" for record in caplog.records)
        return Run(0, out, log, tmp_path / "tmp", tmp_path / "rejects")

    return run


def settings_for(server: Server, **settings: Any) -> dict[str, Any]:  # noqa: ANN401
    """Give the settings with which the tap reads from a sandbox, without waiting between attempts."""
    lines = server.environment()
    return {
        "aid": lines["TAP_PIANO_AID"],
        "api_token": lines["TAP_PIANO_API_TOKEN"],
        "api_url": lines["TAP_PIANO_API_URL"],
        "reports_url": lines["TAP_PIANO_REPORTS_URL"],
        "timezone": lines["TAP_PIANO_TIMEZONE"],
        "requests_per_second": 0,
        "retry_wait": 0,
        "export_poll": 0.02,
        **settings,
    }


@pytest.fixture
def piano() -> Iterator[Server]:
    """A sandbox with 200 subscriptions and a clock that stands still."""
    with serving() as server:
        yield server


@pytest.fixture
def settings(piano: Server) -> dict[str, Any]:
    """The settings with which the tap reads from `piano`."""
    return settings_for(piano)


def only(*streams: str) -> dict[str, Any]:
    """Make a catalog that selects some streams, with what is selected in them by default."""
    found = TapPiano(config={"aid": "any", "api_token": "any", "api_url": "http://127.0.0.1:1"}, setup_mapper=False)
    catalog = json.loads(found.catalog_json_text)
    for stream in catalog["streams"]:
        for entry in stream["metadata"]:
            if not entry["breadcrumb"]:
                entry["metadata"]["selected"] = stream["tap_stream_id"] in streams
    return dict(catalog)


@pytest.fixture
def select() -> Callable[..., dict[str, Any]]:
    """The maker of catalogs: `select("terms")`."""
    return only

"""How the tests of the target feed it: Singer messages into the real command, with real files around it."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import boto3
import duckdb
import pytest
from piano_engage_sandbox.engage.store import Engage as Store
from piano_engage_sandbox.testing import serving

from tests import warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from piano_engage_sandbox.server import Server

COMMAND = [str(Path(sys.executable).with_name("target-recurly-engage"))]
PATIENCE = 120
STREAM = "subscription_log"
STATE = {"bookmarks": {STREAM: {"replication_key_value": "2026-03-28"}}}
AS_OF = "2026-03-28T06:00:00+00:00"

DATES = (
    "create_date", "start_date", "end_date", "trial_period_end_date", "auto_renew_disablement_date",
    "next_billing_date", "grace_period_start_date", "grace_period_extended_to", "access_expiration_date",
)  # fmt: skip
BOOLEANS = ("auto_renew", "renewed", "currently_in_grace_period")
TEXTS = (
    "subscription_id", "subscription_status", "upgrade_status", "trial_status", "billing_period", "resource_id",
    "resource_name", "term_id", "term_name", "term_type", "template_id", "template_name", "offer_id", "offer_name",
    "promo_code",
)  # fmt: skip
NUMBERS = ("days_subscribed", "total_charged")
TRAITS = (*DATES, *BOOLEANS, *TEXTS, *NUMBERS)
PROPERTIES = ("user_id", "aid", "modify_time", *TRAITS)

PLACES = (
    "app_id", "api_key", "api_url", "s3_bucket", "s3_prefix", "s3_endpoint_url", "aws_access_key_id",
    "aws_secret_access_key",
)  # fmt: skip

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
"""How often tests at random moments and in random orders go round; `make fault-test` asks for more."""

EARLY_STATE = """
from target_recurly_engage.run import Run
from target_recurly_engage.target import TargetRecurlyEngage
targets = []
def remember(self, *args, original=TargetRecurlyEngage.__init__, **more):
    original(self, *args, **more)
    targets.append(self)
def finish(self, original=Run.finish):
    targets[-1]._write_state_message(targets[-1]._latest_state)
    original(self)
TargetRecurlyEngage.__init__, Run.finish = remember, finish
"""
"""A broken double: STATE goes out before anything is delivered."""

Message = dict[str, Any]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the target left."""

    code: int
    out: str
    log: str

    @property
    def states(self) -> list[Any]:
        """The STATE lines that went out."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def errors(self) -> str:
        """The lines of the log that are errors."""
        return "\n".join(line for line in self.log.splitlines() if "| ERROR" in line)

    @property
    def warnings(self) -> list[str]:
        """The lines of the log that are warnings."""
        return [line for line in self.log.splitlines() if "| WARNING" in line]


@dataclass(slots=True)
class Engage:
    """A target with a ledger, an output folder and summaries of its own below *folder*."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Give it its places."""
        self.config = {
            "ledger": str(self.ledger),
            "output_path": str(self.output),
            "runs_path": str(self.folder / "runs"),
            "as_of": AS_OF,
            "traits": "all",  # of the log; tests of the computed ones say so
        } | self.config

    @property
    def ledger(self) -> Path:
        """The file of the ledger."""
        return self.folder / "ledger.duckdb"

    @property
    def output(self) -> Path:
        """Where the CSVs go."""
        return self.folder / "ingest"

    # Messages

    @staticmethod
    def subscription(number: int = 1, user: int | str | None = None, **values: object) -> Record:
        """Make a record of a live, paid subscription."""
        return {
            "subscription_id": f"RC{number:06}",
            "user_id": user if isinstance(user, str) else f"u{number if user is None else user}",
            "subscription_status": "Active",
            "term_type": "Payment",
            "start_date": "2026-01-01T10:00:00+00:00",
            "access_expiration_date": "2026-04-30T22:00:00+00:00",
            "auto_renew": True,
            "days_subscribed": 86,
            "total_charged": 12.5,
        } | values

    def subscriptions(self, count: int, **values: object) -> list[Record]:
        """Make as many readers with a subscription each."""
        return [self.subscription(number, **values) for number in range(1, count + 1)]

    @staticmethod
    def schema(properties: Iterable[str] = PROPERTIES, stream: str = STREAM) -> Message:
        """Make a SCHEMA message."""
        kinds = dict.fromkeys(BOOLEANS, "boolean") | {"days_subscribed": "integer", "total_charged": "number"}
        return {
            "type": "SCHEMA",
            "stream": stream,
            "key_properties": ["subscription_id"],
            "schema": {
                "type": "object",
                "properties": {name: {"type": [kinds.get(name, "string"), "null"]} for name in properties},
            },
        }

    def messages(
        self,
        records: Iterable[Record],
        *,
        version: int | None = None,
        complete: bool = True,
        state: object = STATE,
        properties: Iterable[str] = PROPERTIES,
        stream: str = STREAM,
    ) -> list[Message]:
        """Make what a tap sends; with a version it is a snapshot, and ends as one when *complete*."""
        versions = {} if version is None else {"version": version}
        body = [{"type": "RECORD", "stream": stream, "record": record} | versions for record in records]
        end = [{"type": "ACTIVATE_VERSION", "stream": stream} | versions] if versions and complete else []
        last = [] if state is None else [{"type": "STATE", "value": state}]
        return [self.schema(properties, stream), *body, *end, *last]

    def snapshot(self, records: Iterable[Record], **options: Any) -> list[Message]:  # noqa: ANN401 - as messages()
        """Make a complete log."""
        return self.messages(records, version=1, **options)

    def batch(
        self, records: Sequence[Record], form: str, *, version: int | None = None, state: object = STATE
    ) -> list[Message]:
        """Write the records into a file and make the messages that announce it; form: parquet, jsonl, jsonl.gz."""
        folder = self.folder / "batch"
        folder.mkdir(exist_ok=True)
        path = folder / f"rows-{len(list(folder.iterdir()))}.{form}"
        lines = "".join(json.dumps(record) + "\n" for record in records).encode()
        path.write_bytes(gzip.compress(lines) if form == "jsonl.gz" else lines)
        if form == "parquet":
            source = path.with_suffix(".json")
            path.rename(source)
            kinds = dict.fromkeys(DATES, "TIMESTAMPTZ") | dict.fromkeys(BOOLEANS, "BOOLEAN")
            kinds |= {"days_subscribed": "BIGINT", "total_charged": "DECIMAL(18, 4)"}
            columns = ", ".join(f"'{name}': '{kinds.get(name, 'VARCHAR')}'" for name in PROPERTIES)
            with duckdb.connect() as connection:
                connection.execute(
                    f"COPY (FROM read_json('{source}', format = 'newline_delimited', columns = {{{columns}}})) "
                    f"TO '{path}'"
                )
            source.unlink()
        encoding = {"format": form.removesuffix(".gz")} | ({"compression": "gzip"} if form == "jsonl.gz" else {})
        versions = {} if version is None else {"version": version}
        start, *rest = self.messages([], version=version, state=state)
        announced = {"type": "BATCH", "stream": STREAM, "encoding": encoding, "manifest": [path.as_uri()]} | versions
        return [start, announced, *rest]

    # Running

    def command(self, script: str | None = None, **config: object) -> list[str]:
        """Make the command line; *script* is Python that puts doubles in place before the command starts."""
        path, start = self._configured(config), COMMAND
        if script is not None:
            double = path.with_suffix(".py")
            command = "from target_recurly_engage.target import TargetRecurlyEngage\nTargetRecurlyEngage.cli()\n"
            double.write_text(f"{script}\n{command}", encoding="utf-8")
            start = [sys.executable, str(double)]
        return [*start, "--config", str(path)]

    def run(self, messages: Iterable[Message] | bytes, script: str = "", **config: object) -> Run:
        """Run the real command to its end, in a process of its own; *script* as in `command`."""
        given = messages if isinstance(messages, bytes) else self.lines(messages)
        options = ["--config", self._configured(config)]
        done = warm.run("target-recurly-engage", options, script=script, given=given, patience=PATIENCE)
        return Run(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(
        self, messages: Iterable[Message] | int, out: IO[bytes], script: str = "", **config: object
    ) -> warm.Process:
        """Start the real command on all messages, or on the open file that brings them; the caller waits for it."""
        options = ["--config", self._configured(config)]
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as log:
            if not isinstance(messages, int):
                given.write(self.lines(messages))
                given.seek(0)
            return warm.start(
                "target-recurly-engage",
                options,
                script=script,
                stdin=messages if isinstance(messages, int) else given,
                stdout=out,
                stderr=log,
            )

    def _configured(self, config: Mapping[str, object]) -> Path:
        path = self.folder / f"config-{len(list(self.folder.glob('config-*.json')))}.json"
        path.write_text(json.dumps(self.config | config), encoding="utf-8")
        return path

    @staticmethod
    def lines(messages: Iterable[Message]) -> bytes:
        """Write messages as they go down a pipe."""
        return b"".join(json.dumps(message).encode() + b"\n" for message in messages)

    # Looking

    @property
    def files(self) -> list[Path]:
        """The CSVs, oldest first; nothing else may lie beside them."""
        found = sorted(self.output.iterdir(), key=lambda path: path.stat().st_mtime_ns) if self.output.exists() else []
        assert [path.suffix for path in found] == [".csv"] * len(found)
        return found

    def sent(self, number: int = -1) -> dict[str, dict[str, str]]:
        """The rows of one of the CSVs, by reader."""
        with self.files[number].open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        by_user = {row["user_id"]: row for row in rows}
        assert len(by_user) == len(rows)
        return by_user

    @property
    def sent_sets(self) -> list[frozenset[tuple[str, ...]]]:
        """The rows of each CSV as a set, for a comparison of folders."""
        sets = []
        for path in self.files:
            with path.open(newline="", encoding="utf-8") as file:
                sets.append(frozenset(map(tuple, csv.reader(file))))
        return sets

    @property
    def summaries(self) -> list[dict[str, Any]]:
        """The summaries, oldest first."""
        paths = sorted((self.folder / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the ledger."""
        with duckdb.connect(str(self.ledger), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def told_all(self) -> dict[str, dict[str, str]]:
        """What Engage was told, by user."""
        found: dict[str, dict[str, str]] = {}
        for user, trait, value in self.query("SELECT user_id, trait, value FROM delivered_traits"):
            found.setdefault(user, {})[trait] = value
        return found

    def dump(
        self, without: Sequence[str] = ("runs", "measures"), columns: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """All tables of the ledger as multisets of rows; *columns* narrows a table to these."""
        with duckdb.connect(str(self.ledger), read_only=True) as ledger:
            tables = ledger.sql("SELECT table_name FROM duckdb_tables() ORDER BY table_name").fetchall()
            return {
                name: sorted(map(repr, ledger.sql(f'SELECT {(columns or {}).get(name, "*")} FROM "{name}"').fetchall()))
                for (name,) in tables
                if name not in without
            }

    def told(self) -> dict[str, Any]:
        """What the ledger holds that does not depend on when and in how many runs it came about."""
        columns = {
            "delivered": f"user_id, fingerprint, {', '.join(TRAITS)}",
            "deliveries": "channel, status, users, bytes",
            "destinations": "destination, is_current",
            "traits": "trait, kind, stream",
            "taken_in": "stream, signature",
        }
        return self.dump(columns=columns)


def places(server: Server) -> dict[str, str]:
    """Settings with which the target finds the sandbox, by either way."""
    lines = server.environment()
    return {name: lines[f"TARGET_RECURLY_ENGAGE_{name.upper()}"] for name in PLACES}


def all_held(server: Server) -> dict[str, dict[str, Any]]:
    """The traits that the sandbox's Engage holds, by user; without a request each."""
    return {user.id: dict(user.traits) for user in list(server.sandbox.part(Store).each_user())}


@pytest.fixture
def engage(tmp_path: Path) -> Engage:
    """Give a target that never ran."""
    return Engage(tmp_path)


@pytest.fixture(scope="session")
def make_engage(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Engage]:
    """Give a maker of targets that never ran."""
    return lambda: Engage(tmp_path_factory.mktemp("engage"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Give the tests of a file a sandbox with a bucket; files that need another kind of it have one of that name."""
    with serving(s3_port=0, rows=5) as one:
        yield one


@pytest.fixture
def one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all clients of this process one session of boto3: to make one takes longer than all else they do."""
    session = boto3.session.Session()
    monkeypatch.setattr(boto3.session, "Session", lambda: session)

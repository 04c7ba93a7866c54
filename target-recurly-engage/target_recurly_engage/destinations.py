"""Where traits are delivered to, and what each destination has acknowledged.

A destination is a local folder or an Engage application. The application is reached through its S3 folder or its
Ingest API, so it has up to two addresses; settings that name both say that they belong together.

The tables in :data:`TABLES` hold what the current destination acknowledged. Those of every other destination lie
beside them under the name of the table, ``_`` and the number of the destination, and change places with them when a
run delivers there. To rename a table costs nothing, whatever its size.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from piano_engage_common.duck import name
from piano_engage_common.stops import NoInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.ledger import Ledger

TABLES: Final = ("delivered", "earlier_deliveries", "rejects", "overtaken", "assignments")
CURRENT: Final = "(SELECT max(destination) FROM destinations WHERE is_current)"
"""SQL of the number of the current destination; NULL in a ledger that has none yet."""

_AT: Final = " at "
_AMAZON: Final = ".amazonaws.com"
_PORTS: Final = {"http": 80, "https": 443}
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables that boto3 reads where no setting names an endpoint, the first one first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The addresses of a destination.

    Attributes:
        folder: a local folder, absolute; such a destination has no other address.
        bucket: the ingest folder of an Engage application, as ``s3://bucket/prefix``, with the endpoint if it is not
            Amazon's.
        application: the same application behind the Ingest API: its id and the address of the API.
    """

    folder: str | None = None
    bucket: str | None = None
    application: str | None = None

    @property
    def name(self) -> str:
        """Return the addresses in words."""
        known = [f"the folder {self.folder}"] if self.folder else list(filter(None, (self.bucket, self.application)))
        return ", ".join(known) or "an Engage application"

    def agreement(self, other: Destination) -> int:
        """Return how many addresses are the same; -1 where the two are different destinations."""
        pairs = list(zip(astuple(self), astuple(other), strict=True))
        same = sum(ours is not None and ours == theirs for ours, theirs in pairs)
        if bool(self.folder) != bool(other.folder) or any(a and b and a != b for a, b in pairs):
            return -1
        return same if same or not any(astuple(self)) else -1  # of an old ledger an application may have no address


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A destination that the ledger knows.

    Attributes:
        number: its number.
        is_current: the tables hold what it acknowledged.
        addresses: where it is.
        users: users of whom it acknowledged traits.
    """

    number: int
    is_current: bool
    addresses: Destination
    users: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """The destination of a run, as its summary has it.

    Attributes:
        number: its number in the ledger.
        kind: ``folder`` or ``engage``.
        name: its addresses.
        new: it never acknowledged a user, while another destination did.
        users: users of whom it acknowledged traits before the run.
        before: the destination of the run before, where that was another one.
        others: users by name of the other destinations that acknowledged some.
    """

    number: int
    kind: str
    name: str
    new: bool
    users: int
    before: str | None = None
    others: dict[str, int] = field(default_factory=dict)

    @property
    def warning(self) -> str | None:
        """Return what somebody should know of a change of destination."""
        if self.new:
            others = "; ".join(f"{users:,} user(s) were delivered to {one}" for one, users in self.others.items())
            return (
                f"the destination is new: nothing was ever delivered to {self.name} ({others}). All users are sent "
                "in full. If the settings name it by mistake, correct them: what each destination has is known"
            )
        if self.before:
            return (
                f"the destination has changed from {self.before} to {self.name}, which acknowledged {self.users:,} "
                "user(s) before. What differs from that is sent"
            )
        return None


def destination_of(config: Mapping[str, Any]) -> Destination | None:
    """Read from the target's settings where traits go; None where a setting that says so is missing."""
    if config["delivery"] == "file":
        return Destination(folder=str(Path(config["output_path"]).resolve()))
    bucket, application = _bucket_of(config), None
    if config.get("app_id"):
        application = application_of(str(config["app_id"]), config["api_url"])
    needed = {"s3": (bucket,), "ingest": (application,)}.get(config["delivery"], (bucket, application))
    return Destination(bucket=bucket, application=application) if all(needed) else None


def application_of(app_id: str, api_url: str) -> str:
    """Return the address of an application behind the Ingest API."""
    return f"{app_id}{_AT}{_plain(api_url)}"


def _bucket_of(config: Mapping[str, Any]) -> str | None:
    bucket, prefix = config.get("s3_bucket"), config.get("s3_prefix")
    if not bucket or not prefix:
        return None
    given = [config.get("s3_endpoint_url"), *(os.environ.get(one) for one in _ENDPOINTS)]
    endpoint = _plain(next(filter(None, given), ""))
    elsewhere = endpoint and not (urlsplit(endpoint).hostname or "").endswith(_AMAZON)
    return f"s3://{bucket}/{str(prefix).strip('/')}{f'{_AT}{endpoint}' if elsewhere else ''}"


def _plain(url: str) -> str:
    """Return an address in one spelling."""
    parts = urlsplit(url.strip())
    try:
        port = parts.port
    except ValueError:  # whoever sends there says what is wrong with it
        return url
    standard = port is None or port == _PORTS.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}{'' if standard else f':{port}'}{parts.path.rstrip('/')}" if url else ""


# Of a ledger


def known(ledger: Ledger) -> list[Known]:
    """List the destinations that the ledger knows, the one that was served last first."""
    rows = ledger.connection.execute(
        "SELECT destination, is_current, folder, bucket, application FROM destinations "
        "ORDER BY is_current DESC, served_at DESC, destination DESC"
    ).fetchall()
    found, tables = [], {name(one) for one in ledger.tables()}
    for number, is_current, *addresses in rows:
        table = name("delivered") if is_current else _table("delivered", number)
        users = ledger.count(f"SELECT count(*) FROM {table}") if table in tables else 0
        folder, bucket, application = addresses
        where = Destination(
            folder=folder and os.path.normpath(_home(ledger.path) / folder), bucket=bucket, application=application
        )
        found.append(Known(number=number, is_current=is_current, addresses=where, users=users))
    return found


def find(ledger: Ledger, wanted: Destination) -> Known | None:
    """Return the destination with these addresses; None where the ledger knows none."""
    agreed = [(one.addresses.agreement(wanted), one) for one in known(ledger)]
    most = max((same for same, _ in agreed), default=-1)
    return None if most < 0 else next(one for same, one in agreed if same == most)


def select(ledger: Ledger, wanted: Destination) -> Selected:
    """Make a destination the current one, and remember it if it is new; to be called inside a transaction."""
    number = remember(ledger, wanted)
    before = next((one for one in known(ledger) if one.is_current), None)
    make_current(ledger, number)
    ours, *others = known(ledger)
    return Selected(
        number=number,
        kind="folder" if ours.addresses.folder else "engage",
        name=ours.addresses.name,
        new=not ours.users and any(one.users for one in others),
        users=ours.users,
        before=before.addresses.name if before and before.number != number else None,
        others={one.addresses.name: one.users for one in others if one.users},
    )


def remember(ledger: Ledger, wanted: Destination) -> int:
    """Return the number of a destination, which is a new one where the ledger does not know it."""
    execute = ledger.connection.execute
    _adopt(ledger, wanted)
    found = find(ledger, wanted)
    if found is None:
        number = 1 + ledger.count("SELECT max(destination) FROM destinations")
        execute("INSERT INTO destinations VALUES (?, ?, ?, ?, false, now(), now())", [number, *_stored(ledger, wanted)])
        return number
    filled = ", ".join(f"{one} = coalesce({one}, ?)" for one in ("folder", "bucket", "application"))
    execute(f"UPDATE destinations SET {filled} WHERE destination = ?", [*_stored(ledger, wanted), found.number])
    return found.number


def move_folders(ledger: Ledger, to: Path | None) -> None:
    """Record folders as a ledger at *to* has them; None is on shared storage."""
    for one in known(ledger):
        if one.addresses.folder:
            folder = one.addresses.folder if to is None else os.path.relpath(one.addresses.folder, _home(to))
            ledger.connection.execute("UPDATE destinations SET folder = ? WHERE destination = ?", [folder, one.number])


def _home(ledger: Path) -> Path:
    return ledger.resolve().parent


def _stored(ledger: Ledger, addresses: Destination) -> tuple[str | None, ...]:
    """Return the addresses as the table has them.

    A folder is named from that of the ledger, so that a project that moves as a whole keeps its destinations; a ledger
    on shared storage has no such place.
    """
    folder = addresses.folder
    if folder and not ledger.shared:
        folder = os.path.relpath(folder, _home(ledger.path))
    return folder, addresses.bucket, addresses.application


def make_current(ledger: Ledger, number: int) -> None:
    """Let the tables hold what one destination acknowledged; to be called inside a transaction."""
    execute = ledger.connection.execute
    before = [one.number for one in known(ledger) if one.is_current]
    if before == [number]:
        return
    tables = {name(one) for one in ledger.tables()}
    for table, former in ((table, former) for table in TABLES for former in before):
        aside, ours = _table(table, former), _table(table, number)
        execute(f"ALTER TABLE {table} RENAME TO {aside}")
        if ours in tables:
            execute(f"ALTER TABLE {ours} RENAME TO {table}")
        else:
            execute(f"CREATE TABLE {table} AS FROM {aside} LIMIT 0")
    execute("UPDATE destinations SET is_current = (destination = ?)", [number])
    execute("UPDATE destinations SET served_at = now() WHERE is_current")


@contextmanager
def serving(ledger: Ledger, number: int | None) -> Iterator[None]:
    """Make a destination the current one for the ``with`` block; with None the current one stays.

    To be called inside a transaction, which takes it back where there is an error.
    """
    before = [one.number for one in known(ledger) if one.is_current]
    if number is not None:
        make_current(ledger, number)
    yield
    for one in before:
        make_current(ledger, one)


@contextmanager
def viewed(ledger: Ledger, config: Mapping[str, Any]) -> Iterator[None]:
    """Let the tables hold, for the ``with`` block, what a run with these settings would find; nothing of it stays."""
    wanted = destination_of(config)
    with ledger.trial():
        if wanted is not None:
            select(ledger, wanted)
        yield


@contextmanager
def at_destination(ledger: Ledger, config: Mapping[str, Any]) -> Iterator[None]:
    """Make the destination of the settings the current one for the ``with`` block, which is a transaction.

    Raises:
        NoInput: nothing was ever delivered there.
    """
    wanted = destination_of(config)
    with ledger.transaction():
        if wanted is not None:
            _adopt(ledger, wanted)
        found = find(ledger, wanted) if wanted else None
        if wanted and found is None and (others := known(ledger)):
            msg = f"nothing was ever delivered to {wanted.name}. The ledger knows: " + "; ".join(
                one.addresses.name for one in others
            )
            raise NoInput(msg)
        with serving(ledger, found.number if found else None):
            yield


def base_of(table: str) -> str:
    """Return the table that a table of another destination is kept aside of; any other table as it is."""
    base, _, number = table.rpartition("_")
    return base if base in TABLES and number.isdecimal() else table


def asides(ledger: Ledger, table: str) -> list[str]:
    """List the tables, quoted, that hold for other destinations what *table* holds for the current one."""
    return [name(one) for one in ledger.tables() if one != table and base_of(one) == table]


def everywhere(ledger: Ledger) -> Iterator[Known]:
    """Yield each destination while it is the current one, last the one that was; inside a transaction.

    A ledger that knows no destination yet has one all the same.
    """
    found = known(ledger)
    if not found:
        yield Known(number=0, is_current=True, addresses=Destination(), users=0)
    for one in reversed(found):
        make_current(ledger, one.number)
        yield one


def each_in_turn(ledger: Ledger) -> Iterator[Known]:
    """Yield as :func:`everywhere`, but outside a transaction: for what is sent and acknowledged meanwhile."""
    found = known(ledger)
    try:
        for one in reversed(found):
            with ledger.transaction():
                make_current(ledger, one.number)
            yield one
    finally:
        for one in found[:1]:
            with ledger.transaction():
                make_current(ledger, one.number)


def _table(table: str, number: int) -> str:
    return name(f"{table}_{number}")


# A ledger that was made before it remembered destinations


def _adopt(ledger: Ledger, wanted: Destination) -> None:
    """Divide what was delivered by the destinations of the deliveries; the newest one becomes the current one."""
    execute = ledger.connection.execute
    if ledger.count("SELECT count(*) FROM destinations") or not ledger.count("SELECT count(*) FROM delivered"):
        return
    rows = execute(
        "SELECT delivery_id, channel, location FROM deliveries WHERE acknowledged_at IS NOT NULL "
        "ORDER BY acknowledged_at, delivery_id"
    ).fetchall()
    buckets = [location for _, channel, location in rows if channel == "s3"]
    only = Destination(application=None if wanted.folder else wanted.application)
    engage = (buckets and _former("s3", buckets[-1], wanted)) or only
    of = {str(key): _former(channel, place, wanted) or engage for key, channel, place in rows}
    in_order = list(dict.fromkeys(reversed(of.values()))) or [wanted]
    for number, one in enumerate(in_order, 1):
        execute(
            "INSERT INTO destinations VALUES (?, ?, ?, ?, ?, now(), now())",
            [number, *_stored(ledger, one), number == 1],
        )
        keys = [key for key, its in of.items() if its == one]
        execute("UPDATE deliveries SET destination = ? WHERE delivery_id IN (SELECT unnest(?))", [number, keys])
    for number in range(2, len(in_order) + 1):
        theirs = f"delivery_id IN (SELECT delivery_id FROM deliveries WHERE destination = {number})"
        for table in TABLES:
            execute(f"CREATE TABLE {_table(table, number)} AS FROM {table} LIMIT 0")
        execute(f"INSERT INTO {_table('delivered', number)} FROM delivered WHERE {theirs}")
        execute(f"DELETE FROM delivered WHERE {theirs}")
    if len(in_order) > 1:  # the Ingest API may have got only what had changed since a file went elsewhere
        execute(
            "INSERT INTO overtaken SELECT user_id, now() FROM delivered JOIN deliveries USING (delivery_id) "
            "WHERE channel NOT IN ('file', 's3')"
        )


def _former(channel: str, location: str, wanted: Destination) -> Destination | None:
    """Return the destination of a delivery by a file; None for one by the Ingest API."""
    place = location.rpartition("/")[0]
    if channel == "file":
        return Destination(folder=place)
    if channel != "s3":
        return None
    if wanted.bucket and wanted.bucket.partition(_AT)[0] == place:
        return Destination(bucket=wanted.bucket)
    return Destination(bucket=place)

"""What is taken in, by the role of the stream that brings it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from piano_engage_common.duck import name
from piano_engage_common.stops import ConfigRefused
from typing_extensions import override

from target_recurly_engage.catalogue import KEPT, Kept
from target_recurly_engage.intake import INVALID, Intake
from target_recurly_engage.traits import SQL_TYPES, TRAITS, Kind

if TYPE_CHECKING:
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.streams import UsersStream

_TYPES = {
    "aid": "VARCHAR",
    "user_id": "VARCHAR",
    **{trait.name: SQL_TYPES[trait.kind] for trait in TRAITS},
    "modify_time": "TIMESTAMP WITH TIME ZONE",
    INVALID: "VARCHAR",
}

_API_TYPES = {
    **dict.fromkeys(
        ("aid", "subscription_id", "user_id", "api_status", "api_status_name", "term_id", "term_name"), "VARCHAR"
    ),
    "auto_renew": SQL_TYPES[Kind.BOOLEAN],
    **dict.fromkeys(("start_date", "end_date", "read_at"), SQL_TYPES[Kind.DATE]),
}

_API, _INCOMING_API = "api_subscriptions", "incoming_api subscriptions"


class SubscriptionsIntake(Intake):
    """Collects subscriptions."""

    def __init__(self, ledger: Ledger) -> None:
        """Collect into the table ``incoming``."""
        super().__init__(
            ledger, table="incoming", types=_TYPES, key=("subscription_id", "user_id"), role="subscriptions"
        )

    @override
    def finish(self) -> bool:
        complete = super().finish()
        _check_application(self._ledger, "subscriptions")
        return complete


class SideIntake(Intake):
    """Collects rows beside those of users: a bad one is rejected whole, for half a promotion may promise too much."""

    whole_rows: ClassVar[bool] = True


class ApiIntake(SideIntake):
    """Collects what Piano's API says of subscriptions, which is only compared.

    Args:
        ledger: where they are collected.
        temporary: they come from outside a run: the table shadows that of the ledger.
    """

    def __init__(self, ledger: Ledger, *, temporary: bool = False) -> None:
        """Collect into a table that no stream of users can have."""
        super().__init__(
            ledger,
            table=_API if temporary else _INCOMING_API,
            types=_API_TYPES,
            key=("subscription_id", "user_id"),
            role="reconcile",
            temporary=temporary,
        )

    @override
    def finish(self) -> bool:
        complete = super().finish()
        _check_application(self._ledger, "subscriptions")
        return complete


class CatalogueIntake(SideIntake):
    """Collects what the publisher sells.

    Args:
        ledger: where it is collected.
        kept: what is kept of it.
    """

    def __init__(self, ledger: Ledger, kept: Kept) -> None:
        """Collect into a table beside that of the ledger."""
        table = f"incoming_catalogue_{kept.role}"
        super().__init__(ledger, table=table, types=kept.types, key=(kept.key,), role=kept.role)
        self.kept = kept

    @override
    def finish(self) -> bool:
        complete = super().finish()
        _check_application(self._ledger, self.kept.role)
        return complete


def _check_application(ledger: Ledger, what: str) -> None:
    """One application, one ledger (decision 17): of two, a reader would get the traits of either by turns.

    Raises:
        ConfigRefused: rows of another application came.
    """
    own = {"incoming", "subscriptions", _API, _INCOMING_API, *KEPT, *(f"incoming_catalogue_{role}" for role in KEPT)}
    rows = " UNION ".join(f"SELECT aid FROM {name(table)}" for table in ledger.tables() if table in own)
    found = ledger.connection.execute(f"{rows} ORDER BY aid").fetchall()
    aids = [aid for (aid,) in found if aid is not None]
    if len(aids) > 1:
        msg = (
            f"one ledger serves one application, but {what} of {' and '.join(aids[:3])} meet in "
            f"{ledger.path}. Nothing was sent; give each application a ledger and an output of its own."
        )
        raise ConfigRefused(msg)


class UsersIntake(Intake):
    """Collects one stream of users; all as the text it came as, which is judged when it is written.

    Args:
        ledger: where they are collected.
        stream: which of its properties are kept.
    """

    def __init__(self, ledger: Ledger, stream: UsersStream) -> None:
        """Collect into a table beside that of the stream."""
        types = dict.fromkeys((stream.user_id, *(trait.key for trait in stream.traits)), "VARCHAR")
        super().__init__(ledger, table=f"incoming_{stream.stream}", types=types, key=(stream.user_id,), role="users")
        self.stream = stream

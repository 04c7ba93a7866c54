"""Have users sent again, in full: what a destination acknowledged, and then lost, refused or deleted.

The ledger cannot see that, so somebody has to say it. Nothing is sent here. The users are marked, and the next run
sends what they should have then; users who have vanished meanwhile are cleared once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import text
from piano_engage_common.stops import NoInput

from target_recurly_engage.delivery.overlap import overlap_of
from target_recurly_engage.destinations import known
from target_recurly_engage.erased import any_erased, is_erased

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.ledger import Ledger

SHORTEST: Final = 8
"""Characters of a delivery's id that name it; as many stand in the name of its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which users; exactly one of these is given.

    Attributes:
        every: all of the destination.
        users: these.
        delivery: those of whom a delivery sent traits that no later one sent; its id, the beginning of that, or the
            name or location of its file.
        since: those to whom something was delivered at that moment or later.
    """

    every: bool = False
    users: tuple[str, ...] = ()
    delivery: str | None = None
    since: datetime | None = None

    def sql(self, ledger: Ledger) -> str:
        """Build the SQL of the users.

        Raises:
            NoInput: there is no such delivery at this destination.
        """
        if self.users:
            return f"SELECT user_id FROM delivered WHERE user_id IN ({', '.join(map(text, self.users))})"
        every = "SELECT user_id, delivery_id FROM delivered UNION ALL FROM earlier_deliveries"
        if self.delivery is not None:
            chosen = f"delivery_id = {text(_delivery_id(ledger, self.delivery))}"
        elif self.since is not None:
            since = text(self.since.astimezone(UTC).isoformat())
            chosen = (
                "delivery_id IN (SELECT delivery_id FROM deliveries "
                f"WHERE coalesce(acknowledged_at, started_at) >= {since}::TIMESTAMPTZ)"
            )
        else:
            return "SELECT user_id FROM delivered"
        return f"SELECT DISTINCT user_id FROM ({every}) SEMI JOIN delivered USING (user_id) WHERE {chosen}"


def resend(ledger: Ledger, config: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    """Mark the chosen users of the current destination, and count them; to be called inside a transaction or a trial.

    Returns:
        ``destination``, ``users`` (that the next run sends in full), ``delivered`` (that the destination has of all),
        and of the users ``rejected`` (they wait for their next attempt), ``in_flight`` (they wait for a file that may
        not have been read) and ``erased`` (only their clearing values are sent).

    Raises:
        NoInput: there are none.
    """
    execute, count = ledger.connection.execute, ledger.count
    place = next((one.addresses.name for one in known(ledger) if one.is_current), "no destination")
    delivered = count("SELECT count(*) FROM delivered")
    if not delivered:
        msg = f"nothing was ever delivered to {place}, so nothing can be sent again. A run sends all users there."
        raise NoInput(msg)
    execute(f"CREATE OR REPLACE TEMP TABLE resent AS {choice.sql(ledger)}")
    users = count("SELECT count(*) FROM resent")
    if choice.users and users < len(set(choice.users)):
        missing = len(set(choice.users)) - users
        msg = (
            f"{missing} of the users named have never been delivered to {place}. Nothing was changed. "
            "`recurly-engage explain --user ID` says what is known of each; `rejects list` lists those that Engage "
            "rejects."
        )
        raise NoInput(msg)
    waiting = _in_flight(ledger, config)
    found = {
        "destination": place,
        "users": users,
        "delivered": delivered,
        "rejected": count("SELECT count(*) FROM resent SEMI JOIN (FROM rejects WHERE next_at > now()) USING (user_id)"),
        "in_flight": waiting,
        "erased": count(f"SELECT count(*) FROM resent WHERE {is_erased('user_id')}") if any_erased(ledger) else 0,
    }
    execute("INSERT INTO overtaken SELECT user_id, now() FROM resent")
    execute("DROP TABLE resent")
    return found


def _in_flight(ledger: Ledger, config: Mapping[str, Any]) -> int:
    overlap = overlap_of(config)
    if overlap.again or config["delivery"] not in {"auto", "ingest"}:
        return 0
    overlap.mark(ledger, datetime.now(tz=UTC))
    return ledger.count("SELECT count(*) FROM resent SEMI JOIN in_flight USING (user_id)")


def _delivery_id(ledger: Ledger, named: str) -> str:
    """Return the id of the delivery that somebody names.

    Raises:
        NoInput: there is none, there are several, or it went to another destination.
    """
    rows = ledger.connection.execute(
        "SELECT delivery_id, destination FROM deliveries WHERE delivery_id = $named OR location = $named "
        "OR ends_with(location, '/' || $named) OR (length($named) >= $shortest AND starts_with(delivery_id, $named))",
        {"named": named, "shortest": SHORTEST},
    ).fetchall()
    if len(rows) != 1:
        found = "names several deliveries" if rows else "names no delivery"
        msg = (
            f"--delivery: {named} {found}. Give an id of the ledger's table `deliveries`, its first {SHORTEST} "
            "characters, which stand in the name of a file, or the file's location."
        )
        raise NoInput(msg)
    ((delivery_id, number),) = rows
    places = {one.number: one for one in known(ledger)}
    if number in places and not places[number].is_current:
        msg = (
            f"--delivery: {named} went to {places[number].addresses.name}, and the settings name another destination. "
            "Set `delivery` and its settings to that one, and run this again."
        )
        raise NoInput(msg)
    return str(delivery_id)


def words_of(found: Mapping[str, Any], *, done: bool) -> Iterator[str]:
    """Put the counts into words."""
    what = "sends" if done else "would send"
    yield f"{found['users']:,} of {found['delivered']:,} user(s) of {found['destination']}"
    reasons = {
        "rejected": "wait for their next attempt, because Engage rejects them (`recurly-engage rejects retry`)",
        "in_flight": "wait until the file with their last traits counts as read",
        "erased": "are being erased: only what clears them is sent",
    }
    for reason, words in reasons.items():
        if found[reason]:
            yield f"  of these {found[reason]:,} {words}"
    yield f"the next run {what} them in full, as they are then" + ("" if done else "; add --yes to have it so")

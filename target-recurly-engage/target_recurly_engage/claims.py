"""What a tap's STATE claims to have handed on, held against what the ledger has taken in.

A tap that has handed on an export may pass it by the next time, for its state says so. If the ledger was lost
meanwhile, or an older copy of it put back, readers would stay untold and nobody would hear of it. So a bookmark may
hold, under :data:`KEY`, a ``signature`` of what was handed on and, in ``after``, the signature of what that builds on;
the ledger keeps the signatures in the transaction that takes the rows in. A state without the key claims nothing.

Several taps may read the same export for one ledger, each with a state of its own. So a signature ends with a hyphen
and what names the content alone; one without a hyphen is all content. A content that begins with :data:`JOB` was made
by Piano at that moment, so it is newer than any file that somebody has put there before.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import ConfigRefused

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from target_recurly_engage.ledger import Ledger

KEY: Final = "handed_on"
ENDED: Final = "ended"
JOB: Final = "job:"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a run claims of one stream.

    Attributes:
        stream: its name.
        signature: of what was handed on in full; None where the state claims nothing.
        after: what it builds on; None where it is all there is. It is the same as *signature* where the run had
            nothing to hand on, or did not come so far.
        ended: the stream ended well. Else *signature* may be what the tap began with, and says nothing of an export.
        whole: all rows were handed on, also where they were not said to be complete.
    """

    stream: str
    signature: str | None = None
    after: str | None = None
    whole: bool = False
    ended: bool = True


def claims_of(state: object, streams: Iterable[str], *, ended: Container[str]) -> Iterator[Claim]:
    """Yield what a STATE, of whatever tap, claims of *streams*, of which some *ended* well."""
    for stream in streams:
        found = _within(_within(_within(state, "bookmarks"), stream), KEY)
        signature, after = (_within(found, name) for name in ("signature", "after"))
        if isinstance(signature, str):
            yield Claim(
                stream,
                signature,
                after if isinstance(after, str) else None,
                whole=_within(found, "all") is True and stream in ended,
                ended=stream in ended,
            )
        else:
            yield Claim(stream)


def ended_of(state: object, streams: Iterable[str]) -> list[str]:
    """List which of *streams* ended well, by the moment that a STATE holds under :data:`ENDED`."""
    return [one for one in streams if isinstance(_within(_within(_within(state, "bookmarks"), one), ENDED), str)]


def take_at_its_word(ledger: Ledger, claim: Claim) -> None:
    """Note what a stream claims, once the ledger has taken in what that builds on; inside the intake's transaction.

    Raises:
        ConfigRefused: the ledger has not taken it in.
    """
    taken = _taken(ledger, claim.stream)
    newest = taken[-1] if taken else None
    unchanged = claim.after is not None and claim.after == claim.signature
    if claim.after is not None and claim.after not in (_of_one_content(taken) if unchanged and claim.ended else taken):
        msg = (
            f"the state of stream {claim.stream!r} says that an export was handed on which this ledger has not taken "
            f"in: {ledger.path} is another ledger, a new one, or an older copy. Nothing was sent. Run once with "
            "--full-refresh, so that the tap sends everything again."
        )
        raise ConfigRefused(msg)
    if claim.signature != newest and not unchanged:
        ledger.connection.execute(
            "INSERT INTO taken_in (number, stream, signature) VALUES (?, ?, ?)",
            [len(taken) + 1, claim.stream, claim.signature],
        )


def _taken(ledger: Ledger, stream: str) -> list[str | None]:
    """List what the ledger has taken in of a stream, the newest last; None is what nobody can name."""
    query = "SELECT signature FROM taken_in WHERE stream = ? ORDER BY number"
    return [signature for (signature,) in ledger.connection.execute(query, [stream]).fetchall()]


def _of_one_content(taken: Iterable[str | None]) -> list[str | None]:
    """List the newest of what was taken in, back to where the content of a file was another one."""
    of_files = [one for one in taken if not (one and _content_of(one).startswith(JOB))]
    groups = groupby(reversed(of_files), key=lambda one: one and _content_of(one))
    return list(next(groups)[1]) if of_files else []


def _content_of(signature: str) -> str:
    return signature.rpartition("-")[2]


def _within(value: object, name: str) -> Any:  # noqa: ANN401 - JSON
    return value.get(name) if isinstance(value, dict) else None

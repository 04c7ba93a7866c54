"""Who was erased: kept as a hash, so that a reader who was forgotten does not come back with the next log.

The hash is SHA-256 over a salt that this ledger alone has, and the id. Whoever has the ledger and an id can see whether
that reader was erased, which is what it is for; nobody can read an id from it.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from target_recurly_engage.ledger import Ledger


def any_erased(ledger: Ledger) -> bool:
    """Whether anybody was; without them nothing needs to be hashed."""
    return ledger.count("SELECT count(*) FROM erased") > 0


def is_erased(reader: str, *, status: str = "") -> str:
    """Make the SQL that says whether the reader, whom the SQL *reader* names, was erased; of one *status* or of any."""
    of = f" WHERE status = '{status}'" if status else ""
    return f"coalesce(sha256((SELECT salt FROM salt) || {reader}) IN (SELECT digest FROM erased{of}), false)"


def was_erased(ledger: Ledger, user_id: str) -> bool:
    """Whether this reader was."""
    return any_erased(ledger) and ledger.count(f"SELECT ({is_erased('?')})::INT", user_id) > 0


def digest_of(ledger: Ledger, user_id: str) -> str:
    """Hash the id of a reader; the first time, the ledger gets its salt."""
    found = ledger.connection.execute("SELECT salt FROM salt").fetchall()
    salt = str(found[0][0]) if found else secrets.token_hex(32)
    if not found:
        ledger.connection.execute("INSERT INTO salt VALUES (?)", [salt])
    return hashlib.sha256(f"{salt}{user_id}".encode("utf-8", "surrogatepass")).hexdigest()

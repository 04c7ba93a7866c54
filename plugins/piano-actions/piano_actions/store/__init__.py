"""What the actions remember: which were asked for, how far each is, and what was answered.

A row is written before Piano is asked for anything that changes something, so that whoever comes after a crash finds
it. SQLite by default; PostgreSQL where several processes share the work. Once an action is finished, its row names the
reader by a salted hash only.
"""

from __future__ import annotations

from piano_actions.store.claims import KEPT_SECONDS, Claims
from piano_actions.store.codes import Codes
from piano_actions.store.requests import Claim, InFlight, KeyTaken, ReaderBusy, Request

__all__ = ["KEPT_SECONDS", "Claim", "InFlight", "KeyTaken", "ReaderBusy", "Request", "Store"]


class Store(Claims, Codes):
    """All notes of the actions, in one database."""

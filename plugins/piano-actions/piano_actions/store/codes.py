"""The notes of promo codes: who has which of a pool."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from piano_actions.store.database import Database
from piano_actions.tables import CODES


class Codes(Database):
    """Which reader has which code: of a promotion one a reader, and a code one reader."""

    def code_of(self, promotion_id: str, user_id: str) -> str | None:
        """Give the code of a promotion that a reader has."""
        one = CODES.c
        query = sa.select(one.code).where(one.promotion_id == promotion_id, one.reader == self.hash_of(user_id))
        with self.transaction() as connection:
            return connection.execute(query).scalar_one_or_none()

    def free_codes(self, promotion_id: str, codes: list[str]) -> list[str]:
        """Give those of some codes that nobody has, in their order."""
        one = CODES.c
        query = sa.select(one.code).where(one.promotion_id == promotion_id, one.code.in_(codes))
        with self.transaction() as connection:
            taken = set(connection.execute(query).scalars())
        return [code for code in codes if code not in taken]

    def reserve(self, promotion_id: str, user_id: str, code: str) -> str | None:
        """Give a reader a code, and answer which one he has then; None where somebody else was quicker."""
        row = {
            "promotion_id": promotion_id, "reader": self.hash_of(user_id), "code": code, "reserved_at": time.time(),
        }  # fmt: skip
        try:
            with self.transaction() as connection:
                connection.execute(CODES.insert().values(row))
        except IntegrityError:
            return self.code_of(promotion_id, user_id)
        return code

    def reserved(self, promotion_id: str) -> int:
        """Count the codes of a promotion that somebody has."""
        query = sa.select(sa.func.count()).where(CODES.c.promotion_id == promotion_id)
        with self.transaction() as connection:
            return int(connection.execute(query).scalar_one())

"""What a publisher sells, in tests: rows for the ledger, and a second implementation of what is judged of them.

It is plain Python over dictionaries and shares no code with the target.
"""

from __future__ import annotations

import csv
import json
import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.target.lives import ZONE, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from target_recurly_engage.ledger import Ledger

Row = dict[str, Any]

TEMPLATE = "https://www.example.com/checkout?term={term_id}&promo={code}"
FREE_TERMS = {"registration", "newsletter", "ad view", "custom", "access granted"}


def promotion(id_: str = "PR1", **values: Any) -> Row:  # noqa: ANN401 - of any kind
    """Make a valid promotion with a code that all share."""
    return {
        "promotion_id": id_, "promotion_name": f"Name of {id_}", "status": "active", "fixed_promotion_code": id_ + "!",
        "promotion_code_prefix": None, "unlimited_uses": True, "uses_allowed": None, "uses": 0,
        "new_customers_only": False, "discount_type": "percentage", "discount": None, "discount_amount": None,
        "discount_currency": None, "percentage_discount": 50, "fixed_discount_list": [],
        "term_dependency_type": "all", "term_ids": None, "start_date": None, "end_date": None,
        "can_be_applied_on_renewal": False, "deleted": False,
    } | values  # fmt: skip


def pool(id_: str, **values: Any) -> Row:  # noqa: ANN401 - of any kind
    """Make a valid promotion with a code for each reader."""
    return promotion(id_, fixed_promotion_code=None, promotion_code_prefix=f"{id_}-", **values)


def code(promotion_id: str, written: str, state: str = "active", **values: Any) -> Row:  # noqa: ANN401 - of any kind
    """Make a promo code."""
    made = {"promo_code_id": f"PC{promotion_id}{written}", "promotion_id": promotion_id, "promo_code": written}
    return made | {"state_value": state, "deleted": False} | values


def term(id_: str, **values: Any) -> Row:  # noqa: ANN401 - of any kind
    """Make a term that takes promo codes."""
    return {
        "term_id": id_, "term_name": f"Term {id_}", "type": "payment", "payment_new_customers_only": False,
        "payment_allow_promo_codes": True,
    } | values  # fmt: skip


def fill(ledger: Ledger, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put rows into a table of the ledger; what is a list becomes JSON."""
    if not rows:
        return
    columns, file = list(rows[0]), ledger.work / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([_cell(row[column]) for column in columns] for row in rows)
    ledger.connection.execute(f"COPY {table} ({', '.join(columns)}) FROM '{file}' (HEADER false, NULLSTR '\\N')")


def _cell(value: object) -> object:
    return "\\N" if value is None else json.dumps(value) if isinstance(value, list) else value


# A second implementation


def why_not(one: Row, codes: Sequence[Row], now: datetime) -> str | None:
    """Say why a promotion is not valid."""
    free = [c for c in codes if c["promotion_id"] == one["promotion_id"] and is_free(c)]
    starts, ends, status = one["start_date"], one["end_date"], one["status"].strip().lower()
    limited = not one["unlimited_uses"] and one["uses_allowed"] is not None
    judged = {
        "deleted": one["deleted"],
        "not started": (starts and starts > now) or (status == "new" and not starts),
        "expired": (ends and ends <= now) or status == "expired",
        f"the status {one['status']} is not known": status not in {"active", "new"},
        "used up": limited and (one["uses"] or 0) >= one["uses_allowed"],
        "no free code": not (one["fixed_promotion_code"] or "").strip() and codes and not free,
    }
    return next((why for why, holds in judged.items() if holds), None)


def is_free(one: Row) -> bool:
    """Say whether nobody has a code yet."""
    return one["state_value"] == "active" and not one["deleted"]


def terms_of(one: Row, terms: Sequence[Row]) -> list[str]:
    """List the terms that a promotion is for."""
    takes = {t["term_id"]: t["payment_allow_promo_codes"] for t in terms}
    if one["term_ids"] is not None:
        return sorted(t for t in one["term_ids"] if takes.get(t) is not False)
    if one["term_dependency_type"] in {None, "all"}:
        return sorted(t for t, does in takes.items() if does)
    return []


def link(code_: str | None, terms: Sequence[str]) -> str:
    """Make the link of :data:`TEMPLATE`."""
    if not code_ or not terms:
        return ""
    return f"https://www.example.com/checkout?term={quote(terms[0], safe='')}&promo={quote(code_, safe='')}"


def last_day(end: datetime | None) -> str:
    """Give the last day of the calendar on which a promotion is valid."""
    return "" if end is None else (end - timedelta(microseconds=1)).astimezone(ZONE).date().isoformat()


def owner(held: str, promotions: Sequence[Row], codes: Sequence[Row]) -> set[str]:
    """Say of which promotions a code is that somebody bought with."""
    wanted = held.strip().upper()
    exact = {p["promotion_id"] for p in promotions if (p["fixed_promotion_code"] or "").strip().upper() == wanted}
    exact |= {c["promotion_id"] for c in codes if c["promo_code"].strip().upper() == wanted}
    begun = [p for p in promotions if p["promotion_code_prefix"] and wanted.startswith(p["promotion_code_prefix"])]
    nearest = max(begun, key=lambda p: len(p["promotion_code_prefix"]), default=None)
    return exact or ({nearest["promotion_id"]} if nearest else set())


def against(rows: Sequence[Row], one: Row, shop: tuple[Sequence[Row], ...], now: datetime) -> set[str]:
    """Say what stands against a reader's using a promotion, beside that it may not be valid."""
    promotions, codes, terms = shop
    judged = [judge(row, now) for row in rows]
    customer = any(
        row["word"] not in {"deleted", "pending", "not started", "wait confirmed", "na"}
        and (row["term_type"] or "").strip().lower() not in FREE_TERMS
        for row in judged
    )
    found = set()
    held = [row["promo_code"] for row in rows if (row["promo_code"] or "").strip()]
    if any(one["promotion_id"] in owner(code_, promotions, codes) for code_ in held):
        found.add("used it already")
    if one["new_customers_only"] and customer:
        found.add("it is for new customers")
    known = one["term_ids"] is not None or (one["term_dependency_type"] in {None, "all"} and terms)
    if known and not one["can_be_applied_on_renewal"]:
        only_new = {t["term_id"] for t in terms if t["payment_new_customers_only"]}
        live = {row["term_id"] for row in judged if row["held"]}
        if not {t for t in terms_of(one, terms) if not (customer and t in only_new)} - live:
            found.add("no term that it is for is open to him")
    return found


def promotions(seed: int, count: int, now: datetime) -> tuple[list[Row], list[Row], list[Row]]:
    """Make promotions, codes and terms with every boundary."""
    choose = random.Random(seed)  # noqa: S311 - a shop, not secrets
    moments = [*[None] * 12, now, *(now + timedelta(**{unit: n}) for unit in ("seconds", "days") for n in (-1, 1, 9))]
    terms = [
        term("TM1"), term("TM2", payment_new_customers_only=True), term("TM3", payment_allow_promo_codes=None),
        term("TM4", payment_allow_promo_codes=False),
    ]  # fmt: skip
    made, codes = [], []
    for n in range(count):
        one = (pool if n % 3 == 2 else promotion)(
            f"PR{n}", status=choose.choice([*["active"] * 8, "new", "expired", "paused", "ACTIVE"]),
            unlimited_uses=choose.choice([True, True, True, False]), uses_allowed=choose.choice([None, 5, 10]),
            uses=choose.choice([None, 0, 4, 5, 9, 10]), new_customers_only=choose.choice([True, False]),
            start_date=choose.choice(moments), end_date=choose.choice(moments), deleted=choose.random() < 0.05,
            can_be_applied_on_renewal=choose.random() < 0.2, percentage_discount=choose.choice([10, 12.5, 100]),
        )  # fmt: skip
        if choose.random() < 0.5:
            some = choose.sample(["TM1", "TM2", "TM3", "TM4", "TM9"], choose.randint(0, 3))
            one |= {"term_dependency_type": choose.choice(["include", "unlocked"]), "term_ids": some}
        if n % 3 == 2:
            states = choose.choice([["used"], ["active", "used"], ["active"] * 3, ["reserved_for_free_trial"], []])
            codes += [code(f"PR{n}", f"PR{n}-{i}", state) for i, state in enumerate(states)]
        made.append(one)
    return made, codes, terms


def read(path: Path) -> list[dict[str, str]]:
    """Read a data source as a spreadsheet would."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))

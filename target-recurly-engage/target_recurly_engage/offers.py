"""Engage's data source "offers": one row an offer that is valid now, in a CSV for somebody to upload in Pulse.

Engage has no API for data sources (its fact sheet, 5.1): an administrator uploads the file, and prompts refer to its
cells. So it is written anew only when a byte of it would be another, and it is either whole or as it was.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import file_target, name, text
from piano_engage_common.stops import storage_errors

from target_recurly_engage.problems import suggestion
from target_recurly_engage.promotions import APPLIES, FREE, promotions_sql

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.problems import Problems

FILE: Final = "offers.csv"
BY_PROMOTION: Final = "promotion"
FIRST: Final = "first"
EVERY: Final = "all"
SINGLE_USE: Final = (BY_PROMOTION, FIRST, EVERY)
"""Values of the setting ``single_use_codes``."""

COLUMNS: Final = (
    "code", "promotion_id", "promotion_name", "discount", "discount_kind", "discount_value", "currency",
    "discounts_by_currency", "valid_from", "valid_until", "remaining_uses", "all_terms", "term_ids", "term_names",
    "new_customers_only", "checkout_link",
)  # fmt: skip
PLACES: Final = ("code", "promotion_id", "promotion_name", "term_id", "term_name", "currency")
"""What a template of links may name."""
OF_CODE: Final = "code"

_CSV: Final = "FORMAT csv, HEADER true, DELIMITER ',', QUOTE '\"', ESCAPE '\"', NULLSTR ''"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferRule:
    """How offers are written.

    Attributes:
        link: parts of the template of links, each a text and the place after it, if there is one.
        terms: ids of terms in the order in which a link prefers them.
        single_use: what becomes of a promotion whose codes are good for one use each.
    """

    link: tuple[tuple[str, str | None], ...] = ()
    terms: tuple[str, ...] = ()
    single_use: str = BY_PROMOTION


def offer_rule_of(config: Mapping[str, Any], problems: Problems) -> OfferRule:
    """Read the settings ``checkout_url``, ``checkout_terms`` and ``single_use_codes``."""
    return OfferRule(
        link=_template(config.get("checkout_url") or "", problems),
        terms=tuple(map(str, config["checkout_terms"])),
        single_use=config["single_use_codes"],
    )


def _template(given: str, problems: Problems) -> tuple[tuple[str, str | None], ...]:
    if not given:
        return ()
    if not given.startswith(("https://", "http://")):
        problems.add("checkout_url", f"{given!r} is no address; begin it with https://")
    try:
        parts = [(before, place, form, turned) for before, place, form, turned in Formatter().parse(given)]
    except ValueError as e:
        problems.add("checkout_url", f"its braces do not match ({e}); write a place as {{code}}, a brace itself twice")
        return ()
    for _, place, form, turned in parts:
        if place is not None and (place not in PLACES or form or turned):
            problems.add("checkout_url", f"no place {{{place}}}{suggestion(place, PLACES)}")
    return tuple((before, place) for before, place, *_ in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """A file for Engage's data sources, after a run.

    Attributes:
        location: its path.
        rows: offers in it.
        changed: it was written in this run.
        sha256: its checksum, in hexadecimal.
    """

    location: str
    rows: int
    changed: bool
    sha256: str


def offers_sql(contract: Contract, now: str) -> str:
    """Make the SQL of the offers that are valid at *now*, which is ISO 8601, in their order, with :data:`COLUMNS`."""
    rule, zone = contract.offers, text(contract.wording.zone)
    needed = "LEFT" if rule.single_use == BY_PROMOTION else ""
    return f"""
        WITH promotions_now AS ({promotions_sql(now)}), valid AS (FROM promotions_now WHERE why_not IS NULL),
        of_terms AS ({_OF_TERMS.format(preference=_preference(rule))}), discounts AS ({_DISCOUNTS}),
        singles AS ({_singles(rule)}), offers AS (
            SELECT *, coalesce(fixed_code, single_code) AS code,
                coalesce(discount_type, '') = 'percentage' AS in_percent,
                CASE WHEN in_percent THEN percentage_discount ELSE coalesce(discount_amount, first.amount_value) END
                    AS number,
                CASE WHEN NOT in_percent THEN coalesce(discount_currency, first.currency) END AS currency
            FROM valid LEFT JOIN of_terms USING (promotion_id) LEFT JOIN discounts USING (promotion_id)
            {needed} JOIN singles USING (promotion_id)
        )
        SELECT code, promotion_id, promotion_name,
            CASE WHEN in_percent THEN {_short("number")} || '%'
                ELSE coalesce(discount, printf('%.2f %s', number::DOUBLE, currency)) END AS discount,
            CASE WHEN in_percent THEN 'percent' ELSE 'amount' END AS discount_kind,
            {_short("number")} AS discount_value, currency, by_currency AS discounts_by_currency,
            timezone({zone}, start_date)::DATE::VARCHAR AS valid_from,
            timezone({zone}, end_date - INTERVAL 1 microsecond)::DATE::VARCHAR AS valid_until,
            remaining::VARCHAR AS remaining_uses,
            (coalesce(term_dependency_type, 'all') = 'all')::VARCHAR AS all_terms, ids AS term_ids, names AS term_names,
            coalesce(new_customers_only, false)::VARCHAR AS new_customers_only, {_link(rule)} AS checkout_link
        FROM offers ORDER BY promotion_id, code
    """


_OF_TERMS: Final = f"""
    SELECT promotion_id, string_agg(term_id, ',' ORDER BY term_id) AS ids,
        string_agg(term_name, '; ' ORDER BY term_id) AS names,
        arg_min({{{{id: term_id, name: term_name}}}}, {{preference}}) AS term
    FROM ({APPLIES.replace("{", "{{").replace("}", "}}")}) GROUP BY promotion_id
"""
"""The terms of each promotion, and the one that a link leads to."""

_DISCOUNTS: Final = """
    SELECT promotion_id, arg_min(one, place) AS first,
        string_agg(printf('%.2f %s', one.amount_value::DOUBLE, one.currency), ' / ' ORDER BY place) AS by_currency
    FROM (
        SELECT promotion_id, unnest(list) AS one, generate_subscripts(list, 1) AS place FROM (
            SELECT promotion_id, from_json(
                fixed_discount_list, '[{"currency":"VARCHAR","amount_value":"DECIMAL(18,4)"}]'
            ) AS list FROM valid
        )
    ) GROUP BY promotion_id
"""
"""The discounts by currency of each promotion, the first one first."""


def _preference(rule: OfferRule) -> str:
    """Make the SQL of what is smallest for the term that a link leads to."""
    places = " ".join(f"WHEN {text(term)} THEN {i}" for i, term in enumerate(rule.terms))
    place = f"CASE term_id {places} ELSE {len(rule.terms)} END" if places else "0"
    return f"{{place: {place}, id: term_id}}"


def _singles(rule: OfferRule) -> str:
    """Make the SQL of the free codes to show of each promotion; one row without a code for a code that all share."""
    free = f"FROM promo_codes WHERE state_value = {text(FREE)} AND deleted IS NOT TRUE"
    shared = "SELECT promotion_id, NULL AS single_code FROM promotions_now WHERE fixed_code IS NOT NULL"
    pools = "promotion_id IN (SELECT promotion_id FROM promotions_now WHERE fixed_code IS NULL)"
    if rule.single_use == BY_PROMOTION:
        return "SELECT promotion_id, NULL::VARCHAR AS single_code FROM promotions_now WHERE false"
    taken = "min(promo_code)" if rule.single_use == FIRST else "promo_code"
    grouped = " GROUP BY promotion_id" if rule.single_use == FIRST else ""
    return f"{shared} UNION ALL SELECT promotion_id, {taken} {free} AND {pools}{grouped}"


def _short(number: str) -> str:
    """Make the SQL of a decimal without zeros at its end."""
    return f"rtrim(rtrim({number}::VARCHAR, '0'), '.')"


def _link(rule: OfferRule) -> str:
    """Make the SQL of a link; NULL where something that it names is not known, for half a link leads nowhere."""
    columns = {"term_id": "term.id", "term_name": "term.name"}
    parts = []
    for before, place in rule.link:
        parts += [text(before)] if before else []
        parts += [f"url_encode({columns.get(place, name(place))})"] if place else []
    return " || ".join(parts) or "NULL::VARCHAR"


def write_offers(ledger: Ledger, contract: Contract, folder: Path, now: str) -> DataSource:
    """Write the offers into *folder*, whole or not at all, and only when they are others than those that lie there.

    Raises:
        StorageFailed: it cannot be written.
    """
    path = folder / FILE
    part = path.with_name(f".{FILE}.part")
    with storage_errors(f"writing {path}"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            ledger.connection.execute(f"COPY ({offers_sql(contract, now)}) TO {file_target(part)} ({_CSV})")
            content = part.read_bytes()
            changed = not path.is_file() or path.read_bytes() != content
            if changed:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    rows = ledger.count(f"SELECT count(*) FROM ({offers_sql(contract, now)})")
    return DataSource(
        location=str(path.resolve()), rows=rows, changed=changed, sha256=hashlib.sha256(content).hexdigest()
    )


def offers(ledger: Ledger, contract: Contract, now: str) -> dict[str, Any]:
    """Give the offers that are valid at *now*, and why all other promotions are none.

    Returns:
        ``offers``, rows by :data:`COLUMNS`; ``left_out``, with ``promotion_id``, ``promotion_name``, ``why`` and the
        codes of a pool by ``free`` and ``codes``.
    """
    rows = ledger.connection.execute(offers_sql(contract, now)).fetchall()
    left_out = ledger.connection.execute(
        f"SELECT promotion_id, promotion_name, why_not, free, codes FROM ({promotions_sql(now)}) "
        "WHERE why_not IS NOT NULL ORDER BY promotion_id"
    ).fetchall()
    names = ("promotion_id", "promotion_name", "why", "free", "codes")
    return {
        "offers": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
        "left_out": [dict(zip(names, row, strict=True)) for row in left_out],
    }


def words_of(found: Mapping[str, Any]) -> Iterator[str]:
    """Put offers into words."""
    yield f"{len(found['offers']):,} offers are valid now"
    for one in found["offers"]:
        until = f", until {one['valid_until']}" if one["valid_until"] else ""
        left = f", {int(one['remaining_uses']):,} uses left" if one["remaining_uses"] else ""
        new = ", new customers only" if one["new_customers_only"] == "true" else ""
        terms = "all terms" if one["all_terms"] == "true" else f"terms {one['term_names'] or 'that are not known'}"
        yield (
            f"  {one['code'] or '(a code for each reader)'}: {one['promotion_name']} ({one['promotion_id']}), "
            f"{one['discount']} off, {terms}{new}{left}{until}"
        )
        if one["checkout_link"]:
            yield f"      {one['checkout_link']}"
    for one in found["left_out"]:
        pool = f" ({one['codes']:,} codes, {one['free']:,} free)" if one["codes"] else ""
        yield f"  not {one['promotion_name']} ({one['promotion_id']}): {one['why']}{pool}"

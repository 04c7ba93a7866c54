"""Who may have changed is compared with what Engage was told, some readers at a time, so that memory is enough for it.

A slice has tables, for this connection: ``slice``, its readers; ``slice_0`` and so on, their rows in each source;
``told``, what Engage was told of them; ``compared``, their desired traits; ``planned``, those of them that are sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import name, text

from target_recurly_engage.changes import Counts, first_values, other_values
from target_recurly_engage.invariants import check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from target_recurly_engage.desired import Source
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.traits import Trait, Wording

_USER: Final = name("user of the row")
_DUE, _LOST = name("is to be sent"), name("a row was not found")
AT_ONCE: Final = 125_000
"""Readers that are compared at a time where they have rows in several tables, so that memory is enough for it."""


def compare(
    ledger: Ledger,
    sources: tuple[Source, ...],
    traits: tuple[Trait, ...],
    wording: Wording,
    delivery_id: str,
    *,
    gone: str,
    counted: bool,
) -> Counts:
    """Make the plan of the suspects, slice by slice, and count what it changes.

    The SQL *gone* is the fingerprint of a user whom no source knew: whoever comes back has all values anew.

    Raises:
        RowsLost: a row of theirs was not found.
    """
    execute, counts = ledger.connection.execute, Counts()
    desired, seen = _desired(sources, traits, wording, delivery_id), [0, 0, 0]
    altered = _altered([trait for source in sources for trait in source.traits], wording)
    altered = f"told.fingerprint IS DISTINCT FROM {gone} AND {altered}"
    for i, part in enumerate(_slices(ledger, sources)):
        execute(f"CREATE OR REPLACE TEMP TABLE slice AS FROM suspects WHERE {part}")
        for k, source in enumerate(sources):
            execute(f"CREATE OR REPLACE TEMP TABLE slice_{k} AS {_of_slice(source)}")
        execute("CREATE OR REPLACE TEMP TABLE told AS FROM delivered SEMI JOIN slice USING (user_id)")
        execute(f"CREATE OR REPLACE TEMP TABLE compared AS {desired}")
        execute(f"CREATE OR REPLACE TEMP VIEW planned AS SELECT * EXCLUDE ({_DUE}, {_LOST}) FROM compared WHERE {_DUE}")
        execute(f"{'INSERT INTO plan' if i else 'CREATE OR REPLACE TABLE plan AS'} FROM planned")
        seen = [a + b for a, b in zip(seen, _checked(ledger, sources), strict=True)]
        if not counted:
            continue
        known = "SELECT count(*) FROM planned AS plan JOIN told USING (user_id)"
        new, first = first_values(ledger, traits, wording)
        changed, altering, other = other_values(ledger, traits, wording, altered)
        counts.add(
            new=new,
            changed=changed,
            altered=altering,
            again=ledger.count(f"{known} WHERE NOT {_differs(traits, wording)}"),
            gone=ledger.count(f"{known} JOIN slice USING (user_id) WHERE {_lost(sources, wording)}"),
            first=first,
            other=other,
        )
    _check_all(ledger, *seen)
    execute("DROP VIEW planned")
    for table in ("told", "compared", "slice", *(f"slice_{k}" for k in range(len(sources)))):
        execute(f"DROP TABLE {table}")
    return counts


def _slices(ledger: Ledger, sources: tuple[Source, ...]) -> list[str]:
    """Make the SQL of the slices in which suspects are compared.

    By a hash, for a rowid says little: rows that came in this transaction have others than they will have.
    """
    known = " SEMI JOIN delivered USING (user_id)" if len(sources) == 1 else ""  # of new ones a row is narrow then
    wide = ledger.count(f"SELECT count(*) FROM suspects{known}")
    count = max(-(-wide // AT_ONCE), 1)
    return [f"hash(user_id) % {count} = {i}" for i in range(count)]


def _of_slice(source: Source) -> str:
    """Build the SQL of the rows of a source that a slice asks for."""
    columns = dict.fromkeys(source.column(trait) for trait in source.traits)
    read = ", ".join([f"{source.table}.{source.key} AS {_USER}", *columns])
    return f"SELECT {read} FROM {source.joined('slice')}"


def _checked(ledger: Ledger, sources: tuple[Source, ...]) -> tuple[int, ...]:
    """Check that of each user of a slice each row that is there was found, and only that.

    Returns:
        The number of users, of those with delivered traits, and of those to send.

    Raises:
        RowsLost: it was not.
    """
    counts = [f"(SELECT count(*) FROM slice_{k})" for k in range(len(sources))]
    pointers = [f"(SELECT count({source.row}) FROM slice)" for source in sources]
    query = (
        "SELECT (SELECT count(*) FROM slice), (SELECT count(*) FROM told), count(*), count_if("
        f"{_DUE}), count_if({_LOST}), [{', '.join(counts)}], [{', '.join(pointers)}] FROM compared"
    )
    ((users, told, compared, due, lost, found, expected),) = ledger.connection.execute(query).fetchall()
    for k, source in enumerate(sources):
        check(f"rows of {source.table} to compare", found=found[k], expected=expected[k])
    check("users with a row that is there and was not found", found=lost or 0, expected=0)
    check("users who were compared", found=compared, expected=users)
    return users, told, due or 0  # of no rows count_if() makes NULL


def _check_all(ledger: Ledger, users: int, told: int, due: int) -> None:
    """Check that all slices together were all of the suspects, with what was delivered of them.

    Raises:
        RowsLost: they were not.
    """
    check("users to compare", found=users, expected=ledger.count("SELECT count(*) FROM suspects"))
    known = ledger.count("SELECT count(*) FROM suspects SEMI JOIN delivered USING (user_id)")
    check("users to compare with delivered traits", found=told, expected=known)
    check("users to send", found=ledger.count("SELECT count(*) FROM plan"), expected=due)


def _desired(sources: tuple[Source, ...], traits: tuple[Trait, ...], wording: Wording, delivery_id: str) -> str:
    """Build the SQL of a slice's desired traits.

    Columns say whether something differs from the delivered traits, and whether a row that is there was not found.
    """
    source_of = {trait.name: source for source in sources for trait in source.traits}
    cells = ", ".join(f"{_cell(source_of.get(trait.name), trait, wording)} AS {name(trait.name)}" for trait in traits)
    joins = " ".join(
        f"LEFT JOIN slice_{k} AS {one.table} ON {one.table}.{_USER} = slice.user_id" for k, one in enumerate(sources)
    )
    lost = " OR ".join(f"(slice.{one.row} IS NULL) <> ({one.table}.{_USER} IS NULL)" for one in sources)
    return f"""
        WITH desired AS (
            SELECT slice.user_id, {text(delivery_id)} AS delivery_id, slice.fingerprint, {cells}, {lost} AS {_LOST}
            FROM slice {joins} LEFT JOIN told ON told.user_id = slice.user_id
        )
        SELECT plan.*,
            told.user_id IS NULL OR plan.user_id IN (FROM again) OR {_differs(traits, wording)} AS {_DUE}
        FROM desired AS plan LEFT JOIN told USING (user_id)
    """


def _cell(source: Source | None, trait: Trait, wording: Wording) -> str:
    """Make the SQL of what is to be told of a trait; where its source knows nothing it is cleared, if it was told."""
    absent = f"CASE WHEN told.{name(trait.name)} IS NOT NULL THEN {text(wording.clear_value(trait))} END"
    if source is None:
        return absent
    return f"CASE WHEN slice.{source.row} IS NULL THEN {absent} ELSE {wording.written(trait, source.column(trait))} END"


def _differs(traits: tuple[Trait, ...], wording: Wording) -> str:
    """Make the SQL that says whether ``plan`` differs from ``told`` in what is a reason to send."""
    differences = []
    for trait in traits:
        planned, told = f"plan.{name(trait.name)}", f"told.{name(trait.name)}"
        if trait.drifts:
            differences.append(f"({planned} IS NULL) <> ({told} IS NULL)")
        if not trait.drifts:
            differences.append(f"{planned} IS DISTINCT FROM {told}")
        elif trait.thresholds:
            differences.append(f"{wording.step(trait, planned)} <> {wording.step(trait, told)}")
    return f"coalesce({' OR '.join(differences)}, false)"


def _altered(traits: Iterable[Trait], wording: Wording) -> str:
    """Return the SQL that says whether ``plan`` has another steady value where ``told`` has one.

    A trait that is new to Engage, or unknown there, alters nothing; nor does one that has left the contract.
    """
    alters = []
    for trait in traits:
        planned, told = f"plan.{name(trait.name)}", f"told.{name(trait.name)}"
        if not trait.drifts:
            alters.append(f"{planned} <> {told}")
        elif trait.thresholds:
            alters.append(f"{told} IS NOT NULL AND {wording.step(trait, planned)} <> {wording.step(trait, told)}")
    return f"coalesce({' OR '.join(alters) or 'false'}, false)"


def _lost(sources: tuple[Source, ...], wording: Wording) -> str:
    """Make the SQL that says whether a source knew a reader, as ``told`` shows, and no longer does."""
    lost = []
    for source in sources:
        known = " OR ".join(f"told.{name(trait.name)} <> {text(wording.clear_value(trait))}" for trait in source.traits)
        lost.append(f"(slice.{source.row} IS NULL AND coalesce({known or 'false'}, false))")
    return " OR ".join(lost)

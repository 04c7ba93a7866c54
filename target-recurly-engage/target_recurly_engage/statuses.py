"""Status words: what the three vocabularies of Piano mean for access.

Piano says the same fact in three ways (fact sheet of Piano, 2.7): by a code in the API, by a label in the log, and by
another label in reports. None of the lists is documented for the log's column, so a word that is not listed here is
never guessed at: the stage is ``unknown``, the word is counted, and the run warns of it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from piano_engage_common.duck import text


class Meaning(StrEnum):
    """What a word says of a subscription."""

    RUNS = "runs"
    """It gives access, until the date on which access ends."""
    LEAVES = "leaves"
    """It gives access until that date, and will not renew."""
    ENDED = "ended"
    """It gave access. Where the date on which access ends is still to come, it gives it until then."""
    REPLACED = "replaced"
    """Another subscription took its place, so it is neither live nor lapsed."""
    AWAITED = "awaited"
    """It has not begun: its first payment or its first day is awaited."""
    APART = "apart"
    """It never began, or was taken back; it never counts as live."""


@dataclass(frozen=True, slots=True)
class Word:
    """One status and how it is spelled, in lower case and with blanks for underscores.

    Attributes:
        meaning: what it says.
        spellings: of the log's labels, the API's codes and the reports' names.
    """

    meaning: Meaning
    spellings: tuple[str, ...]


WORDS: Final[tuple[Word, ...]] = (
    Word(Meaning.RUNS, ("active", "a")),
    Word(Meaning.RUNS, ("renewed",)),
    Word(Meaning.RUNS, ("completed", "end")),
    Word(Meaning.RUNS, ("failed - will retry", "fail and retry", "failedandretry", "far")),
    Word(Meaning.RUNS, ("payment failure", "paymentfailure", "payment failed")),
    Word(Meaning.LEAVES, ("won't renew", "wont renew")),
    Word(Meaning.ENDED, ("cancelled", "canceled", "c")),
    Word(Meaning.ENDED, ("expired", "e")),
    Word(Meaning.ENDED, ("expired due to payment error", "expired with error", "ewe")),
    Word(Meaning.REPLACED, ("upgraded", "upgrd")),
    Word(Meaning.APART, ("deleted", "d")),
    Word(Meaning.AWAITED, ("pending", "p")),
    Word(Meaning.AWAITED, ("not started", "ns")),
    Word(Meaning.AWAITED, ("wait confirmed", "wc")),
    Word(Meaning.APART, ("na",)),
)


def spellings(*meanings: Meaning) -> tuple[str, ...]:
    """List the spellings of all words with one of *meanings*."""
    return tuple(one for word in WORDS if word.meaning in meanings for one in word.spellings)


def word_of(column: str) -> str:
    """Make the SQL that spells a status as :data:`WORDS` do; an empty text where there is none."""
    return f"coalesce(replace(replace(lower(trim({column})), '_', ' '), {text(chr(0x2019))}, ''''), '')"


def canonical(word: str) -> str:
    """Make the SQL that gives the words of all vocabularies for one status the same spelling, the first of its row.

    A word that is not known stays as it is.
    """
    cases = " ".join(
        f"WHEN {word} IN ({', '.join(map(text, one.spellings))}) THEN {text(one.spellings[0])}" for one in WORDS
    )
    return f"CASE {cases} ELSE {word} END"


def meaning_of(word: str) -> str | None:
    """Say what a word, spelled as :func:`canonical` does, means; None where it is not known."""
    return next((one.meaning.value for one in WORDS if one.spellings[0] == word), None)


def is_one_of(word: str, *meanings: Meaning) -> str:
    """Make the SQL that says whether the SQL *word*, from :func:`word_of`, has one of *meanings*."""
    return f"{word} IN ({', '.join(map(text, spellings(*meanings)))})"


def is_unknown(word: str) -> str:
    """Make the SQL that says whether *word* is none that is known; no word at all is not known either."""
    return f"{word} NOT IN ({', '.join(map(text, spellings(*Meaning)))})"

"""Experiments: who sees which offer, by a stable hash, so that it needs no memory and is the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import text

from target_recurly_engage.predicates import delivered, share
from target_recurly_engage.problems import suggestion
from target_recurly_engage.segments import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from target_recurly_engage.problems import Problems

CONTROL: Final = "control"
_MEMBERS: Final = ("name", "description", "segment", "arms", "salt", "start")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment.

    Attributes:
        name: its name, of which the trait's is made.
        arms: by the name of the arm, a promo code as a rule, the share of readers; what is left over is in no arm.
        segment: the users for whom it is delivered take part; None is all users.
        salt: what the hash is salted with; another one draws anew.
        description: what it is for.
        start: the day on which its prompts go live; what a reader bought before does not count for it.
    """

    name: str
    arms: Mapping[str, float]
    segment: str | None = None
    salt: str = ""
    description: str = ""
    start: date | None = None

    @property
    def key(self) -> str:
        """What the trait is called before the settings rename it."""
        return f"experiment {self.name}"

    @property
    def sql(self) -> str:
        """The SQL of a user's arm, NULL without one. It reads the column of :func:`.predicates.delivered`."""
        takes_part = delivered(self.segment) if self.segment else "true"
        return f"CASE WHEN {takes_part} THEN {self.drawn} END"

    @property
    def drawn(self) -> str:
        """The SQL of the arm that any user would be in, NULL where the shares leave the user out.

        The control group comes first and the others by name, so the order in the settings changes nobody's arm.
        """
        drawn, upto, cases = share(f"experiment:{self.name}:{self.salt}"), Decimal(0), []
        for arm, of in sorted(self.arms.items(), key=lambda one: (one[0] != CONTROL, one[0])):
            upto += Decimal(str(of))
            cases.append(f"WHEN drawn < {upto} THEN {text(arm)}")
        return f"CASE {' '.join(cases).replace('drawn', drawn)} END"


def experiments_of(given: Sequence[Any], segments: Sequence[str], problems: Problems) -> tuple[Experiment, ...]:
    """Read the setting ``experiments``.

    Args:
        given: what the setting says.
        segments: names of segments.
        problems: takes what is wrong.
    """
    found: dict[str, Experiment] = {}
    for i, one in enumerate(given):
        path, before = f"experiments[{i}]", len(problems.found)
        for unknown in set(one) - set(_MEMBERS):
            problems.add(f"{path}.{unknown}", f"no member here{suggestion(unknown, _MEMBERS)}")
        called = one.get("name")
        if not isinstance(called, str) or not NAME.fullmatch(called):
            problems.add(f"{path}.name", f"{called!r} is no name: small letters, digits and underscores, please")
        elif called in found:
            problems.add(f"{path}.name", f"there are two experiments {called}; rename one")
        segment = one.get("segment")
        if segment is not None and segment not in segments:
            problems.add(f"{path}.segment", f"no segment {segment!r}{suggestion(str(segment), segments)}")
        arms = _arms(f"{path}.arms", one.get("arms"), problems)
        start = _start(f"{path}.start", one.get("start"), problems)
        if len(problems.found) == before:
            salt, description = str(one.get("salt", "")), str(one.get("description", ""))
            found[called] = Experiment(
                name=called, arms=arms, segment=segment, salt=salt, description=description, start=start
            )
    return tuple(found.values())


def _arms(path: str, given: Any, problems: Problems) -> dict[str, float]:  # noqa: ANN401 - it may be anything
    if not isinstance(given, dict) or len(given) < 2:  # noqa: PLR2004 - one arm compares with nothing
        problems.add(path, "takes at least two arms with their shares, such as {control: 0.2, SPRING50: 0.8}")
        return {}
    arms = {}
    for arm, of in given.items():
        if isinstance(of, bool) or not isinstance(of, int | float | Decimal) or not 0 < of <= 1:
            problems.add(f"{path}.{arm}", f"{of!r} is no share: above 0, at most 1, please")
        else:
            arms[str(arm)] = float(of)
    total = sum((Decimal(str(of)) for of in arms.values()), Decimal(0))
    if total > 1:
        problems.add(path, f"the shares make {(100 * total).normalize():f} %, which is more than 100 %")
    return arms


def _start(path: str, given: object, problems: Problems) -> date | None:
    if given is None or (isinstance(given, date) and not isinstance(given, datetime)):
        return given
    try:
        return date.fromisoformat(str(given))
    except ValueError:
        problems.add(path, f"{given!r} is no day; write it like '2026-04-01'")
        return None

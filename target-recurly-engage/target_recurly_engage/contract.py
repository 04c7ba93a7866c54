"""The contract: which traits may be sent, where each comes from, and how its values are written.

Settings make it; what they do not tell of a stream of users, the types, comes from the stream's schema, and is kept in
the ledger. Nothing that does not stand in the contract leaves.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from target_recurly_engage.computed import BY_NAME as SHIPPED
from target_recurly_engage.computed import FORMULAS, USUAL, Formula
from target_recurly_engage.experiments import Experiment, experiments_of
from target_recurly_engage.formulas import formula_of
from target_recurly_engage.offers import OfferRule, offer_rule_of
from target_recurly_engage.primary import PrimaryRule, rule_of
from target_recurly_engage.problems import Problems, suggestion
from target_recurly_engage.segments import Segment, segments_of
from target_recurly_engage.streams import RECONCILE_ROLE, USERS_ROLE, UsersStream, streams_of, users_of
from target_recurly_engage.traits import NAMES, TRAITS, USER_ID, Kind, Trait, Wording

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ALL: Final = "all"
COMPUTED: Final = "computed"
DAILY: Final = "daily"
LIST: Final = "list"
SEGMENTS_TRAIT: Final = "segments"
BUILT_IN: Final = frozenset({
    "visits", "visit_length", "churn_score", "churn_propensity", "device", "fraud_score", "location",
})  # fmt: skip
"""Traits that Engage has by itself and that must not be overwritten (its fact sheet, 3.4), as we would spell them."""
OF_CONNECTORS: Final = frozenset({
    "plan_code", "plan_name", "state", "status", "currency", "total_recurring_amount", "current_period_started_at",
    "current_period_ends_at", "trial_started_at", "trial_ends_at", "activated_at", "canceled_at", "expires_at",
    "has_billing_info", "payment_method_type", "past_due_invoice_date", "card_expiration_date", "active_coupon_codes",
})  # fmt: skip
"""Traits that Engage's connector for Recurly writes (the same section)."""
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBERS: Final = frozenset({Kind.NUMBER, Kind.MONEY})


@dataclass(frozen=True, slots=True)
class Contract:
    """What may be sent.

    Attributes:
        wording: how values are written.
        own: traits of the primary subscription.
        users: streams of users, by name.
        primary: which subscription is the primary one.
        computed: traits that formulas make.
        formulas: those, and others that segments ask of.
        segments: audiences, each after those that it asks of.
        experiments: who sees which offer.
        audience: the traits that segments and experiments make.
        listed: segments make one trait with a list of names, instead of one each.
        offers: how the data source of offers is written.
        new_customers: after which subscription a reader is no new customer to a promotion.
    """

    wording: Wording
    own: tuple[Trait, ...] = TRAITS
    users: tuple[UsersStream, ...] = ()
    primary: PrimaryRule = field(default_factory=PrimaryRule)
    computed: tuple[Trait, ...] = ()
    formulas: tuple[Formula, ...] = ()
    segments: tuple[Segment, ...] = ()
    experiments: tuple[Experiment, ...] = ()
    audience: tuple[Trait, ...] = ()
    listed: bool = False
    offers: OfferRule = field(default_factory=OfferRule)
    new_customers: str = "never_had"

    @property
    def traits(self) -> tuple[Trait, ...]:
        """All of them, those of the subscriptions first."""
        users = (trait for stream in self.users for trait in stream.traits)
        return (*self.own, *self.computed, *users, *self.audience)

    def clashes(self) -> dict[str, str]:
        """Name traits that somebody else writes as well, by what is known of their names."""
        found = {
            trait.name: "Engage has a trait like this by itself" for trait in self.traits if trait.name in BUILT_IN
        }
        return found | {
            trait.name: "Engage's connector for Recurly writes a trait of this name"
            for trait in self.traits
            if trait.name in OF_CONNECTORS
        }

    def stream(self, stream: str) -> UsersStream:
        """Give the stream of users of that name."""
        return next(one for one in self.users if one.stream == stream)

    def for_segments(self) -> Contract:
        """Give the contract with no more than it takes to say who is in which segment."""
        asked = {trait.key for segment in self.segments for trait in segment.traits}
        drawn = {one.key for one in self.experiments}
        return replace(
            self,
            computed=tuple(trait for trait in self.computed if trait.key in asked),
            formulas=tuple(one for one in self.formulas if one.name in asked),
            experiments=(),
            audience=tuple(trait for trait in self.audience if trait.key not in drawn),
        )

    def with_kinds(self, kinds: Mapping[str, Kind]) -> Contract:
        """Give the contract with these types for traits of streams of users, where the settings do not say them."""

        def mended(stream: UsersStream) -> UsersStream:
            open_ones = {trait: kind for trait, kind in kinds.items() if trait not in stream.typed}
            traits = (replace(trait, kind=open_ones.get(trait.name, trait.kind)) for trait in stream.traits)
            return replace(stream, traits=tuple(traits))

        return replace(self, users=tuple(map(mended, self.users)))


def contract_of(config: Mapping[str, Any]) -> Contract:
    """Read the target's settings.

    Raises:
        ConfigRefused: names all that cannot be used: a trait that is not known, or has a name that Engage would not
            take, or comes twice; a formula, a segment or an experiment that makes no sense.
    """
    problems = Problems()
    streams = {stream: given for stream, given in config["streams"].items() if (given or {}).get("role") == USERS_ROLE}
    if len(api := streams_of(config, RECONCILE_ROLE)) > 1:
        problems.add("streams", f"one stream may have the role {RECONCILE_ROLE}, there are {' and '.join(api)}")
    own, formulas, sent = _own(config["traits"], problems)
    users = tuple(filter(None, (users_of(stream, given, problems) for stream, given in sorted(streams.items()))))
    contract = Contract(
        wording=_wording(config),
        own=own,
        computed=tuple(one.trait for one in formulas.values() if one.name in sent),
        users=users,
        primary=rule_of(config, problems),
    )
    contract = _with_thresholds(contract, config["thresholds"], problems)
    known = {trait.key: trait for trait in (*TRAITS, *(one.trait for one in formulas.values()))}
    known |= {trait.key: trait for trait in contract.traits}
    segments = segments_of(_segments(config["segments"], problems), known, problems)
    _check_values(segments, formulas, contract.wording, problems)
    experiments = experiments_of(config["experiments"], [one.name for one in segments], problems)
    needed = {trait.key for segment in segments for trait in segment.traits} | sent
    contract = replace(
        contract,
        formulas=tuple(one for one in formulas.values() if one.name in needed),
        segments=segments,
        experiments=experiments,
        audience=_audience(segments, experiments, config),
        listed=config["segments_as"] == LIST,
        offers=offer_rule_of(config, problems),
        new_customers=config["new_customers"],
    )
    contract = _renamed(contract, config, problems)
    if not problems.found:  # else names may be wrong that were told already
        _check_names(contract, problems)
    problems.check()
    return contract


def _segments(given: str | list[Any], problems: Problems) -> list[Any]:
    """Read the setting, which names a file, or ready-made segments by commas, or is the list itself."""
    if not isinstance(given, str):
        return given
    if not given.endswith((".yml", ".yaml", ".json")):
        return words(given)
    try:
        read = yaml.safe_load(Path(given).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as e:
        problems.add("segments", f"{given} cannot be read ({' '.join(str(e).split())})")
        return []
    read = read.get("segments") if isinstance(read, dict) else read
    if not isinstance(read, list):
        problems.add("segments", f"{given} holds no list of segments")
        return []
    return read


def _audience(
    segments: Iterable[Segment], experiments: Iterable[Experiment], config: Mapping[str, Any]
) -> tuple[Trait, ...]:
    prefix, names = config["segment_prefix"], [one.name for one in segments]
    if config["segments_as"] == LIST:
        made = [Trait(SEGMENTS_TRAIT, Kind.STRING, origin=SEGMENTS_TRAIT, computed=True)] if names else []
    else:
        made = [Trait(prefix + one, Kind.BOOLEAN, origin=f"told {one}", computed=True) for one in names]
    drawn = (Trait(f"experiment_{one.name}", origin=one.key, computed=True) for one in experiments)
    return (*made, *drawn)


def _renamed(contract: Contract, config: Mapping[str, Any], problems: Problems) -> Contract:
    """Have Engage know the traits by the names that the settings give them."""
    given, prefix = config["trait_names"], config["trait_prefix"]
    keys = [trait.key for trait in contract.traits if trait not in contract.audience]
    for key in given:
        if key not in keys:
            problems.add(f"trait_names.{key}", f"no trait that is sent{suggestion(key, keys)}")

    def named(trait: Trait) -> Trait:
        return replace(trait, name=prefix + str(given.get(trait.key) or trait.name), origin=trait.key)

    if not given and not prefix:
        return contract
    return replace(
        contract,
        own=tuple(map(named, contract.own)),
        computed=tuple(map(named, contract.computed)),
        users=tuple(replace(one, traits=tuple(map(named, one.traits))) for one in contract.users),
        audience=tuple(replace(trait, name=prefix + trait.name) for trait in contract.audience),
    )


def _check_values(
    segments: Iterable[Segment], formulas: Mapping[str, Formula], wording: Wording, problems: Problems
) -> None:
    """Look for values that a formula can never have; the preview knows of those that no reader has today."""
    for row in (one for segment in segments for filter_ in segment.filters for one in filter_.walk() if one.trait):
        assert row.trait  # noqa: S101 - as asked for
        known = formulas[row.trait.key].values if row.trait.computed and row.trait.key in formulas else ()
        for value in row.values if known and row.operator == "one_of" else ():
            if value not in {*known, wording.clear_value(row.trait)}:
                way = "exclude" if row.exclude else "include"
                meant = suggestion(value, known)
                problems.add(f"{row.path}.{way}.one_of", f"{row.trait.key} is never {value!r}{meant}")


def _check_names(contract: Contract, problems: Problems) -> None:
    seen: dict[str, str] = {USER_ID: "what names the reader"}
    sources = [("traits", contract.own), ("traits", contract.computed)]
    sources += [(f"streams: {one.stream}", one.traits) for one in contract.users]
    sources += [("segments and experiments", contract.audience)]
    free = dict.fromkeys(NAMES, "a trait of the subscriptions")
    for source, traits in sources:
        for trait in traits:
            if not _KEY.fullmatch(trait.name):
                problems.add(source, f"{trait.name!r} is no name for a trait. Letters, digits and underscores, please")
            other = seen.get(trait.name) or (free.get(trait.name) if trait.stream else None)
            if other:
                problems.add(source, f"{trait.name} is there already, as {other}. Leave one out, or rename it")
            seen[trait.name] = source


def _wording(config: Mapping[str, Any]) -> Wording:
    return Wording(
        zone=config["timezone"],
        clear_string=config["clear_string"],
        clear_number=f"{Decimal(str(config['clear_number'])).normalize():f}",
        clear_boolean=str(config["clear_boolean"]).lower(),
        clear_date=date.fromisoformat(config["clear_date"]).isoformat(),
        max_length=int(config["max_value_length"]),
    )


def words(given: str) -> list[Any]:
    """Read names by commas, or the JSON of a list, as an environment variable brings it."""
    if given.lstrip().startswith("["):
        try:
            return list(json.loads(given))
        except ValueError:
            return [given]
    return [word.strip() for word in given.split(",") if word.strip()]


def _own(given: str | Iterable[Any], problems: Problems) -> tuple[tuple[Trait, ...], dict[str, Formula], set[str]]:
    """Read the setting ``traits``: those of the log, all formulas there are, and the names of those that are sent."""
    entries = words(given) if isinstance(given, str) else list(given)
    formulas, sent, names, left_out = dict(SHIPPED), set[str](), list[str](), set[str]()
    for i, one in enumerate(entries):
        if isinstance(one, str) and one.removeprefix("-") in {*NAMES, *SHIPPED} and one.startswith("-"):
            left_out.add(one.removeprefix("-"))
        elif isinstance(one, str) and one == COMPUTED:
            sent.update(USUAL)
        elif isinstance(one, str) and one in SHIPPED:
            sent.add(one)
        elif isinstance(one, str) and one in {ALL, *NAMES}:
            names.append(one)
        elif isinstance(one, str):
            known = (*NAMES, *SHIPPED, ALL, COMPUTED)
            problems.add("traits", f"{one} is no trait{suggestion(one, known)}")
        elif formula := formula_of(f"traits[{i}]", one, problems):
            if formula.name in formulas or formula.name in NAMES:
                problems.add(f"traits[{i}].name", f"there is a trait {formula.name} already; choose another name")
            formulas[formula.name] = formula
            sent.add(formula.name)
    own = tuple(trait for trait in TRAITS if (ALL in names or trait.name in names) and trait.name not in left_out)
    return own, formulas, sent - left_out


def _with_thresholds(contract: Contract, given: Mapping[str, Any], problems: Problems) -> Contract:
    """Have the traits that *given* names told only where they cross its numbers, or every day."""
    known = {trait.key: trait for trait in (*TRAITS, *(one.trait for one in FORMULAS), *contract.traits)}
    steps: dict[str, tuple[float, ...] | None] = {}
    for key, numbers in given.items():
        path = f"thresholds: {key}"
        if key not in known:
            problems.add(path, f"is no trait that is sent{suggestion(key, known)}")
        elif known[key].stream is None and known[key].kind not in _NUMBERS:
            problems.add(path, "is no number")
        elif numbers == DAILY:
            steps[key] = None
        else:
            try:
                steps[key] = tuple(sorted({float(one) for one in numbers or []}))
            except (TypeError, ValueError):
                problems.add(path, f"takes a list of numbers, like [30, 90], or {DAILY}")

    def mended(trait: Trait) -> Trait:
        if trait.key not in steps:
            return trait
        at = steps[trait.key]
        return replace(trait, drifts=at is not None, thresholds=at or ())

    return replace(
        contract,
        own=tuple(map(mended, contract.own)),
        computed=tuple(map(mended, contract.computed)),
        users=tuple(replace(one, traits=tuple(map(mended, one.traits))) for one in contract.users),
    )

"""What came in one run: each source is collected by its role, and the ledger is brought up to date with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piano_engage_common.duck import name

from target_recurly_engage.brake_values import FEW_MIXED, NEARLY_ALL, check_arrival
from target_recurly_engage.catalogue import KEPT, merge_catalogue
from target_recurly_engage.destinations import asides
from target_recurly_engage.first_load import empty_columns, never_delivered, words_of_missing
from target_recurly_engage.identity import compare_arrival
from target_recurly_engage.merge import merge, merge_api, merge_users
from target_recurly_engage.roles import ApiIntake, CatalogueIntake, SubscriptionsIntake, UsersIntake
from target_recurly_engage.values import name_of

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Iterator, Sequence

    from piano_engage_common.progress import Progress

    from target_recurly_engage.brake import Brake
    from target_recurly_engage.contract import Contract
    from target_recurly_engage.identity import Arrival
    from target_recurly_engage.intake import Intake
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.measures import Measure
    from target_recurly_engage.streams import UsersStream
    from target_recurly_engage.summary import Summary
    from target_recurly_engage.traits import Trait, Wording


class Sources:
    """The sources of one run.

    Args:
        ledger: is brought up to date.
        summary: is told what came and what it did.
        brake: looks at what came.
        progress: is told how far the merging is.
        logger: of what somebody should look at.
    """

    def __init__(
        self, ledger: Ledger, *, summary: Summary, brake: Brake, progress: Progress, logger: logging.Logger
    ) -> None:
        """Begin with none."""
        self._ledger = ledger
        self._summary = summary
        self._brake = brake
        self._progress = progress
        self._logger = logger
        self._subscriptions: SubscriptionsIntake | None = None
        self._users: dict[str, UsersIntake] = {}
        self._catalogue: dict[str, CatalogueIntake] = {}
        self._api: ApiIntake | None = None
        self._complete: dict[Intake, bool] = {}

    # Taking in

    def subscriptions(self) -> Intake:
        """Give what collects subscriptions, of whichever streams."""
        self._subscriptions = self._subscriptions or SubscriptionsIntake(self._ledger)
        return self._subscriptions

    def users(self, stream: UsersStream) -> Intake:
        """Give what collects the rows of a stream of users."""
        if stream.stream not in self._users:
            self._users[stream.stream] = UsersIntake(self._ledger, stream)
        return self._users[stream.stream]

    def api(self) -> Intake:
        """Give what collects Piano's API list of subscriptions, which is only compared."""
        self._api = self._api or ApiIntake(self._ledger)
        return self._api

    def catalogue(self, role: str) -> Intake:
        """Give what collects a part of what the publisher sells, of whichever streams."""
        if role not in self._catalogue:
            self._catalogue[role] = CatalogueIntake(self._ledger, KEPT[role])
        return self._catalogue[role]

    def finish(self) -> None:
        """Load what still waits, count what came, and find out which sources are complete.

        Raises:
            ConfigRefused: rows belong to another application than the ledger.
            InputRefused: rows are not complete.
        """
        intakes = [*([self._subscriptions] if self._subscriptions else []), *self._users.values()]
        beside = [*self._catalogue.values(), *([self._api] if self._api else [])]
        self._complete = {intake: intake.finish() for intake in (*intakes, *beside)}
        self._summary.rows = sum(intake.rows for intake in intakes)
        self._summary.rejected = sum(intake.rejected for intake in intakes)
        self._summary.erased = sum(intake.erased for intake in (*intakes, *beside))
        for label, intake in self._labelled():
            self._tell_unusable(label, intake)

    def _labelled(self) -> Iterator[tuple[str, Intake]]:
        """Yield what came under the names for messages."""
        if self._subscriptions:
            yield "subscriptions", self._subscriptions
        yield from self._users.items()
        yield from self._catalogue.items()
        if self._api:
            yield "subscriptions of the API", self._api

    def _tell_unusable(self, label: str, intake: Intake) -> None:
        """Count in the summary what could not be used of a source, warn of it, and have the brake look at the share."""
        if intake.rejected:
            self._summary.rejected_rows[label] = intake.rejected
            ids = f" ({', '.join(intake.rejected_ids)}{' …' * (intake.rejected > len(intake.rejected_ids))})"
            self._logger.warning(
                "%s: %d of %d row(s) cannot be used and are left out%s: no usable %s, or a value that is none of its "
                "type%s. What came does not count as complete, so nothing of it is taken as vanished",
                label, intake.rejected, intake.rows, ids * bool(intake.rejected_ids), " or ".join(intake.key),
                f" ({', '.join(sorted(intake.rejected_for))})" * bool(intake.rejected_for),
            )  # fmt: skip
        for column, count in sorted(intake.invalid.items()):
            self._summary.invalid_values.setdefault(label, {})[column] = count
            self._logger.warning(
                "%s: %d value(s) of %s are no %s and count as absent",
                label, count, column, name_of(intake.types[column]),
            )  # fmt: skip
        if not intake.whole_rows:
            self._brake.check_usable(label, intake.rows, intake.rejected, intake.invalid)

    # Merging

    def merge(self, contract: Contract, *, past: Sequence[Measure] = (), whole: bool) -> None:
        """Bring the ledger up to date with what came; to be called inside a transaction.

        Args:
            contract: which traits there are.
            past: what earlier runs measured of the ledger.
            whole: the tap says that it has sent all subscriptions, and not only what changed.
        """
        if self._subscriptions:
            self._merge_subscriptions(self._subscriptions, contract, past, whole=whole)
        for one in self._catalogue.values():
            self._merge_catalogue(one)
        for intake in self._users.values():
            self._merge_users(intake, contract)
        if self._api:
            self._summary.api = merge_api(self._ledger, self._api.table, complete=self._complete[self._api])

    def _merge_subscriptions(
        self, intake: SubscriptionsIntake, contract: Contract, past: Sequence[Measure], *, whole: bool
    ) -> None:
        complete = self._complete[intake]
        self._check_columns("the export", intake, contract.own, contract.wording)
        self._check_first_load("the export", intake, contract)
        with self._progress.watch("merging subscriptions", self._ledger.connection, size=f"{intake.rows:,} rows"):
            arrival = self._compare(past, complete=complete)
            done = merge(self._ledger, complete=complete)
        check_arrival(self._brake, arrival, done.before)
        self._summary.merge = done
        self._brake.check_rows("the subscription log", done, complete=complete)
        if not complete and not whole and intake.rows and not done.before:
            self._logger.warning(
                "the ledger is new, and what came does not say that it is all there is: if the tap only sent what "
                "changed, clear its state and run again (meltano state clear), or the ledger knows nobody else"
            )

    def _check_first_load(self, stream: str, intake: Intake, contract: Contract) -> None:
        """Have the brake look at what came first of all, or first of a trait."""
        if not intake.rows:
            return
        absent = [trait for trait in contract.own if trait.key not in intake.columns]
        missing = [trait.key for trait in never_delivered(self._ledger, absent)]
        words = words_of_missing(missing, contract, intake.offered) if missing else ""
        self._brake.check_first_columns(stream, missing, words)
        if not self._ledger.count("SELECT count(*) FROM subscriptions"):
            wanted = {trait.key for trait in contract.own} & intake.columns
            self._brake.check_first_values(stream, empty_columns(self._ledger, intake.table, wanted))

    def _compare(self, past: Sequence[Measure], *, complete: bool) -> Arrival:
        """Compare the subscriptions that came with the known ones; empty columns of a complete log show by measure."""
        last = past[-1] if past else None
        filled = () if last is None or complete else (one for one in last.filled if last.share(one) >= NEARLY_ALL)
        newest = last.newest if last else None
        return compare_arrival(self._ledger, filled=filled, newest=newest, least=FEW_MIXED)

    def _merge_users(self, intake: UsersIntake, contract: Contract) -> None:
        stream, complete = contract.stream(intake.stream.stream), self._complete[intake]
        self._check_columns(stream.stream, intake, stream.traits, contract.wording)
        for trait in stream.traits:
            if trait.key not in intake.columns:  # it did not come, which is not the same as empty
                self._ledger.connection.execute(f"ALTER TABLE {intake.table} DROP COLUMN {name(trait.key)}")
        done = merge_users(self._ledger, stream, intake.table, complete=complete)
        self._summary.users[stream.stream] = done
        self._brake.check_rows(stream.stream, done, complete=complete)

    def _merge_catalogue(self, intake: CatalogueIntake) -> None:
        """Publishers take promotions away, and few make a large share; only that none is left is not believed."""
        complete = self._complete[intake]
        done = merge_catalogue(self._ledger, intake.kept, intake.table, complete=complete)
        self._summary.catalogue[intake.kept.role] = done
        self._brake.check_rows(intake.kept.role, done, complete=complete and not done.came)

    def _check_columns(self, stream: str, intake: Intake, traits: Iterable[Trait], wording: Wording) -> None:
        if intake.rows:
            absent = (trait for trait in traits if trait.key not in intake.columns)
            self._brake.check_columns(stream, (trait.key for trait in absent if self._was_told(trait, wording)))

    def _was_told(self, trait: Trait, wording: Wording) -> bool:
        """Whether Engage has a value of the trait for anybody, other than the one that clears it.

        For a destination that has nothing yet, the other ones answer.
        """
        count, clear = self._ledger.count, wording.clear_value(trait)
        has_any = count("SELECT count(*) FROM delivered")
        return any(
            trait.name in self._ledger.columns(table)
            and count(f"SELECT count(*) FROM {table} WHERE {name(trait.name)} <> ?", clear)
            for table in (["delivered"] if has_any else asides(self._ledger, "delivered"))
        )

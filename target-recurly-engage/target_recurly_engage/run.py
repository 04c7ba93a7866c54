"""One run from the first row to the acknowledgement: take in, merge, plan, brake, deliver, tell."""

from __future__ import annotations

import json
import uuid
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from piano_engage_common.progress import Progress
from piano_engage_common.stops import BrakeApplied, PartlyRejected, RunStopped, storage_errors
from piano_engage_common.transport import RunEnds

from target_recurly_engage import report
from target_recurly_engage.assignments import note_assignments
from target_recurly_engage.brake import Brake
from target_recurly_engage.brake_measures import check_measures
from target_recurly_engage.brake_values import check_plan_values
from target_recurly_engage.claims import take_at_its_word
from target_recurly_engage.clock import look_at_the_clock
from target_recurly_engage.contract import contract_of
from target_recurly_engage.delivery.choice import delivery_of
from target_recurly_engage.delivery.ingest import Requests
from target_recurly_engage.desired import forget_desired
from target_recurly_engage.destinations import destination_of, select
from target_recurly_engage.eligibility import unknown_promotions
from target_recurly_engage.ended import INCOMPLETE, streams_before
from target_recurly_engage.erase import close_erasures, forget_cleared, reopen_overtaken
from target_recurly_engage.handed_codes import unusable_codes
from target_recurly_engage.handover import Handover
from target_recurly_engage.measures import digest_rules, recall_measures, record_measure, take_measure
from target_recurly_engage.offers import write_offers
from target_recurly_engage.plan import ageing_of, make_plan
from target_recurly_engage.preview import sizes, unseen_values
from target_recurly_engage.shared.ledger import open_for_writing
from target_recurly_engage.shown import shown, words_of
from target_recurly_engage.sources import Sources
from target_recurly_engage.statuses import is_unknown, word_of
from target_recurly_engage.streams import kinds_of
from target_recurly_engage.summary import Summary
from target_recurly_engage.watch.status import ledger_facts

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence

    from target_recurly_engage.claims import Claim
    from target_recurly_engage.ended import Ends
    from target_recurly_engage.intake import Intake
    from target_recurly_engage.measures import Measure
    from target_recurly_engage.plan import Plan


class Run:
    """A run of the target.

    Args:
        config: the target's settings.
        logger: the target's logger.
        idle: nothing came that could be delivered; the run only records that.

    Attributes:
        delivering: traits are on their way, so this must not be broken off any more.
        claims: what the tap's state says of the streams that came.
        summary: what becomes of it.
        sources: collect what comes.
        ended: the streams that came and ended well.

    Raises:
        StorageFailed: the ledger cannot be used.
        AccessRefused, ConfigRefused, Outage: nothing could be delivered.
    """

    def __init__(self, config: Mapping[str, Any], logger: logging.Logger, *, idle: bool = False) -> None:
        """Open the ledger, settle what a crash left, and be ready for rows."""
        self.delivering = False
        self.ended: set[str] = set()
        self._idle = idle
        self.claims: list[Claim] = []
        self._logger = logger
        self._runs = Path(config["runs_path"])
        self._now = datetime.fromisoformat(config["as_of"]).isoformat() if config.get("as_of") else None
        self._config = config
        self._dry = bool(config["dry_run"])
        self._brake = Brake(
            min_rows_fraction=config["brake_min_rows_fraction"],
            max_clear_fraction=config["brake_max_clear_fraction"],
            max_change_fraction=config["brake_max_change_fraction"],
            max_identity_fraction=config["brake_max_identity_fraction"],
        )
        self._progress = Progress(logger)
        self._max_reject_fraction = float(config["max_reject_fraction"])
        started_at = datetime.now(tz=UTC)
        self.summary = Summary(run_id=f"{started_at:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}", started_at=started_at)
        self.summary.as_of, self.summary.brake = self._now, self._brake
        folder = config.get("handover_path")
        self._handover = Handover(Path(folder) if folder else None, logger)
        self._taken_over = self._gave_back = False
        self._ledger = open_for_writing(config, who=f"run {self.summary.run_id}", logger=logger)
        try:
            self._contract = contract_of(config).with_kinds(self._ledger.kinds())
            self._delivery = delivery_of(config, self._ledger, self._contract, logger=logger, progress=self._progress)
            self._begin()
        except BaseException:
            self._ledger.close()
            self.give_back(failing=True)
            raise
        self.sources = Sources(
            self._ledger, summary=self.summary, brake=self._brake, progress=self._progress, logger=logger
        )

    def _begin(self) -> None:
        """Note the run, and find out whether it could be delivered; where not, that is told as any end is.

        Raises:
            RunStopped: it could not.
        """
        self._ledger.start_run(self.summary.run_id, self.summary.started_at)
        if self._idle:
            return
        try:
            if not self._dry:
                self._delivery.check()
            self._delivery.settle()
            longest = timedelta(hours=float(self._config["csv_ingest_hours"]))
            look_at_the_clock(self._ledger, self.summary.started_at, longest, self._logger)
        except RunStopped as stop:
            self.end("stopped", str(stop))
            raise

    # Taking in

    def users(self, stream: str, schema: Mapping[str, Any]) -> Intake:
        """Give what collects the rows of a stream of users; *schema* says the types that the settings leave open."""
        kinds = kinds_of(schema.get("properties", {}))
        traits = self._contract.stream(stream).traits
        self._contract = self._contract.with_kinds({one.name: kinds[one.key] for one in traits if one.key in kinds})
        return self.sources.users(self._contract.stream(stream))

    def note_ends(self, ends: Ends, streams: list[str]) -> None:
        """Record how the tap left the streams that came; to be called at the end of the pipe."""
        before = streams_before(self._ledger)
        self.summary.streams = ends.kept(streams, before)
        self.ended = {stream for stream, kept in self.summary.streams.items() if kept["ended"]}
        self.summary.incomplete = list(ends.problems(streams, before))
        for problem in self.summary.incomplete:
            self._logger.warning("incomplete: %s", problem)

    # Delivering

    def finish(self) -> None:
        """Turn the rows that came into traits and deliver those that changed.

        Raises:
            BrakeApplied: the rows look wrong.
            ConfigRefused: the rows belong to another application than the ledger, or the state to another ledger.
            InputRefused: the rows are not complete.
            StorageFailed: a disk is full.
        """
        self.sources.finish()
        delivery_id = uuid.uuid4().hex
        with storage_errors(f"working on {self._ledger.path}"):
            with self._ledger.trial() if self._dry else self._ledger.transaction():
                self._make_plan(delivery_id)
                if self._dry:
                    self._show()
                    return
                self.summary.assigned = note_assignments(self._ledger, self._contract, self._now)  # of a run before
            self._taken_over = True
            if not self._ledger.shared:
                self._handover.done()
            self.delivering = True
            delivered = self._delivery.deliver(self.summary.run_id, delivery_id)
            self.summary.assigned += note_assignments(self._ledger, self._contract, self._now)
            forget_cleared(self._ledger, self._contract, self._config)
        if isinstance(delivered, Requests):
            self._tell(delivered)
        elif delivered:
            self.summary.files.append(delivered)
            if delivered.held:
                self.summary.requests = Requests(location=delivered.location, users=0, held=delivered.held)
        requests = self.summary.requests
        if not requests or not requests.waiting + requests.held:
            self._ledger.close_accepted()
        self._write_offers()

    def _write_offers(self) -> None:
        """Bring the data source of offers up to date, where one is wanted."""
        folder = self._config.get("data_sources_path")
        if not folder:
            return
        if not self._ledger.count("SELECT count(*) FROM promotions"):
            self._logger.warning(
                "data_sources_path: no promotion has come yet, so there is no file of offers; let the tap send the "
                "streams promotions, promo_codes and terms"
            )
            return
        now = self._now or self.summary.started_at.isoformat()
        written = write_offers(self._ledger, self._contract, Path(folder), now)
        self.summary.data_sources.append(written)
        if written.changed:
            self._logger.info(
                "offers: %d are valid and the file is a new one; upload it in Pulse as a data source: %s",
                written.rows,
                written.location,
            )

    def _tell(self, requests: Requests) -> None:
        self.summary.requests = requests
        for reason, times in requests.reasons.items():
            self._logger.warning("Engage rejected %d reader(s) with %s; they are tried again later", times, reason)
        if requests.held:
            self._logger.warning(
                "%d reader(s) wait: the file with their last traits counts as unread for csv_ingest_hours",
                requests.held,
            )
        if requests.interrupted:
            raise RunEnds

    def check_rejects(self) -> None:
        """Say whether so many readers were rejected that somebody has to look; they are kept either way.

        Raises:
            PartlyRejected: so many.
        """
        requests = self.summary.requests
        if requests is None:
            return
        fresh = requests.rejected - requests.again
        if fresh <= self._max_reject_fraction * requests.users:
            return
        most = max(requests.reasons, key=lambda reason: requests.reasons[reason])
        msg = (
            f"Engage rejected {fresh:,} of {requests.users:,} readers, more than max_reject_fraction "
            f"allows; most of them with: {most}. They are kept in the ledger's table rejects and "
            "tried again later; all others were delivered."
        )
        raise PartlyRejected(msg)

    def interrupt(self) -> None:
        """Have the delivery end as soon as what is in flight has landed; for the handler of a signal."""
        self._delivery.interrupt()

    def _make_plan(self, delivery_id: str) -> None:
        clock = self.summary.started_at.isoformat()
        self._select_destination()
        for claim in self.claims:
            take_at_its_word(self._ledger, claim)
        past = recall_measures(self._ledger, self.summary.started_at)
        self.sources.merge(self._contract, past=past, whole=any(claim.whole for claim in self.claims))
        self._take_over(clock)
        reopen_overtaken(self._ledger, clock)
        for trait, why in self._contract.clashes().items():
            self._logger.warning("%s: %s; rename it with trait_names, or leave it out", trait, why)
        self._warn_of_unknown_words()
        with self._progress.watch("comparing traits", self._ledger.connection):
            plan = make_plan(
                self._ledger,
                self._contract,
                now=self._now or clock,
                clock=clock,
                delivery_id=delivery_id,
                ageing=ageing_of(self._config),
            )
        self.summary.plan = plan
        self.summary.segments = sizes(self._ledger, self._contract)
        self.summary.unseen = list(unseen_values(self._ledger, self._contract))
        self.summary.codes = list(unusable_codes(self._ledger, self._contract, self._now or clock))
        forget_desired(self._ledger)
        unknown = unknown_promotions(self._ledger, self._contract)
        for warning in (*self.summary.unseen, *unknown, *self.summary.codes):
            self._logger.warning("%s", warning)
        for words, count in plan.invalid.items():
            self._logger.warning("%d value(s) cannot be sent and count as absent: %s", count, words)
        self._judge(plan, past)

    def _select_destination(self) -> None:
        wanted = destination_of(self._config)
        assert wanted  # noqa: S101 - without its settings there would be no delivery
        self.summary.destination = select(self._ledger, wanted)
        if warning := self.summary.destination.warning:
            self._logger.warning("%s", warning)

    def _judge(self, plan: Plan, past: Sequence[Measure]) -> None:
        """Let the brake look at the plan.

        Raises:
            BrakeApplied: it looks wrong, and nobody has let it through.
        """
        measure = take_measure(
            self._ledger,
            users=plan.present,
            measured_at=self.summary.started_at,
            judged_at=self._moment(),
            rules=digest_rules(self._config, self._contract),
        )
        self._brake.check_plan(plan)
        came = self.summary.merge.came if self.summary.merge else 0
        check_plan_values(self._brake, plan, self._contract, measure, past)
        check_measures(self._brake, measure, past, came)
        accepted = self._config.get("accept")
        try:
            let_through = self._brake.apply(plan, accepted, self._ledger.used_up(accepted))
        except BrakeApplied:
            if self._dry:
                self._show()
            raise
        if let_through:
            self._logger.warning("let through as told by accept: %s", "; ".join(self._brake.findings))
            self._ledger.accept(plan.fingerprint, self.summary.run_id)
        else:
            self._ledger.close_accepted(but=plan.fingerprint)
        record_measure(self._ledger, self.summary.run_id, measure, afresh=let_through)

    def _take_over(self, clock: str) -> None:
        """Take as told what was told since the last run by others than a run."""
        readers = self._handover.take(
            self._ledger,
            self._contract,
            run_id=self.summary.run_id,
            clock=clock,
            csv_hours=float(self._config["csv_ingest_hours"]),
        )
        if readers:
            self._logger.info("%d reader(s) were told since the last run, by the folder handover_path", readers)

    def _warn_of_unknown_words(self) -> None:
        """Tell once of status words that the map does not have; nobody guesses what they mean."""
        word = word_of("subscription_status")
        query = f"SELECT {word}, count(*) FROM subscriptions WHERE {is_unknown(word)} GROUP BY 1 ORDER BY 1"
        self.summary.unknown_words = dict(self._ledger.connection.execute(query).fetchall())
        if self.summary.unknown_words:
            told = ", ".join(
                f"{status or '(none)'} ({count:,})" for status, count in self.summary.unknown_words.items()
            )
            self._logger.warning(
                "Piano uses status words that are not in the map of docs/traits.md: %s. lifecycle_stage is unknown "
                "where they stand on a reader's primary subscription",
                told,
            )

    def _show(self) -> None:
        """Tell of a dry run what a real one would send."""
        assert self.summary.plan  # noqa: S101 - it was made just now
        answer = shown(self._ledger, self._contract, self._config, self.summary.plan, warnings=self.summary.codes)
        for line in words_of(answer):
            self._logger.info("dry run: %s", line)

    def give_back(self, *, failing: bool = False) -> None:
        """Let others have the ledger, which is closed, and only then forget what was handed over; once is enough.

        Args:
            failing: the run ends badly for another reason, which is the one to tell.

        Raises:
            RunStopped: they do not have it.
        """
        if self._gave_back:
            return
        self._gave_back = True
        try:
            self._ledger.give_back(passing=failing or self._dry or self._idle)
        except RunStopped as stop:
            if failing:
                self._logger.error("%s", stop)  # noqa: TRY400 - the message is for the person
                return
            self.summary.status, self.summary.message = "stopped", str(stop)
            with storage_errors("writing the summary"):
                self.summary.write(self._runs)
            raise
        if self._taken_over:
            self._handover.done()

    def _moment(self) -> datetime:
        """Give what counts as now."""
        now = datetime.fromisoformat(self._now) if self._now else self.summary.started_at
        return now if now.tzinfo else now.replace(tzinfo=UTC)  # as the ledger takes it

    def end(self, status: str, message: str | None = None) -> None:
        """Write the summary and close the ledger; once is enough.

        Raises:
            StorageFailed: the run went well, but that could not be noted.
        """
        if self.summary.finished_at is not None:
            return
        self.summary.status = status
        self.summary.message = message or (" ".join(self.summary.incomplete) if status == INCOMPLETE else None)
        self.summary.finished_at = datetime.now(tz=UTC)
        try:
            with storage_errors("noting the end of the run"), closing(self._ledger):
                now = self._moment()
                with suppress(OSError, duckdb.Error):  # whatever ails the ledger is told by what comes next
                    self.summary.ledger = ledger_facts(self._ledger, now)
                self._ledger.finish_run(self.summary.run_id, status, json.dumps(self.summary.as_dict()))
                with storage_errors("writing the summary"):
                    path = self.summary.write(self._runs)
                    if self._config["report"]:
                        report.write(path.with_suffix(".html"), self.summary, self._ledger, self._contract, now=now)
                close_erasures(self._ledger, self._runs)
        except (RunStopped, duckdb.Error) as e:
            if message is None:
                raise
            self._logger.warning("the end of the run could not be noted: %s", str(e).splitlines()[0])
        else:
            self.summary.log(self._logger, path)
